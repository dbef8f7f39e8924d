"""POLL of 5,000 routers whose appliances answer after 5 ms: one worker against appliances in another process.

The routers are put into the worker as a finished push leaves them; nothing but the alive check and the comparison of
digests is done for each, which is all that a POLL of a healthy router may cost.
"""

import asyncio
import sys
import time
import uuid
from typing import Any

import uvloop
from astara.event.v1 import event_pb2 as event
from astara_appliance.host import ApplianceHost

from bench.measure import Figure
from lab.cloud import CloudOptions
from lab.workbench import SECRET, TenantRouter, Workbench
from services.common import marks
from services.worker.resource import Instance, ManagedResource
from services.worker.states import Action, InstanceState

ROUTERS, DELAY = 5_000, 0.005
DIGEST = "v1:" + "0" * 64


def _ids(number: int) -> tuple[str, str, str]:
    """Router, instance and address number so-and-so."""
    router, instance = (str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}-{number}")) for kind in ("router", "instance"))
    return router, instance, f"127.121.{1 + number // 250}.{1 + number % 250}"


def _token(router: str, instance: str) -> str:
    return marks.appliance_token(SECRET, "lab", router, 0, instance)


async def _carry() -> None:
    """The appliances' process: says so when all of them listen."""
    host = ApplianceHost()
    for number in range(ROUTERS):
        router, instance, address = _ids(number)
        mac = f"fa:00:00:00:{number // 256:02x}:{number % 256:02x}"
        boot = {
            "version": 1, "deployment": "lab", "resource_id": router, "resource_kind": "router", "slot": 0,
            "tenant_id": f"{number:032x}", "instance": instance, "api_port": 5000, "token": _token(router, instance),
            "management": {"mac": mac, "addresses": [f"{address}/16"], "mtu": 1500, "gateway": None},
            "orchestrator": {"addresses": ["127.0.0.1"], "metadata_port": 9697, "api_port": 44250},
        }  # fmt: skip
        await host.start(boot, [{"mac": mac, "mtu": 1500}])
        await host.appliance(instance).push(b'{"networks": []}', DIGEST, None)
        host.fault(instance, "slow", seconds=DELAY)
    print("listening", flush=True)
    await asyncio.Event().wait()


def _configured(resource: ManagedResource, number: int) -> None:
    _, instance, address = _ids(number)
    management: dict[str, Any] = {"id": instance, "network_id": "", "mac_address": "", "cidrs": [], "mtu": 1500}
    management["fixed_ips"] = [{"ip_address": address}]
    resource.instance = Instance(instance, instance, management, "", "", 0.0, {})
    resource.state, resource.wanted_digest = InstanceState.CONFIGURED, DIGEST


async def _measure() -> list[float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.poll", "carry", stdout=asyncio.subprocess.PIPE
    )
    bench = await Workbench(CloudOptions(management_cidr="127.122.0.0/16"), appliance={"port": 5000}).start()
    try:
        if process.stdout is None or (await process.stdout.readline()).strip() != b"listening":
            raise RuntimeError("the appliances do not come up")
        routers = [TenantRouter(f"{n:032x}", _ids(n)[0], "", "", bench.connect("x", "x")) for n in range(1)]
        routers = [TenantRouter(f"{n:032x}", _ids(n)[0], "", "", routers[0].connection) for n in range(ROUTERS)]
        values = []
        for number, router in enumerate(routers):
            _configured(bench.remember(router), number)
        for _ in range(4):
            started = time.monotonic()
            for router in routers:
                bench.deliver(router, Action.POLL, priority=event.PRIORITY_RESYNC)
            while any(resource.inbox or resource.hand for resource in bench.dispatcher):
                await asyncio.sleep(0.005)
            values.append(time.monotonic() - started)
            wrong = [r for r in bench.dispatcher if r.state is not InstanceState.CONFIGURED or r.last_error]
            if wrong:
                raise RuntimeError(f"{len(wrong)} routers are not CONFIGURED: {wrong[0].last_error}")
        return values
    finally:
        process.kill()
        await process.wait()
        await bench.stop()


def main() -> None:
    """Four rounds after another: connections of the first are kept by the later ones, as they are in a worker."""
    Figure("poll_5000", "s", uvloop.run(_measure()), "<= 5", 9, f"{ROUTERS} routers, one worker").write()


if __name__ == "__main__":
    uvloop.run(_carry()) if len(sys.argv) > 1 else main()
