"""`python -m services.rpcapi --config-file FILE`: the operators' HTTP API."""

import asyncio
import sys

from services.common import logging, metrics, presence, process
from services.common.listen import bind
from services.common.metrics import MetricsSettings
from services.common.rpc import RpcServer, open_channel
from services.common.settings import CommonSettings, GrpcSettings, Settings
from services.rpcapi.application import build
from services.rpcapi.scheduler import Scheduler
from services.rpcapi.server import serve
from services.rpcapi.settings import RpcapiSettings, read_token

log = logging.get(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP and gRPC health until `stop` is set."""
    own, grpc_settings = settings[RpcapiSettings], settings[GrpcSettings]
    token = read_token(own)
    sockets = bind("rpcapi", own.listen, own.port)
    metrics.serve(settings[MetricsSettings])
    channel = open_channel(grpc_settings)
    try:
        server = RpcServer(grpc_settings, own.grpc_listen)
        myself = presence.announcement("rpcapi", process.host_name(settings[CommonSettings]), server.address)
        async with server, presence.announced(channel, myself):
            app = build(own, Scheduler(channel), token, stop)
            if token is None:
                log.warning("the API is open: auth = none, on loopback addresses only", listen=own.listen)
            log.info("listening", listen=own.listen, port=own.port, auth=own.auth, tls=bool(own.tls_cert))
            await serve(app, own, sockets, stop)
    finally:
        await channel.close()


def main() -> int:
    """Run the service; answers with the exit code."""
    return process.run("rpcapi", (GrpcSettings, MetricsSettings, RpcapiSettings), run)


if __name__ == "__main__":
    sys.exit(main())
