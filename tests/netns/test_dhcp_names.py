"""Instances find each other by name, on their own network and no other."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from network_clients import resolve

from lab.appliance_machine import ORCHESTRATOR, Hosts, Machine, subnet, uuid_of
from lab.wires import Namespace

pytest_plugins = ("standing_appliance",)


def network(machine: Machine, name: str, number: int, hosts: dict[str, list[str]], **more: Any) -> dict[str, Any]:
    """10.NUMBER.0.0/24 and 2001:db8:NUMBER::/64 with hosts by name; `more` replaces members of the IPv4 subnet."""
    v4, v6 = f"10.{number}.0", f"2001:db8:{number}:"
    made = machine.network(
        name, "internal", f"{v4}.1/24", f"{v6}:1/64",
        subnets=[
            subnet(f"{name}4", f"{v4}.0/24", f"{v4}.1", dhcp=True) | more,
            subnet(f"{name}6", f"{v6}:/64", f"{v6}:1", ipv6_address_mode="slaac", ipv6_ra_mode="slaac"),
        ],
        address_allocations=[
            {"mac_address": f"fa:2{number}:00:00:00:{index:02x}", "hostname": host, "device_id": uuid_of(host),
             "ip_addresses": dict.fromkeys(addresses, True)}
            for index, (host, addresses) in enumerate(hosts.items(), 5)
        ],
    )  # fmt: skip
    made["interface"]["ifname"] = f"ge{number}"
    return made


async def test_names_lead_to_all_addresses_of_a_host_and_addresses_to_its_name(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, "red", 1, {"web": ["10.1.0.5", "2001:db8:1::5"]})]})
    host = neighbours.add("host", "red", "10.1.0.9/24", "2001:db8:1::9/64")
    for server in ("10.1.0.1", "2001:db8:1::1"):
        assert await resolve(host, server, "web.openstacklocal") == ["10.1.0.5"]
        assert await resolve(host, server, "web.openstacklocal", "AAAA") == ["2001:db8:1::5"]
        for address in ("10.1.0.5", "2001:db8:1::5"):
            assert await resolve(host, server, ip_address(address).reverse_pointer, "PTR") == ["web.openstacklocal"]


async def test_names_come_and_go_with_their_hosts(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, "red", 1, {"web": ["10.1.0.5"]})]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    assert await resolve(host, "10.1.0.1", "web.openstacklocal") == ["10.1.0.5"]
    await machine.push({"networks": [network(machine, "red", 1, {"www": ["10.1.0.5"]})]})
    async with asyncio.timeout(90):
        # dnsmasq reads its files when it gets to it.
        while await resolve(host, "10.1.0.1", "www.openstacklocal") != ["10.1.0.5"]:
            pass
    assert await resolve(host, "10.1.0.1", "web.openstacklocal") is None


async def test_another_networks_names_are_not_told(machine: Machine, neighbours: Hosts):
    red, blue = network(machine, "red", 1, {"web": ["10.1.0.5"]}), network(machine, "blue", 2, {"db": ["10.2.0.5"]})
    await machine.push({"networks": [red, blue]})
    host = neighbours.add("host", "red", "10.1.0.9/24", gateway="10.1.0.1")
    assert await resolve(host, "10.1.0.1", "web.openstacklocal") == ["10.1.0.5"]
    assert await resolve(host, "10.1.0.1", "db.openstacklocal") is None
    assert await resolve(host, "10.1.0.1", ip_address("10.2.0.5").reverse_pointer, "PTR") is None


async def test_a_name_with_dots_stays_in_the_domain(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, "red", 1, {"www.example.org": ["10.1.0.5"]})]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    assert await resolve(host, "10.1.0.1", "www.openstacklocal") == ["10.1.0.5"]
    assert await resolve(host, "10.1.0.1", "www.example.org") is None


async def test_a_network_without_name_servers_knows_nobody_else(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, "red", 1, {})]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    assert await resolve(host, "10.1.0.1", "www.example.org") is None


async def test_name_servers_that_are_the_router_itself_are_not_asked_in_a_circle(machine, neighbours):
    red = network(machine, "red", 1, {}, dns_nameservers=["10.2.0.1"])
    blue = network(machine, "blue", 2, {}, dns_nameservers=["10.1.0.1"])
    await machine.push({"networks": [red, blue]})
    host = neighbours.add("host", "red", "10.1.0.9/24", gateway="10.1.0.1")
    assert await resolve(host, "10.1.0.1", "www.example.org") is None


async def test_the_version_of_what_answers_is_not_told(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, "red", 1, {})]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    for name in ("version.bind", "authors.bind", "copyright.bind"):
        assert not await resolve(host, "10.1.0.1", name, "TXT", dns_class=3)


class Upstream:
    """A name server of the tenant's own: it knows every name by one IPv6 address."""

    def __init__(self, host: Namespace) -> None:
        self.asked: list[bytes] = []
        self._socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("0.0.0.0", 53))

    def close(self) -> None:
        self._socket.close()

    async def answer(self, address: str) -> None:
        """Answer whoever asks."""
        loop = asyncio.get_running_loop()
        while True:
            query, where = await loop.sock_recvfrom(self._socket, 2048)
            end = query.index(b"\0", 12) + 5
            self.asked.append(query[12:end])
            record = b"\xc0\x0c\0\x1c\0\1\0\0\0\x3c\0\x10" + ip_address(address).packed
            head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            await loop.sock_sendto(self._socket, head + query[12:end] + record, where)


@contextlib.asynccontextmanager
async def answering(upstream: Upstream, address: str) -> AsyncIterator[None]:
    task = asyncio.create_task(upstream.answer(address))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def upstream(neighbours: Hosts) -> Iterator[Upstream]:
    made = Upstream(neighbours.add("resolver", "red", "10.1.0.53/24"))
    yield made
    made.close()


async def test_other_names_are_asked_of_the_subnets_name_servers(machine, neighbours, upstream):
    await machine.push({"networks": [network(machine, "red", 1, {}, dns_nameservers=["10.1.0.53"])]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    async with answering(upstream, "2001:db8:ffff::1"):
        assert await resolve(host, "10.1.0.1", "www.example.org", "AAAA") == ["2001:db8:ffff::1"]
        assert await resolve(host, "10.1.0.1", "nobody.openstacklocal", "AAAA") is None
    assert len(upstream.asked) == 1


async def test_no_answer_leads_into_the_management_network(machine, neighbours, upstream):
    await machine.push({"networks": [network(machine, "red", 1, {}, dns_nameservers=["10.1.0.53"])]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    async with answering(upstream, ORCHESTRATOR):
        assert await resolve(host, "10.1.0.1", "www.example.org", "AAAA") is None
    assert len(upstream.asked) == 1


async def test_a_name_server_on_the_management_network_is_not_asked(machine, neighbours):
    wanted = network(machine, "red", 1, {})
    wanted["subnets"][1]["dns_nameservers"] = [ORCHESTRATOR]
    await machine.push({"networks": [wanted]})
    host = neighbours.add("host", "red", "10.1.0.9/24")
    with machine.orchestrator.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener:
        listener.bind((ORCHESTRATOR, 53))
        listener.setblocking(False)
        assert await resolve(host, "10.1.0.1", "www.example.org", "AAAA") is None
        with pytest.raises(BlockingIOError):
            listener.recv(512)
