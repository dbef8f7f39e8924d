"""Takes the inventory: lists everything, or what changed, into tables, and tells what is different.

A full listing replaces the tables, all or nothing. A look at what changed merges rows into them: it cannot see what was
deleted, except ports of routers, whose router then changes too. Where Neutron refuses `changed_since` (it does as long
as it validates filters, its default), a look lists the same tables whole; ports of tenants only every full listing.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from astara.resource.v1.resource_pb2 import ATTACHMENT_ROLE_INTERNAL
from astara.scheduler.v1 import ingest_pb2 as ingest

from services.common import logging
from services.common.claim import Claim
from services.common.clock import Clock
from services.common.marks import server_name

from .assemble import ROUTER_PORT_OWNERS, NetworkDigests, Tables, concerns_tenants, instances, resources
from .listing import Filters, Lister, ListingError, Row

_ROUTER = "id name project_id flavor_id revision_number"
_ROUTER_PORT = "id network_id device_id device_owner fixed_ips revision_number"
_NETWORK = "id revision_number"
_SUBNET = "id network_id revision_number"
_FLOATING_IP = "id router_id revision_number"
_OWN_PORT = "id device_id description"
_TENANT_PORT = "id network_id device_owner description revision_number"
_OWNERS: Filters = [("device_owner", owner) for owner in ROUTER_PORT_OWNERS]

# Ids in one query: URLs have an end.
_IDS = 40
# A listing that is suspiciously short is believed when so many in a row agree.
_AGREE = 3

_log = logging.get(__name__)


class SuspiciousError(Exception):
    """A full listing succeeded and lacks so much that it is not believed yet."""


@dataclass(slots=True)
class Findings:
    """What one listing told."""

    resources: list[ingest.InventoryResource] = field(default_factory=list)
    """All claimed ones after a full listing, else those that are new or changed."""
    instances: list[ingest.InventoryInstance] = field(default_factory=list)
    """Only after a full listing."""
    networks: list[str] = field(default_factory=list)
    """Networks to which a claimed resource is internally attached and on which tenants' ports changed."""


class Inventory:
    """The tables and what was told of them. One listing runs at a time."""

    def __init__(
        self, lister: Lister, claim: Claim, clock: Clock, deployment: str, *, overlap: float, trusted_share: float
    ) -> None:
        self._lister = lister
        self._claim = claim
        self._clock = clock
        self._deployment = deployment
        self._overlap = overlap
        self._trusted_share = trusted_share
        self._tables = Tables()
        self._digests: NetworkDigests | None = None
        self._looked_at = 0.0
        self._short: list[int] = []
        self.changed_since = True
        """Whether Neutron tells what changed since a time; found out at the first look."""
        self.resources: dict[str, ingest.InventoryResource] = {}

    async def full(self) -> Findings:
        """List everything. Raises ListingError, or SuspiciousError; what was known then stays."""
        began = self._clock.wall()
        await self._claim.refresh()
        tables = await self._list_tables()
        own = [("project_id", await self._lister.project_id())]
        own_ports = await self._lister.network("ports", _OWN_PORT, own)
        servers = await self._lister.servers(f"^{server_name('', 0)[:-2]}")
        digests = NetworkDigests(self._deployment)
        async for page in self._lister.network_pages("ports", _TENANT_PORT):
            digests.add(page)
        self._check(len(tables.routers))
        before = self._digests.by_network if self._digests is not None else None
        self._tables, self._digests, self._looked_at = tables, digests, began
        self.resources = resources(tables, self._claim)
        findings = Findings(list(self.resources.values()))
        owners = {one: str(row.get("project_id") or row.get("tenant_id") or "") for one, row in tables.routers.items()}
        findings.instances = instances(tables.routers, own_ports, servers, self._deployment, owners)
        if before is not None:
            after = digests.by_network
            moved = {network for network in before.keys() | after.keys() if before.get(network) != after.get(network)}
            findings.networks = self._attached(moved)
        return findings

    async def changed(self) -> Findings:
        """Look at what changed. Raises ListingError; what was known then stays."""
        began = self._clock.wall()
        moved: set[str] = set()
        if self.changed_since:
            try:
                moved = await self._merge()
            except ListingError as error:
                if error.status != 400:
                    raise
                self.changed_since = False
                _log.info("Neutron does not tell what changed since a time: routers are listed whole instead")
        if not self.changed_since:
            tables = await self._list_tables()
            if len(tables.routers) < self._trusted_share * len(self._tables.routers):
                raise ListingError("GET /routers", 200, f"only {len(tables.routers)} of {len(self._tables.routers)}")
            # What is missing is for a full listing to say.
            tables.routers = {**self._tables.routers, **tables.routers}
            self._tables = tables
        self._looked_at = began
        before, self.resources = self.resources, resources(self._tables, self._claim)
        news = [one for one in self.resources.values() if before.get(one.resource_id) != one]
        return Findings(news, networks=self._attached(moved))

    async def _list_tables(self) -> Tables:
        lister = self._lister
        return Tables(
            routers=_by_id(await lister.network("routers", _ROUTER)),
            ports=_by_id(await lister.network("ports", _ROUTER_PORT, _OWNERS)),
            networks=_by_id(await lister.network("networks", _NETWORK)),
            subnets=_by_id(await lister.network("subnets", _SUBNET)),
            floatingips=_by_id(await lister.network("floatingips", _FLOATING_IP)),
        )

    async def _merge(self) -> set[str]:
        """Merge what changed into the tables; answers with the networks on which tenants' ports changed."""
        at = datetime.fromtimestamp(self._looked_at - self._overlap, UTC)
        since = [("changed_since", at.strftime("%Y-%m-%dT%H:%M:%S"))]
        lister, tables = self._lister, self._tables
        routers = await lister.network("routers", _ROUTER, since)
        ports = await lister.network("ports", f"{_ROUTER_PORT} description", since)
        networks = await lister.network("networks", _NETWORK, since)
        subnets = await lister.network("subnets", _SUBNET, since)
        floating = await lister.network("floatingips", _FLOATING_IP, since)
        known = tables.routers
        news = [
            row["id"]
            for row in routers
            if (old := known.get(row["id"])) is None or old["revision_number"] != row["revision_number"]
        ]
        fresh: list[Row] = []
        for start in range(0, len(news), _IDS):
            ids = [("device_id", one) for one in news[start : start + _IDS]]
            fresh += await lister.network("ports", _ROUTER_PORT, [*_OWNERS, *ids])
        gone = set(news)
        tables.ports = {one: row for one, row in tables.ports.items() if row.get("device_id") not in gone}
        tables.ports |= _by_id(fresh) | _by_id([p for p in ports if p.get("device_owner") in ROUTER_PORT_OWNERS])
        tables.routers |= _by_id(routers)
        tables.networks |= _by_id(networks)
        tables.subnets |= _by_id(subnets)
        tables.floatingips |= _by_id(floating)
        return {str(port["network_id"]) for port in ports if concerns_tenants(port, self._deployment)}

    def _check(self, listed: int) -> None:
        """Refuse a listing that lacks much of what was known, unless several in a row say the same."""
        known = len(self._tables.routers)
        if listed >= self._trusted_share * known:
            self._short.clear()
            return
        if self._short and self._short[-1] != listed:
            self._short.clear()
        self._short.append(listed)
        if len(self._short) < _AGREE:
            msg = (
                f"Neutron lists {listed} routers where it listed {known}: not believed before it says so {_AGREE} times"
            )
            raise SuspiciousError(msg)
        self._short.clear()

    def _attached(self, networks: set[str]) -> list[str]:
        """Those of the networks to which a claimed resource is attached internally."""
        attached = {
            attachment.network_id
            for one in self.resources.values()
            for attachment in one.attachments
            if attachment.role == ATTACHMENT_ROLE_INTERNAL
        }
        return sorted(networks & attached)


def _by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}
