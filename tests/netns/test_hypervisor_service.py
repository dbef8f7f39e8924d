"""The hypervisor's service, asked as Nova's driver asks it: with the driver's own client."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lab.hypervisor.hypervisor import Hypervisor

ROOT = Path(__file__).resolve().parents[2]
PORT = {"id": "port-1", "network_id": "0b5c1c1e-0000-4000-8000-000000000001", "mac": "fa:16:3e:00:00:11", "mtu": 1450}


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """The client of the Nova driver; the rest of the driver needs Nova."""
    path = ROOT / "lab" / "nova_driver" / "astara_lab" / "client.py"
    specification = importlib.util.spec_from_file_location("nova_driver_client", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def serve(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.hypervisor", "--root", str(root), "serve"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "questions at" in process.stdout.readline()
    return process


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(number)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "h"
    Hypervisor(tmp_path / "h").close()


def test_a_machine_is_booted_plugged_stopped_and_destroyed_over_the_socket(root: Path, driver: ModuleType):
    service = serve(root)
    try:
        assert (root / "socket").stat().st_mode & 0o777 == 0o600
        ask = driver.Client(str(root / "socket")).ask
        ask("boot", machine_id="m1", name="web", ports=[], user_data=None)
        ask("attach", machine_id="m1", port=PORT)
        shown = {"id": "m1", "name": "web", "kind": "host", "state": "running", "ports": ["port-1"]}
        assert ask("machines") == [shown]
        ask("detach", machine_id="m1", port_id="port-1")
        ask("power", machine_id="m1", on=False)
        assert ask("machine", machine_id="m1") == shown | {"state": "off", "ports": []}
        assert "web boots as host m1" in ask("console", machine_id="m1")
        ask("destroy", machine_id="m1")
        assert ask("machines") == []
    finally:
        stop(service)


def test_machines_go_on_while_no_service_runs(root: Path, driver: ModuleType):
    service = serve(root)
    ask = driver.Client(str(root / "socket")).ask
    ask("boot", machine_id="m1", name="web", ports=[PORT], user_data=None)
    stop(service, signal.SIGKILL)
    with pytest.raises(driver.RefusedError):
        ask("machines")
    assert Hypervisor(root).run("m1", "true").returncode == 0
    service = serve(root)
    try:
        assert ask("machine", machine_id="m1")["state"] == "running"
        ask("reboot", machine_id="m1", hard=True)
    finally:
        stop(service)


def test_what_cannot_be_answered_is_said_and_the_service_goes_on(root: Path, driver: ModuleType):
    service = serve(root)
    try:
        ask = driver.Client(str(root / "socket")).ask
        with pytest.raises(driver.UnknownMachineError):
            ask("machine", machine_id="nobody")
        for verb, words, why in (
            ("dance", {}, "no verb"),
            ("reboot", {}, "machine_id"),
            ("boot", {"machine_id": "../x", "name": "x", "ports": [], "user_data": None}, "cannot be a machine's id"),
            ("boot", {"machine_id": "x", "name": "x", "ports": [], "user_data": "#cloud-config\n["}, "no cloud-config"),
        ):
            with pytest.raises(driver.RefusedError, match=why):
                ask(verb, **words)
        assert ask("machines") == []
    finally:
        stop(service)
