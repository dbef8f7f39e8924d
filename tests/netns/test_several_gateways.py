"""A router with two gateways, seen from upstreams on two external networks."""

import json
import re
import signal
from typing import Any

import pytest
from firewall_world import Listener, call, exchange
from router_world import network, plugged, routes, show, subnet

from lab.appliance_machine import Hosts, Machine, pings, uuid_of
from lab.wires import Namespace

FAR = "198.51.100.1"
HOST, HOST6 = "10.0.0.5", "fd00:1::5"
OWN = {"ext": "172.24.4.9", "ext2": "203.0.113.9"}
OWN6 = {"ext": "2001:db8:4::9", "ext2": "2001:db8:5::9"}
GATEWAYS = {"ext": "172.24.4.1", "ext2": "203.0.113.1"}
GATEWAYS6 = {"ext": "2001:db8:4::1", "ext2": "2001:db8:5::1"}
FLOATING = {"ext": "172.24.4.50", "ext2": "203.0.113.50"}
BEHIND = {"ext": "192.0.2.4", "ext2": "192.0.2.5"}
BEHIND6 = {"ext": "2001:db8:77::4", "ext2": "2001:db8:77::5"}
"""Addresses that only the upstream of this network knows the way to."""


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
        made[name].ip("address", "add", f"{GATEWAYS6[name]}/64", "dev", "eth0", "nodad")
        made[name].ip("route", "add", "fd00:1::/64", "via", OWN6[name])
        for far in (f"{FAR}/24", f"{BEHIND[name]}/32", f"{BEHIND6[name]}/128"):
            made[name].ip("address", "add", far, "dev", "lo")
        made[name].ip("link", "set", "lo", "up")
    return made


@pytest.fixture
def tenant(routed: Machine, hosts: Hosts) -> Namespace:
    made = hosts.add("tenant", "private", f"{HOST}/24", f"{HOST6}/64", gateway="10.0.0.1")
    made.ip("route", "add", "default", "via", "fd00:1::1")
    return made


def wanted(machine: Machine, *names: str, **more: Any) -> dict[str, Any]:
    """Two external networks, or those that are named, and an internal one."""
    internal = network(machine, "private", "internal", "10.0.0.1/24", "fd00:1::1/64")
    internal["subnets"] = [subnet("v4", "10.0.0.0/24", "10.0.0.1"), subnet("v6", "fd00:1::/64", "fd00:1::1")]
    external = []
    for name in names or OWN:
        made = network(machine, name, "external", f"{OWN[name]}/24", f"{OWN6[name]}/64")
        prefix, prefix6 = GATEWAYS[name].removesuffix("1") + "0/24", GATEWAYS6[name].removesuffix("1") + "/64"
        made["subnets"] = [subnet(f"{name}4", prefix, GATEWAYS[name]), subnet(f"{name}6", prefix6, GATEWAYS6[name])]
        external.append(made)
    gateways = {"default_v4_gateway": GATEWAYS["ext"], "default_v6_gateway": GATEWAYS6["ext"]}
    return {"networks": [*external, internal]} | gateways | more


def floating(name: str) -> dict[str, str]:
    """A floating IP of an external network, which stands for the host."""
    address = FLOATING[name]
    return {"id": uuid_of(address), "floating_ip": address, "fixed_ip": HOST, "network_id": uuid_of(name)}


def is_answered(upstream: Namespace, source: str, address: str, listener: Listener) -> bool:
    """Whether a TCP connection from one of an upstream's addresses works."""
    caller = upstream.socket(listener.socket.family)
    caller.settimeout(30)
    with caller:
        caller.bind((source, 0))
        try:
            caller.connect((address, 80))
        except TimeoutError:
            return False
        answering, peer = listener.accept()
        with answering:
            exchange(caller, answering)
        return peer == source


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
    assert routes(routed) == {"default via 172.24.4.1 dev ge1", "default via 2001:db8:4::1 dev ge1"}
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
    assert routes(routed) == {"default via 172.24.4.1 dev ge1", "default via 2001:db8:4::1 dev ge1"}


@pytest.mark.parametrize("name", OWN)
async def test_who_calls_from_one_external_network_is_answered_there_whatever_the_default_route_says(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace, name: str
) -> None:
    await routed.push(wanted(routed, floating_ips=[floating("ext2"), floating("ext")]))
    upstream = upstreams[name]
    with Listener(tenant, 80) as listener, Listener(tenant, 80, HOST6) as listener6:
        assert is_answered(upstream, BEHIND[name], FLOATING[name], listener)
        assert is_answered(upstream, BEHIND6[name], HOST6, listener6)
    for source, own in ((BEHIND[name], OWN[name]), (BEHIND6[name], OWN6[name])):
        assert upstream.run("ping", "-c1", "-W2", "-n", "-I", source, own, check=False).returncode == 0


async def test_a_port_forwarding_of_the_second_network_is_answered_there(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    forwarding = {"id": uuid_of("pf"), "floating_ip": FLOATING["ext2"], "protocol": "tcp", "external_port": 80,
                  "fixed_ip": HOST, "internal_port": 80}  # fmt: skip
    await routed.push(wanted(routed, port_forwardings=[forwarding]))
    with Listener(tenant, 80) as listener:
        assert is_answered(upstreams["ext2"], BEHIND["ext2"], FLOATING["ext2"], listener)


@pytest.mark.parametrize("more", [[], [GATEWAYS["ext2"]]], ids=["one default gateway", "several"])
async def test_a_floating_ip_speaks_by_the_network_that_it_is_of(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace, more: list[str]
) -> None:
    for name in ("ext2", "ext"):
        await routed.push(wanted(routed, floating_ips=[floating(name)], more_default_gateways=more))
        with Listener(upstreams[name], 80) as listener:
            for number in range(1, 11):
                with call(tenant, f"198.51.100.{number}", 80) as caller:
                    answering, peer = listener.accept()
                    with answering:
                        assert peer == FLOATING[name]
                        exchange(caller, answering)


async def test_a_connection_stays_with_its_gateway_when_the_default_route_changes(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    await routed.push(wanted(routed))
    with Listener(upstreams["ext"], 80) as listener, call(tenant, FAR, 80) as caller:
        answering, _ = listener.accept()
        with answering:
            exchange(caller, answering)
            await routed.push(wanted(routed, default_v4_gateway=GATEWAYS["ext2"]))
            exchange(caller, answering)
            assert seen_as(tenant, upstreams["ext2"], FAR) == OWN["ext2"]


async def test_tables_and_rules_are_there_while_there_is_a_choice_and_an_agent_that_starts_anew_keeps_them(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    await routed.push(wanted(routed, "ext", floating_ips=[floating("ext")]))
    assert rules(routed) == (set(), set())
    both = wanted(routed, floating_ips=[floating("ext2")])
    await routed.push(both)
    choice = {"from all lookup main suppress_prefixlength 0", "from all fwmark 0x17001 lookup 94209",
              "from all fwmark 0x17002 lookup 94210"}  # fmt: skip
    assert rules(routed) == (choice, choice)
    assert "via 203.0.113.1 dev ge2" in routed.vm.ip("-4", "route", "show", "table", "94210")
    shown = json.loads(show(routed, "--json"))
    assert {"destination": "0.0.0.0/0", "nexthops": [{"nexthop": GATEWAYS["ext2"], "ifname": "ge2"}]} in shown[
        "uplinks"
    ]
    await routed.restart(signal.SIGKILL)
    assert await routed.push(both) in ([], ["metadata_proxy"])
    routed.vm.ip("-4", "rule", "delete", "fwmark", "0x17002")
    await routed.restart(signal.SIGKILL)
    assert rules(routed) == (choice, choice)
    with Listener(tenant, 80) as listener:
        assert is_answered(upstreams["ext2"], BEHIND["ext2"], FLOATING["ext2"], listener)
    await routed.push(wanted(routed, "ext", floating_ips=[floating("ext")]))
    assert rules(routed) == (set(), set())
    assert "94210" not in routed.vm.ip("-4", "route", "show", "table", "all")


async def test_an_interface_that_is_pulled_out_takes_its_uplink_along(
    routed: Machine, upstreams: dict[str, Namespace], tenant: Namespace
) -> None:
    await routed.push(wanted(routed, floating_ips=[floating("ext2")]))
    routed.unplug("ext2")
    await routed.until(lambda status: "ge2" not in status["interfaces"].values())
    await routed.push(wanted(routed, "ext", floating_ips=[floating("ext")]))
    assert rules(routed) == (set(), set())
    assert seen_as(tenant, upstreams["ext"], FAR) == FLOATING["ext"]


def rules(machine: Machine) -> tuple[set[str], set[str]]:
    """The rules of uplinks for IPv4 and IPv6."""
    return _rules(machine.vm.ip("-4", "rule", "show")), _rules(machine.vm.ip("-6", "rule", "show"))


def _rules(text: str) -> set[str]:
    ours = [line for line in text.splitlines() if "proto 170" in line]
    return {re.sub(r"^\d+:\s+| proto 170", "", line).strip() for line in ours}


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
