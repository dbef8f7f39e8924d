"""Addresses, MTU and state of interfaces, as the kernel and the neighbours see them."""

import json

from router_world import (
    HOST,
    HOST6,
    INSIDE,
    INSIDE6,
    OUTSIDE,
    addresses,
    floating,
    link,
    network,
    no_kernel_event,
    plugged,
    tenant,
    upstream,
    wanted,
)

from lab.appliance_machine import Hosts, Machine, eventually, pings, uuid_of
from lab.wires import Namespace

METADATA = "fe80::a9fe:a9fe/128"


def neighbour(machine: Namespace, address: str) -> str | None:
    """The MAC address under which a machine knows another one."""
    found = json.loads(machine.ip("-j", "neighbour", "show", address) or "[]")
    return found[0].get("lladdr") if found else None


async def test_networks_get_their_addresses_and_mtu_and_answer(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    document = wanted(appliance)
    document["networks"][1]["interface"] |= {"mtu": 1450, "description": 'a "net" ß\n'}
    await appliance.push(document)
    assert addresses(appliance, "ge1") == {f"{OUTSIDE}/24", "2001:db8:4::9/64"}
    assert addresses(appliance, "ge2") == {f"{INSIDE}/24", f"{INSIDE6}/64", METADATA}
    told = link(appliance, "ge2")
    assert (told["mtu"], told["ifalias"], "UP" in told["flags"]) == (1450, 'a "net" ß\n', True)
    assert pings(host, INSIDE)
    assert pings(host, INSIDE6)
    assert pings(host, "fe80::a9fe:a9fe%eth0")


async def test_an_equal_push_and_a_push_of_something_else_touch_no_address_link_or_route(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    await appliance.push(wanted(appliance))
    with no_kernel_event(appliance):
        assert await appliance.push(wanted(appliance)) == []
        assert await appliance.push(wanted(appliance, hostname="renamed", enable_snat=True)) == ["firewall"]


async def test_floating_ips_are_addresses_of_the_external_network_and_come_and_go_alone(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    gateway = upstream(hosts)
    forwarding = {"id": uuid_of("pf"), "floating_ip": "172.24.4.60", "protocol": "tcp", "external_port": 80,
                  "fixed_ip": HOST, "internal_port": 80}  # fmt: skip
    own = {f"{OUTSIDE}/24", "2001:db8:4::9/64"}
    two = floating(("172.24.4.50", HOST), ("172.24.4.51", "10.0.0.6"))
    await appliance.push(wanted(appliance, floating_ips=two, port_forwardings=[forwarding]))
    assert addresses(appliance, "ge1") == own | {"172.24.4.50/32", "172.24.4.51/32", "172.24.4.60/32"}
    # The same address as one of the router's own, and back.
    document = wanted(appliance, floating_ips=two[1:])
    document["networks"][0]["interface"]["addresses"].append("172.24.4.50/32")
    await appliance.push(document)
    assert addresses(appliance, "ge1") == own | {"172.24.4.50/32", "172.24.4.51/32"}
    await appliance.push(wanted(appliance, floating_ips=two))
    assert addresses(appliance, "ge1") == own | {"172.24.4.50/32", "172.24.4.51/32"}
    changed = await appliance.push(wanted(appliance, floating_ips=two[1:]))
    assert "routes" not in changed
    assert addresses(appliance, "ge1") == own | {"172.24.4.51/32"}
    gateway.run("ping", "-c", "1", "-W", "1", "172.24.4.51", check=False)
    assert neighbour(gateway, "172.24.4.51") == appliance.macs["ext"]


async def test_a_neighbour_learns_at_once_that_a_floating_ip_has_moved_to_the_appliance(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    gateway = upstream(hosts)
    await appliance.push(wanted(appliance))
    # The former owner has answered a moment ago, and is gone without a word.
    former = hosts.add("former", "ext", "172.24.4.50/24", "2001:db8:4::50/64", mac="fa:99:00:00:00:01")
    assert pings(gateway, "172.24.4.50")
    assert pings(gateway, "2001:db8:4::50")
    assert neighbour(gateway, "172.24.4.50") == "fa:99:00:00:00:01"
    former.close()
    document = wanted(appliance, floating_ips=floating(("172.24.4.50", HOST)))
    document["networks"][0]["interface"]["addresses"].append("2001:db8:4::50/64")
    await appliance.push(document)
    for address in ("172.24.4.50", "2001:db8:4::50"):
        assert eventually(lambda address=address: neighbour(gateway, address) == appliance.macs["ext"], 2.0)
    assert pings(gateway, "2001:db8:4::50")


async def test_a_changed_prefix_or_address_leaves_the_others_and_the_routes_in_place(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    gateway, host = upstream(hosts), tenant(hosts)
    document = wanted(appliance, static_routes=[{"destination": "198.51.100.0/24", "nexthop": "10.0.0.77"}])
    await appliance.push(document)
    for given in (
        ["10.0.0.1/16", f"{INSIDE6}/48"],
        ["10.0.0.2/24", "10.0.0.1/24", f"{INSIDE6}/64"],
        ["10.0.0.1/24", f"{INSIDE6}/64", "fd00:2::1/64"],
    ):
        document["networks"][1]["interface"]["addresses"] = given
        await appliance.push(document)
        assert addresses(appliance, "ge2") == {*given, METADATA}
        assert "198.51.100.0/24 via 10.0.0.77" in appliance.vm.ip("route")
        assert pings(host, "172.24.4.1")
        assert pings(host, "2001:db8:4::1")
        assert pings(gateway, HOST)
        assert pings(gateway, HOST6)


async def test_an_address_moves_from_one_network_to_another(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private", "second")
    await appliance.push(wanted(appliance))
    document = wanted(appliance)
    document["networks"][1] = network(appliance, "private", "internal")
    document["networks"].append(network(appliance, "second", "internal", f"{INSIDE}/24", f"{INSIDE6}/64"))
    await appliance.push(document)
    assert addresses(appliance, "ge2") == {METADATA}
    assert addresses(appliance, "ge3") == {f"{INSIDE}/24", f"{INSIDE6}/64", METADATA}
    host = hosts.add("second-host", "second", f"{HOST}/24", f"{HOST6}/64")
    assert pings(host, INSIDE)
    assert pings(host, INSIDE6)


async def test_a_removed_network_leaves_an_interface_that_is_down_and_has_nothing(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    await appliance.push(wanted(appliance))
    document = wanted(appliance)
    await appliance.push({"networks": document["networks"][:1]})
    assert addresses(appliance, "ge2") == set()
    assert "UP" not in link(appliance, "ge2")["flags"]


async def test_an_interface_that_is_switched_off_is_silent_until_it_is_switched_on(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    document = wanted(appliance)
    document["networks"][1]["interface"]["state"] = "down"
    await appliance.push(document)
    assert not pings(host, INSIDE, seconds=0.3)
    await appliance.push(wanted(appliance))
    assert pings(host, INSIDE)
    assert pings(host, INSIDE6)


async def test_an_mtu_too_small_for_ipv6_and_back_again(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    document = wanted(appliance)
    document["networks"][1]["interface"] |= {"mtu": 1000, "addresses": [f"{INSIDE}/24"]}
    await appliance.push(document)
    assert addresses(appliance, "ge2") == {f"{INSIDE}/24"}
    await appliance.push(wanted(appliance))
    assert addresses(appliance, "ge2") == {f"{INSIDE}/24", f"{INSIDE6}/64", METADATA}
    assert pings(host, INSIDE6)


async def test_what_an_interface_cannot_do_is_refused_by_field(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    for change, field in (
        ({"mtu": 1000}, "mtu"),
        ({"lladdr": "fa:00:00:00:00:77"}, "lladdr"),
        ({"lladdr": None, "ifname": "ge9"}, "ifname"),
        ({"lladdr": None, "ifname": "ge0"}, "ifname"),
        ({"addresses": ["224.0.0.5/24"]}, "addresses[0]"),
        ({"addresses": ["10.0.0.1/24", "::1/128"]}, "addresses[1]"),
        ({"addresses": ["10.0.0.1/0"]}, "addresses[0]"),
    ):
        document = wanted(appliance)
        document["networks"][1]["interface"] |= change
        code, problem = await appliance.try_push(document)
        named = [error["field"] for error in problem["errors"]]
        assert (code, named) == (422, [f"networks[1].interface.{field}"]), change
        assert addresses(appliance, "ge2") == set()


async def test_five_hundred_floating_ips_are_set_up_and_one_more_and_one_less(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    many = [(f"172.24.{5 + number // 200}.{number % 200 + 1}", f"10.0.{number // 200}.{number % 200 + 10}")
            for number in range(501)]  # fmt: skip
    for count in (500, 501, 499):
        await appliance.push(wanted(appliance, floating_ips=floating(*many[:count])))
        there = addresses(appliance, "ge1")
        assert {f"{address}/32" for address, _ in many[:count]} < there
        assert len(there) == count + 2
