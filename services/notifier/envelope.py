"""What services put around a notification or a cast, taken off.

oslo.messaging's version 2 envelope is a JSON object whose `oslo.message` is a JSON text again. Older or foreign senders
leave the envelope away (version 1: the message itself is the body) or put the object in unencoded. A body that is none
of these is refused with its reason, never guessed at.
"""

import json
from typing import Any

# In a version 2 body the inner text is JSON in JSON, so this byte sequence is a key of the inner structure: within one
# of its strings each quote would carry three backslashes.
_INNER_TYPE = b'\\"event_type\\": \\"'


class MessageError(Exception):
    """A message that cannot be understood. The text says why and never quotes the payload, which may hold secrets."""


def peek_event_type(body: bytes) -> str | None:
    """The event type of a version 2 notification without parsing it, or None when that cannot be said safely.

    Only a key at the top level of the inner object counts: before it, just two braces have been opened.
    """
    start = body.find(_INNER_TYPE)
    if start < 0 or body.count(b"{", 0, start) != 2:
        return None
    start += len(_INNER_TYPE)
    end = body.find(b'\\"', start, start + 200)
    if end < 0:
        return None
    try:
        return body[start:end].decode("ascii")
    except UnicodeDecodeError:
        return None


def unwrap(body: bytes | str) -> dict[str, Any]:
    """The message in a body: `event_type` and `payload` of a notification, or `method` and `args` of a cast.

    Raises MessageError.
    """
    message = _object(body, "the body")
    inner = message.get("oslo.message")
    if inner is None:
        return message
    version = message.get("oslo.version", "2.0")
    if not str(version).startswith("2."):
        msg = f"envelope version {version!r} is unknown"
        raise MessageError(msg)
    return inner if isinstance(inner, dict) else _object(inner, "oslo.message")


def _object(text: Any, what: str) -> dict[str, Any]:
    if not isinstance(text, bytes | str):
        msg = f"{what} is {type(text).__name__}, not text"
        raise MessageError(msg)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        # The error's own text names a position; its document is not repeated.
        position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        msg = f"{what} is not JSON{position}"
        raise MessageError(msg) from None
    if not isinstance(value, dict):
        msg = f"{what} is JSON but no object"
        raise MessageError(msg)
    return value
