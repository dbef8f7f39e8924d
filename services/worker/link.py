"""The worker's end of the Work stream: grants, revokes, deliveries, the lease, and reports.

One stream at a time; when it breaks, a new one says Hello with the shards still held, and nothing else before Welcome.
Deliveries are acked once they are in inboxes, which is at once. A revoke is answered when no step of the shard runs.
Whatever happens to the stream, the lease decides whether the dispatcher may begin anything.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from astara.scheduler.v1 import work_pb2_grpc
from prometheus_client import Counter, Gauge

from services.common import logging
from services.common.clock import Clock
from services.common.rpc import reconnect_delay

from .dispatch import Dispatcher
from .flags import DebugFlags
from .ownership import Ownership
from .report import Reporter
from .resource import ManagedResource

_log = logging.get(__name__)
_SHARDS = Gauge("astara_worker_shards", "Shards held")
_HINTS = Counter("astara_worker_hints", "Hints delivered")
_STREAMS = Counter("astara_worker_streams", "Work streams opened")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is, for Hello."""

    worker: str
    incarnation: str
    version: str
    address: str
    capacity: int


class Link:
    """Keeps a Work stream open until the task is cancelled."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        identity: Identity,
        ownership: Ownership,
        dispatcher: Dispatcher,
        flags: DebugFlags,
        reporter: Reporter,
        clock: Clock,
        gather_seconds: float,
        connected: Callable[[bool], None],
    ) -> None:
        self._stub = work_pb2_grpc.WorkServiceStub(channel)
        self._identity = identity
        self._ownership = ownership
        self._dispatcher = dispatcher
        self._flags = flags
        self._reporter = reporter
        self._clock = clock
        self._gather_seconds = gather_seconds
        self._connected = connected
        self._outgoing: asyncio.Queue[work.WorkRequest] = asyncio.Queue()
        self._draining = False
        self._empty = asyncio.Event()
        self._call: Any = None
        self._ended = asyncio.Event()
        self._welcome = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, work, reconnect."""
        attempt = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_lease())
            while True:
                attempt += 1
                try:
                    await self._one_stream()
                    attempt = 0
                except grpc.aio.AioRpcError as error:
                    if attempt == 1 or error.code() is not grpc.StatusCode.UNAVAILABLE:
                        _log.warning("stream ended", code=error.code().name, detail=error.details())
                finally:
                    self._connected(False)
                    self._ended.set()
                await reconnect_delay(min(attempt + 1, 10))

    async def drain(self, timeout: float) -> None:
        """Ask for all shards to be taken away and wait until they are, at most `timeout` seconds.

        Without a scheduler that takes them no longer than the lease: then they are free by themselves.
        """
        self._draining = True
        if not self._ownership.shards:
            return
        self._send(work.WorkRequest(drain=work.Drain()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not await self._emptied(self._ownership.lease_remaining()):
                    if self._ownership.lease_remaining() <= 0.0:
                        return
                for message in self._reporter.take():
                    self._send(message)
                await self._outgoing.join()
                if self._call is not None:
                    # A cancelled call may lose what the scheduler has not read: end it, and wait until it has.
                    await self._call.done_writing()
                    await self._ended.wait()

    async def _emptied(self, seconds: float) -> bool:
        """Whether all shards are taken away, after at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._empty.wait()
        return self._empty.is_set()

    def _send(self, request: work.WorkRequest) -> None:
        self._outgoing.put_nowait(request)

    async def _one_stream(self) -> None:
        _STREAMS.inc()
        self._ended.clear()
        # What an older stream did not send is derived anew: acks and releases mean nothing on another stream.
        self._outgoing = asyncio.Queue()
        self._welcome.clear()
        hello_sent = self._clock.lease()
        self._call = call = self._stub.Work()
        side_jobs = [asyncio.create_task(job) for job in (self._write(call), self._renew(), self._report())]
        try:
            async for response in call:
                self._handle(response, hello_sent)
        finally:
            for job in side_jobs:
                job.cancel()
            call.cancel()

    async def _write(self, call: Any) -> None:
        who = self._identity
        hello = work.Hello(
            worker=who.worker,
            incarnation=who.incarnation,
            version=who.version,
            address=who.address,
            capacity=who.capacity,
            held=self._ownership.held(),
        )
        queue = self._outgoing
        # A write fails only when the stream has ended, and then the reader says why; but grpc.aio gives a stream that
        # ends under a write the status INTERNAL instead of its own. So nothing is written while Hello may be refused.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(work.WorkRequest(hello=hello))
            await self._welcome.wait()
            if self._draining:
                await call.write(work.WorkRequest(drain=work.Drain()))
            while True:
                await call.write(await queue.get())
                queue.task_done()

    def _handle(self, response: work.WorkResponse, hello_sent: float) -> None:
        match response.WhichOneof("message"):
            case "deliver":
                for hint in response.deliver.hints:
                    self._dispatcher.deliver(hint)
                _HINTS.inc(len(response.deliver.hints))
                self._send(work.WorkRequest(ack=work.DeliveryAck(number=response.deliver.number)))
            case "renewed":
                self._ownership.renewed(response.renewed.nonce)
                self._dispatcher.resume()
            case "grant":
                self._spawn(self._granted(response.grant))
            case "revoke":
                self._spawn(self._release(list(response.revoke.shards)))
            case "flag_change":
                self._spawn(self._apply_flag(response.flag_change))
            case "diagnosis_request":
                self._diagnose(response.diagnosis_request)
            case "welcome":
                self._welcomed(response.welcome, hello_sent)
            case _:
                _log.debug("unknown message ignored")

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _welcomed(self, welcome: work.Welcome, hello_sent: float) -> None:
        kept = {shard.shard for shard in welcome.kept}
        for shard in welcome.kept:
            self._ownership.grant(shard)
        for shard_number in self._ownership.shards:
            if shard_number not in kept:
                self._ownership.drop(shard_number)
                self._spawn(self._dispatcher.close_shard(shard_number))
        self._flags.replace(list(welcome.debug_flags))
        self._ownership.welcome(welcome.lease_milliseconds, hello_sent)
        for resource in self._dispatcher:
            self._reporter.changed(resource)
        self._welcome.set()
        self._connected(True)
        self._dispatcher.resume()
        self._dispatcher.let_go()
        _SHARDS.set(len(kept))
        _log.info("welcome", term=welcome.term, kept=len(kept), lease_ms=welcome.lease_milliseconds)

    async def _granted(self, grant: work.Grant) -> None:
        self._empty.clear()
        # A shard that this worker is still letting go of (it was not kept in Welcome) must be empty before it begins.
        await self._dispatcher.closed([shard.shard for shard in grant.shards])
        for shard in grant.shards:
            self._ownership.grant(shard)
        for known in grant.resources:
            self._dispatcher.look_at(known)
        _SHARDS.set(len(self._ownership.shards))
        if grant.shards:
            _log.info("granted", shards=len(grant.shards), resources=len(grant.resources))

    async def _release(self, shards: list[work.HeldShard]) -> None:
        for shard in shards:
            held = self._ownership.epoch(shard.shard)
            # Dropped first: the guard stops running machines before their next step.
            if held is not None and (held.term, held.counter) <= (shard.term, shard.counter):
                self._ownership.drop(shard.shard)
        await asyncio.gather(*(self._dispatcher.close_shard(shard.shard) for shard in shards))
        self._send(work.WorkRequest(released=work.Released(shards=shards)))
        if not self._ownership.shards:
            self._empty.set()
        _SHARDS.set(len(self._ownership.shards))

    async def _apply_flag(self, change: work.FlagChange) -> None:
        self._flags.change(change.flag, cleared=change.cleared)
        if change.cleared:
            self._dispatcher.reconcile(lambda resource: _covers(change.flag, resource))
        else:
            while self._dispatcher.running_under_flags():
                await self._flags.next_step_end()
        for resource in self._dispatcher:
            if _covers(change.flag, resource):
                self._reporter.changed(resource)
        self._send(work.WorkRequest(flag_applied=work.FlagApplied(change_id=change.change_id)))

    def _diagnose(self, request: work.DiagnosisRequest) -> None:
        facts = {
            "worker": self._identity.worker,
            "incarnation": self._identity.incarnation,
            "version": self._identity.version,
            "shards": len(self._ownership.shards),
            "lease_remaining": round(self._ownership.lease_remaining(), 3),
            **self._dispatcher.diagnosis(request.tenant_id, request.resource_id),
        }
        _log.info("diagnosis", **facts)
        self._send(
            work.WorkRequest(
                diagnosis=work.Diagnosis(diagnosis_id=request.diagnosis_id, json=json.dumps(facts)),
            )
        )

    async def _renew(self) -> None:
        await self._welcome.wait()
        while True:
            self._send(work.WorkRequest(lease_renewal=self._ownership.renewal()))
            await asyncio.sleep(max(0.1, (self._ownership.lease_seconds or 1.0) / 3))

    async def _report(self) -> None:
        await self._welcome.wait()
        while True:
            await asyncio.sleep(self._gather_seconds)
            if self._reporter.pending() and self._ownership.lease_seconds:
                for message in self._reporter.take():
                    self._send(message)

    async def _watch_lease(self) -> None:
        while True:
            remaining = self._ownership.lease_remaining()
            if remaining <= 0:
                self._dispatcher.pause()
            await asyncio.sleep(min(max(remaining, 0.1), 1.0))


def _covers(flag: pb.DebugFlag, resource: ManagedResource) -> bool:
    if flag.scope == pb.OPERATION_SCOPE_GLOBAL:
        return True
    if flag.scope == pb.OPERATION_SCOPE_TENANT:
        return resource.tenant_id == flag.target_id
    return resource.resource_id == flag.target_id
