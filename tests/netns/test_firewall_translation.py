"""What is translated how, seen by those who send and receive."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from firewall_world import (
    DATABASE,
    NETWORKS,
    OTHER,
    OUTSIDE,
    WEB,
    WEB6,
    WORLD,
    WORLD6,
    Echo,
    Listener,
    World,
    ask,
    called,
    exchange,
    floating,
    forwarding,
    is_reachable,
    mss_of,
    receive,
)

from lab.appliance_machine import Hosts, pings
from lab.wires import Fabric

ICMP_ECHO_REPLY = 0
FIRST, SECOND, SHARED = "172.24.4.101", "172.24.4.102", "172.24.4.103"


@pytest.fixture
def world(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> Iterator[World]:
    made = World(fabric, hosts, tmp_path)
    yield made
    made.close()


def test_what_leaves_hides_behind_the_routers_address(world: World) -> None:
    world.firewall.apply()
    assert pings(world.web, WORLD)
    with Listener(world.world, 80) as listener, called(world.web, WORLD, 80, listener) as (_, _, peer):
        assert peer == OUTSIDE
    with Echo(world.world, 7):
        assert ask(world.web, WORLD, 7) == OUTSIDE.encode()


def test_between_internal_networks_nothing_is_translated(world: World) -> None:
    world.firewall.apply(floating_ips=[floating(FIRST, WEB)])
    assert pings(world.web, OTHER)
    with Listener(world.other, 80) as listener, called(world.web, OTHER, 80, listener) as (_, _, peer):
        assert peer == WEB


def test_a_floating_ip_leads_in_and_speaks_outside(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=[floating(FIRST, WEB)])
    assert pings(world.world, FIRST)
    with Listener(world.web, 80) as listener, called(world.world, FIRST, 80, listener) as (_, _, peer):
        assert peer == WORLD
    with Listener(world.world, 80) as listener:
        with called(world.web, WORLD, 80, listener) as (_, _, peer):
            assert peer == FIRST
        with called(world.database, WORLD, 80, listener) as (_, _, peer):
            assert peer == OUTSIDE


def test_a_floating_ip_is_reached_from_inside_by_neighbours_other_networks_and_itself(world: World) -> None:
    world.own(FIRST, SECOND)
    world.firewall.apply(floating_ips=[floating(FIRST, WEB), floating(SECOND, DATABASE)])
    with Listener(world.web, 80) as listener:
        with called(world.database, FIRST, 80, listener) as (_, _, peer):
            assert peer == SECOND
        with called(world.other, FIRST, 80, listener) as (_, _, peer):
            assert peer == OUTSIDE
        with called(world.web, FIRST, 80, listener) as (_, _, peer):
            assert peer == FIRST
    assert pings(world.database, FIRST)


def test_a_neighbour_without_floating_ip_calls_one_as_the_router(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=[floating(FIRST, WEB)], enable_snat=False)
    with Listener(world.web, 80) as listener, called(world.database, FIRST, 80, listener) as (_, _, peer):
        assert peer == OUTSIDE


def test_callers_of_a_floating_ip_on_their_own_subnet_are_not_sent_past_the_router(world: World) -> None:
    world.own(FIRST)
    # As it is where nobody cares.
    world.router.run("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1", "net.ipv4.conf.ge2.send_redirects=1")
    world.firewall.apply(floating_ips=[floating(FIRST, WEB)])
    with world.database.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as hearing:
        hearing.settimeout(0.3)
        assert pings(world.database, FIRST, count=5)
        heard = []
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(hearing.recv(2000)[20])
    assert set(heard) == {ICMP_ECHO_REPLY}


def test_without_snat_addresses_stay_and_subnets_are_routed_both_ways(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(enable_snat=False, floating_ips=[floating(FIRST, WEB)])
    with Listener(world.world, 80) as listener:
        with called(world.database, WORLD, 80, listener) as (_, _, peer):
            assert peer == DATABASE
        with called(world.web, WORLD, 80, listener) as (_, _, peer):
            assert peer == FIRST
    with Listener(world.database, 80) as listener, called(world.world, DATABASE, 80, listener) as (_, _, peer):
        assert peer == WORLD
    with Listener(world.web, 80) as listener, called(world.world, FIRST, 80, listener):
        pass


def test_ports_are_forwarded_one_by_one_in_ranges_and_to_one_port(world: World) -> None:
    world.own(SHARED)
    world.firewall.apply(
        port_forwardings=[
            forwarding(SHARED, "tcp", (2222, 2222), WEB, (22, 22)),
            forwarding(SHARED, "tcp", (8000, 8010), DATABASE, (9000, 9010)),
            forwarding(SHARED, "udp", (7000, 7003), WEB, (7, 7)),
        ]
    )
    with Listener(world.web, 22) as listener, called(world.world, SHARED, 2222, listener) as (_, _, peer):
        assert peer == WORLD
    for port in (8000, 8005, 8010):
        with Listener(world.database, port + 1000) as listener, called(world.world, SHARED, port, listener):
            pass
    with Echo(world.web, 7):
        assert [ask(world.world, SHARED, port) for port in (7000, 7003)] == [WORLD.encode()] * 2
        assert ask(world.world, SHARED, 7004, seconds=0.5) is None
    assert not is_reachable(world.world, SHARED, 22, 0.7)
    assert not is_reachable(world.world, SHARED, 8011, 0.7)


def test_forwarded_ports_are_reached_from_their_own_subnet(world: World) -> None:
    world.own(SHARED)
    world.firewall.apply(port_forwardings=[forwarding(SHARED, "tcp", (80, 80), WEB, (8080, 8080))])
    with Listener(world.web, 8080) as listener:
        with called(world.database, SHARED, 80, listener) as (_, _, peer):
            assert peer == OUTSIDE
        with called(world.web, SHARED, 80, listener) as (_, _, peer):
            assert peer == OUTSIDE


def test_ipv6_passes_untranslated_both_ways(world: World) -> None:
    world.firewall.apply()
    with Listener(world.world, 80, "::") as listener, called(world.web, WORLD6, 80, listener) as (_, _, peer):
        assert peer == WEB6
    with Listener(world.web, 80, "::") as listener, called(world.world, WEB6, 80, listener) as (_, _, peer):
        assert peer == WORLD6


@pytest.mark.parametrize(("address", "mss"), [(WORLD, 1300 - 40), (WORLD6, 1300 - 60)])
def test_segments_are_made_to_fit_the_smaller_side(world: World, address: str, mss: int) -> None:
    world.router.ip("link", "set", "ge1", "mtu", "1300")
    world.firewall.apply()
    family = "::" if ":" in address else ""
    with Listener(world.world, 80, family) as listener, called(world.web, address, 80, listener) as (here, there, _):
        # Timestamps take 12 bytes of each segment.
        assert mss_of(here) in (mss, mss - 12)
        assert mss_of(there) in (mss, mss - 12)
        big = b"x" * 100_000
        here.sendall(big)
        assert receive(there, len(big)) == big


def test_too_large_packets_are_told_the_size_that_fits(world: World) -> None:
    world.router.ip("link", "set", "ge1", "mtu", "1300")
    world.firewall.apply()
    pinged = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", "1400", WORLD)
    said = world.web.run(*pinged, check=False).stdout
    assert "Frag needed and DF set (mtu = 1300)" in said


def test_an_external_side_without_an_ipv4_address_translates_nothing(world: World) -> None:
    external = {**NETWORKS[0], "interface": {"ifname": "ge1", "addresses": ["2001:db8::20/64"]}}
    world.firewall.apply(networks=[external, *NETWORKS[1:]])
    assert pings(world.web, WORLD6)
    with Listener(world.other, 80) as listener, called(world.web, OTHER, 80, listener) as (here, there, _):
        exchange(here, there)
