"""One appliance for all tests of a file, plugged into the networks red (ge1) and blue (ge2).

It is as an appliance is that has lived for a while: each test finds what those before it left, with an empty
configuration. A test module takes it with `pytest_plugins = ("standing_appliance",)`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from lab.appliance_machine import Hosts, Machine
from lab.wires import Fabric

NETWORKS = ("red", "blue")


@pytest.fixture(scope="module")
def standing_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Fabric() as fabric:
        made = Machine(fabric, tmp_path_factory.mktemp("standing") / "appliance")
        try:
            for name in NETWORKS:
                made.plug(name)
            made.start()
            yield made
        finally:
            asyncio.run(made.close())


@pytest.fixture
async def machine(standing_machine: Machine) -> AsyncIterator[Machine]:
    """The appliance; it answers and does nothing."""
    await standing_machine.answers()
    await standing_machine.push({})
    yield standing_machine
    await standing_machine.close_session()


@pytest.fixture
def neighbours(standing_machine: Machine) -> Iterator[Hosts]:
    """Plain machines on its networks, for one test."""
    made = Hosts(standing_machine.fabric)
    yield made
    made.close()


@pytest.fixture
def said(standing_machine: Machine) -> "Said":
    """What the agent and its daemons say during a test."""
    return Said(standing_machine)


async def plug_again(machine: Machine, network: str) -> None:
    """Pull an interface out and put it in again, as a hypervisor may; the kernel gives it another index."""
    there = len((await machine.status())["interfaces"])
    machine.unplug(network)
    await machine.until(lambda status: len(status["interfaces"]) < there)
    machine.plug(network)
    await machine.until(lambda status: len(status["interfaces"]) == there and status["digest"] is not None)


class Said:
    """What is new in the appliance's log."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before = len(machine.log())

    def __call__(self) -> str:
        return self._machine.log()[self._before :]
