"""Machines made of network namespaces. These tests need root and Debian's nftables, dnsmasq, bird2 and iproute2."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from appliance_machine import Hosts, Machine

from lab.wires import Fabric


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
