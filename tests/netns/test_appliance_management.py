"""Nobody but the appliance speaks on management in its name, whatever addresses a tenant or the outside uses."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.appliance_machine import ADDRESS, MANAGEMENT_MAC, ORCHESTRATOR, Hosts, Machine, eventually, pings, subnet
from lab.wires import Fabric

ORCHESTRATOR4 = "192.0.2.1"
ASK = """
import socket, sys
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(2)
asking.connect((sys.argv[1], 53))
asking.send(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3www\\7example\\3org\\0\\0\\1\\0\\1")
asking.recv(512)
"""
OUTSIDE = "2001:db8:ff::1"
OWN = "2001:db8:ff::2"
TENANT = "2001:db8:1::1"
_ETHERNET, _ICMPV6 = 14, 58


@pytest.fixture
async def routed(appliance: Machine) -> Machine:
    """An appliance with IPv6 outside and in."""
    appliance.plug("ext")
    appliance.plug("one")
    await appliance.until(lambda status: len(status["interfaces"]) == 3)
    await appliance.push(configuration(appliance))
    return appliance


def configuration(machine: Machine, *more: dict) -> dict:
    return {
        "default_v6_gateway": OUTSIDE, "default_v4_gateway": "203.0.113.1",
        "networks": [
            machine.network("ext", "external", f"{OWN}/64", "203.0.113.2/24", subnets=[
                subnet("ext6", "2001:db8:ff::/64", OUTSIDE), subnet("ext4", "203.0.113.0/24", "203.0.113.1"),
            ]),
            machine.network("one", "internal", f"{TENANT}/64", "10.1.0.1/24", subnets=[
                subnet("one6", "2001:db8:1::/64", TENANT), subnet("one4", "10.1.0.0/24", "10.1.0.1"),
            ]),
            *more,
        ],
    }  # fmt: skip


@pytest.fixture
def heard(appliance: Machine) -> Iterator[socket.socket]:
    """All that the orchestrator's interface hears of ICMPv6."""
    with appliance.orchestrator.entered():
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    with listening:
        listening.bind(("eth0", 0x86DD))
        listening.settimeout(1.5)
        yield listening


def sources(listening: socket.socket) -> set[str]:
    """Who sent ICMPv6 here, neighbour discovery left out, until nothing has come for a while."""
    found = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            frame = listening.recv(2048)
        except TimeoutError:
            break
        packet = frame[_ETHERNET:]
        if packet[6] == _ICMPV6 and packet[40] in (1, 2, 3, 4, 128, 129):
            found.add(socket.inet_ntop(socket.AF_INET6, packet[8:24]))
    return found


async def test_a_forged_orchestrator_gets_no_answer_on_management(
    routed: Machine, hosts: Hosts, heard: socket.socket
) -> None:
    outside = hosts.add("outside", "ext", f"{OUTSIDE}/64", f"{ORCHESTRATOR}/128")
    tenant = hosts.add("tenant", "one", "2001:db8:1::5/64", f"{ORCHESTRATOR}/128", gateway=TENANT)
    assert pings(outside, OWN)
    assert pings(tenant, TENANT)
    for host, to, more in ((outside, OWN, ()), (tenant, TENANT, ()), (tenant, "2001:db8:77::1", ("-t", "1"))):
        host.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", ORCHESTRATOR, *more, to, check=False)
    assert pings(routed.vm, ORCHESTRATOR)
    # What the appliance itself says is heard, so a forged answer would be.
    assert {one for one in sources(heard) if one.startswith("2001:db8:")} == set()


async def test_a_tenants_network_with_the_orchestrators_address_keeps_nobody_from_metadata(
    routed: Machine, hosts: Hosts
) -> None:
    await check_metadata_beside_a_trap(routed, hosts, "::", f"{ORCHESTRATOR}/64", "fdca:3ba5:a17a:acda::/64")


async def test_so_it_is_where_management_is_ipv4(fabric: Fabric, hosts: Hosts, tmp_path: Path) -> None:
    machine = Machine(fabric, tmp_path / "appliance")
    machine.orchestrator.ip("address", "add", f"{ORCHESTRATOR4}/24", "dev", "eth0")
    try:
        addresses = [f"{ADDRESS}/64", "192.0.2.5/24"]
        machine.start(
            management={"mac": MANAGEMENT_MAC, "addresses": addresses, "mtu": 1500, "gateway": None},
            orchestrator={"addresses": [ORCHESTRATOR4], "metadata_port": 9697, "api_port": 44250},
        )
        await machine.answers()
        machine.plug("ext")
        machine.plug("one")
        await machine.until(lambda status: len(status["interfaces"]) == 3)
        await check_metadata_beside_a_trap(machine, hosts, "0.0.0.0", f"{ORCHESTRATOR4}/24", "192.0.2.0/24")
        assert pings(hosts.add("trapped", "trap", "192.0.2.77/24"), ORCHESTRATOR4)
        # Its own addresses are the appliance's still.
        assert pings(machine.vm, "192.0.2.5")
        await machine.restart()
        rules = machine.vm.ip("-4", "rule")
        assert rules.count("lookup local") == 1
    finally:
        await machine.close()


async def test_an_orchestrator_behind_a_gateway_is_not_asked_for_names(
    fabric: Fabric, hosts: Hosts, tmp_path: Path
) -> None:
    far = "2001:db8:77::1"
    machine = Machine(fabric, tmp_path / "appliance")
    machine.orchestrator.ip("address", "add", f"{far}/128", "dev", "eth0")
    try:
        machine.start(
            management={
                "mac": MANAGEMENT_MAC, "addresses": [f"{ADDRESS}/64"], "mtu": 1500, "gateway": ORCHESTRATOR,
            },
            orchestrator={"addresses": [far], "metadata_port": 9697, "api_port": 44250},
        )  # fmt: skip
        await machine.answers()
        machine.plug("ext")
        machine.plug("one")
        await machine.until(lambda status: len(status["interfaces"]) == 3)
        wanted = configuration(machine)
        for served in wanted["networks"][1]["subnets"]:
            served |= {"dhcp_enabled": True, "dns_nameservers": [far if ":" in served["cidr"] else "10.1.0.53"]}
        await machine.push(wanted)
        assert pings(machine.vm, far)
        tenant = hosts.add("tenant", "one", "10.1.0.5/24", gateway="10.1.0.1")
        with machine.orchestrator.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listening:
            listening.bind((far, 53))
            listening.settimeout(1.0)
            tenant.run("python3", "-c", ASK, "10.1.0.1", check=False)
            with pytest.raises(TimeoutError):
                listening.recv(512)
    finally:
        await machine.close()


async def test_callers_who_say_nothing_keep_nobody_out(appliance: Machine) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(800):
            idle = held.enter_context(appliance.orchestrator.socket(socket.AF_INET6))
            idle.settimeout(30)
            idle.connect((ADDRESS, 5000))
            idle.send(b"GET /v1/status HTTP/1.1\r\n")
        assert (await appliance.status())["digest"] is None
        assert appliance.process is not None
        assert descriptors(appliance.process.pid) < 450


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_what_is_no_http_is_refused_without_a_word_in_the_log(appliance: Machine) -> None:
    before = appliance.log()
    with appliance.orchestrator.socket(socket.AF_INET6) as caller:
        caller.settimeout(30)
        caller.connect((ADDRESS, 5000))
        caller.send(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b" 400 " in caller.recv(4096)
    code, answer = await appliance.ask(
        "PUT", "/v1/system/config", data=b"no gzip", headers={"Content-Encoding": "gzip"}
    )
    assert (code, answer["title"]) == (400, "The body is broken")
    assert appliance.log() == before


async def check_metadata_beside_a_trap(machine: Machine, hosts: Hosts, listening: str, trapped: str, cidr: str) -> None:
    """A tenant's network on which the appliance has the orchestrator's address, and another whose host is answered."""
    server = machine.orchestrator.start(
        sys.executable, "-m", "http.server", "9697", "--bind", listening, stdout=-3, stderr=-3
    )
    try:
        machine.plug("trap")
        await machine.until(lambda status: len(status["interfaces"]) == 4)
        trap = machine.network("trap", "internal", trapped, subnets=[subnet("trap", cidr, trapped.partition("/")[0])])
        await machine.push(configuration(machine, trap))
        tenant = hosts.add("tenant", "one", "10.1.0.5/24", gateway="10.1.0.1")
        asking = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://169.254.169.254/no-such-page")
        # The stand-in knows no such page, and says so: it was reached.
        assert eventually(lambda: tenant.run(*asking, check=False).stdout == "404")
    finally:
        server.kill()
        server.wait()


async def test_rules_that_somebody_took_away_come_back_by_themselves(routed: Machine, hosts: Hosts) -> None:
    outside = hosts.add("outside", "ext", "203.0.113.1/24")
    inside = hosts.add("inside", "one", "10.1.0.5/24", gateway="10.1.0.1")
    outside.ip("route", "add", "10.1.0.0/24", "via", "203.0.113.2")
    assert pings(inside, "203.0.113.1")
    assert not pings(outside, "10.1.0.5", seconds=1)
    routed.vm.run("nft", "flush", "ruleset")
    assert eventually(lambda: not pings(outside, "10.1.0.5", seconds=1) and pings(inside, "203.0.113.1"))
    assert (await routed.status())["digest"] == "v1:test"
