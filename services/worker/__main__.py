"""Starts the worker: preflight, then a Work stream to the scheduler, until a signal; then drain and stop."""

import asyncio
import contextlib
import sys
import uuid

from services.common import claim, logging, metrics, openstack, presence, process, rpc
from services.common.clock import SystemClock
from services.common.settings import CommonSettings, GrpcSettings, Settings

from .appliance import ApplianceClient
from .cloud import Cloud
from .dispatch import Dispatcher
from .errors import LostOwnershipError
from .flags import DebugFlags
from .link import Identity, Link
from .machine import Machine, RetryPolicy
from .neutron import Neutron
from .nova import Nova
from .ownership import Ownership
from .preflight import Preflight
from .report import Reporter
from .resource import ManagedResource
from .router import RouterDriver
from .router_environment import RouterEnvironment
from .safety import Budget
from .settings import ApplianceSettings, RouterSettings, WorkerSettings

_log = logging.get(__name__)

SETTINGS = (
    GrpcSettings,
    metrics.MetricsSettings,
    openstack.OpenStackSettings,
    claim.ClaimSettings,
    WorkerSettings,
    RouterSettings,
    ApplianceSettings,
)

_PREFLIGHT_PAUSE = 10.0
_READINESS = "readiness"
_DRAIN_SECONDS = 20.0


async def _tell(server: rpc.RpcServer, up: bool) -> None:
    """Health says whether the scheduler has this worker; so does the name that a rolling update waits for."""
    await server.set_serving(up)
    await server.set_health(_READINESS, serving=up)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run one worker until `stop` is set."""
    common, own = settings[CommonSettings], settings[WorkerSettings]
    clock = SystemClock()
    name = own.name or process.host_name(common)
    server = rpc.RpcServer(settings[GrpcSettings], own.listen)
    await server.start(serving=False)
    await server.set_health(_READINESS, serving=False)
    metrics.serve(settings[metrics.MetricsSettings])
    connection = openstack.connect(settings)
    cloud = Cloud(connection, own)
    neutron, nova = Neutron(cloud.neutron, common.deployment), Nova(cloud.nova, common.deployment)
    preflight = Preflight(cloud, neutron, settings[RouterSettings], settings[ApplianceSettings])
    appliances = ApplianceClient(settings[ApplianceSettings])
    channel = rpc.open_channel(settings[GrpcSettings])
    announcing = contextlib.AsyncExitStack()
    try:
        myself = presence.announcement("worker", name, server.address, clock)
        await announcing.enter_async_context(presence.announced(channel, myself))
        facts_task = asyncio.ensure_future(preflight.until_passed(_PREFLIGHT_PAUSE))
        stop_task = asyncio.ensure_future(stop.wait())
        await asyncio.wait([facts_task, stop_task], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            facts_task.cancel()
            return
        stop_task.cancel()
        flags, ownership = DebugFlags(), Ownership(clock)
        reporter = Reporter(name, flags, clock)

        def epoch(resource: ManagedResource) -> tuple[int, int]:
            held = ownership.epoch(resource.shard)
            if held is None:
                raise LostOwnershipError("the shard is no longer this worker's")
            return held.term, held.counter

        def peers(resource: ManagedResource) -> list[ManagedResource]:
            return [other for other in dispatcher if other is not resource and other.instance is not None]

        def may_act(resource: ManagedResource) -> bool:
            # A debug flag stops a run between two steps, too: what it covers is left alone from then on.
            return ownership.may_act(resource.shard) and not flags.covers(resource.resource_id, resource.tenant_id)

        claims = await claim.load(settings[claim.ClaimSettings], connection)
        environment = RouterEnvironment(
            deployment=common.deployment,
            router=settings[RouterSettings],
            appliance=settings[ApplianceSettings],
            management=await facts_task,
            claims=claims,
            epoch=epoch,
            glance=cloud.glance,
            peers=peers,
            boot_files=appliances.certificates.boot_files,
            zones_are_nova=neutron.zones_are_nova,
            new_id=_new_id,
            clock=clock,
        )
        driver = RouterDriver(
            neutron,
            nova,
            appliances,
            environment,
            reporter,
            removals=Budget(clock, lambda: len(dispatcher), own.unexplained_removals, 0.02, 3600.0),
            deaths=Budget(clock, lambda: len(dispatcher), 3, 0.1, 60.0),
        )
        machine = Machine(
            driver,
            reporter,
            may_act,
            clock,
            _new_id,
            RetryPolicy(own.first_retry, own.last_retry, own.outage_retry),
        )
        dispatcher = Dispatcher(machine, flags, clock, own.max_running, reporter.forgotten)
        serving: set[asyncio.Task[None]] = set()

        def connected(up: bool) -> None:
            task = asyncio.ensure_future(_tell(server, up))
            serving.add(task)
            task.add_done_callback(serving.discard)

        identity = Identity(name, _new_id(), process.version(), server.address, own.capacity)
        link = Link(channel, identity, ownership, dispatcher, flags, reporter, clock, own.status_interval, connected)
        link_task = asyncio.create_task(link.run())
        stop_task = asyncio.ensure_future(stop.wait())
        await asyncio.wait([link_task, stop_task], return_when=asyncio.FIRST_COMPLETED)
        if link_task.done():
            link_task.result()
        _log.info("draining", shards=len(ownership.shards))
        await link.drain(_DRAIN_SECONDS)
        link_task.cancel()
        await asyncio.gather(link_task, return_exceptions=True)
        await dispatcher.finish(1.0)
    finally:
        await announcing.aclose()
        await appliances.close()
        await channel.close()
        cloud.close()
        await server.stop()


def _new_id() -> str:
    return str(uuid.uuid4())


if __name__ == "__main__":
    sys.exit(process.run("worker", SETTINGS, main, extra=openstack.register))
