"""Where the lab keeps things and on which ports it listens.

Everything lies in one folder (`.lab` beside the code, or $ASTARA_LAB_HOME), which `down` removes. Every process of the
lab carries that folder's path in its environment under MARK: that is how leftovers are found, whoever started them.
"""

import dataclasses
import ipaddress
import json
import os
import secrets
import socket
import subprocess
from pathlib import Path

MARK = "ASTARA_LAB_HOME"
TENANTS = ("red", "blue")
WORKERS = 2
PORT_STEP = 100
_MANAGEMENT = int(ipaddress.IPv6Address("fdca:3ba5:a17a:acda::"))


@dataclasses.dataclass(frozen=True)
class Ports:
    """The documented ports; all of them move up together by PORT_STEP when one is taken."""

    offset: int = 0

    @property
    def api(self) -> int:
        """The operator API."""
        return 44250 + self.offset

    def grpc(self, service: str) -> int:
        """GRPC of a service."""
        names = ("scheduler", "notifier", "health", "worker-1", "rpcapi", "metadata")
        return 44264 + self.offset if service == "worker-2" else 44251 + self.offset + names.index(service)

    @property
    def metadata(self) -> int:
        """The metadata service."""
        return 9697 + self.offset

    @property
    def broker(self) -> int:
        """AMQP; 5672 is left to a broker that the machine has already."""
        return 5673 + self.offset

    @property
    def broker_distribution(self) -> int:
        """Erlang's own port of the RabbitMQ node."""
        return 25673 + self.offset

    @property
    def epmd(self) -> int:
        """The node's own epmd; 4369 is left to the machine's."""
        return 4370 + self.offset

    @property
    def cloud(self) -> int:
        """First of the simulated cloud's six."""
        return 35000 + self.offset

    @property
    def management_cidr(self) -> str:
        """Addresses of appliances that have no network of their own; 127.64.0.0/16 is left to tests."""
        return f"127.{65 + self.offset // PORT_STEP}.0.0/16"

    def all(self) -> list[int]:
        """Every port of the lab on 127.0.0.1."""
        services = ("scheduler", "notifier", "health", "worker-1", "rpcapi", "metadata", "worker-2")
        cloud = range(self.cloud, self.cloud + 6)
        broker = (self.broker, self.broker_distribution, self.epmd)
        return [self.api, self.metadata, *broker, *cloud, *(self.grpc(service) for service in services)]

    def all_free(self) -> bool:
        """Whether nobody listens on any of them."""
        return all(_is_free(port) for port in self.all())


def free_ports() -> Ports:
    """The documented ports, or the next free set. OSError when there is none."""
    for offset in range(0, 50 * PORT_STEP, PORT_STEP):
        ports = Ports(offset)
        if ports.all_free():
            return ports
    raise OSError("no free set of ports between the documented ones and 5,000 above")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_management_network() -> str:
    """The documented management network of appliances, or the next one to which this machine has no route yet."""
    shown = subprocess.run(
        ("ip", "-6", "-json", "route", "show", "table", "all"), capture_output=True, text=True, check=True
    )
    destinations = [route["dst"] for route in json.loads(shown.stdout or "[]") if route["dst"] != "default"]
    taken = [ipaddress.IPv6Network(destination, strict=False) for destination in destinations]
    for number in range(256):
        network = ipaddress.IPv6Network((_MANAGEMENT + (number << 64), 64))
        if not any(network.overlaps(one) for one in taken):
            return str(network)
    raise OSError("no management network is free")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one lab is; written once by `up`, read by everything else."""

    offset: int
    broker: str
    """`rabbitmq` or `embedded`."""
    broker_password: str
    appliance_secret: str
    metadata_secret: str
    management_cidr: str
    """Network of the appliances' management addresses."""
    namespaces: bool = False
    """Servers are machines made of namespaces; otherwise appliances are agents in the simulated cloud's process."""

    @property
    def orchestrator_address(self) -> str:
        """Where appliances reach the metadata service."""
        return str(ipaddress.ip_network(self.management_cidr)[1]) if self.namespaces else "127.0.0.1"

    @property
    def ports(self) -> Ports:
        """Its ports."""
        return Ports(self.offset)

    @property
    def amqp_url(self) -> str:
        """Its broker."""
        return f"amqp://lab:{self.broker_password}@127.0.0.1:{self.ports.broker}//"

    @property
    def api_url(self) -> str:
        """Its operator API."""
        return f"http://127.0.0.1:{self.ports.api}"

    @property
    def auth_url(self) -> str:
        """Its Keystone."""
        return f"http://127.0.0.1:{self.ports.cloud}/v3"

    @property
    def cloud_url(self) -> str:
        """The simulated cloud's own API: faults, counters, health."""
        return f"http://127.0.0.1:{self.ports.cloud + 5}/lab"

    @classmethod
    def new(cls, broker: str, *, namespaces: bool = False) -> "Plan":
        """A lab on free ports."""
        ports = free_ports()
        management = free_management_network() if namespaces else ports.management_cidr
        password, appliance, metadata = (secrets.token_hex(16) for _ in range(3))
        return cls(ports.offset, broker, password, appliance, metadata, management, namespaces)


class Layout:
    """Paths below the lab's folder."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.logs = self.home / "log"
        self.run = self.home / "run"
        self.config = self.home / "orchestrator.ini"
        self.clouds = self.home / "clouds.yaml"
        self.database = self.home / "scheduler.db"
        self.broker = self.home / "rabbitmq"
        self.hypervisor = self.home / "hypervisor"
        self.ready = self.run / "ready"
        self.supervisor = self.run / "supervisor.json"
        self._plan = self.home / "plan.json"

    @classmethod
    def default(cls) -> "Layout":
        """$ASTARA_LAB_HOME, or `.lab` in the folder that holds the code."""
        return cls(Path(os.environ.get(MARK) or Path(__file__).parent.parent / ".lab"))

    def environment(self) -> dict[str, str]:
        """The environment of the lab's processes. They may keep compiled code: each is started many times."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, MARK: str(self.home), "PYTHONUNBUFFERED": "1"}

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan; it holds secrets of the lab, so only its owner reads it."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._plan.touch(mode=0o600)
        self._plan.write_text(json.dumps(dataclasses.asdict(plan), indent=2), encoding="utf-8")

    def read_plan(self) -> Plan:
        """The plan; FileNotFoundError when there is no lab."""
        return Plan(**json.loads(self._plan.read_text(encoding="utf-8")))
