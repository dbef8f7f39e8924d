"""The firewall as text, in the look of `iptables -L -n`, `iptables -t nat -L -n` and then ip6tables (section 1.3.2).

Made from the state alone; each line is a rule or an element of `linux.ruleset`, which says why. `in` and `out` name
interfaces, as iptables does with -v only; without them nobody could tell the lines apart. LABELS sees what FORWARD has
accepted; LIMITS names addresses as the external side has them.
"""

from collections.abc import Iterable, Iterator

from .backend import State
from .fields import version_of
from .interfaces import MANAGEMENT

_HEADER = f"{'target':<10} {'prot':<4} {'opt':<3} {'source':<20} {'destination':<20}".rstrip()
_ANY = {4: "0.0.0.0/0", 6: "::/0"}
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
_ECHO = {4: "icmptype 8", 6: "ipv6-icmptype 128"}
_NEIGHBOURS = {"tenants": (133, 135, 136, 130), "outside": (134, 135, 136, 130)}


def firewall_text(state: State) -> str:
    """Chains and rules of a firewall's state; of the empty one, too."""
    return "\n".join(chain for version in (4, 6) for chain in _chains(_Rules(state, version)))


def _chains(rules: "_Rules") -> Iterator[str]:
    yield _chain("INPUT (policy DROP)", rules.input())
    yield _chain("FORWARD (policy DROP)", rules.forward())
    if rules.is_guarded:
        yield _chain("PUBLISHED (1 references)", rules.published())
    yield _chain("OUTPUT (policy ACCEPT)", rules.output())
    yield _chain("LABELS (policy ACCEPT)", rules.labels())
    yield _chain("PREROUTING (policy ACCEPT)", rules.prerouting())
    if rules.version == 4:
        yield _chain(f"INWARD ({len(rules.sides)} references)", rules.inward())
        yield _chain("POSTROUTING (policy ACCEPT)", rules.postrouting())
        yield _chain("OUTWARD (2 references)", rules.outward())
        yield _chain("LIMITS (policy ACCEPT)", rules.limits())
    yield _chain("HELPERS (policy ACCEPT)", rules.helpers())


def _chain(title: str, rules: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (f"Chain {title}", _HEADER, *rules))


class _Rules:
    """The lines of each chain, for one version of IP."""

    def __init__(self, state: State, version: int) -> None:
        self.version = version
        self._state = state
        self._internal: list[str] = state.get("internal", [])
        self._external: list[str] = state.get("external", [])
        self.sides = [*self._internal, *self._external]
        self._inside, self._outside = ",".join(self._internal), ",".join(self._external)
        self.is_guarded = version == 6 and bool(state.get("guarded"))

    def input(self) -> Iterator[str]:
        management = self._state.get("management", {"addresses": [], "port": None})
        yield self._rule("ACCEPT", "all", "in lo")
        for address in self._of(management["addresses"]):
            yield self._rule("DROP", "all", f"in !{MANAGEMENT}", destination=address)
        yield self._rule("ACCEPT", "all", "state RELATED,ESTABLISHED")
        yield self._rule("DROP", "all", "state INVALID")
        for port in filter(None, (22, management["port"])):
            yield self._rule("ACCEPT", "tcp", f"in {MANAGEMENT} tcp dpt:{port}")
        yield self._rule("ACCEPT", _ICMP[self.version], f"in {MANAGEMENT}")
        for ifname in self._internal:
            yield from self._from_tenants(ifname)
        for ifname in self._external:
            yield from self._from_outside(ifname)

    def _from_tenants(self, ifname: str) -> Iterator[str]:
        yield self._rule("ACCEPT", "udp", f"in {ifname} udp dpt:{67 if self.version == 4 else 547}")
        yield from self._neighbours(ifname, "tenants")
        yield self._rule("DROP", "all", f"in {ifname} route-back {MANAGEMENT}")
        yield self._rule("ACCEPT", _ICMP[self.version], f"in {ifname} {_ECHO[self.version]}")
        for protocol in ("udp", "tcp"):
            yield self._rule("ACCEPT", protocol, f"in {ifname} {protocol} dpt:53")
        for item in self._state.get("metadata", ()):
            if item["ifname"] == ifname and version_of(item["destination"]) == self.version:
                asked = f"in {ifname} ctorigdst {item['destination']} ctorigdstport 80"
                yield self._rule("ACCEPT", "tcp", asked)

    def _from_outside(self, ifname: str) -> Iterator[str]:
        yield self._rule("ACCEPT", _ICMP[self.version], f"in {ifname} {_ECHO[self.version]}")
        yield from self._neighbours(ifname, "outside")
        for neighbor in self._of(self._state.get("neighbors", ())):
            yield self._rule("ACCEPT", "tcp", f"in {ifname} tcp dpt:179", source=neighbor)

    def _neighbours(self, ifname: str, side: str) -> Iterator[str]:
        if self.version == 6:
            for kind in _NEIGHBOURS[side]:
                yield self._rule("ACCEPT", "ipv6-icmp", f"in {ifname} ipv6-icmptype {kind}")

    def forward(self) -> Iterator[str]:
        if not self._state.get("forward"):
            return
        everywhere = ",".join(self.sides)
        yield self._rule("DROP", "all", f"in !{everywhere}")
        yield self._rule("DROP", "all", f"out !{everywhere}")
        if self._external:
            yield self._rule("DROP", "all", f"out {self._outside} state INVALID")
        yield self._rule("TCPMSS", "tcp", "tcp flags:0x06/0x02 TCPMSS clamp to PMTU")
        if self.is_guarded:
            yield self._rule("PUBLISHED", "all", f"in {self._outside} out {self._inside}")
        yield self._rule("ACCEPT", "all", "state RELATED,ESTABLISHED")
        for ifname in self._internal:
            yield self._rule("ACCEPT", "all", f"in {ifname}")
        if not self._external or not self._internal:
            return
        inward = f"in {self._outside} out {self._inside}"
        yield self._rule("ACCEPT", "all", inward if self.version == 6 else f"{inward} ctstate DNAT")
        for subnet in self._of(self._state.get("routed", ())):
            yield self._rule("ACCEPT", "all", inward, destination=subnet)

    def published(self) -> Iterator[str]:
        for address in self._state.get("published", ()):
            yield self._rule("RETURN", "all", "", destination=address)
        yield self._rule("DROP", "all", "")

    def output(self) -> Iterator[str]:
        yield self._rule("DROP", _ICMP[self.version], "icmptype 5" if self.version == 4 else "ipv6-icmptype 137")

    def labels(self) -> Iterator[str]:
        for label in self._state.get("labels", ()):
            for prefix in self._of(label["prefixes"]):
                comment = f"/* {label['name']} */"
                if label["direction"] == "ingress":
                    yield self._rule("COUNT", "all", f"in {self._outside} {comment}", source=prefix)
                else:
                    yield self._rule("COUNT", "all", f"out {self._outside} {comment}", destination=prefix)

    def helpers(self) -> Iterator[str]:
        for item in self._state.get("helpers", ()):
            yield self._rule(
                "CT", item["protocol"], f"{item['protocol']} dpt:{item['port']} CT helper {item['helper']}"
            )

    def prerouting(self) -> Iterator[str]:
        for item in self._state.get("metadata", ()):
            if version_of(item["destination"]) == self.version:
                to = f"to:{_host(item['to'])}:{item['port']}"
                yield self._rule("DNAT", "tcp", f"in {item['ifname']} tcp dpt:80 {to}", destination=item["destination"])
        if self.version == 4:
            for ifname in self.sides:
                yield self._rule("INWARD", "all", f"in {ifname}")

    def inward(self) -> Iterator[str]:
        for item in self._state.get("port_forwardings", ()):
            protocol, to = item["protocol"], f"to:{item['fixed_ip']}:{_ports(item['internal_ports'], '-')}"
            asked = f"{protocol} dpt{_plural(item['external_ports'])}:{_ports(item['external_ports'], ':')}"
            yield self._rule("DNAT", protocol, f"{asked} {to}", destination=item["floating_ip"])
        for item in self._state.get("floating_ips", ()):
            yield self._rule("DNAT", "all", f"to:{item['fixed_ip']}", destination=item["floating_ip"])

    def postrouting(self) -> Iterator[str]:
        if self._internal and self._external:
            yield self._rule("OUTWARD", "all", f"in {self._inside} out {self._outside}")
        if self._internal:
            yield self._rule("OUTWARD", "all", f"in {self._inside} out {self._inside} ctstate DNAT")

    def outward(self) -> Iterator[str]:
        speaks_as: dict[str, str] = {}
        for item in self._state.get("floating_ips", ()):
            speaks_as.setdefault(item["fixed_ip"], item["floating_ip"])
        for fixed, floating in speaks_as.items():
            yield self._rule("SNAT", "all", f"to:{floating}", source=fixed)
        for item in self._state.get("masks", ()):
            yield self._rule("SNAT", "all", f"out {item['out']} to:{item['address']}")

    def limits(self) -> Iterator[str]:
        for limit in self._state.get("rate_limits", ()):
            above = f"limit: above {limit['max_kbps']}kbit/s burst {limit['max_burst_kbps']}kbit"
            for address in limit["addresses"]:
                if limit["direction"] == "ingress":
                    yield self._rule("DROP", "all", f"in {self._outside} {above}", destination=address)
                else:
                    yield self._rule("DROP", "all", f"out {self._outside} {above}", source=address)

    def _of(self, items: Iterable[str]) -> Iterator[str]:
        return (item for item in items if version_of(item) == self.version)

    def _rule(self, target: str, protocol: str, match: str, *, source: str = "", destination: str = "") -> str:
        anywhere = _ANY[self.version]
        where = f"{source or anywhere:<20} {destination or anywhere:<20}"
        return f"{target:<10} {protocol:<4} --  {where} {match}".rstrip()


def _host(address: str) -> str:
    return f"[{address}]" if version_of(address) == 6 else address


def _ports(ends: list[int], between: str) -> str:
    first, last = ends
    return str(first) if first == last else f"{first}{between}{last}"


def _plural(ends: list[int]) -> str:
    return "" if ends[0] == ends[1] else "s"
