"""gRPC between the services: mutual TLS off loopback, health, reflection and channelz on every server."""

import shutil
from pathlib import Path

import grpc.aio
import pytest
from authority import Authority
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.rpc import RpcServer, open_channel, split_address
from services.common.settings import GrpcSettings, SettingsError

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


def settings(authority: Authority, name: str, ca: Path | None = None) -> GrpcSettings:
    cert, key = authority.issue(name)
    return GrpcSettings(tls_cert=cert, tls_key=key, tls_ca=str(ca or authority.ca))


async def health(channel: grpc.aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status


async def test_services_with_certificates_of_one_authority_talk(authority: Authority) -> None:
    server = RpcServer(settings(authority, "scheduler"), "127.0.0.1:0")
    async with server, open_channel(settings(authority, "worker"), f"localhost:{server.port}") as channel:
        assert await health(channel) == SERVING


async def test_a_client_of_another_authority_is_refused(authority: Authority, stranger: Authority) -> None:
    async with RpcServer(settings(authority, "scheduler"), "127.0.0.1:0") as server:
        forged = settings(stranger, "worker", authority.ca)
        async with open_channel(forged, f"localhost:{server.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health(channel)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_without_certificate_is_refused(authority: Authority) -> None:
    async with RpcServer(settings(authority, "scheduler"), "127.0.0.1:0") as server:
        bare = GrpcSettings(tls_ca=str(authority.ca))
        async with open_channel(bare, f"localhost:{server.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await health(channel)


async def test_a_server_of_another_authority_is_not_believed(authority: Authority, stranger: Authority) -> None:
    server = RpcServer(settings(stranger, "scheduler"), "127.0.0.1:0")
    async with server, open_channel(settings(authority, "worker"), f"localhost:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await health(channel)


async def test_a_rotated_certificate_is_taken_without_a_restart(authority: Authority, stranger: Authority) -> None:
    own = settings(authority, "scheduler")
    async with RpcServer(own, "127.0.0.1:0") as server:
        cert, key = stranger.issue("rotated")
        shutil.copy(cert, own.tls_cert)
        shutil.copy(key, own.tls_key)
        client = settings(authority, "worker", stranger.ca)
        async with open_channel(client, f"localhost:{server.port}") as channel:
            assert await health(channel) == SERVING


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
async def test_plain_text_is_refused_off_loopback_with_the_options_named(address: str) -> None:
    with pytest.raises(SettingsError, match="tls_cert, tls_key and tls_ca"):
        RpcServer(GrpcSettings(), address)
    with pytest.raises(SettingsError, match="tls_ca"):
        open_channel(GrpcSettings(), address.replace(":0", ":44251"))


async def test_a_certificate_without_its_key_is_refused(authority: Authority) -> None:
    cert, _ = authority.issue("keyless")
    with pytest.raises(SettingsError, match="tls_key and tls_ca"):
        RpcServer(GrpcSettings(tls_cert=cert), "127.0.0.1:0")


async def test_certificates_that_cannot_be_used_are_refused_at_the_start(authority: Authority) -> None:
    own = settings(authority, "mixed")
    mixed = GrpcSettings(**{**vars(own), "tls_key": authority.issue("other")[1]})
    for begin in (lambda: RpcServer(mixed, "127.0.0.1:0"), lambda: open_channel(mixed, "127.0.0.1:1")):
        with pytest.raises(
            SettingsError, match=r"^\[grpc\] tls_ca, tls_cert or tls_key cannot be used: .*mixed.pem and"
        ):
            begin()


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:99999", ":1", "host:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="is not host:port"):
        split_address(address)


async def test_every_server_shows_health_reflection_and_channelz() -> None:
    server = RpcServer(GrpcSettings(), "127.0.0.1:0", ["astara.scheduler.v1.QueryService"])
    async with server, open_channel(GrpcSettings(), server.address) as channel:
        assert await health(channel) == SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            listed = {service.name for service in answer.list_services_response.service}
        assert {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz", "astara.scheduler.v1.QueryService"} <= listed
        servers = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest())
        assert servers.server
        await server.set_serving(False)
        assert await health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
