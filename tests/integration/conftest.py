"""Real servers that integration tests share: a RabbitMQ node of our own, and a scripted scheduler's entrance."""

from collections.abc import AsyncIterator, Iterator

import pytest
from scripted_ingest import ScriptedIngest

from lab.rabbitmq import MISSING, Ports, RabbitNode, installed


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node for the whole session; tests use names of their own on it."""
    if not installed():
        pytest.fail(MISSING, pytrace=False)
    with RabbitNode(tmp_path_factory.mktemp("rabbitmq"), Ports.free()) as node:
        yield node


@pytest.fixture
def rabbitmq(rabbitmq_node: RabbitNode) -> RabbitNode:
    """The node, running, whatever the test before did to it."""
    if len(rabbitmq_node.pids) < 2:
        rabbitmq_node.start()
    return rabbitmq_node


@pytest.fixture
async def ingest() -> AsyncIterator[ScriptedIngest]:
    """A scheduler's entrance that acks everything until told otherwise."""
    service = ScriptedIngest()
    await service.start()
    yield service
    await service.stop()
