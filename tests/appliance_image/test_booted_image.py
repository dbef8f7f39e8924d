"""The appliance's image in a virtual machine, told by a config drive as Nova makes it, with packets through it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from authority import Authority
from firewall_world import Listener, call
from network_clients import Instance
from router_world import GATEWAY, GATEWAY6, HOST, INSIDE, floating, network, tenant, upstream, wanted
from virtual_machine import BOOT_SECONDS, TOKEN, VirtualMachine

from lab.appliance_machine import ADDRESS, INSTANCE, ORCHESTRATOR, Hosts, eventually, pings, uuid_of
from lab.wires import Fabric, Namespace

PACKAGING = Path(__file__).resolve().parents[2] / "appliance" / "packaging"
FLOATING, MAC = "172.24.4.50", "fa:20:00:00:00:77"

pytestmark = pytest.mark.asyncio(loop_scope="session")


def everything(machine: VirtualMachine) -> dict[str, object]:
    """A router that translates, gives addresses out, and helps FTP."""
    document = wanted(
        machine, enable_snat=True, asn=64512, neighbor_asn=64513, floating_ips=floating((FLOATING, HOST)),
        conntrack_helpers=[{"protocol": "tcp", "port": 21, "helper": "ftp"}],
    )  # fmt: skip
    document["networks"][1]["subnets"][0]["dhcp_enabled"] = True
    document["networks"][1]["subnets"][1] |= {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    document["networks"][1]["address_allocations"] = [
        {"mac_address": MAC, "device_id": uuid_of(MAC), "hostname": "new", "ip_addresses": {"10.0.0.77": True}},
        {
            "mac_address": "fa:20:00:00:00:05",
            "device_id": uuid_of(HOST),
            "hostname": "host",
            "ip_addresses": {HOST: True},
        },
    ]
    return document


def outside(hosts: Hosts) -> Namespace:
    """The gateway of the external network, who knows no way to the tenant's IPv4 network."""
    made = upstream(hosts)
    made.ip("route", "delete", "10.0.0.0/24")
    return made


async def test_it_answers_over_tls_to_the_worker_and_to_nobody_else(
    booted: VirtualMachine, authority: Authority
) -> None:
    assert (await booted.status())["instance"] == INSTANCE
    assert (await booted.ask("GET", "/v1/system/config", headers={"Authorization": "Bearer another"}))[0] == 401
    nobody = ssl.create_default_context(cafile=str(authority.ca))
    with pytest.raises(aiohttp.ClientError):
        await booted.ask("GET", "/v1/status", secure={"ssl": nobody})
    with pytest.raises(aiohttp.ClientError):
        await booted.ask("GET", "/v1/status", scheme="http")


async def test_everything_the_system_starts_is_up_and_debians_bird_is_not(booted: VirtualMachine) -> None:
    state = await asyncio.to_thread(booted.run, "systemctl", "is-system-running", "--wait", check=False)
    assert (state.strip(), booted.run("systemctl", "--failed", "--plain", "--no-legend")) == ("running", "")
    assert booted.run("systemctl", "is-enabled", "bird", check=False).strip() == "disabled"
    assert booted.run("systemctl", "is-active", "bird", check=False).strip() == "inactive"
    assert booted.run("systemctl", "is-active", "astara-appliance").strip() == "active"
    cloud = booted.run("cloud-init", "status", "--long", check=False)
    assert "status: done" in cloud, cloud
    assert "DataSourceConfigDrive" in cloud


async def test_the_kernel_has_the_modules_and_settings_of_the_packaging(booted: VirtualMachine) -> None:
    lines = (PACKAGING / "modules-load.d/astara.conf").read_text().splitlines()
    modules = {line for line in lines if line and not line.startswith("#")}
    loaded = {line.split()[0] for line in booted.read("/proc/modules").splitlines()}
    built_in = {Path(line).stem for line in booted.run("sh", "-c", "cat /lib/modules/*/modules.builtin").splitlines()}
    assert modules - loaded - built_in == set()
    settings = [
        [word.strip() for word in line.split("=")]
        for line in (PACKAGING / "sysctl.d/60-astara.conf").read_text().splitlines()
        if "=" in line
    ]
    assert {name: booted.run("sysctl", "-n", name).strip() for name, _ in settings} == dict(settings)


async def test_who_has_the_operators_key_gets_in_and_nobody_by_a_password(booted: VirtualMachine) -> None:
    done = booted.ssh("whoami")
    assert (done.returncode, done.stdout) == (0, "astara\n")
    assert booted.run("id", "-u") == "0\n"
    passwords = {line.split(":")[1] for line in booted.read("/etc/shadow").splitlines()}
    assert {password[:1] for password in passwords} <= {"!", "*"}
    asked = ("-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=0")
    for user in ("astara", "root", "debian"):
        refused = booted.ssh("true", user=user, options=asked)
        assert (refused.returncode, "Permission denied (publickey)" in refused.stderr) == (255, True), refused.stderr
    assert booted.ssh("true", user="root").returncode == 255
    # The operators' user is not the agent's: what the agent could be made to write lets nobody in.
    agent = booted.run("systemctl", "show", "--value", "--property=MainPID", "astara-appliance").strip()
    assert booted.run("stat", "-c", "%U", f"/proc/{agent}") == "astara-agent\n"


async def test_only_the_agent_sets_up_interfaces(booted: VirtualMachine) -> None:
    shown = booted.run("ip", "-o", "-6", "address", "show", "dev", "ge0", "scope", "global")
    assert [line.split()[3] for line in shown.splitlines()] == [f"{ADDRESS}/64"]
    names = {line.split(":")[1].strip() for line in booted.run("ip", "-o", "link").splitlines()}
    assert names == {"lo", "ge0", "ge1", "ge2"}
    running = booted.run("ps", "-eo", "comm=").split()
    assert not {"dhclient", "systemd-network", "NetworkManager", "dhcpcd"} & set(running)


@contextlib.asynccontextmanager
async def metadata_service(machine: VirtualMachine) -> AsyncIterator[list[web.BaseRequest]]:
    """The orchestrator's metadata service; yields what it is asked."""
    asked: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        return web.Response(text="a-user-data")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    listening = machine.orchestrator.socket(10)
    listening.bind((ORCHESTRATOR, 9697))
    try:
        await web.SockSite(runner, listening).start()
        yield asked
    finally:
        await runner.cleanup()


async def test_a_router_is_pushed_and_packets_pass(booted: VirtualMachine, hosts: Hosts, tmp_path: Path) -> None:
    gateway, host = outside(hosts), tenant(hosts)
    assert set(await booted.push(everything(booted), "v1:all")) >= {"firewall", "interfaces", "routes", "dhcp", "ra"}
    assert (await booted.status())["undone"] == []
    assert (await Instance(hosts.add("new", "private", mac=MAC), tmp_path).lease())["ip_address"] == "10.0.0.77"
    assert pings(host, INSIDE)
    # Translated: the gateway knows no way to the tenant's network.
    assert pings(host, GATEWAY)
    assert pings(host, GATEWAY6)
    assert pings(gateway, FLOATING)
    assert (await booted.until(lambda status: status["v4"] and status["v6"]))["digest"] == "v1:all"
    # The kernel's helper translates what an FTP server says of itself (RFC 959).
    with Listener(host, 21) as listener, call(gateway, FLOATING, 21) as here:
        there, _ = listener.accept()
        with there:
            # A helper looks at whole lines, and so wants to have seen the end of one.
            there.sendall(b"220 ready\r\n")
            assert here.recv(1000) == b"220 ready\r\n"
            there.sendall(f"227 Entering Passive Mode ({HOST.replace('.', ',')},19,137).\r\n".encode())
            assert here.recv(1000).decode() == f"227 Entering Passive Mode ({FLOATING.replace('.', ',')},19,137).\r\n"
    async with metadata_service(booted) as asked:
        words = ("curl", "-s", "--max-time", "10", "http://169.254.169.254/openstack/latest/user_data")
        answer = await asyncio.to_thread(host.run, *words)
        assert answer.stdout == "a-user-data"
        assert asked[0].headers["X-Forwarded-For"] == HOST
        assert asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


async def test_an_interface_that_nova_attaches_to_the_running_machine_is_named_and_used(
    booted: VirtualMachine, hosts: Hosts
) -> None:
    mac = await booted.attach("late")
    seen = await booted.until(lambda status: mac in status["interfaces"], 120.0)
    assert seen["interfaces"][mac] == "ge3"
    document = everything(booted)
    late = network(booted, "late", "internal", "10.9.0.1/24")
    document["networks"].append(late)
    await booted.push(document, "v1:late")
    assert pings(hosts.add("late", "late", "10.9.0.5/24", gateway="10.9.0.1"), "10.9.0.1")
    names = {line.split(":")[1].strip() for line in booted.run("ip", "-o", "link").splitlines()}
    assert names == {"lo", "ge0", "ge1", "ge2", "ge3"}


async def test_after_its_plug_was_pulled_it_is_what_it_was_before_anybody_pushes(
    booted: VirtualMachine, hosts: Hosts
) -> None:
    # With an IPv6 route of the appliance's own advertisements, since it sends these by now.
    gateway, host = outside(hosts), hosts.add("tenant", "private", f"{HOST}/24", gateway=INSIDE)
    document = everything(booted)
    await booted.push(document, "v1:before")
    identity = booted.read("/etc/machine-id")
    await booted.reboot()
    await booted.until(lambda status: status["digest"] == "v1:before", BOOT_SECONDS)
    assert eventually(lambda: pings(host, GATEWAY))
    assert eventually(lambda: pings(gateway, FLOATING))
    # The same machine to whoever knows it: ssh would refuse another host key.
    assert booted.read("/etc/machine-id") == identity
    assert booted.run("systemctl", "is-system-running", "--wait", check=False).strip() == "running"


async def test_nothing_that_tells_machines_apart_or_was_fetched_for_the_build_is_in_the_image(
    booted: VirtualMachine, image: Path, authority: Authority, tmp_path: Path
) -> None:
    with Fabric() as elsewhere:
        other = VirtualMachine(elsewhere, tmp_path / "other", image, authority)
        try:
            other.start()
            await other.answers()
            for file in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
                assert other.read(file) != booted.read(file)
        finally:
            await other.close()
    caches = f"{booted.run('getent', 'passwd', 'root').split(':')[5]}/.cache"
    left = booted.run("find", "/var/cache/apt", "/var/lib/apt/lists", caches, "-type", "f", check=False).split()
    assert [file for file in left if not file.endswith("/lock")] == []
