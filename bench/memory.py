"""Memory of a managed router in a worker, its connection to the appliance not counted.

A worker's memory of routers as the machine leaves them after a push, by resident size before and after many of them.
"""

import asyncio
import gc
import uuid
from pathlib import Path

from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work

from bench.measure import Figure
from services.common.clock import SystemClock
from services.worker.dispatch import Dispatcher
from services.worker.flags import DebugFlags
from services.worker.machine import Outcome, RunResult
from services.worker.resource import Instance, ManagedResource
from services.worker.states import InstanceState

ROUTERS = 20_000


class _Configured:
    """Leaves a resource as a finished run of the machine does: with an instance on three networks and a gateway."""

    async def run(self, resource: ManagedResource) -> RunResult:
        resource.inbox.take()
        resource.state, resource.name = InstanceState.CONFIGURED, f"router-{resource.resource_id[:8]}"
        networks = [str(uuid.uuid4()) for _ in range(4)]
        resource.attachments = tuple((n, 1, str(uuid.uuid4()), (str(uuid.uuid4()),)) for n in networks)
        address = {"ip_address": "127.64.1.1", "subnet_id": str(uuid.uuid4())}
        management = {
            "id": str(uuid.uuid4()), "network_id": str(uuid.uuid4()), "mac_address": "fa:00:00:00:00:01",
            "fixed_ips": [address], "device_id": str(uuid.uuid4()), "cidrs": ["127.64.1.1/16"], "mtu": 1500,
            "gateway": None,
        }  # fmt: skip
        resource.instance = Instance(
            str(uuid.uuid4()), str(uuid.uuid4()), management, str(uuid.uuid4()), "", 0.0,
            {network: f"fa:00:00:00:00:{index:02x}" for index, network in enumerate(networks)},
        )  # fmt: skip
        resource.wanted_digest = "v1:" + uuid.uuid4().hex * 2
        return RunResult(Outcome.DONE)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def _bytes_per_router() -> float:
    dispatcher = Dispatcher(_Configured(), DebugFlags(), SystemClock(), 256, lambda _resource: None)
    before = _resident()
    for number in range(ROUTERS):
        tenant = f"{number % 2000:032x}"
        dispatcher.deliver(
            work.Hint(resource_id=str(uuid.uuid4()), tenant_id=tenant, kind=pb.RESOURCE_KIND_ROUTER, actions=4)
        )
        if number % 1000 == 999:
            await asyncio.sleep(0.01)
    while any(resource.state is None for resource in dispatcher):
        await asyncio.sleep(0.01)
    return (_resident() - before) / ROUTERS


def main() -> None:
    """Measure once a process: memory that a first run leaves would be counted as the second's."""
    value = asyncio.run(_bytes_per_router()) / 1000
    Figure("memory_per_router", "kB", [value], "<= 15", 8, f"{ROUTERS} routers, resident size").write()


if __name__ == "__main__":
    main()
