"""Instances' metadata requests, from the instance to the orchestrator, with the facts that only the appliance knows."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from network_clients import connect, http, read_answer
from standing_appliance import plug_again

from lab.appliance_machine import INSTANCE, ORCHESTRATOR, RESOURCE, TOKEN, Hosts, Machine, subnet, uuid_of
from lab.wires import Namespace

pytest_plugins = ("standing_appliance",)

V4, V6 = "169.254.169.254", "fe80::a9fe:a9fe"
MAC = "fa:20:00:00:00:05"
PORT = 9697


class Orchestrator:
    """Stands for the metadata service: notes what arrives, and answers what `reply` says."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._runner: web.AppRunner | None = None

    async def start(self, host: Namespace) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        listener = host.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ORCHESTRATOR, PORT))
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        self.bodies.append(await request.read())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return web.Response(text=f"metadata of {request.headers['X-Forwarded-For']}")


@pytest.fixture
async def orchestrator(machine: Machine) -> AsyncIterator[Orchestrator]:
    made = Orchestrator()
    await made.start(machine.orchestrator)
    yield made
    made.gate.set()
    await made.stop()


def network(machine: Machine, name: str, number: int, *allocations: dict[str, Any], mtu: int = 1500) -> dict[str, Any]:
    """The network 10.NUMBER.0.0/24."""
    made = machine.network(
        name, "internal", f"10.{number}.0.1/24",
        subnets=[subnet(name, f"10.{number}.0.0/24", f"10.{number}.0.1", dhcp=True)],
        address_allocations=list(allocations),
    )  # fmt: skip
    made["interface"] |= {"ifname": f"ge{number}", "mtu": mtu}
    return made


def allocation(mac: str, *addresses: str) -> dict[str, Any]:
    return {"mac_address": mac, "hostname": "host", "ip_addresses": dict.fromkeys(addresses, True)}


@pytest.fixture
async def served(machine: Machine) -> Machine:
    """The appliance, serving both of its networks."""
    await machine.push({"networks": both(machine)})
    return machine


def both(machine: Machine) -> list[dict[str, Any]]:
    return [network(machine, "red", 1, allocation(MAC, "10.1.0.5")), network(machine, "blue", 2)]


@pytest.fixture
def red(neighbours: Hosts, served: Machine) -> Namespace:
    return neighbours.add("red", "red", "10.1.0.5/24", gateway="10.1.0.1", mac=MAC)


@pytest.fixture
def blue(neighbours: Hosts, served: Machine) -> Namespace:
    return neighbours.add("blue", "blue", "10.2.0.5/24", gateway="10.2.0.1")


async def test_a_request_arrives_with_network_source_and_proof(orchestrator, red):
    answer = await http(red, V4, "/latest/meta-data/?a=%2F&b", method="PUT", body=b"password")
    assert (answer.status, answer.body) == (200, "metadata of 10.1.0.5")
    asked = orchestrator.asked[0]
    assert (asked.method, asked.raw_path, orchestrator.bodies) == ("PUT", "/latest/meta-data/?a=%2F&b", [b"password"])
    facts = {name: value for name, value in asked.headers.items() if name.startswith("X-")}
    assert facts == {
        "X-Astara-Deployment": "test", "X-Astara-Resource": RESOURCE, "X-Astara-Slot": "0",
        "X-Astara-Instance": INSTANCE, "X-Astara-Network": uuid_of("red"), "X-Forwarded-For": "10.1.0.5",
    }  # fmt: skip
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"


async def test_each_network_is_told_apart_though_addresses_may_be_the_same(orchestrator, served, red, blue):
    await http(red, V4)
    await http(blue, V4)
    assert [asked.headers["X-Astara-Network"] for asked in orchestrator.asked] == [uuid_of("red"), uuid_of("blue")]


FORGED = [
    ("X-Forwarded-For", "10.2.0.9"), ("X-Astara-Network", "blue"), ("x-astara-resource", "mine"),
    ("X_Astara_Slot", "9"), ("X-Instance-ID", "another"), ("X-Instance-ID-Signature", "00"), ("X-Tenant-ID", "another"),
    ("Authorization", "Bearer stolen"), ("Forwarded", "for=10.2.0.9"), ("X-Real-IP", "10.2.0.9"),
    ("X-Lab-Source-Address", "10.2.0.9"), ("Connection", "X-Forwarded-For, close"),
]  # fmt: skip


async def test_forged_headers_are_gone(orchestrator, red):
    assert (await http(red, V4, headers=FORGED)).status == 200
    headers = orchestrator.asked[0].headers
    assert headers.getall("X-Forwarded-For") == ["10.1.0.5"]
    assert headers.getall("X-Astara-Network") == [uuid_of("red")]
    assert headers.getall("Authorization") == [f"Bearer {TOKEN}"]
    left = {name.lower().replace("_", "-") for name in headers}
    assert not left & {"x-instance-id", "x-instance-id-signature", "x-tenant-id", "forwarded", "x-real-ip",
                       "x-lab-source-address"}  # fmt: skip
    assert headers.getall("X-Astara-Resource") == [RESOURCE]
    assert headers.getall("X-Astara-Slot") == ["0"]


async def test_who_asks_from_a_link_local_address_is_known_by_the_mac_address(orchestrator, red):
    answer = await http(red, V6)
    assert (answer.status, answer.body) == (200, "metadata of 10.1.0.5")
    assert orchestrator.asked[0].headers["X-Astara-Network"] == uuid_of("red")


async def test_a_link_local_address_that_is_no_ports_gets_nothing(orchestrator, blue):
    assert (await http(blue, V6)).status == 404
    assert orchestrator.asked == []


async def test_a_port_that_comes_later_is_known_then_and_not_when_it_is_gone(orchestrator, served, neighbours):
    late = neighbours.add("late", "blue", mac="fa:20:00:00:00:77")
    await served.push(
        {"networks": [both(served)[0], network(served, "blue", 2, allocation("fa:20:00:00:00:77", "10.2.0.77"))]}
    )
    assert (await http(late, V6)).body == "metadata of 10.2.0.77"
    await served.push({"networks": both(served)})
    assert (await http(late, V6)).status == 404


async def test_an_orchestrator_that_is_away_is_503_and_found_when_it_is_back(orchestrator, served, red, said):
    await orchestrator.stop()
    for _ in range(3):
        answer = await http(red, V4)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert said().count("metadata service at") == 1
    await orchestrator.start(served.orchestrator)
    assert (await http(red, V4)).status == 200


async def test_many_at_once_are_bounded_and_none_is_lost(orchestrator, served, neighbours):
    askers = [
        neighbours.add(f"asker{number}", "red", f"10.1.0.{number + 10}/24", gateway="10.1.0.1") for number in range(4)
    ]
    orchestrator.gate.clear()
    requests = [asyncio.create_task(http(host, V4)) for host in askers for _ in range(8)]
    async with asyncio.timeout(90):
        while orchestrator.running < 16:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
    orchestrator.gate.set()
    assert [(await request).status for request in requests] == [200] * 32
    assert orchestrator.most == 16


async def test_one_instance_alone_cannot_take_all(orchestrator, red, neighbours):
    other = neighbours.add("other", "red", "10.1.0.6/24", gateway="10.1.0.1")
    orchestrator.gate.clear()
    greedy = [asyncio.create_task(http(red, V4)) for _ in range(20)]
    modest = asyncio.create_task(http(other, V4))
    async with asyncio.timeout(90):
        while orchestrator.running < 9:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
    orchestrator.gate.set()
    assert (await modest).status == 200
    answers = sorted([(await request).status for request in greedy])
    assert answers == [200] * 8 + [429] * 12


async def test_a_network_without_the_means_for_another_is_not_kept_waiting(orchestrator, served, neighbours, blue):
    askers = [
        neighbours.add(f"asker{number}", "red", f"10.1.0.{number + 10}/24", gateway="10.1.0.1") for number in range(3)
    ]
    orchestrator.gate.clear()
    busy = [asyncio.create_task(http(host, V4)) for host in askers for _ in range(8)]
    async with asyncio.timeout(90):
        while orchestrator.running < 16:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
    request = asyncio.create_task(http(blue, V4))
    async with asyncio.timeout(90):
        while orchestrator.running < 17:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
    orchestrator.gate.set()
    assert (await request).status == 200
    assert {(await item).status for item in busy} == {200}


async def test_another_networks_coming_and_going_leaves_a_running_request_alone(orchestrator, served, red):
    orchestrator.gate.clear()
    request = asyncio.create_task(http(red, V4))
    async with asyncio.timeout(90):
        while not orchestrator.running:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
    await served.push({"networks": both(served)[:1]})
    await served.push({"networks": both(served)})
    changed = network(served, "red", 1, allocation(MAC, "10.1.0.5"), allocation("fa:20:00:00:00:06", "10.1.0.6"))
    await served.push({"networks": [changed, both(served)[1]]})
    orchestrator.gate.set()
    assert (await request).status == 200


async def test_one_connection_carries_many_requests(orchestrator, red):
    reader, writer = await connect(red, V4, 80)
    for path in ("/one", "/two", "/three"):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {V4}\r\n\r\n".encode())
        assert (await read_answer(reader)).status == 200
    writer.close()
    assert [asked.path for asked in orchestrator.asked] == ["/one", "/two", "/three"]


async def test_what_is_no_http_is_refused_without_a_word_in_the_log(orchestrator, red, said):
    for nonsense in (b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"):
        reader, writer = await connect(red, V4, 80)
        writer.write(nonsense)
        assert b" 200 " not in await reader.read()
        writer.close()
    assert orchestrator.asked == []
    assert said() == ""


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"Content-Length: {2**20}\r\n", b""),
        ("Transfer-Encoding: chunked\r\n", b"20000\r\n" + bytes(0x20000) + b"\r\n0\r\n\r\n"),
        (f"X-Long: {'x' * 10_000}\r\n", b""),
        ("".join(f"X-Many-{number}: 1\r\n" for number in range(100)), b""),
    ],
)
async def test_too_large_a_request_goes_no_further(orchestrator, red, head, body):
    reader, writer = await connect(red, V4, 80)
    writer.write(f"PUT / HTTP/1.1\r\nHost: {V4}\r\n{head}\r\n".encode() + body)
    assert (await read_answer(reader)).status in (400, 413)
    writer.close()
    assert orchestrator.asked == []


async def test_connections_that_say_nothing_make_room_for_those_that_do(orchestrator, red, neighbours):
    silent = [await connect(red, V4, 80) for _ in range(260)]
    assert (await http(red, V4)).status == 200
    for _, writer in silent:
        writer.close()


async def test_what_runs_here_is_not_told(orchestrator, blue):
    for address in (V4, V6):
        assert "aiohttp" not in str((await http(blue, address)).headers).lower()


async def test_the_ports_of_the_listeners_are_closed_to_all_other_ways(orchestrator, served, red):
    ways = (("10.1.0.1", 9601), ("10.1.0.1", 9602), ("10.2.0.1", 9602), ("10.2.0.1", 9601))
    asked = (http(red, address, port=port, seconds=2) for address, port in ways)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, OSError | TimeoutError) for answer in answers), answers
    assert orchestrator.asked == []


async def test_listeners_are_back_after_the_agents_restart(orchestrator, served, red):
    for number in (signal.SIGTERM, signal.SIGKILL):
        await served.restart(number)
        assert (await http(red, V4)).status == 200


async def test_a_network_that_goes_takes_its_listener_along(orchestrator, served, red):
    await served.push({"networks": both(served)[1:]})
    with pytest.raises((OSError, TimeoutError)):
        await http(red, V4, seconds=2)


async def test_requests_are_heard_on_an_interface_that_was_plugged_again(orchestrator, served, red):
    await plug_again(served, "red")
    for address in (V4, V6):
        assert (await http(red, address)).status == 200
