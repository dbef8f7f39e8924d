"""How hints merge. Merging is commutative, associative and idempotent: order and repetition of events do not matter.

Flags by OR; revision, priority and expiry by maximum (an expiry of 0 means never, the largest); operations by id.
Request ids are for people: the newest 8 are kept.
"""

from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2

REQUEST_IDS = 8

CREATE = 1 << (event_pb2.EVENT_KIND_CREATE - 1)
READ = 1 << (event_pb2.EVENT_KIND_READ - 1)
UPDATE = 1 << (event_pb2.EVENT_KIND_UPDATE - 1)
DELETE = 1 << (event_pb2.EVENT_KIND_DELETE - 1)
POLL = 1 << (event_pb2.EVENT_KIND_POLL - 1)
REBUILD = 1 << (event_pb2.EVENT_KIND_REBUILD - 1)

OPERATION_BITS = {
    resource_pb2.OPERATION_KIND_POLL: POLL,
    resource_pb2.OPERATION_KIND_UPDATE: UPDATE,
    resource_pb2.OPERATION_KIND_REBUILD: REBUILD,
}
"""The bit that makes a worker do what an operation says."""

FLEETING = READ | POLL
"""Worth nothing to a later owner: never kept in the database."""


def covers(hint: work_pb2.Hint, other: work_pb2.Hint) -> bool:
    """Whether merging `other` into `hint` would change nothing that matters to a worker."""
    known = {operation.operation_id for operation in hint.operations}
    return (
        hint.actions | other.actions == hint.actions
        and hint.revision >= other.revision
        and hint.priority >= other.priority
        and (hint.expires_at_ms == 0 or 0 < other.expires_at_ms <= hint.expires_at_ms)
        and all(operation.operation_id in known for operation in other.operations)
    )


def merge(into: work_pb2.Hint, other: work_pb2.Hint) -> None:
    """Merge a hint for the same resource into another, in place."""
    into.actions |= other.actions
    into.kind = max(into.kind, other.kind)
    into.tenant_id = into.tenant_id or other.tenant_id
    into.revision = max(into.revision, other.revision)
    into.priority = max(into.priority, other.priority)
    never = into.expires_at_ms == 0 or other.expires_at_ms == 0
    into.expires_at_ms = 0 if never else max(into.expires_at_ms, other.expires_at_ms)
    known = {operation.operation_id for operation in into.operations}
    into.operations.extend(operation for operation in other.operations if operation.operation_id not in known)
    for request_id in other.request_ids:
        add_request_id(into, request_id)


def lasting(hint: work_pb2.Hint) -> work_pb2.Hint | None:
    """What of a hint must be a row: what events said. Operations are rows of their own, and so are their bits."""
    if not hint.operations:
        return hint if hint.actions & ~FLEETING else None
    kept = work_pb2.Hint()
    kept.CopyFrom(hint)
    del kept.operations[:]
    for operation in hint.operations:
        kept.actions &= ~OPERATION_BITS.get(operation.kind, 0)
    return kept if kept.actions & ~FLEETING else None


def add_request_id(hint: work_pb2.Hint, request_id: str) -> None:
    """Note a cause; the oldest goes when there are more than 8."""
    if request_id not in hint.request_ids:
        hint.request_ids.append(request_id)
        if len(hint.request_ids) > REQUEST_IDS:
            del hint.request_ids[0]
