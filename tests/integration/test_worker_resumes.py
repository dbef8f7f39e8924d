"""A worker that dies at any call, or a call that nobody answers: the next worker finishes from what it observes.

Operators' requests 1 and 12: no resource is stuck after a crash, and no port or server is left behind by one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from astara.resource.v1 import resource_pb2 as pb
from worker_running import Bench, do, running

from lab.workbench import TenantRouter
from services.worker.states import Action, InstanceState


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as started:
        yield started


async def test_a_new_owner_adopts_what_runs_without_a_push_or_a_boot(bench: Bench) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    await bench.restart_worker()
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE, priority=1)
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot
    assert bench.pushes() == 0
    assert all(method == "GET" for _, method, _ in bench.cloud.calls.counts)


async def test_a_new_owner_takes_over_a_booting_instance(bench: Bench) -> None:
    bench.cloud.servers.boot_delay = 0.4
    made = await bench.tenant_router("one")
    bench.deliver(made, Action.CREATE)
    await bench.until(lambda: bool(bench.own_servers()))
    await bench.crash_worker()
    await bench.start_worker()
    bench.deliver(made, Action.UPDATE, priority=1)
    await bench.until_idle(made)
    bench.check_tidy(made, networks=2)


async def test_a_boot_that_nova_did_not_answer_is_found_and_not_made_again(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    lost = bench.fault("lost", "nova", "POST", "/servers$", times=1)
    bench.cloud.calls.reset()
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    assert lost.hits == 1
    assert bench.calls("POST", "/v2.1/servers") == 1
    bench.check_tidy(made, networks=2)


async def test_a_surplus_server_that_appears_after_an_unanswered_boot_is_removed(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    bench.fault("error", "nova", "POST", "/servers$", times=1, status=504)
    late: list[str] = []

    async def tap(service: str, method: str, path: str) -> None:
        # The call that Nova gave up on comes through after all, once the next was answered.
        if (service, method, path) == ("nova", "POST", "/servers") and not late:
            owner = bench.cloud.identity.context_of("astara", "service")
            twin = bench.own_servers()[0]
            flavor = next(row["id"] for row in bench.cloud.servers._flavors if row["name"] == "m1.astara")
            body = {"name": twin["name"], "flavorRef": flavor, "imageRef": twin["image"]["id"], "networks": "none",
                    "metadata": {**twin["metadata"], "astara_boot": "late"}}  # fmt: skip
            late.append(bench.cloud.servers.create(owner, body)["id"])

    bench.tap = tap
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    await bench.until(lambda: len(bench.own_servers()) == 1)
    assert bench.server_id(made) not in late
    bench.check_tidy(made, networks=2)


Flow = Callable[[Bench], Awaitable[TenantRouter]]


async def _create(bench: Bench) -> TenantRouter:
    made = await bench.tenant_router("one")
    bench.deliver(made, Action.CREATE)
    return made


async def _replug(bench: Bench) -> TenantRouter:
    made = await bench.configured()
    net = made.connection.network
    network = await do(net.create_network, name="second")
    subnet = await do(net.create_subnet, network_id=network.id, cidr="10.1.0.0/24", ip_version=4)
    await do(net.add_interface_to_router, made.router_id, subnet_id=subnet.id)
    await do(net.remove_interface_from_router, made.router_id, subnet_id=made.subnet_id)
    bench.deliver(made, Action.UPDATE)
    return made


async def _rebuild(bench: Bench) -> TenantRouter:
    made = await bench.configured()
    bench.deliver(made, operations=(_rebuild_operation(),))
    return made


async def _delete(bench: Bench) -> TenantRouter:
    made = await bench.configured()
    net = made.connection.network
    await do(net.remove_interface_from_router, made.router_id, subnet_id=made.subnet_id)
    await do(net.delete_router, made.router_id)
    bench.deliver(made, Action.DELETE)
    return made


def _rebuild_operation() -> pb.Operation:
    return pb.Operation(operation_id="op-1", kind=pb.OPERATION_KIND_REBUILD)


async def _settle(bench: Bench, flow: Flow, made: TenantRouter) -> None:
    """What the scheduler gives the next owner: a look at each resource, and what was not acked as done."""
    if flow is _delete:
        bench.deliver(made, Action.DELETE)
        await bench.until(lambda: made.router_id in bench.gone)
        assert bench.own_servers() == []
        assert bench.own_ports() == []
        return
    operations = (_rebuild_operation(),) if flow is _rebuild else ()
    bench.deliver(made, Action.UPDATE, priority=1, operations=operations)
    resource = await bench.until_idle(made)
    bench.check_tidy(made, networks=2)
    if flow is _rebuild:
        assert bench.own_servers()[0]["metadata"]["astara_operation"] == "op-1"
    wanted = {row["network_id"] for row in bench.cloud.network.ports.table if row["device_id"] == made.router_id}
    assert bench.attached(made) == wanted
    assert resource.last_error == ""


class _Crash:
    """Lets the worker hang for ever right after its n-th call that changes the cloud; a reading leaves no trace in it.

    The 0th is the first reading.
    """

    def __init__(self, after: int) -> None:
        self._left = after
        self.happened = asyncio.Event()
        self.call = ""

    async def __call__(self, service: str, method: str, path: str) -> None:
        if self.happened.is_set():
            await asyncio.Event().wait()
        if method == "GET" and self._left > 0:
            return
        self._left -= 1
        if self._left <= 0:
            self.call = f"{service} {method} {path}"
            self.happened.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize("flow", [_create, _replug, _rebuild, _delete])
async def test_a_crash_after_any_call_is_resumed_and_leaves_nothing(bench: Bench, flow: Flow) -> None:
    """One life with a crash after each call, in a cloud that is never cleaned up by hand."""
    crashed_after: list[str] = []
    for number in range(60):
        made = await flow_begins(bench, flow, crash := _Crash(number))
        if not await _crashes(bench, flow, made, crash):
            break
        crashed_after.append(crash.call)
        await bench.crash_worker()
        bench.tap = None
        await bench.start_worker()
        try:
            await _settle(bench, flow, made)
        except (TimeoutError, AssertionError) as error:
            raise AssertionError(f"not resumed after call {number}, {crash.call}: {error}") from error
        await _tear_down(bench, flow, made)
    assert len(crashed_after) >= 3, crashed_after


async def flow_begins(bench: Bench, flow: Flow, crash: _Crash) -> TenantRouter:
    """Begin a flow whose calls are counted from its last delivery on."""
    deliver = bench.deliver

    def counted(*arguments: object, **named: object) -> None:
        if flow is _create or bench.dispatcher.get(arguments[0].router_id) is not None:  # type: ignore[attr-defined]
            bench.tap = crash
        deliver(*arguments, **named)  # type: ignore[arg-type]

    bench.deliver = counted  # type: ignore[method-assign]
    try:
        return await flow(bench)
    finally:
        bench.deliver = deliver  # type: ignore[method-assign]


async def _crashes(bench: Bench, flow: Flow, made: TenantRouter, crash: _Crash) -> bool:
    """Whether the crash came; False when the flow ended before."""

    def ended() -> bool:
        if flow is _delete:
            return made.router_id in bench.gone
        resource = bench.dispatcher.get(made.router_id)
        done = resource is not None and resource.state is InstanceState.CONFIGURED and not resource.inbox
        return done and resource is not None and resource.hand is None

    await bench.until(lambda: crash.happened.is_set() or ended())
    return crash.happened.is_set()


async def _tear_down(bench: Bench, flow: Flow, made: TenantRouter) -> None:
    if flow is not _delete:
        net = made.connection.network
        for port in await do(
            lambda: list(net.ports(device_id=made.router_id, device_owner="network:router_interface"))
        ):
            await do(net.remove_interface_from_router, made.router_id, port_id=port.id)
        await do(net.delete_router, made.router_id)
        bench.deliver(made, Action.DELETE)
        await bench.until(lambda: made.router_id in bench.gone)
    assert bench.own_ports() == []
    assert bench.own_servers() == []


@pytest.mark.parametrize(
    ("flow", "service", "method", "path"),
    [
        (_create, "neutron", "POST", "/ports"),
        (_replug, "neutron", "POST", "/ports"),
        (_replug, "neutron", "DELETE", "/ports/"),
        (_replug, "nova", "POST", "/os-interface"),
        (_replug, "nova", "DELETE", "/os-interface/"),
        (_rebuild, "nova", "DELETE", "/servers/"),
        (_rebuild, "nova", "POST", "/servers$"),
        (_delete, "nova", "DELETE", "/servers/"),
        (_delete, "neutron", "DELETE", "/ports/"),
    ],
)
@pytest.mark.parametrize("kind", ["lost", "error"])
async def test_a_call_that_is_not_answered_is_made_good(
    bench: Bench, flow: Flow, service: str, method: str, path: str, kind: str
) -> None:
    deliver = bench.deliver

    def faulty(*arguments: object, **named: object) -> None:
        if flow is _create or bench.dispatcher.get(arguments[0].router_id) is not None:  # type: ignore[attr-defined]
            bench.fault(kind, service, method, path, times=1)
        deliver(*arguments, **named)  # type: ignore[arg-type]

    bench.deliver = faulty  # type: ignore[method-assign]
    made = await flow(bench)
    bench.deliver = deliver  # type: ignore[method-assign]
    await bench.until(lambda: all(fault.hits for fault in bench.cloud.faults.active))
    await _settle(bench, flow, made)
