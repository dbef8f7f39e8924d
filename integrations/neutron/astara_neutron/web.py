"""What the plugin's own API resources share: JSON bodies and queries checked by hand, errors that name the field.

Neutron's generic controllers know lists of equal objects only; these resources are of another shape. Neutron answers
them by one of two ways, depending on its version and pipeline: with the request as webob has it, or with pecan's.
"""

import contextvars
import json
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import pecan
import webob.exc
from neutron import policy
from neutron.api import extensions
from neutron.api.v2 import resource
from neutron_lib import exceptions
from neutron_lib.api import faults

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body."""
MAX_DEPTH = 32
"""Lists and objects within one another in a body: Neutron must be able to show what is kept of it."""

Query = list[tuple[str, str]]

_MOST_DIGITS = 20
_NOT_STORABLE = re.compile("[\0\ud800-\udfff\U00010000-\U0010ffff]")
_ACTIONS = ("index", "show", "create", "update", "delete")
_FORMS = ("new", "edit")
"""Routes has pages with a form for each collection; these have none."""
_request: contextvars.ContextVar[Any] = contextvars.ContextVar("request")


class WrongField(exceptions.BadRequest):
    """400, and which part of the request is to be mended how."""

    message = "%(field)s: %(fix)s"

    def __init__(self, field: str, fix: str) -> None:
        super().__init__(field=field, fix=fix)


def gone(text: str) -> Exception:
    """410."""
    error: Exception = webob.exc.HTTPGone(text)
    return error


def enforce(context: Any, rule: str) -> None:
    """403 unless the policy lets the caller."""
    policy.enforce(context, rule, {})


def query() -> Query:
    """The query of the request that is being answered, in order. WrongField."""
    try:
        return [(str(key), str(value)) for key, value in _request.get().GET.items()]
    except UnicodeDecodeError:
        raise WrongField("query", "UTF-8 is expected") from None


def url() -> str:
    """The URL of the request that is being answered, without its query."""
    return str(_request.get().path_url)


def body(name: str) -> Any:
    """What the JSON body of the request has under its one key. WrongField."""
    given = _request.get().body
    if len(given) > MAX_BODY:
        raise WrongField("body", f"at most {MAX_BODY} bytes are taken")
    try:
        found = json.loads(given, parse_float=_finite, parse_constant=_finite)
    except ValueError:
        raise WrongField("body", "JSON is expected") from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(found)
    if not isinstance(found, dict) or set(found) != {name}:
        raise WrongField("body", f'an object with the one key "{name}" is expected')
    return found[name]


def storable(text: str) -> str:
    """A text as Neutron's tables can keep it.

    MariaDB has them with three bytes a character; U+FFFD stands for what needs four, and for what is no character.
    """
    return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def number(field: str, text: str, least: int, most: int) -> int:
    """A number of the query. WrongField."""
    digits = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not digits or not least <= int(text) <= most:
        raise WrongField(field, f"a number from {least} to {most} is expected")
    return int(text)


def attributes(collection: str) -> dict[str, dict[str, Any]]:
    """Those of a collection for Neutron's list of them: none, which it asks where pecan reads the query."""
    return {collection.replace("-", "_"): {}}


def published(collection: str, controller: Any) -> list[Any]:
    """A controller, with `index`, `show` or `update`, as an extension's resources."""
    made = resource.Resource(
        _Answering(controller), faults.FAULT_MAP, {"application/json": _Unread()}, action_status={"update": 200}
    )
    return [extensions.ResourceExtension(collection, made)]


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise WrongField("body", f"JSON has no number {text[:_MOST_DIGITS]}, leave it out")
    return number


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [one for within in level if isinstance(within, dict | list)
                 for one in (within.values() if isinstance(within, dict) else within)]  # fmt: skip
    if level:
        raise _too_deep()


def _too_deep() -> WrongField:
    return WrongField("body", f"at most {MAX_DEPTH} levels of lists and objects are taken")


class _Unread:
    """In the place of Neutron's own reading of bodies, which has no answer to one that is nested deeply."""

    def deserialize(self, _body: bytes) -> dict[str, Any]:
        """Nothing: `body` reads the request's."""
        return {"body": None}


class _Answering:
    """A controller that knows which request it answers, and says of all others that they are not for it."""

    def __init__(self, controller: Any) -> None:
        for action in _ACTIONS:
            answer = getattr(controller, action, None)
            setattr(self, action, _refused if answer is None else _knowing(answer))
        for action in _FORMS:
            setattr(self, action, _unknown)

    @property
    def _collection(self) -> str:
        """What Neutron asks for when a request has If-Match."""
        raise WrongField("If-Match", "leave it out, what is asked for here has no number of its own")


def _refused(*_request: Any, **_named: Any) -> None:
    raise webob.exc.HTTPMethodNotAllowed


def _unknown(*_request: Any, **_named: Any) -> None:
    raise webob.exc.HTTPNotFound


def _knowing(answer: Callable[..., Any]) -> Callable[..., Any]:
    def known(request: Any, *parts: Any, **named: Any) -> Any:
        token = _request.set(request if hasattr(type(request), "GET") else pecan.request)
        try:
            return answer(request, *parts, **named)
        finally:
            _request.reset(token)

    return known


class Descriptor(extensions.api_extensions.ExtensionDescriptor):
    """What Neutron asks an extension."""

    alias: ClassVar[str]
    title: ClassVar[str]
    updated: ClassVar[str] = "2026-11-23T00:00:00-00:00"

    @classmethod
    def get_name(cls) -> str:
        """For people."""
        return cls.title

    @classmethod
    def get_alias(cls) -> str:
        """For programs."""
        return cls.alias

    @classmethod
    def get_description(cls) -> str:
        """A sentence."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @classmethod
    def get_updated(cls) -> str:
        """Since when it is as it is."""
        return cls.updated
