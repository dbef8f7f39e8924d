"""1,000 routers from CREATE to CONFIGURED with realistic delays: Neutron 20 ms, Nova 50 ms, REST 10 ms, boot 2 s.

Two workers, a scheduler, the simulated cloud with the appliances, and the producer share the machine's two cores; the
clock runs from the first event until the scheduler knows all routers as CONFIGURED.
"""

import asyncio
import sys
import time

from astara.event.v1 import event_pb2 as event

from bench.measure import Figure
from bench.stack import router_event, routers_of_tenants, running, set_latency, until_configured

ROUTERS = 1_000


async def _rate(count: int) -> float:
    async with running(2, boot_delay=2.0, latency={"neutron": 0.0, "nova": 0.0}, appliance_delay=0.01) as stack:
        made = await asyncio.to_thread(routers_of_tenants, stack.connect(), count)
        await asyncio.to_thread(set_latency, stack.cloud_port, {"neutron": 0.020, "nova": 0.050})
        started = time.monotonic()
        for router_id, tenant_id in made:
            await stack.publisher.publish(router_event(event.EVENT_KIND_CREATE, router_id, tenant_id))
        await until_configured(stack, count, 300.0)
        return count / (time.monotonic() - started)


def main() -> None:
    """Three runs; an argument sets the number of routers."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROUTERS
    values = [asyncio.run(_rate(count)) for _ in range(3 if count == ROUTERS else 1)]
    Figure("routers_realistic", "routers/s", values, ">= 60", 5, f"{count} routers, 2 workers").write()


if __name__ == "__main__":
    main()
