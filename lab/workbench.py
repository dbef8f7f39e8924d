"""One worker's machines against the simulated cloud, in one event loop and without a scheduler: for tests and benches.

What is real: the driver, the machine, the dispatcher, openstacksdk over HTTP, the appliances' agents over HTTP. What is
left out: the Work stream; events are delivered straight into the inboxes and this worker owns every shard.
"""

import asyncio
import json
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from astara.event.v1 import event_pb2 as event
from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from astara_appliance.host import ApplianceHost
from openstack.connection import Connection

from lab.cloud import AppliancesInProcess, CloudOptions, SimulatedCloud
from lab.cloud.server import MANAGEMENT_NETWORK
from lab.cloud.store import Row
from lab.ports import free_port
from services.common.clock import Clock, SystemClock
from services.worker.appliance import ApplianceClient
from services.worker.cloud import Api, Cloud, Json, Params
from services.worker.dispatch import Dispatcher
from services.worker.flags import DebugFlags
from services.worker.inbox import BITS
from services.worker.machine import Machine, RetryPolicy
from services.worker.neutron import Neutron
from services.worker.nova import Nova
from services.worker.preflight import Preflight
from services.worker.report import Reporter
from services.worker.resource import ManagedResource
from services.worker.router import RouterDriver
from services.worker.router_environment import RouterEnvironment
from services.worker.safety import Budget
from services.worker.settings import ApplianceSettings, RouterSettings, WorkerSettings
from services.worker.states import Action, InstanceState

SECRET = "a-secret-of-the-lab-only"
USER = event.PRIORITY_USER

_BLOCKS = 100
"""Of loopback addresses, each for one bench."""
_RESERVED_PORT = 9599
"""Whoever listens on it at the first address of a block has the block. Appliances use others, from 9600 on."""

Tap = Callable[[str, str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TenantRouter:
    """A tenant's network, subnet and router, as `Workbench.tenant_router` made them."""

    tenant_id: str
    router_id: str
    network_id: str
    subnet_id: str
    connection: Connection


class _Tapped:
    """An API of the cloud whose calls, once they are answered, are shown to a tap before the worker goes on."""

    def __init__(self, service: str, api: Api, tap: Tap) -> None:
        self._service = service
        self._api = api
        self._tap = tap

    async def get(self, path: str, params: Params | None = None) -> Json:
        answer = await self._api.get(path, params)
        await self._tap(self._service, "GET", path)
        return answer

    async def post(self, path: str, body: Json) -> Json:
        answer = await self._api.post(path, body)
        await self._tap(self._service, "POST", path)
        return answer

    async def put(self, path: str, body: Json) -> Json:
        answer = await self._api.put(path, body)
        await self._tap(self._service, "PUT", path)
        return answer

    async def delete(self, path: str) -> None:
        await self._api.delete(path)
        await self._tap(self._service, "DELETE", path)


class Workbench:
    """Start it, make tenants' routers, deliver events, wait for states."""

    def __init__(
        self,
        options: CloudOptions | None = None,
        *,
        cloud: dict[str, Any] | None = None,
        router: dict[str, Any] | None = None,
        appliance: dict[str, Any] | None = None,
        worker: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.host = ApplianceHost(metadata=True)
        self.hypervisor = AppliancesInProcess(self.host)
        # Benches may run side by side: each has a port for its appliances' API, and addresses of its own for their
        # other ports.
        self._port = free_port()
        cidr, self._reserved = _free_block(self._port)
        self.cloud = SimulatedCloud(options or CloudOptions(management_cidr=cidr, **(cloud or {})), self.hypervisor)
        self.clock = clock or SystemClock()
        self.claims: Callable[[dict[str, Any]], bool] = lambda _router: True
        self.epoch = (1, 1)
        self.owns = True
        self._router = router or {}
        self._appliance = appliance or {}
        self._worker = worker or {}
        self._connections: dict[tuple[str, str], Connection] = {}
        self.tap: Tap | None = None
        """Awaited after each call to Neutron and Nova (service, method, path); a test may crash the worker in it."""

    async def start(self) -> "Workbench":
        """Start the cloud and one worker's machines."""
        await self.cloud.start()
        self.cloud.seed()
        await self.start_worker()
        return self

    async def start_worker(self) -> None:
        """A worker that knows nothing yet, as after a restart."""
        management = next(row for row in self.cloud.network.networks.table if row["name"] == MANAGEMENT_NETWORK)
        image = next(row for row in self.cloud.image.images if row["name"] == "astara")
        router_settings = replace(
            RouterSettings(image["id"], "m1.astara", management["id"], boot_look_interval=0.1),
            orchestrator_addresses=("127.0.0.1",), **self._router,
        )  # fmt: skip
        appliance_settings = replace(
            ApplianceSettings(SECRET, port=self._port, alive_retry_interval=0.05, alive_timeout=1.0, dead_after=0.3),
            **self._appliance,
        )
        settings = replace(WorkerSettings(first_retry=0.1, last_retry=5.0), **self._worker)
        self._api = Cloud(self.connect("astara", "service"), settings)
        self.neutron = neutron = Neutron(_Tapped("neutron", self._api.neutron, self._tapped), "lab")
        self.nova_api = _Tapped("nova", self._api.nova, self._tapped)
        nova = Nova(self.nova_api, "lab")
        facts, findings = await Preflight(self._api, neutron, router_settings, appliance_settings).look()
        if facts is None:
            raise RuntimeError("; ".join(findings))
        self.appliances = ApplianceClient(appliance_settings)
        self.flags = DebugFlags()
        self.reporter = Reporter("workbench", self.flags, self.clock)
        environment = RouterEnvironment(
            "lab", router_settings, appliance_settings, facts, lambda router: self.claims(router),  # noqa: PLW0108 - a test may change it

            lambda _resource: self.epoch, self._api.glance, self._peers, self.appliances.certificates.boot_files,
            neutron.zones_are_nova,
            lambda: str(uuid.uuid4()), self.clock,
        )  # fmt: skip
        self.driver = RouterDriver(
            neutron, nova, self.appliances, environment, self.reporter,
            removals=Budget(self.clock, lambda: len(self.dispatcher), 5, 0.02, 3600.0),
            deaths=Budget(self.clock, lambda: len(self.dispatcher), 3, 0.1, 60.0),
        )  # fmt: skip
        machine = Machine(
            self.driver, self.reporter, lambda _resource: self.owns, self.clock, lambda: str(uuid.uuid4()),
            RetryPolicy(settings.first_retry, settings.last_retry, settings.outage_retry),
        )  # fmt: skip
        self.gone: list[str] = []
        self.dispatcher = Dispatcher(machine, self.flags, self.clock, settings.max_running, self._forgotten)

    def _peers(self, resource: ManagedResource) -> list[ManagedResource]:
        return [other for other in self.dispatcher if other is not resource and other.instance is not None]

    async def _tapped(self, service: str, method: str, path: str) -> None:
        if self.tap is not None:
            await self.tap(service, method, path)

    def _forgotten(self, resource: ManagedResource) -> None:
        self.gone.append(resource.resource_id)
        self.reporter.forgotten(resource)

    async def crash_worker(self) -> None:
        """End the worker wherever it is, as a crash would: nothing is finished, nothing is told to anybody."""
        await self.dispatcher.abandon()
        await self.appliances.close()
        self._api.close()

    async def stop_worker(self) -> None:
        """End the worker as a crash would, but for letting calls under way end."""
        await self.dispatcher.finish(5.0)
        await self.appliances.close()
        self._api.close()

    async def stop(self) -> None:
        """End everything."""
        await self.stop_worker()
        await self.hypervisor.close()
        await self.host.close()
        for connection in self._connections.values():
            connection.close()
        await self.cloud.stop()
        self._reserved.close()

    def connect(self, user: str, project: str) -> Connection:
        """An SDK connection, kept for the next who asks; its calls block, so run them with `asyncio.to_thread`."""
        if (known := self._connections.get((user, project))) is not None:
            return known
        connection = Connection(
            auth={
                "auth_url": self.cloud.auth_url, "username": user, "password": self.cloud.options.password,
                "project_name": project, "user_domain_id": "default", "project_domain_id": "default",
            },
            region_name="RegionOne",
        )  # fmt: skip
        self._connections[user, project] = connection
        return connection

    async def tenant_router(self, tenant: str, cidr: str = "10.0.0.0/24", *, gateway: bool = True) -> TenantRouter:
        """As a user would: network, subnet, router with gateway, interface."""
        if not self.cloud.identity.projects.find("name", tenant):
            self.cloud.tenant(tenant)
        connection = self.connect(tenant, tenant)

        def make() -> TenantRouter:
            network = connection.network.create_network(name=f"{tenant}-net")
            subnet = connection.network.create_subnet(network_id=network.id, cidr=cidr, ip_version=4)
            external = connection.network.find_network("public")
            info = {"external_gateway_info": {"network_id": external.id}} if gateway else {}
            router = connection.network.create_router(name=f"{tenant}-router", **info)
            connection.network.add_interface_to_router(router, subnet_id=subnet.id)
            return TenantRouter(router.project_id, router.id, network.id, subnet.id, connection)

        return await asyncio.to_thread(make)

    def deliver(
        self,
        made: TenantRouter,
        *actions: Action,
        revision: int = 0,
        operations: tuple[pb.Operation, ...] = (),
        priority: "event.Priority.ValueType" = USER,
    ) -> None:
        """Put actions and operators' commands into a router's inbox."""
        self.dispatcher.deliver(
            work.Hint(
                resource_id=made.router_id, tenant_id=made.tenant_id, kind=pb.RESOURCE_KIND_ROUTER,
                actions=sum(BITS[action] for action in actions), revision=revision, priority=priority,
                operations=operations,
            )
        )  # fmt: skip

    def remember(self, made: TenantRouter) -> ManagedResource:
        """Give the worker a router of which it knows nothing and that nothing asks for; its memory of it."""
        self.deliver(made, Action.POLL)
        resource = self.resource(made)
        resource.inbox.take()
        return resource

    def resource(self, made: TenantRouter) -> ManagedResource:
        """The worker's memory of a router; KeyError when it has none."""
        found = self.dispatcher.get(made.router_id)
        if found is None:
            raise KeyError(made.router_id)
        return found

    async def until(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Wait for a condition; TimeoutError says what the worker was doing."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 - any condition, not one event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise TimeoutError(str(self.dispatcher.diagnosis())) from None

    async def until_idle(self, made: TenantRouter, state: InstanceState = InstanceState.CONFIGURED) -> ManagedResource:
        """Wait until a router is in a state and nothing is left to do for it."""

        def settled() -> bool:
            resource = self.dispatcher.get(made.router_id)
            return bool(resource and resource.state is state and not resource.inbox and resource.hand is None)

        await self.until(settled)
        return self.resource(made)

    def appliance_configuration(self, made: TenantRouter) -> dict[str, Any]:
        """What a router's appliance runs."""
        instance = self.resource(made).instance
        if instance is None:
            raise KeyError(f"{made.router_id} has no instance")
        configuration: dict[str, Any] = json.loads(self.host.appliance(instance.boot_id).configuration)
        return configuration

    def own_servers(self) -> list[Row]:
        """Servers with our mark."""
        return [row for row in self.cloud.servers.table if "astara_resource" in row["metadata"]]

    def own_ports(self) -> list[Row]:
        """Ports with our mark."""
        return [r for r in self.cloud.network.ports.table if str(r.get("description", "")).startswith("astara:")]


def _free_block(first: int) -> tuple[str, socket.socket]:
    """A block of loopback addresses that no other bench has as long as the socket is open; where the search begins
    is the caller's.
    """
    for number in range(first, first + _BLOCKS):
        block = f"127.{65 + number % _BLOCKS // 2}.{number % 2 * 128}"
        reserved = socket.socket()
        try:
            reserved.bind((f"{block}.0", _RESERVED_PORT))
        except OSError:
            reserved.close()
        else:
            return f"{block}.0/17", reserved
    raise OSError(f"all {_BLOCKS} blocks of addresses are taken by other benches")
