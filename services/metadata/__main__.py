"""`python -m services.metadata --config-file FILE`: metadata for instances behind appliances."""

import asyncio
import sys

from aiohttp import web

from services.common import logging, metrics, openstack, presence, process
from services.common.listen import bind
from services.common.metrics import MetricsSettings
from services.common.openstack import OpenStackSettings
from services.common.rpc import RpcServer, open_channel
from services.common.settings import CommonSettings, GrpcSettings, Settings
from services.metadata.instances import NeutronInstances
from services.metadata.nova import NovaMetadata
from services.metadata.resources import SchedulerResources
from services.metadata.service import MetadataService
from services.metadata.settings import ApplianceSecretSettings, MetadataSettings, check

STOP_SECONDS = 5.0

log = logging.get(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP and gRPC health until `stop` is set, then let running requests end."""
    own, appliance = settings[MetadataSettings], settings[ApplianceSecretSettings]
    check(own, appliance)
    connection = openstack.connect(settings)
    sockets = bind("metadata", own.listen, own.port)
    metrics.serve(settings[MetricsSettings])
    channel = open_channel(settings[GrpcSettings])
    instances = NeutronInstances(connection, own.neutron_threads)
    nova = NovaMetadata(own.nova_metadata_url, own.shared_secret, own.nova_timeout, own.max_requests)
    service = MetadataService(
        own,
        settings[CommonSettings].deployment,
        appliance.secret,
        SchedulerResources(channel),
        instances,
        nova,
    )
    runner = web.AppRunner(
        service.application(), access_log=None, handler_cancellation=True, shutdown_timeout=STOP_SECONDS
    )
    try:
        await runner.setup()
        for listener in sockets:
            await web.SockSite(runner, listener).start()
        server = RpcServer(settings[GrpcSettings], own.grpc_listen)
        myself = presence.announcement("metadata", process.host_name(settings[CommonSettings]), server.address)
        async with server, presence.announced(channel, myself):
            log.info("listening", listen=own.listen, port=own.port, nova=own.nova_metadata_url)
            await stop.wait()
    finally:
        await runner.cleanup()
        await nova.close()
        instances.close()
        await channel.close()


def main() -> int:
    """Run the service; answers with the exit code."""
    classes = (GrpcSettings, MetricsSettings, OpenStackSettings, ApplianceSecretSettings, MetadataSettings)
    return process.run("metadata", classes, run, extra=openstack.register)


if __name__ == "__main__":
    sys.exit(main())
