"""The appliance as its packaging installs it, in a Debian 12 whose PID 1 is systemd: the unit, its user, its life."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from network_clients import Instance
from router_world import (
    GATEWAY,
    GATEWAY6,
    HOST,
    INSIDE,
    INSIDE6,
    OUTSIDE,
    OUTSIDE6,
    addresses,
    connects,
    floating,
    no_kernel_event,
    routes,
    tenant,
    upstream,
    wanted,
)

from lab.appliance_machine import ADDRESS, TOKEN, Hosts, pings, uuid_of
from lab.booted import COMMAND, UNIT, Booted
from lab.booted_root import layers
from lab.ping import Ping
from lab.wires import Fabric, Namespace

# On a machine that does it for the first time, Debian and the appliance are installed before.
pytestmark = pytest.mark.timeout(400)

FLOATING, MAC = "172.24.4.50", "fa:20:00:00:00:77"
THREE = "0000000000003400"  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW


@pytest.fixture(scope="module")
def root() -> list[Path]:
    return layers()


@pytest.fixture
async def booted(fabric: Fabric, tmp_path: Path, root: list[Path]) -> AsyncIterator[Booted]:
    """An appliance whose unit is active; nothing is pushed yet."""
    machine = Booted(fabric, tmp_path / "appliance", root)
    try:
        for name in ("ext", "private"):
            machine.plug(name)
        machine.start()
        await machine.answers()
        await active(machine)
        yield machine
    finally:
        await machine.close()


async def active(machine: Booted) -> None:
    """Systemd has been told that the agent is ready."""
    await until(lambda: machine.unit("ActiveState") == "active")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 - another machine sets no event
            await asyncio.sleep(0.05)


def status_of(machine: Booted, pid: int | str) -> dict[str, str]:
    lines = machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def facts(machine: Booted) -> dict[str, object]:
    return json.loads(machine.run(COMMAND, "show", "--json").stdout)


def daemons(machine: Booted) -> dict[str, int | None]:
    return {one["name"]: one["pid"] for one in facts(machine)["daemons"]}


def everything(machine: Booted) -> dict[str, object]:
    """A configuration that has work for each service."""
    document = wanted(machine, enable_snat=True, asn=64512, neighbor_asn=64513)
    document["networks"][1]["subnets"][0]["dhcp_enabled"] = True
    document["networks"][1]["subnets"][1] |= {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    return document


@contextlib.contextmanager
def no_packet_lost(host: Namespace) -> Iterator[None]:
    """Every echo that a host asks its gateways for inside the block, fifty a second and family, is answered."""
    assert pings(host, GATEWAY)
    assert pings(host, GATEWAY6)
    with Ping(host, GATEWAY, 0.02) as v4, Ping(host, GATEWAY6, 0.02) as v6:
        yield
    assert v4.sent > 0 < v6.sent
    assert v4.lost == v6.lost == 0


async def test_the_unit_is_active_unprivileged_and_heard_on_management_alone(booted: Booted, hosts: Hosts) -> None:
    # Nothing else that the system has failed over it, and the distribution's BIRD keeps out of the way.
    await until(lambda: booted.run("systemctl", "is-system-running", check=False).stdout.strip() == "running")
    assert booted.run("systemctl", "is-enabled", "bird", check=False).stdout.strip() == "disabled"
    assert booted.run("systemctl", "is-active", "bird", check=False).stdout.strip() == "inactive"
    agent = status_of(booted, booted.unit("MainPID"))
    user = booted.run("id", "-u", "astara-agent").stdout.strip()
    assert agent["Uid"].split() == [user] * 4
    assert {agent[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {THREE}
    assert (agent["NoNewPrivs"], agent["Seccomp"]) == ("1", "2")
    # Before an interface has a configuration it takes nothing from its network.
    assert booted.run("cat", "/proc/sys/net/ipv6/conf/default/accept_ra").stdout == "0\n"
    for secret in (("cat", "/etc/astara/appliance.json"), ("ls", "/var/lib/astara"), ("ls", "/run/astara")):
        refused = booted.run("setpriv", "--reuid=nobody", "--clear-groups", *secret, check=False)
        assert "Permission denied" in refused.stderr
    listening = booted.run("ss", "-Hlntu").stdout.split("\n")[:-1]
    assert [line.split()[4] for line in listening] == [f"[{ADDRESS}]%ge0:5000"]
    await booted.push(everything(booted))
    gateway, host = upstream(hosts), tenant(hosts)
    gateway.ip("route", "add", f"{ADDRESS}/128", "via", OUTSIDE6)
    for machine, address in ((host, INSIDE), (host, INSIDE6), (host, ADDRESS), (gateway, OUTSIDE), (gateway, ADDRESS)):
        assert not connects(machine, address, 0.5)
    assert connects(booted.orchestrator, ADDRESS)


async def test_a_push_configures_the_kernel_and_the_daemons_and_packets_pass(
    booted: Booted, hosts: Hosts, tmp_path: Path
) -> None:
    gateway, host = upstream(hosts), tenant(hosts)
    gateway.ip("route", "delete", "10.0.0.0/24")
    document = everything(booted) | {"floating_ips": floating((FLOATING, HOST))}
    document["networks"][1]["address_allocations"] = [
        {"mac_address": MAC, "device_id": uuid_of(MAC), "hostname": "new", "ip_addresses": {"10.0.0.77": True}}
    ]
    changed = await booted.push(document, "v1:all")
    assert set(changed) >= {"firewall", "interfaces", "routes", "dhcp", "ra", "bgp", "metadata_proxy"}
    assert pings(host, INSIDE)
    # Translated: the gateway knows no way to the tenant's network.
    assert pings(host, GATEWAY)
    assert pings(host, GATEWAY6)
    assert pings(gateway, FLOATING)
    assert (await Instance(hosts.add("new", "private", mac=MAC), tmp_path).lease())["ip_address"] == "10.0.0.77"
    # The proxy hears, and says that nobody answers it.
    ask = ("curl", "-s", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://169.254.169.254/")
    assert host.run(*ask, check=False).stdout.startswith("50")
    assert (await booted.until(lambda status: status["v4"] and status["v6"]))["digest"] == "v1:all"
    user = booted.run("id", "-u", "astara-agent").stdout.strip()
    running = daemons(booted)
    assert running
    for pid in running.values():
        daemon = status_of(booted, pid)
        assert daemon["Uid"].split() == [user] * 4
        assert (daemon["CapBnd"], daemon["NoNewPrivs"]) == (THREE, "1")
    assert {status_of(booted, pid)["Name"] for pid in running.values()} == {"dnsmasq", "bird"}
    del document["floating_ips"]
    assert await booted.push(document) == ["firewall", "interfaces"]
    assert not pings(gateway, FLOATING, seconds=0.5)


async def test_a_restart_and_a_killed_agent_touch_neither_packets_nor_daemons(booted: Booted, hosts: Hosts) -> None:
    upstream(hosts)
    host = tenant(hosts)
    document = everything(booted)
    await booted.push(document, "v1:before")
    before, agent = daemons(booted), booted.unit("MainPID")
    with no_packet_lost(host):
        with no_kernel_event(booted):
            for command in (("restart", UNIT), ("kill", "--kill-whom=main", "--signal=KILL", UNIT)):
                await asyncio.to_thread(booted.run, "systemctl", *command)
                await until(lambda agent=agent: booted.unit("MainPID") not in ("0", agent))
                await active(booted)
                assert (await booted.answers())["digest"] == "v1:before"
                agent = booted.unit("MainPID")
        assert await booted.push(document, "v1:before") in ([], ["metadata_proxy"])
    assert daemons(booted) == before
    assert all(before.values())


async def test_a_stop_leaves_the_daemons_and_a_kill_after_it_ends_them(booted: Booted, hosts: Hosts) -> None:
    upstream(hosts)
    host = tenant(hosts)
    document = everything(booted)
    await booted.push(document, "v1:before")
    before = daemons(booted)
    with no_packet_lost(host):
        await asyncio.to_thread(booted.run, "systemctl", "stop", UNIT)
        assert booted.unit("ActiveState") == "inactive"
        assert daemons(booted) == before
        booted.run("systemctl", "kill", UNIT)
        await until(lambda: not any(daemons(booted).values()))
    # And all is there again with the agent.
    booted.run("systemctl", "start", UNIT)
    assert (await booted.answers())["digest"] == "v1:before"
    await until(lambda: all(daemons(booted).values()))


async def test_an_agent_that_hangs_is_replaced_and_its_daemons_go_on(booted: Booted) -> None:
    booted.run("mkdir", "-p", f"/run/systemd/system/{UNIT}.d")
    booted.run("tee", f"/run/systemd/system/{UNIT}.d/soon.conf", given="[Service]\nWatchdogSec=3\n")
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "restart", UNIT)
    await booted.answers()
    await booted.push(everything(booted), "v1:before")
    before, agent = daemons(booted), booted.unit("MainPID")
    booted.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    await until(lambda: booted.unit("MainPID") not in ("0", agent))
    assert (await booted.answers())["digest"] == "v1:before"
    assert daemons(booted) == before
    assert "Watchdog timeout" in booted.log()


async def test_a_machine_that_is_booted_again_is_what_it_was_before_anybody_pushes(
    booted: Booted, hosts: Hosts
) -> None:
    upstream(hosts)
    host = tenant(hosts)
    await booted.push(everything(booted), "v1:before")
    before = [addresses(booted, device) for device in ("ge0", "ge1", "ge2")], routes(booted), set(daemons(booted))
    await booted.reboot()
    await booted.until(lambda status: status["digest"] == "v1:before")
    after = [addresses(booted, device) for device in ("ge0", "ge1", "ge2")], routes(booted), set(daemons(booted))
    assert after == before
    assert all(daemons(booted).values())
    assert pings(host, GATEWAY)
    assert pings(host, GATEWAY6)
    await active(booted)


async def test_an_operator_can_show_what_runs_and_check_what_would(booted: Booted) -> None:
    document = everything(booted)
    booted.run("tee", "/etc/astara/wanted.json", given=json.dumps({"configuration": document}))
    booted.run(COMMAND, "check", "/etc/astara/wanted.json")
    await booted.push(document, "v1:shown")
    told = booted.run(COMMAND, "show").stdout
    for words in ("v1:shown", f"{INSIDE}/24", f"0.0.0.0/0 via {GATEWAY} on ge1", "dnsmasq", "bird"):
        assert words in told
    assert TOKEN not in told
    document["networks"][0]["interface"]["mtu"] = "large"
    booted.run("tee", "/etc/astara/wrong.json", given=json.dumps(document))
    refused = booted.run(COMMAND, "check", "/etc/astara/wrong.json", check=False)
    assert refused.returncode == 1
    assert "networks[0].interface.mtu" in refused.stderr
