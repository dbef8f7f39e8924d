"""Operators' commands as requests: what they may say, how the broker's spelling reads, and why one is refused."""

import uuid

from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2

from services.common.marks import is_safe_id

from .flags import GLOBAL, RESOURCE, TENANT
from .hints import OPERATION_BITS

DEBUG = resource_pb2.OPERATION_KIND_DEBUG
MANAGE = resource_pb2.OPERATION_KIND_MANAGE
REBUILD_COMMAND = resource_pb2.OPERATION_KIND_REBUILD
WORKERS_DEBUG = resource_pb2.OPERATION_KIND_WORKERS_DEBUG
_COMMAND_SPACE = uuid.UUID("0b1a6fd4-6f0e-4d0b-9a5e-6f2d5c1c7a10")
_VERBS = {
    "poll": (resource_pb2.OPERATION_KIND_POLL, GLOBAL),
    "router update": (resource_pb2.OPERATION_KIND_UPDATE, RESOURCE),
    "router rebuild": (REBUILD_COMMAND, RESOURCE),
    "router debug": (DEBUG, RESOURCE),
    "router manage": (MANAGE, RESOURCE),
    "tenant debug": (DEBUG, TENANT),
    "tenant manage": (MANAGE, TENANT),
    "workers debug": (WORKERS_DEBUG, GLOBAL),
}
_WAIT_SECONDS = 20.0
_WAIT_MOST = 60.0


class RefusedError(Exception):
    """A command is wrong in itself; the text names the field."""


class IdTakenError(Exception):
    """The operation's id belongs to another command."""


class UnknownTargetError(Exception):
    """The resource does not exist."""


class NotKnownYetError(Exception):
    """The view is incomplete: whether the target exists, or what it covers, is not known yet."""


class InDebugModeError(Exception):
    """The target is in debug mode and is left alone."""


def check(request: operate_pb2.StartOperationRequest) -> None:
    """Raises RefusedError naming the field that is wrong."""
    if request.kind not in (*OPERATION_BITS, DEBUG, MANAGE, WORKERS_DEBUG):
        raise RefusedError("kind: say what is to be done")
    if request.scope not in (RESOURCE, TENANT, GLOBAL):
        raise RefusedError("scope: say how much it covers")
    if (request.scope == GLOBAL) != (not request.target_id):
        raise RefusedError("target_id: wanted for a resource or tenant, and empty for everything")
    if request.target_id and not is_safe_id(request.target_id):
        raise RefusedError("target_id: not an id of OpenStack (letters, digits, - and _, at most 64)")
    if request.image_id and request.kind != REBUILD_COMMAND:
        raise RefusedError("image_id: only for REBUILD")
    if request.image_id and not is_safe_id(request.image_id):
        raise RefusedError("image_id: not an id of OpenStack (letters, digits, - and _, at most 64)")
    if request.operation_id:
        try:
            uuid.UUID(request.operation_id)
        except ValueError:
            raise RefusedError(f"operation_id: {request.operation_id!r} is not a UUID") from None
    if request.wait_milliseconds > _WAIT_MOST * 1000:
        raise RefusedError("wait_milliseconds: the most is 60,000")


def request_of(event: event_pb2.Event) -> operate_pb2.StartOperationRequest:
    """The request that a COMMAND or REBUILD event makes; raises RefusedError for a verb that there is not."""
    command = event.command
    if event.kind == event_pb2.EVENT_KIND_REBUILD:
        verb, target, image, reason = "router rebuild", event.subject.resource_id, "", event.source
    else:
        verb, target, image, reason = command.verb, command.target_id, command.image_id, command.reason
    if verb not in _VERBS:
        raise RefusedError(f"command.verb: {verb!r} is none of {', '.join(_VERBS)}")
    kind, scope = _VERBS[verb]
    # A message that is delivered twice must not rebuild twice.
    name = f"{event.request_id}|{verb}|{target}|{image}" if event.request_id else ""
    return operate_pb2.StartOperationRequest(
        operation_id=str(uuid.uuid5(_COMMAND_SPACE, name)) if name else "",
        kind=kind,
        scope=scope,
        target_id=target,
        image_id=image,
        requested_by=event.source or "broker",
        reason=reason,
        wait_milliseconds=1,
    )


def wait_seconds(request: operate_pb2.StartOperationRequest) -> float:
    """How long the caller waits for workers' answers."""
    return request.wait_milliseconds / 1000 or _WAIT_SECONDS
