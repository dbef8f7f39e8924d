"""What tests of the worker on the workbench share: a clock that can be moved on, and a user's calls to the cloud."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from lab.cloud.faults import Fault
from lab.workbench import TenantRouter, Workbench
from services.common.clock import SystemClock
from services.worker.states import Action

_T = TypeVar("_T")


class MovedClock(SystemClock):
    """The machine's clocks, moved on by what tests want to have passed."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def lease(self) -> float:
        return super().lease() + self.ahead

    def wall(self) -> float:
        return super().wall() + self.ahead


class Bench(Workbench):
    """A workbench with words for what tests do."""

    clock: MovedClock

    def __init__(self, **arguments: Any) -> None:
        super().__init__(clock=MovedClock(), **arguments)

    async def configured(self, tenant: str = "one", **arguments: Any) -> TenantRouter:
        """A tenant's router whose instance is configured."""
        made = await self.tenant_router(tenant, **arguments)
        self.deliver(made, Action.CREATE)
        await self.until_idle(made)
        return made

    async def restart_worker(self) -> None:
        await self.stop_worker()
        await self.start_worker()

    def fault(self, kind: str, service: str = "*", method: str = "*", path: str = "", **more: Any) -> Fault:
        """A fault that only the worker's own calls meet."""
        return self.cloud.faults.add(Fault(kind, service, method, path, user="astara", **more))  # type: ignore[arg-type]

    def calls(self, method: str, route: str) -> int:
        """How often a route was called since the counts were reset."""
        return sum(n for (_, verb, path), n in self.cloud.calls.counts.items() if (verb, path) == (method, route))

    def history(self) -> list[tuple[str, str]]:
        """Kind and text of what the worker told of its resources since it was asked last."""
        return [(entry.kind, entry.text) for message in self.reporter.take() for entry in message.status.history]

    def pushes(self) -> int:
        """How often an appliance was configured since the history was asked for last."""
        return sum(kind == "configure" for kind, _ in self.history())

    def server_id(self, made: TenantRouter) -> str:
        instance = self.resource(made).instance
        assert instance is not None
        return instance.server_id

    def boot_id(self, made: TenantRouter) -> str:
        instance = self.resource(made).instance
        assert instance is not None
        return instance.boot_id

    def network(self, made: TenantRouter, kind: str = "internal") -> dict[str, Any]:
        """The one network of a kind in what the appliance runs."""
        (found,) = [one for one in self.appliance_configuration(made)["networks"] if one["network_type"] == kind]
        return found

    def attached(self, made: TenantRouter) -> set[str]:
        """The tenant's and external networks in what the appliance runs."""
        networks = self.appliance_configuration(made)["networks"]
        return {one["network_id"] for one in networks if one["network_type"] != "management"}

    def check_tidy(self, made: TenantRouter, networks: int) -> None:
        """Exactly one server, the management port, and one plugged port on each network."""
        (server,) = self.own_servers()
        ports = self.own_ports()
        assert len(ports) == networks + 1, [port["name"] for port in ports]
        assert len({port["network_id"] for port in ports}) == len(ports)
        assert {port["device_id"] for port in ports} == {server["id"]}
        assert self.server_id(made) == server["id"]


@asynccontextmanager
async def running(**arguments: Any) -> AsyncIterator[Bench]:
    """A bench, started, and ended whatever happens."""
    bench = Bench(**arguments)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()


async def do(call: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """A user's call through the SDK, which blocks, beside the event loop that carries the cloud."""
    return await asyncio.to_thread(call, *arguments, **named)
