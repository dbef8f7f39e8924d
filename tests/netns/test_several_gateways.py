"""A router with two gateways, seen from upstreams on two external networks."""

from typing import Any

import pytest
from firewall_world import Listener, call
from router_world import network, plugged, routes, subnet

from lab.appliance_machine import Hosts, Machine, pings
from lab.wires import Namespace

FAR = "198.51.100.1"
HOST = "10.0.0.5"
OWN = {"ext": "172.24.4.9", "ext2": "203.0.113.9"}
GATEWAYS = {"ext": "172.24.4.1", "ext2": "203.0.113.1"}


@pytest.fixture
async def routed(appliance: Machine) -> Machine:
    await plugged(appliance, "ext", "ext2", "private")
    return appliance


@pytest.fixture
def upstreams(routed: Machine, hosts: Hosts) -> dict[str, Namespace]:
    """Both have the addresses of a far network."""
    made = {}
    for name, address in GATEWAYS.items():
        made[name] = hosts.add(name, name, f"{address}/24")
        made[name].ip("address", "add", f"{FAR}/24", "dev", "lo")
        made[name].ip("link", "set", "lo", "up")
    return made


@pytest.fixture
def tenant(routed: Machine, hosts: Hosts) -> Namespace:
    return hosts.add("tenant", "private", f"{HOST}/24", gateway="10.0.0.1")


def wanted(machine: Machine, **more: Any) -> dict[str, Any]:
    internal = network(machine, "private", "internal", "10.0.0.1/24")
    internal["subnets"] = [subnet("v4", "10.0.0.0/24", "10.0.0.1")]
    external = [network(machine, name, "external", f"{own}/24") for name, own in OWN.items()]
    return {"networks": [*external, internal], "default_v4_gateway": GATEWAYS["ext"]} | more


def seen_as(tenant: Namespace, upstream: Namespace, address: str) -> str:
    """How an upstream sees a host that calls an address of it."""
    with Listener(upstream, 80) as listener, call(tenant, address, 80):
        made, peer = listener.accept()
        made.close()
        return peer


async def test_the_first_is_the_way_out_and_each_hides_what_leaves_by_it(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    await routed.push(wanted(routed))
    assert routes(routed) == {"default via 172.24.4.1 dev ge1"}
    assert seen_as(tenant, upstreams["ext"], FAR) == OWN["ext"]
    assert seen_as(tenant, upstreams["ext2"], GATEWAYS["ext2"]) == OWN["ext2"]
    for name, upstream in upstreams.items():
        assert pings(upstream, OWN[name])


async def test_with_several_default_gateways_each_connection_has_one_and_its_address(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    await routed.push(wanted(routed, more_default_gateways=[GATEWAYS["ext2"]]))
    table = routed.vm.ip("-4", "route", "show", "default")
    assert "nexthop via 172.24.4.1 dev ge1" in table
    assert "nexthop via 203.0.113.1 dev ge2" in table
    used: dict[str, int] = dict.fromkeys(upstreams, 0)
    with Listener(upstreams["ext"], 80) as first, Listener(upstreams["ext2"], 80) as second:
        listeners = {"ext": first, "ext2": second}
        for number in range(1, 41):
            with call(tenant, f"198.51.100.{number}", 80) as here:
                here.sendall(b"hello")
                own = _answerer(listeners)
                used[own] += 1
    assert all(used.values()), used
    await routed.push(wanted(routed))
    assert routes(routed) == {"default via 172.24.4.1 dev ge1"}


def _answerer(listeners: dict[str, Listener]) -> str:
    """The upstream that a new connection came to, which it must have seen with the router's address there."""
    for name, listener in listeners.items():
        listener.socket.setblocking(False)
        try:
            made, peer = listener.accept()
        except BlockingIOError:
            continue
        made.close()
        assert peer == OWN[name]
        return name
    raise AssertionError("nobody was called")
