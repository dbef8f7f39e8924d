"""Certificates that are replaced under running services: nobody restarts, no call fails, no event is lost."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
from astara.event.v1 import event_pb2
from astara.scheduler.v1 import query_pb2, query_pb2_grpc
from authority import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mounted_secret import MountedSecret
from patience import until
from scheduler_running import ROOT, SchedulerProcess
from structlog.testing import capture_logs

from lab.ports import free_port
from services.common.clock import SystemClock
from services.common.following import FollowingChannel
from services.common.publisher import Publisher
from services.common.rpc import RpcServer, open_channel
from services.common.settings import GrpcSettings

TAKEN = "calls are made with the new certificates"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "old")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "new")


def mounted(folder: Path, signer: Authority, *believed: Authority) -> MountedSecret:
    secret = MountedSecret(folder)
    secret.pair(signer, *believed)
    return secret


def settings(secret: MountedSecret) -> GrpcSettings:
    return GrpcSettings(**secret.options())


async def ask(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@contextlib.asynccontextmanager
async def asking(ask_once: Callable[[], Awaitable[None]]) -> AsyncIterator[list[int]]:
    """Ask one time after the other; the first question that fails fails the test."""
    answers = [0]

    async def run() -> None:
        while True:
            await ask_once()
            answers[0] += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        yield answers
        assert not task.done(), task.exception()
        # Whatever the last change did, somebody asked after it.
        before = answers[0]
        await until(lambda: task.done() or answers[0] > before + 2)
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def moved(channel: FollowingChannel, change: Callable[[], None]) -> None:
    """Change the files, and wait until new calls begin with them."""
    before = channel.current
    change()
    await until(lambda: channel.current is not before)


async def test_a_client_whose_certificate_is_not_accepted_any_more_works_once_it_is_renewed(
    old: Authority, tmp_path: Path
) -> None:
    own = MountedSecret(tmp_path / "client")
    own.pair(old, expired=True)
    server = RpcServer(settings(mounted(tmp_path / "server", old)), "127.0.0.1:0")
    async with server, open_channel(settings(own), server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await moved(channel, lambda: own.pair(old))
        await ask(channel)


async def test_streams_and_calls_go_on_while_the_authority_is_replaced(
    old: Authority, new: Authority, tmp_path: Path
) -> None:
    ours, theirs = mounted(tmp_path / "client", old), mounted(tmp_path / "server", old)
    server = RpcServer(settings(theirs), "127.0.0.1:0")
    async with server, open_channel(settings(ours), server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await stream.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with asking(lambda: ask(channel)):
            for signer, believed in ((old, (old, new)), (new, (old, new)), (new, (new,))):
                theirs.pair(signer, *believed)
                await moved(channel, lambda signer=signer, believed=believed: ours.pair(signer, *believed))
        # The stream is the one of the beginning; its channel stays for it alone, those between are closed.
        await until(lambda: len(channel._former) == 1)
        await server.set_serving(False)
        assert (await stream.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stream.cancel()
        await until(lambda: not channel._former)


async def test_a_channel_that_is_closed_ends_what_runs_on_former_ones(old: Authority, tmp_path: Path) -> None:
    ours, theirs = mounted(tmp_path / "client", old), mounted(tmp_path / "server", old)
    async with RpcServer(settings(theirs), "127.0.0.1:0") as server:
        channel = open_channel(settings(ours), server.address)
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await stream.read()
        await moved(channel, lambda: ours.pair(old))
        assert not stream.done()
        await channel.close()
        assert await stream.code() is grpc.StatusCode.CANCELLED
        assert not channel._former


async def test_certificates_that_nobody_accepts_yet_replace_none_that_work(
    old: Authority, new: Authority, tmp_path: Path
) -> None:
    ours, theirs = mounted(tmp_path / "client", old, old, new), mounted(tmp_path / "server", old)
    server = RpcServer(settings(theirs), "127.0.0.1:0")
    async with server, open_channel(settings(ours), server.address) as channel:
        await ask(channel)
        first = channel.current
        async with asking(lambda: ask(channel)):
            ours.pair(new, old, new)
            await until(lambda: channel._next_looks > 2)
            assert channel.current is first
            await moved(channel, lambda: theirs.pair(old, old, new))


async def test_a_broken_pair_changes_nothing_and_is_named(old: Authority, tmp_path: Path) -> None:
    ours, theirs = mounted(tmp_path / "client", old), mounted(tmp_path / "server", old)
    server = RpcServer(settings(theirs), "127.0.0.1:0")
    with capture_logs() as logs:
        async with server, open_channel(settings(ours), server.address) as channel:
            await ask(channel)
            for secret in (ours, theirs):
                secret.put(tls_crt=b"half of a certif", tls_key=b"", ca_crt=old.ca.read_bytes())
            await until(lambda: [line for line in logs if ours.path("tls.crt") in line.get("reason", "")])

            async def named() -> bool:
                # A server looks when somebody connects; such a one is served with the former pair.
                pair = old.issue("another")
                other = GrpcSettings(tls_cert=pair[0], tls_key=pair[1], tls_ca=str(old.ca))
                async with open_channel(other, server.address) as another:
                    await ask(another)
                return any(theirs.path("tls.crt") in line.get("reason", "") for line in logs)

            await until(named)
            await ask(channel)
            theirs.pair(old)
            await moved(channel, lambda: ours.pair(old))
            await ask(channel)
    assert len([line for line in logs if line["log_level"] == "error"]) == 2


class Rpcapi:
    """A process of rpcapi with HTTPS."""

    def __init__(self, folder: Path, secret: MountedSecret, scheduler: str) -> None:
        self.port = free_port()
        self.log = folder / "rpcapi.log"
        config = folder / "rpcapi.conf"
        lines = [
            "[DEFAULT]", "log_format = json", "[grpc]", f"scheduler = {scheduler}",
            *(f"{name} = {path}" for name, path in secret.options().items()),
            "[rpcapi]", "auth = none", "listen = 127.0.0.1", f"port = {self.port}", "query_rate = 100000",
            f"grpc_listen = 127.0.0.1:{free_port()}",
            f"tls_cert = {secret.path('tls.crt')}", f"tls_key = {secret.path('tls.key')}",
        ]  # fmt: skip
        config.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "services.rpcapi", "--config-file", str(config)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)

    def taken(self) -> int:
        return self.log.read_text().count(TAKEN)

    async def get(self, path: str, *believed: Authority, host: str = "localhost") -> int:
        """The status of a GET over a connection of its own; OSError when there is none or it is not trusted."""
        context = ssl.create_default_context(cadata="".join(one.ca.read_text() for one in believed))
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, family=socket.AF_INET)) as session,
            session.get(f"https://{host}:{self.port}{path}") as answer,
        ):
            return answer.status

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def scheduler(tmp_path: Path, old: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[SchedulerProcess]:
    """A real scheduler with TLS; its Secret is `tmp_path/scheduler`."""
    for name, path in mounted(tmp_path / "scheduler", old).options().items():
        monkeypatch.setenv(f"OS_GRPC__{name.upper()}", path)
    process = SchedulerProcess(tmp_path / "of-scheduler")
    process.start()
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CA"):
        monkeypatch.delenv(f"OS_GRPC__{name}")
    yield process
    process.close()


@pytest.fixture
def rpcapi(tmp_path: Path, old: Authority, scheduler: SchedulerProcess) -> Iterator[Rpcapi]:
    """Its Secret is `tmp_path/rpcapi`."""
    name = scheduler.address.replace("127.0.0.1", "localhost")
    process = Rpcapi(tmp_path, mounted(tmp_path / "rpcapi", old), name)
    yield process
    process.end()


class Cut:
    """Passes bytes between clients and one address until it cuts them all off."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"localhost:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, back]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        """End all connections, as a network does; new ones are let through."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()


async def test_real_services_live_through_another_authority_without_a_restart(
    scheduler: SchedulerProcess, rpcapi: Rpcapi, old: Authority, new: Authority, tmp_path: Path
) -> None:
    scheduler_secret, rpcapi_secret = (MountedSecret(tmp_path / name) for name in ("scheduler", "rpcapi"))
    ours = mounted(tmp_path / "ours", old)
    cut = Cut(scheduler.address)
    answers: dict[int, str | None] = {}
    connections: list[bool] = []
    given = 0

    async with open_channel(GrpcSettings(scheduler=await cut.start(), **ours.options())) as channel:
        publisher = Publisher(channel, "test", SystemClock(), changed=lambda: connections.append(publisher.connected))
        publishing = asyncio.create_task(publisher.run())
        query = query_pb2_grpc.QueryServiceStub(channel)

        async def publish() -> None:
            nonlocal given
            number, given = given, given + 1

            def answered(reason: str | None) -> None:
                assert number not in answers, "answered twice"
                answers[number] = reason

            subject = event_pb2.Subject(resource_id=f"r{number % 50}", project_id="t")
            publisher.submit(event_pb2.Event(kind=event_pb2.EVENT_KIND_UPDATE, subject=subject), answered)

        async def list_workers() -> None:
            await query.ListWorkers(query_pb2.ListWorkersRequest(), timeout=60)

        async def over_https() -> None:
            # By an address the client says no name; both are served.
            for host in ("localhost", "127.0.0.1"):
                assert await rpcapi.get("/v1/workers", old, new, host=host) == 200

        async def ready() -> bool:
            with contextlib.suppress(OSError):
                return await rpcapi.get("/readyz", old, new) == 200
            return False

        try:
            await until(lambda: publisher.connected)
            await until(ready)
            async with asking(publish), asking(list_workers), asking(over_https):
                for phase, (signer, believed) in enumerate(((old, (old, new)), (new, (old, new)), (new, (new,))), 1):
                    scheduler_secret.pair(signer, *believed)
                    rpcapi_secret.pair(signer, *believed)
                    await moved(channel, lambda signer=signer, believed=believed: ours.pair(signer, *believed))
                    await until(lambda phase=phase: rpcapi.taken() == phase)
            assert connections == [True], "the stream of the beginning is still the same"

            # What the scheduler believes now: nobody who shows the old authority's certificate.
            stale = settings(mounted(tmp_path / "stale", old, old, new))
            async with open_channel(stale, scheduler.address) as refused:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await ask(refused)
                assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await rpcapi.get("/v1/workers", new) == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await rpcapi.get("/v1/workers", old)

            # Streams that began with the old certificate break, and begin again with the new one.
            async with asking(publish):
                cut.cut()
                await until(lambda: connections == [True, False, True])
            await list_workers()
            await until(lambda: len(answers) == given)
            assert set(answers.values()) == {None}
            await until(lambda: not channel._former)
            assert scheduler.process is not None
            assert scheduler.process.poll() is rpcapi.process.poll() is None
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await cut.close()
