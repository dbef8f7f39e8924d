"""One router as Neutron describes it, however it was read: call by call, or as one snapshot."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .cloud import Json
from .conntrack_helpers import sorted_out

INTERFACE_OWNERS = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)
GATEWAY_OWNER = "network:router_gateway"
BANDWIDTH_LIMIT = "bandwidth_limit"
"""The one type of rule of a QoS policy that appliances carry out."""


@dataclass(slots=True)
class RouterReading:
    """One router as Neutron describes it. Lists hold Neutron's JSON objects.

    `gateway_port` is the gateway that `external_gateway_info` describes, `more_gateway_ports` are those that only
    `external_gateways` has, sorted; several may be on one network.
    `server_id` is the server whose ports are in `instance_ports`; None when none was asked for. `is_one` says that all
    of it was read in one transaction of Neutron's database, so no part can be older than another. `serves_dhcp` says
    whether the appliance is the one to serve DHCP where a subnet has it enabled. `ndp_proxies` are the IPv6 addresses
    inside that are published outside; None when any may be reached. `unserved` names what is asked of the router that
    appliances do not do yet.
    """

    router: Json
    server_id: str | None
    interface_ports: list[Json]
    gateway_port: Json | None
    instance_ports: list[Json]
    networks: dict[str, Json]
    subnets: dict[str, Json]
    floating_ips: list[Json]
    allocations: list[Json]
    labels: list[Json]
    read_at: float
    more_gateway_ports: list[Json] = field(default_factory=list)
    qos_policies: dict[str, Json] = field(default_factory=dict)
    conntrack_helpers: list[Json] = field(default_factory=list)
    ndp_proxies: list[str] | None = None
    is_one: bool = False
    serves_dhcp: bool = True
    unserved: tuple[str, ...] = ()
    hints: int = -1  # ManagedResource.hints when the reading began

    @property
    def gateway_network_id(self) -> str | None:
        """The external network, when the router has a gateway."""
        return str(self.gateway_port["network_id"]) if self.gateway_port else None

    @property
    def gateway_ports(self) -> list[Json]:
        """The ports of all gateways, the main one first."""
        return [*([self.gateway_port] if self.gateway_port else []), *self.more_gateway_ports]

    @property
    def external_network_ids(self) -> list[str]:
        """The networks of the gateways, each once, that of the main one first."""
        return list(dict.fromkeys(str(port["network_id"]) for port in self.gateway_ports))

    @property
    def internal_network_ids(self) -> list[str]:
        """The networks of the router's interfaces, sorted."""
        return sorted({str(port["network_id"]) for port in self.interface_ports} - set(self.external_network_ids))

    def doubt(self) -> str:
        """Why this reading cannot be true, though every call was answered; empty when nothing speaks against it.

        Lists that a policy, a fault or a change in mid-reading cut short must not look like a router without networks.
        """
        plugged = {port["network_id"] for port in self.instance_ports}
        if self.router.get("external_gateway_info") and self.gateway_port is None:
            return "the router has a gateway, but its port is not listed"
        if len(self.gateway_ports) < len(self.router.get("external_gateways") or ()):
            return "the router has more gateways than ports of gateways are listed"
        if self.server_id and not plugged:
            return "the ports of the running instance are not listed"
        attached = set(self.attached_network_ids)
        if missing := attached - set(self.networks):
            return f"networks {sorted(missing)} are attached but not listed"
        own = [*self.interface_ports, *self.gateway_ports]
        if missing := {ip["subnet_id"] for port in own for ip in port["fixed_ips"]} - set(self.subnets):
            return f"subnets {sorted(missing)} are attached but not listed"
        if missing := set(self.qos_policy_ids) - set(self.qos_policies):
            return f"QoS policies {sorted(missing)} are in use but not listed"
        internal = {p["id"] for p in self.interface_ports if p["network_id"] not in self.external_network_ids}
        if missing := internal - {port["id"] for port in self.allocations}:
            return f"the router's ports {sorted(missing)} are not listed with those of their networks"
        return ""

    @property
    def qos_policy_ids(self) -> list[str]:
        """The policies that the gateways and the floating IPs have, sorted."""
        gateway = self.router.get("external_gateway_info") or {}
        return sorted({str(one["qos_policy_id"]) for one in (gateway, *self.floating_ips) if one.get("qos_policy_id")})

    @property
    def attached_network_ids(self) -> list[str]:
        """All networks that the instance must be plugged into, but the management network."""
        return self.external_network_ids + self.internal_network_ids


def reading_of(router: Json, server_id: str | None, ports: Iterable[Json], read_at: float) -> RouterReading:
    """A reading that has a router's and its instance's ports, and nothing else yet.

    A network's owner may write any router into a port: one is a gateway when the router itself names its address.
    """
    ports = list(ports)
    own = [port for port in ports if port.get("device_id") == router["id"]]
    main = router.get("external_gateway_info")
    named = [one for one in (main, *(router.get("external_gateways") or ())) if one]
    gateways = [
        next((port for port in own if port.get("device_owner") == GATEWAY_OWNER and _is_of(port, one)), None)
        for one in named
    ]
    found = list({str(port["id"]): port for port in gateways if port}.values())
    has_main = bool(main and gateways[0])
    return RouterReading(
        router=router,
        server_id=server_id,
        interface_ports=[port for port in own if port.get("device_owner") in INTERFACE_OWNERS],
        gateway_port=found[0] if has_main else None,
        instance_ports=[port for port in ports if server_id and port.get("device_id") == server_id],
        networks={},
        subnets={},
        floating_ips=[],
        allocations=[],
        labels=[],
        read_at=read_at,
        more_gateway_ports=sorted(
            found[1:] if has_main else found, key=lambda port: (port["network_id"], str(port["id"]))
        ),
    )


def _is_of(port: Json, gateway: Json) -> bool:
    """Whether a port has the network and the addresses that a router says of a gateway."""
    said = {one["ip_address"] for one in gateway.get("external_fixed_ips") or ()}
    has = {one["ip_address"] for one in port["fixed_ips"]}
    return bool(port["network_id"] == gateway.get("network_id") and (said & has or not (said or has)))


def reading_of_snapshot(snapshot: Json, server_id: str | None, read_at: float) -> RouterReading:
    """A reading made of a snapshot (docs/contracts.md, `astara-router-snapshot`); KeyError when a part is missing."""
    reading = reading_of(snapshot["router"], server_id, [*snapshot["ports"], *snapshot["instance_ports"]], read_at)
    reading.networks = {str(one["id"]): one for one in snapshot["networks"]}
    reading.subnets = {str(one["id"]): one for one in snapshot["subnets"]}
    reading.floating_ips = snapshot["floating_ips"]
    reading.allocations = snapshot["allocations"]
    reading.labels = snapshot["metering_labels"]
    reading.serves_dhcp = snapshot["dhcp"] == "appliance"
    reading.is_one = True
    add_extras(
        reading,
        snapshot.get("qos_policies") or (),
        snapshot.get("conntrack_helpers") or (),
        snapshot.get("ndp_proxies") or (),
        ha=bool(snapshot.get("ha")),
    )
    return reading


def add_extras(
    reading: RouterReading, policies: Iterable[Json], helpers: Iterable[Json], proxies: Iterable[Json], *, ha: bool
) -> None:
    """Add what a router has besides: QoS policies, conntrack helpers and NDP proxies (Neutron's objects), and HA."""
    reading.qos_policies = {str(one["id"]): one for one in policies}
    reading.conntrack_helpers, left = sorted_out(helpers)
    if reading.router.get("enable_ndp_proxy"):
        reading.ndp_proxies = sorted({str(one["ip_address"]) for one in proxies})
    reading.unserved = tuple(_unserved(reading, left, ha=ha))


def _unserved(reading: RouterReading, helpers: Iterable[Json], *, ha: bool) -> Iterable[str]:
    """What a user asked for and appliances do not do yet, in the user's words."""
    yield from (f"conntrack helper {one['helper']} ({one['protocol']} {one['port']})" for one in helpers)
    rules = (rule["type"] for policy in reading.qos_policies.values() for rule in policy["rules"])
    if others := sorted(set(rules) - {BANDWIDTH_LIMIT}):
        yield f"QoS rules of type {', '.join(others)}"
    if ha:
        yield "a second instance for high availability"
