"""The agent comes and goes, the machine starts anew, and packets go on; who may run it, and who may call it."""

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from authority import Authority
from router_world import (
    GATEWAY,
    GATEWAY6,
    HOST,
    INSIDE,
    INSIDE6,
    addresses,
    connects,
    floating,
    network,
    no_kernel_event,
    plugged,
    routes,
    show,
    tenant,
    upstream,
    wanted,
)

from lab.appliance_machine import ADDRESS, MANAGEMENT_MAC, TOKEN, Hosts, Machine, pings
from lab.wires import Fabric, Namespace

NOBODY = 64_999
CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"


@contextlib.asynccontextmanager
async def no_packet_lost(host: Namespace, *targets: str) -> AsyncIterator[None]:
    """Every echo that a host asks for inside the block, a hundred a second, is answered."""
    for target in targets:
        assert pings(host, target)
    running = [
        host.start("ping", "-n", "-q", "-i", "0.01", target, stdout=subprocess.PIPE, text=True) for target in targets
    ]
    try:
        yield
    finally:
        for ping in running:
            ping.send_signal(signal.SIGINT)
        told = [(await asyncio.to_thread(ping.communicate))[0] for ping in running]
    for text in told:
        sent, received = (int(text.split(words)[0].split()[-1]) for words in (" packets transmitted", " received"))
        # The last one may be on its way when the ping ends.
        assert received >= sent - 1, text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked to end", "killed"])
async def test_an_agent_that_starts_anew_changes_nothing_and_loses_no_packet(
    appliance: Machine, hosts: Hosts, number: signal.Signals
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance), "v1:before")
    async with no_packet_lost(host, GATEWAY, GATEWAY6):
        with no_kernel_event(appliance):
            await appliance.restart(number)
        assert (await appliance.status())["digest"] == "v1:before"
        assert await appliance.push(wanted(appliance), "v1:before") in ([], ["metadata_proxy"])


async def test_what_changed_while_the_agent_was_away_is_put_right_and_nothing_else(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance))
    async with no_packet_lost(host, GATEWAY):
        appliance.stop(signal.SIGKILL)
        appliance.vm.ip("address", "delete", f"{INSIDE6}/64", "dev", "ge2")
        appliance.vm.ip("address", "add", "192.0.2.66/24", "dev", "ge2")
        appliance.vm.ip("-6", "route", "delete", "default", "proto", "170")
        appliance.vm.ip("link", "set", "ge2", "mtu", "1400")
        appliance.start()
        await appliance.answers()
    assert addresses(appliance, "ge2") == {f"{INSIDE}/24", f"{INSIDE6}/64", "fe80::a9fe:a9fe/128"}
    assert "mtu 1500" in appliance.vm.ip("link", "show", "ge2")
    assert pings(host, GATEWAY6)


async def test_after_a_reboot_the_machine_is_what_it_was(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance), "v1:before")
    before = [addresses(appliance, device) for device in ("ge0", "ge1", "ge2")], routes(appliance)
    await appliance.reboot()
    status = await appliance.until(lambda status: status["digest"] == "v1:before")
    assert set(status["interfaces"].values()) == {"ge0", "ge1", "ge2"}
    assert ([addresses(appliance, device) for device in ("ge0", "ge1", "ge2")], routes(appliance)) == before
    assert pings(host, GATEWAY)
    assert pings(host, GATEWAY6)


async def test_the_api_is_heard_on_the_management_network_only(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    gateway, host = upstream(hosts), tenant(hosts)
    await appliance.push(wanted(appliance))
    gateway.ip("route", "add", f"{ADDRESS}/128", "via", "2001:db8:4::9")
    # What the firewall would drop is let through: the sockets themselves must not hear it.
    appliance.vm.run("nft", "flush", "ruleset")
    for machine in (host, gateway):
        for address in (INSIDE, INSIDE6, ADDRESS, "fe80::a9fe:a9fe%eth0"):
            assert not connects(machine, address, 0.5)
    assert connects(appliance.orchestrator, ADDRESS)


async def test_management_may_be_of_both_families_and_lie_behind_a_gateway(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    away = hosts.add("away", "office", "198.18.0.2/24", "fd00:dead::2/64", gateway="198.18.0.1")
    away.ip("route", "add", "default", "via", "fd00:dead::1")
    between = hosts.add("between", "mgt", "192.168.77.1/24", "fdca:3ba5:a17a:acda::fe/64")
    appliance.fabric.plug("office", between, "eth1")
    between.ip("link", "set", "eth1", "up")
    for address in ("198.18.0.1/24", "fd00:dead::1/64"):
        between.ip("address", "add", address, "dev", "eth1")
    between.run("sysctl", "-qw", "net.ipv4.conf.all.forwarding=1", "net.ipv6.conf.all.forwarding=1")
    for given, gateway, reached in (
        ([f"{ADDRESS}/64", "192.168.77.5/24"], "192.168.77.1", "192.168.77.5"),
        ([f"{ADDRESS}/64"], "fdca:3ba5:a17a:acda::fe", ADDRESS),
    ):
        appliance.stop()
        appliance.start(management={"mac": MANAGEMENT_MAC, "addresses": given, "mtu": 1500, "gateway": gateway})
        await appliance.answers()
        # A tenant's default route and its network of the same addresses make no difference.
        document = wanted(appliance)
        document["networks"][1] = network(appliance, "private", "internal", "198.18.0.99/24", "fd00:dead::99/64")
        await appliance.push(document)
        assert connects(away, reached)
        assert connects(between, reached)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that other users may look into."""
    path = Path(tempfile.mkdtemp(prefix="astara-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def test_an_unprivileged_agent_with_three_capabilities_does_all_of_it(
    fabric: Fabric, hosts: Hosts, readable: Path
) -> None:
    machine = Unprivileged(fabric, readable / "appliance")
    try:
        machine.start()
        await machine.answers()
        identity = machine.vm.run("cat", f"/proc/{machine.process.pid}/status").stdout
        assert f"Uid:\t{NOBODY}" in identity
        assert "CapBnd:\t0000000000003400" in identity
        await plugged(machine, "ext", "private")
        upstream(hosts)
        host = tenant(hosts)
        document = wanted(machine, enable_snat=True, asn=64512, neighbor_asn=64513)
        document["networks"][1]["subnets"][0]["dhcp_enabled"] = True
        document["networks"][1]["subnets"][1] |= {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
        changed = await machine.push(document)
        assert set(changed) >= {"firewall", "interfaces", "routes", "dhcp", "ra", "bgp", "metadata_proxy"}
        assert pings(host, GATEWAY)
        assert pings(host, GATEWAY6)
        await machine.until(lambda status: status["v4"] and status["v6"])
        await machine.restart(signal.SIGKILL)
        assert await machine.push(document) in ([], ["metadata_proxy"])
        await machine.push({"networks": document["networks"][:1]})
        assert addresses(machine, "ge2") == set()
    finally:
        await machine.close()


class Unprivileged(Machine):
    """Its agent is nobody's, with no more than the unit of systemd gives it."""

    def start(self, **boot: object) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("run", "state"):
            (self.root / name).mkdir(exist_ok=True)
            os.chown(self.root / name, NOBODY, NOBODY)
        own = self.vm.start
        self.vm.start = lambda *argv, **options: own(
            *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--no-new-privs"),
            *("--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES, "--bounding-set", CAPABILITIES),
            *argv, **options,
        )  # fmt: skip
        try:
            super().start(**boot)
        finally:
            self.vm.start = own


async def test_with_certificates_only_callers_of_the_same_authority_are_heard_and_new_ones_are_taken_up(
    fabric: Fabric, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    former, later = Authority(tmp_path / "former"), Authority(tmp_path / "later")
    put(former, folder)
    machine = Machine(fabric, tmp_path / "appliance")
    try:
        machine.start()
        await machine.answers()
        machine.stop()
        machine.process = machine.vm.start(
            *(sys.executable, "-m", "astara_appliance", "run", "--boot-file", str(machine.root / "boot.json")),
            *("--state-dir", str(machine.root / "state"), "--runtime-dir", str(machine.root / "run")),
            *("--tls-dir", str(folder)),
        )
        assert await hears(machine, former)
        assert not speaks(machine, later)
        assert not speaks(machine, None)
        put(later, folder)
        assert await hears(machine, later)
        assert not speaks(machine, former)
        # Half of them, or none, is no reason to speak without.
        (folder / "tls.key").unlink()
        assert speaks(machine, later)
        # But nobody starts with half of them.
        machine.stop()
        told = machine.vm.run(
            *(sys.executable, "-m", "astara_appliance", "run", "--boot-file", str(machine.root / "boot.json")),
            *("--state-dir", str(machine.root / "state"), "--runtime-dir", str(machine.root / "run")),
            *("--tls-dir", str(folder)),
            check=False,
        )
        assert told.returncode == 1
        assert "tls.key: missing" in told.stderr
    finally:
        await machine.close()


def put(authority: Authority, folder: Path) -> None:
    certificate, key = authority.issue("appliance")
    for source, name in ((certificate, "tls.crt"), (key, "tls.key"), (authority.ca, "ca.crt")):
        beside = folder / f"{name}.new"
        shutil.copy(source, beside)
        beside.replace(folder / name)


async def hears(machine: Machine, authority: Authority) -> bool:
    """Whether the API comes to be heard by a caller of an authority."""
    async with asyncio.timeout(90):
        while not speaks(machine, authority):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.1)
    return True


def speaks(machine: Machine, authority: Authority | None) -> bool:
    """Whether a caller with a certificate of this authority (None: in plain HTTP) gets the status."""
    own = machine.orchestrator.socket(socket.AF_INET6)
    own.settimeout(5)
    with contextlib.ExitStack() as opened:
        opened.callback(own.close)
        opened.enter_context(contextlib.suppress(OSError))
        own.connect((ADDRESS, 5000))
        if authority is not None:
            own = opened.enter_context(context_of(authority).wrap_socket(own, server_hostname="appliance"))
        own.sendall(b"GET /v1/status HTTP/1.1\r\nHost: appliance\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := own.recv(65536):
            answer += data
        return b"200 OK" in answer
    return False


@functools.cache
def context_of(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(*authority.issue("caller"))
    return context


async def test_show_prints_what_runs(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    document = wanted(
        appliance, hostname="r1", floating_ips=floating(("172.24.4.50", HOST)),
        labels=[{"name": "metered", "prefixes": ["0.0.0.0/0"], "direction": "egress"}],
    )  # fmt: skip
    document["networks"][1]["subnets"][0]["dhcp_enabled"] = True
    await appliance.push(document, "v1:shown")
    facts = json.loads(show(appliance, "--json"))
    assert (facts["digest"], facts["epoch"], facts["hostname"]) == ("v1:shown", "1.1", "r1")
    by_name = {one["ifname"]: one for one in facts["interfaces"]}
    assert f"{INSIDE}/24" in by_name["ge2"]["addresses"]
    assert (by_name["ge2"]["network_type"], by_name["ge2"]["forwarding_v4"]) == ("internal", True)
    assert (by_name["ge0"]["network_type"], by_name["ge0"]["forwarding_v4"]) == ("management", False)
    assert {"destination": "0.0.0.0/0", "nexthops": [{"nexthop": GATEWAY, "ifname": "ge1"}]} in facts["routes"]
    assert facts["floating_ips"] == [{"floating_ip": "172.24.4.50", "fixed_ip": HOST}]
    assert [one["name"] for one in facts["labels"]] == ["metered"]
    assert facts["daemons"]
    assert all(one["pid"] for one in facts["daemons"])
    text = show(appliance)
    for words in ("v1:shown", f"{INSIDE}/24", "172.24.4.50 = 10.0.0.5", f"0.0.0.0/0 via {GATEWAY} on ge1", "dnsmasq"):
        assert words in text
    assert TOKEN not in text
    # It is for when the agent does not work, too.
    appliance.stop(signal.SIGKILL)
    assert "v1:shown" in show(appliance)
