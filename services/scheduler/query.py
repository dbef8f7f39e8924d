"""QueryService: the read side. "Not known yet" is UNAVAILABLE; NOT_FOUND is said only by a complete view."""

# ruff: noqa: N802, ARG002 - the names and arguments are those of the generated base class

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from astara.scheduler.v1 import query_pb2, query_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.exc import SQLAlchemyError

from .leader import Leader
from .replica import Replica
from .store import DeposedError

_PAGE, _PAGE_MOST = 1000, 10_000
_LINES, _LINES_MOST = 100, 1000
_WATCH_PAGE = 500


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """For rpcapi, health, metadata and people with grpcurl."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def ListResources(
        self, request: query_pb2.ListResourcesRequest, context: Any
    ) -> query_pb2.ListResourcesResponse:
        """One page of resources."""
        leader = await self._replica.leading(context)
        resources, after = leader.view.page(
            tenant_id=request.tenant_id,
            state=request.state,
            after=request.page_token,
            limit=_limit(request.page_size, _PAGE, _PAGE_MOST),
        )
        return query_pb2.ListResourcesResponse(
            resources=resources, next_page_token=after, as_of=_now(leader), complete=leader.complete()
        )

    async def GetResource(self, request: query_pb2.GetResourceRequest, context: Any) -> query_pb2.GetResourceResponse:
        """One resource."""
        leader = await self._replica.leading(context)
        resource = leader.view.get(request.resource_id)
        if resource is None:
            await _absent(leader, context, f"resource {request.resource_id}")
        return query_pb2.GetResourceResponse(resource=resource, as_of=_now(leader), complete=leader.complete())

    async def WatchResources(
        self, request: query_pb2.WatchResourcesRequest, context: Any
    ) -> AsyncIterator[query_pb2.WatchResourcesResponse]:
        """What exists, then what changes."""
        leader = await self._replica.leading(context)
        # The watch begins before the first look, so that nothing falls between the two.
        watcher = leader.view.watch(request.resource_ids, request.tenant_id)
        try:
            ids = sorted(resource_id for resource_id, record in leader.index.records.items() if watcher.wants(record))
            for start in range(0, max(1, len(ids)), _WATCH_PAGE):
                page = ids[start : start + _WATCH_PAGE]
                yield _changes(leader, page, [], synced=start + _WATCH_PAGE >= len(ids))
            while self._replica.leader is leader:
                changed, gone = await watcher.changes()
                if leader.ended.is_set():
                    break
                yield _changes(leader, changed, gone, synced=True)
        finally:
            leader.view.unwatch(watcher)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica leads no longer")

    async def GetShardMap(self, request: query_pb2.GetShardMapRequest, context: Any) -> query_pb2.GetShardMapResponse:
        """Who owns what."""
        leader = await self._replica.leading(context)
        shards = [
            query_pb2.ShardOwner(
                shard=number,
                worker=shard.holder.name,
                term=shard.epoch.term,
                counter=shard.epoch.counter,
                state=shard.state.value,
            )
            for number, shard in enumerate(leader.ownership.shards)
        ]
        return query_pb2.GetShardMapResponse(term=leader.term, shards=shards, as_of=_now(leader))

    async def ListWorkers(self, request: query_pb2.ListWorkersRequest, context: Any) -> query_pb2.ListWorkersResponse:
        """The workers that are connected or whose leases may run."""
        leader = await self._replica.leading(context)
        workers = []
        for holder in sorted(leader.ownership.holders(), key=lambda holder: holder.key):
            session = leader.sessions.get(holder.key)
            info = query_pb2.WorkerInfo(
                worker=holder.key.name,
                incarnation=holder.key.incarnation,
                connected=session is not None,
                shards=len(holder.shards),
                resources=sum(len(leader.index.by_shard.get(shard, ())) for shard in holder.shards),
            )
            ago = leader.clock.lease() - holder.renewed_at
            info.renewed_at.FromNanoseconds(int((leader.clock.wall() - ago) * 1e9))
            if session is not None:
                info.version, info.address = session.hello.version, session.hello.address
                info.unacked_hints = session.outbox.unacked
                info.joined_at.FromNanoseconds(int(session.joined_at * 1e9))
            workers.append(info)
        return query_pb2.ListWorkersResponse(workers=workers, as_of=_now(leader))

    async def ListOperations(
        self, request: query_pb2.ListOperationsRequest, context: Any
    ) -> query_pb2.ListOperationsResponse:
        """Operators' commands, newest first."""
        leader = await self._replica.leading(context)
        limit = _limit(request.limit, _LINES, _LINES_MOST)
        async with _database(context):
            return query_pb2.ListOperationsResponse(operations=await leader.operations.newest(request.target_id, limit))

    async def GetOperation(
        self, request: query_pb2.GetOperationRequest, context: Any
    ) -> query_pb2.GetOperationResponse:
        """One command."""
        leader = await self._replica.leading(context)
        async with _database(context):
            operation = await leader.operations.get(request.operation_id)
        if operation is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"operation {request.operation_id} does not exist")
        return query_pb2.GetOperationResponse(operation=operation)

    async def GetHistory(self, request: query_pb2.GetHistoryRequest, context: Any) -> query_pb2.GetHistoryResponse:
        """What happened to a resource; also to one that is gone."""
        leader = await self._replica.leading(context)
        lines = []
        limit = _limit(request.limit, _LINES, _LINES_MOST)
        async with _database(context):
            await leader.history.flush()
            kept = await leader.store.get_history(request.resource_id, limit)
        for worker, entry in kept:
            line = query_pb2.HistoryLine(
                kind=entry.kind,
                text=entry.text,
                reconcile_id=entry.reconcile_id,
                request_ids=entry.request_ids,
                worker=worker,
            )
            line.at.FromMilliseconds(entry.at_ms)
            lines.append(line)
        return query_pb2.GetHistoryResponse(lines=lines)

    async def ListDebugFlags(
        self, request: query_pb2.ListDebugFlagsRequest, context: Any
    ) -> query_pb2.ListDebugFlagsResponse:
        """All debug flags."""
        leader = await self._replica.leading(context)
        return query_pb2.ListDebugFlagsResponse(flags=leader.flags.all())

    async def ListFindings(
        self, request: query_pb2.ListFindingsRequest, context: Any
    ) -> query_pb2.ListFindingsResponse:
        """Servers and ports with our mark that nobody needs."""
        leader = await self._replica.leading(context)
        response = query_pb2.ListFindingsResponse(findings=leader.view.findings, complete=leader.census.complete)
        if leader.view.findings_at is not None:
            response.as_of.FromNanoseconds(int(leader.view.findings_at * 1e9))
        return response


def _changes(leader: Leader, ids: list[str], gone: list[str], *, synced: bool) -> query_pb2.WatchResourcesResponse:
    found = [resource for resource in map(leader.view.get, ids) if resource is not None]
    return query_pb2.WatchResourcesResponse(
        changed=found, gone_resource_ids=gone, synced=synced, as_of=_now(leader), complete=leader.complete()
    )


@asynccontextmanager
async def _database(context: Any) -> AsyncIterator[None]:
    """What the database cannot say now ends the call UNAVAILABLE."""
    try:
        yield
    except (DeposedError, SQLAlchemyError) as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


async def _absent(leader: Leader, context: Any, what: str) -> NoReturn:
    if leader.complete():
        await context.abort(grpc.StatusCode.NOT_FOUND, f"{what} does not exist")
    await context.abort(grpc.StatusCode.UNAVAILABLE, f"{what} is not known yet")
    raise AssertionError("abort does not return")


def _now(leader: Leader) -> Timestamp:
    now = Timestamp()
    now.FromNanoseconds(int(leader.clock.wall() * 1e9))
    return now


def _limit(wanted: int, default: int, most: int) -> int:
    return min(wanted or default, most)
