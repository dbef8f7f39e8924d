"""Routes and forwarding, by packets and by the kernel's tables."""

import json

from router_world import (
    GATEWAY,
    GATEWAY6,
    HOST,
    HOST6,
    INSIDE,
    OUTSIDE,
    OUTSIDE6,
    network,
    plugged,
    routes,
    tenant,
    upstream,
    wanted,
)

from lab.appliance_machine import ORCHESTRATOR, Hosts, Machine, pings, subnet

FAR, FAR6 = "198.51.100.7", "2001:db8:ff::7"


def behind(hosts: Hosts, name: str, bridge: str, own: str, own6: str, back: str, back6: str):
    """A router of the tenant's with a network of its own behind it."""
    made = hosts.add(name, bridge, own, own6)
    for address in (f"{FAR}/32", f"{FAR6}/128"):
        made.ip("address", "add", address, "dev", "lo")
    made.ip("route", "add", "default", "via", back)
    made.ip("route", "add", "default", "via", back6)
    return made


async def test_packets_pass_both_ways_by_the_default_routes(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    gateway, host = upstream(hosts), tenant(hosts)
    for address in (f"{FAR}/32", f"{FAR6}/128"):
        gateway.ip("address", "add", address, "dev", "lo")
    await appliance.push(wanted(appliance))
    assert routes(appliance) == {f"default via {GATEWAY} dev ge1", f"default via {GATEWAY6} dev ge1"}
    for machine, address in ((host, FAR), (host, FAR6), (gateway, HOST), (gateway, HOST6)):
        assert pings(machine, address)


async def test_a_gateway_outside_of_all_subnets_and_a_link_local_one_are_reached(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    gateway, host = upstream(hosts), tenant(hosts)
    gateway.ip("address", "add", "100.64.0.1/32", "dev", "eth0")
    gateway.ip("address", "add", "fe80::1/64", "dev", "eth0")
    for address in (f"{FAR}/32", f"{FAR6}/128"):
        gateway.ip("address", "add", address, "dev", "lo")
    await appliance.push(wanted(appliance, default_v4_gateway="100.64.0.1", default_v6_gateway="fe80::1"))
    assert pings(host, FAR)
    assert pings(host, FAR6)


async def test_extra_routes_are_followed_changed_and_taken_back(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    for name, number in (("one", 20), ("two", 21)):
        behind(hosts, name, "private", f"10.0.0.{number}/24", f"fd00:1::{number}/64", INSIDE, "fd00:1::1")
    none = {"default_v4_gateway": None, "default_v6_gateway": None}
    for number in (20, 21):
        extra = [
            {"destination": "198.51.100.0/24", "nexthop": f"10.0.0.{number}"},
            {"destination": "2001:db8:ff::/64", "nexthop": f"fd00:1::{number}"},
        ]
        assert "routes" in await appliance.push(wanted(appliance, static_routes=extra, **none))
        assert routes(appliance) == {f"{one['destination']} via {one['nexthop']} dev ge2" for one in extra}
        assert pings(host, FAR)
        assert pings(host, FAR6)
    await appliance.push(wanted(appliance, **none))
    assert routes(appliance) == set()
    assert not pings(host, FAR, seconds=0.3)


async def test_several_next_hops_to_one_destination_share_it(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    extra = [
        {"destination": destination, "nexthop": f"{prefix}{number}"}
        for destination, prefix in (("198.51.100.0/24", "10.0.0."), ("2001:db8:ff::/64", "fd00:1::"))
        for number in (20, 21)
    ]
    await appliance.push(wanted(appliance, static_routes=extra))
    for family, route in (("-4", "198.51.100.0/24"), ("-6", "2001:db8:ff::/64")):
        (found,) = json.loads(appliance.vm.ip(family, "-j", "route", "show", route))
        assert len(found["nexthops"]) == 2
    await appliance.push(wanted(appliance, static_routes=extra[::2]))
    for family, route in (("-4", "198.51.100.0/24"), ("-6", "2001:db8:ff::/64")):
        (found,) = json.loads(appliance.vm.ip(family, "-j", "route", "show", route))
        assert found["gateway"] in ("10.0.0.20", "fd00:1::20")


async def test_an_extra_route_takes_the_place_of_no_connected_network_and_the_orchestrators_of_none(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    extra = [
        {"destination": "10.0.0.0/24", "nexthop": "10.0.0.66"},
        {"destination": "fdca:3ba5:a17a:acda::/64", "nexthop": "fd00:1::66"},
        {"destination": f"{ORCHESTRATOR}/128", "nexthop": "fd00:1::66"},
    ]
    await appliance.push(wanted(appliance, static_routes=extra))
    assert pings(host, INSIDE)
    # The answer has come over the management network; so does what the appliance itself asks.
    assert "dev ge0" in appliance.vm.ip("route", "get", ORCHESTRATOR)
    assert appliance.vm.run("ping", "-c", "1", "-W", "2", ORCHESTRATOR, check=False).returncode == 0


async def test_a_tenants_network_may_have_the_management_networks_addresses(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = hosts.add("host", "private", "fdca:3ba5:a17a:acda::77/64", gateway="fdca:3ba5:a17a:acda::99")
    gateway = upstream(hosts)
    gateway.ip("route", "add", "fdca:3ba5:a17a:acda::/64", "via", "2001:db8:4::9")
    document = wanted(appliance)
    document["networks"][1] = network(appliance, "private", "internal", "fdca:3ba5:a17a:acda::99/64")
    await appliance.push(document)
    assert pings(host, GATEWAY6)
    assert pings(gateway, "fdca:3ba5:a17a:acda::77")
    assert not pings(host, ORCHESTRATOR, seconds=0.3)


async def test_host_routes_are_followed_where_they_can_be(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    behind(hosts, "one", "private", "10.0.0.20/24", "fd00:1::20/64", INSIDE, "fd00:1::1")
    document = wanted(appliance, default_v6_gateway=None)
    document["networks"][1]["subnets"] = [
        subnet("v4", "10.0.0.0/24", INSIDE, host_routes=[
            {"destination": "198.51.100.0/24", "nexthop": "10.0.0.20"},
            {"destination": "192.0.2.0/24", "nexthop": "10.9.9.9"},
            {"destination": "203.0.113.0/24", "nexthop": INSIDE},
            {"destination": "0.0.0.0/0", "nexthop": "10.0.0.20"},
        ])
    ]  # fmt: skip
    await appliance.push(document)
    assert routes(appliance) == {f"default via {GATEWAY} dev ge1", "198.51.100.0/24 via 10.0.0.20 dev ge2"}
    assert pings(host, FAR)


async def test_next_hops_that_are_no_neighbours_and_gateways_that_are_no_other_hosts_are_refused_by_field(
    appliance: Machine,
) -> None:
    await plugged(appliance, "ext", "private")
    good = {"destination": "192.0.2.0/24", "nexthop": "10.0.0.20"}
    for nexthop in ("10.9.9.9", "fd00:9::9", INSIDE, "fe80::9", "10.0.0.255"):
        bad = {"destination": "2001:db8:ff::/64" if ":" in nexthop else "198.51.100.0/24", "nexthop": nexthop}
        code, problem = await appliance.try_push(wanted(appliance, static_routes=[good, bad]))
        assert (code, [error["field"] for error in problem["errors"]]) == (422, ["static_routes[1].nexthop"]), nexthop
    for field, gateway in (
        ("default_v4_gateway", "224.0.0.1"),
        ("default_v4_gateway", "172.24.4.255"),
        ("default_v4_gateway", OUTSIDE),
        ("default_v6_gateway", "ff02::1"),
        ("default_v6_gateway", OUTSIDE6),
    ):
        code, problem = await appliance.try_push(wanted(appliance, **{field: gateway}))
        assert (code, [error["field"] for error in problem["errors"]]) == (422, [field]), gateway
    assert routes(appliance) == set()


async def test_routes_of_others_are_left_alone(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    await appliance.push(wanted(appliance))
    appliance.vm.ip("route", "add", "192.0.2.0/24", "via", HOST, "proto", "static")
    await appliance.push(wanted(appliance, default_v4_gateway=None))
    await appliance.restart()
    await appliance.push(wanted(appliance))
    assert "192.0.2.0/24" in appliance.vm.ip("route")


async def test_a_router_that_is_switched_off_forwards_nothing_and_then_again(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    gateway, host = upstream(hosts), tenant(hosts)
    await appliance.push(wanted(appliance))
    for is_up in (True, False, True):
        await appliance.push(wanted(appliance, admin_state_up=is_up))
        for machine, address in ((host, GATEWAY), (host, GATEWAY6), (gateway, HOST), (gateway, HOST6)):
            assert pings(machine, address, seconds=30.0 if is_up else 0.3) == is_up
        # Addresses stay.
        assert pings(host, INSIDE)


async def test_the_management_interface_never_forwards(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    tenant(hosts)
    await appliance.push(wanted(appliance))
    switches = appliance.vm.run("sysctl", "-n", "net.ipv4.conf.ge0.forwarding", "net.ipv6.conf.ge0.forwarding").stdout
    assert switches.split() == ["0", "0"]
    appliance.orchestrator.ip("route", "add", "fd00:1::/64", "via", "fdca:3ba5:a17a:acda::5")
    assert not pings(appliance.orchestrator, HOST6, seconds=0.3)


async def test_status_says_whether_the_gateways_answer(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    status = await appliance.status()
    assert (status["v4"], status["v6"]) == (False, False)
    await appliance.push(wanted(appliance))
    gateway = upstream(hosts)
    await appliance.until(lambda status: status["v4"] and status["v6"])
    # One that answers no ping is there as long as it answers the kernel's question for its link-layer address.
    gateway.run("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1")
    await appliance.push(wanted(appliance, default_v6_gateway=None))
    status = await appliance.until(lambda status: not status["v6"])
    assert status["v4"]


async def test_a_configured_target_tells_of_the_upstream_when_the_gateway_does_not(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    appliance.stop()
    appliance.start(probes=["172.24.4.77"])
    await appliance.answers()
    await appliance.push(wanted(appliance, default_v4_gateway=None, default_v6_gateway=None))
    assert not (await appliance.status())["v4"]
    hosts.add("target", "ext", "172.24.4.77/24")
    await appliance.until(lambda status: status["v4"])
