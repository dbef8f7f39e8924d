"""The system against a real control plane, a user with the openstack client, and hosts that the user's servers are."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openstack.connection import Connection
from rig_client import Client

from lab.hypervisor.hypervisor import Hypervisor
from lab.hypervisor.outside import INTERNET
from lab.rig import CLOUDS
from services.common import marks, openstack
from services.common.settings import CommonSettings, load
from services.worker.cloud import Cloud
from services.worker.neutron import SNAPSHOT, Neutron
from services.worker.reading import RouterReading
from services.worker.settings import WorkerSettings

DEPLOYMENT = "rigtest"


@dataclass
class Host:
    """A server of the user: a machine whose programs can be run, seen from the Internet and from other hosts."""

    name: str
    id: str
    address: str
    hypervisor: Hypervisor

    def run(self, *argv: str) -> str:
        """What a program in the host prints; empty when it fails."""
        done = self.hypervisor.run(self.id, *argv)
        return done.stdout if done.returncode == 0 else ""

    def pings(self, address: str) -> bool:
        """Whether an address answers one ping within a second."""
        return bool(self.run("ping", "-c", "1", "-W", "1", "-n", address))

    @contextlib.contextmanager
    def serves(self, port: int) -> Iterator[None]:
        """While inside, the host answers on one more port, as `<name>-<port>`."""
        argv = (sys.executable, "-m", "lab.hypervisor.responder", f"{self.name}-{port}", str(port))
        command = self.hypervisor.inside(self.id, *argv)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)  # what enters the machine has a child there

    def asks(self, address: str = INTERNET[0]) -> dict[str, Any] | None:
        """What the host at an address answers, on port 80 if none is named: who it is and whom it sees."""
        answer = self.run("curl", "-sg", "--max-time", "2", f"http://{address}/")
        return json.loads(answer) if answer else None

    def seen_as(self) -> str | None:
        """The address that the Internet sees of this host."""
        answer = self.asks()
        return str(answer["you"]) if answer else None


@dataclass
class RealCloud:
    """The control plane, the system's processes, and a user with the openstack client."""

    folder: Path
    admin: Connection
    user: Connection
    other: Connection
    clients: dict[str, Client]
    hypervisor: Hypervisor
    config: Path
    api_port: int
    external: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def client(self, *words: str, cloud: str = "user") -> Any:
        """Run the openstack client as a user would; answers with its JSON, or its text."""
        quiet = {"delete", "set", "unset", "add", "remove"} & set(words[1:5])
        format_ = () if quiet else ("-f", "json")
        code, output, errors = self.clients[cloud].run(*words, *format_)
        assert code == 0, f"openstack {' '.join(words)}: {errors[-2000:]}"
        print(f"  $ openstack {' '.join(words)}", flush=True)
        return json.loads(output) if output.strip().startswith(("{", "[")) else output.strip()

    def try_client(self, *words: str, cloud: str = "user") -> bool:
        """Whether a command of the openstack client succeeds."""
        return self.clients[cloud].run(*words)[0] == 0

    # The user's hosts

    def boot(self, networks: dict[str, str], tenant: str = "user", address: str = "") -> list[Host]:
        """Boot servers of a tenant, each on a network, all at once; they may not have their addresses yet.

        `address` is one that the only server is to get.
        """
        connection: Connection = getattr(self, tenant)
        compute = connection.compute
        image, flavor = connection.image.find_image("tiny").id, compute.find_flavor("tiny").id
        servers = [
            compute.create_server(
                name=name,
                image_id=image,
                flavor_id=flavor,
                networks=[{"uuid": network_id} | ({"fixed_ip": address} if address else {})],
            )
            for name, network_id in networks.items()
        ]
        return [self._booted(compute.wait_for_server(server, interval=0.5, wait=120)) for server in servers]

    def _booted(self, server: Any) -> Host:
        fixed = [one["addr"] for addresses in server.addresses.values() for one in addresses if one["version"] == 4]
        print(f"  server {server.name} is active with {fixed[0]}", flush=True)
        return Host(server.name, server.id, fixed[0], self.hypervisor)

    def console(self, host: Host) -> str:
        """A host's console, from Nova."""
        return str(self.admin.compute.get_server_console_output(host.id)["output"])

    def internet_asks(self, address: str) -> dict[str, Any] | None:
        """What the host at an address answers to the Internet, on port 80 if none is named."""
        ask = ("curl", "-sg", "--max-time", "2", f"http://{address}/")
        done = self.hypervisor.internet().run(*ask, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def internet_connects(self, address: str, port: int = 80) -> socket.socket:
        """A TCP connection from the Internet to a port of an address, on which nothing was said yet."""
        connection = self.hypervisor.internet().socket()
        connection.settimeout(3.0)
        connection.connect((address, port))
        return connection

    # What a worker reads

    def readings(self, router: str, server: str) -> tuple[RouterReading, RouterReading]:
        """A router as one snapshot of Neutron's, and the same read call by call, as the service user."""
        classes = (CommonSettings, openstack.OpenStackSettings, WorkerSettings)
        settings = load("astara-worker", ["--config-file", str(self.config)], classes, extra=openstack.register)
        connection = openstack.connect(settings)
        neutron = Neutron(Cloud(connection, settings[WorkerSettings]).neutron, DEPLOYMENT)

        async def read() -> tuple[RouterReading, RouterReading]:
            await neutron.load_extensions()
            one = await neutron.read_router(router, server)
            neutron.extensions -= {SNAPSHOT}
            return one, await neutron.read_router(router, server)

        try:
            return asyncio.run(read())
        finally:
            connection.close()

    # The system's processes

    def start_orchestrator(self) -> subprocess.Popen[bytes]:
        """All services, with two workers."""
        run, logs = self.folder / "run", self.folder / "log"
        run.mkdir(exist_ok=True)
        logs.mkdir(exist_ok=True)
        with (self.folder / "orchestrator.log").open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.common.orchestrator", "--config-file", str(self.config)),
                    *("--workers", "2", "--run-dir", str(run), "--log-dir", str(logs)),
                ],
                stdout=output, stderr=output, env={**os.environ, "OS_CLIENT_CONFIG_FILE": str(CLOUDS)},
            )  # fmt: skip
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a process that was started here."""
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def worker_pids(self) -> list[int]:
        """The workers' process ids."""
        return [int(path.read_text().split()[0]) for path in sorted((self.folder / "run").glob("worker*.pid"))]

    def remove_all(self, web: Host) -> None:
        """Delete a host with a floating IP, its router r1, and sub1 of net1 between them; nothing is left."""
        client, until = self.client, self.until
        (floating,) = self.user.network.ips()
        client("floating", "ip", "delete", floating.id)
        client("server", "delete", "--wait", web.id)
        client("router", "unset", "r1", "--external-gateway")
        client("router", "remove", "subnet", "r1", "sub1")
        client("router", "delete", "r1")
        until("no server is left", lambda: not self.servers())
        until("no port is left", lambda: not self.own_ports())
        until("the network can go", lambda: self.try_client("network", "delete", "net1"))

    # What the operator sees

    def api(self, path: str) -> Any:
        """GET from the operator API; None when it answers 404 or not yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}{path}", timeout=10) as answer:
                return json.loads(answer.read())
        except (urllib.error.HTTPError, urllib.error.URLError, ConnectionError):
            return None

    def resource(self, router_id: str) -> dict[str, Any]:
        """What Astara knows of a router; empty when it knows nothing."""
        answer = self.api(f"/v1/resources/{router_id}")
        return answer["resource"] if answer else {}

    def shows(self, router: str, cloud: str = "user") -> tuple[str, str]:
        """Status and reason that `openstack router show` prints."""
        shown = self.client("router", "show", router, cloud=cloud)
        return shown["status"], shown.get("status_reason", "")

    def floating_status(self, floating_id: str) -> str:
        """What Neutron shows of a floating IP."""
        return str(self.admin.network.get_ip(floating_id).status)

    def services_alive(self) -> dict[str, int]:
        """How many of Astara's services `openstack network agent list` shows alive, by binary."""
        agents = self.client("network", "agent", "list", cloud="admin")
        return Counter(one["Binary"] for one in agents if one["Agent Type"].startswith("Astara") and one["Alive"])

    def agents_of(self, router: str) -> list[str]:
        """The L3 agents to which Neutron has given a router."""
        return [one["Agent Type"] for one in self.client("network", "agent", "list", "--router", router, cloud="admin")]

    def known(self) -> list[dict[str, Any]] | None:
        """All that Astara has: routers, and servers and ports that nobody needs; None when it does not say."""
        answers = [self.api(f"/v1/{name}") for name in ("resources", "findings")]
        if None in answers:
            return None
        return [*answers[0]["resources"], *answers[1]["findings"]]

    def addresses(self, server_id: str) -> str:
        """The addresses of an appliance's interfaces."""
        return self.hypervisor.run(server_id, "ip", "-oneline", "address").stdout

    def server_of(self, router_id: str) -> str | None:
        """The server that is a configured router's instance."""
        known = self.resource(router_id)
        return known["instances"][0]["server_id"] if known.get("state") == "configured" else None

    def refusal(self, *words: str, cloud: str = "user") -> str:
        """Why a command of the openstack client fails; empty when it does not."""
        code, _, errors = self.clients[cloud].run(*words)
        return errors if code else ""

    def has_route(self, server_id: str, address: str, next_hop: str) -> bool:
        """Whether an appliance sends what is for an address to a next hop of a tenant."""
        found = self.hypervisor.run(server_id, "ip", "route", "get", address).stdout
        return f" via {next_hop} " in found

    def servers(self) -> list[str]:
        """Names of Nova's servers that carry our mark."""
        return [server.name for server in self.admin.compute.servers(all_projects=True, name="^astara-")]

    def own_ports(self) -> list[str]:
        """Marks of Neutron's ports that are ours, with their networks."""
        ports = self.admin.network.ports()
        return [
            f"{port.description} on {port.network_id}"
            for port in ports
            if (mark := marks.PortMark.parse(port.description)) and mark.deployment == DEPLOYMENT
        ]

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        """Wait until a condition holds; what it answered. Fails with what the system knows."""
        started = time.monotonic()
        while True:
            if answer := condition():
                print(f"  {what}: after {time.monotonic() - started:.1f} s", flush=True)
                return answer
            if time.monotonic() - started > seconds:
                pytest.fail(f"{what}: not within {seconds} s\n{self._all_that_is_known()}")
            time.sleep(0.25)

    def _all_that_is_known(self) -> str:
        machines = [f"{machine.name} {machine.state}" for machine in self.hypervisor.machines()]
        consoles = [self.hypervisor.console(machine.id)[-2500:] for machine in self.hypervisor.machines()]
        return "\n".join(
            [
                f"ports {self.own_ports()}, servers {self.servers()}, machines {machines}",
                json.dumps(self.api("/v1/resources"))[:3000],
                *consoles,
            ]
        )
