"""What the appliance takes as a configuration, and how it names what it does not take."""

import copy
import json

import pytest
from astara_appliance.models import MAX_NETWORKS, Configuration
from astara_appliance.validation import InvalidConfiguration, MalformedJson, parse_configuration, parse_json

# Section 1.3.2 of the functional description; its "..." stands for addresses that were left out.
DESCRIBED = {
    "networks": [
        {
            "address_allocations": [],
            "interface": {
                "addresses": ["8.8.8.8", "2001:4860:4860::8888"],
                "description": "",
                "groups": [],
                "ifname": "ge1",
                "lladdr": None,
                "media": None,
                "mtu": 1500,
                "state": "up",
            },
            "name": "",
            "network_id": "f0f8c937-9fb7-4a58-b83f-57e9515e36cb",
            "network_type": "external",
            "v4_conf_service": "static",
            "v6_conf_service": "static",
        },
        {
            "address_allocations": [],
            "interface": {
                "addresses": ["fdca:3ba5:a17a:acda:f816:f8ff:fe90:32e3/64"],
                "description": "",
                "groups": [],
                "ifname": "ge0",
                "lladdr": "fa:16:f8:90:32:e3",
                "media": None,
                "mtu": 1500,
                "state": "up",
            },
            "name": "",
            "network_id": "15016de1-494b-4c65-97fb-475b40acf7e1",
            "network_type": "management",
            "v4_conf_service": "static",
            "v6_conf_service": "static",
        },
        {
            "address_allocations": [
                {
                    "device_id": "7c400585-1743-42ca-a2a3-6b30dd34f83b",
                    "hostname": "10-10-10-1.local",
                    "ip_addresses": {"10.10.10.1": True, "2607:f298:6050:f0ff::1": False},
                    "mac_address": "fa:16:4d:c3:95:81",
                }
            ],
            "interface": {
                "addresses": ["10.10.10.1/24", "2607:f298:6050:f0ff::1/64"],
                "description": "",
                "groups": [],
                "ifname": "ge2",
                "lladdr": None,
                "media": None,
                "mtu": 1500,
                "state": "up",
            },
            "name": "",
            "network_id": "31a242a0-95aa-49cd-b2db-cc00f33dfe88",
            "network_type": "internal",
            "v4_conf_service": "static",
            "v6_conf_service": "static",
        },
    ],
    "static_routes": [],
}

FULL = {
    "hostname": "router-name",
    "tenant_id": "a8f4ad2ab5b24a0cb6c9a5ea8c1e9a3f",
    "admin_state_up": True,
    "asn": 64512,
    "neighbor_asn": 64512,
    "default_v4_gateway": "172.24.4.1",
    "default_v6_gateway": None,
    "enable_snat": True,
    "networks": [
        {
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
            "name": "public",
            "network_type": "external",
            "mtu": 1500,
            "interface": {"ifname": "ge1", "lladdr": "fa:16:00:00:00:01", "addresses": ["172.24.4.9/24"]},
            "subnets": [{"id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b01", "cidr": "172.24.4.0/24"}],
        },
        {
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a02",
            "name": "private",
            "network_type": "internal",
            "mtu": 1450,
            "v4_conf_service": "static",
            "v6_conf_service": "static",
            "interface": {
                "ifname": "ge2",
                "lladdr": "fa:16:00:00:00:02",
                "addresses": ["10.0.0.1/24", "2001:db8:1::1/64"],
                "mtu": 1450,
                "description": "",
                "groups": [],
                "media": None,
                "state": "up",
            },
            "subnets": [
                {
                    "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b02",
                    "cidr": "10.0.0.0/24",
                    "gateway_ip": "10.0.0.1",
                    "dhcp_enabled": True,
                    "dns_nameservers": ["192.0.2.53"],
                    "host_routes": [{"destination": "198.51.100.0/24", "nexthop": "10.0.0.9"}],
                    "ipv6_address_mode": None,
                    "ipv6_ra_mode": None,
                },
                {
                    "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b03",
                    "cidr": "2001:db8:1::/64",
                    "gateway_ip": "2001:db8:1::1",
                    "dhcp_enabled": True,
                    "ipv6_address_mode": "slaac",
                    "ipv6_ra_mode": "slaac",
                },
            ],
            "address_allocations": [
                {
                    "device_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1d01",
                    "hostname": "host-10-0-0-5",
                    "mac_address": "fa:16:00:00:01:05",
                    "ip_addresses": {"10.0.0.5": True},
                }
            ],
        },
    ],
    "static_routes": [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}, ["203.0.113.0/24", "10.0.0.9"]],
    "floating_ips": [
        {
            "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1f01",
            "floating_ip": "172.24.4.20",
            "fixed_ip": "10.0.0.5",
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
        }
    ],
    "labels": [{"name": "5b7ff0bd-0d4a", "prefixes": ["0.0.0.0/0"], "direction": "ingress"}],
}


def put(document, path, value):
    """A copy of `document` with the value at a path such as ("networks", 0, "mtu") replaced or added."""
    document = copy.deepcopy(document)
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return document


def wrong(document):
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration(document)
    return {error.field: error.message for error in caught.value.errors}


@pytest.mark.parametrize("document", [DESCRIBED, FULL, {}], ids=["described", "full", "empty"])
def test_the_documented_configurations_are_taken_with_and_without_wrapper(document):
    bare = parse_configuration(document)
    assert bare == parse_configuration({"configuration": document})
    assert parse_configuration(json.loads(bare.model_dump_json())) == bare


def test_what_a_sender_leaves_out_takes_the_defaults():
    assert parse_configuration({}) == Configuration()
    assert Configuration().networks == []
    assert Configuration().enable_snat


def test_equal_wishes_in_another_spelling_are_equal():
    shouted = put(FULL, ("networks", 1, "interface", "lladdr"), "FA:16:00:00:00:02")
    shouted = put(shouted, ("networks", 1, "subnets", 1, "gateway_ip"), "2001:0DB8:1:0::1")
    assert parse_configuration(shouted) == parse_configuration(FULL)


NETWORK = ("networks", 1)
SUBNET = (*NETWORK, "subnets", 0)
OVERLONG = [{"destination": f"10.{n // 256}.{n % 256}.0/24", "nexthop": "10.0.0.9"} for n in range(5000)]


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("surprise",), 1, "surprise"),
        ((*NETWORK, "surprise"), 1, "networks[1].surprise"),
        ((*NETWORK, "interface", "surprise"), 1, "networks[1].interface.surprise"),
        ((*NETWORK, "interface", "addresses"), ["10.0.0.1/33"], "networks[1].interface.addresses[0]"),
        ((*NETWORK, "interface", "addresses"), ["..."], "networks[1].interface.addresses[0]"),
        ((*NETWORK, "interface", "addresses"), ["fe80::1%eth0"], "networks[1].interface.addresses[0]"),
        ((*NETWORK, "interface", "addresses"), ["10.0.0.1/24", "10.0.0.1/25"], "networks[1].interface.addresses[1]"),
        ((*NETWORK, "interface", "addresses"), ["172.24.4.9/24"], "networks[1].interface.addresses[0]"),
        ((*NETWORK, "interface", "lladdr"), "fa:16:00:00:00", "networks[1].interface.lladdr"),
        ((*NETWORK, "interface", "lladdr"), "01:00:5e:00:00:01", "networks[1].interface.lladdr"),
        ((*NETWORK, "interface", "lladdr"), "fa:16:00:00:00:01", "networks[1].interface.lladdr"),
        ((*NETWORK, "interface", "ifname"), "ge2; reboot", "networks[1].interface.ifname"),
        ((*NETWORK, "interface", "ifname"), "ge1", "networks[1].interface.ifname"),
        ((*NETWORK, "interface", "mtu"), 67, "networks[1].interface.mtu"),
        ((*NETWORK, "interface", "mtu"), "1500", "networks[1].interface.mtu"),
        ((*NETWORK, "interface", "state"), "sideways", "networks[1].interface.state"),
        ((*NETWORK, "network_id"), "not-a-uuid", "networks[1].network_id"),
        ((*NETWORK, "network_id"), FULL["networks"][0]["network_id"], "networks[1].network_id"),
        ((*NETWORK, "network_type"), "isolated", "networks[1].network_type"),
        ((*NETWORK, "mtu"), 65536, "networks[1].mtu"),
        ((*NETWORK, "mtu"), True, "networks[1].mtu"),
        ((*SUBNET, "cidr"), "10.0.0.1/24", "networks[1].subnets[0].cidr"),
        ((*SUBNET, "cidr"), "10.0.0.0", "networks[1].subnets[0].cidr"),
        ((*SUBNET, "gateway_ip"), "2001:db8::1", "networks[1].subnets[0].gateway_ip"),
        ((*SUBNET, "ipv6_ra_mode"), "slaac", "networks[1].subnets[0].ipv6_ra_mode"),
        ((*SUBNET, "dhcp_enabled"), "yes", "networks[1].subnets[0].dhcp_enabled"),
        ((*SUBNET, "dns_nameservers"), ["1.1.1.1", "1.1.1.1"], "networks[1].subnets[0].dns_nameservers[1]"),
        ((*SUBNET, "dns_nameservers"), ["1.1.1.1"] * 17, "networks[1].subnets[0].dns_nameservers"),
        ((*SUBNET, "id"), FULL["networks"][1]["subnets"][1]["id"], "networks[1].subnets[1].id"),
        ((*NETWORK, "subnets", 1, "ipv6_ra_mode"), "dhcpv6-stateful", "networks[1].subnets[1].ipv6_ra_mode"),
        (
            (*NETWORK, "address_allocations", 0, "ip_addresses"),
            {"10.0.0.x": True},
            'networks[1].address_allocations[0].ip_addresses["10.0.0.x"]',
        ),
        (
            (*NETWORK, "address_allocations", 0, "hostname"),
            "evil\ndhcp-script=/bin/sh",
            "networks[1].address_allocations[0].hostname",
        ),
        (("static_routes",), [["192.0.2.0/24", "2001:db8::1"]], "static_routes[0].nexthop"),
        (("static_routes",), [["192.0.2.0/24"]], "static_routes[0]"),
        (("static_routes",), [["192.0.2.0/24", "10.0.0.9"]] * 2, "static_routes[1]"),
        (("static_routes",), OVERLONG, "static_routes"),
        (("floating_ips",), FULL["floating_ips"] * 2, "floating_ips[1].floating_ip"),
        (("floating_ips", 0, "fixed_ip"), "2001:db8::5", "floating_ips[0].fixed_ip"),
        (("labels",), FULL["labels"] * 2, "labels[1]"),
        (("labels", 0, "name"), "*/ -j ACCEPT", "labels[0].name"),
        (("labels", 0, "prefixes"), ["0.0.0.0/0"] * 2, "labels[0].prefixes[1]"),
        (("default_v4_gateway",), "2001:db8::1", "default_v4_gateway"),
        (("default_v6_gateway",), "10.0.0.1", "default_v6_gateway"),
        (("asn",), 0, "asn"),
        (("tenant_id",), "a/b", "tenant_id"),
        (("networks",), {}, "networks"),
        (("networks",), [FULL["networks"][0]] * (MAX_NETWORKS + 1), "networks"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_wrong_field_is_refused_by_its_name(path, value, field):
    assert field in wrong(put(FULL, path, value))


def test_every_wrong_field_is_named_at_once():
    document = put(FULL, (*SUBNET, "cidr"), "nonsense")
    document = put(document, ("networks", 0, "interface", "lladdr"), "nonsense")
    document = put(document, ("floating_ips", 0, "fixed_ip"), "::1")
    document = put(document, ("surprise",), None)
    assert set(wrong(document)) == {
        "networks[1].subnets[0].cidr",
        "networks[0].interface.lladdr",
        "floating_ips[0].fixed_ip",
        "surprise",
    }


def test_messages_do_not_repeat_what_was_sent():
    assert "hunter2" not in str(wrong(put(FULL, (*SUBNET, "cidr"), "hunter2")))


def internal(number, *cidrs):
    return {
        "network_id": f"5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a{number:04x}",
        "network_type": "internal",
        "interface": {"ifname": f"ge{number}"},
        "subnets": [
            {"id": f"5b7ff0bd-0d4a-4be8-{position:04x}-4bb46a2a{number:04x}", "cidr": cidr}
            for position, cidr in enumerate(cidrs)
        ],
    }


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        (["10.0.0.0/24"], ["10.0.0.0/24"], "networks[1].subnets[0].cidr"),
        (["10.0.0.0/8"], ["192.0.2.0/24", "10.255.255.0/24"], "networks[1].subnets[1].cidr"),
        (["10.1.0.0/24"], ["10.0.0.0/8"], "networks[1].subnets[0].cidr"),
        (["2001:db8::/32"], ["2001:db8:5::/48"], "networks[1].subnets[0].cidr"),
        (["10.0.0.0/8", "10.1.0.0/24", "10.200.0.0/24"], [], "networks[0].subnets[2].cidr"),
    ],
)
def test_subnets_of_internal_networks_may_not_overlap(one, other, field):
    assert field in wrong({"networks": [internal(1, *one), internal(2, *other)]})


def test_subnets_side_by_side_and_undelegated_prefixes_are_no_overlap():
    parse_configuration(
        {"networks": [internal(1, "10.0.0.0/24", "::/64"), internal(2, "10.0.1.0/24", "::/64", "2001:db8::/64")]}
    )


def test_link_local_addresses_may_be_the_same_on_every_network():
    one, other = internal(1), internal(2)
    one["interface"]["addresses"] = other["interface"]["addresses"] = ["fe80::1/64"]
    parse_configuration({"networks": [one, other]})


def test_there_is_one_management_network():
    one, other = internal(1), internal(2)
    one["network_type"] = other["network_type"] = "management"
    assert "networks[1].network_type" in wrong({"networks": [one, other]})


@pytest.mark.parametrize("document", [None, [], "text", 5, {"configuration": None}, {"configuration": []}])
def test_a_document_that_is_no_object_is_refused(document):
    assert wrong(document)


def test_a_member_beside_the_wrapper_is_refused():
    assert set(wrong({"configuration": {}, "hostname": "x"})) == {"hostname"}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"networks": [}', "line 1, column 15"),
        (b"", "line 1, column 1"),
        (b'{"a": \xff}', "byte 6"),
        (b'{"asn": NaN}', "NaN"),
        (b'{"asn": 1, "asn": 2}', "'asn'"),
        (b"[" * 100_000, "nested"),
        (b'{"asn": ' + b"9" * 5000 + b"}", "too long"),
    ],
    ids=["syntax", "empty", "encoding", "nan", "twice", "deep", "digits"],
)
def test_malformed_json_is_located(body, where):
    with pytest.raises(MalformedJson, match=where):
        parse_json(body)
