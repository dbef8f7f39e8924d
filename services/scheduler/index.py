"""What exists and how it hangs together: from what an event names to the resources that it concerns.

Fed by health's inventory, by workers' status reports and by events that name a resource together with something else.
Whichever of inventory and status saw the higher revision says where a resource is attached; links learned from events
only add to that until the next of them. An index that knows too much sends a hint too many, which costs a look; one
that knows too little is why what matches nothing is kept for a while (`unmatched.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from astara.event.v1 import event_pb2
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import ingest_pb2

from services.common.marks import shard_of as _shard_of

shard_of = lru_cache(maxsize=200_000)(_shard_of)
"""The shard of a tenant, remembered."""

INTERNAL = resource_pb2.ATTACHMENT_ROLE_INTERNAL
GATEWAY = resource_pb2.ATTACHMENT_ROLE_GATEWAY


@dataclass(slots=True)
class Record:
    """One resource."""

    resource_id: str
    tenant_id: str
    shard: int
    kind: int = resource_pb2.RESOURCE_KIND_ROUTER
    name: str = ""
    revision: int = 0
    fingerprint: str = ""
    listed: bool = False
    """An inventory named it, so Neutron had it."""
    reported: bool = False
    """A holder reported it."""
    orphan_suspect: bool = False
    """Only an instance that carries its id names it."""
    deleted: bool = False
    """A DELETE was seen and no holder has said GONE yet: each new owner is told again."""
    named_at: float = 0.0
    """When an event first named it, on the lease clock; for those that nothing else names."""
    attachments: list[resource_pb2.Attachment] = field(default_factory=list)
    links: set[tuple[str, str, int]] = field(default_factory=set)
    """What of the maps below is due to it: (map, key, role)."""


class Index:
    """Resources by id, and by network, port, subnet and floating IP. `appeared` collects keys that became known."""

    def __init__(self, announced_limit: int) -> None:
        self.records: dict[str, Record] = {}
        self._announced: dict[str, None] = {}
        self._announced_limit = announced_limit
        self.by_shard: dict[int, set[str]] = {}
        self.appeared: list[str] = []
        self._networks: dict[str, dict[str, int]] = {}
        self._ports: dict[str, str] = {}
        self._floating_ips: dict[str, str] = {}
        self._subnets: dict[str, str] = {}

    def get(self, resource_id: str) -> Record | None:
        """The resource, None when unknown."""
        return self.records.get(resource_id)

    def in_shard(self, shard: int) -> list[Record]:
        """The resources of a shard, by id."""
        return [self.records[resource_id] for resource_id in sorted(self.by_shard.get(shard, ()))]

    def of_tenant(self, tenant_id: str) -> list[Record]:
        """The resources of a tenant, by id."""
        return [record for record in self.in_shard(shard_of(tenant_id)) if record.tenant_id == tenant_id]

    def name(self, resource_id: str, tenant_id: str, kind: int = 0) -> Record:
        """The resource's record, made when there is none. `tenant_id` counts only then: resources keep their owner.

        Until `confirm`, it is announced: known from an event alone. Of these there is a limit, the oldest go first.
        """
        record = self.records.get(resource_id)
        if record is None:
            record = self.records[resource_id] = Record(resource_id, tenant_id, shard_of(tenant_id))
            self.by_shard.setdefault(record.shard, set()).add(resource_id)
            self.appeared.append(resource_id)
            self._announced[resource_id] = None
            if len(self._announced) > self._announced_limit:
                self.forget(next(iter(self._announced)))
        if kind:
            record.kind = kind
        return record

    def confirm(self, record: Record) -> None:
        """An inventory or a holder's report names the resource."""
        self._announced.pop(record.resource_id, None)

    def announced(self) -> list[Record]:
        """The resources that only events have named, the oldest first."""
        return [self.records[resource_id] for resource_id in self._announced]

    def forget(self, resource_id: str) -> Record | None:
        """The resource exists no more."""
        record = self.records.pop(resource_id, None)
        self._announced.pop(resource_id, None)
        if record is not None:
            self.by_shard[record.shard].discard(resource_id)
            self._unlink(record)
        return record

    def attach(
        self, record: Record, attachments: Iterable[resource_pb2.Attachment], floating_ips: Iterable[str] | None
    ) -> None:
        """Where the resource is attached, in full. `floating_ips` None: the source does not know them."""
        record.attachments = list(attachments)
        kept = {link for link in record.links if link[0] == "floating_ip"} if floating_ips is None else set()
        links = kept | {("floating_ip", address, 0) for address in floating_ips or ()}
        for attachment in record.attachments:
            links.add(("network", attachment.network_id, attachment.role))
            if attachment.port_id:
                links.add(("port", attachment.port_id, attachment.role))
            links |= {("subnet", f"{subnet} {attachment.network_id}", 0) for subnet in attachment.subnet_ids}
        if links != record.links:
            self._unlink(record)
            for link in links:
                self._link(record, link)

    def learn(self, record: Record, subject: event_pb2.Subject) -> None:
        """An event named the resource together with a network, a port or a floating IP."""
        if subject.floating_ip_id:
            self._link(record, ("floating_ip", subject.floating_ip_id, 0))
        elif subject.network_id:
            role = GATEWAY if subject.scope == event_pb2.ATTACHMENT_SCOPE_GATEWAY else INTERNAL
            self._link(record, ("network", subject.network_id, role))
            if subject.subnet_id:
                self._link(record, ("subnet", f"{subject.subnet_id} {subject.network_id}", 0))

    def learn_subnet(self, subnet_id: str, network_id: str) -> None:
        """An event named a subnet with its network. Only for networks that a resource is attached to."""
        if network_id in self._networks and subnet_id not in self._subnets:
            self._subnets[subnet_id] = network_id

    def resolve(self, subject: event_pb2.Subject) -> set[str]:
        """The resources that an event without a known `resource_id` concerns, as event.proto's Subject orders it."""
        found = self._floating_ips.get(subject.floating_ip_id) if subject.floating_ip_id else None
        if found is None and subject.port_id:
            found = self._ports.get(subject.port_id)
        if found is not None:
            return {found}
        network = subject.network_id or (self._subnets.get(subject.subnet_id, "") if subject.subnet_id else "")
        attached = self._networks.get(network)
        if not attached:
            is_named = bool(subject.network_id or subject.subnet_id)
            is_gateway = subject.scope == event_pb2.ATTACHMENT_SCOPE_GATEWAY and not is_named
            return self._with_gateway(subject.project_id) if is_gateway else set()
        if subject.scope == event_pb2.ATTACHMENT_SCOPE_INTERNAL:
            return {resource_id for resource_id, roles in attached.items() if roles & (1 << INTERNAL)}
        if subject.scope == event_pb2.ATTACHMENT_SCOPE_GATEWAY:
            return {
                resource_id
                for resource_id, roles in attached.items()
                if roles & (1 << GATEWAY) and self.records[resource_id].tenant_id == subject.project_id
            }
        return set(attached)

    def _with_gateway(self, tenant_id: str) -> set[str]:
        """The tenant's resources that are attached to an external network."""
        return {
            record.resource_id
            for record in self.of_tenant(tenant_id)
            if any(attachment.role == GATEWAY for attachment in record.attachments)
        }

    def _link(self, record: Record, link: tuple[str, str, int]) -> None:
        if link in record.links:
            return
        record.links.add(link)
        what, key, role = link
        if what == "network":
            roles = self._networks.setdefault(key, {})
            roles[record.resource_id] = roles.get(record.resource_id, 0) | 1 << role
        elif what == "port":
            # Events about a gateway port name the external network too; only internal ports lead to their router.
            if role == INTERNAL:
                self._ports[key] = record.resource_id
        elif what == "floating_ip":
            self._floating_ips[key] = record.resource_id
        else:
            key, network = key.split(" ", 1)
            self._subnets[key] = network
        self.appeared.append(key)

    def _unlink(self, record: Record) -> None:
        for what, key, _ in sorted(record.links):  # networks before subnets: a subnet goes with its network's last link
            if what == "network":
                roles = self._networks.get(key)
                if roles is not None:
                    roles.pop(record.resource_id, None)
                    if not roles:
                        del self._networks[key]
            elif what == "port":
                if self._ports.get(key) == record.resource_id:
                    del self._ports[key]
            elif what == "floating_ip":
                if self._floating_ips.get(key) == record.resource_id:
                    del self._floating_ips[key]
            else:
                subnet, network = key.split(" ", 1)
                if network not in self._networks:
                    self._subnets.pop(subnet, None)
        record.links = set()


def changed(record: Record, listed: ingest_pb2.InventoryResource) -> bool:
    """Whether an inventory shows something that the owner has not seen: its fingerprint moved since the last one."""
    return bool(record.fingerprint) and record.fingerprint != listed.fingerprint
