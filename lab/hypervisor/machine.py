"""What a machine is, and the folder in which it lives.

The folder is the machine's disk and the hypervisor's whole memory of it, so any process may go on where another left
off:

    machine.json    what it is, its wires, its process
    console.log     what it wrote on its console
    etc/            /etc/astara in the machine; survives a reboot
    lib/            /var/lib/astara in the machine; survives a reboot
    private/        where the machine keeps its own view of /etc and /var/lib; empty outside of it
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from lab.processes import Identity

from .userdata import BOOT_FILE, File

Kind = Literal["appliance", "host"]
State = Literal["running", "off", "crashed"]

MOST_CONSOLE = 2**20
"""Bytes of a console that a boot keeps."""


@dataclass(frozen=True)
class Port:
    """A port of Neutron: what a hypervisor needs of it."""

    id: str
    network_id: str
    mac: str
    mtu: int = 1500


@dataclass(frozen=True)
class Wire:
    """A port that is plugged: the device in the machine, and the other end on the network's bridge."""

    port: Port
    device: str
    end: str


@dataclass(frozen=True)
class Machine:
    """A server. `is_on` says whether somebody wants it to run.

    `process` is its PID 1 as the hypervisor sees it, `keeper` the process that waits for its end.
    """

    id: str
    name: str
    files: tuple[File, ...] = ()
    ports: tuple[Port, ...] = ()
    """The ports with which it boots; in the order in which its kernel finds them."""
    wires: tuple[Wire, ...] = ()
    is_on: bool = False
    process: Identity | None = None
    keeper: Identity | None = None

    @property
    def kind(self) -> Kind:
        """An appliance when its user data made it one."""
        return "appliance" if any(file.path == BOOT_FILE for file in self.files) else "host"

    @property
    def state(self) -> State:
        """Whether it runs."""
        if self.process is not None and self.process.alive():
            return "running"
        return "crashed" if self.is_on else "off"


@dataclass(frozen=True)
class Folder:
    """A machine's folder."""

    path: Path
    definition: Path = field(init=False)
    console: Path = field(init=False)
    etc: Path = field(init=False)
    lib: Path = field(init=False)
    private: Path = field(init=False)

    def __post_init__(self) -> None:
        names = {"definition": "machine.json", "console": "console.log", "etc": "etc", "lib": "lib"}
        for attribute, name in (*names.items(), ("private", "private")):
            object.__setattr__(self, attribute, self.path / name)

    def make(self) -> None:
        """Make it. Nobody else looks into it: its files may hold secrets of the machine."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.etc, self.lib, self.private):
            folder.mkdir(exist_ok=True)

    def read(self) -> Machine | None:
        """The machine; None when there is none."""
        try:
            known = json.loads(self.definition.read_bytes())
        except FileNotFoundError:
            return None
        return Machine(
            known["id"],
            known["name"],
            tuple(File(**file) for file in known["files"]),
            tuple(Port(**port) for port in known["ports"]),
            tuple(Wire(Port(**wire["port"]), wire["device"], wire["end"]) for wire in known["wires"]),
            known["is_on"],
            Identity(**known["process"]) if known["process"] else None,
            Identity(**known["keeper"]) if known["keeper"] else None,
        )

    def write(self, machine: Machine) -> None:
        """Keep the machine."""
        beside = self.definition.with_suffix(".new")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(machine), file)
        beside.replace(self.definition)

    def shorten_console(self) -> None:
        """Keep the end of a console that grew too long."""
        if self.console.exists() and self.console.stat().st_size > MOST_CONSOLE:
            self.console.write_bytes(self.console.read_bytes()[-MOST_CONSOLE // 2 :])
