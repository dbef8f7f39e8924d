"""The firewall as text, in the look of `iptables -L -n` and `iptables -t nat -L -n` (section 1.3.2)."""

from collections.abc import Iterable

from .backend import State
from .fields import version_of

_HEADER = f"{'target':<10} {'prot':<4} {'opt':<3} {'source':<20} {'destination':<20}".rstrip()


def firewall_text(state: State) -> str:
    """Chains and rules of a firewall's recorded state; of the empty state, too."""
    nat = [*_prerouting(state), *_postrouting(state)]
    chains = [
        _chain("INPUT (policy DROP)", _input(state)),
        _chain("FORWARD (policy DROP)", _forward(state)),
        _chain("OUTPUT (policy ACCEPT)", []),
        _chain("PREROUTING (policy ACCEPT)", (rule for rule in nat if rule.startswith("DNAT"))),
        _chain("POSTROUTING (policy ACCEPT)", (rule for rule in nat if rule.startswith("SNAT"))),
        _chain("LABELS", _labels(state)),
    ]
    return "\n".join(chains)


def _chain(title: str, rules: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (f"Chain {title}", _HEADER, *rules))


def _rule(target: str, protocol: str, source: str, destination: str, *more: str) -> str:
    return f"{target:<10} {protocol:<4} --  {source:<20} {destination:<20} {' '.join(more)}".rstrip()


def _any(address: str) -> str:
    return "::/0" if version_of(address) == 6 else "0.0.0.0/0"


def _input(state: State) -> Iterable[str]:
    yield _rule("ACCEPT", "all", "0.0.0.0/0", "0.0.0.0/0", "state RELATED,ESTABLISHED")
    yield _rule("ACCEPT", "icmp", "0.0.0.0/0", "0.0.0.0/0", "icmptype 8")
    management = state.get("management", {"addresses": [], "port": 0})
    for address in management["addresses"]:
        yield _rule("ACCEPT", "tcp", _any(address), address, "in ge0", f"tcp dpt:{management['port']}")
        yield _rule("DROP", "all", _any(address), address, "in !ge0")
    for item in state.get("metadata", ()):
        yield _rule("ACCEPT", "tcp", "0.0.0.0/0", item["to"], f"in {item['ifname']}", f"tcp dpt:{item['port']}")


def _forward(state: State) -> Iterable[str]:
    if not state.get("forward"):
        return
    yield _rule("ACCEPT", "all", "0.0.0.0/0", "0.0.0.0/0", "state RELATED,ESTABLISHED")
    for ifname in state["internal"]:
        yield _rule("ACCEPT", "all", "0.0.0.0/0", "0.0.0.0/0", f"in {ifname}")
    for item in state["floating_ips"]:
        yield _rule("ACCEPT", "all", "0.0.0.0/0", item["fixed_ip"])


def _prerouting(state: State) -> Iterable[str]:
    for item in state.get("metadata", ()):
        to = f"to:{item['to']}:{item['port']}"
        yield _rule("DNAT", "tcp", "0.0.0.0/0", item["destination"], f"in {item['ifname']}", "tcp dpt:80", to)
    for item in state.get("floating_ips", ()):
        yield _rule("DNAT", "all", "0.0.0.0/0", item["floating_ip"], f"to:{item['fixed_ip']}")


def _postrouting(state: State) -> Iterable[str]:
    for item in state.get("floating_ips", ()):
        yield _rule("SNAT", "all", item["fixed_ip"], "0.0.0.0/0", f"to:{item['floating_ip']}")
    for item in state.get("snat", ()):
        yield _rule("SNAT", "all", item["source"], "0.0.0.0/0", f"out {item['out']}")


def _labels(state: State) -> Iterable[str]:
    for label in state.get("labels", ()):
        for prefix in label["prefixes"]:
            source, destination = (prefix, _any(prefix)) if label["direction"] == "ingress" else (_any(prefix), prefix)
            yield _rule("COUNT", "all", source, destination, f"/* {label['name']} */")
