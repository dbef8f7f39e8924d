"""What does not get through, seen by those who try."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from firewall_world import (
    DATABASE,
    MANAGEMENT,
    NETWORKS,
    ORCHESTRATOR,
    OTHER,
    OUTSIDE,
    OUTSIDE6,
    WEB,
    WEB6,
    WORLD,
    WORLD6,
    Echo,
    Listener,
    World,
    arrives,
    ask,
    called,
    exchange,
    floating,
    is_cut,
    is_reachable,
)

from lab.appliance_machine import Hosts, pings
from lab.wires import Fabric, Namespace

FLOATING = "172.24.4.101"
METADATA, METADATA6 = "169.254.169.254", "fe80::a9fe:a9fe"


@pytest.fixture
def world(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> Iterator[World]:
    made = World(fabric, hosts, tmp_path)
    yield made
    made.close()


def refuses(machine: Namespace, address: str, *ports: int) -> bool:
    """Whether nobody answers on any of these TCP ports."""
    return not any(is_reachable(machine, address, port, 0.3) for port in ports)


def test_before_anything_is_pushed_only_management_is_open(world: World) -> None:
    world.firewall.apply(networks=[])
    assert pings(world.orchestrator, MANAGEMENT)
    # A reset is an answer: nobody listens there, and the firewall let the question in.
    assert is_reachable(world.orchestrator, MANAGEMENT, 5000)
    assert is_reachable(world.orchestrator, MANAGEMENT, 22)
    assert refuses(world.orchestrator, MANAGEMENT, 23, 53, 9602)
    assert not pings(world.web, "10.0.0.1", seconds=0.3)
    assert not pings(world.web, OTHER, seconds=0.3)
    assert not pings(world.web, WORLD, seconds=0.3)
    assert not pings(world.world, OUTSIDE, seconds=0.3)


def test_the_outside_cannot_route_to_internal_addresses(world: World) -> None:
    world.firewall.apply(floating_ips=[floating(FLOATING, WEB)])
    for address in (WEB, DATABASE, OTHER):
        assert not pings(world.world, address, seconds=0.3)
    with Listener(world.web, 80), Listener(world.database, 80):
        assert refuses(world.world, WEB, 80)
        assert refuses(world.world, DATABASE, 80)


@pytest.mark.parametrize("source", ["web", "world"])
def test_management_is_not_reached_from_any_other_side(world: World, source: str) -> None:
    world.firewall.apply()
    caller: Namespace = getattr(world, source)
    with Listener(world.router, 5000, "::"), Listener(world.router, 22, "::"), Listener(world.orchestrator, 80, "::"):
        assert refuses(caller, MANAGEMENT, 5000, 22)
        assert not pings(caller, MANAGEMENT, seconds=0.3)
        assert not pings(caller, ORCHESTRATOR, seconds=0.3)
        assert refuses(caller, ORCHESTRATOR, 80)
        assert is_reachable(world.orchestrator, MANAGEMENT, 5000)


@pytest.mark.parametrize("address", ["10.0.0.1", OUTSIDE, OUTSIDE6, "10.0.1.1", "fd00:a::1"])
def test_tenants_reach_no_service_of_the_appliance_but_theirs(world: World, address: str) -> None:
    world.firewall.apply()
    listening = "::" if ":" in address else ""
    with contextlib.ExitStack() as stack:
        for port in (22, 53, 179, 5000, 9602):
            stack.enter_context(Listener(world.router, port, listening))
        assert refuses(world.web, address, 22, 179, 5000, 9602)
        assert is_reachable(world.web, address, 53)
        assert pings(world.web, address)


@pytest.mark.parametrize("address", [OUTSIDE, OUTSIDE6])
def test_the_outside_reaches_no_service_of_the_appliance(world: World, address: str) -> None:
    world.firewall.apply()
    listening = "::" if ":" in address else ""
    with contextlib.ExitStack() as stack:
        for port in (22, 53, 179, 5000, 9602):
            stack.enter_context(Listener(world.router, port, listening))
        assert refuses(world.world, address, 22, 53, 179, 5000, 9602)
        assert pings(world.world, address)


def test_bgp_is_open_to_the_configured_neighbours_alone(world: World, hosts: Hosts) -> None:
    stranger = hosts.add("stranger", "ext", "172.24.4.3/24", "2001:db8::3/64")
    world.firewall.apply(asn=64512, neighbor_asn=64513, default_v4_gateway=WORLD, default_v6_gateway=WORLD6)
    with Listener(world.router, 179), Listener(world.router, 179, OUTSIDE6):
        assert is_reachable(world.world, OUTSIDE, 179)
        assert is_reachable(world.world, OUTSIDE6, 179)
        assert refuses(stranger, OUTSIDE, 179)
        assert refuses(stranger, OUTSIDE6, 179)
        assert refuses(world.web, "10.0.0.1", 179)


def test_nothing_goes_between_management_and_other_sides_not_even_one_way(world: World) -> None:
    world.firewall.apply()
    world.orchestrator.ip("-6", "route", "replace", "fd00:a::/64", "via", MANAGEMENT)
    world.orchestrator.ip("-6", "route", "replace", "2001:db8::/64", "via", MANAGEMENT)
    assert arrives(world.web, world.world, WORLD6)
    for machine, address in ((world.web, WEB6), (world.world, WORLD6)):
        assert not arrives(machine, world.orchestrator, ORCHESTRATOR, 0.5)
        assert not arrives(world.orchestrator, machine, address, 0.5)


def test_a_forged_management_address_gets_nothing_sent_to_management(world: World) -> None:
    world.firewall.apply()
    forged = "fdca:3ba5:a17a:acda::99"
    world.web.ip("address", "add", f"{forged}/128", "dev", "eth0", "nodad")
    with Echo(world.router, 53, "::"), world.web.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        watching = world.orchestrator.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with watching:
            world.orchestrator.ip("address", "add", f"{forged}/64", "dev", "eth0", "nodad")
            watching.bind((forged, 5353))
            watching.settimeout(0.5)
            asking.bind((forged, 5353))
            asking.sendto(b"hello", ("fd00:a::1", 53))
            with pytest.raises(TimeoutError):
                watching.recv(2000)


def test_metadata_is_reached_by_its_well_known_address_only(world: World) -> None:
    world.firewall.apply()
    with Listener(world.router, 9602, "10.0.0.1") as listener:
        with called(world.web, METADATA, 80, listener) as (_, _, peer):
            assert peer == WEB
        assert refuses(world.web, "10.0.0.1", 9602, 80)
        assert refuses(world.other, "10.0.0.1", 9602)
        assert refuses(world.world, METADATA, 80)


def test_what_asks_for_metadata_that_nobody_serves_does_not_leave(world: World) -> None:
    """A metadata service on the external network is another cloud's, or an attacker's."""
    world.firewall.apply()
    world.world.ip("address", "add", f"{METADATA}/32", "dev", "eth0")
    world.router.ip("route", "add", METADATA, "via", WORLD)
    assert arrives(world.web, world.world, WORLD)
    assert not arrives(world.web, world.world, METADATA, 0.5)
    assert not pings(world.web, METADATA, seconds=0.3)


def test_switched_off_nothing_passes_and_running_streams_stop(world: World) -> None:
    world.own(FLOATING)
    world.firewall.apply(floating_ips=[floating(FLOATING, WEB)])
    with Listener(world.web, 80) as listener, called(world.world, FLOATING, 80, listener) as (here, there, _):
        world.firewall.apply(floating_ips=[floating(FLOATING, WEB)], admin_state_up=False)
        assert is_cut(here, there)
        assert refuses(world.world, FLOATING, 80)
        assert not pings(world.world, FLOATING, seconds=0.3)
        assert not pings(world.web, OTHER, seconds=0.3)
        assert not pings(world.web, WORLD6, seconds=0.3)
        assert pings(world.web, "10.0.0.1")
        assert is_reachable(world.orchestrator, MANAGEMENT, 5000)
        # Switched on again, a stream that was patient goes on.
        world.firewall.apply(floating_ips=[floating(FLOATING, WEB)])
        there.settimeout(60)
        assert there.recv(5) == b"hello"
        exchange(here, there)


def test_an_interface_that_no_network_has_is_closed(world: World) -> None:
    world.firewall.apply(networks=NETWORKS[:2])
    assert not pings(world.other, "10.0.1.1", seconds=0.3)
    assert not pings(world.other, WEB, seconds=0.3)
    assert not pings(world.web, OTHER, seconds=0.3)
    with Echo(world.router, 53):
        assert ask(world.other, "10.0.1.1", 53, 0.3) is None
        assert ask(world.web, "10.0.0.1", 53) == WEB.encode()


def test_what_is_not_understood_never_leaves_untranslated(world: World) -> None:
    world.firewall.apply()
    with Listener(world.world, 80) as listener, called(world.web, WORLD, 80, listener) as (here, _, _):
        port = here.getsockname()[1]
    # A stray segment of no connection: a bare RST cannot begin one.
    watcher = world.world.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with watcher, world.web.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        watcher.settimeout(0.5)
        raw.sendto(segment(WEB, WORLD, port, 81), (WORLD, 0))
        seen = []
        with contextlib.suppress(TimeoutError):
            while True:
                seen.append(watcher.recv(2000))
    assert not [packet for packet in seen if packet[12:16] == socket.inet_aton(WEB)]


def segment(source: str, destination: str, source_port: int, port: int) -> bytes:
    """A TCP segment that resets what is not there, its checksum right."""
    body = bytearray(20)
    body[0:4] = source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    body[12:14] = bytes([5 << 4, 0x04])
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + bytes([0, 6, 0, len(body)])
    total = sum(int.from_bytes((pseudo + body)[at : at + 2], "big") for at in range(0, len(pseudo) + len(body), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body[16:18] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(body)
