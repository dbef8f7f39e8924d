"""A worker in a hundred lines, written from protos/ alone: it "manages" a resource by reporting it CONFIGURED.

Usage: example_worker.py SCHEDULER NAME. It holds shards only while its lease lasts, answers every hint, gives shards
back when they are revoked, and asks to be drained on SIGTERM. No step of it takes time, so it never has one to abandon.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256

import grpc
import grpc.aio
from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2, work_pb2_grpc

DELETE = 1 << (event_pb2.EVENT_KIND_DELETE - 1)


def shard_of(tenant_id: str) -> int:
    """The shard of a tenant, as work.proto defines it."""
    return int.from_bytes(sha256(tenant_id.encode()).digest()[:4], "big") % 1024


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ExampleWorker:
    """One worker process. What it holds outlives a broken stream, but not the lease."""

    def __init__(self, name: str) -> None:
        self.name, self.incarnation = name, str(uuid.uuid4())
        self.held: dict[int, work_pb2.HeldShard] = {}
        self.resources: dict[str, work_pb2.KnownResource] = {}
        self.lease, self.lease_until = 5.0, 0.0
        self.sent_at: dict[int, float] = {}
        self.stopping = asyncio.Event()
        self.renewing: asyncio.Task[None] | None = None
        self.outgoing: asyncio.Queue[work_pb2.WorkRequest | None] = asyncio.Queue()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Open a stream, and another when it breaks, until everything is given back."""
        while not self.stopping.is_set() or self.held:
            self.outgoing = asyncio.Queue()
            if now() >= self.lease_until:
                self.held.clear()
            self.send(hello=work_pb2.Hello(worker=self.name, incarnation=self.incarnation, held=self.held.values()))
            self.renewing = None
            try:
                async for message in work_pb2_grpc.WorkServiceStub(channel).Work(self.requests(), wait_for_ready=True):
                    self.answer(message)
            except grpc.aio.AioRpcError as error:
                print(f"stream ended: {error.code().name}: {error.details()}", flush=True)
                await asyncio.sleep(0.2)
            finally:
                if self.renewing is not None:
                    self.renewing.cancel()

    async def requests(self) -> AsyncIterator[work_pb2.WorkRequest]:
        """What is sent, in order; None ends the stream."""
        while (request := await self.outgoing.get()) is not None:
            yield request

    def send(self, **message: object) -> None:
        """Send one message."""
        self.outgoing.put_nowait(work_pb2.WorkRequest(**message))

    async def renew(self) -> None:
        """Renew the lease every third of it, and ask once to be drained when stopping."""
        draining = False
        while True:
            nonce = len(self.sent_at) + 1
            self.sent_at[nonce] = now()
            self.send(lease_renewal=work_pb2.LeaseRenewal(nonce=nonce))
            if self.stopping.is_set() and not draining:
                draining = True
                self.send(drain=work_pb2.Drain())
                self.end_when_empty()
            waiting = asyncio.sleep(self.lease) if draining else self.stopping.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting, self.lease / 3)

    def answer(self, message: work_pb2.WorkResponse) -> None:
        """Do what one message wants; what this version does not know is ignored."""
        match message.WhichOneof("message"):
            case "welcome":
                self.lease = message.welcome.lease_milliseconds / 1000
                self.held = {shard.shard: shard for shard in message.welcome.kept}
                self.report(self.resources)
                self.renewing = asyncio.create_task(self.renew())
            case "renewed":
                self.lease_until = self.sent_at[message.renewed.nonce] + self.lease
            case "grant":
                self.held |= {shard.shard: shard for shard in message.grant.shards}
                self.resources |= {known.resource_id: known for known in message.grant.resources}
                self.report(known.resource_id for known in message.grant.resources)
            case "revoke":
                for shard in message.revoke.shards:
                    self.held.pop(shard.shard, None)
                self.send(released=work_pb2.Released(shards=message.revoke.shards))
                self.end_when_empty()
            case "deliver":
                for hint in message.deliver.hints:
                    self.resources[hint.resource_id] = work_pb2.KnownResource(
                        resource_id=hint.resource_id, kind=hint.kind, tenant_id=hint.tenant_id
                    )
                self.send(ack=work_pb2.DeliveryAck(number=message.deliver.number))
                for hint in message.deliver.hints:
                    self.work(hint)
            case "flag_change":
                self.send(flag_applied=work_pb2.FlagApplied(change_id=message.flag_change.change_id))
            case "diagnosis_request":
                text = json.dumps({"worker": self.name, "incarnation": self.incarnation, "shards": sorted(self.held)})
                asked = message.diagnosis_request.diagnosis_id
                self.send(diagnosis=work_pb2.Diagnosis(diagnosis_id=asked, json=text))

    def work(self, hint: work_pb2.Hint) -> None:
        """A real worker would reconcile here."""
        if hint.actions & DELETE:
            del self.resources[hint.resource_id]
            self.send(status=work_pb2.StatusReport(gone_resource_ids=[hint.resource_id]))
        else:
            self.report([hint.resource_id])
        for operation in hint.operations:
            report = work_pb2.OperationReport(operation_id=operation.operation_id, resource_id=hint.resource_id)
            report.state = resource_pb2.OPERATION_STATE_SUCCEEDED
            self.send(operation=report)

    def report(self, resource_ids: Iterable[str]) -> None:
        """Say that resources are configured: only those of held shards."""
        report = work_pb2.StatusReport()
        for known in [self.resources[resource_id] for resource_id in resource_ids]:
            if shard_of(known.tenant_id) in self.held:
                resource = report.resources.add(resource_id=known.resource_id, kind=known.kind)
                resource.tenant_id, resource.state = known.tenant_id, resource_pb2.INSTANCE_STATE_CONFIGURED
        self.send(status=report)

    def end_when_empty(self) -> None:
        """When everything is given back, close our side of the stream."""
        if self.stopping.is_set() and not self.held:
            self.outgoing.put_nowait(None)


async def main() -> None:
    """Work until told to stop."""
    worker = ExampleWorker(sys.argv[2])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stopping.set)
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        await worker.run(channel)


if __name__ == "__main__":
    asyncio.run(main())
