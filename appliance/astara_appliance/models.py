"""The configuration that the orchestrator pushes: `PUT /v1/system/config` (docs/contracts.md, "Configuration").

Strict: an unknown field, a value of another type and a list longer than its limit are refused, and so is what
contradicts itself inside one object. What concerns several objects at once is judged in `consistency`, and
`validation.parse_configuration` is the one way from JSON to a `Configuration`. Every field has a default or is named in
the examples of section 1.3.2 of the functional description, so those validate as they stand.
"""

from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from . import consistency
from .fields import (
    Address,
    AddressV4,
    AutonomousSystem,
    Cidr,
    HostAddressV6,
    Hostname,
    InterfaceAddress,
    InterfaceName,
    Mac,
    Mtu,
    Port,
    Tenant,
    Text,
    Uuid,
)

MAX_NETWORKS = 64
MAX_SUBNETS = 128
MAX_ADDRESSES = 128
MAX_ALLOCATIONS = 20_000
MAX_ROUTES = 4_096
MAX_FLOATING_IPS = 8_192
MAX_PORT_FORWARDINGS = 8_192
MAX_LABELS = 1_024
MAX_PREFIXES = 1_024
MAX_RATE_LIMITS = 4_096
MAX_HELPERS = 256
MAX_NDP_PROXIES = 8_192
MAX_SERVERS = 16
MAX_PORT_ADDRESSES = 64
MAX_DHCP_OPTIONS = 64
MAX_LIMITED = MAX_FLOATING_IPS + MAX_ADDRESSES
MAX_KBPS = 100_000_000
MAX_BURST_KBPS = 25_000_000

IPv6Mode = Literal["slaac", "dhcpv6-stateful", "dhcpv6-stateless"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Route(_Model):
    """Packets for `destination` go to `nexthop`; a list of the two is accepted as well."""

    destination: Cidr
    nexthop: Address

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 2:
            return {"destination": value[0], "nexthop": value[1]}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Route":
        consistency.check(consistency.of_route(self))
        return self


class Interface(_Model):
    """How one interface shall be set up. It is found by `lladdr`; by `ifname` where no MAC is given."""

    ifname: InterfaceName
    lladdr: Mac | None = None
    addresses: Annotated[list[InterfaceAddress], Field(max_length=MAX_ADDRESSES)] = []
    mtu: Mtu | None = None
    description: Text = ""
    groups: Annotated[list[InterfaceName], Field(max_length=MAX_SERVERS)] = []
    media: Text | None = None
    state: Literal["up", "down"] = "up"

    @model_validator(mode="after")
    def _consistent(self) -> "Interface":
        consistency.check(consistency.of_interface(self))
        return self


class Subnet(_Model):
    """One subnet of a network, as Neutron has it."""

    id: Uuid
    cidr: Cidr
    gateway_ip: Address | None = None
    dhcp_enabled: bool = False
    dns_nameservers: Annotated[list[Address], Field(max_length=MAX_SERVERS)] = []
    host_routes: Annotated[list[Route], Field(max_length=MAX_ROUTES)] = []
    ipv6_address_mode: IPv6Mode | None = None
    ipv6_ra_mode: IPv6Mode | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Subnet":
        consistency.check(consistency.of_subnet(self))
        return self


class DhcpOption(_Model):
    """One of a port's `extra_dhcp_opts`, as Neutron has them: a name or a number, and a value."""

    opt_name: Text
    opt_value: Text
    ip_version: Literal[4, 6] = 4


class Allocation(_Model):
    """One port's addresses on a network; an address is true when DHCP serves it."""

    device_id: Text = ""
    hostname: Hostname = ""
    mac_address: Mac
    ip_addresses: Annotated[dict[Address, bool], Field(max_length=MAX_PORT_ADDRESSES)] = {}
    extra_dhcp_opts: Annotated[list[DhcpOption], Field(max_length=MAX_DHCP_OPTIONS)] = []


class Network(_Model):
    """One attached network."""

    network_id: Uuid
    name: Text = ""
    network_type: Literal["external", "internal", "management"]
    mtu: Mtu | None = None
    v4_conf_service: Literal["static"] = "static"
    v6_conf_service: Literal["static"] = "static"
    interface: Interface
    subnets: Annotated[list[Subnet], Field(max_length=MAX_SUBNETS)] = []
    address_allocations: Annotated[list[Allocation], Field(max_length=MAX_ALLOCATIONS)] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Network":
        consistency.check(consistency.of_network(self))
        return self


class FloatingIp(_Model):
    """An address of the external network `network_id` that stands for an internal one; only IPv4 is translated."""

    id: Uuid
    floating_ip: AddressV4
    fixed_ip: AddressV4
    network_id: Uuid

    @model_validator(mode="wrap")
    @classmethod
    def _as_before(cls, value: Any, handler: ModelWrapValidatorHandler["FloatingIp"]) -> "FloatingIp":
        """A push has thousands, nearly all of them those of the push before; the same object serves again."""
        if not isinstance(value, dict) or value.keys() != cls.model_fields.keys():
            return handler(value)
        spelling = _as_spelled(value)
        try:
            known = _floating_ips.get(spelling)
        except TypeError:
            return handler(value)
        if known is None:
            known = handler(value)
            if len(_floating_ips) >= _MOST_REMEMBERED:
                _floating_ips.clear()
            _floating_ips[spelling] = known
        return known


# Of each floating IP that was found right, as it was spelled: four strings, since nothing else is found right.
_floating_ips: dict[tuple[str, ...], FloatingIp] = {}
_as_spelled = itemgetter(*FloatingIp.model_fields)
_MOST_REMEMBERED = 4 * MAX_FLOATING_IPS


class PortForwarding(_Model):
    """Ports of an address of the external network that stand for ports of an internal address.

    Ranges include their ends; without an end they are one port. The internal range is as long as the external one, each
    port standing for its counterpart, or a single port for which all external ones stand (Neutron's extension
    `floating-ip-port-forwarding-port-ranges`).
    """

    id: Uuid
    floating_ip: AddressV4
    protocol: Literal["tcp", "udp"]
    external_port: Port
    external_port_end: Port | None = None
    fixed_ip: AddressV4
    internal_port: Port
    internal_port_end: Port | None = None

    @property
    def external_ports(self) -> range:
        """The external ports."""
        return range(self.external_port, (self.external_port_end or self.external_port) + 1)

    @property
    def internal_ports(self) -> range:
        """The internal ports."""
        return range(self.internal_port, (self.internal_port_end or self.internal_port) + 1)

    @model_validator(mode="after")
    def _consistent(self) -> "PortForwarding":
        consistency.check(consistency.of_port_forwarding(self))
        return self


class Label(_Model):
    """Traffic to be counted: what enters from or leaves to `prefixes` on the external side."""

    name: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._:-]+$")]
    prefixes: Annotated[list[Cidr], Field(max_length=MAX_PREFIXES)] = []
    direction: Literal["ingress", "egress"] = "ingress"

    @model_validator(mode="after")
    def _consistent(self) -> "Label":
        consistency.check(consistency.of_label(self))
        return self


class RateLimit(_Model):
    """What each of some external addresses may receive (`ingress`) or send (`egress`): a rule of a QoS policy.

    Units are Neutron's: kilobits a second, and kilobits at once; a burst of 0 is left to the appliance.
    """

    direction: Literal["ingress", "egress"]
    max_kbps: Annotated[int, Field(ge=1, le=MAX_KBPS)]
    max_burst_kbps: Annotated[int, Field(ge=0, le=MAX_BURST_KBPS)] = 0
    addresses: Annotated[list[AddressV4], Field(max_length=MAX_LIMITED)]


class ConntrackHelper(_Model):
    """A protocol that opens further connections, and the port at which it is spoken; names are Neutron's or Linux's."""

    protocol: Literal["tcp", "udp"]
    port: Port
    helper: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]


class Configuration(_Model):
    """All that one appliance shall do.

    `more_default_gateways` share the traffic with the default gateways of their address family. With `ndp_proxies`, be
    they none, the internal IPv6 networks are closed to the external side but for these addresses, for which the
    appliance answers there; without, they are routed.
    """

    hostname: Text = ""
    tenant_id: Tenant | None = None
    admin_state_up: bool = True
    asn: AutonomousSystem | None = None
    neighbor_asn: AutonomousSystem | None = None
    default_v4_gateway: Address | None = None
    default_v6_gateway: Address | None = None
    more_default_gateways: Annotated[list[Address], Field(max_length=MAX_SERVERS)] = []
    enable_snat: bool = True
    networks: Annotated[list[Network], Field(max_length=MAX_NETWORKS)] = []
    static_routes: Annotated[list[Route], Field(max_length=MAX_ROUTES)] = []
    floating_ips: Annotated[list[FloatingIp], Field(max_length=MAX_FLOATING_IPS)] = []
    port_forwardings: Annotated[list[PortForwarding], Field(max_length=MAX_PORT_FORWARDINGS)] = []
    labels: Annotated[list[Label], Field(max_length=MAX_LABELS)] = []
    rate_limits: Annotated[list[RateLimit], Field(max_length=MAX_RATE_LIMITS)] = []
    conntrack_helpers: Annotated[list[ConntrackHelper], Field(max_length=MAX_HELPERS)] = []
    ndp_proxies: Annotated[list[HostAddressV6], Field(max_length=MAX_NDP_PROXIES)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Configuration":
        consistency.check(consistency.of_configuration(self))
        return self

    def networks_of(self, kind: Literal["external", "internal", "management"]) -> list[Network]:
        """The attached networks of one kind, in the order in which they were sent."""
        return [network for network in self.networks if network.network_type == kind]
