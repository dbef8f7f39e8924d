"""The router driver: what each state of the machine does for a Neutron router.

True of every step: it can be run again from what is observed. The management port, whose MAC address is derived, is the
lock (to create it is compare-and-set), and the server in its `device_id` is the instance. A boot to which Nova did not
answer is looked for by name before another is made. Only servers and ports with this deployment's mark are touched.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from astara.resource.v1 import resource_pb2 as pb

from services.common import logging, marks
from services.common.clock import Clock

from . import bootdata, configuration
from .appliance import ApplianceClient, ApplianceStatus
from .cloud import Json
from .errors import CloudError, ConflictError, NotFoundError, StepError, UncertainError, UnreachableError
from .inbox import BITS
from .machine import Observer, RetryPolicy, StepResult, UnclaimedError
from .neutron import Neutron, RouterReading
from .nova import COMING, RUNNING, Nova
from .resource import Instance, ManagedResource
from .safety import Budget
from .settings import ApplianceSettings, RouterSettings
from .states import Action, InstanceState

_log = logging.get(__name__)

_REBUILD, _UPDATE = pb.OPERATION_KIND_REBUILD, pb.OPERATION_KIND_UPDATE
_INTERNAL, _GATEWAY = pb.ATTACHMENT_ROLE_INTERNAL, pb.ATTACHMENT_ROLE_GATEWAY

_SLOT = 0
_READING_FRESH = 15.0  # seconds; a reading older than this is not pushed after a boot
_ABSENT_TWICE = 10.0  # seconds between two 404s that together mean GONE
_STILL_LISTED = 0.9  # share of the other routers that must be listed for a 404 to count
_COOLDOWN = RetryPolicy(30.0, 1800.0)


@dataclass(frozen=True, slots=True)
class ManagementNetwork:
    """Facts about the management network and what instances are booted from, found by the preflight."""

    network_id: str
    mtu: int
    subnets: dict[str, Json]
    flavor_id: str


@dataclass(frozen=True, slots=True)
class RouterEnvironment:
    """What all routers of a worker share."""

    deployment: str
    router: RouterSettings
    appliance: ApplianceSettings
    management: ManagementNetwork
    claims: Callable[[Json], bool]
    epoch: Callable[[ManagedResource], tuple[int, int]]
    peers: Callable[[str], Iterable[str]]
    new_id: Callable[[], str]
    clock: Clock


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
        self._nova = nova
        self._appliances = appliances
        self._env = environment
        self._observer = observer
        self._removals = removals
        self._deaths = deaths

    # What is there?

    async def observe(self, resource: ManagedResource) -> StepResult:
        """Find the management port by its MAC, the server by the port, and look at both."""
        port = await self._find_management_port(resource)
        if port is None:
            resource.instance = resource.management = None
            return StepResult(InstanceState.DOWN)
        server = await self._server_of(resource, port)
        if server is None:
            resource.instance, resource.management = None, self._with_facts(port)
            return StepResult(InstanceState.DOWN)
        return StepResult(self._adopt(resource, port, server))

    async def is_deleted(self, resource: ManagedResource) -> bool:
        """Whether Neutron no longer lists the router."""
        return not await self._neutron.router_exists(resource.resource_id)

    async def alive(self, resource: ManagedResource) -> StepResult:
        """Ask the appliance; without an answer, Nova: death needs both, on two different paths."""
        if resource.instance is None:
            return StepResult(InstanceState.DOWN)
        try:
            status = await self._ask(resource)
        except UnreachableError as error:
            return await self._unanswered(resource, str(error))
        return StepResult(self._answered(resource, status))

    async def _unanswered(self, resource: ManagedResource, reason: str) -> StepResult:
        settings, now = self._env.appliance, self._env.clock.lease()
        state = resource.state or InstanceState.UP
        if resource.unanswered_since is None:
            resource.unanswered_since = now
        silent = now - resource.unanswered_since
        if silent < settings.alive_retry_interval * (settings.alive_retries - 1):
            return StepResult(state, wait=settings.alive_retry_interval)
        instance = _instance_of(resource)
        server = await self._nova.server(instance.server_id)
        if server is None:
            verdict, why = InstanceState.DOWN, "Nova does not know its server"
        elif server["status"] in COMING or self._may_still_boot(resource):
            return StepResult(InstanceState.BOOTING)
        elif server["status"] != RUNNING:
            verdict, why = InstanceState.RESTART, f"its server is {server['status']}"
        elif silent < settings.dead_after:
            resource.last_error = reason
            return StepResult(state, wait=max(settings.alive_retry_interval, settings.dead_after / 8))
        elif not self._deaths.draw():
            raise StepError(
                f"no answer for {silent:.0f} s, but more than {self._deaths.limit()} instances fell silent within a "
                f"minute: the management network is suspected, nothing is rebuilt ({reason})"
            )
        else:
            verdict, why = InstanceState.DOWN, f"no answer for {silent:.0f} s: {reason}"
        resource.unanswered_since = None
        resource.last_error = f"instance {instance.server_id} is dead: {why}"
        self._observer.happened(resource, "death", resource.last_error)
        return StepResult(verdict)

    def _may_still_boot(self, resource: ManagedResource) -> bool:
        if resource.wanted_digest is not None or resource.instance is None:
            return False
        return self._env.clock.wall() - resource.instance.booted_at < self._env.router.boot_timeout

    async def _ask(self, resource: ManagedResource) -> ApplianceStatus:
        endpoint = resource.endpoint(self._env.appliance.secret, self._env.deployment)
        status = await self._appliances.status(endpoint)
        resource.status, resource.unanswered_since = status, None
        return status

    def _answered(self, resource: ManagedResource, status: ApplianceStatus) -> InstanceState:
        if resource.wanted_digest is not None and status.digest == resource.wanted_digest:
            return InstanceState.CONFIGURED
        return InstanceState.UP

    # Boot

    async def create(self, resource: ManagedResource) -> StepResult:
        """Read the router, make sure of the ports, boot. Counts attempts; too many make ERROR."""
        if resource.attempts >= self._env.router.boot_attempts:
            resource.cooldowns += 1
            pause = _COOLDOWN.delay(resource.cooldowns, resource.jitter())
            resource.cooling_until = self._env.clock.lease() + pause
            resource.last_error = (
                f"{resource.attempts} boots failed; tried again in {pause:.0f} s: {resource.last_error}"
            )
            return StepResult(InstanceState.ERROR)
        reading = await self._read(resource)
        if reading is None:
            return await self._absent(resource)
        management, existed = await self._management_port(resource)
        if existed and (server := await self._server_of(resource, management)) is not None:
            self._adopt(resource, management, server)
            return StepResult(InstanceState.BOOTING)
        resource.management = management
        ports = await self._service_ports(resource, reading.attached_network_ids, existed=existed)
        await self._boot(resource, reading, management, ports)
        resource.reading = reading
        return StepResult(InstanceState.BOOTING)

    async def _management_port(self, resource: ManagedResource) -> tuple[Json, bool]:
        """The management port, and whether it was there before."""
        if resource.management is not None:
            return resource.management, True
        network_id = self._env.management.network_id
        for salt in range(4):
            body = self._neutron.port_body(resource.resource_id, _SLOT, marks.MANAGEMENT, network_id, salt)
            if self._env.router.management_security_groups:
                body["security_groups"] = list(self._env.router.management_security_groups)
            try:
                return self._with_facts(await self._neutron.create_port(body)), False
            except ConflictError:
                port = await self._neutron.port_by_mac(network_id, str(body["mac_address"]))
            if port is None:
                break
            if port.get("description") == body["description"]:
                return self._with_facts(port), True
        raise StepError("the management port can be neither created nor found: its MAC addresses are taken")

    async def _find_management_port(self, resource: ManagedResource) -> Json | None:
        found = await self._neutron.ports_of(resource.resource_id, _SLOT, (marks.MANAGEMENT,))
        return found[0] if found else None

    async def _server_of(self, resource: ManagedResource, port: Json) -> Json | None:
        """The server that holds the management port or, while Nova has not plugged it yet, the one with our name."""
        if port.get("device_id"):
            return await self._nova.server(str(port["device_id"]))
        servers = await self._nova.servers_of(resource.resource_id, _SLOT)
        resource.boot_uncertain = False
        return servers[0] if servers else None

    async def _service_ports(self, resource: ManagedResource, wanted: list[str], *, existed: bool) -> dict[str, Json]:
        """Exactly one port of ours on each wanted network, by network."""
        found: dict[str, Json] = {}
        if existed:
            found = {p["network_id"]: p for p in await self._our_service_ports(resource)}
            for network_id in set(found) - set(wanted):
                await self._delete_port(str(found.pop(network_id)["id"]))
        try:
            created = await self._neutron.create_ports(self._service_bodies(resource, set(wanted) - set(found)))
        except ConflictError:
            found = {p["network_id"]: p for p in await self._our_service_ports(resource)}
            created = await self._neutron.create_ports(self._service_bodies(resource, set(wanted) - set(found)))
        return found | {port["network_id"]: port for port in created}

    def _service_bodies(self, resource: ManagedResource, networks: Iterable[str]) -> list[Json]:
        return [
            self._neutron.port_body(resource.resource_id, _SLOT, marks.SERVICE, network) for network in sorted(networks)
        ]

    async def _our_service_ports(self, resource: ManagedResource) -> list[Json]:
        return await self._neutron.ports_of(resource.resource_id, _SLOT, (marks.SERVICE,))

    async def _boot(
        self, resource: ManagedResource, reading: RouterReading, management: Json, ports: dict[str, Json]
    ) -> None:
        if resource.boot_uncertain and (servers := await self._nova.servers_of(resource.resource_id, _SLOT)):
            resource.boot_uncertain = False
            self._adopt(resource, management, servers[0])
            return
        hand = resource.hand
        rebuilds = [op for op in hand.operations.values() if op.kind == _REBUILD] if hand else []
        operation = max(rebuilds, key=lambda op: (op.created_at.ToNanoseconds(), op.operation_id), default=None)
        if operation is not None:
            resource.image_override = operation.image_id
        mark = marks.ServerMark(
            self._env.deployment,
            resource.resource_id,
            _SLOT,
            self._env.new_id(),
            operation.operation_id if operation else "",
        )
        image = resource.image_override or self._env.router.image_id
        data = bootdata.user_data(mark, resource.tenant_id, management, self._env.router, self._env.appliance)
        order = [management["id"], *(ports[network]["id"] for network in reading.attached_network_ids)]
        resource.attempts += 1
        try:
            server_id = await self._nova.boot(
                mark, image, self._env.management.flavor_id, order, data, self._env.router.availability_zone
            )
        except UncertainError:
            resource.boot_uncertain = True
            raise
        now = self._env.clock
        resource.instance = Instance(
            mark.boot_id,
            server_id,
            management,
            image,
            mark.operation_id,
            now.wall(),
            {network: str(port["mac_address"]) for network, port in ports.items()},
        )
        resource.management = resource.wanted_digest = None
        resource.waiting_since = now.lease()
        if hand is not None and hand.actions & BITS[Action.REBUILD]:
            hand.actions = hand.actions & ~BITS[Action.REBUILD] | BITS[Action.UPDATE]
        for rebuild in rebuilds:
            # Done as far as booting goes; the operation ends when the instance is configured.
            settled = type(rebuild)()
            settled.CopyFrom(rebuild)
            settled.kind = _UPDATE
            if hand is not None:
                hand.operations[rebuild.operation_id] = settled
        self._observer.happened(resource, "boot", f"server {server_id}, attempt {resource.attempts}, image {image}")

    async def check_boot(self, resource: ManagedResource) -> StepResult:
        """Ask the appliance; now and then ask Nova what became of the server."""
        if resource.instance is None:
            return StepResult(InstanceState.DOWN)
        settings, now = self._env.router, self._env.clock.lease()
        if resource.waiting_since is None:
            resource.waiting_since = now
        waited = now - resource.waiting_since
        look = settings.boot_look_interval
        if waited >= look / 2:
            try:
                status = await self._ask(resource)
            except UnreachableError as error:
                resource.unanswered_since, reason = None, str(error)
            else:
                resource.waiting_since = None
                return StepResult(self._answered(resource, status))
            # Nova is asked every fifth look: it knows of failures, the appliance itself of success.
            if int(waited / look) % 5 == 4 or waited > settings.boot_timeout:
                server = await self._nova.server(resource.instance.server_id)
                if server is None or server["status"] not in (*COMING, RUNNING) or waited > settings.boot_timeout:
                    resource.waiting_since = None
                    resource.last_error = _boot_failure(server, waited, reason)
                    self._observer.happened(resource, "error", resource.last_error)
                    return StepResult(InstanceState.DOWN)
        return StepResult(InstanceState.BOOTING, wait=look)

    # Configure

    async def configure(self, resource: ManagedResource) -> StepResult:
        """Read Neutron, build, compare digests, push only what differs."""
        reading = await self._read(resource)
        if reading is None:
            return await self._absent(resource)
        instance = _instance_of(resource)
        if instance.ports is None:
            instance.ports = _macs_by_network(reading.instance_ports, self._env.management.network_id)
        if set(instance.ports) != set(reading.attached_network_ids):
            resource.reading = reading
            return StepResult(InstanceState.REPLUG)
        status = resource.status or await self._ask(resource)
        macs = {instance.management["mac_address"], *instance.ports.values()}
        if not macs <= set(status.interfaces):
            status = await self._ask(resource)
        if not macs <= set(status.interfaces):
            resource.reading = reading
            return StepResult(InstanceState.REPLUG)
        resource.reading = None
        settings = self._env.router
        wanted = configuration.build(
            reading, instance.management, status.interfaces, instance.ports, (settings.asn, settings.neighbor_asn)
        )
        resource.wanted_digest = configuration.digest(wanted)
        if status.digest != resource.wanted_digest:
            endpoint = resource.endpoint(self._env.appliance.secret, self._env.deployment)
            changed = await self._appliances.configure(
                endpoint, wanted, resource.wanted_digest, self._env.epoch(resource)
            )
            self._observer.happened(resource, "configure", f"pushed, changed: {', '.join(changed) or 'nothing'}")
        await self._neutron.set_data_plane_status(reading, "ACTIVE")
        return StepResult(InstanceState.CONFIGURED)

    async def replug(self, resource: ManagedResource) -> StepResult:
        """Attach what is missing, detach what is not wanted, wait until the appliance sees it."""
        reading = await self._read(resource)
        if reading is None:
            return await self._absent(resource)
        instance, clock = _instance_of(resource), self._env.clock
        if resource.waiting_since is None:
            resource.waiting_since = clock.lease()
        if clock.lease() - resource.waiting_since > self._env.router.replug_timeout:
            resource.waiting_since = None
            resource.last_error = "the appliance does not see the ports that were attached"
            return StepResult(InstanceState.RESTART)
        if instance.ports is None:
            instance.ports = _macs_by_network(reading.instance_ports, self._env.management.network_id)
        wanted, plugged = set(reading.attached_network_ids), dict(instance.ports)
        if wanted != set(plugged):
            await self._plug(resource, instance, wanted, plugged)
        status = await self._ask(resource)
        resource.reading = reading
        if {*instance.ports.values()} <= set(status.interfaces):
            resource.waiting_since = None
            return StepResult(InstanceState.UP)
        return StepResult(InstanceState.REPLUG, wait=self._env.router.boot_look_interval)

    async def _plug(
        self, resource: ManagedResource, instance: Instance, wanted: set[str], plugged: dict[str, str]
    ) -> None:
        ours = {port["network_id"]: port for port in await self._our_service_ports(resource)}
        for network_id in sorted(set(plugged) - wanted):
            if network_id in ours:
                await self._nova.detach(instance.server_id, str(ours[network_id]["id"]))
                await self._delete_port(str(ours[network_id]["id"]))
            del plugged[network_id]
            instance.ports = dict(plugged)
        missing = wanted - set(plugged)
        created = await self._neutron.create_ports(self._service_bodies(resource, missing - set(ours)))
        ports = ours | {port["network_id"]: port for port in created}
        for network_id in sorted(missing):
            port = ports[network_id]
            if port.get("device_id") != instance.server_id:
                await self._nova.attach(instance.server_id, str(port["id"]))
            plugged[network_id] = str(port["mac_address"])
            instance.ports = dict(plugged)
        self._observer.happened(resource, "replug", f"now on {len(plugged)} networks")

    async def read_stats(self, resource: ManagedResource) -> None:
        """Read the traffic counters by label, for the log."""
        endpoint = resource.endpoint(self._env.appliance.secret, self._env.deployment)
        for label in await self._appliances.labels(endpoint):
            _log.info("traffic", resource=resource.resource_id, **label)

    # End

    async def stop(self, resource: ManagedResource, *, forever: bool) -> StepResult:
        """Delete our servers and wait until Nova has; `forever` deletes our ports too."""
        clock = self._env.clock
        servers = await self._nova.servers_of(resource.resource_id, _SLOT)
        if servers:
            if resource.waiting_since is None or resource.state is InstanceState.BOOTING:
                resource.waiting_since = clock.lease()
            for server in servers:
                if server.get("OS-EXT-STS:task_state") != "deleting":
                    await self._nova.delete(str(server["id"]))
                    self._observer.happened(resource, "stop", f"server {server['id']}")
            waited = clock.lease() - resource.waiting_since
            if waited > self._env.router.stop_timeout:
                resource.last_error = f"Nova has not deleted server {servers[0]['id']} for {waited:.0f} s"
            pause = min(10.0, max(0.2, waited / 4))
            return StepResult(InstanceState.GONE if forever else InstanceState.RESTART, wait=pause)
        resource.waiting_since = None
        if resource.instance is not None:
            # Nova has let go of the port: the next instance takes it over, with its address.
            resource.management = {**resource.instance.management, "device_id": ""}
        resource.instance = resource.wanted_digest = resource.reading = None
        if not forever:
            return StepResult(InstanceState.DOWN)
        for port in await self._neutron.ports_of(resource.resource_id, _SLOT, (marks.SERVICE, marks.MANAGEMENT)):
            await self._delete_port(str(port["id"]))
        return StepResult(InstanceState.GONE)

    async def _delete_port(self, port_id: str) -> None:
        try:
            await self._neutron.delete_port(port_id)
        except NotFoundError:
            return

    # Reading

    async def _read(self, resource: ManagedResource) -> RouterReading | None:
        """The router as it is now; None when Neutron answers 404. A kept reading serves while nothing new is known."""
        kept = resource.reading
        if kept is not None and not resource.inbox and self._env.clock.lease() - kept.read_at < _READING_FRESH:
            return kept
        server_id = resource.instance.server_id if resource.instance else None
        try:
            reading = await self._neutron.read_router(resource.resource_id, server_id)
        except NotFoundError:
            return None
        wanted_revision = resource.hand.revision if resource.hand else 0
        router = reading.router
        if int(router.get("revision_number") or 0) < wanted_revision:
            raise StepError(
                f"Neutron answered with revision {router.get('revision_number')}, older than the event's "
                f"{wanted_revision}"
            )
        reading.read_at = self._env.clock.lease()
        resource.absent_since = None
        resource.name = str(router.get("name") or "")
        resource.tenant_id = str(router.get("project_id") or router.get("tenant_id") or resource.tenant_id)
        resource.revision = int(router.get("revision_number") or 0)
        resource.attachments = _attachments(reading)
        if not self._env.claims(router):
            raise UnclaimedError("the claim rule does not cover this router")
        return reading

    async def _absent(self, resource: ManagedResource) -> StepResult:
        """Neutron says 404 and no DELETE event explains it: once is not enough to believe it."""
        state = resource.state or InstanceState.DOWN
        now = self._env.clock.lease()
        if resource.absent_since is None:
            resource.absent_since = now
        waited = now - resource.absent_since
        if waited < _ABSENT_TWICE:
            created = resource.hand is not None and resource.hand.actions & BITS[Action.CREATE]
            return StepResult(state, wait=1.0 if created else _ABSENT_TWICE - waited)
        share = await self._neutron.listed_share(self._env.peers(resource.resource_id))
        if share < _STILL_LISTED:
            raise StepError(f"Neutron lists only {share:.0%} of the known routers: a missing one proves nothing")
        if resource.instance is not None and not self._removals.draw():
            raise StepError(
                f"more than {self._removals.limit()} routers vanished within an hour without a DELETE event: "
                "an operator must look (delete the instance by hand, or rebuild)"
            )
        self._observer.happened(resource, "state", "Neutron answers 404 without a DELETE event")
        return StepResult(InstanceState.GONE)

    def _adopt(self, resource: ManagedResource, port: Json, server: Json) -> InstanceState:
        """Take over a server that is there; answers with its state as far as Nova tells."""
        mark = marks.ServerMark.parse(server.get("metadata"))
        if mark is None or (mark.deployment, mark.resource_id) != (self._env.deployment, resource.resource_id):
            raise StepError(f"the management port belongs to server {server['id']}, which does not carry our mark")
        resource.instance = Instance(
            mark.boot_id,
            str(server["id"]),
            self._with_facts(port),
            str((server.get("image") or {}).get("id") or ""),
            mark.operation_id,
            _unix_time(server.get("created")),
            None,
        )
        resource.management = None
        if server["status"] in COMING:
            return InstanceState.BOOTING
        return InstanceState.UP if server["status"] == RUNNING else InstanceState.RESTART

    def _with_facts(self, port: Json) -> Json:
        facts = self._env.management
        gateways = [s["gateway_ip"] for s in facts.subnets.values() if s.get("gateway_ip")]
        if not port.get("fixed_ips"):
            raise CloudError("neutron", "management port", 0, f"port {port['id']} has no address")
        return {
            "id": port["id"],
            "network_id": port["network_id"],
            "mac_address": port["mac_address"],
            "fixed_ips": port["fixed_ips"],
            "device_id": port.get("device_id", ""),
            "cidrs": bootdata.with_prefixes(port, facts.subnets),
            "mtu": facts.mtu,
            "gateway": gateways[0] if gateways else None,
        }


def _instance_of(resource: ManagedResource) -> Instance:
    if resource.instance is None:
        raise StepError("there is no instance")
    return resource.instance


def _macs_by_network(ports: list[Json], management_network_id: str) -> dict[str, str]:
    return {p["network_id"]: str(p["mac_address"]) for p in ports if p["network_id"] != management_network_id}


def _attachments(reading: RouterReading) -> tuple[tuple[str, int, str, tuple[str, ...]], ...]:
    ports = [(port, _INTERNAL) for port in reading.interface_ports]
    if reading.gateway_port is not None:
        ports.append((reading.gateway_port, _GATEWAY))
    return tuple(
        sorted(
            (str(p["network_id"]), role, str(p["id"]), tuple(sorted(str(ip["subnet_id"]) for ip in p["fixed_ips"])))
            for p, role in ports
        )
    )


def _boot_failure(server: Json | None, waited: float, reason: str) -> str:
    if server is None:
        return "the server disappeared while it booted"
    fault = (server.get("fault") or {}).get("message")
    return f"the server is {server['status']} and did not answer within {waited:.0f} s: {fault or reason}"


def _unix_time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
