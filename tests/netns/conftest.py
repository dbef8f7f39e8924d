"""Machines made of network namespaces. Only root can make those: without root these tests are not collected."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from wired_hosts import hosts, make_fabric

from lab.appliance_machine import Machine
from lab.wires import Fabric

__all__ = ["hosts"]

collect_ignore_glob = [] if os.geteuid() == 0 else ["test_*.py"]

fabric = pytest.fixture(make_fabric)


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
