"""Several gateways of a router: which there are, and what an appliance is told of them."""

import json
from typing import Any

from astara_appliance.validation import parse_configuration
from worker_reading import EXT4, EXTERNAL, MACS, MANAGEMENT_PORT, NAMES, port, reading, subnet, uuid

from services.worker import configuration
from services.worker.reading import RouterReading, reading_of

SECOND, SECOND4, SECOND6 = uuid(101), uuid(102), uuid(103)
SECOND_MAC = "fa:00:00:00:00:09"


def several(*, ecmp: bool | None = None) -> RouterReading:
    """A router with a gateway on another network, and one more on the network of the first."""
    made = reading(enable_default_route_ecmp=ecmp)
    made.more_gateway_ports = [
        port(35, EXTERNAL, "network:router_gateway", (EXT4, "172.24.4.21")),
        port(36, SECOND, "network:router_gateway", (SECOND4, "203.0.113.9"), (SECOND6, "2001:db8:9::9")),
    ]
    made.networks[SECOND] = {"id": SECOND, "name": "public-2", "mtu": 1500}
    made.subnets[SECOND4] = subnet(SECOND4, SECOND, "203.0.113.0/24", "203.0.113.1")
    made.subnets[SECOND6] = subnet(SECOND6, SECOND, "2001:db8:9::/64", "2001:db8:9::1")
    return made


def build(what: RouterReading) -> dict[str, Any]:
    names, macs = NAMES | {SECOND_MAC: "ge4"}, MACS | {SECOND: SECOND_MAC}
    built = configuration.build(what, MANAGEMENT_PORT, names, macs, (64512, 64513))
    parse_configuration(json.loads(json.dumps(built)))
    return built


def test_each_external_network_is_told_once_with_all_addresses_the_main_one_first() -> None:
    external = [one for one in build(several())["networks"] if one["network_type"] == "external"]
    assert [(one["network_id"], one["interface"]["addresses"]) for one in external] == [
        (EXTERNAL, ["172.24.4.20/24", "172.24.4.21/24", "2001:db8::20/64"]),
        (SECOND, ["2001:db8:9::9/64", "203.0.113.9/24"]),
    ]


def test_the_default_route_leads_to_the_main_gateway_and_to_others_only_on_demand() -> None:
    for ecmp in (None, False):
        built = build(several(ecmp=ecmp))
        assert (built["default_v4_gateway"], built["default_v6_gateway"]) == ("172.24.4.1", "2001:db8::2")
        assert "more_default_gateways" not in built
    assert build(several(ecmp=True))["more_default_gateways"] == ["203.0.113.1", "2001:db8:9::1"]
    # One gateway alone shares with nobody.
    assert "more_default_gateways" not in build(reading(enable_default_route_ecmp=True))


def test_a_family_that_the_main_gateway_lacks_goes_by_the_next() -> None:
    made = several()
    assert made.gateway_port is not None
    made.gateway_port["fixed_ips"] = made.gateway_port["fixed_ips"][:1]
    assert build(made)["default_v6_gateway"] == "2001:db8:9::1"


def test_only_ports_that_the_router_names_are_its_gateways() -> None:
    main, other, stray = (
        port(number, network, "network:router_gateway", (EXT4, f"172.24.4.{number}"))
        for number, network in ((50, EXTERNAL), (51, EXTERNAL), (52, SECOND))
    )
    first, second = ({"network_id": one["network_id"], "external_fixed_ips": one["fixed_ips"]} for one in (main, other))
    router = {"id": main["device_id"], "external_gateway_info": first, "external_gateways": [first, second]}
    found = reading_of(router, None, [stray, other, main], 0.0)
    assert found.gateway_ports == [main, other]
    assert found.external_network_ids == [EXTERNAL]
    assert not found.doubt().startswith("the router has")
    assert "more gateways" in reading_of(router, None, [main], 0.0).doubt()
    without = reading_of({"id": main["device_id"], "external_gateway_info": first}, None, [stray, other, main], 0.0)
    assert without.gateway_ports == [main]


def test_the_policy_of_the_gateway_is_that_of_all() -> None:
    made = several()
    made.router["external_gateway_info"]["qos_policy_id"] = "slow"
    made.qos_policies = {
        "slow": {"id": "slow", "rules": [{"type": "bandwidth_limit", "direction": "egress", "max_kbps": 1000}]}
    }
    (limit,) = build(made)["rate_limits"]
    assert limit["addresses"] == ["172.24.4.20", "172.24.4.21", "203.0.113.9"]
