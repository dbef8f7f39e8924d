"""Conntrack helpers: what they make possible, and a kernel that lacks one."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firewall_world import OUTSIDE, WEB, WORLD, Listener, World, call, floating, receive

from lab.appliance_machine import Hosts
from lab.wires import Fabric, Namespace

FIRST = "172.24.4.101"
FTP = {"protocol": "tcp", "port": 21, "helper": "ftp"}
UNHEARD = {"protocol": "tcp", "port": 99, "helper": "unheard-of"}


@pytest.fixture
def world(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> Iterator[World]:
    made = World(fabric, hosts, tmp_path)
    made.own(FIRST)
    yield made
    made.close()


@contextlib.contextmanager
def control(client: Namespace, server: Namespace, address: str, port: int = 21) -> Iterator[tuple[Any, Any]]:
    """An FTP control connection: the client's end and the server's."""
    with Listener(server, port) as listener, call(client, address, port) as here:
        there, _ = listener.accept()
        with there:
            said(there, here, "220 ready\r\n")
            said(here, there, "USER anonymous\r\n")
            yield here, there


def announced(text: bytes) -> tuple[str, int]:
    """The address and port in what a PORT command or a 227 reply says (RFC 959)."""
    numbers = text.decode().strip().rstrip(").").replace("(", " ").split()[-1].split(",")
    return ".".join(numbers[:4]), int(numbers[4]) * 256 + int(numbers[5])


def said(sender: socket.socket, receiver: socket.socket, text: str) -> bytes:
    """What arrives of a line that is sent."""
    sender.sendall(text.encode())
    got = b""
    while not got.endswith(b"\n"):
        got += receiver.recv(1000)
    return got


def active(world: World, client: Namespace, own: str, *, port: int = 21) -> tuple[str, bool]:
    """An active transfer to a client inside: the address that the server was told, and whether it can call it."""
    with control(client, world.world, WORLD, port) as (here, there), Listener(client, 5000) as data:
        address, number = announced(said(here, there, f"PORT {own.replace('.', ',')},{5000 // 256},{5000 % 256}\r\n"))
        try:
            with call(world.world, address, number, 1.0) as calling:
                answering, _ = data.accept()
                with answering:
                    calling.sendall(b"hello")
                    return address, receive(answering, 5) == b"hello"
        except OSError:
            return address, False


def passive(world: World) -> tuple[str, bool]:
    """A passive transfer from a server that has a floating IP: the address that its client was told, and whether it
    answers there."""
    with control(world.world, world.web, FIRST) as (here, there), Listener(world.web, 5001) as data:
        text = f"227 Entering Passive Mode ({WEB.replace('.', ',')},{5001 // 256},{5001 % 256}).\r\n"
        address, number = announced(said(there, here, text))
        try:
            with call(world.world, address, number, 1.0):
                data.accept()[0].close()
                return address, True
        except OSError:
            return address, False


def test_ftp_works_behind_the_gateway_and_a_floating_ip_with_its_helper_only(world: World) -> None:
    given = {"floating_ips": [floating(FIRST, WEB)]}
    world.firewall.apply(**given)
    assert active(world, world.database, "10.0.0.6") == ("10.0.0.6", False)
    assert passive(world) == (WEB, False)
    world.firewall.apply(**given, conntrack_helpers=[FTP])
    assert active(world, world.database, "10.0.0.6") == (OUTSIDE, True)
    assert passive(world) == (FIRST, True)
    world.firewall.apply(**given)
    assert active(world, world.database, "10.0.0.6") == ("10.0.0.6", False)


def test_a_helper_listens_at_the_port_that_it_was_given(world: World) -> None:
    world.firewall.apply(conntrack_helpers=[FTP | {"port": 2121}])
    assert active(world, world.database, "10.0.0.6") == ("10.0.0.6", False)
    assert active(world, world.database, "10.0.0.6", port=2121) == (OUTSIDE, True)
    world.firewall.apply(conntrack_helpers=[FTP, FTP | {"port": 2121}])
    assert active(world, world.database, "10.0.0.6") == (OUTSIDE, True)


def test_a_helper_that_the_kernel_has_not_is_told_and_all_else_works(world: World) -> None:
    world.firewall.apply(conntrack_helpers=[FTP, UNHEARD])
    assert world.firewall.effect.undone() == ["conntrack helper unheard-of (tcp)"]
    assert active(world, world.database, "10.0.0.6") == (OUTSIDE, True)
    assert world.firewall.restart()
    assert world.firewall.effect.undone() == ["conntrack helper unheard-of (tcp)"]
    generation = world.firewall.generation()
    world.firewall.apply(conntrack_helpers=[FTP])
    assert world.firewall.effect.undone() == []
    assert world.firewall.generation() == generation + 1
    assert active(world, world.database, "10.0.0.6") == (OUTSIDE, True)


def test_all_helpers_that_neutron_knows_by_default_are_tried_under_the_kernels_names(world: World) -> None:
    known = {
        ("tcp", "amanda"), ("tcp", "ftp"), ("tcp", "h323"), ("udp", "h323"), ("tcp", "irc"), ("udp", "netbios-ns"),
        ("tcp", "pptp"), ("tcp", "sane"), ("tcp", "sip"), ("udp", "sip"), ("udp", "snmp"), ("udp", "tftp"),
    }  # fmt: skip
    helpers = [
        {"protocol": protocol, "port": 1000 + number, "helper": name}
        for number, (protocol, name) in enumerate(sorted(known))
    ]
    world.firewall.apply(conntrack_helpers=helpers)
    # Linux has amanda for UDP only, which no rule of Neutron's default list asks for.
    told = world.router.run("nft", "list", "chain", "inet", "astara", "helpers").stdout
    lacking = {one.split()[2] for one in world.firewall.effect.undone()}
    assert told.count("ct helper set") + len(lacking) == len(known)
    assert "amanda" in lacking
    assert "ftp" not in lacking


def test_a_transfer_goes_on_when_everything_is_loaded_anew(world: World) -> None:
    world.firewall.apply(conntrack_helpers=[FTP])
    own = "10.0.0.6"
    with control(world.database, world.world, WORLD) as (here, there), Listener(world.database, 5000) as data:
        address, number = announced(said(here, there, f"PORT {own.replace('.', ',')},{5000 // 256},{5000 % 256}\r\n"))
        with call(world.world, address, number, 1.0) as calling, data.accept()[0] as answering:
            world.firewall.forget()
            world.firewall.apply(conntrack_helpers=[FTP])
            calling.sendall(b"hello")
            assert receive(answering, 5) == b"hello"
