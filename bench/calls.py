"""How many calls a new router and an unchanged UPDATE cost: Neutron, Nova, and the appliance's REST API.

Counted beside a stock Neutron, and beside one with `astara-neutron`, where saying the router's status counts too.
Waiting for the boot is not counted: questions that a booting appliance does not answer, and Nova's answers about it.
"""

import asyncio
from typing import Any

from bench.measure import Figure
from lab.workbench import Workbench
from services.worker.states import Action


async def _count(*, plugin: bool) -> tuple[float, float, float, float]:
    bench = await Workbench(cloud={"plugin": plugin}).start()
    try:
        made = await bench.tenant_router("acme")
        # The first router of a worker also pays for what is kept for a minute (metering labels): count a second one.
        first = await bench.tenant_router("other")
        bench.deliver(first, Action.CREATE)
        await bench.until_idle(first)
        asked, pushed = _watch_appliances(bench)
        bench.cloud.calls.reset()
        bench.deliver(made, Action.CREATE)
        resource = await bench.until_idle(made)
        if plugin:
            await bench.until(lambda: not resource.untold)
        new, new_pushes = bench.cloud.calls.to_json()["total"] + asked() + pushed(), pushed()
        bench.cloud.calls.reset()
        asked, pushed = _watch_appliances(bench)
        bench.deliver(made, Action.UPDATE)
        await bench.until_idle(made)
        unchanged, unchanged_pushes = bench.cloud.calls.to_json()["total"] + asked() + pushed(), pushed()
        return new, new_pushes, unchanged, unchanged_pushes
    finally:
        await bench.stop()


def _watch_appliances(bench: Workbench) -> tuple[Any, Any]:
    answered: list[str] = []
    client, status, configure = bench.appliances, type(bench.appliances).status, type(bench.appliances).configure

    async def counted_status(*arguments: Any) -> Any:
        result = await status(client, *arguments)
        answered.append("status")
        return result

    async def counted_configure(*arguments: Any) -> Any:
        answered.append("push")
        return await configure(client, *arguments)

    client.status, client.configure = counted_status, counted_configure  # type: ignore[method-assign]
    return lambda: answered.count("status"), lambda: answered.count("push")


def main() -> None:
    """Count in three runs."""
    runs = [asyncio.run(_count(plugin=False)) for _ in range(3)]
    Figure("calls_new_router", "calls", [r[0] for r in runs], "<= 16", 7, "one push, as below").write()
    Figure("pushes_new_router", "pushes", [r[1] for r in runs], "1", 7).write()
    Figure("calls_unchanged_update", "calls", [r[2] for r in runs], "<= 7").write()
    Figure("pushes_unchanged_update", "pushes", [r[3] for r in runs], "0").write()
    runs = [asyncio.run(_count(plugin=True)) for _ in range(3)]
    Figure("calls_new_router_with_plugin", "calls", [r[0] for r in runs], "<= 10", 7, "one push").write()
    Figure("calls_unchanged_update_with_plugin", "calls", [r[2] for r in runs], "<= 2").write()


if __name__ == "__main__":
    main()
