"""A router's servers: find, adopt, boot, watch them come up, remove them.

The server in the management port's `device_id` is the instance; any other server with our mark is surplus. A boot to
which Nova did not answer is looked for by name before another is made, so none is booted twice; should it appear only
later, it finds its ports taken, and is removed as surplus when the router is configured.
"""

from datetime import datetime

from services.common import logging, marks

from . import bootdata
from .cloud import Json
from .errors import CloudError, StepError, UncertainError, UnreachableError
from .machine import Observer, StepResult
from .nova import COMING, RUNNING, Nova
from .reading import RouterReading
from .resource import Instance, ManagedResource
from .router_environment import SLOT, RouterEnvironment
from .router_health import RouterHealth
from .states import InstanceState

_LOOKS = 5  # Nova is asked every so many looks: it knows of failures, the appliance itself of success

_log = logging.get(__name__)


class RouterServers:
    """Adopts, boots, watches and deletes them. Raises StepError and its kinds."""

    def __init__(self, nova: Nova, health: RouterHealth, environment: RouterEnvironment, observer: Observer) -> None:
        self._nova = nova
        self._health = health
        self._env = environment
        self._observer = observer

    async def holder_of(self, resource: ManagedResource, management: Json) -> Json | None:
        """The server that holds the management port or, while Nova has not plugged it yet, one with our name."""
        if management.get("device_id"):
            return await self._nova.server(str(management["device_id"]))
        servers = await self._nova.servers_of(resource.resource_id, SLOT)
        return min(servers, key=_rank, default=None)

    async def exists(self, server_id: str) -> bool:
        """Whether Nova knows the server."""
        return await self._nova.server(server_id) is not None

    async def is_busy(self, server_id: str) -> bool:
        """Whether Nova is at work on the server: migrates it, for one."""
        server = await self._nova.server(server_id)
        return server is not None and bool(server["status"] in COMING or server.get("OS-EXT-STS:task_state"))

    def adopt(
        self, resource: ManagedResource, management: Json, server: Json, spare: dict[str, str] | None = None
    ) -> InstanceState:
        """Take over a server that is there; answers with its state as far as Nova tells."""
        mark = marks.ServerMark.parse(server.get("metadata"))
        if mark is None or (mark.deployment, mark.resource_id) != (self._env.deployment, resource.resource_id):
            raise StepError(f"the management port belongs to server {server['id']}, which does not carry our mark")
        resource.instance = Instance(
            mark.boot_id,
            str(server["id"]),
            management,
            str((server.get("image") or {}).get("id") or ""),
            mark.operation_id,
            _unix_time(server.get("created")),
            tls=mark.tls,
            spare=spare,
        )
        resource.management = resource.wanted_digest = resource.reading = None
        resource.unanswered_since = None
        if resource.hand is not None and mark.operation_id:
            resource.hand.settle_rebuilds(mark.operation_id)
        if server["status"] in COMING:
            return InstanceState.BOOTING
        return InstanceState.UP if server["status"] == RUNNING else InstanceState.RESTART

    async def boot(
        self, resource: ManagedResource, reading: RouterReading, management: Json, ports: dict[str, Json]
    ) -> None:
        """Boot an instance with its ports. UncertainError when Nova did not answer: look before the next."""
        operation_id = self._choose_image(resource)
        files = self._env.boot_files()
        mark = marks.ServerMark(
            self._env.deployment, resource.resource_id, SLOT, self._env.new_id(), operation_id, tls=bool(files)
        )
        image = resource.image_override or self._env.router.image_id
        data = bootdata.user_data(mark, resource.tenant_id, management, self._env.router, self._env.appliance, files)
        order = [management["id"], *(ports[network]["id"] for network in reading.attached_network_ids)]
        resource.attempts += 1
        try:
            server_id = await self._nova.boot(
                mark, image, self._env.management.flavor_id, order, data, self._zone(reading)
            )
        except UncertainError:
            resource.boot_uncertain = True
            raise
        resource.instance = Instance(
            mark.boot_id,
            server_id,
            management,
            image,
            operation_id,
            self._env.clock.wall(),
            {network: str(port["mac_address"]) for network, port in ports.items()},
            mark.tls,
            {},
        )
        resource.management = resource.wanted_digest = resource.unanswered_since = None
        resource.waiting_since = self._env.clock.lease()
        if resource.hand is not None:
            # Done as far as booting goes; the operation ends when the instance is configured.
            resource.hand.settle_rebuilds()
        self._observer.happened(resource, "boot", f"server {server_id}, attempt {resource.attempts}, image {image}")

    def _zone(self, reading: RouterReading) -> str:
        """Nova's zone: what the router asks for, where its zones are Nova's, else the configured one."""
        hints = reading.router.get("availability_zone_hints") if self._env.zones_are_nova() else None
        return str(hints[0]) if hints else self._env.router.availability_zone

    def _choose_image(self, resource: ManagedResource) -> str:
        """The image becomes that of the newest rebuild; answers with the operation that boots, or empty."""
        hand = resource.hand
        if hand is None:
            return ""
        if rebuilds := hand.rebuilds():
            resource.image_override, resource.rebuild_id = rebuilds[-1].image_id, rebuilds[-1].operation_id
        # A rebuild whose first boot failed is booted again by the same command.
        return resource.rebuild_id if resource.rebuild_id in hand.operations else ""

    async def look(self, resource: ManagedResource) -> StepResult:
        """State CHECK_BOOT: ask the appliance; now and then ask Nova what became of the server."""
        if resource.instance is None:
            return StepResult(InstanceState.DOWN)
        settings, now = self._env.router, self._env.clock.lease()
        if resource.waiting_since is None:
            resource.waiting_since = now
        waited, pause = now - resource.waiting_since, settings.boot_look_interval
        if waited < pause / 2:
            return StepResult(InstanceState.BOOTING, wait=pause)
        try:
            status = await self._health.ask(resource)
        except UnreachableError as error:
            resource.unanswered_since, reason = None, str(error)
        else:
            resource.waiting_since = None
            return StepResult(self._health.judge(resource, status))
        overdue = waited > settings.boot_timeout
        if overdue or int(waited / pause) % _LOOKS == _LOOKS - 1:
            server = await self._nova.server(resource.instance.server_id)
            if overdue or server is None or server["status"] not in (*COMING, RUNNING):
                resource.waiting_since = None
                resource.unanswered_since, resource.instance.dead_in = now - waited, resource.reconcile_id
                resource.failed(_boot_failure(server, waited, reason), "its instance did not start; it is tried again")
                self._observer.happened(resource, "error", resource.last_error)
                return StepResult(InstanceState.DOWN if server is None else InstanceState.RESTART)
        return StepResult(InstanceState.BOOTING, wait=pause)

    async def remove_surplus(self, resource: ManagedResource, instance: Instance) -> None:
        """After a boot that nobody answered: delete servers with our mark that are not the instance."""
        if not resource.boot_uncertain:
            return
        for server in await self._nova.servers_of(resource.resource_id, SLOT):
            if str(server["id"]) != instance.server_id:
                await self._nova.delete(str(server["id"]))
                self._observer.happened(resource, "stop", f"surplus server {server['id']}")
        resource.boot_uncertain = False

    async def remove(self, resource: ManagedResource) -> float | None:
        """Delete all servers with our mark; None when they are gone, else seconds after which to look again."""
        clock = self._env.clock
        servers = await self._nova.servers_of(resource.resource_id, SLOT)
        if not servers and resource.instance is not None:
            # A listing that was cut short must not orphan the server that is known.
            known = await self._nova.server(resource.instance.server_id)
            servers = [known] if known else []
        if not servers:
            return None
        for server in servers:
            if server.get("OS-EXT-STS:task_state") != "deleting":
                await self._nova.delete(str(server["id"]))
                self._observer.happened(resource, "stop", f"server {server['id']}")
        if resource.instance is not None:
            resource.instance.dead_in = ""
        if resource.waiting_since is None or resource.state is InstanceState.BOOTING:
            resource.waiting_since, resource.stop_turns = clock.lease(), 0
        waited, timeout = clock.lease() - resource.waiting_since, self._env.router.stop_timeout
        if waited > timeout:
            if (turn := int(waited // timeout)) > resource.stop_turns:
                resource.stop_turns = turn
                await self._delete_anew(resource, servers)
            why = f"for {waited:.0f} s"
            resource.failed(
                f"Nova has not deleted server {servers[0]['id']} {why}", f"Nova has not deleted its server {why}"
            )
        return min(10.0, max(0.2, waited / 4))

    async def _delete_anew(self, resource: ManagedResource, servers: list[Json]) -> None:
        for server in servers:
            try:
                await self._nova.delete_anew(str(server["id"]))
            except CloudError as error:
                _log.warning("a deletion cannot be begun anew", resource=resource.resource_id, reason=str(error))
            else:
                self._observer.happened(resource, "stop", f"server {server['id']} anew: Nova did not delete it")


def _rank(server: Json) -> tuple[int, str]:
    """Which of several servers with our mark to keep: one that runs, one that comes, the older."""
    order = 0 if server["status"] == RUNNING else 1 if server["status"] in COMING else 2
    return order, str(server.get("created") or "")


def _boot_failure(server: Json | None, waited: float, reason: str) -> str:
    if server is None:
        return "the server disappeared while it booted"
    fault = (server.get("fault") or {}).get("message")
    return f"the server is {server['status']} and did not answer within {waited:.0f} s: {fault or reason}"


def _unix_time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
