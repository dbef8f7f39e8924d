"""Rate limits as the appliance takes them, what it refuses, and what the firewall makes of them."""

from typing import Any

import pytest
from astara_appliance.firewall_text import firewall_text
from astara_appliance.linux.ruleset import Ruleset
from astara_appliance.validation import InvalidConfiguration, parse_configuration


def limit(direction: str = "ingress", kbps: int = 1000, *addresses: str, burst: int = 0) -> dict[str, Any]:
    return {"direction": direction, "max_kbps": kbps, "max_burst_kbps": burst, "addresses": list(addresses)}


def wrong(*limits: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"rate_limits": list(limits)})
    return dict(caught.value.errors)


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"direction": "both"}, "direction", "'ingress' or 'egress'"),
        ({"max_kbps": 0}, "max_kbps", "greater than or equal to 1"),
        ({"max_kbps": 100_000_001}, "max_kbps", "less than or equal to"),
        ({"max_burst_kbps": -1}, "max_burst_kbps", "greater than or equal to 0"),
        ({"addresses": ["2001:db8::1"]}, "addresses[0]", "an IPv4 address is expected"),
        ({"addresses": ["10.0.0.1 } ; flush ruleset"]}, "addresses[0]", "address is expected"),
    ],
)
def test_what_cannot_be_limited_is_named(more: dict[str, Any], field: str, message: str) -> None:
    assert message in wrong(limit() | more)[f"rate_limits[0].{field}"]


def test_an_address_has_one_limit_each_way() -> None:
    parse_configuration({"rate_limits": [limit("ingress", 1, "10.0.0.1"), limit("egress", 1, "10.0.0.1")]})
    assert wrong(limit("ingress", 1, "10.0.0.1"), limit("ingress", 2, "10.0.0.2", "10.0.0.1")) == {
        "rate_limits[1].addresses[1]": "the same address is given twice"
    }


@pytest.mark.parametrize(
    ("kbps", "burst", "told"),
    [
        (1000, 0, "limit rate over 125000 bytes/second burst 1 bytes"),
        # The kernel's bucket holds a second's worth besides.
        (1000, 1200, "limit rate over 125000 bytes/second burst 25000 bytes"),
        (1000, 800, "limit rate over 125000 bytes/second burst 1 bytes"),
        # A whole offloaded packet must find room.
        (8, 0, "limit rate over 1000 bytes/second burst 64536 bytes"),
    ],
)
def test_a_limit_is_an_element_that_holds_rate_and_burst(kbps: int, burst: int, told: str) -> None:
    elements = Ruleset({"rate_limits": [limit("egress", kbps, "172.24.4.9", burst=burst)]}).elements
    assert elements["limited_out"] == {"172.24.4.9": told}
    assert elements["limited_in"] == {}


def test_one_more_limited_floating_ip_changes_elements_alone() -> None:
    before = Ruleset({"rate_limits": [limit("egress", 1000, "172.24.4.9")]})
    after = Ruleset({"rate_limits": [limit("egress", 1000, "172.24.4.9", "172.24.4.10")]})
    assert not after.has_other_rules(before)
    assert after.change(before) == (
        "add element inet astara limited_out { 172.24.4.10 limit rate over 125000 bytes/second burst 1 bytes }\n"
    )


def test_the_overview_tells_limits() -> None:
    state = {"external": ["ge1"], "rate_limits": [limit("egress", 1000, "172.24.4.9"), limit("ingress", 8, "10.0.0.1")]}
    lines = [" ".join(line.split()) for line in firewall_text(state).splitlines()]
    assert "DROP all -- 172.24.4.9 0.0.0.0/0 out ge1 limit: above 1000kbit/s burst 0kbit" in lines
    assert "DROP all -- 0.0.0.0/0 10.0.0.1 in ge1 limit: above 8kbit/s burst 0kbit" in lines
