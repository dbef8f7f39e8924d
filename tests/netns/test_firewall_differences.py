"""Loading differences one after another leads to what loading the last state at once leads to."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firewall_world import Inside, floating, forwarding, network, state_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lab.wires import Fabric

FEW = st.integers(1, 4)
FLOATING = st.dictionaries(FEW, FEW, max_size=3).map(
    lambda found: [floating(f"172.24.4.{100 + outer}", f"10.0.0.{inner}") for outer, inner in found.items()]
)
RANGES = st.tuples(FEW, FEW).map(lambda ends: (min(ends), max(ends)))
FORWARDED = st.dictionaries(
    st.tuples(FEW, st.sampled_from(["tcp", "udp"])), st.tuples(RANGES, FEW, FEW), max_size=3
).map(
    lambda found: [
        forwarding(f"172.24.4.{200 + outer}", protocol, ports, f"10.0.0.{inner}", (to, to + ports[1] - ports[0]))
        for (outer, protocol), (ports, inner, to) in found.items()
    ]
)
PREFIXES = st.lists(
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "::/0", "2001:db8::/32"]), unique=True
)
LABELS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["ingress", "egress"])), PREFIXES, max_size=4
).map(lambda found: [{"name": name, "direction": side, "prefixes": given} for (name, side), given in found.items()])
LIMITS = st.dictionaries(
    st.tuples(st.sampled_from(["ingress", "egress"]), FEW), st.sets(FEW, min_size=1, max_size=2), max_size=3
).map(
    lambda found: [
        {
            "direction": direction,
            "max_kbps": 1000 * rate,
            "addresses": [f"172.24.4.{rate}{one}" for one in sorted(given)],
        }
        for (direction, rate), given in found.items()
    ]
)
HELPERS = st.dictionaries(
    st.tuples(st.sampled_from(["tcp", "udp"]), FEW), st.sampled_from(["ftp", "tftp", "sip", "none-such"]), max_size=3
).map(
    lambda found: [
        {"protocol": protocol, "port": port, "helper": name} for (protocol, port), name in sorted(found.items())
    ]
)
NETWORKS = st.tuples(st.sets(FEW, max_size=1), st.sets(FEW, max_size=4), st.integers(20, 21)).map(
    lambda found: [
        *(network("ge9", "external", f"172.24.4.{found[2]}/24", "2001:db8::20/64") for _ in found[0]),
        # Neighbouring subnets: the kernel's intervals touch.
        *(network(f"ge{number}", "internal", f"10.0.{number}.1/24") for number in sorted(found[1])),
    ]
)
CONFIGURATIONS = st.fixed_dictionaries(
    {
        "networks": NETWORKS,
        "floating_ips": FLOATING,
        "port_forwardings": FORWARDED,
        "labels": LABELS,
        "rate_limits": LIMITS,
        "ndp_proxies": st.none() | st.sets(FEW, max_size=2).map(lambda found: [f"fd00:a::{n}" for n in sorted(found)]),
        "conntrack_helpers": HELPERS,
        "admin_state_up": st.booleans(),
        "enable_snat": st.booleans(),
        "asn": st.sampled_from([None, 64512]),
        "default_v4_gateway": st.sampled_from([None, "172.24.4.1", "172.24.4.2"]),
    }
)


@pytest.fixture
def inside(fabric: Fabric, tmp_path: Path) -> Iterator[Inside]:
    with fabric.machine("router") as machine:
        made = Inside(machine, tmp_path)
        yield made
        made.close()


def told(inside: Inside) -> list[str]:
    """The kernel's ruleset, in an order of its own."""
    listed = json.loads(inside.machine.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    found = []
    for item in listed:
        (one,) = item.values()
        one.pop("handle", None)
        if isinstance(one.get("elem"), list):
            one["elem"] = sorted(one["elem"], key=json.dumps)
        found.append(json.dumps(item))
    # Rules keep their order; sets, chains and counters have none.
    return sorted(line for line in found if '"rule"' not in line[:8]) + [line for line in found if '"rule"' in line[:8]]


def twice(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    return [first, second]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CONFIGURATIONS, min_size=2, max_size=5))
@example(
    twice(
        {"networks": [network("ge9", "external"), *(network(f"ge{n}", "internal", f"10.0.{n}.1/24") for n in (2, 3))],
         "enable_snat": False},
        {"networks": [network("ge9", "external"), network("ge2", "internal", "10.0.2.1/24")], "enable_snat": False},
    )
)  # fmt: skip
def test_differences_lead_where_the_whole_leads(inside: Inside, configurations: list[dict[str, Any]]) -> None:
    states = [state_of(**one) for one in configurations]
    inside.forget()
    generation = None
    for state in states:
        inside.load(state)
        # Every step was loaded as a difference to the one before, in one transaction at most.
        now = inside.generation()
        assert generation is None or now - generation in (0, 1)
        generation = now
    stepwise = told(inside)
    inside.forget()
    inside.load(states[-1])
    assert told(inside) == stepwise
