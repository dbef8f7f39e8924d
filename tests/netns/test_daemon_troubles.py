"""Daemons that hang, and a runtime directory that is full: tenants keep what they have, and pushes go on or say why."""

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from astara_appliance.backend import BackendError
from astara_appliance.linux import bird_control, files
from network_clients import Listener, programs
from test_bgp_sessions import OURS, UPSTREAM4, Upstream, becomes, bird_routes
from test_bgp_sessions import wanted as with_bgp

from lab.appliance_machine import Hosts, Machine, subnet
from lab.wires import Fabric

pytest_plugins = ("standing_appliance",)

TAUGHT = {"198.51.100.0/24", "192.0.2.0/24"}


def red(machine: Machine, *servers: str, hosts: int = 1) -> dict[str, Any]:
    """A network with advertisements that name these resolvers, and DHCP for so many hosts."""
    made = machine.network(
        "red", "internal", "10.1.0.1/24", "2001:db8:1::1/64",
        subnets=[
            subnet("red4", "10.1.0.0/24", "10.1.0.1", dhcp=True),
            subnet("red6", "2001:db8:1::/64", "2001:db8:1::1", dhcp=True, ipv6_address_mode="slaac",
                   ipv6_ra_mode="slaac", dns_nameservers=list(servers)),
        ],
        address_allocations=[
            {"mac_address": f"fa:20:00:00:00:{number:02x}", "hostname": f"host-{number}", "device_id": "d",
             "ip_addresses": {f"10.1.0.{number}": True}}
            for number in range(5, 5 + hosts)
        ],
    )  # fmt: skip
    return {"networks": [made]}


def bird(machine: Machine) -> int | None:
    return next(iter(programs(machine.vm, "bird")), None)


@contextmanager
def hung_bird(machine: Machine) -> Iterator[int]:
    """The number of the appliance's BIRD, which hangs."""
    pid = bird(machine)
    assert pid is not None
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)


async def test_a_push_replaces_a_bird_that_hangs_and_hosts_hear_what_is_new(machine, neighbours, said):
    await machine.push(red(machine, "2001:db8::1"))
    host = neighbours.add("host", "red", mac="fa:20:00:00:00:05")
    with hung_bird(machine) as pid, Listener(host) as listener:
        assert await machine.push(red(machine, "2001:db8::2"), "v1:new") == ["dhcp", "ra"]
        assert bird(machine) not in (None, pid)
        heard = await listener.next()
        while "2001:db8::2" not in heard.resolvers:
            heard = await listener.next()
    assert f"process {pid} is ended by force and started anew: bird did not answer on its control socket" in said()
    assert (await machine.status())["digest"] == "v1:new"
    now = bird(machine)
    assert await machine.push(red(machine, "2001:db8::1")) == ["dhcp", "ra"]
    assert bird(machine) == now


async def test_an_agent_that_finds_a_bird_that_hangs_replaces_it(machine):
    await machine.push(red(machine, "2001:db8::1"), "v1:kept")
    with hung_bird(machine) as pid:
        await machine.restart()
        assert bird(machine) not in (None, pid)
    assert (await machine.status())["digest"] == "v1:kept"
    assert await machine.push(red(machine, "2001:db8::1")) == []


async def test_a_bird_that_has_lost_its_socket_is_replaced(machine):
    await machine.push(red(machine, "2001:db8::1"))
    pid = bird(machine)
    (machine.root / "run" / "bird" / "control").unlink()
    assert await machine.push(red(machine, "2001:db8::2")) == ["dhcp", "ra"]
    assert bird(machine) not in (None, pid)


async def test_what_bird_refuses_is_refused_and_bird_goes_on(machine):
    await machine.push(red(machine, "2001:db8::1"))
    pid, folder = bird(machine), machine.root / "run" / "bird"
    accepted = (folder / "ra.conf").read_text()
    (folder / "ra.conf").write_text("protocol nonsense {}\n")
    with pytest.raises(BackendError, match=r"bird refused its configuration: .*syntax error") as refusal:
        await bird_control.configure(folder / "control")
    assert not isinstance(refusal.value, bird_control.NoAnswerError)
    (folder / "ra.conf").write_text(accepted)
    # The same through a push: the other section's file, which is read along, is spoilt.
    (folder / "bgp.conf").write_text("protocol nonsense {}\n")
    code, answer = await machine.try_push(red(machine, "2001:db8::2"))
    assert (code, "syntax error" in answer["detail"]) == (500, True), answer
    (folder / "bgp.conf").write_text("")
    assert await machine.push(red(machine, "2001:db8::2")) == ["dhcp", "ra"]
    assert bird(machine) == pid


async def test_a_socket_that_never_answers_is_told_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(bird_control, "TIMEOUT", 0.1)
    path = tmp_path / "control"
    with pytest.raises(bird_control.NoAnswerError, match="No such file"):
        await bird_control.configure(path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(bird_control.NoAnswerError, match=r"did not answer on its control socket within 0\.1 s"):
            await bird_control.configure(path)


def destinations(machine: Machine) -> set[str]:
    return {route["dst"] for route in bird_routes(machine.vm, 4)}


@pytest.fixture
def upstream(machine: Machine, neighbours: Hosts, tmp_path: Path) -> Iterator[Upstream]:
    made = Upstream(neighbours.add("upstream", "blue", f"{UPSTREAM4}/24", "2001:db8:ff::1/64"), tmp_path)
    made.start(OURS, "203.0.113.2", UPSTREAM4, *TAUGHT)
    yield made
    made.stop()


async def test_what_bgp_taught_stays_in_the_kernel_while_a_bird_that_hangs_is_replaced(machine, upstream):
    document = with_bgp(machine, default_v4_gateway=UPSTREAM4, default_v6_gateway=None)
    await machine.push(document)
    assert becomes(machine, lambda: destinations(machine) == TAUGHT)
    with machine.vm.start("ip", "monitor", "route", stdout=subprocess.PIPE, text=True) as monitor:
        with hung_bird(machine) as pid:
            document["networks"][1]["subnets"][1] |= {
                "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac", "dhcp_enabled": True,
            }  # fmt: skip
            await machine.push(document)
            assert bird(machine) not in (None, pid)
        assert destinations(machine) == TAUGHT
        assert becomes(machine, upstream.is_up)
        monitor.terminate()
        told, _ = monitor.communicate(timeout=60)
    assert not [line for line in told.splitlines() if line.startswith("Deleted") and "proto bird" in line]
    assert destinations(machine) == TAUGHT


async def test_what_bgp_taught_goes_with_bgp_also_when_bird_hangs(machine, upstream):
    await machine.push(with_bgp(machine, default_v4_gateway=UPSTREAM4, default_v6_gateway=None))
    assert becomes(machine, lambda: destinations(machine) == TAUGHT)
    with hung_bird(machine):
        await machine.push(with_bgp(machine, None, default_v4_gateway=UPSTREAM4, default_v6_gateway=None))
    assert destinations(machine) == set()
    assert bird(machine) is None


# A disk that is full


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 400 KiB at `folder`."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)], check=True)
    try:
        yield
    finally:
        # Lazily: namespaces that are about to go have it mounted, too.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No room is left on the disk of `folder`."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
async def cramped(fabric: Fabric, tmp_path: Path) -> AsyncIterator[Machine]:
    """An appliance with little room in its runtime directory; it serves red."""
    machine = Machine(fabric, tmp_path / "appliance")
    with small_disk(machine.root / "run"):
        try:
            machine.plug("red")
            machine.start()
            await machine.answers()
            await machine.push(red(machine, "2001:db8::1"), "v1:kept")
            yield machine
        finally:
            await machine.close()


def in_effect(machine: Machine) -> list[Any]:
    """The daemons, and what the kernel was told of interfaces, routes and rules."""
    vm = machine.vm
    return [
        programs(vm, "dnsmasq"), programs(vm, "bird"), vm.ip("-o", "-4", "address"), vm.ip("route"),
        vm.run("nft", "-s", "list", "ruleset").stdout,
    ]  # fmt: skip


async def test_an_agent_starts_without_room_for_notes_and_touches_nothing(cramped):
    before = in_effect(cramped)
    with full(cramped.root / "run"):
        await cramped.restart()
        assert (await cramped.status())["digest"] == "v1:kept"
        assert await cramped.push(red(cramped, "2001:db8::1"), "v1:kept") == []
        assert in_effect(cramped) == before


async def test_an_agent_that_cannot_note_what_it_found_says_so_and_goes_on(cramped):
    before = in_effect(cramped)
    cramped.stop()
    run = cramped.root / "run"
    (run / "bird" / "bird.started").unlink()
    with full(run):
        cramped.start()
        await cramped.answers()
        assert (await cramped.status())["digest"] == "v1:kept"
        assert in_effect(cramped) == before
    assert "bird: the note of process" in cramped.log()
    assert "No space left on device; it will be found by its command line" in cramped.log()


@pytest.mark.parametrize(
    ("servers", "hosts", "mtu"),
    [(["2001:db8::2"], 1, 1500), (["2001:db8::1"], 9, 1500), (["2001:db8::1"], 1, 1400)],
    ids=["advertisements", "hosts", "dnsmasq anew"],
)
async def test_a_push_without_room_says_why_and_the_former_configuration_stays(cramped, servers, hosts, mtu):
    document = red(cramped, *servers, hosts=hosts)
    document["networks"][0]["interface"]["mtu"] = document["networks"][0]["mtu"] = mtu
    before = in_effect(cramped)
    with full(cramped.root / "run"):
        code, answer = await cramped.try_push(document, "v1:new")
        assert (code, "No space left on device" in answer["detail"]) == (500, True), answer
        assert in_effect(cramped) == before
        assert (await cramped.status())["digest"] == "v1:kept"
        assert await cramped.push(red(cramped, "2001:db8::1"), "v1:kept") == []
    assert await cramped.push(document, "v1:new")
    assert (await cramped.status())["digest"] == "v1:new"


def test_of_several_files_none_changes_when_there_is_no_room_for_all(tmp_path):
    folder = tmp_path / "disk"
    with small_disk(folder):
        small, large = folder / "small", folder / "large"
        files.write({small: "former", large: "former"})
        with pytest.raises(BackendError, match="large cannot be written: No space left on device"):
            files.write({small: "later", large: "later" * 100_000})
        assert (small.read_text(), large.read_text()) == ("former", "former")
        assert {file.name for file in folder.iterdir()} == {"small", "large"}


def test_room_is_found_or_missed_before_anything_is_written(tmp_path):
    folder = tmp_path / "disk"
    with small_disk(folder):
        files.find_room(folder, [bytes(1)] * 50)
        with pytest.raises(BackendError, match="has no room for 819200 bytes more: No space left on device"):
            files.find_room(folder, [bytes(1)] * 200)
        assert not list(folder.iterdir())
