"""WorkService: one stream a worker. Reading and writing are two tasks; everything they do is a call into the leader."""

# ruff: noqa: N802 - the names and arguments are those of the generated base class

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from astara.scheduler.v1 import work_pb2, work_pb2_grpc

from .leader import Leader
from .ownership import Epoch, Held, NameTakenError
from .replica import Replica
from .sessions import Session

_NAME_MOST = 255
"""What history keeps of a worker's name."""


class WorkServicer(work_pb2_grpc.WorkServiceServicer):
    """For workers."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def Work(  # type: ignore[override]
        self, requests: AsyncIterator[work_pb2.WorkRequest], context: Any
    ) -> None:
        """Serve a worker until either side ends the stream."""
        leader = await self._replica.leading(context)
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "hello":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the first message must be hello")
            return
        if not first.hello.worker or not first.hello.incarnation:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "hello: worker and incarnation must be set")
        if len(first.hello.worker) > _NAME_MOST:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"hello: worker is longer than {_NAME_MOST}")
        try:
            session = await leader.hello(first.hello)
        except NameTakenError as error:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
            return
        reader = asyncio.ensure_future(self._read(leader, session, requests))
        writer = asyncio.ensure_future(_write(session, context))
        try:
            done, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            leader.bye(session)
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        if session.ended is not None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, session.ended)

    async def _read(self, leader: Leader, session: Session, requests: AsyncIterator[work_pb2.WorkRequest]) -> None:
        async for request in requests:
            if self._replica.leader is not leader:
                session.end("this replica leads no longer")
                return
            _handle(leader, session, request)


def _handle(leader: Leader, session: Session, request: work_pb2.WorkRequest) -> None:
    match request.WhichOneof("message"):
        case "ack":
            session.outbox.ack(request.ack.number)
        case "status":
            leader.status(session, request.status)
        case "lease_renewal":
            leader.renewed(session, request.lease_renewal.nonce)
        case "released":
            leader.released(session, _held(request.released.shards))
        case "operation":
            leader.operation(session, request.operation)
        case "flag_applied":
            leader.flags.applied(session.key, request.flag_applied.change_id)
        case "diagnosis":
            leader.operations.diagnosed(session.key, request.diagnosis)
        case "drain":
            leader.drained(session)
        case _:
            # A second hello or a message of a later version: nothing that this version knows what to do with.
            return


def _held(shards: Iterable[work_pb2.HeldShard]) -> list[Held]:
    return [Held(shard.shard, Epoch(shard.term, shard.counter)) for shard in shards]


async def _write(session: Session, context: Any) -> None:
    while (message := await session.next()) is not None:
        await context.write(message)
