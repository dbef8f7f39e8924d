"""Runs one resource's state machine: from its inbox to the next return to CalcAction.

True at all times: at most one run of a resource is under way; what a run took from the inbox is in `hand` until it is
done or merged back; before every step the guard is asked whether this worker still owns the resource. A step answers
with the state in which it leaves the instance, and perhaps a time to come back; `states.TABLE` says what follows. A
step that raises ends the run in `_failed`, the one place that decides whether and when it is tried again.
"""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from astara.resource.v1 import resource_pb2 as pb
from prometheus_client import Counter

from services.common import logging
from services.common.clock import Clock

from .errors import LostOwnershipError, StaleEpochError, StepError
from .inbox import BITS, Inbox
from .resource import ManagedResource
from .states import Action, InstanceState, State, following

_log = logging.get(__name__)
_RUNS = Counter("astara_worker_runs", "Runs of state machines", ["outcome"])
_STEPS = Counter("astara_worker_steps", "Steps of state machines", ["step"])

ANSWERING = frozenset({InstanceState.UP, InstanceState.CONFIGURED, InstanceState.REPLUG})
"""States in which an instance is asked whether it lives."""

_MOST_STEPS = 16  # in one run; the longest useful one has seven


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step left the instance. `wait`: come back to it after so many seconds."""

    state: InstanceState
    wait: float | None = None


class UnclaimedError(Exception):
    """The resource is not ours to manage."""


class Driver(Protocol):
    """What the states do, for one kind of resource. Every method may raise StepError."""

    async def observe(self, resource: ManagedResource) -> StepResult:
        """Find out in which state the instance is, when nobody knows."""
        ...

    async def is_deleted(self, resource: ManagedResource) -> bool:
        """Whether a DELETE event speaks the truth."""
        ...

    async def refuses_rebuild(self, image_id: str) -> str:
        """Why an instance could not be booted from this image, in words; empty when it could."""
        ...

    async def alive(self, resource: ManagedResource) -> StepResult:
        """State ALIVE."""
        ...

    async def create(self, resource: ManagedResource) -> StepResult:
        """State CREATE_VM."""
        ...

    async def check_boot(self, resource: ManagedResource) -> StepResult:
        """State CHECK_BOOT."""
        ...

    async def configure(self, resource: ManagedResource) -> StepResult:
        """State CONFIGURE_VM."""
        ...

    async def replug(self, resource: ManagedResource) -> StepResult:
        """State REPLUG_VM."""
        ...

    async def stop(self, resource: ManagedResource, *, forever: bool) -> StepResult:
        """States STOP_VM and REBUILD_VM; `forever` removes the ports too."""
        ...

    async def read_stats(self, resource: ManagedResource) -> None:
        """State STATS."""
        ...

    async def tell(self, resource: ManagedResource) -> None:
        """Tell the cloud's users in which state it is; never raises."""
        ...


class Observer(Protocol):
    """Who is told what machines do."""

    def changed(self, resource: ManagedResource) -> None:
        """Something that the status report says has changed."""
        ...

    def operation(self, resource: ManagedResource, operation_id: str, state: int, message: str) -> None:
        """An operator's command moved, for this resource."""
        ...

    def happened(self, resource: ManagedResource, kind: str, text: str) -> None:
        """A line for the resource's history."""
        ...


class Outcome(enum.Enum):
    """How a run ended."""

    DONE = "done"
    COME_BACK = "come_back"  # work is in the inbox again; look at `delay`
    FORGET = "forget"  # the resource is gone or not ours
    LOST = "lost"  # this worker may not act for it now; work is in the inbox again


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, and in how many seconds to come back."""

    outcome: Outcome
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds of the first and the longest pause between tries of a failing step; `outage`: while the cloud fails."""

    first: float
    last: float
    outage: float = 60.0

    def delay(self, failures: int, jitter: float, *, outage: bool = False) -> float:
        """Pause after the given number of failures in a row, at least 1. `jitter`, 0 to 1, lengthens it by up to a
        quarter; in an outage also the longest one, or all would come back at once.
        """
        doubled: float = self.first * 2.0 ** min(failures - 1, 30)
        spread = 1.0 + 0.25 * jitter
        most = min(self.last, self.outage * spread) if outage else self.last
        return min(most, doubled * spread)


class Machine:
    """The state machines of all resources of one kind: the code is shared, the memory is in the resources."""

    def __init__(
        self,
        driver: Driver,
        observer: Observer,
        guard: Callable[[ManagedResource], bool],
        clock: Clock,
        new_id: Callable[[], str],
        retry: RetryPolicy,
    ) -> None:
        self._driver = driver
        self._observer = observer
        self._guard = guard
        self._clock = clock
        self._new_id = new_id
        self._retry = retry
        self._steps: dict[State, Callable[[ManagedResource], Awaitable[StepResult]]] = {
            State.ALIVE: driver.alive,
            State.CREATE_VM: driver.create,
            State.CHECK_BOOT: driver.check_boot,
            State.CONFIGURE_VM: driver.configure,
            State.REPLUG_VM: driver.replug,
            State.STOP_VM: self._stop,
            State.REBUILD_VM: self._rebuild,
            State.CLEAR_ERROR: self._clear_error,
            State.STATS: self._stats,
        }

    async def run(self, resource: ManagedResource) -> RunResult:
        """One run. The inbox must not be empty."""
        resource.hand = resource.inbox.take()
        resource.reconcile_id = self._new_id()
        resource.retry_at = None
        try:
            result = await self._walk(resource, resource.hand)
        except (LostOwnershipError, StaleEpochError) as error:
            resource.inbox.merge(resource.hand)
            _log.info("stopped acting", resource=resource.resource_id, reason=str(error))
            result = RunResult(Outcome.LOST)
        except UnclaimedError as error:
            self._finish(resource, resource.hand, pb.OPERATION_STATE_FAILED, str(error))
            result = RunResult(Outcome.FORGET)
        except StepError as error:
            result = self._failed(resource, resource.hand, error)
        except Exception as error:  # a fault of ours must not end the others' machines
            _log.exception("a step has a fault", resource=resource.resource_id, step=_name(resource.step))
            result = self._failed(resource, resource.hand, StepError(f"internal fault: {error!r}"))
        finally:
            resource.hand = resource.step = resource.status = None
        _RUNS.labels(result.outcome.value).inc()
        if result.outcome is not Outcome.FORGET:
            self._observer.changed(resource)
            if self._guard(resource):
                await self._driver.tell(resource)
        return result

    async def _walk(self, resource: ManagedResource, hand: Inbox) -> RunResult:
        held = self._held(resource)
        if held and resource.state not in ANSWERING:
            return self._come_back(resource, hand, held)
        early = await self._prepare(resource, hand)
        if early is not None:
            return early
        action, instance = hand.action(), resource.state
        if action is None or instance is None:
            raise ValueError(f"{resource.resource_id}: a run with nothing to do")
        step = following(State.CALC_ACTION, action, instance)
        steps = 0
        while step not in (State.CALC_ACTION, State.EXIT):
            if held and step is not State.ALIVE:
                # Health goes before configuration: in the pause after a failure the instance is still looked at, and
                # its death ends the pause.
                if resource.step is not State.ALIVE or step not in (State.STOP_VM, State.CHECK_BOOT):
                    return self._come_back(resource, hand, held)
                held, resource.hold_until = 0.0, None
            steps += 1
            if steps > _MOST_STEPS:
                raise StepError(f"{steps} steps without an end, the last was {step.value} in {resource.state}")
            resource.step = step
            if not self._guard(resource):
                raise LostOwnershipError("this worker may not act for it now")
            _STEPS.labels(step.value).inc()
            result = await self._steps[step](resource)
            self._moved(resource, result.state)
            # A boot or a read inside the step may have settled what was wanted.
            action = hand.action() or Action.UPDATE
            if result.wait is not None:
                return self._come_back(resource, hand, result.wait)
            if step is State.CLEAR_ERROR:
                step = following(State.CALC_ACTION, action, result.state)
            else:
                step = following(step, action, result.state)
        resource.hold_until = None
        if step is State.EXIT:
            self._finish(resource, hand, pb.OPERATION_STATE_SUCCEEDED, "the resource is deleted")
            return RunResult(Outcome.FORGET)
        return self._done(resource, hand)

    async def _prepare(self, resource: ManagedResource, hand: Inbox) -> RunResult | None:
        """What CalcAction must know before the table can decide; a RunResult when there is nothing to do now."""
        for operation_id in hand.drop_unknown():
            text = "this worker does not know commands of this kind"
            self._observer.operation(resource, operation_id, pb.OPERATION_STATE_FAILED, text)
        if not hand:
            return RunResult(Outcome.DONE)
        for operation in hand.operations.values():
            self._observer.operation(resource, operation.operation_id, pb.OPERATION_STATE_RUNNING, "")
        await self._refuse_hopeless_rebuilds(resource, hand)
        if not hand:
            return RunResult(Outcome.DONE)
        deleted = bool(hand.actions & BITS[Action.DELETE])
        if resource.state is InstanceState.ERROR and not hand.operations and not deleted:
            remaining = (resource.cooling_until or 0.0) - self._clock.lease()
            if remaining > 0:
                return self._come_back(resource, hand, remaining)
        if deleted:
            if not self._guard(resource):
                raise LostOwnershipError("this worker may not act for it now")
            if not await self._driver.is_deleted(resource):
                # Events are hints: this one was wrong, or the id lives again.
                hand.actions = hand.actions & ~BITS[Action.DELETE] | BITS[Action.UPDATE]
        if resource.state is None:
            fresh = hand.action() is Action.CREATE and not hand.operations
            # A resource that was just created has no instance: creating the management port would say so (409).
            result = StepResult(InstanceState.DOWN) if fresh else await self._driver.observe(resource)
            self._moved(resource, result.state)
        if resource.instance is not None:
            # A rebuild whose id is on the running server has been done, perhaps by another worker.
            hand.settle_rebuilds(resource.instance.operation_id)
        return None

    def _held(self, resource: ManagedResource) -> float:
        """Seconds until a failed step may be tried again."""
        return max(0.0, (resource.hold_until or 0.0) - self._clock.lease())

    async def _stop(self, resource: ManagedResource) -> StepResult:
        gone = resource.state is InstanceState.GONE or bool(resource.hand and resource.hand.action() is Action.DELETE)
        return await self._driver.stop(resource, forever=gone)

    async def _refuse_hopeless_rebuilds(self, resource: ManagedResource, hand: Inbox) -> None:
        """A command that names an image from which nothing boots must not cost the instance that runs."""
        for operation in hand.rebuilds():
            if operation.image_id and (reason := await self._driver.refuses_rebuild(operation.image_id)):
                del hand.operations[operation.operation_id]
                self._observer.operation(resource, operation.operation_id, pb.OPERATION_STATE_FAILED, reason)
                self._observer.happened(resource, "command", f"rebuild refused: {reason}")

    async def _rebuild(self, resource: ManagedResource) -> StepResult:
        return await self._driver.stop(resource, forever=False)

    async def _clear_error(self, resource: ManagedResource) -> StepResult:
        resource.attempts = 0
        resource.cooling_until = None
        resource.forgive()
        return await self._driver.observe(resource)

    async def _stats(self, resource: ManagedResource) -> StepResult:
        await self._driver.read_stats(resource)
        return StepResult(resource.state or InstanceState.CONFIGURED)

    def _moved(self, resource: ManagedResource, state: InstanceState) -> None:
        if state is not resource.state:
            before, now = resource.state.value if resource.state else "unknown", state.value
            resource.state, resource.since = state, self._clock.wall()
            if before == "unknown" and state is InstanceState.DOWN:
                # Nothing found where nothing was known is no news, and of a router of others it is all that there is.
                return
            _log.info("state", resource=resource.resource_id, before=before, now=now, run=resource.reconcile_id)
            self._observer.happened(resource, "state", f"{before} to {now}")
        self._observer.changed(resource)

    def _come_back(self, resource: ManagedResource, hand: Inbox, delay: float) -> RunResult:
        resource.inbox.merge(hand)
        return RunResult(Outcome.COME_BACK, delay)

    def _done(self, resource: ManagedResource, hand: Inbox) -> RunResult:
        if resource.state is InstanceState.CONFIGURED:
            resource.attempts = resource.cooldowns = 0
            resource.forgive()
            resource.failed("", "")
            self._finish(resource, hand, pb.OPERATION_STATE_SUCCEEDED, "")
        elif resource.state is InstanceState.ERROR:
            self._finish(resource, hand, pb.OPERATION_STATE_FAILED, resource.last_error)
            resource.inbox.add(Action.UPDATE, _timer_priority(hand))
            return RunResult(Outcome.COME_BACK, max(0.0, (resource.cooling_until or 0.0) - self._clock.lease()))
        else:
            # No state to rest in: whatever led here, the work is not done.
            resource.failures += 1
            return self._come_back(resource, hand, self._retry.delay(resource.failures, resource.jitter()))
        return RunResult(Outcome.DONE)

    def _failed(self, resource: ManagedResource, hand: Inbox, error: StepError) -> RunResult:
        """The one place that decides what follows a failure."""
        reason, retry = str(error), error.retry
        now = self._clock.lease()
        left = (resource.paused_until or now) - now
        if left <= 0:
            resource.failures += 1
        resource.failed(reason, error.public)
        delay = self._retry.last
        if retry:
            delay = self._retry.delay(resource.failures, resource.jitter(), outage=error.outage)
            # What cut a pause short, a user's change, is no reason to make it longer.
            delay = min(delay, left) if left > 0 else delay
        resource.hold_until = resource.paused_until = now + delay
        _log.warning(
            "a step failed", resource=resource.resource_id, step=_name(resource.step), reason=reason,
            failures=resource.failures, again_in=round(delay, 1), run=resource.reconcile_id,
        )  # fmt: skip
        self._observer.happened(resource, "error", reason)
        if retry:
            resource.inbox.merge(hand)
        else:
            self._finish(resource, hand, pb.OPERATION_STATE_FAILED, reason)
            resource.inbox.add(Action.UPDATE, _timer_priority(hand))
        return RunResult(Outcome.COME_BACK, delay)

    def _finish(self, resource: ManagedResource, hand: Inbox, state: int, message: str) -> None:
        for operation_id in hand.operations:
            self._observer.operation(resource, operation_id, state, message)


def _timer_priority(hand: Inbox) -> int:
    """The priority with which a resource comes back by its timer: never above resync, whatever began it."""
    return min(hand.priority, 1) or 1


def _name(step: State | None) -> str:
    return step.value if step is not None else ""
