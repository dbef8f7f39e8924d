"""Which services live: real services announce themselves to a real scheduler, and health tells a simulated Neutron."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from astara.scheduler.v1 import presence_pb2
from mariadb_running import MariaDb
from patience import until
from scheduler_running import Client, SchedulerHere
from structlog.testing import capture_logs

from lab.cloud import CloudOptions, Fault, SimulatedCloud
from lab.ports import free_port
from services.common import openstack, presence, process
from services.common.clock import SystemClock
from services.common.metrics import MetricsSettings
from services.common.rpc import RpcServer, open_channel
from services.common.settings import CommonSettings, GrpcSettings, Settings, load
from services.health import service as health
from services.health.agents import Agents
from services.rpcapi import __main__ as rpcapi
from services.rpcapi.settings import RpcapiSettings

INTERVAL = 0.2
TELLING = "PUT", "/v2.0/astara-services/{deployment}"
LOOKING = "GET", "/v2.0/extensions/{alias}"

Start = Callable[..., Awaitable[asyncio.Event]]


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[SchedulerHere]:
    one = SchedulerHere(tmp_path, presence_interval=INTERVAL)
    await one.start()
    yield one
    await one.end()


@pytest.fixture
async def client(scheduler: SchedulerHere) -> AsyncIterator[Client]:
    async with Client(scheduler.address) as one:
        await one.leading()
        yield one


@pytest.fixture(params=[CloudOptions(plugin=True)], ids=["plugin"])
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedCloud]:
    one = SimulatedCloud(request.param)
    one.seed()
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def start(tmp_path: Path, scheduler: SchedulerHere) -> AsyncIterator[Start]:
    """Runs a service's main until the event that it answers with is set, at the latest to the test's end."""
    running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def begin(main: Any, classes: tuple[type, ...], text: str, host: str, extra: Any = None) -> asyncio.Event:
        file = tmp_path / f"{host}.ini"
        file.write_text(f"[DEFAULT]\nhost = {host}\n[grpc]\nscheduler = {scheduler.address}\n{text}")
        settings: Settings = load("astara", ["--config-file", str(file)], (CommonSettings, *classes), extra=extra)
        stop = asyncio.Event()
        running.append((stop, asyncio.create_task(main(settings, stop))))
        return stop

    yield begin
    for stop, _ in running:
        stop.set()
    await asyncio.wait_for(asyncio.gather(*(task for _, task in running)), 60)


@pytest.fixture
def start_rpcapi(start: Start) -> Start:
    async def begin(host: str = "api") -> asyncio.Event:
        text = f"[rpcapi]\nauth = none\nlisten = 127.0.0.1\nport = {free_port()}\ngrpc_listen = 127.0.0.1:0\n"
        return await start(rpcapi.run, (GrpcSettings, MetricsSettings, RpcapiSettings), text, host)

    return begin


def credentials(cloud: SimulatedCloud) -> str:
    return (
        f"[openstack]\nauth_url = {cloud.auth_url}\nusername = astara\npassword = lab\nproject_name = service\n"
        "user_domain_id = default\nproject_domain_id = default\n"
    )


@pytest.fixture
def start_health(start: Start, cloud: SimulatedCloud) -> Start:
    async def begin(host: str = "checker") -> asyncio.Event:
        text = f"[claim]\nclaim = all\n[health]\nlisten = 127.0.0.1:0\n{credentials(cloud)}"
        return await start(health.main, health.SETTINGS, text, host, openstack.register)

    return begin


@asynccontextmanager
async def telling(tmp_path: Path, scheduler: SchedulerHere, cloud: SimulatedCloud) -> AsyncIterator[Agents]:
    """What health tells Neutron with, which looks for the extension often."""
    file = tmp_path / "telling.ini"
    file.write_text(credentials(cloud))
    classes = (CommonSettings, openstack.OpenStackSettings)
    settings = load("astara-health", ["--config-file", str(file)], classes, extra=openstack.register)
    connection = openstack.connect(settings)
    async with open_channel(GrpcSettings(scheduler=scheduler.address)) as channel:
        agents = Agents(channel, connection, "astara", SystemClock(), look_again=INTERVAL)
        running = asyncio.create_task(agents.run())
        try:
            yield agents
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            agents.close()


def calls(cloud: SimulatedCloud, which: tuple[str, str]) -> int:
    return cloud.calls.counts.get(("neutron", *which), 0)


def told(cloud: SimulatedCloud) -> dict[str, dict[str, Any]]:
    return {f"{one['binary']} {one['host']}": one for one in cloud.network.astara.services.get("astara", [])}


def said(logs: list[Any]) -> list[tuple[str, str]]:
    return [(one["log_level"], one["event"]) for one in logs if "told to Neutron" in one["event"]]


async def test_a_service_is_known_with_what_it_says_of_itself(client: Client, start_rpcapi: Start) -> None:
    await start_rpcapi("api-1")

    async def known() -> bool:
        return "rpcapi api-1" in await client.services()

    await until(known)
    found = await client.services()
    assert set(found) == {"rpcapi api-1", "scheduler test"}
    shown = found["rpcapi api-1"]
    assert (shown.alive, shown.version) == (True, process.version())
    assert shown.address.startswith("127.0.0.1:")
    assert shown.started_at.ToSeconds() <= shown.last_seen.ToSeconds()


async def test_a_service_that_stops_turns_dead_and_stays_listed(client: Client, start_rpcapi: Start) -> None:
    stop = await start_rpcapi()

    async def alive() -> bool:
        return (await client.services()).get("rpcapi api", presence_pb2.ServiceInfo()).alive

    await until(alive)
    stop.set()

    async def dead() -> bool:
        return not (await client.services())["rpcapi api"].alive

    await until(dead)
    assert (await client.services())["scheduler test"].alive


async def test_after_a_restart_of_the_scheduler_everybody_announces_itself_again(
    scheduler: SchedulerHere, client: Client, start_rpcapi: Start
) -> None:
    await start_rpcapi()

    async def known() -> bool:
        return "rpcapi api" in await client.services()

    await until(known)
    started_at = (await client.services())["rpcapi api"].started_at
    await scheduler.end()
    await scheduler.start()
    await client.leading()
    await until(known)
    assert (await client.services())["rpcapi api"].started_at == started_at


async def test_the_leader_and_those_that_stand_by_are_known(tmp_path: Path, mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    first = SchedulerHere(tmp_path, "one", database=url, presence_interval=INTERVAL)
    second = SchedulerHere(tmp_path, "two", first.address, database=url, presence_interval=INTERVAL)
    await first.start()
    async with Client(first.address) as client:
        await client.leading()
        await second.start()

        async def both() -> bool:
            found = await client.services()
            return set(found) == {"scheduler one", "scheduler two"} and all(one.alive for one in found.values())

        await until(both)
    await second.end()
    await first.end()


async def test_who_does_not_lead_neither_hears_nor_tells(tmp_path: Path, mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    first, second = (SchedulerHere(tmp_path, name, database=url) for name in ("one", "two"))
    await first.start()
    async with Client(first.address) as leader, Client(second.address) as standby:
        await leader.leading()
        await second.start()
        for call, request in (
            (standby.presence.ListServices, presence_pb2.ListServicesRequest()),
            (standby.presence.Announce, presence_pb2.AnnounceRequest(service="worker", host="w")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request, wait_for_ready=True)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await second.end()
    await first.end()


async def test_announcements_that_cannot_be_taken_are_refused_with_the_reason(tmp_path: Path) -> None:
    scheduler = SchedulerHere(tmp_path, scheduler=f"127.0.0.1:{free_port()}", presence_limit=10)
    await scheduler.start()
    async with Client(scheduler.address) as client:
        await client.leading()
        with pytest.raises(grpc.aio.AioRpcError, match="host: must be given") as refused:
            await client.presence.Announce(presence_pb2.AnnounceRequest(service="worker"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for number in range(10):
            await client.presence.Announce(presence_pb2.AnnounceRequest(service="worker", host=f"w{number}"))
        with pytest.raises(grpc.aio.AioRpcError, match="presence_limit") as refused:
            await client.presence.Announce(presence_pb2.AnnounceRequest(service="worker", host="one too many"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await scheduler.end()


async def test_an_outage_of_the_scheduler_is_logged_once_and_ends_nothing() -> None:
    """Against a scheduler from before, too, which knows nothing of announcements."""
    older = RpcServer(GrpcSettings(), "127.0.0.1:0", ["astara.scheduler.v1.WorkService"])
    await older.start()
    host, _, port = older.address.rpartition(":")
    with capture_logs() as logs:
        async with open_channel(GrpcSettings(scheduler=older.address)) as channel:
            own = presence.announcement("worker", "w1", "127.0.0.1:1")
            async with presence.announced(channel, own):
                await until(lambda: any("UNIMPLEMENTED" in one.get("reason", "") for one in logs))
                await older.stop(0)
                listening = GrpcSettings(), f"{host}:{port}", ["astara.scheduler.v1.WorkService"]
                again = RpcServer(*listening)
                taken: list[presence_pb2.AnnounceRequest] = []

                async def announce(request: presence_pb2.AnnounceRequest, _context: Any) -> Any:
                    taken.append(request)
                    return presence_pb2.AnnounceResponse(interval_milliseconds=50)

                handler = grpc.unary_unary_rpc_method_handler(
                    announce,
                    request_deserializer=presence_pb2.AnnounceRequest.FromString,
                    response_serializer=presence_pb2.AnnounceResponse.SerializeToString,
                )
                service = grpc.method_handlers_generic_handler(
                    "astara.scheduler.v1.PresenceService", {"Announce": handler}
                )
                again.server.add_generic_rpc_handlers((service,))
                await again.start()
                await until(lambda: len(taken) > 3)
                await again.stop(0)
    assert all(one == own for one in taken)
    assert [one["event"] for one in logs if "announced" in one["event"]] == [
        "not announced to the scheduler",
        "announced to the scheduler again",
    ]


async def test_neutron_shows_who_lives_and_no_more_who_does_not(
    cloud: SimulatedCloud, client: Client, start_rpcapi: Start, start_health: Start
) -> None:
    stop = await start_rpcapi()
    await start_health()
    everybody = {"astara-health checker", "astara-rpcapi api", "astara-scheduler test"}
    await until(lambda: set(told(cloud)) == everybody)
    shown = (await client.services())["rpcapi api"]
    assert told(cloud)["astara-rpcapi api"] == {
        "binary": "astara-rpcapi",
        "host": "api",
        "started_at": shown.started_at.ToDatetime().isoformat() + "+00:00",
        "configurations": {"version": process.version(), "address": shown.address},
    }
    stop.set()
    await until(lambda: set(told(cloud)) == everybody - {"astara-rpcapi api"})


async def test_of_several_healths_the_one_that_is_listened_to_tells_neutron(
    cloud: SimulatedCloud, client: Client, start_health: Start
) -> None:
    stop = await start_health("first")
    await until(lambda: "astara-health first" in told(cloud))
    looked = calls(cloud, LOOKING)
    await start_health("second")
    await until(lambda: "astara-health second" in told(cloud))
    # Who tells has looked whether Neutron takes it.
    assert calls(cloud, LOOKING) == looked == 1
    stop.set()
    await until(lambda: calls(cloud, LOOKING) == 2)
    await until(lambda: set(told(cloud)) == {"astara-health second", "astara-scheduler test"})


@pytest.mark.parametrize("cloud", [CloudOptions()], indirect=True, ids=["no plugin"])
async def test_a_neutron_without_the_extension_is_told_nothing(
    tmp_path: Path, cloud: SimulatedCloud, scheduler: SchedulerHere, client: Client
) -> None:
    with capture_logs() as logs:
        async with telling(tmp_path, scheduler, cloud) as agents:
            agents.listened_to(True)
            await until(lambda: calls(cloud, LOOKING) > 2)
            assert calls(cloud, TELLING) == 0
            assert [one for one in logs if one["log_level"] == "warning"] == []


async def test_a_neutron_that_gets_the_extension_later_is_told_from_then_on(
    tmp_path: Path, cloud: SimulatedCloud, scheduler: SchedulerHere, client: Client
) -> None:
    missing = cloud.faults.add(Fault("error", "neutron", "GET", "/extensions/astara-services", status=404))
    async with telling(tmp_path, scheduler, cloud) as agents:
        agents.listened_to(True)
        await until(lambda: missing.hits > 2)
        assert told(cloud) == {}
        cloud.faults.clear()
        await until(lambda: "astara-scheduler test" in told(cloud))


async def test_what_neutron_refuses_is_logged_once_and_told_again(
    tmp_path: Path, cloud: SimulatedCloud, scheduler: SchedulerHere, client: Client
) -> None:
    fault = cloud.faults.add(Fault("error", "neutron", "PUT", "/astara-services/", status=500))
    with capture_logs() as logs:
        async with telling(tmp_path, scheduler, cloud) as agents:
            agents.listened_to(True)
            await until(lambda: fault.hits > 2)
            cloud.faults.clear()
            await until(lambda: "astara-scheduler test" in told(cloud))
            # The plugin is taken out, and put in again.
            await until(lambda: len(said(logs)) == 2)
            gone = cloud.faults.add(Fault("error", "neutron", "*", "astara-services", status=404))
            cloud.network.astara.services.clear()
            await until(lambda: gone.hits > 2)
            cloud.faults.clear()
            await until(lambda: len(said(logs)) == 4)
    refused, again = ("warning", "services are not told to Neutron"), ("info", "services are told to Neutron")
    assert said(logs) == [refused, again, refused, again]
    assert "astara-scheduler test" in told(cloud)


async def test_who_is_not_listened_to_any_more_tells_no_more(
    tmp_path: Path, cloud: SimulatedCloud, scheduler: SchedulerHere, client: Client, start_rpcapi: Start
) -> None:
    async with telling(tmp_path, scheduler, cloud) as agents:
        agents.listened_to(True)
        await until(lambda: "astara-scheduler test" in told(cloud))
        agents.listened_to(False)
        before = calls(cloud, TELLING)
        assert before
        await start_rpcapi()

        async def dies() -> bool:
            info = (await client.services()).get("rpcapi api")
            return info is not None and info.last_seen.ToMilliseconds() - info.started_at.ToMilliseconds() > 1000

        await until(dies)
        assert calls(cloud, TELLING) <= before + 1
