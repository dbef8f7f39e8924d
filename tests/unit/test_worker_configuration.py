"""From what Neutron says to what the appliance is told: every field, and an appliance that takes all of it."""

import copy
import json
import random
from typing import Any

import pytest
from astara_appliance.validation import parse_configuration
from worker_reading import (
    EXT4,
    EXTERNAL,
    MACS,
    MANAGEMENT,
    MANAGEMENT_PORT,
    NAMES,
    PRIV4,
    PRIV6,
    PRIVATE,
    PROJECT,
    ROUTER,
    SHARED,
    reading,
    uuid,
)

from services.worker import configuration
from services.worker.reading import RouterReading


def build(what: RouterReading) -> dict[str, Any]:
    """The configuration, which the appliance must accept as it stands."""
    built = configuration.build(what, MANAGEMENT_PORT, NAMES, MACS, (64512, 64513))
    accepted = parse_configuration(json.loads(json.dumps(built))).model_dump(mode="json")
    assert {name: value for name, value in accepted.items() if name in built or value} == built
    return built


def network(built: dict[str, Any], network_id: str) -> dict[str, Any]:
    (found,) = [one for one in built["networks"] if one["network_id"] == network_id]
    return found


def test_the_routers_own_fields() -> None:
    built = build(reading())
    assert built["hostname"] == "my-router"
    assert built["tenant_id"] == PROJECT
    assert (built["asn"], built["neighbor_asn"]) == (64512, 64513)
    assert built["admin_state_up"] is True
    assert built["enable_snat"] is True
    assert (built["default_v4_gateway"], built["default_v6_gateway"]) == ("172.24.4.1", "2001:db8::2")
    assert built["static_routes"] == [
        {"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"},
        {"destination": "2001:db8:1::/48", "nexthop": "fd00::9"},
    ]


def test_networks_come_management_first_then_external_then_internal() -> None:
    built = build(reading())
    assert [(one["network_type"], one["network_id"]) for one in built["networks"]] == [
        ("management", MANAGEMENT), ("external", EXTERNAL), ("internal", PRIVATE), ("internal", SHARED),
    ]  # fmt: skip
    assert [one["mtu"] for one in built["networks"]] == [1500, 1500, 1450, 9000]
    assert [one["interface"]["ifname"] for one in built["networks"]] == ["ge0", "ge1", "ge2", "ge3"]
    assert network(built, MANAGEMENT)["interface"]["addresses"] == ["fdca:3ba5:a17a:acda::5/64"]
    assert network(built, EXTERNAL)["interface"]["addresses"] == ["172.24.4.20/24", "2001:db8::20/64"]
    assert network(built, PRIVATE)["interface"]["addresses"] == ["10.0.0.1/24", "fd00::1/64"]
    assert network(built, SHARED)["interface"]["addresses"] == ["10.9.0.7/24"]


def test_subnets_with_host_routes_name_servers_and_ipv6_modes() -> None:
    four, six = network(build(reading()), PRIVATE)["subnets"]
    assert (four["id"], four["cidr"], four["gateway_ip"], four["dhcp_enabled"]) == (
        PRIV4, "10.0.0.0/24", "10.0.0.1", True,
    )  # fmt: skip
    assert four["dns_nameservers"] == ["10.0.0.3", "10.0.0.2"]  # in the tenant's order
    assert [route["destination"] for route in four["host_routes"]] == ["192.0.2.0/25", "198.51.100.0/24"]
    assert (six["id"], six["ipv6_ra_mode"], six["ipv6_address_mode"]) == (PRIV6, "dhcpv6-stateful", "dhcpv6-stateful")


def test_allocations_are_the_instances_ports_and_nobody_elses() -> None:
    built = build(reading())
    first, second = network(built, PRIVATE)["address_allocations"]
    assert (first["device_id"], first["hostname"]) == (uuid(70), "web")
    assert first["ip_addresses"] == {"10.0.0.5": True, "fd00::5": True}
    assert (second["hostname"], second["ip_addresses"]) == ("host-10-0-0-6", {"10.0.0.6": True})
    (shared,) = network(built, SHARED)["address_allocations"]
    assert shared["ip_addresses"] == {"10.9.0.66": False}  # no DHCP on that subnet
    assert network(built, EXTERNAL)["address_allocations"] == []


def test_extra_dhcp_options_go_with_their_port_in_one_order() -> None:
    given = reading()
    port = next(port for port in given.allocations if port["device_id"] == uuid(70))
    port["extra_dhcp_opts"] = [
        {"opt_name": "tftp-server", "opt_value": "10.0.0.2", "ip_version": 4},
        {"opt_name": "bootfile-name", "opt_value": "pxelinux.0"},
    ]
    first, second = network(build(given), PRIVATE)["address_allocations"]
    assert first["extra_dhcp_opts"] == [
        {"opt_name": "bootfile-name", "opt_value": "pxelinux.0", "ip_version": 4},
        {"opt_name": "tftp-server", "opt_value": "10.0.0.2", "ip_version": 4},
    ]
    assert second["extra_dhcp_opts"] == []


def test_floating_ips_that_are_associated_and_metering_labels() -> None:
    built = build(reading())
    assert [(one["floating_ip"], one["fixed_ip"]) for one in built["floating_ips"]] == [
        ("172.24.4.30", "10.0.0.6"), ("172.24.4.31", "10.0.0.5"),
    ]  # fmt: skip
    assert built["labels"] == [
        {"name": uuid(80), "prefixes": ["10.0.0.0/24", "192.0.2.0/24"], "direction": "egress"},
        {"name": uuid(80), "prefixes": ["10.0.0.0/24"], "direction": "ingress"},
    ]


def test_port_forwardings_of_floating_ips_that_no_port_has_to_itself() -> None:
    what = reading()
    what.floating_ips[2]["port_forwardings"] = [
        {"id": uuid(93), "protocol": "udp", "internal_ip_address": "10.0.0.6", "internal_port_range": "53:53",
         "external_port_range": "5000:5003", "internal_port": 53},
        {"id": uuid(92), "protocol": "tcp", "internal_ip_address": "10.0.0.6", "internal_port_range": "80:90",
         "external_port_range": "8080:8090"},
        {"id": uuid(91), "protocol": "tcp", "internal_ip_address": "10.0.0.5", "internal_port": 22,
         "external_port": 2222},
        {"id": uuid(90), "protocol": "icmp", "internal_ip_address": "10.0.0.5", "internal_port": 1, "external_port": 1},
    ]  # fmt: skip
    what.floating_ips[0]["port_forwardings"] = []
    first, second, third = build(what)["port_forwardings"]
    assert first == {
        "id": uuid(91), "floating_ip": "172.24.4.32", "protocol": "tcp", "external_port": 2222,
        "external_port_end": None, "fixed_ip": "10.0.0.5", "internal_port": 22, "internal_port_end": None,
    }  # fmt: skip
    assert (second["id"], second["external_port"], second["external_port_end"]) == (uuid(92), 8080, 8090)
    assert (second["internal_port"], second["internal_port_end"]) == (80, 90)
    assert (third["id"], third["external_port_end"], third["internal_port"]) == (uuid(93), 5003, 53)
    assert third["internal_port_end"] is None
    assert len(build(what)["floating_ips"]) == 2


def test_admin_state_and_snat_are_passed_on() -> None:
    built = build(reading(admin_state_up=False, external_gateway_info={"network_id": EXTERNAL, "enable_snat": False}))
    assert built["admin_state_up"] is False
    assert built["enable_snat"] is False


def test_a_router_without_a_gateway_has_none() -> None:
    what = reading(external_gateway_info=None)
    what.gateway_port, what.floating_ips = None, []
    built = build(what)
    assert (built["default_v4_gateway"], built["default_v6_gateway"]) == (None, None)
    assert "external" not in [one["network_type"] for one in built["networks"]]


def test_a_gateway_without_an_ipv4_address_has_no_ipv4_gateway() -> None:
    what = reading()
    assert what.gateway_port is not None
    what.gateway_port["fixed_ips"] = [ip for ip in what.gateway_port["fixed_ips"] if ip["subnet_id"] != EXT4]
    assert build(what)["default_v4_gateway"] is None


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("", ROUTER),
        ("ü", ROUTER),
        ("a" * 80, "a" * 63),
        ("-x-", "x"),
        ("a.b c_d", "a-b-c-d"),
        ("\x00\n$(reboot)", "reboot"),
        ("x" * 62 + "-y", "x" * 62),
    ],
)
def test_a_name_that_a_tenant_chose_becomes_a_dns_label(name: str, hostname: str) -> None:
    assert build(reading(name=name))["hostname"] == hostname


def test_whatever_a_tenant_calls_a_network_the_appliance_takes_it() -> None:
    what = reading()
    what.networks[PRIVATE]["name"] = "ü" * 255
    what.networks[SHARED]["name"] = "\x00\n'; rm -rf /"
    build(what)


def shuffled(what: RouterReading, dice: random.Random) -> RouterReading:
    """The same facts as Neutron might have told them another time."""
    other = copy.deepcopy(what)
    for entries in (other.interface_ports, other.floating_ips, other.allocations, other.labels, other.instance_ports):
        dice.shuffle(entries)
    other.networks = dict(dice.sample(list(other.networks.items()), len(other.networks)))
    other.subnets = dict(dice.sample(list(other.subnets.items()), len(other.subnets)))
    for one in (*other.interface_ports, *other.allocations, other.gateway_port or {"fixed_ips": []}):
        dice.shuffle(one["fixed_ips"])
    for floating_ip in other.floating_ips:
        dice.shuffle(floating_ip.get("port_forwardings", []))
    for subnet in other.subnets.values():
        dice.shuffle(subnet["host_routes"])
        subnet["revision_number"] += 1
        subnet["updated_at"] = "another time"
    dice.shuffle(other.router["routes"])
    for label in other.labels:
        dice.shuffle(label["rules"])
    other.router["revision_number"] += 1
    return other


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_neutrons_answers_does_not_change_the_digest(seed: int) -> None:
    expected = configuration.digest(build(reading()))
    assert configuration.digest(build(shuffled(reading(), random.Random(seed)))) == expected
    assert expected.startswith("v1:")


CHANGES = {
    "name": lambda what: what.router.update(name="other"),
    "admin state": lambda what: what.router.update(admin_state_up=False),
    "route": lambda what: what.router["routes"].pop(),
    "name server order": lambda what: what.subnets[PRIV4]["dns_nameservers"].reverse(),
    "host route": lambda what: what.subnets[PRIV4]["host_routes"].pop(),
    "dhcp": lambda what: what.subnets[PRIV4].update(enable_dhcp=False),
    "gateway": lambda what: what.subnets[EXT4].update(gateway_ip="172.24.4.254"),
    "mtu": lambda what: what.networks[PRIVATE].update(mtu=1400),
    "floating IP": lambda what: what.floating_ips.pop(0),
    "floating IP's target": lambda what: what.floating_ips[0].update(fixed_ip_address="10.0.0.50"),
    "port forwarding": lambda what: what.floating_ips[2]["port_forwardings"].pop(),
    "port forwarding's target": lambda what: what.floating_ips[2]["port_forwardings"][0].update(internal_port=443),
    "allocation": lambda what: what.allocations.pop(3),
    "address of a port": lambda what: what.allocations[4]["fixed_ips"][0].update(ip_address="10.0.0.99"),
    "interface": lambda what: what.interface_ports.pop(1),
    "label": lambda what: what.labels.clear(),
    "SNAT": lambda what: what.router["external_gateway_info"].update(enable_snat=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_means_something_changes_the_digest(change: str) -> None:
    what = reading()
    CHANGES[change](what)
    assert configuration.digest(build(what)) != configuration.digest(build(reading()))


DOUBTS = {
    "gateway": lambda what: setattr(what, "gateway_port", None),
    "running instance": lambda what: what.instance_ports.clear(),
    "networks": lambda what: what.networks.pop(PRIVATE),
    "subnets": lambda what: what.subnets.pop(PRIV6),
    "with those of their networks": lambda what: what.allocations.clear(),
}


@pytest.mark.parametrize("sentence", DOUBTS)
def test_answers_that_contradict_each_other_are_doubted(sentence: str) -> None:
    what = reading()
    assert what.doubt() == ""
    DOUBTS[sentence](what)
    assert sentence in what.doubt()
