"""From QoS policies to what an appliance is told of them, and to what users are told that it does not do."""

import json
from typing import Any

import pytest
from astara_appliance.validation import parse_configuration
from worker_reading import EXTERNAL, MACS, MANAGEMENT_PORT, NAMES, reading

from services.worker import configuration
from services.worker.reading import RouterReading, reading_of_snapshot

SLOW, FAST = "slow", "fast"


def rule(direction: str, kbps: int, burst: int = 0, kind: str = "bandwidth_limit") -> dict[str, Any]:
    return {"type": kind, "direction": direction, "max_kbps": kbps, "max_burst_kbps": burst}


def limited(gateway: str | None = None, floating: tuple[str | None, ...] = (), **policies: Any) -> RouterReading:
    """A router whose gateway and floating IPs have policies, which have these rules."""
    made = reading(external_gateway_info={"network_id": EXTERNAL, "enable_snat": True, "qos_policy_id": gateway})
    made.qos_policies = {name: {"id": name, "rules": rules} for name, rules in policies.items()}
    for one, policy in zip(made.floating_ips, floating, strict=False):
        one["qos_policy_id"] = policy
    return made


def build(what: RouterReading, unknown: tuple[str, ...] = ()) -> dict[str, Any]:
    built = configuration.build(what, MANAGEMENT_PORT, NAMES, MACS, (64512, 64513), unknown)
    parse_configuration(json.loads(json.dumps(built)))
    return built


def limits(what: RouterReading) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = build(what)["rate_limits"]
    return found


def test_each_address_that_has_a_policy_has_its_limits() -> None:
    rules = [rule("ingress", 2000, 100), rule("egress", 1000)]
    assert limits(limited(SLOW, (SLOW, FAST, SLOW), slow=rules, fast=[rule("egress", 9000)])) == [
        {"direction": "egress", "max_kbps": 1000, "max_burst_kbps": 0,
         "addresses": ["172.24.4.20", "172.24.4.31", "172.24.4.32"]},
        {"direction": "egress", "max_kbps": 9000, "max_burst_kbps": 0, "addresses": ["172.24.4.30"]},
        {"direction": "ingress", "max_kbps": 2000, "max_burst_kbps": 100,
         "addresses": ["172.24.4.20", "172.24.4.31", "172.24.4.32"]},
    ]  # fmt: skip


def test_a_router_without_limits_is_told_nothing_of_them_and_keeps_its_digest() -> None:
    without = build(reading())
    assert "rate_limits" not in without
    dscp = [{"type": "dscp_marking", "dscp_mark": 10}]
    assert configuration.digest(build(limited(SLOW, slow=dscp))) == configuration.digest(without)
    assert configuration.digest(build(limited(SLOW, slow=[rule("egress", 0)]))) == configuration.digest(without)


def test_a_floating_ip_that_stands_for_nothing_is_not_limited() -> None:
    made = limited(None, (None, None, SLOW), slow=[rule("egress", 1000)])
    made.floating_ips[2]["port_forwardings"] = []
    assert "rate_limits" not in build(made)


def test_a_limit_that_no_interface_reaches_is_told_as_what_an_appliance_takes() -> None:
    (found,) = limits(limited(SLOW, slow=[rule("egress", 2**31 - 1, 2**31 - 1)]))
    assert (found["max_kbps"], found["max_burst_kbps"]) == (100_000_000, 25_000_000)


def test_an_appliance_that_refuses_limits_is_told_none() -> None:
    made = limited(SLOW, slow=[rule("egress", 1000)])
    assert build(made, ("rate_limits",)) == build(reading())


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["bandwidth_limit"], ()),
        (["dscp_marking", "bandwidth_limit", "other"], ("QoS rules of type dscp_marking, other",)),
    ],
)  # fmt: skip
def test_users_are_told_of_rules_that_no_appliance_carries_out(kinds: list[str], words: tuple[str, ...]) -> None:
    snapshot = {
        "router": {"id": "r"}, "ports": [], "instance_ports": [], "networks": [], "subnets": [], "allocations": [],
        "floating_ips": [], "metering_labels": [], "dhcp": "appliance",
        "qos_policies": [{"id": SLOW, "rules": [{"type": kind} for kind in kinds]}],
    }  # fmt: skip
    assert reading_of_snapshot(snapshot, None, 0.0).unserved == words
