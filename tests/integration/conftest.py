"""Real servers that integration tests share: RabbitMQ and MariaDB of our own, and a scripted scheduler's entrance."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mariadb_running import MISSING as NO_MARIADB
from mariadb_running import MariaDb, private_mariadb
from mariadb_running import installed as has_mariadb
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


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDb]:
    """A server for the whole session; each test has a database of its own on it."""
    if not has_mariadb():
        pytest.fail(NO_MARIADB, pytrace=False)
    with private_mariadb() as server:
        yield server


@pytest.fixture
def mariadb(mariadb_server: MariaDb) -> MariaDb:
    """The server, running, whatever the test before did to it."""
    if not mariadb_server.running:
        mariadb_server.start()
    return mariadb_server


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database of each kind that the scheduler works with."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/scheduler.db"
    return request.getfixturevalue("mariadb").new_database()
