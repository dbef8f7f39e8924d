"""What a change touches, and what goes on over it."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from astara_appliance.backend import BackendError
from firewall_world import (
    DATABASE,
    LABEL,
    NETWORKS,
    OTHER,
    OUTSIDE,
    WEB,
    WORLD,
    Listener,
    World,
    call,
    called,
    exchange,
    floating,
    forwarding,
    is_cut,
    is_reachable,
    receive,
    state_of,
)

from lab.appliance_machine import Hosts, pings
from lab.wires import Fabric

FIRST, SECOND, SHARED = "172.24.4.101", "172.24.4.102", "172.24.4.103"
BOTH = [floating(FIRST, WEB), floating(SECOND, DATABASE)]


@pytest.fixture
def world(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> Iterator[World]:
    made = World(fabric, hosts, tmp_path)
    yield made
    made.close()


def tables(world: World) -> Any:
    """The whole table as the kernel tells it, without what numbers and counts it."""
    listed = json.loads(world.router.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    for item in listed:
        for one in item.values():
            for key in ("handle", "packets", "bytes"):
                one.pop(key, None)
            if isinstance(one.get("elem"), list):
                one["elem"] = sorted(one["elem"], key=json.dumps)
    return sorted(map(json.dumps, listed))


# Connection tracking


def test_taking_a_floating_ip_away_cuts_its_streams_and_no_others(world: World) -> None:
    world.own(FIRST, SECOND)
    world.firewall.apply(floating_ips=BOTH)
    with contextlib.ExitStack() as stack:

        def stream(caller: Any, address: str, port: int, listener: Listener) -> tuple[socket.socket, socket.socket]:
            here, there, _ = stack.enter_context(called(caller, address, port, listener))
            return here, there

        web = stack.enter_context(Listener(world.web, 80))
        database = stack.enter_context(Listener(world.database, 80))
        outside = stack.enter_context(Listener(world.world, 80))
        inward, outward = stream(world.world, FIRST, 80, web), stream(world.web, WORLD, 80, outside)
        hairpin = stream(world.database, FIRST, 80, web)
        others = [
            stream(world.world, SECOND, 80, database),
            stream(world.database, WORLD, 80, outside),
            stream(world.other, WORLD, 80, outside),
            stream(world.other, WEB, 80, web),
        ]
        world.firewall.apply(floating_ips=BOTH[1:])
        for ends in others:
            exchange(*ends)
        assert is_cut(*inward)
        assert is_cut(*reversed(outward))
        assert is_cut(*hairpin)
        for ends in others:
            exchange(*ends)


def test_a_floating_ip_that_moves_takes_new_callers_along_and_cuts_the_old(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=BOTH[:1])
    with Listener(world.web, 80) as web, Listener(world.database, 80) as database:
        with called(world.world, FIRST, 80, web) as (here, there, _):
            world.firewall.apply(floating_ips=[floating(FIRST, DATABASE)])
            assert is_cut(here, there)
        with called(world.world, FIRST, 80, database):
            pass


def test_a_stream_goes_on_when_its_host_gets_a_floating_ip(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply()
    with Listener(world.world, 80) as listener, called(world.web, WORLD, 80, listener) as (here, there, _):
        world.firewall.apply(floating_ips=BOTH[:1])
        exchange(here, there)
        with called(world.web, WORLD, 80, listener) as (_, _, peer):
            assert peer == FIRST


def test_taking_a_forwarding_away_cuts_its_port_and_not_its_neighbour(world: World) -> None:
    world.own(SHARED)
    rules = [forwarding(SHARED, "tcp", (port, port), WEB, (port, port)) for port in (8001, 8002)]
    world.firewall.apply(port_forwardings=rules)
    with (
        Listener(world.web, 8001) as one,
        Listener(world.web, 8002) as two,
        called(world.world, SHARED, 8001, one) as (here, there, _),
        called(world.world, SHARED, 8002, two) as (kept, kept_there, _),
    ):
        world.firewall.apply(port_forwardings=rules[1:])
        exchange(kept, kept_there)
        assert is_cut(here, there)
        exchange(kept, kept_there)


def test_switching_snat_off_cuts_what_hid_and_no_floating_ip(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=BOTH[:1])
    with (
        Listener(world.world, 80) as listener,
        called(world.database, WORLD, 80, listener) as (here, there, _),
        called(world.web, WORLD, 80, listener) as (kept, kept_there, _),
    ):
        world.firewall.apply(floating_ips=BOTH[:1], enable_snat=False)
        assert is_cut(there, here)
        exchange(kept, kept_there)


def test_switching_snat_on_cuts_what_went_by_its_own_address_and_nothing_inside(world: World) -> None:
    world.world.ip("route", "replace", "10.0.0.0/16", "via", OUTSIDE)
    world.firewall.apply(enable_snat=False)
    with (
        Listener(world.world, 80) as listener,
        Listener(world.web, 81) as serving,
        Listener(world.other, 82) as inner,
        called(world.web, WORLD, 80, listener) as (outward, there, seen),
        called(world.world, WEB, 81, serving) as (inward, answering, _),
        called(world.web, OTHER, 82, inner) as (kept, kept_there, _),
    ):
        assert seen == WEB
        world.firewall.apply()
        assert is_cut(there, outward)
        assert is_cut(inward, answering)
        exchange(kept, kept_there)


def test_another_outside_address_cuts_what_hid_behind_the_former_and_not_the_routers_own(world: World) -> None:
    other = {**NETWORKS[0], "interface": {"ifname": "ge1", "addresses": ["172.24.4.21/24"]}}
    world.router.ip("address", "add", "172.24.4.21/24", "dev", "ge1")
    world.firewall.apply()
    with (
        Listener(world.world, 80) as listener,
        called(world.web, WORLD, 80, listener) as (here, there, _),
        called(world.router, WORLD, 80, listener) as (own, own_there, seen),
    ):
        assert seen == OUTSIDE
        world.firewall.apply(networks=[other, *NETWORKS[1:]])
        assert is_cut(there, here)
        exchange(own, own_there)
        with called(world.web, WORLD, 80, listener) as (_, _, peer):
            assert peer == "172.24.4.21"


def test_when_nobody_knows_what_was_loaded_the_stale_are_found_and_the_right_go_on(world: World) -> None:
    world.own(FIRST, SECOND)
    world.firewall.apply(floating_ips=BOTH)
    with (
        Listener(world.web, 80) as web,
        Listener(world.database, 80) as database,
        Listener(world.world, 80) as outside,
        called(world.world, FIRST, 80, web) as (here, there, _),
        called(world.world, SECOND, 80, database) as kept,
        called(world.other, WORLD, 80, outside) as hidden,
    ):
        world.router.run("nft", "add", "table", "inet", "foreign")
        world.firewall.apply(floating_ips=BOTH[1:])
        assert is_cut(here, there)
        exchange(*kept[:2])
        exchange(*hidden[:2])


def test_more_removals_than_are_asked_for_one_by_one_cut_all_of_them(world: World) -> None:
    many = [f"172.24.4.{number}" for number in range(150, 175)]
    world.own(*many)
    world.firewall.apply(floating_ips=[floating(address, WEB) for address in many] + BOTH[1:])
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(Listener(world.web, 80))
        database = stack.enter_context(Listener(world.database, 80))
        streams = [stack.enter_context(called(world.world, many[at], 80, web)) for at in (0, 12, 24)]
        world.own(SECOND)
        kept = stack.enter_context(called(world.world, SECOND, 80, database))
        world.firewall.apply(floating_ips=BOTH[1:])
        exchange(*kept[:2])
        assert all(is_cut(here, there) for here, there, _ in streams)


# Running traffic


def test_a_stream_loses_nothing_while_other_floating_ips_come_and_go_a_hundred_times(world: World) -> None:
    world.own(FIRST)
    mine = floating(FIRST, WEB)
    world.firewall.apply(floating_ips=[mine])
    with Listener(world.web, 80) as listener, called(world.world, FIRST, 80, listener) as (here, there, _):
        stop = threading.Event()
        said = 0

        def speak() -> None:
            nonlocal said
            while not stop.wait(0.001):
                here.sendall(said.to_bytes(8, "big"))
                said += 1
            here.shutdown(socket.SHUT_WR)

        speaking = threading.Thread(target=speak)
        heard: list[bytes] = []
        hearing = threading.Thread(target=lambda: heard.append(receive(there, 1 << 40)))
        speaking.start()
        hearing.start()
        pinging = world.world.start("ping", "-n", "-q", "-i", "0.01", FIRST, stdout=-1, text=True)
        for number in range(100):
            others = [floating(f"172.24.5.{(number + step) % 200 + 1}", DATABASE) for step in range(3)]
            world.firewall.apply(floating_ips=[mine, *others])
        pinging.send_signal(2)
        answer = pinging.communicate(timeout=60)[0]
        stop.set()
        speaking.join()
        hearing.join()
    assert " 0% packet loss" in answer
    assert heard[0] == b"".join(number.to_bytes(8, "big") for number in range(said))
    assert said > 100


# Labels


def counted(world: World) -> dict[str, tuple[int, int]]:
    return {name: (one.packets, one.bytes) for name, one in world.firewall.counters().items()}


def label(name: str, direction: str, *prefixes: str) -> dict[str, Any]:
    return {"name": name, "direction": direction, "prefixes": list(prefixes)}


def test_labels_count_each_direction_by_the_outer_address(world: World) -> None:
    labels = [
        label("in", "ingress", f"{WORLD}/32", "2001:db8::/64"),
        label("out", "egress", "0.0.0.0/0", "10.0.0.0/8"),
        label("also-out", "egress", f"{WORLD}/31"),
        label("elsewhere", "ingress", "198.51.100.0/24"),
        label(LABEL, "egress", "2001:db8::2/128"),
        label(LABEL, "ingress", "2001:db8::/32"),
    ]
    world.firewall.apply(labels=labels)
    assert counted(world) == dict.fromkeys(sorted({one["name"] for one in labels}), (0, 0))
    world.web.run("ping", "-n", "-c", "3", "-i", "0.05", "-s", "100", WORLD)
    world.web.run("ping", "-n", "-c", "2", "-i", "0.05", "-s", "100", "2001:db8::2")
    world.web.run("ping", "-n", "-c", "2", "-i", "0.05", OTHER)
    world.web.run("ping", "-n", "-c", "2", "-i", "0.05", OUTSIDE)
    assert counted(world) == {
        "in": (5, 3 * 128 + 2 * 148),
        "out": (3, 3 * 128),
        "also-out": (3, 3 * 128),
        "elsewhere": (0, 0),
        LABEL: (4, 4 * 148),
    }


def test_what_is_not_forwarded_is_not_counted(world: World) -> None:
    world.firewall.apply(labels=[label("all", "ingress", "0.0.0.0/0")])
    assert not is_reachable(world.world, WEB, 80, 0.3)
    assert counted(world) == {"all": (0, 0)}


def test_counters_go_on_over_changes_other_labels_foreign_changes_and_restarts(world: World) -> None:
    kept = label("kept", "egress", "0.0.0.0/0")
    world.firewall.apply(labels=[kept])
    world.web.run("ping", "-n", "-c", "2", "-i", "0.05", WORLD)
    world.firewall.apply(labels=[kept], floating_ips=BOTH)
    assert counted(world) == {"kept": (2, 168)}
    world.firewall.apply(labels=[kept, label("new", "egress", "0.0.0.0/0")], floating_ips=BOTH)
    world.other.run("ping", "-n", "-c", "1", WORLD)
    assert counted(world) == {"kept": (3, 252), "new": (1, 84)}
    world.firewall.apply(labels=[{**kept, "prefixes": ["172.24.4.0/24"]}])
    world.other.run("ping", "-n", "-c", "1", WORLD)
    assert counted(world) == {"kept": (4, 336)}
    world.router.run("nft", "add", "table", "inet", "foreign")
    world.firewall.apply(labels=[kept])
    assert counted(world) == {"kept": (4, 336)}
    assert world.firewall.restart()
    assert counted(world) == {"kept": (4, 336)}


def test_a_reset_tells_what_was_counted_and_loses_no_packet(world: World) -> None:
    world.firewall.apply(labels=[label("all", "egress", "0.0.0.0/0")])
    pinging = world.web.start("ping", "-n", "-q", "-i", "0.002", "-c", "400", WORLD)
    told = 0
    while pinging.poll() is None:
        told += world.firewall.reset()["all"].packets
    assert told + world.firewall.reset()["all"].packets == 400
    assert counted(world) == {"all": (0, 0)}


# What is loaded


def test_a_restarted_agent_takes_over_without_loading_anything(world: World) -> None:
    world.firewall.apply(floating_ips=BOTH)
    generation = world.firewall.generation()
    assert world.firewall.restart()
    assert world.firewall.generation() == generation
    world.firewall.apply(floating_ips=BOTH[:1])
    assert world.firewall.generation() == generation + 1


@pytest.mark.parametrize("foreign", ["flush ruleset", "delete element inet astara floating_in { 172.24.4.101 }"])
def test_a_foreign_change_is_noticed_and_mended(world: World, foreign: str) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=BOTH)
    wanted = tables(world)
    world.router.run("nft", *foreign.split())
    assert not world.firewall.restart()
    world.firewall.apply(floating_ips=BOTH)
    assert tables(world) == wanted
    assert pings(world.world, FIRST)


def test_a_foreign_change_between_two_pushes_is_mended_by_the_next(world: World) -> None:
    world.firewall.apply(floating_ips=BOTH)
    world.router.run("nft", "flush", "ruleset")
    world.firewall.apply(floating_ips=BOTH[:1])
    mended = tables(world)
    world.router.run("nft", "flush", "ruleset")
    world.firewall.state = None
    world.firewall.apply(floating_ips=BOTH[:1])
    assert tables(world) == mended


def test_a_check_changes_nothing_and_says_what_is_wrong(world: World) -> None:
    world.firewall.apply(floating_ips=BOTH)
    before, generation = tables(world), world.firewall.generation()
    world.firewall.run(lambda: world.firewall.effect.check(state_of()))
    broken = {**state_of(), "floating_ips": [{"floating_ip": "172.24.4.300", "fixed_ip": WEB}]}
    world.firewall.forget()
    with pytest.raises(BackendError, match=r"172\.24\.4\.300"):
        world.firewall.run(lambda: world.firewall.effect.check(broken))
    with pytest.raises(BackendError):
        world.firewall.load(broken, check=False)
    assert (tables(world), world.firewall.generation()) == (before, generation)


def test_elements_that_are_refused_leave_everything_as_it_was(world: World) -> None:
    world.firewall.apply(floating_ips=BOTH)
    before, generation = tables(world), world.firewall.generation()
    for part, wrong in (
        ("floating_ips", {"floating_ip": "172.24.4.300", "fixed_ip": WEB}),
        ("masks", {"out": "a name that is much too long", "address": OUTSIDE}),
    ):
        with pytest.raises(BackendError):
            world.firewall.load({**state_of(floating_ips=BOTH[:1]), part: [wrong]})
    assert (tables(world), world.firewall.generation()) == (before, generation)
    world.firewall.apply(floating_ips=BOTH[:1])
    assert world.firewall.generation() == generation + 1


def test_a_hidden_caller_is_told_when_its_stream_is_cut(world: World) -> None:
    world.own(FIRST)
    world.firewall.apply(floating_ips=BOTH[:1])
    with Listener(world.world, 80) as listener:
        here = call(world.web, WORLD, 80)
        there, _ = listener.accept()
        with here, there:
            world.firewall.apply()
            here.sendall(b"hello")
            # It arrives from another address, which the other end knows nothing of.
            with pytest.raises(ConnectionResetError):
                here.recv(1)
