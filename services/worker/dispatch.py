"""Inbox and dispatch: which resource is worked on next, and by whom.

What is true at all times:

* A resource is in exactly one place: idle (empty inbox), ready (in the heap), running (one task), waiting (a timer), or
  held back (a debug flag covers it, or its shard is being handed over).
* At most one task runs for a resource; others run in parallel, at most `max_running` of them. Waiting holds no task.
* Merging a hint never fails and never blocks. Nothing that was merged is forgotten before a run is done with it, or the
  shard is released: its next owner looks at every resource anyway.
* Everything here happens on one event loop: there are no locks, only lines that must not be separated by an `await`.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from astara.scheduler.v1 import work_pb2 as work
from prometheus_client import Gauge

from services.common import logging, marks
from services.common.clock import Clock

from .flags import DebugFlags
from .inbox import BITS
from .machine import ANSWERING, Outcome, RunResult
from .resource import ManagedResource
from .states import Action

_log = logging.get(__name__)
_READY = Gauge("astara_worker_ready", "Resources that wait for a place to run")
_RUNNING = Gauge("astara_worker_running", "Resources that are worked on")

PRIORITY_RESYNC = 1
_FLEETING = BITS[Action.POLL] | BITS[Action.READ]
_LOST_PAUSE = 5.0  # seconds before a resource is tried again whose appliance knows a higher epoch


class Runner(Protocol):
    """Runs one resource; see machine.Machine."""

    async def run(self, resource: ManagedResource) -> RunResult:
        """From the inbox to the next return to CalcAction; never raises."""
        ...


class Timer(Protocol):
    """What can be cancelled until it is due."""

    def cancel(self) -> None:
        """Never mind."""
        ...


class Dispatcher:
    """The resources of this worker and their turns."""

    def __init__(
        self,
        runner: Runner,
        flags: DebugFlags,
        clock: Clock,
        max_running: int,
        forgotten: Callable[[ManagedResource], None],
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        """`forgotten` hears of resources that exist no more; `call_later` starts timers, the loop's when left out."""
        self._runner = runner
        self._flags = flags
        self._clock = clock
        self._max_running = max_running
        self._forgotten = forgotten
        self._call_later = call_later or _call_later
        self._resources: dict[str, ManagedResource] = {}
        self._by_shard: dict[int, set[str]] = {}
        self._heap: list[tuple[int, int, str]] = []
        self._queued: dict[str, int] = {}  # priority under which a resource is in the heap
        self._count = 0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._interrupted: set[str] = set()  # running ones for which something urgent has come in
        self._timers: dict[str, Timer] = {}
        self._closing: dict[int, asyncio.Event] = {}
        self._parked: dict[int, list[work.Hint]] = {}
        self._paused = False

    def __len__(self) -> int:
        return len(self._resources)

    def __iter__(self) -> Iterator[ManagedResource]:
        return iter(self._resources.values())

    def get(self, resource_id: str) -> ManagedResource | None:
        """The resource, when this worker has it."""
        return self._resources.get(resource_id)

    # Work comes in

    def deliver(self, hint: work.Hint) -> None:
        """Merge a hint into the inbox of its resource and see to it that it gets its turn."""
        if self._closing and (shard := marks.shard_of(hint.tenant_id)) in self._closing:
            # It belongs to the next grant of that shard, which waits for the end of the last one as well.
            self._parked.setdefault(shard, []).append(hint)
            return
        resource = self._resource(hint.resource_id, hint.tenant_id, hint.kind)
        if hint.image_id:
            resource.image_override = hint.image_id
        resource.inbox.merge_hint(hint)
        if hint.operations or hint.actions & ~_FLEETING:
            resource.hints += 1
        urgent = hint.priority > PRIORITY_RESYNC or bool(hint.operations) or bool(hint.actions & BITS[Action.DELETE])
        if urgent:
            resource.hold_until = None
            if resource.resource_id in self._running:
                self._interrupted.add(resource.resource_id)
        self._make_ready(resource, urgent=urgent)

    def look_at(self, known: work.KnownResource) -> None:
        """A new owner looks once at each resource of a shard that it was granted."""
        resource = self._resource(known.resource_id, known.tenant_id, known.kind)
        resource.image_override = known.image_id or resource.image_override
        resource.inbox.add(Action.UPDATE, PRIORITY_RESYNC)
        self._make_ready(resource)

    def _resource(self, resource_id: str, tenant_id: str, kind: int) -> ManagedResource:
        resource = self._resources.get(resource_id)
        if resource is None:
            shard = marks.shard_of(tenant_id)
            resource = ManagedResource(resource_id, tenant_id, kind, shard, since=self._clock.wall())
            self._resources[resource_id] = resource
            self._by_shard.setdefault(shard, set()).add(resource_id)
        return resource

    # Turns

    def _make_ready(self, resource: ManagedResource, *, urgent: bool = False) -> None:
        """Give a resource its turn when it has something to do; only what is urgent cuts a pause short."""
        name = resource.resource_id
        if name in self._running or not resource.inbox or self._held_back(resource):
            return  # a running one is looked at again when it ends; a held-back one when it is let go
        if (timer := self._timers.get(name)) is not None:
            if not urgent and (resource.hold_until is None or resource.state not in ANSWERING):
                return  # but in a pause after a failure it is still asked whether it lives: the machine sees to that
            timer.cancel()
            del self._timers[name]
        priority = resource.inbox.priority
        if self._queued.get(name, -1) < priority:
            # An older entry of lower priority stays in the heap and is passed over when it comes up.
            self._queued[name] = priority
            self._count += 1
            heapq.heappush(self._heap, (-priority, self._count, name))
        self._fill()

    def _held_back(self, resource: ManagedResource) -> bool:
        return resource.shard in self._closing or self._flags.covers(resource.resource_id, resource.tenant_id)

    def _fill(self) -> None:
        while self._heap and len(self._running) < self._max_running and not self._paused:
            negative, _, name = heapq.heappop(self._heap)
            if self._queued.get(name) != -negative:
                continue
            del self._queued[name]
            resource = self._resources.get(name)
            if resource is None or not resource.inbox or self._held_back(resource):
                continue
            if resource.inbox.expired(int(self._clock.wall() * 1000)):
                resource.inbox.take()
                continue
            self._running[name] = asyncio.create_task(self._turn(resource))
        _READY.set(len(self._queued))
        _RUNNING.set(len(self._running))

    async def _turn(self, resource: ManagedResource) -> None:
        name = resource.resource_id
        # Between the heap and this line a flag may have been set, or the shard revoked.
        result = RunResult(Outcome.DONE) if self._held_back(resource) else await self._runner.run(resource)
        # From here to the end there is no await: a hint that came during the run is seen by `_make_ready`, one that
        # comes later finds the resource no longer running.
        del self._running[name]
        interrupted = name in self._interrupted
        self._interrupted.discard(name)
        if result.outcome is Outcome.FORGET and not resource.inbox:
            self._drop(resource)
            self._forgotten(resource)
        elif interrupted and result.outcome is Outcome.COME_BACK:
            resource.hold_until = None
            self._make_ready(resource)
        elif result.outcome in (Outcome.COME_BACK, Outcome.LOST):
            self._wait(resource, result.delay if result.outcome is Outcome.COME_BACK else _LOST_PAUSE)
        else:
            self._make_ready(resource)
        if resource.shard in self._closing:
            self._check_closed(resource.shard)
        self._flags.step_ended()
        self._fill()

    def _wait(self, resource: ManagedResource, delay: float) -> None:
        resource.retry_at = self._clock.lease() + delay
        self._timers[resource.resource_id] = self._call_later(delay, lambda: self._due(resource))

    def _due(self, resource: ManagedResource) -> None:
        self._timers.pop(resource.resource_id, None)
        resource.retry_at = None
        self._make_ready(resource)

    def _drop(self, resource: ManagedResource) -> None:
        name = resource.resource_id
        self._resources.pop(name, None)
        self._queued.pop(name, None)
        self._by_shard.get(resource.shard, set()).discard(name)
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    # Ownership

    def of_shards(self, shards: Iterable[int]) -> list[ManagedResource]:
        """The resources of some shards."""
        return [self._resources[name] for shard in shards for name in self._by_shard.get(shard, ())]

    async def close_shard(self, shard: int) -> None:
        """Begin no step for a shard, wait for those that run, and forget its resources."""
        event = self._closing.setdefault(shard, asyncio.Event())
        self._check_closed(shard)
        await event.wait()
        for resource in self.of_shards([shard]):
            self._drop(resource)
        self._by_shard.pop(shard, None)
        self._closing.pop(shard, None)
        for hint in self._parked.pop(shard, ()):
            self.deliver(hint)

    async def closed(self, shards: Iterable[int]) -> None:
        """Wait until none of these shards is still being closed."""
        for shard in shards:
            while (event := self._closing.get(shard)) is not None:
                await event.wait()
                await asyncio.sleep(0)  # the waiter in close_shard drops the resources when it wakes

    def _check_closed(self, shard: int) -> None:
        if not any(name in self._running for name in self._by_shard.get(shard, ())):
            self._closing[shard].set()

    def pause(self) -> None:
        """Begin nothing: the lease has ended."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._fill()

    # Debug mode

    def running_under_flags(self) -> bool:
        """Whether a step runs for something that a debug flag covers."""
        return any(
            self._flags.covers(name, self._resources[name].tenant_id)
            for name in self._running
            if name in self._resources
        )

    def let_go(self) -> None:
        """A flag was cleared: reconcile everything that waited behind it."""
        for resource in list(self._resources.values()):
            if resource.inbox:
                self._make_ready(resource)

    def reconcile(self, covers: Callable[[ManagedResource], bool]) -> None:
        """Look again at what a cleared flag covered: events were suppressed meanwhile."""
        for resource in list(self._resources.values()):
            if covers(resource):
                resource.inbox.add(Action.UPDATE, PRIORITY_RESYNC)
                self._make_ready(resource)

    # Views

    def diagnosis(self, tenant_id: str = "", resource_id: str = "") -> dict[str, object]:
        """What is going on, for /workers/debug/; of resources, only those of a tenant or the one, where named."""
        return {
            "ready": len(self._queued),
            "running": sorted(self._running),
            "waiting": len(self._timers),
            "paused": self._paused,
            "shards_closing": sorted(self._closing),
            "resources": [
                {
                    "id": r.resource_id,
                    "tenant": r.tenant_id,
                    "state": r.state.value if r.state else None,
                    "step": r.step.value if r.step else None,
                    "inbox": sorted(action.name for action in r.inbox.wanted()),
                    "in_hand": sorted(action.name for action in r.hand.wanted()) if r.hand is not None else [],
                    "causes": list(r.inbox.causes),
                    "attempts": r.attempts,
                    "last_error": r.last_error,
                    "debug": self._flags.covers(r.resource_id, r.tenant_id),
                    "again_in": round(r.retry_at - self._clock.lease(), 1) if r.retry_at is not None else None,
                }
                for r in self._resources.values()
                if (not tenant_id or r.tenant_id == tenant_id) and (not resource_id or r.resource_id == resource_id)
            ],
        }

    async def finish(self, grace: float) -> None:
        """Begin nothing more and wait at most `grace` seconds for what runs."""
        self.pause()
        tasks = list(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for timer in self._timers.values():
            timer.cancel()

    async def abandon(self) -> None:
        """Begin nothing more and end what runs where it is: what was half done is resumed from what is observed."""
        self.pause()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()


def _call_later(delay: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay, callback)
