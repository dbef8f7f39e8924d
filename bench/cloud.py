"""The simulated cloud as a process of its own for a bench: `python -m bench.cloud PORT BOOT_DELAY APPLIANCE_DELAY`."""

import asyncio
import sys
from typing import Any

import uvloop
from astara_appliance.host import ApplianceHost

from lab.cloud import AppliancesInProcess, CloudOptions, SimulatedCloud


class _SlowHost(ApplianceHost):
    """Appliances whose every answer takes a while."""

    delay = 0.0

    async def start(self, boot_json: dict[str, Any], interfaces: list[dict[str, Any]]) -> None:
        await super().start(boot_json, interfaces)
        if self.delay:
            self.fault(boot_json["instance"], "slow", seconds=self.delay)


async def _run(port: int, boot_delay: float, appliance_delay: float) -> None:
    host = _SlowHost()
    host.delay = appliance_delay
    options = CloudOptions(port_base=port, boot_delay=boot_delay, management_cidr="127.120.0.0/16")
    cloud = SimulatedCloud(options, AppliancesInProcess(host))
    cloud.seed()
    await cloud.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_run(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
