"""From a message's body to events. Runs in the broker's thread, some thousand times a second.

What the table ignores is recognised without parsing where that is safe; everything else is parsed once.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from astara.event.v1 import event_pb2 as pb

from .envelope import MessageError, peek_event_type, unwrap
from .table import CASTS, NOTIFICATIONS, Becomes, Cast, Ignored

# The commands that may come over the broker, and whether they name a router or tenant.
_VERBS = {
    "poll": False,
    "workers debug": False,
    "router update": True,
    "router rebuild": True,
    "router debug": True,
    "router manage": True,
    "tenant debug": True,
    "tenant manage": True,
}


class Normaliser:
    """Turns bodies into events by the table. `unknown` is called with each type that the table does not know."""

    def __init__(self, deployment: str, unknown: Callable[[str], None]) -> None:
        self._deployment = deployment
        self._unknown = unknown

    def events(self, body: bytes | str) -> list[pb.Event]:
        """The events of a notification or cast; empty when it is ignored. Raises MessageError."""
        if isinstance(body, bytes):
            peeked = peek_event_type(body)
            if peeked is not None and isinstance(NOTIFICATIONS.get(peeked), Ignored):
                return []
        message = unwrap(body)
        event_type = message.get("event_type")
        if isinstance(event_type, str):
            events = self._notification(event_type, message)
            source = event_type
        elif isinstance(method := message.get("method"), str):
            events = self._cast(method, message.get("args"))
            source = f"l3_agent.{method}"
        else:
            msg = "neither a notification (event_type) nor a cast (method)"
            raise MessageError(msg)
        if events:
            request_id = message.get("_context_request_id") or message.get("message_id")
            occurred = _seconds_and_nanos(message.get("timestamp"))
            for event in events:
                event.source = source
                if isinstance(request_id, str):
                    event.request_id = request_id
                if occurred is not None:
                    event.occurred_at.seconds, event.occurred_at.nanos = occurred
        return events

    def command(self, body: bytes | str, message_id: str) -> list[pb.Event]:
        """The event of an operator's command, `{"command": verb, "router_id" | "tenant_id" | "id", …}`.

        `message_id` (or a `request_id` in the message) is the command's identity: the scheduler does it once, however
        often it comes. Raises MessageError.
        """
        message = unwrap(body)
        message_id = _text(message, "message_id") or message_id
        if isinstance(message.get("payload"), dict):
            message = message["payload"]
        verb = message.get("command")
        if not isinstance(verb, str) or verb not in _VERBS:
            msg = f"command is not one of: {', '.join(_VERBS)}"
            raise MessageError(msg)
        names = ("tenant_id" if verb.startswith("tenant") else "router_id", "id")
        target = next((value for name in names if (value := message.get(name))), "")
        if _VERBS[verb] and (not isinstance(target, str) or not target):
            msg = f"command {verb!r} wants {names[0]}"
            raise MessageError(msg)
        command = pb.Command(
            verb=verb,
            target_id=target if _VERBS[verb] else "",
            image_id=_text(message, "image_id"),
            reason=_text(message, "reason"),
        )
        priority = pb.PRIORITY_USER if _VERBS[verb] else pb.PRIORITY_BULK
        request_id = _text(message, "request_id") or message_id
        source = "astara.command"
        return [
            pb.Event(
                kind=pb.EVENT_KIND_COMMAND, priority=priority, source=source, request_id=request_id, command=command
            )
        ]

    def _notification(self, event_type: str, message: dict[str, Any]) -> list[pb.Event]:
        rule = NOTIFICATIONS.get(event_type)
        if rule is None:
            self._unknown(event_type)
            return []
        if isinstance(rule, Ignored):
            return []
        objects = _objects(event_type, rule, message.get("payload"))
        events = []
        for one in objects:
            if not isinstance(one, dict):
                msg = f"{event_type}: {rule.key} in the payload is no object"
                raise MessageError(msg)
            try:
                event = rule.event(one, self._deployment)
            except (MessageError, TypeError, ValueError) as error:
                # protobuf refuses a value of another type than a subject's; its text may quote the value.
                why = str(error) if isinstance(error, MessageError) else "a field has an unexpected type"
                msg = f"{event_type}: {why}"
                raise MessageError(msg) from None
            if event is not None:
                if rule.is_callers and not event.subject.project_id:
                    event.subject.project_id = _text(message, "_context_project_id")
                events.append(event)
        return events

    def _cast(self, method: str, arguments: Any) -> list[pb.Event]:
        rule = CASTS.get(method)
        if rule is None:
            self._unknown(f"cast {method}")
            return []
        if not isinstance(rule, Cast):
            return []
        if not isinstance(arguments, dict):
            msg = f"{method}: args is no object"
            raise MessageError(msg)
        return rule.events(arguments)


def _objects(event_type: str, rule: Becomes, payload: Any) -> list[Any]:
    if isinstance(payload, dict):
        if (one := payload.get(rule.key)) is not None:
            return [one]
        many = payload.get(rule.key + "s")
        if isinstance(many, list):
            return many
        # Before Neutron said what was deleted, it gave the id alone.
        if (gone := payload.get(rule.key + "_id")) is not None:
            return [{"id": gone}]
    msg = f"{event_type}: the payload holds no {rule.key}"
    raise MessageError(msg)


def _seconds_and_nanos(timestamp: Any) -> tuple[int, int] | None:
    """Read `2026-11-22 11:58:27.989068`, which is UTC; None when it is something else."""
    if not isinstance(timestamp, str):
        return None
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return int(at.timestamp()), at.microsecond * 1000


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name) or ""
    if not isinstance(value, str):
        msg = f"{name} is not text"
        raise MessageError(msg)
    return value
