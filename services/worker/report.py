"""What the worker tells the scheduler: status, history and the fate of operators' commands, gathered into batches.

A resource that changes ten times between two batches is reported once, as it is then: status is a level, not an edge.
History is bounded: past the limit the oldest lines of a batch are dropped and the drop is counted.
"""

from collections import deque

from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import Counter

from services.common.clock import Clock

from .flags import DebugFlags
from .resource import ManagedResource

_DROPPED = Counter("astara_worker_history_dropped", "Lines of history that were not reported")

MAX_BATCH = 1_000
MAX_HISTORY = 20_000


class Reporter:
    """Implements `machine.Observer`; the link takes batches from it."""

    def __init__(self, worker: str, flags: DebugFlags, clock: Clock) -> None:
        self._worker = worker
        self._flags = flags
        self._clock = clock
        self._changed: dict[str, ManagedResource] = {}
        self._gone: set[str] = set()
        self._history: deque[work.HistoryEntry] = deque()
        self._operations: deque[work.OperationReport] = deque()

    def changed(self, resource: ManagedResource) -> None:
        """Report the resource in the next batch."""
        self._changed[resource.resource_id] = resource
        self._gone.discard(resource.resource_id)

    def forgotten(self, resource: ManagedResource) -> None:
        """The resource exists no more."""
        self._changed.pop(resource.resource_id, None)
        self._gone.add(resource.resource_id)

    def operation(self, resource: ManagedResource, operation_id: str, state: int, message: str) -> None:
        """An operator's command moved."""
        self._operations.append(
            work.OperationReport(
                operation_id=operation_id,
                resource_id=resource.resource_id,
                state=pb.OperationState.ValueType(state),
                message=message,
            )
        )

    def happened(self, resource: ManagedResource, kind: str, text: str) -> None:
        """A line for the history."""
        if len(self._history) >= MAX_HISTORY:
            self._history.popleft()
            _DROPPED.inc()
        self._history.append(
            work.HistoryEntry(
                resource_id=resource.resource_id,
                at_ms=int(self._clock.wall() * 1000),
                kind=kind,
                text=text,
                reconcile_id=resource.reconcile_id,
                request_ids=list(resource.hand.causes) if resource.hand else [],
            )
        )

    def pending(self) -> bool:
        """Whether there is anything to report."""
        return bool(self._changed or self._gone or self._history or self._operations)

    def take(self) -> list[work.WorkRequest]:
        """All that is to be reported now, as messages."""
        messages = []
        while self._operations:
            messages.append(work.WorkRequest(operation=self._operations.popleft()))
        while self._changed or self._gone or self._history:
            report = work.StatusReport()
            while self._changed and len(report.resources) < MAX_BATCH:
                _, resource = self._changed.popitem()
                self.describe(resource, report.resources.add())
            while self._gone and len(report.gone_resource_ids) < MAX_BATCH:
                report.gone_resource_ids.append(self._gone.pop())
            while self._history and len(report.history) < MAX_BATCH:
                report.history.append(self._history.popleft())
            messages.append(work.WorkRequest(status=report))
        return messages

    def describe(self, resource: ManagedResource, into: pb.Resource) -> None:
        """Fill in the report of one resource."""
        into.resource_id, into.tenant_id, into.name = resource.resource_id, resource.tenant_id, resource.name
        into.kind = pb.ResourceKind.ValueType(resource.kind or pb.RESOURCE_KIND_ROUTER)
        into.shard, into.worker = resource.shard, self._worker
        if resource.state is not None:
            into.state = pb.InstanceState.Value(f"INSTANCE_STATE_{resource.state.value}")
        into.since.CopyFrom(_timestamp(resource.since))
        into.digest, into.attempts = resource.wanted_digest or "", resource.attempts
        into.last_error, into.revision = resource.last_error, resource.revision
        into.debug = self._flags.covers(resource.resource_id, resource.tenant_id)
        into.in_progress = resource.step is not None
        if resource.retry_at is not None:
            into.retry_at.CopyFrom(_timestamp(self._clock.wall() + resource.retry_at - self._clock.lease()))
        for network_id, role, port_id, subnet_ids in resource.attachments:
            into.attachments.add(
                network_id=network_id,
                role=pb.AttachmentRole.ValueType(role),
                port_id=port_id,
                subnet_ids=subnet_ids,
            )
        if (instance := resource.instance) is not None:
            into.instances.add(
                slot=0,
                role="single",
                instance_id=instance.boot_id,
                server_id=instance.server_id,
                management_addresses=[ip["ip_address"] for ip in instance.management["fixed_ips"]],
                management_port_id=instance.management["id"],
                image_id=instance.image_id,
                state=into.state,
                booted_at=_timestamp(instance.booted_at),
                digest=resource.wanted_digest or "",
            )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(int(seconds * 1000))
    return stamp
