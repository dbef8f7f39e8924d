"""What the agent tells systemd."""

import asyncio
import socket

import pytest
from astara_appliance.supervisor import Supervisor


@pytest.fixture
def heard(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind(str(tmp_path / "notify"))
        own.settimeout(30)
        yield own


async def test_it_hears_that_the_agent_is_ready_lives_and_ends(heard):
    supervisor = Supervisor({"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "2000"})
    supervisor.ready()
    alive = asyncio.create_task(supervisor.keep_alive())
    told = [await asyncio.to_thread(heard.recv, 100) for _ in range(4)]
    alive.cancel()
    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]


async def test_one_in_the_abstract_namespace_is_found():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        name = own.getsockname().decode()
        Supervisor({"NOTIFY_SOCKET": name.replace("\0", "@")}).stopping()
        own.settimeout(30)
        assert own.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000"}])
async def test_where_nobody_listens_nothing_is_missing(environment):
    supervisor = Supervisor(environment)
    supervisor.ready()
    alive = asyncio.create_task(supervisor.keep_alive())
    await asyncio.sleep(0)
    assert not alive.done()
    alive.cancel()
