"""Daemons live their own lives: they outlive the agent, are found again, and come back when they die."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from astara_appliance.backend import BackendError
from astara_appliance.linux.daemon import Daemon, pid_file


def daemon_in(folder: Path, *more: str) -> Daemon:
    """A dnsmasq that listens nowhere."""
    file = pid_file("quiet", folder)
    return Daemon(
        "quiet", ("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root",
                  f"--pid-file={file}", *more), folder,
    )  # fmt: skip


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def is_running(pid: int) -> bool:
    return exists(pid) and b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()


async def until_other_than(daemon: Daemon, pid: int | None) -> int:
    async with asyncio.timeout(90):
        while daemon.pid in (None, pid):  # noqa: ASYNC110 - the daemon sets no event
            await asyncio.sleep(0.01)
    assert daemon.pid is not None
    return daemon.pid


@pytest.fixture
async def daemon(tmp_path):
    made = daemon_in(tmp_path)
    await made.start()
    yield made
    made.adopt()
    await made.stop()


async def test_it_runs_in_a_session_of_its_own_and_stays_when_the_agent_ends(daemon):
    pid = daemon.pid
    assert os.getsid(pid) == pid != os.getsid(0)
    daemon.close()
    assert is_running(pid)


async def test_the_next_agent_takes_charge_of_what_runs(daemon, tmp_path):
    pid = daemon.pid
    daemon.close()
    later = daemon_in(tmp_path)
    assert later.adopt()
    assert later.pid == pid
    await later.stop()
    assert not is_running(pid)


async def test_it_is_found_by_its_command_line_when_its_note_is_lost(daemon, tmp_path):
    pid = daemon.pid
    daemon.close()
    (tmp_path / "quiet.started").unlink()
    later = daemon_in(tmp_path)
    assert later.adopt()
    assert later.pid == pid
    await later.stop()


@pytest.mark.parametrize("note", ["{own} 1", "1 1", "999999999 5", "nonsense", ""])
async def test_a_note_that_names_another_process_is_not_believed(tmp_path, note):
    (tmp_path / "quiet.started").write_text(note.format(own=os.getpid()))
    daemon = daemon_in(tmp_path)
    assert not daemon.adopt()
    assert daemon.pid is None


async def test_one_of_an_older_version_runs_until_the_new_one_is_started(daemon, tmp_path):
    pid = daemon.pid
    daemon.close()
    other = daemon_in(tmp_path, "--no-ident")
    assert not other.adopt()
    assert is_running(pid)
    await other.start()
    assert not is_running(pid)
    assert is_running(other.pid)
    await other.stop()


async def test_one_that_is_killed_comes_back_and_the_log_says_so(daemon, caplog):
    caplog.set_level(logging.WARNING)
    killed = daemon.pid
    os.kill(killed, signal.SIGKILL)
    assert is_running(await until_other_than(daemon, killed))
    assert f"quiet: process {killed} was ended by signal 9; it is started again" in caplog.text


async def test_one_that_an_earlier_agent_started_comes_back_too(daemon, tmp_path):
    killed = daemon.pid
    daemon.close()
    later = daemon_in(tmp_path)
    assert later.adopt()
    os.kill(killed, signal.SIGKILL)
    await until_other_than(later, killed)
    await later.stop()


async def test_one_that_dies_again_and_again_is_started_more_and_more_slowly(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("astara_appliance.linux.daemon.FIRST_PAUSE", 0.01)
    daemon = daemon_in(tmp_path)
    await daemon.start()
    pid = None
    for _ in range(4):
        pid = await until_other_than(daemon, pid)
        os.kill(pid, signal.SIGKILL)
    await until_other_than(daemon, pid)
    await daemon.stop()
    pauses = [record.args[2] for record in caplog.records if "started again" in record.message]
    assert pauses == [0.01, 0.02, 0.04, 0.08]


async def test_stopping_waits_until_it_is_gone_and_nothing_brings_it_back(daemon, tmp_path):
    pid = daemon.pid
    await daemon.stop()
    assert not exists(pid)
    assert daemon.pid is None
    assert not list(tmp_path.iterdir())


async def test_stopping_one_that_waits_to_be_started_again_ends_the_waiting(daemon, monkeypatch):
    monkeypatch.setattr("astara_appliance.linux.daemon.FIRST_PAUSE", 3_600.0)
    os.kill(daemon.pid, signal.SIGKILL)
    async with asyncio.timeout(90):
        while daemon.pid is not None:  # noqa: ASYNC110 - the daemon sets no event
            await asyncio.sleep(0.01)
    await daemon.stop()
    await daemon.start()
    assert is_running(daemon.pid)


async def test_one_that_does_not_end_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr("astara_appliance.linux.daemon.GRACE", 0.1)
    script = tmp_path / "stubborn"
    script.write_text('trap "" TERM\necho $$ > "$1"\nwhile :; do sleep 0.01; done\n')
    daemon = Daemon("stubborn", ("sh", str(script), str(pid_file("stubborn", tmp_path))), tmp_path)
    await daemon.start()
    pid = daemon.pid
    await daemon.stop()
    assert not exists(pid)


async def test_one_that_refuses_to_start_is_an_error_and_is_not_tried_again(tmp_path):
    daemon = daemon_in(tmp_path, "--no-such-option")
    with pytest.raises(BackendError, match="quiet ended at its start"):
        await daemon.start()
    assert daemon.pid is None


async def test_a_program_that_is_not_installed_is_an_error(tmp_path):
    daemon = Daemon("missing", ("no-such-program",), tmp_path)
    with pytest.raises(BackendError, match="there is no no-such-program"):
        await daemon.start()


async def test_reloading_keeps_the_process_and_starts_one_that_is_gone(daemon):
    pid = daemon.pid
    await daemon.reload()
    assert daemon.pid == pid
    await daemon.stop()
    await daemon.reload()
    assert is_running(daemon.pid)


async def test_one_that_ran_long_is_started_again_without_delay(daemon, monkeypatch, caplog):
    monkeypatch.setattr("astara_appliance.linux.daemon.STEADY_AFTER", 0.0)
    daemon._failures = 20
    killed = daemon.pid
    os.kill(killed, signal.SIGKILL)
    await until_other_than(daemon, killed)
    assert "it is started again in 0.1 s" in caplog.text
