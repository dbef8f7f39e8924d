"""What keeps running, and what never outlives its supervisor: real processes, real signals."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from patience import until

from lab import asking
from services.common.orchestrator import children
from services.common.supervisor import LONGEST_DELAY, Child, ChildError, Supervisor, restart_delay

PATIENT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


def python(code: str, name: str = "child", stage: int = 0) -> Child:
    return Child(name, (sys.executable, "-c", code), stage=stage)


@contextlib.asynccontextmanager
async def supervising(tmp_path: Path, *some: Child, grace: float = 20.0) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(log_dir=tmp_path / "log", run_dir=tmp_path / "run", grace=grace)
    for child in some:
        supervisor.start(child)
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def said_up(tmp_path: Path, times: int = 1, name: str = "child") -> None:
    log = tmp_path / "log" / f"{name}.log"
    while not log.exists() or log.read_text().count("up") < times:  # noqa: ASYNC110 - a process writes it
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_killed_child_is_started_again_at_once(tmp_path: Path):
    async with supervising(tmp_path, python(PATIENT)) as supervisor:
        await said_up(tmp_path)
        first = supervisor.pid("child")
        assert (tmp_path / "run" / "child.pid").read_text() == f"{first}\n"
        os.kill(first, signal.SIGKILL)
        await said_up(tmp_path, times=2)
        assert supervisor.pid("child") not in (None, first)
    assert not (tmp_path / "run" / "child.pid").exists()


def test_a_child_that_keeps_dying_waits_longer_each_time_but_never_long():
    delays = [restart_delay(failures) for failures in range(1, 20)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY


async def test_wrong_settings_end_everything_at_the_first_start(tmp_path: Path):
    async with supervising(tmp_path, python("raise SystemExit(2)"), python(PATIENT, "other")) as supervisor:
        with pytest.raises(ChildError, match="child refuses its settings"):
            await supervisor.run(asyncio.Event())
        assert supervisor.pid("other") is None


async def test_wrong_settings_after_a_first_failure_end_everything_too(tmp_path: Path):
    once = tmp_path / "once"
    code = (
        f"import pathlib, sys; p = pathlib.Path({str(once)!r}); sys.exit(2) if p.exists() else p.touch() or sys.exit(1)"
    )
    async with supervising(tmp_path, python(code)) as supervisor:
        with pytest.raises(ChildError, match="child refuses its settings"):
            await supervisor.run(asyncio.Event())


async def test_a_port_that_is_taken_for_a_while_ends_nothing(tmp_path: Path):
    """As by a connection to which the kernel gave it; the service listens as soon as it may."""
    config = tmp_path / "rpcapi.ini"
    with socket.create_server(("127.0.0.1", 0)) as away, socket.socket() as other:
        other.connect(away.getsockname())
        port = other.getsockname()[1]
        config.write_text(
            f"[rpcapi]\nauth = none\nlisten = 127.0.0.1\nport = {port}\ngrpc_listen = 127.0.0.1:0\n",
            encoding="utf-8",
        )
        api = Child("api", (sys.executable, "-m", "services.rpcapi", "--config-file", str(config)))
        async with supervising(tmp_path, api, python(PATIENT, "other")) as supervisor:
            running = asyncio.create_task(supervisor.run(asyncio.Event()))
            log = tmp_path / "log" / "api.log"
            await until(lambda: log.exists() and f"port {port}: Address already in use" in log.read_text())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
            await until(lambda: asking.listens(port))
            assert not running.done()
            assert "Traceback" not in log.read_text()
            running.cancel()


async def test_stages_are_stopped_in_order_and_the_deaf_are_killed(tmp_path: Path):
    order = []
    first, second = python(DEAF, "first", stage=0), python(PATIENT, "second", stage=1)
    async with supervising(tmp_path, first, second, grace=0.2) as supervisor:
        await said_up(tmp_path, name="first")
        await said_up(tmp_path, name="second")
        pids = {name: supervisor.pid(name) for name in ("first", "second")}
        stopping = asyncio.create_task(supervisor.stop())
        while not stopping.done():
            for name, pid in pids.items():
                if name not in order and gone(pid):
                    order.append(name)
            await asyncio.sleep(0)
        await stopping
    assert order[0] == "first"
    assert all(gone(pid) for pid in pids.values())


async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path):
    code = f"""
import asyncio, sys
from pathlib import Path
from services.common.supervisor import Child, Supervisor
async def main():
    supervisor = Supervisor(log_dir=Path({str(tmp_path)!r}) / "log", run_dir=Path({str(tmp_path)!r}) / "run")
    supervisor.start(Child("child", (sys.executable, "-c", {DEAF!r})))
    await supervisor.run(asyncio.Event())
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL)
    await said_up(tmp_path)
    child = int((tmp_path / "run" / "child.pid").read_text())
    parent.kill()
    await parent.wait()
    while not gone(child):  # noqa: ASYNC110 - another process ends
        await asyncio.sleep(0.01)


def test_the_tree_gives_every_worker_a_name_and_an_address_and_every_child_its_metrics_port():
    plan = children(["/etc/astara/orchestrator.ini"], 2, "127.0.0.1:44254", 9100)
    assert [child.name for child in plan] == [
        *("scheduler", "notifier", "health", "metadata", "rpcapi"),
        *("worker-1", "worker-2"),
    ]
    workers = [child.environment for child in plan if child.name.startswith("worker")]
    assert [entry["OS_WORKER__NAME"] for entry in workers] == ["worker-1", "worker-2"]
    assert [entry["OS_WORKER__LISTEN"] for entry in workers] == ["127.0.0.1:44254", "127.0.0.1:44264"]
    assert [child.environment["OS_METRICS__PORT"] for child in plan] == [str(9100 + index) for index in range(7)]
    assert all(child.command[-2:] == ("--config-file", "/etc/astara/orchestrator.ini") for child in plan)
    stages = {child.name: child.stage for child in plan}
    assert stages["worker-1"] < stages["rpcapi"] < stages["scheduler"]


async def test_the_orchestrator_says_which_file_it_cannot_read_and_ends():
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.common.orchestrator", "--config-file", "/nowhere/orchestrator.ini"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, words = await run.communicate()
    assert run.returncode == 2
    assert b"/nowhere/orchestrator.ini: no such file" in words
