"""The cloud that the contract suite runs against: the simulation, or a real one named by the environment.

`ASTARA_TEST_CLOUD=rig` runs the same tests against a real OpenStack: the one that `OS_CLIENT_CONFIG_FILE` and
`OS_CLOUD` name (an administrator; it has an image and a flavor called `tiny`), or else the rig beside this checkout,
brought up as `make test-openstack` does. Whatever a test makes is removed again.
"""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import openstack
import pytest
from openstack.connection import Connection
from openstack.exceptions import ConflictException, NotFoundException

from lab import rig
from lab.cloud import CloudOptions, SimulatedCloud

REAL = os.environ.get("ASTARA_TEST_CLOUD") == "rig"
PATIENCE = 120.0 if REAL else 10.0


class Clouds:
    """Connections to one cloud, as its administrator, as Astara's service user and as tenants."""

    def __init__(self, admin: Connection, stack: ExitStack) -> None:
        self.admin = admin
        self._auth_url = admin.config.get_auth_args()["auth_url"]
        self._stack = stack
        self.service = self._account(self._project("contract-service"), "admin")
        self.tenants = [self._account(self._project(f"contract-{colour}"), "member") for colour in ("red", "blue")]
        self.image = admin.image.find_image("tiny", ignore_missing=False)
        self.flavor = admin.compute.find_flavor("tiny", ignore_missing=False)
        self.external = self._external()

    def _project(self, name: str) -> Any:
        project = self.admin.identity.create_project(name=f"{name}-{uuid.uuid4().hex[:6]}", domain_id="default")
        self._stack.callback(self.admin.identity.delete_project, project)
        return project

    def _account(self, project: Any, role: str) -> Connection:
        identity = self.admin.identity
        user = identity.create_user(name=f"user-{project.name}", password="contract", domain_id="default")
        self._stack.callback(identity.delete_user, user)
        identity.assign_project_role_to_user(project, user, identity.find_role(role))
        connection = Connection(
            auth={
                "auth_url": self._auth_url,
                "username": user.name,
                "password": "contract",
                "project_id": project.id,
                "user_domain_id": "default",
            },
            region_name="RegionOne",
        )
        self._stack.callback(self._remove_default_group, project.id)
        self._stack.callback(connection.close)
        return connection

    def _remove_default_group(self, project_id: str) -> None:
        for group in self.admin.network.security_groups(project_id=project_id):
            self.admin.network.delete_security_group(group)

    def _external(self) -> Any:
        for network in self.admin.network.networks(is_router_external=True):
            return network
        network = self.admin.network.create_network(
            name="contract-external",
            is_router_external=True,
            provider_network_type="flat",
            provider_physical_network="physnet1",
        )
        self._stack.callback(self.admin.network.delete_network, network)
        for version, cidr in ((4, "203.0.113.0/24"), (6, "2001:db8:e::/64")):
            self.admin.network.create_subnet(
                network_id=network.id, ip_version=version, cidr=cidr, is_dhcp_enabled=False
            )
        return network


class Made:
    """Makes objects and removes them when the test ends, the last first."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def gone(self, remove: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Call this at the end; what the test has removed itself is no error."""

        def quietly() -> None:
            with suppress(NotFoundException):
                remove(*arguments, **keywords)

        self._stack.callback(quietly)

    def network(self, cloud: Connection, cidr: str | None = "10.61.0.0/24", **attributes: Any) -> Any:
        network = cloud.network.create_network(name="contract", **attributes)
        self.gone(cloud.network.delete_network, network.id, ignore_missing=False)
        if cidr:
            self.subnet(cloud, network, cidr)
        return network

    def subnet(self, cloud: Connection, network: Any, cidr: str, **attributes: Any) -> Any:
        version = 6 if ":" in cidr else 4
        return cloud.network.create_subnet(network_id=network.id, ip_version=version, cidr=cidr, **attributes)

    def port(self, cloud: Connection, network: Any, **attributes: Any) -> Any:
        port = cloud.network.create_port(network_id=network.id, **attributes)
        self.gone(self._drop_port, cloud, port.id)
        return port

    def router(self, cloud: Connection, **attributes: Any) -> Any:
        router = cloud.network.create_router(name="contract", **attributes)
        self.gone(self._drop_router, cloud, router.id)
        return router

    def server(self, cloud: Connection, clouds: Clouds, **attributes: Any) -> Any:
        attributes.setdefault("name", "contract")
        server = cloud.compute.create_server(image_id=clouds.image.id, flavor_id=clouds.flavor.id, **attributes)
        self.gone(self._drop_server, cloud, server.id)
        return until(lambda: cloud.compute.get_server(server.id), lambda server: server.status == "ACTIVE")

    @staticmethod
    def _drop_port(cloud: Connection, port_id: str) -> None:
        with suppress(ConflictException):
            cloud.network.delete_port(port_id, ignore_missing=False)

    @staticmethod
    def _drop_router(cloud: Connection, router_id: str) -> None:
        cloud.network.put(f"/routers/{router_id}", json={"router": {"routes": []}})
        for floating in cloud.network.ips(router_id=router_id):
            cloud.network.delete_ip(floating)
        for port in cloud.network.ports(device_id=router_id):
            if port.device_owner == "network:router_interface":
                cloud.network.remove_interface_from_router(router_id, port=port.id)
        cloud.network.delete_router(router_id, ignore_missing=False)

    @staticmethod
    def _drop_server(cloud: Connection, server_id: str) -> None:
        cloud.compute.delete_server(server_id, ignore_missing=False)
        until(lambda: list(cloud.compute.servers(uuid=server_id)), lambda servers: not servers)


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Look again until it is good; the last look. Clouds finish later than they answer, and offer no event."""
    end = time.monotonic() + PATIENCE
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < end, f"still {seen}"
        time.sleep(0.5 if REAL else 0.01)


class Simulation:
    """A simulated cloud in a thread with a loop of its own, because the SDK blocks."""

    def __init__(self, options: CloudOptions) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="simulated-cloud")
        self.cloud = SimulatedCloud(options)
        self.cloud.seed()

    def __enter__(self) -> SimulatedCloud:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.cloud.start(), self.loop).result(30)
        return self.cloud

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.cloud.stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def connect(cloud: SimulatedCloud, user: str = "admin", project: str = "admin") -> Connection:
    """A connection of one of the simulation's accounts."""
    return Connection(
        auth={
            "auth_url": cloud.auth_url,
            "username": user,
            "password": cloud.options.password,
            "project_name": project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
        region_name="RegionOne",
    )


@pytest.fixture
def simulation() -> Iterator[SimulatedCloud]:
    """A simulated cloud of the test's own, whichever cloud the suite runs against."""
    with Simulation(CloudOptions()) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def clouds() -> Iterator[Clouds]:
    """The cloud under test."""
    with ExitStack() as stack:
        yield Clouds(_administrator(stack), stack)


def _administrator(stack: ExitStack) -> Connection:
    if REAL and "OS_CLOUD" not in os.environ:
        admin, _ = stack.enter_context(rig.control_plane(rig.PLAIN))
        return admin
    admin = openstack.connect() if REAL else connect(stack.enter_context(Simulation(CloudOptions())))
    stack.callback(admin.close)
    return admin


@pytest.fixture
def admin(clouds: Clouds) -> Connection:
    """The cloud's administrator."""
    return clouds.admin


@pytest.fixture
def service(clouds: Clouds) -> Connection:
    """Astara's service user: administrator in a project of its own."""
    return clouds.service


@pytest.fixture
def tenant(clouds: Clouds) -> Connection:
    """An ordinary member of a project."""
    return clouds.tenants[0]


@pytest.fixture
def neighbour(clouds: Clouds) -> Connection:
    """An ordinary member of another project."""
    return clouds.tenants[1]


@pytest.fixture(name="connect")
def connect_fixture() -> Callable[..., Connection]:
    """Makes connections of the simulation's accounts."""
    return connect


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """Waits for what a cloud does after its answer."""
    return until


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes objects that go away with the test."""
    with ExitStack() as stack:
        yield Made(stack)
