"""IngestService: producers' events and health's inventory."""

# ruff: noqa: N802 - the names and arguments are those of the generated base class

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
from astara.scheduler.v1 import ingest_pb2, ingest_pb2_grpc

from .census import Lister
from .delivery import Publisher
from .leader import Leader
from .replica import Replica

_EVENTS = 1000


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """For the notifier and health."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def Publish(  # type: ignore[override]
        self, requests: AsyncIterator[ingest_pb2.PublishRequest], context: Any
    ) -> None:
        """Take events; ack them when they are kept."""
        leader = await self._replica.leading(context)
        wake = asyncio.Event()
        publisher = Publisher(wake.set)
        await context.write(ingest_pb2.PublishResponse(credit=leader.settings.credit))
        await _both(
            leader,
            context,
            self._take_events(leader, publisher, requests, context),
            _answer_events(publisher, wake, context),
        )

    async def Inventory(  # type: ignore[override]
        self, requests: AsyncIterator[ingest_pb2.InventoryRequest], context: Any
    ) -> None:
        """Take what exists."""
        leader = await self._replica.leading(context)
        lister = leader.census.join()
        try:
            await _both(
                leader,
                context,
                self._take_inventory(leader, lister, requests, context),
                _answer_inventory(lister, context),
            )
        finally:
            leader.census.leave(lister)

    async def _take_events(
        self, leader: Leader, publisher: Publisher, requests: AsyncIterator[ingest_pb2.PublishRequest], context: Any
    ) -> None:
        expected = 1
        async for request in requests:
            if self._replica.leader is not leader:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica leads no longer")
            if request.resync:
                leader.census.list_now()
            if not request.events:
                continue
            if request.first_number < expected:
                detail = f"first_number: {request.first_number} is below {expected}: numbers grow"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, detail)
            if len(request.events) > _EVENTS:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"events: more than {_EVENTS} in a batch")
            expected = request.first_number + len(request.events)
            publisher.unanswered += len(request.events)
            leader.dispatch.take(publisher, request)
            # A producer that does not keep to its credit is not read until it does again.
            await publisher.below(leader.settings.credit)

    async def _take_inventory(
        self, leader: Leader, lister: Lister, requests: AsyncIterator[ingest_pb2.InventoryRequest], context: Any
    ) -> None:
        async for request in requests:
            if self._replica.leader is not leader:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica leads no longer")
            leader.census.take(lister, request)


async def _answer_events(publisher: Publisher, wake: asyncio.Event, context: Any) -> None:
    while True:
        await wake.wait()
        wake.clear()
        if (response := publisher.take()) is not None:
            await context.write(response)


async def _answer_inventory(lister: Lister, context: Any) -> None:
    while True:
        await context.write(await lister.next())


async def _both(leader: Leader, context: Any, reading: Awaitable[None], writing: Awaitable[None]) -> None:
    """Run both sides of a stream until the reading one ends, either fails, or the leadership ends.

    A producer that has used up its credit sends nothing more: it must be told that no answer will come.
    """
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(reading), asyncio.ensure_future(writing)]
    over: asyncio.Future[Any] = asyncio.ensure_future(leader.ended.wait())
    try:
        done, _ = await asyncio.wait({*tasks, over}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        for task in (*tasks, over):
            task.cancel()
        await asyncio.gather(*tasks, over, return_exceptions=True)
    if over in done:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica leads no longer")
