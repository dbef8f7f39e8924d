"""What a resource still has to do, as flags: the inbox.

True at all times: merging is commutative, associative and idempotent, so events may come in any order and any number of
times and the wanted work is the same. An inbox never fills up. Operations are the only things kept one by one; they
merge by id.
"""

from dataclasses import dataclass, field

from astara.resource.v1 import resource_pb2 as resource
from astara.scheduler.v1 import work_pb2 as work

from .states import Action

# Bits of Hint.actions: 1 << (EventKind - 1), in the order of event.proto.
_BIT_TO_ACTION = {
    1 << 0: Action.CREATE,
    1 << 1: Action.READ,
    1 << 2: Action.UPDATE,
    1 << 3: Action.DELETE,
    1 << 4: Action.POLL,
    1 << 5: Action.REBUILD,
}
BITS = {action: bit for bit, action in _BIT_TO_ACTION.items()}
_EXPIRING = BITS[Action.POLL] | BITS[Action.READ]

_OPERATION_BITS = {
    resource.OPERATION_KIND_POLL: BITS[Action.POLL],
    resource.OPERATION_KIND_UPDATE: BITS[Action.UPDATE],
    resource.OPERATION_KIND_REBUILD: BITS[Action.REBUILD],
}

MAX_CAUSES = 8
NEVER = 1 << 62


@dataclass(slots=True)
class Inbox:
    """Wanted work of one resource. Empty means: nothing to do."""

    actions: int = 0
    revision: int = 0
    priority: int = 0
    expires_at_ms: int = 0
    operations: dict[str, resource.Operation] = field(default_factory=dict)
    causes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions or self.operations)

    def add(self, action: Action, priority: int) -> None:
        """Want one action."""
        self.actions |= BITS[action]
        self.priority = max(self.priority, priority)
        self.expires_at_ms = NEVER

    def merge_hint(self, hint: work.Hint) -> None:
        """Take in what the scheduler delivered."""
        self._merge(
            hint.actions & sum(_BIT_TO_ACTION),
            hint.revision,
            hint.priority,
            hint.expires_at_ms or NEVER,
            {operation.operation_id: operation for operation in hint.operations},
            tuple(hint.request_ids),
        )

    def merge(self, other: "Inbox") -> None:
        """Take in another inbox, e.g. work that was taken out and not finished."""
        self._merge(other.actions, other.revision, other.priority, other.expires_at_ms, other.operations, other.causes)

    def _merge(
        self,
        actions: int,
        revision: int,
        priority: int,
        expires_at_ms: int,
        operations: dict[str, resource.Operation],
        causes: tuple[str, ...],
    ) -> None:
        self.actions |= actions
        self.revision = max(self.revision, revision)
        self.priority = max(self.priority, priority)
        self.expires_at_ms = max(self.expires_at_ms, expires_at_ms)
        self.operations.update(operations)
        if causes:
            # Sorted, not in order of arrival, so that merging stays commutative.
            self.causes = tuple(sorted({*self.causes, *causes})[-MAX_CAUSES:])

    def expired(self, now_ms: int) -> bool:
        """Whether all that is wanted was worth something only until now."""
        return bool(
            self.actions and not self.actions & ~_EXPIRING and not self.operations and self.expires_at_ms < now_ms
        )

    def wanted(self) -> set[Action]:
        """All wanted actions, those of operations included."""
        bits = self.actions
        for operation in self.operations.values():
            bits |= _OPERATION_BITS.get(operation.kind, 0)
        return {action for bit, action in _BIT_TO_ACTION.items() if bits & bit}

    def action(self) -> Action | None:
        """The one action that covers all: delete over rebuild over create over update over read over poll."""
        return max(self.wanted(), default=None)

    def drop_unknown(self) -> list[str]:
        """Drop operators' commands of kinds that a worker cannot carry out; answers with their ids."""
        unknown = [name for name, one in self.operations.items() if one.kind not in _OPERATION_BITS]
        for name in unknown:
            del self.operations[name]
        return unknown

    def rebuilds(self) -> list[resource.Operation]:
        """The rebuilds that are wanted, the oldest first."""
        found = (one for one in self.operations.values() if one.kind == resource.OPERATION_KIND_REBUILD)
        return sorted(found, key=lambda one: (one.created_at.ToNanoseconds(), one.operation_id))

    def settle_rebuilds(self, booted_by: str | None = None) -> None:
        """What remains of a rebuild whose server has been booted is to configure it: REBUILD becomes UPDATE.

        `booted_by` is the operation named on the running server: it and older ones are settled; None settles all.
        """
        rebuilds = self.rebuilds()
        if booted_by is not None:
            names = [one.operation_id for one in rebuilds]
            rebuilds = rebuilds[: names.index(booted_by) + 1] if booted_by in names else []
        elif self.actions & BITS[Action.REBUILD]:
            self.actions = self.actions & ~BITS[Action.REBUILD] | BITS[Action.UPDATE]
        for one in rebuilds:
            settled = resource.Operation()
            settled.CopyFrom(one)  # the hint that it came in may be merged elsewhere, too
            settled.kind = resource.OPERATION_KIND_UPDATE
            self.operations[one.operation_id] = settled

    def take(self) -> "Inbox":
        """Empty the inbox; what was in it is the answer."""
        taken = Inbox(self.actions, self.revision, self.priority, self.expires_at_ms, self.operations, self.causes)
        self.actions = self.revision = self.priority = self.expires_at_ms = 0
        self.operations, self.causes = {}, ()
        return taken
