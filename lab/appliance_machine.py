"""A real agent in a machine made of namespaces, its neighbours, and a client in the orchestrator's place.

Tests of packets and benches of the appliance stand on it; root only. What goes wrong is an AssertionError with the
agent's own words.
"""

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohappyeyeballs import AddrInfoType
from astara_appliance.services.interfaces import MINIMUM_V6_MTU

from lab.wires import Fabric, Namespace

MANAGEMENT = "mgt"
ORCHESTRATOR = "fdca:3ba5:a17a:acda::1"
ADDRESS = "fdca:3ba5:a17a:acda::5"
MANAGEMENT_MAC = "fa:00:00:00:00:00"
TOKEN = "a-token-of-the-tests"
RESOURCE = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001"
INSTANCE = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002"


def uuid_of(name: str) -> str:
    """A UUID that stands for a name in all tests."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


class Machine:
    """An appliance: its agent in a namespace, on the management network. `root` keeps what survives a reboot."""

    def __init__(self, fabric: Fabric, root: Path) -> None:
        self.fabric = fabric
        self.root = root
        self.orchestrator = _host(fabric, "orchestrator", MANAGEMENT, f"{ORCHESTRATOR}/64")
        self.plugged: dict[str, tuple[str, int, str, str]] = {}
        self.macs: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.epoch = 0
        self._session: aiohttp.ClientSession | None = None
        self.vm = fabric.machine("appliance")
        self._wire(MANAGEMENT, MANAGEMENT_MAC, 1500)

    def _wire(self, network: str, mac: str, mtu: int) -> None:
        # As a kernel names them: the first name that is free.
        devices = {device for _, _, _, device in self.plugged.values()}
        device = next(name for number in itertools.count() if (name := f"eth{number}") not in devices)
        end = self.fabric.plug(network, self.vm, device, mac=mac, mtu=mtu)
        self.plugged[network] = (mac, mtu, end, device)

    # Wires

    def plug(self, network: str, mtu: int = 1500) -> str:
        """Give the machine an interface on a network; the same MAC each time. Answers with the MAC."""
        self.fabric.bridge(network, 9000)
        mac = self.macs.setdefault(network, f"fa:00:00:00:00:{len(self.macs) + 1:02x}")
        self._wire(network, mac, mtu)
        return mac

    def unplug(self, network: str) -> None:
        """Pull an interface out."""
        self.fabric.unplug(self.plugged.pop(network)[2])

    # Life

    def start(self, **boot: Any) -> None:
        """Start the agent; `boot` are more boot facts. It need not answer yet when this returns."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "run").mkdir(exist_ok=True)
        (self.root / "boot.json").write_text(json.dumps(self.facts(**boot)))
        with (self.root / "agent.log").open("ab") as log:
            self.process = self.vm.start(
                *(sys.executable, "-m", "astara_appliance", "run", "--boot-file", str(self.root / "boot.json")),
                *("--state-dir", str(self.root / "state"), "--runtime-dir", str(self.root / "run")),
                stdout=log, stderr=log,
            )  # fmt: skip

    def facts(self, **boot: Any) -> dict[str, Any]:
        """What the orchestrator tells it at boot; `boot` are more facts."""
        return {
            "version": 1, "deployment": "test", "resource_id": RESOURCE, "instance": INSTANCE, "tenant_id": "t1",
            "management": {"mac": MANAGEMENT_MAC, "addresses": [f"{ADDRESS}/64"], "mtu": 1500, "gateway": None},
            "orchestrator": {"addresses": [ORCHESTRATOR], "metadata_port": 9697, "api_port": 44250},
            "token": TOKEN,
        } | boot  # fmt: skip

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the agent alone: what it has set up, and its daemons, stay."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(15)
            self.process = None

    async def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the agent and start it again."""
        self.stop(number)
        self.start()
        await self.answers()

    async def reboot(self) -> None:
        """The machine starts anew: nothing in the kernel and in `run` is left, `state` is."""
        plugged = self.plugged
        self.stop(signal.SIGKILL)
        self.vm.close()
        for file in (self.root / "run").rglob("*"):
            if not file.is_dir():
                file.unlink()
        await self.close_session()
        self.plugged = {}
        self.vm = self.fabric.machine("appliance")
        for network, (mac, mtu, _, _) in plugged.items():
            self._wire(network, mac, mtu)
        self.start()
        await self.answers()

    async def answers(self, seconds: float = 90.0) -> dict[str, Any]:
        """Its status, as soon as it answers."""
        began = time.monotonic()
        while True:
            try:
                # A call may hang on a connection that was begun before the machine could be reached.
                async with asyncio.timeout(10.0):
                    return await self.status()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                passed = time.monotonic() - began
                if self.process is None or self.process.poll() is not None or passed > seconds:
                    raise AssertionError(
                        f"the agent does not answer after {passed:.1f} s: {error!r}\n{self.log()[-4000:]}{self.sight()}"
                    ) from None
                await asyncio.sleep(0.02)

    def sight(self) -> str:
        """The management network from both of its ends, for whom the machine does not answer."""
        asked = (("ip", "address"), ("ip", "-6", "neighbour"), ("ss", "-tnap"))
        return "".join(
            f"{end.name}: {' '.join(words)}\n{end.run(*words, check=False).stdout}"
            for end in (self.vm, self.orchestrator)
            for words in asked
        )

    def log(self) -> str:
        """What the agent has said."""
        return (self.root / "agent.log").read_text(errors="replace")

    # Its API

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """One call from the orchestrator; answers with the status code and the JSON or text."""
        if self._session is None:
            connector = aiohttp.TCPConnector(socket_factory=self._socket, keepalive_timeout=5)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))
        headers = {"Authorization": f"Bearer {TOKEN}"} | more.pop("headers", {})
        async with self._session.request(method, f"http://[{ADDRESS}]:5000{path}", headers=headers, **more) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type.endswith("json") else body.decode()

    def _socket(self, address: AddrInfoType) -> socket.socket:
        made = self.orchestrator.socket(address[0], socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    async def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        code, answer = await self.ask("GET", "/v1/status")
        if code != 200:
            raise AssertionError(f"{code} {answer}")
        status: dict[str, Any] = answer
        return status

    async def push(self, configuration: dict[str, Any], digest: str = "v1:test") -> list[str]:
        """Push; answers with what changed. An AssertionError carries any refusal."""
        code, answer = await self.try_push(configuration, digest)
        if code != 200:
            raise AssertionError(f"{code} {answer}\n{self.log()[-3000:]}")
        changed: list[str] = answer["changed"]
        return changed

    async def try_push(self, configuration: dict[str, Any], digest: str = "v1:test") -> tuple[int, Any]:
        """Push; answers with the status code and the body."""
        return await self.put(json.dumps({"configuration": configuration}).encode(), digest)

    async def put(self, body: bytes, digest: str = "v1:test") -> tuple[int, Any]:
        """Push a configuration that is JSON already, as the worker does; answers with the status code and the body."""
        self.epoch += 1
        marks = {"X-Astara-Digest": digest, "X-Astara-Epoch": f"1.{self.epoch}", "Prefer": "return=minimal"}
        return await self.ask("PUT", "/v1/system/config", data=body, headers=marks)

    async def until(self, true: Callable[[dict[str, Any]], bool], seconds: float = 90.0) -> dict[str, Any]:
        """Its status, as soon as something is true of it."""
        async with asyncio.timeout(seconds):
            while not true(status := await self.status()):  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
        return status

    # What it is told

    def network(self, network: str, kind: str, *addresses: str, subnets: list[dict[str, Any]] | None = None,
                **more: Any) -> dict[str, Any]:  # fmt: skip
        """One network of a configuration; `more` replaces members of it."""
        mac, mtu, _, _ = self.plugged[network]
        ifname = f"ge{1 + list(self.macs).index(network)}"
        return {
            "network_id": uuid_of(network), "name": network, "network_type": kind, "mtu": mtu,
            "interface": {"ifname": ifname, "lladdr": mac, "addresses": list(addresses), "mtu": mtu},
            "subnets": subnets or [],
        } | more  # fmt: skip

    async def close_session(self) -> None:
        """End the client's connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def close(self) -> None:
        """End everything."""
        await self.close_session()
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGKILL)
        self.vm.close()
        self.orchestrator.close()


def subnet(name: str, cidr: str, gateway: str | None, *, dhcp: bool = False, **more: Any) -> dict[str, Any]:
    """One subnet of a configuration."""
    return {"id": uuid_of(name), "cidr": cidr, "gateway_ip": gateway, "dhcp_enabled": dhcp} | more


def _host(fabric: Fabric, name: str, network: str, *addresses: str, gateway: str | None = None, mac: str | None = None,
          mtu: int = 1500) -> Namespace:  # fmt: skip
    fabric.bridge(network, 9000)
    machine = fabric.machine(name)
    # Addresses of tests are nobody else's, and are wanted at once.
    machine.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
    fabric.plug(network, machine, "eth0", mac=mac, mtu=mtu)
    machine.ip("link", "set", "eth0", "up")
    # The kernel makes the routes of a link, that of multicast too, when it has noticed that the wire is there; its own
    # address is no source of packets before a worker of the kernel has had its turn, though nothing is looked for.
    if mtu >= MINIMUM_V6_MTU and not eventually(lambda: _has_v6(machine)):
        raise AssertionError(f"{machine.name}: its link does not come up:\n{machine.ip('address')}")
    for address in addresses:
        machine.ip("address", "add", address, "dev", "eth0")
    if gateway is not None:
        machine.ip("route", "add", "default", "via", gateway, "dev", "eth0")
    return machine


def _has_v6(machine: Namespace) -> bool:
    shown = machine.ip("-6", "address", "show", "eth0")
    return "inet6" in shown and "tentative" not in shown


class Hosts:
    """Plain machines on the networks."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._made: list[Namespace] = []

    def add(self, name: str, network: str, *addresses: str, gateway: str | None = None, mac: str | None = None,
            mtu: int = 1500) -> Namespace:  # fmt: skip
        """A machine with one interface, eth0, with these addresses (CIDR) and a default route."""
        machine = _host(self._fabric, name, network, *addresses, gateway=gateway, mac=mac, mtu=mtu)
        self._made.append(machine)
        return machine

    def close(self) -> None:
        """Remove all."""
        for machine in self._made:
            machine.close()


def pings(machine: Namespace, address: str, *, count: int = 1, seconds: float = 10.0) -> bool:
    """Whether an address answers a ping, sent up to `count` times, a tenth of a second apart."""
    arguments = ("-c", str(count), "-i", "0.1", "-W", str(seconds), "-n", "-q", address)
    return machine.run("ping", *arguments, check=False, timeout=seconds * count + 10).returncode == 0


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
