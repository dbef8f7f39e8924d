"""A router whose firewall alone is the appliance's, with hosts around it; its addresses and routes are a test's.

The effect runs in a thread that is in the router's namespace. Every application is checked first, as a push would.
"""

import asyncio
import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from astara_appliance.backend import Counter, RecordingBackend
from astara_appliance.boot import BootData
from astara_appliance.interfaces import InterfaceNames
from astara_appliance.linux import netfilter
from astara_appliance.linux.effect import Machine
from astara_appliance.linux.firewall import FirewallEffect
from astara_appliance.services.firewall import Firewall
from astara_appliance.validation import parse_configuration

from lab.appliance_machine import Hosts, uuid_of
from lab.wires import Fabric, Namespace

MAC = "fa:00:00:00:00:00"
MANAGEMENT = "fdca:3ba5:a17a:acda::5"
ORCHESTRATOR = "fdca:3ba5:a17a:acda::1"
OUTSIDE, OUTSIDE6 = "172.24.4.20", "2001:db8::20"
WORLD, WORLD6 = "172.24.4.2", "2001:db8::2"
WEB, WEB6, DATABASE, OTHER = "10.0.0.5", "fd00:a::5", "10.0.0.6", "10.0.1.5"
LABEL = "3a6b0e60-6d5b-4a6e-9d3e-000000000001"

BOOT = BootData.model_validate(
    {
        "version": 1, "deployment": "test", "resource_id": uuid_of("router"), "instance": uuid_of("instance"),
        "management": {"mac": MAC, "addresses": [f"{MANAGEMENT}/64"]},
    }
)  # fmt: skip


def network(ifname: str, kind: str, *addresses: str) -> dict[str, Any]:
    """One network of a configuration, with a subnet for each address."""
    subnets = [
        {"id": uuid_of(f"{ifname} {address}"), "cidr": str(ipaddress.ip_interface(address).network)}
        for address in addresses
    ]
    return {
        "network_id": uuid_of(ifname), "network_type": kind, "subnets": subnets,
        "interface": {"ifname": ifname, "addresses": list(addresses)},
    }  # fmt: skip


def floating(address: str, fixed: str) -> dict[str, Any]:
    """One floating IP of a configuration."""
    return {"id": uuid_of(address), "floating_ip": address, "fixed_ip": fixed, "network_id": uuid_of("ge1")}


def forwarding(address: str, protocol: str, ports: tuple[int, int], fixed: str, to: tuple[int, int]) -> dict[str, Any]:
    """One port forwarding of a configuration."""
    return {
        "id": uuid_of(f"{address} {protocol} {ports}"), "floating_ip": address, "protocol": protocol,
        "external_port": ports[0], "external_port_end": ports[1], "fixed_ip": fixed,
        "internal_port": to[0], "internal_port_end": to[1],
    }  # fmt: skip


NETWORKS = [
    network("ge1", "external", f"{OUTSIDE}/24", f"{OUTSIDE6}/64"),
    network("ge2", "internal", "10.0.0.1/24", "fd00:a::1/64"),
    network("ge3", "internal", "10.0.1.1/24"),
]


def state_of(**configuration: Any) -> dict[str, Any]:
    """What the firewall service makes of a configuration; with the three networks unless it names others."""
    parsed = parse_configuration({"networks": NETWORKS} | configuration)
    return Firewall(BOOT, RecordingBackend(), InterfaceNames(MAC, {})).render(parsed)


class Inside:
    """A firewall effect in a namespace."""

    def __init__(self, machine: Namespace, runtime: Path) -> None:
        self.machine = machine
        self._runtime = runtime
        self._thread = ThreadPoolExecutor(1)
        self.effect = self._new()
        self.state: dict[str, Any] | None = None

    def _new(self) -> FirewallEffect:
        return FirewallEffect(Machine(BOOT, self._runtime, self._runtime))

    def run(self, what: Callable[[], Any]) -> Any:
        """Await what a function makes, in the namespace."""

        async def awaited() -> Any:
            return await what()

        def inside() -> Any:
            # Whatever this starts, threads and processes, is in the namespace too.
            with self.machine.entered():
                return asyncio.run(awaited())

        return self._thread.submit(inside).result(60)

    def apply(self, **configuration: Any) -> None:
        """Check and apply; the empty configuration when nothing is named but `networks=[]`."""
        self.load(state_of(**configuration))

    def load(self, state: dict[str, Any], *, check: bool = True) -> None:
        """Check and apply a state."""
        if check:
            self.run(lambda: self.effect.check(state))
        self.run(lambda: self.effect.apply(self.state, state))
        self.state = state

    def forget(self) -> None:
        """Another effect begins, which knows nothing of what is loaded."""
        self.effect, self.state = self._new(), None

    def restart(self) -> bool:
        """Another effect takes over what was recorded; whether it could adopt it."""
        self.effect = self._new()
        adopted: bool = self.run(lambda: self.effect.adopt(self.state))
        if not adopted:
            self.state = None
        return adopted

    def generation(self) -> int:
        """How often the namespace's nftables were changed."""

        async def told() -> int:
            return netfilter.generation()

        number: int = self.run(told)
        return number

    def counters(self) -> dict[str, Counter]:
        """What the labels counted."""
        read: dict[str, Counter] = self.run(self.effect.read)
        return read

    def reset(self) -> dict[str, Counter]:
        """What the labels counted until now."""
        read: dict[str, Counter] = self.run(self.effect.reset)
        return read

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


class World:
    """Management, an outside and two inside networks, joined by a router that is closed until `firewall.apply`."""

    def __init__(self, fabric: Fabric, hosts: Hosts, runtime: Path) -> None:
        self.router = fabric.machine("router")
        switches = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.all.accept_dad=0",
                    "net.ipv6.conf.default.accept_dad=0")  # fmt: skip
        self.router.run("sysctl", "-qw", *switches)
        wires = {
            "ge0": ("mgt", [f"{MANAGEMENT}/64"]),
            "ge1": ("ext", [f"{OUTSIDE}/24", f"{OUTSIDE6}/64"]),
            "ge2": ("red", ["10.0.0.1/24", "fd00:a::1/64"]),
            "ge3": ("blue", ["10.0.1.1/24"]),
        }
        for device, (bridge, addresses) in wires.items():
            fabric.bridge(bridge, 9000)
            fabric.plug(bridge, self.router, device)
            self.router.ip("link", "set", device, "up")
            for address in addresses:
                self.router.ip("address", "add", address, "dev", device)
        self.orchestrator = hosts.add("orchestrator", "mgt", f"{ORCHESTRATOR}/64", gateway=MANAGEMENT)
        self.world = hosts.add("world", "ext", f"{WORLD}/24", f"{WORLD6}/64", gateway=OUTSIDE)
        self.world.ip("-6", "route", "add", "default", "via", OUTSIDE6)
        self.web = hosts.add("web", "red", f"{WEB}/24", f"{WEB6}/64", gateway="10.0.0.1")
        self.web.ip("-6", "route", "add", "default", "via", "fd00:a::1")
        self.database = hosts.add("database", "red", f"{DATABASE}/24", gateway="10.0.0.1")
        self.other = hosts.add("other", "blue", f"{OTHER}/24", gateway="10.0.1.1")
        self.firewall = Inside(self.router, runtime)

    def own(self, *addresses: str) -> None:
        """Have the router answer ARP for floating IPs, as the appliance does."""
        for address in addresses:
            self.router.ip("address", "add", f"{address}/32", "dev", "ge1")

    def close(self) -> None:
        """Remove the router."""
        self.firewall.close()
        self.router.close()


class Listener:
    """A TCP socket of a machine that listens; `peer` says who has called."""

    def __init__(self, machine: Namespace, port: int, address: str = "") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = machine.socket(family)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.settimeout(30)
        self.socket.bind((address, port))
        self.socket.listen()

    def accept(self) -> tuple[socket.socket, str]:
        """The next caller's connection, and the address that it called from."""
        made, peer = self.socket.accept()
        made.settimeout(30)
        return made, peer[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Echo:
    """A UDP socket of a machine that sends back the address from which each datagram came."""

    def __init__(self, machine: Namespace, port: int, address: str = "") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = machine.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((address, port))
        self._socket.settimeout(0.1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(OSError):
                _, peer = self._socket.recvfrom(2000)
                self._socket.sendto(peer[0].encode(), peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(5)
        self._socket.close()


Stream = tuple[socket.socket, socket.socket, str]


@contextlib.contextmanager
def called(machine: Namespace, address: str, port: int, listener: Listener) -> Iterator[Stream]:
    """A TCP connection that works: the caller's end, the other end, and whom that end sees."""
    caller = call(machine, address, port)
    answering, peer = listener.accept()
    with caller, answering:
        exchange(caller, answering)
        yield caller, answering, peer


def call(machine: Namespace, address: str, port: int, seconds: float = 30.0) -> socket.socket:
    """Connect; OSError when that does not work in time."""
    made = machine.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(seconds)
    try:
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def is_reachable(machine: Namespace, address: str, port: int, seconds: float = 30.0) -> bool:
    """Whether anybody answers on a TCP port, be it with a reset."""
    try:
        call(machine, address, port, seconds).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def exchange(one: socket.socket, another: socket.socket) -> None:
    """Both ends of a stream hear each other. OSError otherwise."""
    for here, there in ((one, another), (another, one)):
        here.sendall(b"hello")
        assert receive(there, 5) == b"hello"


def receive(made: socket.socket, length: int) -> bytes:
    """So many bytes of a stream, fewer when it ends before. OSError when they do not come in time."""
    received = bytearray()
    while len(received) < length and (more := made.recv(min(length - len(received), 65536))):
        received += more
    return bytes(received)


def is_cut(one: socket.socket, another: socket.socket) -> bool:
    """Whether what one end says does not arrive at the other."""
    another.settimeout(0.7)
    try:
        one.sendall(b"hello")
        return receive(another, 5) != b"hello"
    except OSError:
        return True


def ask(machine: Namespace, address: str, port: int, seconds: float = 30.0) -> bytes | None:
    """The answer to a datagram; None when there is none in time."""
    with machine.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(seconds)
        asking.connect((address, port))
        asking.send(b"hello")
        try:
            return asking.recv(2000)
        except OSError:
            return None


def arrives(machine: Namespace, there: Namespace, address: str, seconds: float = 30.0) -> bool:
    """Whether a datagram from a machine arrives at an address of another, whatever becomes of an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with there.socket(family, socket.SOCK_DGRAM) as hearing, machine.socket(family, socket.SOCK_DGRAM) as saying:
        hearing.settimeout(seconds)
        hearing.bind((address, 4321))
        saying.sendto(b"hello", (address, 4321))
        try:
            return hearing.recv(2000) == b"hello"
        except TimeoutError:
            return False


def mss_of(made: socket.socket) -> int:
    """The largest segment that this end of a connection sends."""
    return int(struct.unpack("i", made.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 4))[0])
