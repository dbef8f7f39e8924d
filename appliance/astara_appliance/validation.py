"""From bytes to a configuration: JSON, wrapper, models, and every wrong field named.

A field is written as a reader of the document would: `networks[1].interface.addresses[0]`. Messages never repeat
input, so an answer stays small and holds nothing that a log may not.
"""

import json
import re
from typing import Any, NamedTuple

from pydantic import ValidationError

from .consistency import Place
from .models import Configuration

MAX_ERRORS = 1_000
"""More wrong fields than these are counted, not listed."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class FieldError(NamedTuple):
    """One wrong field and what is expected of it."""

    field: str
    message: str


class MalformedJson(Exception):  # noqa: N818 - it names the thing that is wrong
    """The body is not one JSON document; the message says where."""


class InvalidConfiguration(Exception):  # noqa: N818 - it names the thing that is wrong
    """The document is JSON, but not a configuration; `errors` names each wrong field."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(f"{len(errors)} wrong fields: {', '.join(error.field for error in errors[:10])}")
        self.errors = errors


def parse_json(body: bytes) -> Any:
    """The document in `body`; raises `MalformedJson` with line and column.

    Stricter than Python: NaN and Infinity are not JSON (RFC 8259), and a member given twice has no one meaning.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise MalformedJson(f"byte {error.start}: not UTF-8") from None
    except RecursionError:
        raise MalformedJson("nested too deeply") from None
    except ValueError as error:
        # Python refuses to convert numbers of thousands of digits.
        raise MalformedJson(f"a number is too long: {error}") from None


def parse_configuration(document: Any) -> Configuration:
    """The configuration in `document`, with or without the `configuration` wrapper.

    Raises `InvalidConfiguration`.
    """
    errors: list[FieldError] = []
    if isinstance(document, dict) and "configuration" in document:
        errors = [FieldError(_path((key,)), "unknown field") for key in document if key != "configuration"]
        document = document["configuration"]
    try:
        configuration = Configuration.model_validate(document)
    except ValidationError as error:
        errors += _unfold(error)
    if errors:
        if len(errors) > MAX_ERRORS:
            errors[MAX_ERRORS:] = [FieldError("", f"and {len(errors) - MAX_ERRORS} more")]
        raise InvalidConfiguration(errors)
    return configuration


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedJson(f"the member {key[:64]!a} is given twice")
            seen.add(key)
    return members


def _constant(name: str) -> Any:
    raise MalformedJson(f"{name} is not JSON")


def _unfold(error: ValidationError) -> list[FieldError]:
    found: list[FieldError] = []
    for item in error.errors(include_url=False, include_input=False):
        place = item["loc"]
        if item["type"] == "inconsistent":
            found.extend(FieldError(_path((*place, *wrong.place)), wrong.message) for wrong in item["ctx"]["wrong"])
        elif item["type"] == "extra_forbidden":
            found.append(FieldError(_path(place), "unknown field"))
        else:
            found.append(FieldError(_path(place), item["msg"].removeprefix("Value error, ")))
    return found


def _path(place: Place) -> str:
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part == "[key]":
            continue
        elif _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part[:64])}]"
    return text
