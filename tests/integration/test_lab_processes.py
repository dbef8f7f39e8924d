"""The lab ends only what is its own, and finds what a killed lab left behind."""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import processes
from lab.layout import MARK, Layout, Plan, Ports
from lab.ports import free_port

ROOT = Path(__file__).parents[2]

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


def test_processes_that_ask_side_by_side_get_different_ports():
    # They begin at the same one.
    code = (
        "import itertools; from lab import ports; ports._candidates = itertools.cycle(ports._RANGE);"
        "print(*(ports.free_port() for _ in range(50)), flush=True); input()"
    )
    command = (sys.executable, "-c", code)
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    try:
        lines = [one.stdout.readline() for one in both if one.stdout]
    finally:
        for one in both:
            one.communicate("\n")
    ports = [int(word) for line in lines for word in line.split()]
    assert len(set(ports)) == len(ports) == 100


def test_a_port_on_which_somebody_listens_is_passed_over(monkeypatch):
    taken, free = free_port(), free_port()
    monkeypatch.setattr("lab.ports._candidates", itertools.cycle([taken, free]))
    with socket.create_server(("127.0.0.1", taken)):
        assert [free_port(), free_port()] == [free, free]


def test_the_plan_with_its_secrets_is_readable_by_its_owner_only(tmp_path: Path):
    layout = Layout(tmp_path)
    plan = Plan.new("embedded")
    layout.write_plan(plan)
    assert layout.read_plan() == plan
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o600
