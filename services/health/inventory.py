"""Takes the inventory: lists everything, or what changed, into tables, and tells what is different.

A full listing replaces the tables, all or nothing. A look at what changed merges rows into them, in the best way that
Neutron has: snapshots of the routers that something changed since a revision (Astara's plugin in Neutron), which misses
nothing; objects with `changed_since` a time, which cannot show what was deleted, except ports of routers, whose router
then changes too; or, where Neutron refuses that (it does as long as it validates filters, its default), the same tables
whole, and ports of tenants only with every full listing.
"""

from collections.abc import Container
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
_SNAPSHOT = "id revision router ports networks subnets floating_ips"
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
    touched: list[ingest.InventoryResource] = field(default_factory=list)
    """Claimed ones of which something changed that their fingerprint does not show."""
    gone: list[ingest.InventoryResource] = field(default_factory=list)
    """Claimed ones that Neutron says were deleted, each once; those that are only missing are for a full listing."""


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
        self._changed_since = True  # Neutron tells what changed since a time; found out at the first look
        self._revision: int | None = None  # of Astara's plugin in Neutron, up to which changes are known
        self._seen: dict[str, int] = {}  # the last change of each router that was listed after that revision
        self._gone: set[str] = set()  # routers of the last full listing of which it was told that they were deleted
        self.resources: dict[str, ingest.InventoryResource] = {}

    @property
    def lists_whole(self) -> bool:
        """Whether a look at what changed has to list everything again."""
        return self._revision is None and not self._changed_since

    async def full(self) -> Findings:
        """List everything. Raises ListingError, or SuspiciousError; what was known then stays."""
        began = self._clock.wall()
        revision = await self._current_revision()
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
        self._tables, self._digests, self._looked_at, self._revision = tables, digests, began, revision
        self._seen, self._gone = {}, set()
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
        listed: set[str] = set()
        deleted: set[str] = set()
        moved: set[str] = set()
        is_broken = False
        if self._revision is not None:
            try:
                listed, deleted = await self._merge_snapshots(self._revision)
            except ListingError as error:
                if error.status not in (200, 403, 404, 410):
                    raise
                _log.warning("Neutron does not tell what changed, it is looked for otherwise", error=str(error))
                # An answer that makes no sense may be of one router. Else the plugin was taken out, its policy or
                # Neutron's database is another: the next full listing begins anew.
                is_broken = error.status == 200
                if not is_broken:
                    self._revision = None
        if self._revision is None or is_broken:
            moved = await self._look()
        self._looked_at = began
        gone = [one for one in self.resources.values() if one.resource_id in deleted]
        self._gone |= deleted
        known = resources(self._tables, self._claim)
        before, self.resources = self.resources, {one: row for one, row in known.items() if one not in self._gone}
        news = [one for one in self.resources.values() if before.get(one.resource_id) != one]
        fresh = {one.resource_id for one in news}
        touched = [one for one in self.resources.values() if one.resource_id in listed - fresh]
        return Findings(news, networks=self._attached(moved), touched=touched, gone=gone)

    async def _look(self) -> set[str]:
        """Without the plugin: merge what changed; answers with the networks on which tenants' ports changed."""
        if self._changed_since:
            try:
                return await self._merge()
            except ListingError as error:
                if error.status != 400:
                    raise
                self._changed_since = False
                _log.info("Neutron does not tell what changed since a time: routers are listed whole instead")
        tables = await self._list_tables()
        known = len(self._tables.routers.keys() - self._gone)
        if len(tables.routers) < self._trusted_share * known:
            raise ListingError("GET /routers", 200, f"only {len(tables.routers)} of {known}")
        # What is missing is for a full listing to say.
        tables.routers = {**self._tables.routers, **tables.routers}
        self._tables = tables
        return set()

    async def _current_revision(self) -> int | None:
        """Where changes are counted from after a full listing; None without the plugin."""
        try:
            _, revision = await self._lister.snapshots(None, "id")
        except ListingError as error:
            if error.status != 404:
                _log.warning("Neutron does not tell its revision, changes are looked for otherwise", error=str(error))
            return None
        return revision

    async def _merge_snapshots(self, since: int) -> tuple[set[str], set[str]]:
        """Merge snapshots of what changed since a revision; answers with the routers whose changes are news, and with
        those that were deleted. ListingError, with nothing merged, when a snapshot lacks something.

        Late ones are listed again and again, for as long as a transaction could still add to them.
        """
        rows, revision = await self._lister.snapshots(since, _SNAPSHOT)
        # What is gone stays in the tables until a full listing says so too.
        found = {row["id"]: row for row in rows if not row.get("deleted")}
        try:
            fresh = Tables(
                routers={one: _chosen(row["router"], _ROUTER) for one, row in found.items()},
                ports=_by_id([_chosen(one, _ROUTER_PORT) for row in found.values() for one in row["ports"]]),
                networks=_by_id([_chosen(one, _NETWORK) for row in found.values() for one in row["networks"]]),
                subnets=_by_id([_chosen(one, _SUBNET) for row in found.values() for one in row["subnets"]]),
                floatingips=_by_id(
                    [_chosen(one, _FLOATING_IP) for row in found.values() for one in row["floating_ips"]]
                ),
            )
            seen = {one: int(row.get("revision") or 0) for one, row in found.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ListingError("GET /astara-router-snapshots", 200, f"not a snapshot: {error!r}") from error
        tables = self._tables
        tables.routers |= fresh.routers
        tables.ports = _without(tables.ports, "device_id", found) | fresh.ports
        tables.networks |= fresh.networks
        tables.subnets = _without(tables.subnets, "network_id", fresh.networks) | fresh.subnets
        tables.floatingips = _without(tables.floatingips, "router_id", found) | fresh.floatingips
        before, self._seen, self._revision = self._seen, seen, revision
        news = {one for one, last in seen.items() if last > before.get(one, -1)}
        return news, {row["id"] for row in rows} - found.keys()

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
        """Refuse a listing that lacks much of what was known, unless several in a row say the same.

        What Neutron said was deleted is no loss.
        """
        known = len(self._tables.routers.keys() - self._gone)
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


def _chosen(row: Row, fields: str) -> Row:
    return {field: row.get(field) for field in fields.split()}


def _without(rows: dict[str, Row], name: str, values: Container[object]) -> dict[str, Row]:
    return {one: row for one, row in rows.items() if row.get(name) not in values}


def _by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}
