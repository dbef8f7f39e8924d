"""What each event type and each cast becomes: the one table of the notifier.

A type stands here either with the key of its object in the payload and whom it concerns, or with the reason for which
it is ignored. A type that is not here is counted, logged once, and ignored. The golden test runs every recorded message
of Neutron, Nova and Octavia through this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from astara.event.v1 import event_pb2 as pb

from . import subjects
from .envelope import MessageError


@dataclass(frozen=True, slots=True)
class Becomes:
    """One event for each object in the payload, under `key` or, of bulk calls, its plural."""

    key: str
    event: subjects.Maker
    is_callers: bool = False
    """An object that names no project belongs to the caller's: a hint only, health sees what it misses."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that concerns no resource, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cast:
    """A cast to agents that becomes events, made from its arguments."""

    events: Callable[[Mapping[str, Any]], list[pb.Event]]


_REQUEST = Ignored("says what was asked for; the change, if there is one, is told by .end")
_NEW_NETWORK = Ignored("nothing is attached to a network that has just been created")
_SECURITY = Ignored("security groups are enforced at the hypervisors, not by appliances")
_SHARING = Ignored("sharing changes no configuration; attaching to the shared network is told by itself")
_TAGS = Ignored("tags are not part of any configuration, and the message names no project")
_SERVERS = Ignored("the worker asks Nova and the appliance itself; ports of servers have messages of their own")
_LOAD_BALANCERS = Ignored("load balancers come later")
_VPN = Ignored("VPN comes later")
_FIREWALLS = Ignored("firewalls come later")
_METERING = Ignored("names no router; labels are read with every configuration of a router")
_AGENTS = Ignored("concerns agents only; the same change is told by a notification")


def _deleted_router(arguments: Mapping[str, Any]) -> list[pb.Event]:
    return [subjects.named_router(pb.EVENT_KIND_DELETE, arguments.get("router_id"))]


def _updated_routers(arguments: Mapping[str, Any]) -> list[pb.Event]:
    routers = arguments.get("routers")
    if not isinstance(routers, list):
        msg = "routers_updated without a list of routers"
        raise MessageError(msg)
    return [subjects.named_router(pb.EVENT_KIND_UPDATE, one) for one in routers]


_ENDS: dict[str, Becomes | Ignored] = {
    "router.create": Becomes("router", subjects.router_created),
    "router.update": Becomes("router", subjects.router_updated),
    "router.delete": Becomes("router", subjects.router_deleted),
    "network.create": _NEW_NETWORK,
    "network.update": Becomes("network", subjects.network),
    "network.delete": Becomes("network", subjects.network),
    "subnet.create": Becomes("subnet", subjects.subnet),
    "subnet.update": Becomes("subnet", subjects.subnet),
    "subnet.delete": Becomes("subnet", subjects.subnet),
    "port.create": Becomes("port", subjects.port),
    "port.update": Becomes("port", subjects.port),
    "port.delete": Becomes("port", subjects.port),
    "floatingip.create": Becomes("floatingip", subjects.floating_ip),
    "floatingip.update": Becomes("floatingip", subjects.floating_ip),
    "floatingip.delete": Becomes("floatingip", subjects.floating_ip),
    "port_forwarding.create": Becomes("port_forwarding", subjects.port_forwarding, is_callers=True),
    "port_forwarding.update": Becomes("port_forwarding", subjects.port_forwarding, is_callers=True),
    "port_forwarding.delete": Becomes("port_forwarding", subjects.port_forwarding, is_callers=True),
    "security_group.create": _SECURITY,
    "security_group.update": _SECURITY,
    "security_group.delete": _SECURITY,
    "security_group_rule.create": _SECURITY,
    "security_group_rule.delete": _SECURITY,
    "rbac_policy.create": _SHARING,
    "rbac_policy.update": _SHARING,
    "rbac_policy.delete": _SHARING,
    "tag.create": _TAGS,
    "tag.update": _TAGS,
    "tag.delete": _TAGS,
    "tag.delete_all": _TAGS,
    "metering_label.create": _METERING,
    "metering_label.delete": _METERING,
    "metering_label_rule.create": _METERING,
    "metering_label_rule.delete": _METERING,
    "vpnservice.create": _VPN,
    "vpnservice.update": _VPN,
    "vpnservice.delete": _VPN,
    "ipsec_site_connection.create": _VPN,
    "ipsec_site_connection.update": _VPN,
    "ipsec_site_connection.delete": _VPN,
    "ikepolicy.create": _VPN,
    "ikepolicy.update": _VPN,
    "ikepolicy.delete": _VPN,
    "ipsecpolicy.create": _VPN,
    "ipsecpolicy.update": _VPN,
    "ipsecpolicy.delete": _VPN,
    "firewall_group.create": _FIREWALLS,
    "firewall_group.update": _FIREWALLS,
    "firewall_group.delete": _FIREWALLS,
    "firewall_policy.create": _FIREWALLS,
    "firewall_policy.update": _FIREWALLS,
    "firewall_policy.delete": _FIREWALLS,
    "firewall_rule.create": _FIREWALLS,
    "firewall_rule.update": _FIREWALLS,
    "firewall_rule.delete": _FIREWALLS,
    "octavia.loadbalancer.create": _LOAD_BALANCERS,
    "octavia.loadbalancer.update": _LOAD_BALANCERS,
    "octavia.loadbalancer.delete": _LOAD_BALANCERS,
    # Nova, unversioned and versioned.
    "compute.instance.create": _SERVERS,
    "compute.instance.delete": _SERVERS,
    "compute.instance.power_off": _SERVERS,
    "compute.instance.power_on": _SERVERS,
    "compute.instance.reboot": _SERVERS,
    "compute.instance.shutdown": _SERVERS,
    "instance.create": _SERVERS,
    "instance.delete": _SERVERS,
    "instance.interface_attach": _SERVERS,
    "instance.interface_detach": _SERVERS,
    "instance.power_off": _SERVERS,
    "instance.power_on": _SERVERS,
    "instance.reboot": _SERVERS,
    "instance.shutdown": _SERVERS,
    "scheduler.select_destinations": _SERVERS,
}

NOTIFICATIONS: Mapping[str, Becomes | Ignored] = {
    **{f"{name}.start": _REQUEST for name in _ENDS},
    **{f"{name}.end": rule for name, rule in _ENDS.items()},
    # These come alone.
    "router.interface.create": Becomes("router_interface", subjects.router_interface),
    "router.interface.delete": Becomes("router_interface", subjects.router_interface),
    "compute.instance.update": _SERVERS,
    "instance.update": _SERVERS,
    # From Astara's plugin in Neutron: what changed, whether Neutron tells of it or not.
    "astara.router.changed": Becomes("router_change", subjects.router_changed),
}

CASTS: Mapping[str, Cast | Ignored] = {
    "router_deleted": Cast(_deleted_router),
    "routers_updated": Cast(_updated_routers),
    "fipnamespace_delete_on_ext_net": _AGENTS,
    "router_added_to_agent": _AGENTS,
    "router_removed_from_agent": _AGENTS,
    "network_delete": _AGENTS,
    "network_delete_end": _AGENTS,
    "port_delete": _AGENTS,
    "port_update": _AGENTS,
    "push": _AGENTS,
    "security_groups_member_updated": _SECURITY,
    "security_groups_rule_updated": _SECURITY,
}
