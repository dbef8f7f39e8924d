"""How long a resource waits after a failure: longer after each, but not for what its users do meanwhile."""

from collections.abc import Iterator
from itertools import count
from unittest import mock

import pytest
from astara.resource.v1 import resource_pb2 as pb

from services.common.clock import ManualClock
from services.worker.errors import ApplianceError, CloudError, RejectedError, StepError
from services.worker.machine import Driver, Machine, Outcome, RetryPolicy, StepResult
from services.worker.resource import ManagedResource
from services.worker.states import Action, InstanceState

AWAY = CloudError("nova", "POST /servers", 0, "timed out")


class Even(RetryPolicy):
    """Without jitter."""

    def delay(self, failures: int, jitter: float, *, outage: bool = False) -> float:
        return super().delay(failures, 0.0, outage=outage)


class Trial:
    """A resource that is configured, and whose configuration fails."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.driver = mock.AsyncMock(spec=Driver)
        self.driver.alive.return_value = StepResult(InstanceState.UP)
        ids: Iterator[int] = count()
        self.machine = Machine(
            self.driver, mock.Mock(), lambda _: True, self.clock, lambda: str(next(ids)), Even(2.0, 1800.0, 60.0)
        )
        self.resource = ManagedResource("r", "t", pb.RESOURCE_KIND_ROUTER, 0, state=InstanceState.UP)

    async def fails(self, error: StepError = AWAY, *, hurried: bool = False) -> float:
        """One run that fails; `hurried`: a user's change ended the pause. Answers with the pause that follows."""
        self.driver.configure.side_effect = error
        self.resource.inbox.add(Action.UPDATE, 2)
        if hurried:
            self.resource.hold_until = None
        result = await self.machine.run(self.resource)
        assert result.outcome is Outcome.COME_BACK
        return result.delay


async def test_pauses_double_and_in_an_outage_end_at_its_own_limit() -> None:
    trial = Trial()
    pauses = []
    for _ in range(8):
        pauses.append(await trial.fails())
        trial.clock.advance(pauses[-1])
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert await trial.fails(ApplianceError("broken")) == 512


@pytest.mark.parametrize("status", [0, 401, 403, 500, 503])
async def test_what_ends_for_all_at_once_is_an_outage(status: int) -> None:
    trial = Trial()
    trial.resource.failures = 20
    assert await trial.fails(CloudError("neutron", "GET /routers", status, "x")) == 60


async def test_what_is_the_routers_own_trouble_is_none() -> None:
    trial = Trial()
    trial.resource.failures = 20
    assert await trial.fails(CloudError("nova", "POST /servers", 400, "no such zone")) == 1800


async def test_changes_in_a_pause_are_tried_and_make_it_neither_longer_nor_later() -> None:
    trial = Trial()
    for _ in range(4):
        trial.clock.advance(await trial.fails())
    assert await trial.fails() == 32
    for passed in (10, 20, 30):
        trial.clock.advance(10)
        assert await trial.fails(hurried=True) == 32 - passed
    assert trial.resource.failures == 5
    trial.clock.advance(2)
    assert await trial.fails() == 60


async def test_after_a_refusal_a_change_is_tried_again_soon() -> None:
    trial = Trial()
    assert await trial.fails(RejectedError("hostname: too long")) == 1800
    assert await trial.fails(hurried=True) == 2
    trial.clock.advance(2)
    assert await trial.fails() == 4
