"""From rows of Neutron and Nova to resources and instances: pure functions.

A resource's fingerprint covers the revisions of all that its configuration is made of, as far as listings show it: the
router, its ports, its networks, all subnets of these, its floating IPs. Ports of tenants are too many for that; they
are digested by network (`NetworkDigests`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import ingest_pb2 as ingest

from services.common.marks import MANAGEMENT, PortMark, ServerMark

from .listing import Row

_ROLES = {
    "network:router_interface": resource_pb2.ATTACHMENT_ROLE_INTERNAL,
    "network:router_interface_distributed": resource_pb2.ATTACHMENT_ROLE_INTERNAL,
    "network:ha_router_replicated_interface": resource_pb2.ATTACHMENT_ROLE_INTERNAL,
    "network:router_gateway": resource_pb2.ATTACHMENT_ROLE_GATEWAY,
}
ROUTER_PORT_OWNERS = tuple(_ROLES)


@dataclass
class Tables:
    """Rows by id, as last listed."""

    routers: dict[str, Row] = field(default_factory=dict)
    ports: dict[str, Row] = field(default_factory=dict)
    networks: dict[str, Row] = field(default_factory=dict)
    subnets: dict[str, Row] = field(default_factory=dict)
    floatingips: dict[str, Row] = field(default_factory=dict)


def resources(tables: Tables, claims: Callable[[Row], bool]) -> dict[str, ingest.InventoryResource]:
    """The claimed resources, by id."""
    ports: dict[str, list[Row]] = defaultdict(list)
    for port in tables.ports.values():
        ports[port.get("device_id") or ""].append(port)
    subnets: dict[str, list[Row]] = defaultdict(list)
    for subnet in tables.subnets.values():
        subnets[subnet.get("network_id") or ""].append(subnet)
    floating: dict[str, list[Row]] = defaultdict(list)
    for one in tables.floatingips.values():
        floating[one.get("router_id") or ""].append(one)
    found: dict[str, ingest.InventoryResource] = {}
    for router_id, router in tables.routers.items():
        if not claims(router):
            continue
        own = sorted(ports[router_id], key=lambda port: str(port["id"]))
        networks = {str(port.get("network_id")) for port in own}
        parts = [router, *own, *floating[router_id]]
        for network_id in networks:
            parts += [*subnets[network_id], *filter(None, [tables.networks.get(network_id)])]
        found[router_id] = ingest.InventoryResource(
            resource_id=router_id,
            kind=resource_pb2.RESOURCE_KIND_ROUTER,
            tenant_id=router.get("project_id") or router.get("tenant_id") or "",
            name=router.get("name") or "",
            attachments=[_attachment(port) for port in own],
            fingerprint=_fingerprint(parts),
            revision=int(router.get("revision_number") or 0),
            floating_ip_ids=sorted(str(one["id"]) for one in floating[router_id]),
        )
    return found


def instances(
    existing: Iterable[str],
    own_ports: Iterable[Row],
    servers: Iterable[Row],
    deployment: str,
    tenants: Mapping[str, str],
) -> list[ingest.InventoryInstance]:
    """Servers and ports with our mark, and what they are.

    `existing` are the ids of all routers that Neutron lists, claimed or not; `tenants` says whose they are. The
    server in a management port's device_id is the instance; any other server with the mark is surplus.
    """
    alive = set(existing)
    management: dict[tuple[str, int], Row] = {}
    marked: list[tuple[PortMark, Row]] = []
    for port in own_ports:
        mark = PortMark.parse(port.get("description"))
        if mark is None or mark.deployment != deployment:
            continue
        marked.append((mark, port))
        if mark.role == MANAGEMENT:
            management[mark.resource_id, mark.slot] = port
    found = []
    seen: set[str] = set()
    for server in servers:
        owner = ServerMark.parse(server.get("metadata"))
        if owner is None or owner.deployment != deployment:
            continue
        port_of = management.get((owner.resource_id, owner.slot))
        bound = (port_of or {}).get("device_id") or ""
        if owner.resource_id not in alive:
            finding = ingest.INSTANCE_FINDING_ORPHAN
        elif not bound:
            # Nova has not bound the port yet, or somebody took it away: the worker knows which.
            finding = ingest.INSTANCE_FINDING_UNSPECIFIED
        elif bound == server["id"]:
            finding = ingest.INSTANCE_FINDING_CURRENT
        else:
            finding = ingest.INSTANCE_FINDING_SURPLUS
        port_id = str(port_of["id"]) if port_of is not None and bound == server["id"] else ""
        seen.add(port_id)
        found.append(
            _instance(owner.resource_id, owner.slot, tenants, finding, server_id=server["id"], port_id=port_id)
        )
    for mark, port in marked:
        if port["id"] in seen or mark.resource_id in alive:
            continue
        orphan = ingest.INSTANCE_FINDING_ORPHAN
        found.append(_instance(mark.resource_id, mark.slot, tenants, orphan, server_id="", port_id=str(port["id"])))
    return found


class NetworkDigests:
    """What the ports of each network amount to, without keeping the ports: order does not matter."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self.by_network: dict[str, int] = {}

    def add(self, ports: Iterable[Row]) -> None:
        """Take in a page of ports; routers' own ports and those of our appliances do not count."""
        for port in ports:
            if not concerns_tenants(port, self._deployment):
                continue
            text = f"{port['id']}|{port.get('revision_number')}"
            digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            network = str(port.get("network_id"))
            self.by_network[network] = self.by_network.get(network, 0) ^ digest


def concerns_tenants(port: Row, deployment: str) -> bool:
    """Whether a port is one for which a router on its network may have an allocation."""
    if str(port.get("device_owner") or "").startswith("network:"):
        return False
    mark = PortMark.parse(port.get("description"))
    return mark is None or mark.deployment != deployment


def _attachment(port: Row) -> resource_pb2.Attachment:
    return resource_pb2.Attachment(
        network_id=port.get("network_id") or "",
        role=_ROLES[port["device_owner"]],
        port_id=port["id"],
        subnet_ids=[ip["subnet_id"] for ip in port.get("fixed_ips") or () if ip.get("subnet_id")],
    )


def _fingerprint(parts: Iterable[Mapping[str, Any]]) -> str:
    text = "\n".join(sorted(f"{part['id']}|{part.get('revision_number')}" for part in parts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _instance(
    resource_id: str,
    slot: int,
    tenants: Mapping[str, str],
    finding: "ingest.InstanceFinding.ValueType",
    *,
    server_id: str,
    port_id: str,
) -> ingest.InventoryInstance:
    return ingest.InventoryInstance(
        resource_id=resource_id,
        tenant_id=tenants.get(resource_id, ""),
        slot=slot,
        server_id=server_id,
        port_id=port_id,
        finding=finding,
    )
