"""Events through a real scheduler process, over real gRPC and a real database, to workers that tests drive by hand."""

import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from astara.event.v1 import event_pb2
from astara.scheduler.v1 import ingest_pb2
from patience import until
from scheduler_running import Client, HandProducer, HandWorker, SchedulerHere, SchedulerProcess, event

from services.common.marks import shard_of
from services.scheduler.hints import CREATE, DELETE, POLL, UPDATE


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a scheduler in this process."""
    scheduler = SchedulerHere(tmp_path)
    await scheduler.start()
    client = Client(scheduler.address)
    await client.leading()
    yield client
    await client.channel.close()
    await scheduler.end()


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[SchedulerProcess]:
    """A scheduler in a process of its own, to be killed."""
    process = SchedulerProcess(tmp_path)
    process.start()
    yield process
    process.close()


@pytest.fixture
async def remote(scheduler: SchedulerProcess) -> AsyncIterator[Client]:
    """A client of that process."""
    client = Client(scheduler.address)
    await client.leading()
    yield client
    await client.channel.close()


async def test_an_event_reaches_the_owner_and_is_acked_only_after_the_owner_acked(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    worker.acking = False
    producer = await HandProducer(client).connect()
    numbers = producer.publish(
        [event("CREATE", "r1", "t1", revision=4, request_id="req-1"), event("UPDATE", "r1", "t1")]
    )
    await worker.until(lambda: "r1" in worker.hints)
    hint = worker.hints["r1"][0]
    assert (hint.actions, hint.revision, list(hint.request_ids)) == (CREATE | UPDATE, 4, ["req-1"])
    assert not producer.acked
    worker.ack_all()
    await producer.answered(numbers)
    await worker.disconnect()
    await producer.close()


async def test_a_listing_tells_nobody_of_a_deletion_that_was_announced(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    worker.report("known", "t", revision=1)
    producer = await HandProducer(client).connect()
    listed = event_pb2.PRIORITY_RESYNC
    await producer.answered(producer.publish([event("UPDATE", "known", "t")]))
    await worker.until(lambda: "known" in worker.hints)
    worker.hints.clear()
    numbers = producer.publish(
        [event("DELETE", "gone", "t", priority=listed), event("DELETE", "known", "t", priority=listed)]
    )
    await producer.answered(numbers)
    await worker.until(lambda: "known" in worker.hints)
    assert worker.hints.keys() == {"known"}
    # Whoever hears it first looks, known or not.
    await producer.answered(producer.publish([event("DELETE", "unknown", "t")]))
    await worker.until(lambda: "unknown" in worker.hints)
    await worker.disconnect()
    await producer.close()


async def test_a_slow_worker_does_not_hold_producers_acks(tmp_path: Path) -> None:
    scheduler = SchedulerProcess(tmp_path, late_seconds=0.1)
    scheduler.start()
    client = Client(scheduler.address)
    try:
        await client.leading()
        worker = await HandWorker(client).connect()
        await worker.until(lambda: len(worker.held) == 1024)
        worker.acking = False
        producer = await HandProducer(client).connect()
        await producer.answered(producer.publish(event("UPDATE", f"r{n}", "t") for n in range(50)))
        # Acked without the worker: so it must survive the scheduler and reach whoever owns the shard next.
        scheduler.end(signal.SIGKILL)
        await worker.disconnect()
        scheduler.start()
        await client.leading()
        other = await HandWorker(client, "worker-2").connect()
        await other.until(lambda: len(other.hints) == 50)
    finally:
        await client.channel.close()
        scheduler.close()


async def test_events_for_shards_without_an_owner_are_kept_over_a_kill(
    scheduler: SchedulerProcess, remote: Client
) -> None:
    producer = await HandProducer(remote).connect()
    numbers = producer.publish([event("CREATE", "new", "t1"), event("DELETE", "old", "t2"), event("POLL", "x", "t3")])
    await producer.answered(numbers)
    scheduler.end(signal.SIGKILL)
    scheduler.start()
    await remote.leading()
    worker = await HandWorker(remote).connect()
    await worker.until(lambda: {"new", "old"} <= set(worker.hints))
    assert worker.hints["new"][0].actions & CREATE
    assert worker.hints["old"][0].actions & DELETE
    assert {"new", "old"} <= set(worker.known)
    assert "x" not in worker.hints
    await worker.disconnect()


async def test_no_acked_event_is_lost_when_the_scheduler_is_killed_at_random_moments(
    scheduler: SchedulerProcess, remote: Client
) -> None:
    """Producers send again what was not answered, as real ones do; workers come, go and ack late."""
    chance = random.Random(7)
    must_see: set[str] = set()
    seen: set[str] = set()
    for turn in range(5):
        worker = await HandWorker(remote, f"worker-{turn % 2}").connect()
        worker.acking = chance.random() < 0.5
        producer = await HandProducer(remote).connect()
        names = [f"r{turn}-{n}" for n in range(400)]
        numbers = producer.publish(event("UPDATE", name, f"tenant-{n % 37}") for n, name in enumerate(names))
        await asyncio.sleep(chance.random() * 0.4)
        if not worker.acking and chance.random() < 0.5:
            worker.ack_all()
            await asyncio.sleep(chance.random() * 0.02)
        scheduler.end(signal.SIGKILL)
        await producer.until(lambda p=producer: p.ended)
        await worker.disconnect()
        must_see |= {name for name, number in zip(names, numbers, strict=True) if number in producer.acked}
        seen |= set(worker.hints)
        await producer.close()
        scheduler.start()
        await remote.leading()
    worker = await HandWorker(remote, "last").connect()
    await worker.until(lambda: len(worker.held) == 1024)
    await worker.until(lambda: must_see <= seen | set(worker.hints) | set(worker.known))
    await worker.disconnect()


async def test_hints_that_a_broken_stream_left_unacked_come_again(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    worker.acking = False
    producer = await HandProducer(client).connect()
    numbers = producer.publish([event("UPDATE", "r1", "t1")])
    await worker.until(lambda: "r1" in worker.hints)
    await worker.disconnect()
    await producer.answered(numbers)
    worker.hints.clear()
    worker.acking = True
    await worker.connect()
    assert len(worker.held) == 1024
    await worker.until(lambda: "r1" in worker.hints)
    await worker.disconnect()


async def test_an_expired_poll_is_dropped_and_a_kindless_event_rejected(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    producer = await HandProducer(client).connect()
    expired = event("POLL", "r1", "t1")
    expired.expires_at.FromSeconds(int(time.time()) - 10)
    lively = event("POLL", "r2", "t1")
    lively.expires_at.FromSeconds(int(time.time()) + 60)
    numbers = producer.publish([expired, event_pb2.Event(), lively])
    await producer.answered(numbers)
    assert "kind" in producer.rejected[numbers[1]]
    assert set(worker.hints) == {"r2"}
    assert worker.hints["r2"][0].actions == POLL
    assert worker.hints["r2"][0].expires_at_ms > time.time() * 1000
    await worker.disconnect()


async def test_numbers_that_do_not_grow_end_the_stream(client: Client) -> None:
    call = client.ingest.Publish()
    await call.write(ingest_pb2.PublishRequest(first_number=5, events=[event("UPDATE", "r", "t")]))
    await call.write(ingest_pb2.PublishRequest(first_number=5, events=[event("UPDATE", "r", "t")]))
    await call.read()  # the credit
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_port_event_reaches_routers_inside_the_network_and_not_those_with_a_gateway_there(
    client: Client,
) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    call = client.ingest.Inventory()
    inside = ingest_pb2.InventoryResource(resource_id="inside", tenant_id="t1", revision=1, fingerprint="a")
    inside.attachments.add(network_id="net", role="ATTACHMENT_ROLE_INTERNAL", port_id="p1", subnet_ids=["s1"])
    gateway = ingest_pb2.InventoryResource(resource_id="gateway", tenant_id="t2", revision=1, fingerprint="b")
    gateway.attachments.add(network_id="net", role="ATTACHMENT_ROLE_GATEWAY", port_id="p2")
    await call.write(
        ingest_pb2.InventoryRequest(generation=1, begin=True, end=True, full=True, resources=[inside, gateway])
    )
    await worker.until(lambda: {"inside", "gateway"} <= set(worker.hints))
    worker.hints.clear()
    producer = await HandProducer(client).connect()
    internal = event_pb2.ATTACHMENT_SCOPE_INTERNAL
    await producer.answered(producer.publish([event("UPDATE", network_id="net", port_id="vm", scope=internal)]))
    assert set(worker.hints) == {"inside"}
    await producer.answered(producer.publish([event("UPDATE", subnet_id="s1", scope=event_pb2.ATTACHMENT_SCOPE_ANY)]))
    assert set(worker.hints) == {"inside", "gateway"}
    call.cancel()
    await worker.disconnect()


async def test_an_event_of_a_tenant_that_names_no_network_reaches_its_routers_with_a_gateway(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    for name, tenant, role in (("out", "t1", "GATEWAY"), ("in", "t1", "INTERNAL"), ("other", "t2", "GATEWAY")):
        attachment = {"network_id": f"net-{name}", "role": f"ATTACHMENT_ROLE_{role}", "port_id": f"port-{name}"}
        worker.report(name, tenant, revision=1, attachments=[attachment])
    scope, producer = event_pb2.ATTACHMENT_SCOPE_GATEWAY, await HandProducer(client).connect()
    known = [event("UPDATE", network_id=f"net-{name}", project_id=tenant, scope=event_pb2.ATTACHMENT_SCOPE_ANY)
             for name, tenant in (("out", "t1"), ("in", "t1"), ("other", "t2"))]  # fmt: skip
    await producer.answered(producer.publish(known))
    await worker.until(lambda: {"out", "in", "other"} <= set(worker.hints))
    worker.hints.clear()
    await producer.answered(producer.publish([event("UPDATE", project_id="t1", port_id="vm", scope=scope)]))
    assert set(worker.hints) == {"out"}
    await worker.disconnect()


async def test_an_event_that_names_something_unknown_is_delivered_when_a_status_names_it(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    producer = await HandProducer(client).connect()
    await producer.answered(producer.publish([event("UPDATE", network_id="later"), event("DELETE", "cast")]))
    assert not worker.hints
    attachment = {"network_id": "later", "role": "ATTACHMENT_ROLE_INTERNAL"}
    worker.report("r1", "t1", revision=3, attachments=[attachment])
    worker.report("cast", "t2", revision=1)
    await worker.until(lambda: {"r1", "cast"} <= set(worker.hints))
    assert worker.hints["cast"][0].actions == DELETE
    assert worker.hints["cast"][0].tenant_id == "t2"
    await worker.disconnect()


async def test_a_full_inventory_makes_the_owner_look_at_what_moved_and_what_is_missing(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    call = client.ingest.Inventory()
    first = await call.read()
    assert first.listening
    assert first.list_now

    async def listing(generation: int, *resources: tuple[str, str], orphans: tuple[str, ...] = ()) -> None:
        await call.write(
            ingest_pb2.InventoryRequest(
                generation=generation,
                begin=True,
                end=True,
                full=True,
                resources=[
                    ingest_pb2.InventoryResource(
                        resource_id=name, tenant_id="t", fingerprint=print_, revision=generation
                    )
                    for name, print_ in resources
                ],
                instances=[
                    ingest_pb2.InventoryInstance(
                        resource_id=name, tenant_id="t", server_id="s", finding=ingest_pb2.INSTANCE_FINDING_ORPHAN
                    )
                    for name in orphans
                ],
            )
        )
        while (await call.read()).taken_generation != generation:
            pass

    await listing(1, ("same", "1"), ("moves", "1"), ("leaves", "1"))
    await worker.until(lambda: {"same", "moves", "leaves"} <= set(worker.hints))
    for name in ("same", "moves", "leaves"):
        worker.report(name, "t", revision=1)
    worker.hints.clear()
    await listing(2, ("same", "1"), ("moves", "2"), orphans=("left-over",))
    await worker.until(lambda: {"moves", "leaves", "left-over"} <= set(worker.hints))
    assert "same" not in worker.hints
    standby = client.ingest.Inventory()
    assert not (await standby.read()).listening
    call.cancel()
    while not (answer := await standby.read()).listening:
        pass
    assert answer.list_now
    standby.cancel()
    await worker.disconnect()


async def test_workers_share_the_shards_and_a_killed_ones_go_to_the_other_after_its_lease(client: Client) -> None:
    one = await HandWorker(client, "worker-1").connect()
    await one.until(lambda: len(one.held) == 1024)
    two = await HandWorker(client, "worker-2").connect()
    await two.until(lambda: len(two.held) == 512)
    await one.until(lambda: len(one.held) == 512)
    assert not set(one.held) & set(two.held)
    tenant = next(f"t{n}" for n in range(1000) if shard_of(f"t{n}") in two.held)
    before = two.held[shard_of(tenant)]
    await two.disconnect()
    producer = await HandProducer(client).connect()
    await producer.answered(producer.publish([event("CREATE", "r1", tenant)]))
    await one.until(lambda: len(one.held) == 1024 and "r1" in one.hints)
    after = one.held[shard_of(tenant)]
    assert (after.term, after.counter) > (before.term, before.counter)
    await one.disconnect()


async def test_a_second_process_of_a_connected_worker_is_refused_and_waits_for_a_dead_ones_lease(
    client: Client,
) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    second = await HandWorker(client).connect()
    assert second.ended is grpc.StatusCode.ALREADY_EXISTS
    await second.disconnect()
    await worker.disconnect()
    third = await HandWorker(client, incarnation=str(uuid.uuid4())).connect()
    assert not third.held
    assert {shard.state for shard in await client.shards()} == {"waiting"}
    await third.until(lambda: len(third.held) == 1024)
    await third.disconnect()


async def test_a_worker_that_does_not_renew_loses_its_stream_and_its_shards(client: Client) -> None:
    silent = await HandWorker(client, "silent").connect()
    await silent.until(lambda: len(silent.held) == 1024)
    silent.renewing = False
    await silent.until(lambda: silent.ended is not None)
    assert silent.ended is grpc.StatusCode.UNAVAILABLE
    await client.until_shards(lambda shards: all(shard.state == "unowned" for shard in shards))


async def test_a_restarted_scheduler_adopts_what_workers_hold_and_epochs_grow(
    scheduler: SchedulerProcess, remote: Client
) -> None:
    worker = await HandWorker(remote).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    before = dict(worker.held)
    scheduler.end(signal.SIGKILL)
    await worker.disconnect()
    scheduler.start()
    await remote.leading()
    await worker.connect()
    assert len(worker.held) == 1024
    assert all((worker.held[n].term, worker.held[n].counter) > (before[n].term, before[n].counter) for n in before)
    assert not worker.known
    await worker.disconnect()


async def test_an_event_whose_ids_could_change_a_url_is_rejected_and_the_field_named(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    producer = await HandProducer(client).connect()
    numbers = producer.publish(
        [event("CREATE", "../networks", "p"), event("CREATE", "r1", "p/q"), event("CREATE", "r2", "p")]
    )
    await producer.answered(numbers)
    assert "subject.resource_id" in producer.rejected[numbers[0]]
    assert "subject.project_id" in producer.rejected[numbers[1]]
    assert set(worker.hints) == {"r2"}
    await worker.disconnect()


async def test_an_owner_that_is_content_with_an_older_revision_is_made_to_look(client: Client) -> None:
    worker = await HandWorker(client).connect()
    await worker.until(lambda: len(worker.held) == 1024)
    worker.report("behind", "t1", revision=1, state="INSTANCE_STATE_CONFIGURED")
    worker.report("abreast", "t1", revision=5, state="INSTANCE_STATE_CONFIGURED")

    async def reported() -> bool:
        try:
            return (await client.resource("abreast")).revision == 5
        except grpc.aio.AioRpcError:
            return False

    await until(reported)
    call = client.ingest.Inventory()
    for generation in (1, 2):
        listed = [
            ingest_pb2.InventoryResource(resource_id=name, tenant_id="t1", revision=5, fingerprint="same")
            for name in ("behind", "abreast")
        ]
        await call.write(
            ingest_pb2.InventoryRequest(generation=generation, begin=True, end=True, full=True, resources=listed)
        )
        while (await call.read()).taken_generation != generation:
            pass
    await worker.until(lambda: "behind" in worker.hints)
    assert "abreast" not in worker.hints
    call.cancel()
    await worker.disconnect()
