"""User data in cloud-config form: the files that a server writes when it boots (cloud-init's `write_files`)."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import yaml

BOOT_FILE = "/etc/astara/appliance.json"
"""A server that is told to write this file is an appliance."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class File:
    """A file to write; `mode` is its permissions."""

    path: str
    content: str
    mode: int = 0o644


def read_files(user_data: str | None) -> tuple[File, ...]:
    """The files of `write_files`. ValueError when the text says that it is cloud-config and is not."""
    if not user_data or not user_data.startswith("#cloud-config"):
        return ()
    try:
        config = _parse(user_data)
        return tuple(_file(entry) for entry in (config or {}).get("write_files") or ())
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"the user data is no cloud-config: {type(error).__name__}") from None


def _parse(user_data: str) -> Any:
    try:
        # JSON is YAML, and takes a hundredth of the time to read.
        return json.loads(user_data.partition("\n")[2])
    except ValueError:
        return yaml.load(user_data, Loader=_LOADER)  # noqa: S506 - a safe loader either way


def _file(entry: dict[str, Any]) -> File:
    content = str(entry.get("content", ""))
    if entry.get("encoding") in ("b64", "base64"):
        content = base64.b64decode(content).decode()
    return File(str(entry["path"]), content, int(str(entry.get("permissions", "0644")), 8))
