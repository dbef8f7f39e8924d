"""`make up` and `make demo` as root: a tenant's packets go through its router, labs do not collide, nothing is left."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes
from lab.hypervisor.hypervisor import Hypervisor
from lab.layout import MARK, Layout

pytestmark = pytest.mark.timeout(300)


def lab(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, MARK: str(home), "COLUMNS": "200"}
    command = (sys.executable, "-m", "lab", *words)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def made(prefix: str) -> set[str]:
    """Namespaces and devices of this machine that belong to the hypervisor with this prefix."""
    names = {path.name for path in Path("/run/netns").iterdir()} | set(dict(socket.if_nameindex()).values())
    return {name for name in names if name.startswith((prefix, f"mgt-{prefix[-6:]}"))}


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Path]]:
    folders = [tmp_path / "one", tmp_path / "two"]
    yield folders
    for folder in folders:
        lab(folder, "down")


def test_two_labs_move_packets_side_by_side_and_leave_nothing(homes: list[Path]):
    for home in homes:
        up = lab(home, "up", "--servers", "namespaces", "--broker", "embedded")
        assert up.returncode == 0, up.stdout + up.stderr
    first, second = (Layout(home) for home in homes)
    assert first.read_plan().management_cidr != second.read_plan().management_cidr
    prefixes = [Hypervisor(layout.hypervisor).prefix for layout in (first, second)]
    # The switch, the router and the host outside, and two appliances; and the way from here to the management network.
    assert [len(made(prefix)) for prefix in prefixes] == [6, 6]
    demo = lab(homes[0], "demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for shown in ("metadata from http://169.254.169.254", "the Internet sees the router's address", "both ways",
                  "learnt the tenant's network by BGP", "packets flow again"):  # fmt: skip
        assert shown in demo.stdout
    # One of them ends as it should, the other's processes are killed all at once.
    assert lab(homes[1], "down").stdout == "The lab is down.\n"
    supervisor = processes.recorded(first.supervisor)
    assert supervisor is not None
    supervisor.signal(signal.SIGKILL)
    for identity in processes.marked(first):
        identity.signal(signal.SIGKILL)
    assert "The lab is down" in lab(homes[0], "down").stdout
    assert [made(prefix) for prefix in prefixes] == [set(), set()]
    assert processes.marked(first) == []
    assert not any(home.exists() for home in homes)
