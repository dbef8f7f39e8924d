"""The firewall's state as text for `nft -f -`: what loads it whole, and what loads a difference.

Everything is in one table whose chains and rules never change; all that varies is an element of a set or map of it, so
a floating IP costs an entry in two maps and no rule is walked for it. Only labels and conntrack helpers have rules of
their own, in chains that nothing else uses. Each text is one transaction: all of it takes effect at once, or nothing.

What goes into the text are addresses, numbers and interface names out of typed models. A label's name does not.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from ..backend import Counter, State
from ..fields import version_of

TABLE = "astara"

Elements = dict[str, dict[str, str]]
"""Of each set or map its keys, each with its value; that of a set's key is empty, or the limit that it has."""

_MANAGEMENT_SERVICES = ("22",)
_LABEL_MATCHES = {"ingress": "saddr", "egress": "daddr"}
_FAMILIES = {4: "ip", 6: "ip6"}
_LIMITED = {"ingress": "limited_in", "egress": "limited_out"}
_KERNEL_HELPERS = {("tcp", "h323"): "Q.931", ("udp", "h323"): "RAS"}
_BYTES_OF_KILOBIT = 125
# The largest packet that segmentation offload makes; a limit that holds less would never let it pass.
_LEAST_AT_ONCE = 65_536

SKELETON = """\
table inet astara {
	set management4 { type ipv4_addr; }
	set management6 { type ipv6_addr; }
	set management_ports { type inet_service; }
	set internal { type ifname; }
	set external { type ifname; }
	set forwarding { type ifname; }
	set neighbors4 { type ipv4_addr; }
	set neighbors6 { type ipv6_addr; }
	set routed { type ipv4_addr; flags interval; }
	set guarded { type ifname; }
	set published { type ipv6_addr; }
	set limited_in { type ipv4_addr; limit rate over 1 bytes/second; }
	set limited_out { type ipv4_addr; limit rate over 1 bytes/second; }
	map floating_in { type ipv4_addr : ipv4_addr; }
	map floating_out { type ipv4_addr : ipv4_addr; }
	map forwardings { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map masks { type ifname : ipv4_addr; }
	map metadata4 { type ifname : ipv4_addr . inet_service; }
	map metadata6 { type ifname : ipv6_addr . inet_service; }
	map uplinks { type ifname : mark; }
	map speakers { type ipv4_addr : mark; }

	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		iifname != "ge0" ip daddr @management4 drop
		iifname != "ge0" ip6 daddr @management6 drop
		ct state established,related accept
		ct state invalid drop
		iifname "ge0" jump from_management
		iifname @internal jump from_tenants
		iifname @external jump from_outside
	}
	chain from_management {
		tcp dport @management_ports accept
		meta l4proto { icmp, ipv6-icmp } accept
	}
	chain from_tenants {
		meta nfproto ipv4 udp dport 67 accept
		meta nfproto ipv6 udp dport 547 accept
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept
		# Nothing is answered whose answer would leave by management: its source is forged.
		meta nfproto ipv4 fib saddr oifname "ge0" drop
		ip6 saddr != fe80::/10 fib saddr oifname "ge0" drop
		icmp type echo-request accept
		icmpv6 type echo-request accept
		meta l4proto { tcp, udp } th dport 53 accept
		# The metadata proxy, and only by way of its well-known addresses.
		meta l4proto tcp ct original ip daddr 169.254.169.254 ct original proto-dst 80 accept
		meta l4proto tcp ct original ip6 daddr fe80::a9fe:a9fe ct original proto-dst 80 accept
	}
	chain from_outside {
		icmp type echo-request accept
		icmpv6 type { echo-request, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
		icmpv6 type mld-listener-query accept
		ip saddr @neighbors4 tcp dport 179 accept
		ip6 saddr @neighbors6 tcp dport 179 accept
	}

	chain output {
		type filter hook output priority filter; policy accept;
		# Who calls a floating IP from its own subnet must go on doing it through here.
		icmp type redirect drop
		icmpv6 type nd-redirect drop
		# Management hears what is said in the appliance's own name only: no answer to a forged source gets there.
		oifname "ge0" meta nfproto ipv4 ip saddr != @management4 drop
		oifname "ge0" ip6 saddr != { ::, fe80::/10 } ip6 saddr != @management6 drop
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
		iifname != @forwarding drop
		oifname != @forwarding drop
		# What connection tracking has not understood it has not translated either.
		oifname @external ct state invalid drop
		tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		# Before what is established: an address that is published no more is out of reach at once.
		meta nfproto ipv6 iifname @guarded oifname @internal ip6 daddr != @published drop
		ct state established,related accept
		# Metadata that nobody serves here is nobody's out there.
		ip daddr 169.254.169.254 drop
		iifname @internal accept
		iifname @external oifname @internal ct status dnat accept
		iifname @external oifname @internal meta nfproto ipv6 accept
		iifname @external oifname @internal ip daddr @routed accept
	}
	chain keep_uplink {
		# Each connection keeps to the uplink by which it began; the mark says which (services.uplinks).
		# What most packets are not is asked first.
		type filter hook prerouting priority mangle; policy accept;
		ct state new iifname @external ct mark set iifname map @uplinks
		ct state new iifname @internal meta mark set ip saddr map @speakers
		ct mark != 0 iifname @internal meta mark set ct mark
	}
	chain keep_own_uplink {
		type route hook output priority mangle; policy accept;
		ct mark != 0 ct direction reply meta mark set ct mark
	}
	chain take_uplink {
		type filter hook postrouting priority mangle; policy accept;
		ct state new iifname @internal ct mark set oifname map @uplinks
	}
	chain helping {
		# Behind connection tracking, before translation, which makes room for what a helper rewrites.
		type filter hook prerouting priority mangle; policy accept;
		iifname @forwarding ct state new jump helpers
	}
	chain helpers { }

	chain limit_ingress {
		type filter hook forward priority filter + 5; policy accept;
		# What the packet was sent to before it was translated. What the appliance says and hears itself is not limited.
		iifname @external ct direction original ct original ip daddr @limited_in drop
		iifname @external ct direction reply ct reply ip daddr @limited_in drop
	}
	chain labels {
		type filter hook forward priority filter + 10; policy accept;
		iifname @external jump label_ingress
		oifname @external jump label_egress
	}
	chain label_ingress { }
	chain label_egress { }

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname @internal ip daddr 169.254.169.254 tcp dport 80 dnat ip to iifname map @metadata4
		iifname @internal ip6 daddr fe80::a9fe:a9fe tcp dport 80 dnat ip6 to iifname map @metadata6
		iifname @internal jump inward
		iifname @external jump inward
	}
	chain inward {
		dnat ip to ip daddr . meta l4proto . th dport map @forwardings
		dnat ip to ip daddr map @floating_in
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		iifname @internal oifname @external jump outward
		iifname @internal oifname @internal ct status dnat jump outward
	}
	chain limit_egress {
		type filter hook postrouting priority srcnat + 10; policy accept;
		iifname @internal oifname @external ip saddr @limited_out drop
	}
	chain outward {
		snat ip to ip saddr map @floating_out
		snat ip to oifname map @masks
	}
}
"""
"""The table without its elements. In `forwarding` are the interfaces between which is forwarded: none when the router
is switched off."""

VERSION = hashlib.sha256(SKELETON.encode()).hexdigest()
"""Changes with the rules."""


Helper = tuple[str, str]
"""A conntrack helper: its transport protocol, and its name as Neutron has it."""


def helpers_of(state: State) -> list[Helper]:
    """The conntrack helpers that a state asks for, sorted."""
    return sorted({(item["protocol"], item["helper"]) for item in state.get("helpers", ())})


def helper_object(helper: Helper) -> str:
    """What declares a helper; nftables refuses it where the kernel has none of the name for the protocol."""
    protocol, name = helper
    return f'{_helper_name(helper)} {{ type "{_KERNEL_HELPERS.get(helper, name)}" protocol {protocol}; }}'


class Ruleset:
    """What a state means to nftables, worked out once. A part that the state lacks is empty.

    `lacking` are the helpers that the kernel has not: it is told nothing of them.
    """

    def __init__(self, state: State, lacking: Collection[Helper] = ()) -> None:
        self.state = state
        self.lacking = frozenset(lacking) & set(helpers_of(state))
        self.elements = _elements(state)
        self._names = sorted({label["name"] for label in state.get("labels", ())})

    @property
    def labels(self) -> list[str]:
        """The labels that are counted, sorted."""
        return self._names

    @property
    def helpers(self) -> list[Helper]:
        """The helpers that the kernel is told of, sorted."""
        return [helper for helper in helpers_of(self.state) if helper not in self.lacking]

    def load(self, counted: Mapping[str, Counter]) -> str:
        """The transaction that replaces all there is; counters go on from what was `counted`, by label."""
        lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", SKELETON]
        lines += _lines("add", {name: list(items.items()) for name, items in self.elements.items()})
        for label in self._names:
            was = counted.get(label, Counter())
            values = f"{{ packets {was.packets} bytes {was.bytes} }}"
            lines.append(f"add counter inet {TABLE} {counter_name(label)} {values}")
        lines += self._label_rules()
        lines += (f"add ct helper inet {TABLE} {helper_object(helper)}" for helper in self.helpers)
        lines += self._helper_rules()
        return "\n".join(lines) + "\n"

    def change(self, former: "Ruleset") -> str:
        """The transaction that leads here from `former`; empty when there is nothing to change."""
        lines = [*_lines("delete", former.without(self)), *_lines("add", self.without(former))]
        if self._has_other("labels", former):
            gone, new = set(former.labels) - set(self.labels), set(self.labels) - set(former.labels)
            lines += (f"flush chain inet {TABLE} label_{direction}" for direction in _LABEL_MATCHES)
            lines += (f"delete counter inet {TABLE} {counter_name(label)}" for label in sorted(gone))
            lines += (f"add counter inet {TABLE} {counter_name(label)}" for label in sorted(new))
            lines += self._label_rules()
        if self._has_other("helpers", former):
            was, now = set(former.helpers), set(self.helpers)
            lines.append(f"flush chain inet {TABLE} helpers")
            lines += (f"delete ct helper inet {TABLE} {_helper_name(helper)}" for helper in sorted(was - now))
            lines += (f"add ct helper inet {TABLE} {helper_object(helper)}" for helper in sorted(now - was))
            lines += self._helper_rules()
        return "\n".join(lines) + "\n" if lines else ""

    def has_other_rules(self, other: "Ruleset") -> bool:
        """Whether there is more between the two than elements."""
        return self._has_other("labels", other) or self._has_other("helpers", other)

    def without(self, other: "Ruleset") -> dict[str, list[tuple[str, str]]]:
        """The elements that `other` has not, or has with another value."""
        return {name: _without(items, other.elements[name]) for name, items in self.elements.items()}

    def _label_rules(self) -> Iterator[str]:
        """One rule for each label, direction and family: overlapping prefixes of several labels count for each."""
        for label in self.state.get("labels", ()):
            direction = label["direction"]
            for version, family in _FAMILIES.items():
                prefixes = _collapsed(label["prefixes"], version)
                if prefixes:
                    match = f"{family} {_LABEL_MATCHES[direction]} {{ {', '.join(prefixes)} }}"
                    yield f"add rule inet {TABLE} label_{direction} {match} counter name {counter_name(label['name'])}"

    def _has_other(self, part: str, other: "Ruleset") -> bool:
        differs = self.state.get(part, []) != other.state.get(part, [])
        return bool(differs) or (part == "helpers" and self.lacking != other.lacking)

    def _helper_rules(self) -> Iterator[str]:
        for helper in self.helpers:
            ports = sorted(
                item["port"] for item in self.state["helpers"] if (item["protocol"], item["helper"]) == helper
            )
            match = f"{helper[0]} dport {{ {', '.join(map(str, ports))} }}"
            yield f'add rule inet {TABLE} helpers {match} ct helper set "{_helper_name(helper)}"'


def counter_name(label: str) -> str:
    """What the counter of a label is called in the table."""
    return "label_" + hashlib.blake2b(label.encode(), digest_size=12).hexdigest()


def _helper_name(helper: Helper) -> str:
    return f"helper_{helper[1]}_{helper[0]}"


def _elements(state: State) -> Elements:
    management = state.get("management", {"addresses": (), "port": None})
    internal, external = state.get("internal", ()), state.get("external", ())
    ports = [*_MANAGEMENT_SERVICES, str(management["port"])] if management["port"] else _MANAGEMENT_SERVICES
    floating = [(item["floating_ip"], item["fixed_ip"]) for item in state.get("floating_ips", ())]
    return {
        **_by_family("management", management["addresses"]),
        "management_ports": _set(ports),
        "internal": _set(map(_quoted, internal)),
        "external": _set(map(_quoted, external)),
        "forwarding": _set(map(_quoted, (*internal, *external) if state.get("forward") else ())),
        **_by_family("neighbors", state.get("neighbors", ())),
        "guarded": _set(map(_quoted, state.get("guarded", ()))),
        "published": _set(state.get("published", ())),
        "routed": _set(_collapsed(state.get("routed", ()), 4)),
        "floating_in": dict(floating),
        # An internal address may have several floating IPs; it speaks as the first.
        "floating_out": {fixed: outside for outside, fixed in reversed(floating)},
        "forwardings": dict(_forwarded(state.get("port_forwardings", ()))),
        "masks": {_quoted(item["out"]): item["address"] for item in state.get("masks", ())},
        **_metadata(state.get("metadata", ())),
        **_limited(state.get("rate_limits", ())),
        "uplinks": {_quoted(item["ifname"]): str(item["mark"]) for item in state.get("uplinks", ())},
        # As in `floating_out`, the first of several counts.
        "speakers": {item["address"]: str(item["mark"]) for item in reversed(state.get("speakers", ()))},
    }


def _without(items: dict[str, str], others: dict[str, str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in items.items() if others.get(key) != value]


def _lines(verb: str, items: Mapping[str, list[tuple[str, str]]]) -> Iterator[str]:
    for name, chosen in items.items():
        if chosen:
            joint = " " if name in _LIMITED.values() else " : "
            among = ", ".join(f"{key}{joint}{value}" if value else key for key, value in chosen)
            yield f"{verb} element inet {TABLE} {name} {{ {among} }}"


def _set(keys: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(keys, "")


def _by_family(name: str, addresses: Iterable[str]) -> Elements:
    given = list(addresses)
    return {f"{name}{version}": _set(one for one in given if version_of(one) == version) for version in _FAMILIES}


def _metadata(items: Iterable[Mapping[str, Any]]) -> Elements:
    found: Elements = {"metadata4": {}, "metadata6": {}}
    for item in items:
        found[f"metadata{version_of(item['to'])}"][_quoted(item["ifname"])] = f"{item['to']} . {item['port']}"
    return found


def _limited(items: Iterable[Mapping[str, Any]]) -> Elements:
    """Each address is an element with a limit of its own, so thousands cost no rule and the others nothing.

    The kernel lets pass at once what the rate gives in a second, and the burst besides: of a larger burst only the rest
    is told. Neutron's own agent takes 0.8 s without one.
    """
    found: Elements = {name: {} for name in _LIMITED.values()}
    for item in items:
        rate, at_once = (item[key] * _BYTES_OF_KILOBIT for key in ("max_kbps", "max_burst_kbps"))
        burst = max(at_once - rate, _LEAST_AT_ONCE - rate, 1)
        limit = f"limit rate over {rate} bytes/second burst {burst} bytes"
        found[_LIMITED[item["direction"]]].update(dict.fromkeys(item["addresses"], limit))
    return found


def _forwarded(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """An element for each port: the kernel has ranges of keys, but none whose values grow with them."""
    for item in items:
        (first, last), (to, to_last) = item["external_ports"], item["internal_ports"]
        step = 0 if to == to_last else 1
        for offset in range(last - first + 1):
            key = f"{item['floating_ip']} . {item['protocol']} . {first + offset}"
            yield key, f"{item['fixed_ip']} . {to + step * offset}"


def _collapsed(prefixes: Iterable[str], version: int) -> list[str]:
    """Those of one family, without overlaps: an interval may be in a set once."""
    given = [prefix for prefix in prefixes if version_of(prefix) == version]
    if version == 4:
        return [str(one) for one in collapse_addresses(map(IPv4Network, given))]
    return [str(one) for one in collapse_addresses(map(IPv6Network, given))]


def _quoted(ifname: str) -> str:
    return f'"{ifname}"'
