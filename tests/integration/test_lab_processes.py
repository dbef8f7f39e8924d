"""The lab ends only what is its own, and finds what a killed lab left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import processes
from lab.layout import MARK, Layout, Plan, Ports

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")


@contextmanager
def sleeping(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, env={**os.environ, **environment}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_leftovers_are_found_by_the_lab_that_they_belong_to(tmp_path: Path):
    layout = Layout(tmp_path / "lab")
    with (
        sleeping(**{MARK: str(layout.home)}) as ours,
        sleeping(HOME=f"{layout.broker}/home") as broker,
        sleeping(**{MARK: str(tmp_path / "another")}) as another,
        sleeping(OS_CLIENT_CONFIG_FILE=str(layout.clouds)) as user,
    ):
        assert {identity.pid for identity in processes.marked(layout)} == {ours.pid, broker.pid}
        processes.end(processes.marked(layout), grace=10.0)
        assert (ours.wait(10), broker.wait(10)) == (-15, -15)
        assert (another.poll(), user.poll()) == (None, None)


def test_a_number_that_went_to_another_process_is_not_ours(tmp_path: Path):
    record = tmp_path / "supervisor.json"
    processes.record(record)
    assert processes.recorded(record) is not None
    started = processes.start_time(os.getpid())
    record.write_text(record.read_text().replace(str(started), str(started - 1)))
    assert processes.recorded(record) is None


def test_the_lab_moves_all_its_ports_when_one_is_taken(monkeypatch):
    monkeypatch.setattr("lab.layout._is_free", lambda port: port != 44250)
    plan = Plan.new("embedded")
    assert plan.offset == 100
    assert plan.api_url.endswith(":44350")
    assert len(set(Ports().all())) == len(Ports().all())


def test_the_plan_with_its_secrets_is_readable_by_its_owner_only(tmp_path: Path):
    layout = Layout(tmp_path)
    plan = Plan.new("embedded")
    layout.write_plan(plan)
    assert layout.read_plan() == plan
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o600
