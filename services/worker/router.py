"""The router driver: what each state of the machine does for a Neutron router.

True of every step: it can be run again from what is observed. The management port, whose MAC address is derived, is the
lock (to create it is compare-and-set), and the server in its `device_id` is the instance. Only servers and ports with
this deployment's mark are touched. The parts: `router_reading` (what Neutron says), `router_ports`, `router_boot`
(servers), `router_health`; what they share is in `router_environment`.
"""

from dataclasses import replace

from services.common import logging

from . import configuration
from .appliance import ApplianceClient
from .cloud import Json
from .errors import CloudError, RejectedError, StepError
from .glance import why_unusable
from .machine import Observer, RetryPolicy, StepResult
from .neutron import Neutron
from .nova import Nova
from .reading import RouterReading
from .resource import Instance, ManagedResource
from .router_boot import RouterServers
from .router_environment import RouterEnvironment
from .router_health import RouterHealth
from .router_ports import RouterPorts
from .router_reading import RouterReader
from .router_status import RouterStatus
from .safety import Budget
from .states import InstanceState

_log = logging.get(__name__)

_COOLDOWN = RetryPolicy(30.0, 1800.0)


class RouterDriver:
    """Implements `machine.Driver` for routers."""

    def __init__(
        self,
        neutron: Neutron,
        nova: Nova,
        appliances: ApplianceClient,
        environment: RouterEnvironment,
        observer: Observer,
        removals: Budget,
        deaths: Budget,
    ) -> None:
        self._neutron = neutron
        self._appliances = appliances
        self._env = environment
        self._observer = observer
        self._status = RouterStatus(neutron)
        self._reader = RouterReader(neutron, environment, observer, removals, self._status)
        self._ports = RouterPorts(neutron, nova, environment, observer)
        self._health = RouterHealth(nova, appliances, environment, observer, deaths)
        self._servers = RouterServers(nova, self._health, environment, observer)

    # What is there?

    async def observe(self, resource: ManagedResource) -> StepResult:
        """Find the management port by its mark, the server by the port, and look at both."""
        management, service = await self._ports.find(resource)
        if management is None:
            resource.instance = resource.management = None
            return StepResult(InstanceState.DOWN)
        server = await self._servers.holder_of(resource, management)
        if server is None:
            resource.instance, resource.management = None, management
            return StepResult(InstanceState.DOWN)
        spare = {str(port["network_id"]): str(port["id"]) for port in service}
        return StepResult(self._servers.adopt(resource, management, server, spare))

    async def is_deleted(self, resource: ManagedResource) -> bool:
        """Whether Neutron answers 404 for the router."""
        return not await self._neutron.router_exists(resource.resource_id)

    async def refuses_rebuild(self, image_id: str) -> str:
        """Whether Glance has the image, before anything is stopped for it."""
        return await why_unusable(self._env.glance, image_id)

    async def alive(self, resource: ManagedResource) -> StepResult:
        """Ask the appliance; without an answer, Nova."""
        return await self._health.alive(resource)

    # Boot

    async def create(self, resource: ManagedResource) -> StepResult:
        """Read the router, make sure of the ports, boot. Counts attempts; too many make ERROR."""
        if resource.attempts >= self._env.router.boot_attempts:
            return self._cool_down(resource)
        reading = await self._reader.read(resource)
        if reading is None:
            return await self._reader.absent(resource)
        management, existed = await self._ports.management(resource)
        if existed and (server := await self._servers.holder_of(resource, management)) is not None:
            # Whether it answers is for CheckBoot to find out.
            broken = self._servers.adopt(resource, management, server) is InstanceState.RESTART
            return StepResult(InstanceState.RESTART, wait=0.0) if broken else StepResult(InstanceState.BOOTING)
        resource.management = management
        ports = await self._ports.service(resource, reading, existed=existed)
        held = [port for port in (management, *ports.values()) if port.get("device_id")]
        if held and (pause := await self._free(resource, held)) is not None:
            return StepResult(InstanceState.DOWN, wait=pause)
        try:
            await self._servers.boot(resource, reading, management, ports)
        except CloudError:
            # It may be gone: Nova takes ports along with a server whose network it could not set up. Look again.
            resource.management = None
            raise
        resource.reading = reading
        return StepResult(InstanceState.BOOTING)

    async def _free(self, resource: ManagedResource, held: list[Json]) -> float | None:
        """Make ports bootable that a former instance held; None when they are, else seconds after which to look."""
        if (pause := await self._servers.remove(resource)) is not None:
            return pause
        for port in held:
            if await self._servers.exists(str(port["device_id"])):
                raise StepError(
                    f"port {port['id']} is held by server {port['device_id']}, which does not carry our mark"
                )
            await self._ports.release(port)
        return None

    def _cool_down(self, resource: ManagedResource) -> StepResult:
        resource.cooldowns += 1
        pause = _COOLDOWN.delay(resource.cooldowns, resource.jitter())
        resource.cooling_until = self._env.clock.lease() + pause
        again = f"{resource.attempts} boots failed; tried again in {pause:.0f} s: "
        resource.failed(again + resource.last_error, again + resource.public_error)
        return StepResult(InstanceState.ERROR)

    async def check_boot(self, resource: ManagedResource) -> StepResult:
        """Ask the appliance; now and then ask Nova what became of the server."""
        return await self._servers.look(resource)

    # Configure

    async def configure(self, resource: ManagedResource) -> StepResult:
        """Read Neutron, build, compare digests, push only what differs."""
        reading = await self._reader.read(resource)
        if reading is None:
            return await self._reader.absent(resource)
        instance = _instance_of(resource)
        await self._servers.remove_surplus(resource, instance)
        if set(instance.ports or ()) != set(reading.attached_network_ids):
            resource.reading = reading
            return StepResult(InstanceState.REPLUG)
        if instance.spare != {}:
            await self._ports.delete_spare(resource, instance, set(reading.attached_network_ids))
        status = resource.status or await self._health.ask(resource)
        if not _macs(instance) <= set(status.interfaces):
            status = await self._health.ask(resource)
        if not _macs(instance) <= set(status.interfaces):
            resource.reading = reading
            return StepResult(InstanceState.REPLUG)
        resource.reading = None
        wanted = self._build(resource, reading, instance, status.interfaces)
        if status.digest != resource.wanted_digest:
            if _may_be_cut_short(reading) and status.digest is not None:
                # No floating IP at all is what a list that was cut short looks like, too.
                reading.floating_ips = await self._neutron.floating_ips(resource.resource_id)
                wanted = self._build(resource, reading, instance, status.interfaces)
            try:
                await self._push(resource, wanted)
            except RejectedError as error:
                lacking = error.unknown & configuration.LATER.keys() & wanted.keys()
                if not lacking or lacking != error.unknown:
                    raise
                # An appliance of an earlier release does all the rest as ever.
                instance.unknown |= lacking
                wanted = self._build(resource, reading, instance, status.interfaces)
                if status.digest != resource.wanted_digest:
                    await self._push(resource, wanted)
        self._status.serves(resource, reading)
        await self._tell_neutron(resource, reading)
        return StepResult(InstanceState.CONFIGURED)

    def _build(
        self, resource: ManagedResource, reading: RouterReading, instance: Instance, interface_names: dict[str, str]
    ) -> Json:
        """The configuration; its digest is what is wanted from now on."""
        settings = self._env.router
        wanted = configuration.build(
            reading,
            instance.management,
            interface_names,
            instance.ports or {},
            (settings.asn, settings.neighbor_asn),
            instance.unknown,
        )
        resource.wanted_digest = configuration.digest(wanted)
        return wanted

    async def _push(self, resource: ManagedResource, wanted: Json) -> None:
        accepted = await self._appliances.configure(
            self._env.endpoint(resource), wanted, str(resource.wanted_digest), self._env.epoch(resource)
        )
        if resource.status is not None:
            resource.status = replace(resource.status, undone=accepted.undone)
        self._observer.happened(resource, "configure", f"pushed, changed: {', '.join(accepted.changed) or 'nothing'}")

    async def _tell_neutron(self, resource: ManagedResource, reading: RouterReading) -> None:
        """Status back to Neutron is for people: where it may not be written, the router works all the same."""
        try:
            await self._neutron.set_data_plane_status(reading, "ACTIVE")
        except CloudError as error:
            _log.info("status not written to Neutron", resource=resource.resource_id, reason=str(error))

    async def replug(self, resource: ManagedResource) -> StepResult:
        """Attach what is missing, detach what is not wanted, wait until the appliance sees it."""
        reading = await self._reader.read(resource)
        if reading is None:
            return await self._reader.absent(resource)
        instance = _instance_of(resource)
        # Whatever ends this by an error is no time in which Nova refused, or the appliance looked in vain.
        since, resource.waiting_since = resource.waiting_since, None
        wanted, plugged = set(reading.attached_network_ids), set(instance.ports or ())
        if plugged - wanted and await self._neutron.attached_network_ids(resource.resource_id) != wanted:
            # A network is taken away only when two readings agree that it is no longer wanted.
            resource.reading = None
            raise StepError("two readings of the router's ports differ: no network is detached")
        if wanted != plugged:
            try:
                await self._ports.plug(resource, instance, reading)
            except CloudError as error:
                if error.service != "nova" or error.outage:
                    raise
                return await self._replug_again(resource, since, f"Nova does not plug a port: {error.detail}", error)
            since = None
        status = await self._health.ask(resource)
        resource.reading = reading
        if _macs(instance) <= set(status.interfaces):
            return StepResult(InstanceState.UP)
        return await self._replug_again(resource, since, "the appliance does not see the ports that were attached")

    async def _replug_again(
        self, resource: ManagedResource, since: float | None, reason: str, error: StepError | None = None
    ) -> StepResult:
        """Come back, or boot anew what cannot be plugged. Raises the error before its time is up, and as long as Nova
        is at work on the server.
        """
        now = self._env.clock.lease()
        since = now if since is None else since
        if now - since > self._env.router.replug_timeout:
            if error is not None and await self._servers.is_busy(_instance_of(resource).server_id):
                raise error
            self._observer.happened(resource, "error", reason)
            resource.failed(reason, "its instance cannot be connected to a network; another takes its place")
            return StepResult(InstanceState.RESTART)
        resource.waiting_since = since
        if error is not None:
            raise error
        return StepResult(InstanceState.REPLUG, wait=self._env.router.boot_look_interval)

    async def tell(self, resource: ManagedResource) -> None:
        """Tell Neutron what it should show of the router."""
        await self._status.tell(resource)

    async def read_stats(self, resource: ManagedResource) -> None:
        """Read the traffic counters by label, for the log."""
        for label in await self._appliances.labels(self._env.endpoint(resource)):
            _log.info("traffic", resource=resource.resource_id, **label)

    # End

    async def stop(self, resource: ManagedResource, *, forever: bool) -> StepResult:
        """Delete our servers and wait until Nova has; `forever` deletes our ports too. What was found dead and answers
        again before that began is kept.
        """
        is_ordered = forever or (resource.hand is not None and bool(resource.hand.rebuilds()))
        if not is_ordered and (found := await self._health.judge_again(resource)) is not None:
            return found
        pause = await self._servers.remove(resource)
        if pause is not None:
            return StepResult(InstanceState.GONE if forever else InstanceState.RESTART, wait=pause)
        resource.waiting_since = None
        if resource.instance is not None:
            # Nova has let go of the port: the next instance takes it over, with its address.
            resource.management = {**resource.instance.management, "device_id": ""}
        resource.instance = resource.wanted_digest = resource.reading = None
        if not forever:
            return StepResult(InstanceState.DOWN)
        await self._ports.delete_all(resource)
        resource.management = None
        return StepResult(InstanceState.GONE)


def _instance_of(resource: ManagedResource) -> Instance:
    if resource.instance is None:
        raise StepError("there is no instance")
    return resource.instance


def _may_be_cut_short(reading: RouterReading) -> bool:
    return not reading.is_one and not reading.floating_ips and reading.gateway_port is not None


def _macs(instance: Instance) -> set[str]:
    return {str(instance.management["mac_address"]), *(instance.ports or {}).values()}
