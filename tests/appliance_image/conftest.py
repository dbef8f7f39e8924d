"""The built image, and one virtual machine of it that all tests share. Needs root."""

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from authority import Authority
from virtual_machine import VirtualMachine
from wired_hosts import hosts, make_fabric

from lab import packages
from lab.wires import Fabric

__all__ = ["hosts"]

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "build" / "astara-appliance.qcow2"
SOURCES = ("appliance", "constraints.txt", "pyproject.toml", "setup.py")


@pytest.fixture(scope="session")
def image() -> Path:
    """The image, built where it is missing or older than what it is made from."""
    assert packages.ensure_virtual_programs() == []
    files = (file for name in SOURCES for file in [ROOT / name, *(ROOT / name).rglob("*")])
    newest = max(file.stat().st_mtime for file in files if file.is_file() and "__pycache__" not in file.parts)
    if not IMAGE.exists() or IMAGE.stat().st_mtime < newest:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        subprocess.run(("make", "appliance-image"), cwd=ROOT, env=environment, check=True, timeout=3600)
    return IMAGE


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


fabric = pytest.fixture(scope="session")(make_fabric)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def booted(
    fabric: Fabric, image: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VirtualMachine]:
    """An appliance that answers, plugged into the networks `ext` and `private`."""
    machine = VirtualMachine(fabric, tmp_path_factory.mktemp("appliance") / "machine", image, authority)
    try:
        for name in ("ext", "private"):
            machine.plug(name)
        machine.start()
        await machine.answers()
        yield machine
    finally:
        await machine.close()
