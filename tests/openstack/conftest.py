"""A real OpenStack control plane on loopback whose Nova boots machines, and the system beside it."""

import configparser
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from rig_client import Client
from rig_cloud import DEPLOYMENT, RealCloud

from lab import rig
from lab.hypervisor.hypervisor import Hypervisor
from lab.layout import free_management_network
from lab.ports import free_port
from services.common import marks

SECRET = "a-secret-of-the-openstack-tests"
TENANTS = {"rig-tenant": "rig-user", "rig-other": "rig-other-user"}
"""Two tenants that know nothing of each other, with a user each."""
EXTERNAL = {"172.24.4.0/24": "172.24.4.1", "2001:db8::/64": "2001:db8::2"}


@pytest.fixture(scope="session")
def neutron(request: pytest.FixtureRequest) -> rig.Neutron:
    """Which Neutron there is; the one with Astara's plugin unless a test's parameter says otherwise."""
    chosen: rig.Neutron = getattr(request, "param", rig.WITH_PLUGIN)
    return chosen


@pytest.fixture(scope="session")
def control_plane(neutron: rig.Neutron) -> Iterator[tuple[Connection, Hypervisor]]:
    """An admin's connection to a control plane that answers, and its hypervisor."""
    with rig.control_plane(neutron) as made:
        yield made


@dataclass(frozen=True)
class _Prepared:
    management: str
    cidr: str
    image: str
    flavor: str
    external: str


@pytest.fixture
def real_cloud(
    control_plane: tuple[Connection, Hypervisor], neutron: rig.Neutron, tmp_path: Path
) -> Iterator[RealCloud]:
    """The system against the control plane: service user, networks, image, flavor; the orchestrator is not started."""
    admin, hypervisor = control_plane
    prepared = _prepare(admin, hypervisor)
    api_port = free_port()
    config, clouds = tmp_path / "astara.ini", tmp_path / "clouds.yaml"
    auth_url = admin.config.get_auth_args()["auth_url"]
    _write_clouds(clouds, auth_url)
    claim = "provider" if neutron is rig.BESIDE_AGENTS else "all"
    _write_config(config, tmp_path, auth_url, api_port, claim, prepared)
    user = Connection(config=OpenStackConfig(config_files=[str(clouds)], load_envvars=False).get_one(cloud="user"))
    other = Connection(config=OpenStackConfig(config_files=[str(clouds)], load_envvars=False).get_one(cloud="other"))
    clients = {name: Client(clouds, name) for name in ("user", "other", "admin")}
    cloud = RealCloud(tmp_path, admin, user, other, clients, hypervisor, config, api_port, prepared.external)
    try:
        with clients["user"], clients["other"], clients["admin"]:
            yield cloud
    finally:
        for process in reversed(cloud.processes):
            if process.poll() is None:
                cloud.stop(process)
        user.close()
        other.close()
        _clean(admin)
        hypervisor.clear()


def _prepare(admin: Connection, hypervisor: Hypervisor) -> _Prepared:
    identity, network = admin.identity, admin.network
    service = identity.find_project("service")
    user = identity.find_user("astara") or identity.create_user(name="astara", password="rig", domain_id="default")
    for role in ("admin", rig.ORCHESTRATOR):
        identity.assign_project_role_to_user(service, user, identity.find_role(role) or identity.create_role(name=role))
    for project, name in TENANTS.items():
        tenant = identity.find_project(project) or identity.create_project(name=project, domain_id="default")
        member = identity.find_user(name) or identity.create_user(name=name, password="rig", domain_id="default")
        identity.assign_project_role_to_user(tenant, member, identity.find_role("member"))
    _clean(admin)
    cidr = ipaddress.ip_network(free_management_network())
    management = network.create_network(name="rig-mgmt", project_id=service.id)
    network.create_subnet(
        name="rig-mgmt", network_id=management.id, cidr=str(cidr), ip_version=6, gateway_ip=None,
        is_dhcp_enabled=False, project_id=service.id,
        allocation_pools=[{"start": str(cidr[16]), "end": str(cidr[0xFFFF])}],
    )  # fmt: skip
    external = network.create_network(
        name="rig-external", is_router_external=True, provider_network_type="flat",
        provider_physical_network="physnet1",
    )  # fmt: skip
    for prefix, gateway in EXTERNAL.items():
        network.create_subnet(
            network_id=external.id, cidr=prefix, gateway_ip=gateway, ip_version=6 if ":" in prefix else 4,
            is_dhcp_enabled=False,
        )  # fmt: skip
    hypervisor.clear()
    hypervisor.reach(management.id, [f"{cidr[1]}/64"])
    hypervisor.outside(external.id, [f"{gateway}/{prefix.partition('/')[2]}" for prefix, gateway in EXTERNAL.items()])
    image, flavor = admin.image.find_image("tiny"), admin.compute.find_flavor("tiny")
    return _Prepared(management.id, str(cidr), image.id, flavor.id, external.id)


def _clean(admin: Connection) -> None:
    """Remove what an earlier run that was cut short left behind; only objects of these tests."""
    network = admin.network
    tenants = {found.id for name in TENANTS if (found := admin.identity.find_project(name))}
    ours = [
        server
        for server in admin.compute.servers(all_projects=True)
        if server.name.startswith("astara-") or server.project_id in tenants
    ]
    for server in ours:
        admin.compute.delete_server(server)
    for server in ours:
        admin.compute.wait_for_delete(server, interval=1, wait=60)
    for port in list(network.ports()):
        mark = marks.PortMark.parse(port.description)
        if mark and mark.deployment == DEPLOYMENT:
            network.delete_port(port)
    for tenant in tenants:
        _clean_tenant(network, tenant)
    for policy in list(network.qos_policies(name="rig-slow") if network.find_extension("qos") else ()):
        network.delete_qos_policy(policy)
    for flavor in list(network.flavors(name="astara")):
        network.delete_flavor(flavor)
        for profile in flavor.service_profile_ids:
            network.delete_service_profile(profile)
    for name in ("rig-shared", "rig-mgmt", "rig-external"):
        for one in list(network.networks(name=name)):
            for port in list(network.ports(network_id=one.id)):
                network.delete_port(port)
            network.delete_network(one)


def _clean_tenant(network: Any, tenant: str) -> None:
    for fip in list(network.ips(project_id=tenant)):
        for forwarding in list(network.floating_ip_port_forwardings(fip)):
            network.delete_floating_ip_port_forwarding(fip, forwarding)
        network.delete_ip(fip)
    for router in list(network.routers(project_id=tenant)):
        network.put(f"/routers/{router.id}", json={"router": {"routes": []}})
        for port in list(network.ports(device_id=router.id, device_owner="network:router_interface")):
            network.remove_interface_from_router(router, port_id=port.id)
        network.delete_router(router)
    for port in list(network.ports(project_id=tenant)):
        network.delete_port(port)
    for one in list(network.networks(project_id=tenant)):
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

    (tenant, user), (other, other_user) = TENANTS.items()
    entries = {"admin": entry("admin", "admin"), "user": entry(user, tenant), "other": entry(other_user, other)}
    path.write_text(json.dumps({"clouds": entries}))


def _write_config(path: Path, folder: Path, auth_url: str, api_port: int, claim: str, prepared: _Prepared) -> None:
    orchestrator = str(ipaddress.ip_network(prepared.cidr)[1])
    grpc_ports = {name: free_port() for name in ("scheduler", "notifier", "health", "metadata", "rpcapi", "worker")}
    listen = {name: f"127.0.0.1:{port}" for name, port in grpc_ports.items()}
    metadata_port = str(free_port())
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_dict(
        {
            "DEFAULT": {"deployment": DEPLOYMENT, "host": "rig", "log_format": "json"},
            "grpc": {"scheduler": listen["scheduler"]},
            "openstack": {
                "auth_type": "password", "auth_url": auth_url, "username": "astara", "password": "rig",
                "project_name": "service", "user_domain_id": "default", "project_domain_id": "default",
            },
            "claim": {"claim": claim},
            "scheduler": {
                "listen": listen["scheduler"], "database": f"sqlite:///{folder}/scheduler.db",
                "presence_interval": "5",
            },
            "notifier": {
                "listen": listen["notifier"], "broker": "amqp://openstack:rig@127.0.0.1:5672//",
                "queue": f"astara.{DEPLOYMENT}.{api_port}",
            },
            "health": {
                "listen": listen["health"], "changed_interval": "5", "full_interval": "20", "poll_interval": "5",
            },
            "worker": {"listen": listen["worker"]},
            "router": {
                "image_id": prepared.image, "flavor": prepared.flavor, "management_network_id": prepared.management,
                "orchestrator_addresses": orchestrator, "metadata_port": metadata_port, "boot_look_interval": "0.5",
                "boot_timeout": "90", "replug_timeout": "30",
            },
            "appliance": {"secret": SECRET, "dead_after": "5"},
            "metadata": {
                "listen": orchestrator, "port": metadata_port, "grpc_listen": listen["metadata"],
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
