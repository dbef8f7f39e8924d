"""Port forwardings as the appliance takes them, what it refuses, and what the firewall makes of them."""

from typing import Any

import pytest
from astara_appliance.linux.ruleset import Ruleset
from astara_appliance.validation import InvalidConfiguration, parse_configuration


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def forwarding(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": uuid(number), "floating_ip": "172.24.4.9", "protocol": "tcp", "external_port": 8080,
        "fixed_ip": "10.0.0.5", "internal_port": 80,
    } | more  # fmt: skip


def wrong(*forwardings: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"port_forwardings": list(forwardings)})
    return dict(caught.value.errors)


def test_one_port_and_ranges_are_taken() -> None:
    accepted = parse_configuration(
        {
            "port_forwardings": [
                forwarding(),
                forwarding(2, external_port=9000, external_port_end=9010, internal_port=1, internal_port_end=11),
                forwarding(3, protocol="udp", external_port=8080, external_port_end=8081),
                forwarding(4, floating_ip="172.24.4.10"),
            ]
        }
    ).port_forwardings
    assert [len(one.external_ports) for one in accepted] == [1, 11, 2, 1]
    assert [len(one.internal_ports) for one in accepted] == [1, 11, 1, 1]


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"protocol": "icmp"}, "protocol", "'tcp' or 'udp'"),
        ({"external_port": 0}, "external_port", "greater than or equal to 1"),
        ({"internal_port": 65536}, "internal_port", "less than or equal to 65535"),
        ({"external_port_end": 8079}, "external_port_end", "is lower than external_port"),
        ({"internal_port_end": 79}, "internal_port_end", "is lower than internal_port"),
        ({"internal_port_end": 81}, "internal_port_end", "as many as external ones"),
        ({"floating_ip": "2001:db8::1"}, "floating_ip", "an IPv4 address is expected"),
        ({"fixed_ip": "10.0.0.5; flush ruleset"}, "fixed_ip", "address is expected"),
        ({"external_port": "80"}, "external_port", "valid integer"),
    ],
)
def test_what_cannot_be_forwarded_is_named(more: dict[str, Any], field: str, message: str) -> None:
    errors = wrong(forwarding(**more))
    assert message in errors[f"port_forwardings[0].{field}"]


def test_a_port_is_forwarded_once() -> None:
    errors = wrong(forwarding(1, external_port=8000, external_port_end=8100), forwarding(2, external_port=8100))
    assert errors == {"port_forwardings[1].external_port": "port_forwardings[0] has it too"}
    assert wrong(forwarding(1), forwarding(1, external_port=81)) == {
        "port_forwardings[1].id": "the same port forwarding is given twice"
    }


def test_more_ports_than_the_kernel_should_hold_are_refused() -> None:
    everything = {"external_port": 1, "external_port_end": 65535}
    many = [forwarding(number, floating_ip=f"172.24.4.{number}", **everything) for number in range(1, 4)]
    assert wrong(*many) == {"port_forwardings": "more than 131072 ports are forwarded"}
    parse_configuration({"port_forwardings": many[:2]})


def test_each_port_of_a_range_is_an_entry_that_leads_to_its_counterpart() -> None:
    ranged = {
        "floating_ip": "172.24.4.9", "protocol": "tcp", "external_ports": [8000, 8002], "fixed_ip": "10.0.0.5",
        "internal_ports": [80, 82],
    }  # fmt: skip
    single = ranged | {"protocol": "udp", "internal_ports": [53, 53]}
    assert Ruleset({"port_forwardings": [ranged, single]}).elements["forwardings"] == {
        "172.24.4.9 . tcp . 8000": "10.0.0.5 . 80",
        "172.24.4.9 . tcp . 8001": "10.0.0.5 . 81",
        "172.24.4.9 . tcp . 8002": "10.0.0.5 . 82",
        "172.24.4.9 . udp . 8000": "10.0.0.5 . 53",
        "172.24.4.9 . udp . 8001": "10.0.0.5 . 53",
        "172.24.4.9 . udp . 8002": "10.0.0.5 . 53",
    }
