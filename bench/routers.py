"""1,000 routers from CREATE to CONFIGURED with realistic delays: Neutron 20 ms, Nova 50 ms, REST 10 ms, boot 2 s.

Two workers, a scheduler, the simulated cloud with the appliances, and the producer share the machine's two cores; the
clock runs from the first event until the scheduler knows all routers as CONFIGURED.
"""

import asyncio
import sys
import time
from typing import Any

from astara.event.v1 import event_pb2 as event

from bench.measure import Figure
from bench.stack import router_event, routers_of_tenants, running, set_latency, until_configured

ROUTERS = 1_000
REALISTIC: dict[str, Any] = {
    "boot_delay": 2.0,
    "latency": {"neutron": 0.020, "nova": 0.050},
    "appliance_delay": 0.010,
}


async def rate(count: int, *, boot_delay: float, latency: dict[str, float], appliance_delay: float) -> float:
    """Routers a second, with these delays in seconds."""
    async with running(2, boot_delay=boot_delay, latency={}, appliance_delay=appliance_delay) as stack:
        made = await asyncio.to_thread(routers_of_tenants, stack.connect(), count)
        await asyncio.to_thread(set_latency, stack.cloud_port, latency)
        started = time.monotonic()
        for router_id, tenant_id in made:
            await stack.publisher.publish(router_event(event.EVENT_KIND_CREATE, router_id, tenant_id))
        await until_configured(stack, count, 300.0)
        return count / (time.monotonic() - started)


def main() -> None:
    """Three runs; an argument sets the number of routers."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROUTERS
    values = [asyncio.run(rate(count, **REALISTIC)) for _ in range(3 if count == ROUTERS else 1)]
    Figure("routers_realistic", "routers/s", values, ">= 60", 5, f"{count} routers, 2 workers").write()


if __name__ == "__main__":
    main()
