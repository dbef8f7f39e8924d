"""A real OpenStack control plane on loopback, the system beside it, and an agent for each server that Nova boots.

The control plane is brought up by ../shared/openstack-rig when it does not run yet, and taken down again only then.
"""

import configparser
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openstack
import pytest
from openstack.connection import Connection

from services.common import marks

ROOT = Path(__file__).resolve().parents[2]
RIG = ROOT.parent / "shared" / "openstack-rig"
STATE = Path(os.environ.get("RIG_STATE", "/tmp/openstack-rig"))  # noqa: S108 - the rig's own default
SECRET = "a-secret-of-the-openstack-tests"
MANAGEMENT_CIDR = "127.67.0.0/16"
DEPLOYMENT = "rigtest"


@dataclass
class RealCloud:
    """The control plane, the system's processes, and a user with the openstack client."""

    folder: Path
    admin: Connection
    config: Path
    api_port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def client(self, *words: str, cloud: str = "user") -> Any:
        """Run the openstack client as a user would; answers with its JSON, or its text."""
        environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml"), "OS_CLOUD": cloud}
        quiet = words[1] in ("delete", "set", "unset", "add", "remove") or words[2] in ("set", "unset", "delete")
        format_ = [] if quiet else ["-f", "json"]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("openstack")), *words, *format_],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"openstack {' '.join(words)}: {done.stderr[-2000:]}"
        print(f"  $ openstack {' '.join(words)}", flush=True)
        return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else done.stdout.strip()

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start one of the system's processes; its output goes to a file."""
        with (self.folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], stdout=output, stderr=output,
                env={**os.environ, "OS_CLIENT_CONFIG_FILE": str(STATE / "clouds.yaml")},
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_orchestrator(self) -> subprocess.Popen[bytes]:
        """All services, with two workers."""
        run, logs = self.folder / "run", self.folder / "log"
        run.mkdir(exist_ok=True)
        logs.mkdir(exist_ok=True)
        return self.start(
            "orchestrator", "services.common.orchestrator", "--config-file", str(self.config), "--workers", "2",
            "--run-dir", str(run), "--log-dir", str(logs),
        )  # fmt: skip

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a process that `start` started."""
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def worker_pids(self) -> list[int]:
        """The workers' process ids."""
        return [int(path.read_text().split()[0]) for path in sorted((self.folder / "run").glob("worker*.pid"))]

    # What the operator sees

    def api(self, path: str) -> Any:
        """GET from the operator API; None when it answers 404 or not yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}{path}", timeout=10) as answer:
                return json.loads(answer.read())
        except (urllib.error.HTTPError, urllib.error.URLError, ConnectionError):
            return None

    def resource(self, router_id: str) -> dict[str, Any] | None:
        """What Astara knows of a router."""
        answer = self.api(f"/v1/resources/{router_id}")
        return answer["resource"] if answer else None

    def configuration(self, router_id: str) -> dict[str, Any] | None:
        """What a router's appliance says that it runs."""
        known = self.resource(router_id)
        if not known or not known["instances"]:
            return None
        instance = known["instances"][0]
        token = marks.appliance_token(SECRET, DEPLOYMENT, router_id, 0, instance["instance_id"])
        request = urllib.request.Request(
            f"http://{instance['management_addresses'][0]}:5000/v1/system/config",
            headers={"Authorization": f"Bearer {token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                configuration: dict[str, Any] = json.loads(answer.read())["configuration"]
                return configuration
        except (urllib.error.URLError, ConnectionError):
            return None

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        """Wait until a condition holds; what it answered. Fails with what the system knows."""
        started = time.monotonic()
        while True:
            if answer := condition():
                print(f"  {what}: after {time.monotonic() - started:.1f} s", flush=True)
                return answer
            if time.monotonic() - started > seconds:
                pytest.fail(
                    f"{what}: not within {seconds} s; ports {self.own_ports()}, servers {self.servers()}, "
                    f"resources: {json.dumps(self.api('/v1/resources'))[:3000]}"
                )
            time.sleep(0.5)

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Connection]:
    """An admin's connection to a control plane that answers."""
    if not (RIG / "up").exists():
        pytest.fail(f"{RIG} is missing: a real OpenStack control plane is needed beside this checkout")
    clouds = STATE / "clouds.yaml"
    environment = {**os.environ, "RIG_STATE": str(STATE)}
    was_up = _answers(clouds)
    if not was_up:
        subprocess.run([str(RIG / "up")], env=environment, check=True, timeout=1200)
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(clouds)
    with openstack.connect(cloud="rig") as connection:
        yield connection
    if not was_up:
        subprocess.run([str(RIG / "down")], env=environment, check=False, timeout=300)


def _answers(clouds: Path) -> bool:
    if not clouds.exists():
        return False
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(clouds)
    try:
        with openstack.connect(cloud="rig") as connection:
            next(connection.network.networks(), None)
    except Exception:  # whatever is wrong, `up` mends it or says why
        return False
    return True


@pytest.fixture
def real_cloud(control_plane: Connection, tmp_path: Path) -> Iterator[RealCloud]:
    """The system against the control plane: service user, management network, image, flavor, all services, agents."""
    admin = control_plane
    management, image, flavor, external = _prepare(admin)
    api_port = _free_port()
    config = tmp_path / "astara.ini"
    auth_url = admin.config.get_auth_args()["auth_url"]
    _write_clouds(tmp_path / "clouds.yaml", auth_url)
    _write_config(config, tmp_path, auth_url, api_port, {"management": management, "image": image, "flavor": flavor})
    cloud = RealCloud(tmp_path, admin, config, api_port)
    cloud.external = external  # type: ignore[attr-defined]
    try:
        cloud.start("appliances", "lab.real_cloud", "--cloud", "rig")
        yield cloud
    finally:
        for process in reversed(cloud.processes):
            if process.poll() is None:
                cloud.stop(process)
        _clean(admin)


def _prepare(admin: Connection) -> tuple[str, str, str, str]:
    identity, network = admin.identity, admin.network
    service = identity.find_project("service")
    role = identity.find_role("admin")
    user = identity.find_user("astara") or identity.create_user(name="astara", password="rig", domain_id="default")
    identity.assign_project_role_to_user(service, user, role)
    tenant = identity.find_project("rig-tenant") or identity.create_project(name="rig-tenant", domain_id="default")
    member = identity.find_user("rig-user") or identity.create_user(
        name="rig-user", password="rig", domain_id="default"
    )
    identity.assign_project_role_to_user(tenant, member, identity.find_role("member"))
    _clean(admin)
    management = network.create_network(name="rig-mgmt", project_id=service.id)
    network.create_subnet(
        name="rig-mgmt", network_id=management.id, cidr=MANAGEMENT_CIDR, ip_version=4, gateway_ip=None,
        is_dhcp_enabled=False, project_id=service.id,
    )  # fmt: skip
    external = network.create_network(
        name="rig-external", is_router_external=True, provider_network_type="flat",
        provider_physical_network="physnet1",
    )  # fmt: skip
    network.create_subnet(
        name="rig-ext4", network_id=external.id, cidr="172.24.4.0/24", ip_version=4, is_dhcp_enabled=False
    )
    image = admin.image.find_image("tiny")
    flavor = admin.compute.find_flavor("tiny")
    return management.id, image.id, flavor.id, external.id


def _clean(admin: Connection) -> None:
    """Remove what an earlier run that was cut short left behind; only objects of these tests."""
    network = admin.network
    for server in list(admin.compute.servers(all_projects=True, name="^astara-")):
        admin.compute.delete_server(server)
        admin.compute.wait_for_delete(server, interval=1, wait=60)
    tenant = admin.identity.find_project("rig-tenant")
    for server in list(admin.compute.servers(all_projects=True)):
        if tenant and server.project_id == tenant.id:
            admin.compute.delete_server(server)
            admin.compute.wait_for_delete(server, interval=1, wait=60)
    for port in list(network.ports()):
        mark = marks.PortMark.parse(port.description)
        if mark and mark.deployment == DEPLOYMENT:
            network.delete_port(port)
    if tenant:
        for fip in list(network.ips(project_id=tenant.id)):
            network.delete_ip(fip)
        for router in list(network.routers(project_id=tenant.id)):
            network.put(f"/routers/{router.id}", json={"router": {"routes": []}})
            for port in list(network.ports(device_id=router.id, device_owner="network:router_interface")):
                network.remove_interface_from_router(router, port_id=port.id)
            network.delete_router(router)
        for port in list(network.ports(project_id=tenant.id)):
            network.delete_port(port)
        for one in list(network.networks(project_id=tenant.id)):
            network.delete_network(one)
    for name in ("rig-shared", "rig-mgmt", "rig-external"):
        for one in list(network.networks(name=name)):
            for port in list(network.ports(network_id=one.id)):
                network.delete_port(port)
            network.delete_network(one)


def _write_clouds(path: Path, auth_url: str) -> None:
    def entry(user: str, project: str) -> dict[str, Any]:
        return {
            "auth": {
                "auth_url": auth_url, "username": user, "password": "rig", "project_name": project,
                "user_domain_id": "default", "project_domain_id": "default",
            },
            "region_name": "RegionOne", "identity_api_version": "3",
        }  # fmt: skip

    path.write_text(json.dumps({"clouds": {"admin": entry("admin", "admin"), "user": entry("rig-user", "rig-tenant")}}))


def _write_config(path: Path, folder: Path, auth_url: str, api_port: int, ids: dict[str, str]) -> None:
    grpc_ports = {name: _free_port() for name in ("scheduler", "notifier", "health", "metadata", "rpcapi", "worker")}
    listen = {name: f"127.0.0.1:{port}" for name, port in grpc_ports.items()}
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_dict(
        {
            "DEFAULT": {"deployment": DEPLOYMENT, "host": "rig", "log_format": "json"},
            "grpc": {"scheduler": listen["scheduler"]},
            "openstack": {
                "auth_type": "password", "auth_url": auth_url, "username": "astara", "password": "rig",
                "project_name": "service", "user_domain_id": "default", "project_domain_id": "default",
            },
            "claim": {"claim": "all"},
            "scheduler": {"listen": listen["scheduler"], "database": f"sqlite:///{folder}/scheduler.db"},
            "notifier": {
                "listen": listen["notifier"], "broker": "amqp://openstack:rig@127.0.0.1:5672//",
                "queue": f"astara.{DEPLOYMENT}.{api_port}",
            },
            "health": {"listen": listen["health"], "changed_interval": "5", "full_interval": "20"},
            "worker": {"listen": listen["worker"]},
            "router": {
                "image_id": ids["image"], "flavor": ids["flavor"], "management_network_id": ids["management"],
                "orchestrator_addresses": "127.0.0.1", "boot_look_interval": "0.5",
            },
            "appliance": {"secret": SECRET},
            "metadata": {
                "listen": "127.0.0.1", "port": str(_free_port()), "grpc_listen": listen["metadata"],
                "nova_metadata_url": "http://127.0.0.1:8775", "shared_secret": "rig",
            },
            "rpcapi": {
                "listen": "127.0.0.1", "port": str(api_port), "grpc_listen": listen["rpcapi"], "auth": "none",
                "query_rate": "1000",
            },
        }
    )  # fmt: skip
    with path.open("w") as file:
        ini.write(file)
