"""Fixtures for tests of machines on wires: the wires, for a test or a whole run, and hosts on them for a test."""

from collections.abc import Iterator

import pytest

from lab.appliance_machine import Hosts
from lab.wires import Fabric


def make_fabric() -> Iterator[Fabric]:
    """What a fixture `fabric` does, of whatever scope."""
    with Fabric() as made:
        yield made


@pytest.fixture
def hosts(fabric: Fabric) -> Iterator[Hosts]:
    """Hosts that go with the test."""
    made = Hosts(fabric)
    yield made
    made.close()
