"""Commands and events that ask for what cannot be had, and changes that come at the wrong moment: all end well."""

import uuid
from collections.abc import AsyncIterator

import pytest
from astara.resource.v1 import resource_pb2 as pb
from worker_running import Bench, do, running

from services.worker.states import Action, InstanceState


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as one:
        yield one


def rebuild(image_id: str) -> pb.Operation:
    return pb.Operation(operation_id=str(uuid.uuid4()), kind=pb.OPERATION_KIND_REBUILD, image_id=image_id)


async def test_a_rebuild_from_an_image_that_is_not_there_is_refused_and_the_instance_runs_on(bench: Bench) -> None:
    made = await bench.tenant_router("acme")
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    before = [server["id"] for server in bench.own_servers()]
    missing = str(uuid.uuid4())
    command = rebuild(missing)
    bench.reporter.take()
    bench.deliver(made, operations=(command,))
    await bench.until_idle(made)
    reports = [message.operation for message in bench.reporter.take() if message.WhichOneof("message") == "operation"]
    assert reports[-1].state == pb.OPERATION_STATE_FAILED
    assert f"Glance has no image {missing}" in reports[-1].message
    assert [server["id"] for server in bench.own_servers()] == before


async def test_an_event_that_promises_a_revision_that_never_comes_is_believed_for_a_while_only(bench: Bench) -> None:
    made = await bench.tenant_router("acme")
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    bench.deliver(made, Action.UPDATE, revision=999_999)
    await bench.until(lambda: "older than the event's 999999" in bench.resource(made).last_error)
    resource = await bench.until_idle(made, InstanceState.CONFIGURED)
    assert resource.last_error == ""
    assert len(bench.own_servers()) == 1


async def test_what_a_user_changes_while_the_instance_boots_is_in_the_first_push(bench: Bench) -> None:
    bench.cloud.servers.boot_delay = 0.5
    made = await bench.tenant_router("acme", gateway=False)
    bench.deliver(made, Action.CREATE)
    await bench.until(lambda: bench.resource(made).state is InstanceState.BOOTING)
    routes = [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]
    await do(made.connection.network.update_router, made.router_id, routes=routes)
    # It comes between two looks at the booting instance: the next run takes it out of the inbox.
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["static_routes"] == routes
