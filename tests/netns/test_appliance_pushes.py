"""A push is a transaction: whatever is wrong with it changes nothing, and whatever it changes disturbs nothing else."""

import asyncio
import copy
import re
import socket
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.appliance_machine import Hosts, Machine, pings, subnet, uuid_of
from lab.wires import Namespace

OUTSIDE = "203.0.113.1"


def wanted(machine: Machine) -> dict[str, Any]:
    """Two internal networks behind an external one, with DHCP, advertisements, a floating IP, a label."""
    return {
        "hostname": "r1", "default_v4_gateway": OUTSIDE, "asn": None,
        "networks": [
            machine.network(
                "ext", "external", "203.0.113.2/24", subnets=[subnet("ext", "203.0.113.0/24", OUTSIDE)],
            ),
            machine.network(
                "one", "internal", "10.1.0.1/24", "2001:db8:1::1/64",
                subnets=[
                    subnet("one4", "10.1.0.0/24", "10.1.0.1", dhcp=True),
                    subnet("one6", "2001:db8:1::/64", "2001:db8:1::1", dhcp=True,
                           ipv6_ra_mode="slaac", ipv6_address_mode="slaac"),
                ],
                address_allocations=[allocation(5)],
            ),
            machine.network(
                "two", "internal", "10.2.0.1/24", subnets=[subnet("two4", "10.2.0.0/24", "10.2.0.1", dhcp=True)],
            ),
        ],
        "floating_ips": [floating_ip(5)],
        "static_routes": [{"destination": "198.51.100.0/24", "nexthop": "10.1.0.5"}],
        "labels": [{"name": "all", "prefixes": ["0.0.0.0/0"], "direction": "egress"}],
        "rate_limits": [{"direction": "egress", "max_kbps": 1000, "max_burst_kbps": 0, "addresses": ["203.0.113.105"]}],
        "conntrack_helpers": [{"protocol": "tcp", "port": 21, "helper": "ftp"}],
        "ndp_proxies": ["2001:db8:1::5"],
        "more_default_gateways": ["203.0.113.254"],
    }  # fmt: skip


def allocation(number: int) -> dict[str, Any]:
    return {
        "mac_address": f"fa:20:00:00:00:{number:02x}", "hostname": f"host-{number}", "device_id": uuid_of(str(number)),
        "ip_addresses": {f"10.1.0.{number}": True},
    }  # fmt: skip


def floating_ip(number: int) -> dict[str, str]:
    return {
        "id": uuid_of(f"fip{number}"), "network_id": uuid_of("ext"), "floating_ip": f"203.0.113.{number + 100}",
        "fixed_ip": f"10.1.0.{number}",
    }  # fmt: skip


@pytest.fixture
async def routed(appliance: Machine) -> Machine:
    """An appliance that runs `wanted`."""
    for name in ("ext", "one", "two"):
        appliance.plug(name)
    await appliance.until(lambda status: len(status["interfaces"]) == 4)
    await appliance.push(wanted(appliance))
    return appliance


def kernel(machine: Machine) -> str:
    """All that is set up, without what changes by itself."""
    vm = machine.vm
    parts = [
        # In which order an interface got its addresses is no configuration either.
        "\n".join(sorted(vm.ip("-o", "address").splitlines())),
        vm.ip("-d", "-o", "link"), vm.ip("route", "show", "table", "all"),
        vm.ip("-6", "route", "show", "table", "all"), vm.run("nft", "-s", "list", "ruleset").stdout,
        *(vm.run("sysctl", "-n", f"net.{family}.conf.all.forwarding").stdout for family in ("ipv4", "ipv6")),
        " ".join(map(str, sorted(vm.pids()))),
    ]  # fmt: skip
    # Lifetimes and timers run down; counters and conntrack states are no configuration.
    return re.sub(r"(valid_lft|preferred_lft|expires|hoplimit|age|used|qdisc) \S+|\d+sec", "", "\n".join(parts))


async def test_an_equal_push_changes_nothing(routed: Machine) -> None:
    before = kernel(routed)
    assert await routed.push(wanted(routed), "v1:again") == []
    assert kernel(routed) == before
    assert (await routed.status())["digest"] == "v1:again"


def broken(field: str, value: Any) -> Any:
    def breaks(document: dict[str, Any]) -> None:
        target: Any = document
        *path, last = (int(part) if part.isdigit() else part for part in field.split("."))
        for part in path:
            target = target[part]
        target[last] = value

    return breaks


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("networks.1.interface.addresses.0", "10.1.0.1/240", "networks[1].interface.addresses[0]"),
        ("networks.1.interface.lladdr", "fa:00:00:00:00:99", "networks[1].interface.lladdr"),
        ("networks.1.interface", {"ifname": "ge9", "addresses": []}, "networks[1].interface.ifname"),
        ("networks.2.subnets.0.cidr", "10.1.0.128/25", "networks[2].subnets[0].cidr"),
        (
            "networks.1.subnets.0.dns_nameservers",
            ["8.8.8.8", "; drop table"],
            "networks[1].subnets[0].dns_nameservers[1]",
        ),
        (
            "networks.1.address_allocations",
            [allocation(5), allocation(5)],
            "networks[1].address_allocations[1].mac_address",
        ),
        (
            "networks.1.address_allocations.0.hostname",
            "x,lease=1\nport=0",
            "networks[1].address_allocations[0].hostname",
        ),
        ("floating_ips.0.fixed_ip", "10.1.0.5; flush ruleset", "floating_ips[0].fixed_ip"),
        ("labels.0.name", 'all"; flush ruleset; "', "labels[0].name"),
        ("static_routes.0.nexthop", "192.0.2.1", "static_routes[0].nexthop"),
        ("networks", [{}] * 65, "networks"),
        ("default_v4_gateway", "fe80::1", "default_v4_gateway"),
        ("asn", "64512", "asn"),
        ("surprise", 1, "surprise"),
    ],
)
async def test_what_is_wrong_is_named_and_changes_nothing(routed: Machine, field: str, value: Any, named: str) -> None:
    before, document = kernel(routed), wanted(routed)
    broken(field, value)(document)
    code, answer = await routed.try_push(document)
    assert (code, named in [error["field"] for error in answer["errors"]]) == (422, True), answer
    assert kernel(routed) == before


async def test_a_daemon_that_does_not_come_up_takes_the_whole_push_back(appliance: Machine) -> None:
    for name in ("ext", "one", "two"):
        appliance.plug(name)
    await appliance.until(lambda status: len(status["interfaces"]) == 4)
    document = wanted(appliance)
    del document["networks"][2]
    await appliance.push(document, "v1:before")
    before = kernel(appliance)
    # Somebody else has the port on which the new network's dnsmasq would listen.
    with appliance.vm.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"ge3")
        thief.bind(("0.0.0.0", 67))
        code, answer = await appliance.try_push(wanted(appliance), "v1:after")
    assert (code, answer["service"]) == (500, "dhcp"), answer
    assert "the former configuration runs again" in answer["detail"]
    assert kernel(appliance) == before
    assert (await appliance.status())["digest"] == "v1:before"
    await appliance.push(wanted(appliance), "v1:after")


HOSTILE = st.sampled_from(
    [
        "",
        "\n",
        "\x00",
        "a\nport=0",
        '"; flush ruleset; "',
        "$(reboot)",
        "{}",
        "ge1",
        "10.0.0.1",
        "::",
        "é",
        "x" * 70_000,
    ]
)
VALUES = (
    HOSTILE | st.integers() | st.none() | st.booleans() | st.floats(allow_nan=False) | st.lists(HOSTILE, max_size=3)
    | st.dictionaries(HOSTILE, HOSTILE, max_size=2)
)  # fmt: skip


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document."""
    if isinstance(document, dict):
        children: Any = document.items()
    elif isinstance(document, list):
        children = enumerate(document)
    else:
        return [path]
    return [path] * bool(path) + [place for key, child in children for place in places(child, (*path, key))]


async def test_whatever_is_sent_the_machine_runs_what_was_accepted_last(routed: Machine) -> None:
    """Values are replaced by hostile ones: a refusal changes nothing, an acceptance is run, nothing ends the agent."""
    loop = asyncio.get_running_loop()
    good = wanted(routed)
    before = kernel(routed)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from(places(good)), VALUES), min_size=1, max_size=3))
    def attack(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        document = copy.deepcopy(good)
        for path, value in changes:
            try:
                target = document
                for part in path[:-1]:
                    target = target[part]
                target[path[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue
        code, answer = asyncio.run_coroutine_threadsafe(routed.try_push(document), loop).result(60)
        if code == 200:
            asyncio.run_coroutine_threadsafe(routed.push(good), loop).result(60)
        else:
            assert code in (400, 413, 422), answer
            assert answer["status"] == code
            if code == 422:
                assert answer["errors"]

    pid = routed.process.pid if routed.process else 0
    await asyncio.to_thread(attack)
    assert routed.process is not None
    assert routed.process.poll() is None
    assert routed.process.pid == pid
    await routed.push(good)
    assert _without_processes(kernel(routed)) == _without_processes(before)


def _without_processes(text: str) -> str:
    """A push that was accepted may have restarted a daemon."""
    return text.rpartition("\n")[0]


class Stream:
    """A TCP connection through the appliance that carries numbered lines both ways until it is told to end."""

    def __init__(self, client: Namespace, server: Namespace, address: str, port: int = 7777) -> None:
        listener = server.socket()
        listener.bind((address, port))
        listener.listen(1)
        self._client = client.socket()
        self._client.settimeout(90)
        self._client.connect((address, port))
        self._peer, self.seen_as = listener.accept()
        listener.close()
        self._peer.settimeout(90)
        self.echoed = 0
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._echo), threading.Thread(target=self._ask)]
        for thread in self._threads:
            thread.start()

    def _echo(self) -> None:
        while data := self._peer.recv(4096):
            self._peer.sendall(data)

    def _ask(self) -> None:
        try:
            while not self._stop.is_set():
                line = f"{self.echoed:09d}\n".encode() * 50
                self._client.sendall(line)
                got = b""
                while len(got) < len(line):
                    got += self._client.recv(4096)
                assert got == line
                self.echoed += 1
        except (OSError, AssertionError) as error:
            self.failure = error
        finally:
            self._client.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Raises what went wrong."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._client.close()
        self._peer.close()
        if self.failure is not None:
            raise self.failure


async def test_a_hundred_pushes_of_something_else_lose_nothing(routed: Machine, hosts: Hosts) -> None:
    outside = hosts.add("outside", "ext", f"{OUTSIDE}/24")
    inside = hosts.add("inside", "one", "10.1.0.5/24", gateway="10.1.0.1")
    plain = hosts.add("plain", "one", "10.1.0.77/24", gateway="10.1.0.1")
    assert pings(plain, OUTSIDE, count=5)
    # One through its floating IP, one through the router's address, one echo a hundredth of a second.
    streams = [Stream(inside, outside, OUTSIDE, 7001), Stream(plain, outside, OUTSIDE, 7002)]
    echo = plain.start("ping", "-n", "-q", "-i", "0.01", OUTSIDE, stdout=-1, stderr=-2)
    try:
        for number in range(100):
            document = wanted(routed)
            document["floating_ips"] += [floating_ip(n) for n in range(6, 6 + number % 7)]
            document["networks"][1]["address_allocations"] += [allocation(n) for n in range(6, 6 + number % 5)]
            if number % 10 == 9:
                del document["networks"][2]
            await routed.push(document, f"v1:{number}")
    finally:
        echo.send_signal(2)
        text = (await asyncio.to_thread(echo.communicate))[0].decode()
        for stream in streams:
            await asyncio.to_thread(stream.end)
    sent, received = (int(text.split(words)[0].split()[-1]) for words in (" packets transmitted", " received"))
    # The last echo may be on its way when the ping ends.
    assert received >= sent - 1, text
    assert [stream.seen_as[0] for stream in streams] == ["203.0.113.105", "203.0.113.2"]
    assert all(stream.echoed > 0 for stream in streams)
