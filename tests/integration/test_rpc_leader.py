"""Two replicas under one name: the one that leads is called, probes find both fit, and the other takes over."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc.aio
import pytest
from astara.scheduler.v1 import query_pb2, query_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc import RpcServer, open_channel
from services.common.settings import GrpcSettings

LED = "astara.scheduler.v1.WorkService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Named(query_pb2_grpc.QueryServiceServicer):
    """Says which replica was called."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def GetShardMap(self, request, context):  # noqa: N802 - gRPC's spelling
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.name)


class Replicas(NamedTuple):
    one: RpcServer
    other: RpcServer
    channel: grpc.aio.Channel


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    """Both loopback addresses of the name localhost, on one port; nobody leads."""
    settings = GrpcSettings(health_listen="127.0.0.1:0")
    one = RpcServer(settings, "127.0.0.1:0", [LED])
    other = RpcServer(settings, f"[::1]:{one.port}", [LED])
    for server, name in ((one, "one"), (other, "other")):
        query_pb2_grpc.add_QueryServiceServicer_to_server(Named(name), server.server)
        await server.start(serving=False)
    async with open_channel(GrpcSettings(scheduler=f"localhost:{one.port}")) as channel:
        yield Replicas(one, other, channel)
    await one.stop()
    await other.stop()


async def called(channel: grpc.aio.Channel) -> str:
    stub = query_pb2_grpc.QueryServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetShardMap(query_pb2.GetShardMapRequest(), wait_for_ready=True, timeout=60)
    return error.value.details() or ""


async def test_of_two_replicas_the_one_that_leads_is_called(replicas: Replicas) -> None:
    for leader, standby, name in ((replicas.one, replicas.other, "one"), (replicas.other, replicas.one, "other")):
        await standby.set_serving(False)
        await leader.set_serving(True)
        async with asyncio.timeout(60):
            # The news travels by itself; a call meanwhile may still reach the former one.
            while await called(replicas.channel) != name:
                pass
        for _ in range(10):
            assert await called(replicas.channel) == name


async def test_without_a_leader_a_call_ends_or_waits_for_one(replicas: Replicas) -> None:
    stub = query_pb2_grpc.QueryServiceStub(replicas.channel)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetShardMap(query_pb2.GetShardMapRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    waiting = asyncio.ensure_future(called(replicas.channel))
    await asyncio.sleep(0)
    await replicas.other.set_serving(True)
    assert await waiting == "other"


async def test_probes_find_a_standby_fit_and_told_apart_from_the_leader(replicas: Replicas) -> None:
    await replicas.one.set_serving(True)
    for server, leads in ((replicas.one, SERVING), (replicas.other, NOT_SERVING)):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status == SERVING
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=LED), timeout=60)).status == leads


async def test_probes_get_nothing_but_health(replicas: Replicas) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replicas.one.health_port}") as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetShardMap(query_pb2.GetShardMapRequest(), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_address_that_is_taken_is_refused_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="bind"):
        RpcServer(GrpcSettings(health_listen=f"127.0.0.1:{taken.getsockname()[1]}"), "127.0.0.1:0")
