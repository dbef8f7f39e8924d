"""The live stream: WatchResources as server-sent events.

The first message is awaited before the answer begins, so that a scheduler which does not answer is a proper 503. From
then on a stream ends with an event `problem` when the scheduler goes away; browsers reconnect by themselves after
RETRY_MS. A comment every KEEPALIVE_SECONDS keeps proxies from closing a quiet stream. A stopping process ends its
streams at once.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import grpc.aio
from astara.scheduler.v1 import query_pb2
from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from services.rpcapi import convert
from services.rpcapi.models import UUID_PATTERN
from services.rpcapi.parameters import SchedulerDep, TenantFilter, canonical
from services.rpcapi.problems import RETRY_SECONDS, ProblemError, from_rpc

FIRST_SECONDS = 10.0
KEEPALIVE_SECONDS = 15.0
RETRY_MS = 1_000

router = APIRouter(prefix="/v1", tags=["queries"])

ResourceFilter = Annotated[
    list[Annotated[str, Query(pattern=UUID_PATTERN)]] | None,
    Query(max_length=1_000, description="Only these resources; may be repeated"),
]
_SILENT = "The scheduler does not say what exists; not known yet"


class Streams:
    """How many streams are open, and the word to end them."""

    def __init__(self, most: int, stop: asyncio.Event) -> None:
        self._most = most
        self.stop = stop
        self.open = 0

    def check(self) -> None:
        """ProblemError when one more would be too many."""
        if self.open >= self._most:
            raise ProblemError(
                503, f"{self._most} live streams are open, which is the most", headers={"Retry-After": "5"}
            )


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `resources` (changed, gone, synced, as_of, complete) and `problem`",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream(
    scheduler: SchedulerDep, request: Request, tenant: TenantFilter = None, resource: ResourceFilter = None
) -> StreamingResponse:
    """Resources as they are and then each change, as server-sent events."""
    streams: Streams = request.app.state.streams
    streams.check()
    changes = scheduler.watch([canonical(entry) for entry in resource or ()], (tenant or "").lower())
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            first = await changes.read()
    except TimeoutError as error:
        raise ProblemError(503, _SILENT, headers={"Retry-After": str(RETRY_SECONDS)}) from error
    if not isinstance(first, query_pb2.WatchResourcesResponse):
        raise ProblemError(503, _SILENT, headers={"Retry-After": str(RETRY_SECONDS)})
    return StreamingResponse(
        _events(streams, first, changes), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(
    streams: Streams, first: query_pb2.WatchResourcesResponse, changes: "grpc.aio.UnaryStreamCall[Any, Any]"
) -> AsyncIterator[str]:
    streams.open += 1
    stopping = asyncio.ensure_future(streams.stop.wait())
    following: asyncio.Future[Any] | None = None
    try:
        yield f"retry: {RETRY_MS}\n\n" + _event("resources", convert.change(first))
        while not stopping.done():
            following = following or asyncio.ensure_future(changes.read())
            done, _ = await asyncio.wait(
                {following, stopping}, timeout=KEEPALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if following in done:
                message = following.result()
                following = None
                if not isinstance(message, query_pb2.WatchResourcesResponse):
                    yield _event("problem", {"status": 503, "detail": "The scheduler ended the stream"})
                    return
                yield _event("resources", convert.change(message))
            elif not done:
                yield ": still here\n\n"
    except grpc.aio.AioRpcError as error:
        problem = from_rpc(error)
        yield _event("problem", {"status": problem.status, "detail": problem.detail})
    finally:
        streams.open -= 1
        stopping.cancel()
        if following is not None:
            following.cancel()
        changes.cancel()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
