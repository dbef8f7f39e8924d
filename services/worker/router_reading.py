"""Reading a router from Neutron, and what to believe of an answer: a lower revision, a cut list, a 404.

An answer older than the event is read again, one that contradicts itself is read again, and absence destroys nothing by
accident: a 404 that no DELETE event explains must come twice, from a session that still sees the other routers.
"""

from astara.resource.v1 import resource_pb2 as pb

from services.common import logging

from .errors import NotFoundError, StepError
from .inbox import BITS
from .machine import Observer, StepResult, UnclaimedError
from .neutron import Neutron
from .reading import RouterReading
from .resource import ManagedResource
from .router_environment import RouterEnvironment
from .router_ports import macs_by_network
from .router_status import RouterStatus
from .safety import Budget
from .states import Action, InstanceState

_log = logging.get(__name__)

_FRESH = 15.0  # seconds; a reading older than this is not pushed after a boot
_ABSENT_TWICE = 10.0  # seconds between two 404s that together mean GONE
_STILL_LISTED = 0.9  # share of the other routers that must be listed for a 404 to count
_PEERS = 50  # how many others are looked for
_STALE_READINGS = 4  # in a row, until an event's revision is no longer believed


class RouterReader:
    """Reads routers. Raises StepError and its kinds, and UnclaimedError for a router that is not ours."""

    def __init__(
        self,
        neutron: Neutron,
        environment: RouterEnvironment,
        observer: Observer,
        removals: Budget,
        status: RouterStatus,
    ) -> None:
        self._neutron = neutron
        self._status = status
        self._env = environment
        self._observer = observer
        self._removals = removals

    async def read(self, resource: ManagedResource) -> RouterReading | None:
        """The router as it is now; None when Neutron answers 404. A kept reading serves while nothing new is known."""
        kept, instance, began = resource.reading, resource.instance, self._env.clock.lease()
        # What a hint says may have happened after the reading, whether it lies in the inbox or in this run's hand.
        if kept is not None and kept.hints == resource.hints and began - kept.read_at < _FRESH:
            return kept
        hints = resource.hints
        server_id = instance.server_id if instance else None
        try:
            reading = await self._neutron.read_router(resource.resource_id, server_id)
            if reading.doubt():
                reading = await self._neutron.read_router(resource.resource_id, server_id)
        except NotFoundError:
            return None
        if doubt := reading.doubt():
            raise StepError(f"Neutron's answers contradict each other, nothing is changed: {doubt}")
        reading.read_at, reading.hints = began, hints
        self._check_revision(resource, reading)
        self._remember(resource, reading)
        if not self._env.claims(reading.router):
            raise UnclaimedError("the claim rule does not cover this router")
        self._status.seen(resource, reading)
        return reading

    async def absent(self, resource: ManagedResource) -> StepResult:
        """Neutron says 404 and no DELETE event explains it: once is not enough to believe it."""
        state = resource.state or InstanceState.DOWN
        now = self._env.clock.lease()
        if resource.absent_since is None:
            resource.absent_since = now
        waited = now - resource.absent_since
        if waited < _ABSENT_TWICE:
            created = resource.hand is not None and resource.hand.actions & BITS[Action.CREATE]
            return StepResult(state, wait=1.0 if created else _ABSENT_TWICE - waited)
        if not await self._neutron.sees_everything():
            raise StepError("the service user is no admin to Neutron any more: a missing router proves nothing")
        others = [peer.resource_id for peer, _ in zip(self._env.peers(resource), range(_PEERS), strict=False)]
        share = await self._neutron.listed_share(others)
        if share < _STILL_LISTED:
            raise StepError(f"Neutron lists only {share:.0%} of the known routers: a missing one proves nothing")
        if resource.instance is not None and not self._removals.draw():
            raise StepError(
                f"more than {self._removals.limit()} routers vanished within an hour without a DELETE event: "
                "an operator must look (delete the instance by hand, or rebuild)"
            )
        self._observer.happened(resource, "state", "Neutron answers 404 without a DELETE event")
        return StepResult(InstanceState.GONE)

    def _check_revision(self, resource: ManagedResource, reading: RouterReading) -> None:
        wanted = resource.hand.revision if resource.hand else 0
        revision = int(reading.router.get("revision_number") or 0)
        if revision >= wanted:
            resource.stale_readings = 0
            return
        resource.stale_readings += 1
        if resource.stale_readings < _STALE_READINGS:
            raise StepError(f"Neutron answered with revision {revision}, older than the event's {wanted}")
        # A replica catches up within seconds. An event that promises more than ever comes (a database that was restored
        # from a backup, a forgery) must not keep the router from its owner's changes.
        _log.warning("revision not reached", resource=resource.resource_id, promised=wanted, read=revision)
        resource.stale_readings = 0
        if resource.hand:
            resource.hand.revision = 0

    def _remember(self, resource: ManagedResource, reading: RouterReading) -> None:
        router, instance = reading.router, resource.instance
        resource.absent_since = None
        resource.name = str(router.get("name") or "")
        resource.tenant_id = str(router.get("project_id") or router.get("tenant_id") or resource.tenant_id)
        resource.revision = int(router.get("revision_number") or 0)
        resource.attachments = _attachments(reading)
        if instance is not None and instance.server_id == reading.server_id:
            # Neutron knows better than this worker's memory: somebody may have pulled a port out.
            instance.ports = macs_by_network(reading.instance_ports, self._env.management.network_id)


def _attachments(reading: RouterReading) -> tuple[tuple[str, int, str, tuple[str, ...]], ...]:
    ports = [(port, int(pb.ATTACHMENT_ROLE_INTERNAL)) for port in reading.interface_ports]
    ports += [(port, int(pb.ATTACHMENT_ROLE_GATEWAY)) for port in reading.gateway_ports]
    return tuple(
        sorted(
            (str(p["network_id"]), role, str(p["id"]), tuple(sorted(str(ip["subnet_id"]) for ip in p["fixed_ips"])))
            for p, role in ports
        )
    )
