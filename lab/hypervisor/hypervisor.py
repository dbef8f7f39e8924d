"""The verbs of a hypervisor: boot, attach, detach, reboot, power, kill, destroy, console, run.

What is always true: everything that a verb needs to know lies on the disk, and a verb locks the machine that it is
about. So several processes may use one hypervisor at a time, its machines outlive all of them, and whoever opens its
folder next goes on. There is one bridge for each network that has a plug in it. A machine that does not run has no
namespace: the kernel forwards nothing for the dead.

Machines are named network namespaces, `<prefix>-<id>`: `ip netns exec` looks at them from outside.
"""

import contextlib
import fcntl
import itertools
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lab.wires import Fabric, Namespace, WireError

from .errors import HypervisorError, UnknownMachineError
from .launch import end, launch
from .machine import Folder, Machine, Port, Wire
from .outside import Outside

STOP_SECONDS = 8.0
KILL_SECONDS = 5.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


@dataclass
class _Switch:
    """What is plugged in besides machines, by network."""

    prefix: str
    reached: dict[str, str] = field(default_factory=dict)
    """Devices of the namespace in which the hypervisor runs."""
    outside: dict[str, str] = field(default_factory=dict)
    """Devices of the router outside."""
    gateways: dict[str, list[str]] = field(default_factory=dict)
    """Their addresses."""


class Hypervisor:
    """Machines below one folder."""

    def __init__(self, root: Path, prefix: str | None = None, *, make: bool = True) -> None:
        """Open the hypervisor of a folder; the first time it is made, with `prefix` in the names of its namespaces.

        Without `make` HypervisorError is raised where there is none.
        """
        self.root = root.resolve()
        self._machines = self.root / "machines"
        self._locks = self.root / "locks"
        self._state = self.root / "switch.json"
        if not make and not self._state.exists():
            raise HypervisorError(f"{root} is no hypervisor's folder")
        for folder in (self.root, self._machines, self._locks):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked("switch"):
            known = self._read_switch()
            if known is None or not Path(f"/run/netns/{known.prefix}-switch").exists():
                # Made the first time, and anew after the whole computer was started again.
                known = _Switch(Fabric(known.prefix if known else prefix).prefix)
                self._write_switch(known)
        self.prefix = known.prefix
        self._fabric = Fabric(self.prefix, found=True)
        self._outside = Outside(self._fabric, self.root / "outside")

    # Machines

    def boot(self, machine: Machine) -> None:
        """Make a machine and start it; it is not up yet when this returns. HypervisorError when it is there already."""
        with self._locked(machine.id):
            folder = self._folder(machine.id)
            if folder.read() is not None:
                raise HypervisorError(f"machine {machine.id} is there already")
            folder.make()
            self._start(folder, machine)

    def attach(self, machine_id: str, port: Port) -> None:
        """Plug a port into a machine; nothing happens when it is plugged already."""
        with self._locked(machine_id):
            folder, machine = self._find(machine_id)
            if any(one.id == port.id for one in machine.ports):
                return
            machine = replace(machine, ports=(*machine.ports, port))
            if machine.state == "running":
                machine = self._plug(machine, port)
            folder.write(machine)

    def detach(self, machine_id: str, port_id: str) -> None:
        """Pull a port out of a machine; nothing happens when it is not plugged."""
        with self._locked(machine_id):
            folder, machine = self._find(machine_id)
            machine = self._unplug(machine, port_id)
            folder.write(replace(machine, ports=tuple(port for port in machine.ports if port.id != port_id)))

    def reboot(self, machine_id: str, *, hard: bool = False) -> None:
        """Shut a machine down, or with `hard` pull its plug, and start it again."""
        with self._locked(machine_id):
            folder, machine = self._find(machine_id)
            self._start(folder, self._stop(machine, hard=hard))

    def power(self, machine_id: str, *, on: bool) -> None:
        """Start a machine that is off, or shut it down."""
        with self._locked(machine_id):
            folder, machine = self._find(machine_id)
            if not on:
                folder.write(replace(self._stop(machine, hard=False), is_on=False))
            elif machine.state != "running":
                self._start(folder, self._stop(machine, hard=True))

    def kill(self, machine_id: str) -> None:
        """Let a machine crash: it is dead, and whoever wants it to run is not told."""
        with self._locked(machine_id):
            folder, machine = self._find(machine_id)
            folder.write(self._stop(machine, hard=True))

    def bury(self, machine_id: str) -> None:
        """Take away what is left of a machine that ended by itself."""
        with self._locked(machine_id):
            folder = self._folder(machine_id)
            machine = folder.read()
            if machine is not None and machine.process is not None and not machine.process.alive():
                folder.write(self._stop(replace(machine, keeper=None), hard=True))

    def destroy(self, machine_id: str) -> None:
        """End a machine and forget it with its disk; nothing happens when there is none."""
        with self._locked(machine_id):
            folder = self._folder(machine_id)
            machine = folder.read()
            if machine is not None:
                self._stop(machine, hard=True)
            shutil.rmtree(folder.path, ignore_errors=True)

    def machines(self) -> list[Machine]:
        """All machines, running or not."""
        known = (Folder(path).read() for path in sorted(self._machines.iterdir()))
        return [machine for machine in known if machine is not None]

    def machine(self, machine_id: str) -> Machine:
        """One machine. UnknownMachineError."""
        return self._find(machine_id)[1]

    def console(self, machine_id: str) -> str:
        """What a machine wrote on its console."""
        folder, _ = self._find(machine_id)
        try:
            return folder.console.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def inside(self, machine_id: str, *argv: str) -> list[str]:
        """The command line that runs a program in a machine. HypervisorError when the machine does not run."""
        machine = self.machine(machine_id)
        if machine.process is None or machine.state != "running":
            raise HypervisorError(f"machine {machine_id} does not run")
        where = ("--mount", "--uts", "--ipc", "--net", "--pid")
        return ["nsenter", "--target", str(machine.process.pid), *where, "--", *argv]

    def run(self, machine_id: str, *argv: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a program in a machine to its end, whatever its exit code."""
        command = self.inside(machine_id, *argv)
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )

    # Networks

    def reach(self, network_id: str, addresses: Sequence[str]) -> None:
        """Plug the namespace of this process into a network, with these addresses (CIDR)."""
        with self._locked("switch"):
            state = self._switch()
            if network_id in state.reached:
                return
            bridge = self._bridge(network_id)
            device = f"mgt-{self.prefix[-6:]}{len(state.reached) or ''}"
            self._fabric.reach(bridge, device, *addresses)
            state.reached[network_id] = device
            self._write_switch(state)

    def outside(self, network_id: str, addresses: Sequence[str]) -> None:
        """Put the world outside behind a network: a router with these addresses (CIDR), and a host behind it.

        Said again it adds the addresses that are new.
        """
        with self._locked("switch"):
            state = self._switch()
            known = state.gateways.get(network_id, [])
            if network_id in state.outside and set(addresses) <= set(known):
                return
            if network_id in state.outside:
                self._outside.add(state.outside[network_id], set(addresses) - set(known))
            else:
                state.outside[network_id] = self._outside.plug(self._bridge(network_id), addresses)
            state.gateways[network_id] = sorted({*known, *addresses})
            self._outside.listen(state.gateways)
            self._write_switch(state)

    def internet(self) -> Namespace:
        """The host outside; it is there once a network was given an `outside`."""
        return self._outside.internet

    def clear(self) -> None:
        """Destroy all machines and everything else that is plugged in; an empty hypervisor is left."""
        for path in list(self._machines.iterdir()):
            self.destroy(path.name)
        with self._locked("switch"):
            state = self._switch()
            for device in state.reached.values():
                subprocess.run(("ip", "link", "delete", device), stderr=subprocess.DEVNULL, check=False)
            self._outside.close()
            for bridge in self._bridges():
                self._fabric.remove_bridge(bridge)
            self._write_switch(_Switch(self.prefix))

    def close(self) -> None:
        """As `clear`, and nothing at all is left behind."""
        self.clear()
        self._fabric.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # A machine's life

    def _start(self, folder: Folder, machine: Machine) -> None:
        folder.shorten_console()
        # On the disk before anything is made: what a crash leaves here can be removed.
        machine = replace(machine, is_on=True, wires=(), process=None, keeper=None)
        folder.write(machine)
        self._fabric.machine(machine.id)
        try:
            for port in machine.ports:
                machine = self._plug(machine, port)
                folder.write(machine)
            keeper, process = launch(self.root, folder, machine.id, f"{self.prefix}-{machine.id}")
            machine = replace(machine, keeper=keeper, process=process)
        except BaseException:
            folder.write(self._stop(machine, hard=True))
            raise
        folder.write(machine)

    def _stop(self, machine: Machine, *, hard: bool) -> Machine:
        """End what runs and take the namespace away; the machine without its wires and its process."""
        if machine.keeper is not None:
            # First, so that it does not do the same at the same time.
            end(machine.keeper, signal.SIGKILL, KILL_SECONDS)
        if machine.process is not None:
            if not hard:
                end(machine.process, signal.SIGTERM, STOP_SECONDS)
            end(machine.process, signal.SIGKILL, KILL_SECONDS)
        for wire in machine.wires:
            machine = self._unplug(machine, wire.port.id)
        self._fabric.machine(machine.id, found=True).close()
        return replace(machine, process=None, keeper=None)

    # Wires

    def _plug(self, machine: Machine, port: Port) -> Machine:
        taken = {wire.device for wire in machine.wires}
        # As a kernel names them: the first name that is free.
        device = next(name for number in itertools.count() if (name := f"eth{number}") not in taken)
        with self._locked("switch"):
            bridge = self._bridge(port.network_id)
            namespace = self._fabric.machine(machine.id, found=True)
            other = self._fabric.plug(bridge, namespace, device, mac=port.mac, mtu=port.mtu)
        return replace(machine, wires=(*machine.wires, Wire(port, device, other)))

    def _unplug(self, machine: Machine, port_id: str) -> Machine:
        for wire in machine.wires:
            if wire.port.id != port_id:
                continue
            with self._locked("switch"):
                self._fabric.unplug(wire.end)
                self._drop_bridge(wire.port.network_id)
        return replace(machine, wires=tuple(wire for wire in machine.wires if wire.port.id != port_id))

    def _bridge(self, network_id: str) -> str:
        bridge = bridge_name(network_id)
        self._fabric.bridge(bridge, 9000)
        return bridge

    def _drop_bridge(self, network_id: str) -> None:
        """Remove a bridge that nothing is plugged into."""
        bridge = bridge_name(network_id)
        with contextlib.suppress(WireError):
            if not self._fabric.switch.ip("-oneline", "link", "show", "master", bridge):
                self._fabric.remove_bridge(bridge)

    def _bridges(self) -> list[str]:
        links = json.loads(self._fabric.switch.ip("-json", "link", "show", "type", "bridge") or "[]")
        return [link["ifname"] for link in links if link]

    # The disk

    def _folder(self, machine_id: str) -> Folder:
        if not _ID.fullmatch(machine_id):
            raise HypervisorError(f"{machine_id!r} cannot be a machine's id")
        return Folder(self._machines / machine_id)

    def _find(self, machine_id: str) -> tuple[Folder, Machine]:
        folder = self._folder(machine_id)
        machine = folder.read()
        if machine is None:
            raise UnknownMachineError(f"there is no machine {machine_id}")
        return folder, machine

    @contextlib.contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        with (self._locks / what).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _switch(self) -> _Switch:
        return self._read_switch() or _Switch(self.prefix)

    def _read_switch(self) -> _Switch | None:
        try:
            return _Switch(**json.loads(self._state.read_bytes()))
        except FileNotFoundError:
            return None

    def _write_switch(self, state: _Switch) -> None:
        self._state.write_text(json.dumps(asdict(state)), encoding="utf-8")


def bridge_name(network_id: str) -> str:
    """The bridge of a network, named as Neutron's Linux bridge agent did."""
    return f"brq{network_id[:11]}"
