"""Machines and dispatcher under any sequence of events, failures and owners, in virtual time.

A scripted driver answers with whatever a die says and checks, at every step, what must be true; afterwards it behaves,
and everything that was ever wanted must have been done.
"""

import asyncio
import heapq
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog
from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.clock import ManualClock
from services.common.marks import shard_of
from services.worker.dispatch import Dispatcher
from services.worker.errors import CloudError, RejectedError, StaleEpochError
from services.worker.flags import DebugFlags
from services.worker.inbox import BITS
from services.worker.machine import Machine, Outcome, RetryPolicy, RunResult, StepResult, UnclaimedError
from services.worker.resource import ManagedResource
from services.worker.states import Action, InstanceState

NAMES = [f"router-{n}" for n in range(5)]
TENANTS = {name: f"tenant-{n // 2}" for n, name in enumerate(NAMES)}
FINAL = {pb.OPERATION_STATE_SUCCEEDED, pb.OPERATION_STATE_FAILED}
MAX_RUNNING = 3
I = InstanceState  # noqa: E741


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Thousands of failures are played; to draw the traceback of each would take most of the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Timer:
    """A timer of virtual time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class _Clock:
    """Set, never added to: a timer is due at exactly the moment that was computed for it."""

    at = 1_000_000.0

    def lease(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at


class World:
    """Virtual time, the resources' wishes, and the rules that every step is checked against."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.clock = _Clock()
        self.flags = DebugFlags()
        self.owns = True
        self.behaves = False
        self.wanted: Counter[str] = Counter()  # updates delivered
        self.done: Counter[str] = Counter()  # the number of updates that the last configuration had seen
        self.operations: dict[str, int] = {}
        self.busy: set[str] = set()
        self.closed: set[int] = set()
        self.broken: list[str] = []
        self.in_debug: set[tuple[str, bool]] = set()
        self.deleted: set[str] = set()
        self.forgotten: list[str] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        ids = itertools.count()
        machine = Machine(self, self, lambda _: self.owns, self.clock, lambda: str(next(ids)), RetryPolicy(2.0, 1800.0))
        self.machine = machine
        self.dispatcher = Dispatcher(self, self.flags, self.clock, MAX_RUNNING, self.forget, self.call_later)

    def forget(self, resource: ManagedResource) -> None:
        """It is not ours, or no more: what was wanted of it is nobody's wish, should it be named again."""
        self.forgotten.append(resource.resource_id)
        self.wanted.pop(resource.resource_id, None)
        self.done.pop(resource.resource_id, None)

    # Time

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.clock.lease() + delay, next(self._numbers), timer))
        return timer

    async def pause(self, seconds: float) -> None:
        over = asyncio.Event()
        self.call_later(seconds, over.set)
        await over.wait()

    async def settle(self) -> None:
        """Let tasks run until they all wait for time."""
        for _ in range(25):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        end = self.clock.lease() + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self.clock.at = max(self.clock.at, due)
            if timer.callback is not None:
                timer.callback()
                await self.settle()
        self.clock.at = end

    # The runner that the dispatcher sees: the machine, watched

    async def run(self, resource: ManagedResource) -> RunResult:
        name = resource.resource_id
        self.check("two runs of one resource", name not in self.busy)
        self.check("a run of what is in debug mode", not self.flags.covers(name, resource.tenant_id))
        self.check("a run for a shard that is closed", resource.shard not in self.closed)
        self.busy.add(name)
        self.check("more runs than allowed", len(self.busy) <= MAX_RUNNING)
        try:
            return await self.machine.run(resource)
        finally:
            self.busy.discard(name)

    def check(self, what: str, holds: bool) -> None:
        """Note what must not be: an assertion here would end in a task that nobody asks."""
        if not holds:
            self.broken.append(what)

    # The observer

    def changed(self, resource: ManagedResource) -> None:
        pass

    def happened(self, resource: ManagedResource, kind: str, text: str) -> None:
        pass

    def operation(self, resource: ManagedResource, operation_id: str, state: int, message: str) -> None:
        self.operations[operation_id] = state

    # The driver

    async def _step(self, resource: ManagedResource, good: StepResult) -> StepResult:
        self.check("a step outside a run", resource.resource_id in self.busy)
        self.check("a step of one who may not act", self.owns or resource.step is None)
        if self.behaves:
            return good
        await self.pause(self.dice.choice([0.0, 0.1, 3.0]))
        # No driver calls an instance configured that it has not asked or configured.
        states = [state for state in InstanceState if state is not I.CONFIGURED or good.state is I.CONFIGURED]
        match self.dice.randrange(12):
            case 0:
                raise CloudError("nova", "GET /", 503, "away")
            case 1:
                raise RejectedError("no")
            case 2:
                raise StaleEpochError("old")
            case 3:
                raise ValueError("a fault of ours")
            case 4 if self.dice.random() < 0.2:
                raise UnclaimedError("not ours")
            case 5 | 6:
                return StepResult(self.dice.choice(states), wait=self.dice.choice([0.0, 1.0, 10.0]))
            case 7 | 8:
                return StepResult(self.dice.choice(states))
            case _:
                return good

    async def observe(self, resource: ManagedResource) -> StepResult:
        return await self._step(resource, StepResult(I.DOWN))

    async def refuses_rebuild(self, image_id: str) -> str:
        return ""

    async def is_deleted(self, resource: ManagedResource) -> bool:
        return resource.resource_id in self.deleted

    async def alive(self, resource: ManagedResource) -> StepResult:
        return await self._step(resource, StepResult(I.CONFIGURED if resource.state is I.CONFIGURED else I.UP))

    async def create(self, resource: ManagedResource) -> StepResult:
        result = await self._step(resource, StepResult(I.BOOTING))
        if result.state is I.ERROR:
            resource.cooling_until = self.clock.lease() + 60
        return result

    async def check_boot(self, resource: ManagedResource) -> StepResult:
        return await self._step(resource, StepResult(I.UP))

    async def configure(self, resource: ManagedResource) -> StepResult:
        seen = self.wanted[resource.resource_id]
        result = await self._step(resource, StepResult(I.CONFIGURED))
        if result.state is I.CONFIGURED and result.wait is None:
            self.done[resource.resource_id] = seen
        return result

    async def replug(self, resource: ManagedResource) -> StepResult:
        return await self._step(resource, StepResult(I.UP))

    async def stop(self, resource: ManagedResource, *, forever: bool) -> StepResult:
        real = resource.resource_id in self.deleted or resource.state is I.GONE
        self.check("the end of what still exists", real or not forever)
        return await self._step(resource, StepResult(I.GONE if forever else I.DOWN))

    async def read_stats(self, resource: ManagedResource) -> None:
        await self._step(resource, StepResult(I.CONFIGURED))

    async def tell(self, resource: ManagedResource) -> None:
        await asyncio.sleep(0)

    # What befalls it

    def deliver(self, name: str, actions: list[Action], priority: int, operation: int | None) -> None:
        operations = []
        if operation is not None:
            kind = (pb.OPERATION_KIND_UPDATE, pb.OPERATION_KIND_REBUILD, pb.OPERATION_KIND_POLL)[operation % 3]
            operations = [pb.Operation(operation_id=f"{name}-{operation}", kind=kind)]
            self.operations.setdefault(operations[0].operation_id, 0)
        if Action.DELETE in actions and self.dice.random() < 0.5:
            self.deleted.add(name)
        if {Action.UPDATE, Action.CREATE} & set(actions):
            self.wanted[name] += 1
        self.dispatcher.deliver(
            work.Hint(
                resource_id=name, tenant_id=TENANTS[name], kind=pb.RESOURCE_KIND_ROUTER, priority=priority,
                actions=sum(BITS[action] for action in actions), operations=operations,
            )
        )  # fmt: skip

    async def hand_over(self, name: str) -> None:
        """The shard goes to another worker and comes back: nothing runs meanwhile, and then everything is looked at."""
        shard = shard_of(TENANTS[name])
        closing = asyncio.ensure_future(self.dispatcher.close_shard(shard))
        while not closing.done():
            await self.advance(1.0)
        assert not [one for one in self.busy if shard_of(TENANTS[one]) == shard]
        self.closed.add(shard)
        assert self.dispatcher.of_shards([shard]) == []
        await self.advance(5.0)
        self.closed.discard(shard)
        for one, tenant in TENANTS.items():
            if shard_of(tenant) == shard and one not in self.forgotten:
                # The scheduler keeps operators' commands until they are reported as done.
                names = [op for op, state in self.operations.items() if op.startswith(one) and state not in FINAL]
                left = [pb.Operation(operation_id=name, kind=pb.OPERATION_KIND_UPDATE) for name in names]
                self.dispatcher.look_at(work.KnownResource(resource_id=one, tenant_id=tenant))
                if left:
                    self.dispatcher.deliver(work.Hint(resource_id=one, tenant_id=tenant, operations=left))

    def set_flag(self, name: str, *, tenant: bool, cleared: bool) -> None:
        scope = pb.OPERATION_SCOPE_TENANT if tenant else pb.OPERATION_SCOPE_RESOURCE
        self.flags.change(pb.DebugFlag(scope=scope, target_id=TENANTS[name] if tenant else name), cleared=cleared)
        if not cleared:
            self.in_debug.add((name, tenant))
        elif (name, tenant) in self.in_debug:
            self.in_debug.discard((name, tenant))
            covered = TENANTS[name] if tenant else name
            self.dispatcher.reconcile(lambda one: covered in (one.resource_id, one.tenant_id))


names = st.sampled_from(NAMES)
event = st.one_of(
    st.tuples(
        st.just("deliver"), names, st.lists(st.sampled_from(list(Action)), max_size=3), st.integers(1, 4),
        st.none() | st.integers(0, 5),
    ),
    st.tuples(st.just("deliver"), names, st.just([Action.POLL]), st.just(1), st.none()),
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.5, 4.0, 70.0, 2000.0])),
    st.tuples(st.just("flag"), names, st.booleans(), st.booleans()),
    st.tuples(st.just("hand over"), names),
    st.tuples(st.just("ownership"), st.booleans()),
    st.tuples(st.just("lease"), st.booleans()),
)  # fmt: skip


async def _befall(world: World, one: tuple) -> None:
    match one:
        case ("deliver", name, actions, priority, operation):
            world.deliver(name, actions, priority, operation)
        case ("advance", seconds):
            await world.advance(seconds)
        case ("flag", name, tenant, cleared):
            world.set_flag(name, tenant=tenant, cleared=cleared)
        case ("hand over", name):
            await world.hand_over(name)
        case ("ownership", owns):
            await world.advance(0.0)
            world.owns = owns or bool(world.busy)  # the guard changes between steps
        case ("lease", lasts):
            world.dispatcher.resume() if lasts else world.dispatcher.pause()


@settings(max_examples=150, deadline=None)
@given(st.lists(event, min_size=1, max_size=25), st.integers(0, 2**32))
def test_whatever_happens_nothing_runs_twice_and_no_work_is_lost(events: list[tuple], seed: int) -> None:
    async def story() -> None:
        world = World(random.Random(seed))
        for one in events:
            await _befall(world, one)
        world.behaves = world.owns = True
        for name, tenant in sorted(world.in_debug):
            world.set_flag(name, tenant=tenant, cleared=True)
        world.dispatcher.resume()
        await world.advance(4 * 3600.0)
        assert world.broken == []
        for resource in world.dispatcher:
            name = resource.resource_id
            assert not resource.inbox, name
            assert resource.hand is None
            assert resource.state in (I.CONFIGURED, None), name  # None: it was named, and nothing was wanted
            assert world.done[name] == world.wanted[name], name
            assert resource.retry_at is None
        known = {resource.resource_id for resource in world.dispatcher}
        for operation_id, state in world.operations.items():
            if operation_id.rsplit("-", 1)[0] in known:
                assert state in FINAL, operation_id
        assert not world.busy
        assert world.dispatcher.diagnosis()["waiting"] == 0

    asyncio.run(story())


class _Recorder:
    """A runner that notes who runs, one at a time, and does nothing."""

    def __init__(self) -> None:
        self.order: list[str] = []

    async def run(self, resource: ManagedResource) -> RunResult:
        resource.inbox.take()
        self.order.append(resource.resource_id)
        await asyncio.sleep(0)
        return RunResult(Outcome.DONE)


async def _in_order(deliveries: list[tuple[str, int]]) -> list[str]:
    recorder = _Recorder()
    dispatcher = Dispatcher(recorder, DebugFlags(), ManualClock(), 1, lambda _: None)
    dispatcher.pause()
    for name, priority in deliveries:
        dispatcher.deliver(work.Hint(resource_id=name, tenant_id="t", actions=BITS[Action.UPDATE], priority=priority))
    dispatcher.resume()
    while len(recorder.order) < len(dispatcher):  # noqa: ASYNC110 - one turn of the loop is what is meant
        await asyncio.sleep(0)
    return recorder.order


@given(st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(1, 4)), min_size=1, max_size=40))
def test_the_more_urgent_runs_first_and_equals_in_order_of_arrival(deliveries: list[tuple[str, int]]) -> None:
    best: dict[str, int] = {}
    since: dict[str, int] = {}
    for number, (name, priority) in enumerate(deliveries):
        if priority > best.get(name, 0):
            best[name], since[name] = priority, number
    expected = sorted(best, key=lambda name: (-best[name], since[name]))
    assert asyncio.run(_in_order(deliveries)) == expected


def test_a_flood_of_polls_does_not_hold_up_a_users_change() -> None:
    flood = [(f"poll-{n}", 1) for n in range(5000)]
    order = asyncio.run(_in_order([*flood, ("user", 4)]))
    assert order[0] == "user"


@pytest.mark.parametrize(("delivered", "at_once"), [([Action.POLL], False), ([Action.UPDATE], True)])
def test_only_what_is_urgent_cuts_a_pause_short(delivered: list[Action], at_once: bool) -> None:
    async def story() -> None:
        world = World(random.Random(0))
        world.behaves = True
        fails: list[Awaitable[StepResult]] = []

        async def away(resource: ManagedResource) -> StepResult:
            fails.append(asyncio.sleep(0, StepResult(I.DOWN)))
            raise CloudError("neutron", "GET /", 503, "away")

        world.machine._steps[next(s for s in world.machine._steps if s.value == "CreateVM")] = away
        world.deliver("router-0", [Action.CREATE], 4, None)
        await world.advance(60.0)
        before = len(fails)
        world.deliver("router-0", delivered, 4 if at_once else 1, None)
        await world.settle()
        assert (len(fails) > before) is at_once
        for one in fails:
            await one

    asyncio.run(story())


def test_an_urgent_hint_that_comes_during_a_failing_run_is_not_left_to_the_timer() -> None:
    async def story() -> None:
        world = World(random.Random(0))
        world.behaves = True
        gate = asyncio.Event()

        async def slow(resource: ManagedResource) -> StepResult:
            if not gate.is_set():
                await gate.wait()
                raise CloudError("neutron", "GET /", 503, "away")
            return StepResult(I.BOOTING)

        world.machine._steps[next(s for s in world.machine._steps if s.value == "CreateVM")] = slow
        world.deliver("router-0", [Action.CREATE], 4, None)
        await world.settle()
        world.deliver("router-0", [Action.UPDATE], 4, None)
        gate.set()
        await world.settle()
        resource = world.dispatcher.get("router-0")
        assert resource is not None
        assert resource.state is I.CONFIGURED

    asyncio.run(story())
