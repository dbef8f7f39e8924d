"""gRPC as every service uses it: health, reflection, channelz on each server, keepalive on both sides, TLS.

A server that is asked to listen in plain text on another address than loopback refuses to start, unless the operator
said that something else encrypts. Health answers for the empty name and for each service that the server carries.

Kubernetes' probes speak no TLS and show no certificate: on `[grpc] health_listen` health alone answers, in plain text.
There the empty name says whether the process is fit to run, as a standby is.

A client dials every address that the scheduler's name has, and calls the one whose health says that it serves.

Certificates are renewed without a restart: servers look at the files at each handshake, clients each second.
"""

import asyncio
import ipaddress
import json
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.certificates import CertificateFiles, Pem
from services.common.following import FollowingChannel
from services.common.settings import GrpcSettings, SettingsError

_CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
# All replicas are dialled; the one that leads says that it serves this, the others that they do not.
_LEADERS_SERVICE = "astara.scheduler.v1.WorkService"
_FIND_LEADER: list[tuple[str, int | str]] = [
    (
        "grpc.service_config",
        json.dumps(
            {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": _LEADERS_SERVICE}}
        ),
    ),
    # Replicas come and go under one name; asked seldom otherwise: when a connection breaks.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
_SERVER_OPTIONS = [
    *_CHANNEL_OPTIONS[:4],
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 1),
]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; SettingsError when it is neither."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 <= int(port) <= 65535:
        msg = f"{address!r} is not host:port (IPv6 in brackets)"
        raise SettingsError(msg)
    if ":" in host or not host.strip("0123456789."):
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise SettingsError(f"{address!r}: {error}") from error
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is the loopback interface by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RpcServer:
    """An asyncio gRPC server with health, reflection and channelz. Register servicers on `.server`, then start it."""

    def __init__(self, settings: GrpcSettings, address: str, services: Sequence[str] = ()) -> None:
        """`services` are the full names of the gRPC services that will be registered, for health and reflection."""
        host, _ = split_address(address)
        self._address = address
        self._services = tuple(services)
        self.server = grpc.aio.server(options=_SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        channelz.add_channelz_servicer(self.server)
        names = (*services, health.SERVICE_NAME, _CHANNELZ, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        credentials = _server_credentials(settings)
        if credentials is None:
            if not is_loopback(host) and not settings.allow_plaintext:
                msg = (
                    f"gRPC would listen in plain text on {address}: set [grpc] tls_cert, tls_key and tls_ca, "
                    "or [grpc] allow_plaintext if something else encrypts"
                )
                raise SettingsError(msg)
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, credentials)
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._probed = _Probed(settings.health_listen) if settings.health_listen else None

    @property
    def health_port(self) -> int | None:
        """The port of `[grpc] health_listen`; None without it."""
        return None if self._probed is None else self._probed.port

    async def start(self, *, serving: bool = True) -> None:
        """Listen; health says SERVING when `serving`, until `set_serving` says otherwise."""
        await self.server.start()
        if self._probed is not None:
            await self._probed.server.start()
            await self._probed.health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self.set_serving(serving)

    async def set_serving(self, serving: bool) -> None:
        """Change what health answers; to probes, for the services alone."""
        await self._health.set("", _status(serving))
        for name in self._services:
            await self.set_health(name, serving)

    async def set_health(self, name: str, serving: bool) -> None:
        """Change what health answers for one name alone, e.g. `readiness`."""
        await self._health.set(name, _status(serving))
        if self._probed is not None:
            await self._probed.health.set(name, _status(serving))

    async def stop(self, grace: float = 1.0) -> None:
        """Health says NOT_SERVING, calls get `grace` seconds to end."""
        await self._health.enter_graceful_shutdown()
        if self._probed is not None:
            await self._probed.health.enter_graceful_shutdown()
        await self.server.stop(grace)
        if self._probed is not None:
            await self._probed.server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Probed:
    """The server that health has to itself, in plain text."""

    def __init__(self, address: str) -> None:
        split_address(address)
        self.server = grpc.aio.server(options=_SERVER_OPTIONS)
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port(address)


def _status(serving: bool) -> "health_pb2.HealthCheckResponse.ServingStatus.ValueType":
    return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING


def open_channel(settings: GrpcSettings, address: str | None = None) -> grpc.aio.Channel:
    """A channel to the scheduler that leads, or to `address`. It reconnects by itself, within a second once the peer
    is back; a call that does not wait for that ends UNAVAILABLE. With TLS it follows its certificates, in the running
    loop. SettingsError when they cannot be used.
    """
    target = address or settings.scheduler
    host, _ = split_address(target)
    options: list[tuple[str, int | str]] = list(_CHANNEL_OPTIONS)
    if address is None:
        options += _FIND_LEADER
    if not settings.tls_ca:
        if not is_loopback(host) and not settings.allow_plaintext:
            msg = f"gRPC would speak plain text to {target}: set [grpc] tls_ca, or [grpc] allow_plaintext"
            raise SettingsError(msg)
        return grpc.aio.insecure_channel(target, options=options)
    if settings.tls_server_name:
        options.append(("grpc.ssl_target_name_override", settings.tls_server_name))

    def dial(pem: Pem) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key or None, pem.certificate or None)
        return grpc.aio.secure_channel(target, credentials, options=options)

    return FollowingChannel(_certificate_files(settings), dial)


def _certificate_files(settings: GrpcSettings) -> CertificateFiles:
    return CertificateFiles(
        "[grpc] tls_ca, tls_cert or tls_key",
        authorities=settings.tls_ca,
        certificate=settings.tls_cert,
        key=settings.tls_key,
    )


def _server_credentials(settings: GrpcSettings) -> grpc.ServerCredentials | None:
    if not settings.tls_cert:
        return None
    if not settings.tls_key or not settings.tls_ca:
        msg = "[grpc] tls_cert wants tls_key and tls_ca beside it"
        raise SettingsError(msg)
    files = _certificate_files(settings)

    def configuration() -> grpc.ServerCertificateConfiguration:
        pem = files.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], root_certificates=pem.authorities
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        return configuration() if files.look() else None

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=True)


async def reconnect_delay(attempt: int) -> None:
    """Wait before try number `attempt` (from 1) of a broken stream: 0.1 s, doubling, at most 1 s."""
    await asyncio.sleep(min(1.0, 0.1 * 2 ** (attempt - 1)))
