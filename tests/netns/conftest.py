"""Machines made of network namespaces. Only root can make those: without root these tests are not collected."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.appliance_machine import Hosts, Machine
from lab.wires import Fabric

collect_ignore_glob = [] if os.geteuid() == 0 else ["test_*.py"]


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with Fabric() as made:
        yield made


@pytest.fixture
def hosts(fabric: Fabric) -> Iterator[Hosts]:
    made = Hosts(fabric)
    yield made
    made.close()


@pytest.fixture
async def appliance(fabric: Fabric, tmp_path: Path) -> AsyncIterator[Machine]:
    """An appliance that answers; nothing is pushed yet."""
    machine = Machine(fabric, tmp_path / "appliance")
    try:
        machine.start()
        await machine.answers()
        yield machine
    finally:
        await machine.close()
