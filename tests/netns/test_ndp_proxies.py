"""Internal IPv6 addresses that a router publishes on its external network, and all others that it does not.

The upstream knows no way to the tenant's network: it takes its addresses for neighbours, as NDP proxies want it.
"""

import json

import pytest
from firewall_world import Listener, called, exchange, is_cut
from router_world import HOST6, INSIDE6, network, plugged, wanted

from lab.appliance_machine import Hosts, Machine, eventually, pings
from lab.wires import Namespace

OTHER6, SECOND6 = "fd00:1::6", "fd00:1::7"
UPSTREAM6 = "2001:db8:4::1"


@pytest.fixture
async def routed(appliance: Machine) -> Machine:
    await plugged(appliance, "ext", "private")
    return appliance


@pytest.fixture
def upstream(routed: Machine, hosts: Hosts) -> Namespace:
    made = hosts.add("upstream", "ext", "172.24.4.1/24", f"{UPSTREAM6}/64")
    made.ip("route", "add", "fd00:1::/64", "dev", "eth0")
    return made


@pytest.fixture
def tenant(routed: Machine, hosts: Hosts) -> Namespace:
    made = hosts.add("tenant", "private", f"{HOST6}/64", f"{OTHER6}/64", f"{SECOND6}/64")
    made.ip("route", "add", "default", "via", INSIDE6)
    return made


def proxies(machine: Machine) -> set[str]:
    """What the kernel answers for."""
    found = json.loads(machine.vm.ip("-j", "-6", "neighbour", "show", "proxy") or "[]")
    return {f"{one['dst']} {one['dev']}" for one in found}


async def test_published_addresses_are_reached_and_reach_the_outside_and_no_others(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    await routed.push(wanted(routed, ndp_proxies=[HOST6, SECOND6]))
    assert proxies(routed) == {f"{HOST6} ge1", f"{SECOND6} ge1"}
    assert pings(upstream, HOST6)
    assert pings(upstream, SECOND6)
    assert not pings(upstream, OTHER6, seconds=0.5)
    assert tenant.run("ping", "-n", "-c", "1", "-W", "2", "-I", HOST6, UPSTREAM6).returncode == 0
    # Who goes around the neighbours' question is stopped, too.
    mac = routed.plugged["ext"][0]
    upstream.ip("neighbour", "replace", OTHER6, "lladdr", mac, "dev", "eth0")
    assert not pings(upstream, OTHER6, seconds=0.5)


async def test_an_address_that_is_published_no_more_is_out_of_reach_at_once(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    await routed.push(wanted(routed, ndp_proxies=[HOST6, SECOND6]))
    with (
        Listener(tenant, 80, "::") as listener,
        called(upstream, HOST6, 80, listener) as (here, there, _),
        called(upstream, SECOND6, 80, listener) as (kept, kept_there, _),
    ):
        assert await routed.push(wanted(routed, ndp_proxies=[SECOND6])) == ["firewall", "interfaces"]
        assert proxies(routed) == {f"{SECOND6} ge1"}
        assert is_cut(here, there)
        exchange(kept, kept_there)


async def test_without_ndp_proxies_a_router_routes_as_ever(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    await routed.push(wanted(routed, ndp_proxies=[]))
    upstream.ip("route", "replace", "fd00:1::/64", "via", "2001:db8:4::9")
    assert not pings(upstream, HOST6, seconds=0.5)
    await routed.push(wanted(routed))
    assert proxies(routed) == set()
    assert pings(upstream, HOST6)


async def test_neighbours_are_told_of_an_address_that_moves_to_another_router(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    upstream.ip("neighbour", "add", HOST6, "lladdr", "fa:99:99:99:99:99", "dev", "eth0", "nud", "stale")
    await routed.push(wanted(routed, ndp_proxies=[HOST6]))

    def knows() -> bool:
        return routed.plugged["ext"][0] in upstream.ip("-6", "neighbour", "show", HOST6)

    assert eventually(knows)
    assert pings(upstream, HOST6)


async def test_a_neighbour_that_asks_the_address_itself_is_answered(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    await routed.push(wanted(routed, ndp_proxies=[HOST6]))
    assert pings(upstream, HOST6)
    mac = routed.plugged["ext"][0]
    upstream.ip("neighbour", "replace", HOST6, "lladdr", mac, "dev", "eth0", "nud", "probe")
    assert eventually(lambda: "REACHABLE" in upstream.ip("-6", "neighbour", "show", HOST6))


async def test_a_restart_a_reboot_and_a_stranger_leave_what_is_published(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    await routed.push(wanted(routed, ndp_proxies=[HOST6]))
    await routed.restart()
    assert await routed.push(wanted(routed, ndp_proxies=[HOST6])) == []
    assert pings(upstream, HOST6)
    routed.stop()
    routed.vm.ip("-6", "neighbour", "add", "proxy", OTHER6, "dev", "ge1")
    routed.vm.ip("-6", "neighbour", "delete", "proxy", HOST6, "dev", "ge1")
    await routed.restart()
    assert proxies(routed) == {f"{HOST6} ge1"}
    assert pings(upstream, HOST6)


async def test_an_interface_that_comes_up_again_answers_again(
    routed: Machine, upstream: Namespace, tenant: Namespace
) -> None:
    configuration = wanted(routed, ndp_proxies=[HOST6])
    await routed.push(configuration)
    down = wanted(routed, ndp_proxies=[HOST6])
    down["networks"][0] = network(routed, "ext", "external", "172.24.4.9/24", "2001:db8:4::9/64", state="down")
    await routed.push(down | {"default_v4_gateway": None, "default_v6_gateway": None})
    await routed.push(configuration)
    assert proxies(routed) == {f"{HOST6} ge1"}
    assert eventually(lambda: pings(upstream, HOST6, seconds=0.5))
    small = wanted(routed, ndp_proxies=[HOST6])
    small["networks"][0] = network(routed, "ext", "external", "172.24.4.9/24", mtu=1000)
    await routed.push(small | {"default_v6_gateway": None})
    await routed.push(configuration)
    assert proxies(routed) == {f"{HOST6} ge1"}
    assert eventually(lambda: pings(upstream, HOST6, seconds=0.5))
