"""Rate limits of external addresses, seen by counting what passes of a burst that is far above them."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firewall_world import (
    DATABASE,
    OUTSIDE,
    WEB,
    WORLD,
    Listener,
    World,
    called,
    floating,
    forwarding,
    receive,
)

from lab.appliance_machine import Hosts, pings
from lab.wires import Fabric, Namespace

FIRST, SECOND, SHARED = "172.24.4.101", "172.24.4.102", "172.24.4.103"
PORT = 5000
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BURST = 4000
"""Datagrams of 1,000 bytes with their headers, sent at once."""


@pytest.fixture
def world(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> Iterator[World]:
    made = World(fabric, hosts, tmp_path)
    made.own(FIRST, SECOND, SHARED)
    yield made
    made.close()


def limit(direction: str, kbps: int, *addresses: str) -> dict[str, Any]:
    return {"direction": direction, "max_kbps": kbps, "addresses": list(addresses)}


def passing(sender: Namespace, receiver: Namespace, address: str) -> int:
    """How many of a burst of datagrams arrive."""
    with (
        receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as saying,
    ):
        hearing.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        hearing.bind(("", PORT))
        hearing.settimeout(1)
        for _ in range(BURST):
            saying.sendto(bytes(972), (address, PORT))
        found = 0
        try:
            while found < BURST:
                hearing.recv(2000)
                found += 1
        except TimeoutError:
            pass
        return found


def is_held_to(kbps: int, sender: Namespace, receiver: Namespace, address: str) -> bool:
    """Whether of a burst passes what the limit lets pass."""
    began = time.monotonic()
    return is_limited(passing(sender, receiver, address), kbps, began)


def is_limited(found: int, kbps: int, began: float) -> bool:
    """Whether about a second's worth has passed, and no more than the time since then gives on top."""
    second = kbps * 125 // 1000
    return second * 0.9 <= found <= second * (3 + time.monotonic() - began)


def test_a_floating_ip_is_limited_each_way_by_its_own_rate_and_others_are_not(world: World) -> None:
    world.firewall.apply(
        floating_ips=[floating(FIRST, WEB), floating(SECOND, DATABASE)],
        rate_limits=[limit("ingress", 1000, FIRST), limit("egress", 2000, FIRST)],
    )
    assert is_held_to(1000, world.world, world.web, FIRST)
    assert is_held_to(2000, world.web, world.world, WORLD)
    assert passing(world.world, world.database, SECOND) > BURST * 0.9
    assert passing(world.database, world.world, WORLD) > BURST * 0.9
    # Inside, nothing passes the external side.
    assert passing(world.database, world.web, WEB) > BURST * 0.9


def test_each_of_several_addresses_with_one_policy_has_the_whole_rate(world: World) -> None:
    world.firewall.apply(
        floating_ips=[floating(FIRST, WEB), floating(SECOND, DATABASE)],
        rate_limits=[limit("ingress", 2000, FIRST, SECOND)],
    )
    for receiver, address in ((world.web, FIRST), (world.database, SECOND)):
        assert is_held_to(2000, world.world, receiver, address)


def test_a_stream_through_a_limited_floating_ip_arrives_whole(world: World) -> None:
    world.firewall.apply(
        floating_ips=[floating(FIRST, WEB)],
        rate_limits=[limit("egress", 20_000, FIRST), limit("ingress", 20_000, FIRST)],
    )
    content = bytes(6_000_000)
    with Listener(world.web, 80) as listener, called(world.world, FIRST, 80, listener) as (here, there, _):
        for sender, receiver in ((here, there), (there, here)):
            sender.settimeout(30)
            receiver.settimeout(30)
            with sending(sender, content):
                assert len(receive(receiver, len(content))) == len(content)
    assert dropped_retransmissions(world) > 0


def test_the_gateways_limit_is_for_what_hides_behind_its_address(world: World) -> None:
    world.firewall.apply(
        floating_ips=[floating(FIRST, WEB)],
        rate_limits=[limit("egress", 1000, OUTSIDE), limit("ingress", 1000, OUTSIDE)],
    )
    assert is_held_to(1000, world.database, world.world, WORLD)
    assert passing(world.web, world.world, WORLD) > BURST * 0.9
    assert passing(world.world, world.web, FIRST) > BURST * 0.9
    # Nor does what the router itself says and hears, such as its routing protocol, wait behind a tenant.
    assert world.router.run("ping", "-n", "-q", "-f", "-c", "300", "-s", "1400", WORLD).returncode == 0
    assert pings(world.world, OUTSIDE)


def test_answers_to_what_hides_behind_the_gateway_are_limited_too(world: World) -> None:
    world.firewall.apply(rate_limits=[limit("ingress", 1000, OUTSIDE)])
    with (
        world.world.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        world.database.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        far.bind(("", PORT))
        far.settimeout(30)
        near.settimeout(1)
        near.sendto(b"hello", (WORLD, PORT))
        _, asked = far.recvfrom(100)
        began = time.monotonic()
        for _ in range(BURST):
            far.sendto(bytes(972), asked)
        found = 0
        try:
            while True:
                near.recv(2000)
                found += 1
        except TimeoutError:
            pass
    assert is_limited(found, 1000, began)


def test_forwarded_ports_share_the_limit_of_their_floating_ip(world: World) -> None:
    world.firewall.apply(
        port_forwardings=[forwarding(SHARED, "udp", (PORT, PORT), DATABASE, (PORT, PORT))],
        rate_limits=[limit("ingress", 1000, SHARED)],
    )
    assert is_held_to(1000, world.world, world.database, SHARED)


def test_a_changed_limit_counts_at_once_and_one_that_is_taken_away_no_more(world: World) -> None:
    given = {"floating_ips": [floating(FIRST, WEB)]}
    world.firewall.apply(**given, rate_limits=[limit("ingress", 1000, FIRST)])
    generation = world.firewall.generation()
    world.firewall.apply(**given, rate_limits=[limit("ingress", 4000, FIRST)])
    assert world.firewall.generation() == generation + 1
    assert is_held_to(4000, world.world, world.web, FIRST)
    world.firewall.apply(**given)
    assert passing(world.world, world.web, FIRST) > BURST * 0.9


def test_the_highest_rate_and_burst_are_within_the_kernels_numbers(world: World) -> None:
    most = {"direction": "ingress", "max_kbps": 100_000_000, "max_burst_kbps": 25_000_000, "addresses": [FIRST]}
    world.firewall.apply(floating_ips=[floating(FIRST, WEB)], rate_limits=[most])
    assert passing(world.world, world.web, FIRST) > BURST * 0.9


@contextlib.contextmanager
def sending(sender: socket.socket, content: bytes) -> Iterator[None]:
    """Send beside what the block does."""
    thread = threading.Thread(target=sender.sendall, args=(content,))
    thread.start()
    yield
    thread.join(60)


def dropped_retransmissions(world: World) -> int:
    """Segments that the two ends had to send again."""
    found = 0
    for machine in (world.web, world.world):
        told = json.loads(machine.run("nstat", "-j", "-a", "-z", "TcpRetransSegs").stdout)
        found += int(told["kernel"]["TcpRetransSegs"])
    return found
