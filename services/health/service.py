"""health: the cloud listed to the scheduler, polls, and our services listed to Neutron.

gRPC health has three names, as in the notifier: the empty one and `liveness` say that the process runs, `readiness`
that the scheduler is connected. Neither depends on the cloud: an outage of Neutron makes nobody restart anything.
"""

import asyncio

from services.common import metrics, openstack, presence, rpc
from services.common.claim import Claim, ClaimSettings
from services.common.clock import SystemClock
from services.common.metrics import MetricsSettings
from services.common.openstack import OpenStackSettings
from services.common.process import host_name, run_until
from services.common.publisher import Publisher
from services.common.settings import CommonSettings, GrpcSettings, Settings

from .agents import Agents
from .inventory import Inventory
from .listing import Lister
from .settings import HealthSettings
from .stream import InventoryStream
from .sweep import Sweep

SETTINGS = (HealthSettings, ClaimSettings, OpenStackSettings, GrpcSettings, MetricsSettings)

LIVENESS = "liveness"
READINESS = "readiness"


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set."""
    common, own = settings[CommonSettings], settings[HealthSettings]
    metrics.serve(settings[MetricsSettings])
    connection = openstack.connect(settings)
    # Its flavors are looked up with the first listing: a cloud that is away stops no start.
    claim = Claim(settings[ClaimSettings], connection)
    lister = Lister(connection, own.threads, own.page_size)
    clock = SystemClock()
    producer = f"health-{host_name(common)}"
    server = rpc.RpcServer(settings[GrpcSettings], own.listen)
    myself = presence.announcement("health", host_name(common), server.address, clock)
    async with rpc.open_channel(settings[GrpcSettings]) as channel, server, presence.announced(channel, myself):
        changed, news = asyncio.Event(), asyncio.Event()

        def tell() -> None:
            changed.set()
            news.set()
            agents.listened_to(stream.listening)

        agents = Agents(channel, connection, common.deployment, clock)
        publisher = Publisher(channel, producer, clock, changed=changed.set)
        stream = InventoryStream(channel, producer, tell)
        inventory = Inventory(
            lister, claim, clock, common.deployment, overlap=own.overlap, trusted_share=own.trusted_share
        )
        sweep = Sweep(inventory, stream, publisher, own, clock, news)
        await server.set_health(LIVENESS, serving=True)

        async def tell_readiness() -> None:
            while True:
                await server.set_health(READINESS, serving=publisher.connected and stream.connected)
                await changed.wait()
                changed.clear()

        try:
            await run_until(
                stop, publisher.run(), stream.run(), sweep.run(), sweep.poll(), agents.run(), tell_readiness()
            )
        finally:
            agents.close()
            lister.close()
