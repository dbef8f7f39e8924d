"""The firewall in a whole appliance, told over its API."""

from typing import Any

import pytest
from firewall_world import Listener, called, exchange, floating, forwarding, is_cut, is_reachable

from lab.appliance_machine import Hosts, Machine, pings, subnet, uuid_of
from lab.wires import Namespace

WORLD, OUTSIDE, WEB, DATABASE = "172.24.4.1", "172.24.4.20", "10.1.0.5", "10.1.0.6"
FIRST, SHARED = "172.24.4.101", "172.24.4.103"
LABEL = "3a6b0e60-6d5b-4a6e-9d3e-000000000001"


def wanted(machine: Machine, **more: Any) -> dict[str, Any]:
    return {
        "default_v4_gateway": WORLD,
        "networks": [
            machine.network("ext", "external", f"{OUTSIDE}/24", network_id=uuid_of("ge1")),
            machine.network("red", "internal", "10.1.0.1/24", subnets=[subnet("red", "10.1.0.0/24", "10.1.0.1")]),
        ],
    } | more  # fmt: skip


@pytest.fixture
async def routed(appliance: Machine) -> Machine:
    for name in ("ext", "red"):
        appliance.plug(name)
    await appliance.until(lambda status: len(status["interfaces"]) == 3)
    return appliance


@pytest.fixture
def world(hosts: Hosts, routed: Machine) -> Namespace:
    return hosts.add("world", "ext", f"{WORLD}/24", gateway=OUTSIDE)


@pytest.fixture
def web(hosts: Hosts, routed: Machine) -> Namespace:
    return hosts.add("web", "red", f"{WEB}/24", gateway="10.1.0.1")


@pytest.fixture
def database(hosts: Hosts, routed: Machine) -> Namespace:
    return hosts.add("database", "red", f"{DATABASE}/24", gateway="10.1.0.1")


def generation(machine: Machine) -> str:
    """What changes with every change of the machine's nftables."""
    return machine.vm.run("nft", "-j", "list", "ruleset").stdout


async def test_an_appliance_that_was_told_nothing_is_closed(routed: Machine, world: Namespace, web: Namespace) -> None:
    table = routed.vm.run("nft", "list", "table", "inet", "astara").stdout
    assert table.count("policy drop") == 2
    assert not pings(web, "10.1.0.1", seconds=0.3)
    assert not is_reachable(world, OUTSIDE, 5000, 0.3)


async def test_floating_ips_and_forwarded_ports_work_as_soon_as_they_are_pushed_and_end_with_the_push(
    routed: Machine, world: Namespace, web: Namespace, database: Namespace
) -> None:
    given = {
        "floating_ips": [floating(FIRST, WEB)],
        "port_forwardings": [forwarding(SHARED, "tcp", (8080, 8080), DATABASE, (80, 80))],
    }
    await routed.push(wanted(routed, **given))
    with Listener(web, 80) as first, Listener(database, 80) as second, Listener(world, 80) as outside:
        with (
            called(world, FIRST, 80, first) as (here, there, peer),
            called(world, SHARED, 8080, second) as (kept, kept_there, _),
            called(web, SHARED, 8080, second) as (_, _, seen),
            called(web, WORLD, 80, outside) as (_, _, spoken),
        ):
            assert (peer, seen, spoken) == (WORLD, FIRST, FIRST)
            assert await routed.push(wanted(routed, **given | {"floating_ips": []})) == ["firewall", "interfaces"]
            exchange(kept, kept_there)
            assert is_cut(here, there)
        with called(web, WORLD, 80, outside) as (_, _, spoken):
            assert spoken == OUTSIDE
        assert not is_reachable(world, FIRST, 80, 0.7)
        assert not pings(world, FIRST, seconds=0.3)
        await routed.push(wanted(routed))
        assert not is_reachable(world, SHARED, 8080, 0.7)


async def test_a_restart_touches_no_rule_and_what_a_stranger_did_meanwhile_is_mended(
    routed: Machine, world: Namespace, web: Namespace
) -> None:
    await routed.push(wanted(routed, floating_ips=[floating(FIRST, WEB)]))
    before = generation(routed)
    with Listener(web, 80) as listener, called(world, FIRST, 80, listener) as (here, there, _):
        await routed.restart()
        exchange(here, there)
        # Handles count up with everything that is added: not even an equal table was loaded.
        assert generation(routed) == before
        routed.stop()
        routed.vm.run("nft", "flush", "ruleset")
        await routed.restart()
        exchange(here, there)
    assert pings(world, FIRST)
    assert not is_reachable(world, OUTSIDE, 5000, 0.3)


async def test_a_push_that_a_later_service_fails_gives_the_floating_ip_and_its_streams_back(
    routed: Machine, world: Namespace, web: Namespace
) -> None:
    routed.plug("blue")
    await routed.until(lambda status: len(status["interfaces"]) == 4)
    await routed.push(wanted(routed, floating_ips=[floating(FIRST, WEB)]))
    more = wanted(routed)
    more["networks"].append(routed.network("blue", "internal", "10.2.0.1/24"))
    with (
        Listener(web, 80) as listener,
        called(world, FIRST, 80, listener) as (here, there, _),
        Listener(routed.vm, 9603),
    ):
        code, answer = await routed.try_push(more)
        assert (code, answer["service"]) == (500, "metadata_proxy")
        exchange(here, there)
    assert pings(world, FIRST)


async def test_labels_are_counted_told_and_reset(routed: Machine, world: Namespace, web: Namespace) -> None:
    label = {"name": LABEL, "direction": "egress", "prefixes": ["0.0.0.0/0"]}
    await routed.push(wanted(routed, labels=[label]))
    web.run("ping", "-n", "-c", "2", "-i", "0.05", "-s", "100", WORLD)
    counted = {"labels": [{"name": LABEL, "packets": 2, "bytes": 256}]}
    assert await routed.ask("GET", "/v1/firewall/labels") == (200, counted)
    await routed.restart()
    assert await routed.ask("POST", "/v1/firewall/labels/resetcounters") == (200, counted)
    empty = {"labels": [{"name": LABEL, "packets": 0, "bytes": 0}]}
    assert await routed.ask("GET", "/v1/firewall/labels") == (200, empty)


async def test_the_rules_are_told_as_text(routed: Machine) -> None:
    await routed.push(wanted(routed, floating_ips=[floating(FIRST, WEB)]))
    code, text = await routed.ask("GET", "/v1/firewall/rules")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert code == 200
    assert f"DNAT all -- 0.0.0.0/0 {FIRST} to:{WEB}" in lines
    assert f"SNAT all -- {WEB} 0.0.0.0/0 to:{FIRST}" in lines
