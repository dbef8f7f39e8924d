"""The operators' HTTP API on a real socket, in front of a scripted scheduler that speaks real gRPC."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import (
    operate_pb2,
    operate_pb2_grpc,
    presence_pb2,
    presence_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from lab.ports import free_port
from services.common.listen import bind
from services.common.rpc import RpcServer, open_channel
from services.common.settings import GrpcSettings
from services.rpcapi.application import build
from services.rpcapi.scheduler import Scheduler
from services.rpcapi.server import serve
from services.rpcapi.settings import RpcapiSettings, read_token

ROUTER = "6d9ef2b7-7e8a-4d6c-9a63-0d1d1b1f8a01"
TENANT = "0b4d2b2b8c2a4c1f9a5e7d6c3b2a1908"
IMAGE = "1f0c7c1e-3b62-4f57-a5a4-5a7a8d1f2b3c"
TOKEN = "an-operators-token-of-the-tests"


class ScriptedScheduler(
    query_pb2_grpc.QueryServiceServicer,
    operate_pb2_grpc.OperateServiceServicer,
    presence_pb2_grpc.PresenceServiceServicer,
):
    """Answers what a test wrote into it and remembers what it was asked."""

    def __init__(self) -> None:
        self.resources: list[resource_pb2.Resource] = []
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.violation: tuple[str, str] | None = None
        self.commands: list[operate_pb2.StartOperationRequest] = []
        self.diagnoses: list[str] = []
        self.state = resource_pb2.OPERATION_STATE_PENDING
        self.watched: list[query_pb2.WatchResourcesRequest] = []
        self.changes: asyncio.Queue[query_pb2.WatchResourcesResponse | None] = asyncio.Queue()

    async def _refuse(self, context: Any) -> None:
        if self.violation is not None:
            field_name, words = self.violation
            detail = any_pb2.Any()
            violation = error_details_pb2.BadRequest.FieldViolation(field=field_name, description=words)
            detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
            status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=words, details=[detail])
            await context.abort_with_status(rpc_status.to_status(status))
        if self.refusal is not None:
            await context.abort(*self.refusal)

    async def StartOperation(self, request, context):  # noqa: N802
        await self._refuse(context)
        self.commands.append(request)
        operation = resource_pb2.Operation(
            operation_id=request.operation_id or str(uuid.uuid4()),
            kind=request.kind,
            scope=request.scope,
            target_id=request.target_id,
            image_id=request.image_id,
            reason=request.reason,
            requested_by=request.requested_by,
            state=self.state,
            diagnoses=self.diagnoses,
        )
        operation.created_at.GetCurrentTime()
        return operate_pb2.StartOperationResponse(operation=operation)

    async def ListResources(self, request, context):  # noqa: N802
        await self._refuse(context)
        page = request.page_size or 1000
        start = int(request.page_token) if request.page_token.isdecimal() else 0
        chosen = [
            entry
            for entry in self.resources
            if request.tenant_id in ("", entry.tenant_id) and request.state in (0, entry.state)
        ]
        more = str(start + page) if len(chosen) > start + page else ""
        answer = query_pb2.ListResourcesResponse(
            resources=chosen[start : start + page], next_page_token=more, complete=True
        )
        answer.as_of.GetCurrentTime()
        return answer

    async def GetResource(self, request, context):  # noqa: N802
        await self._refuse(context)
        for entry in self.resources:
            if entry.resource_id == request.resource_id:
                return query_pb2.GetResourceResponse(resource=entry, complete=True)
        return await context.abort(grpc.StatusCode.NOT_FOUND, f"resource {request.resource_id} does not exist")

    async def GetHistory(self, request, context):  # noqa: N802
        line = query_pb2.HistoryLine(kind="boot", text="boot asked for", worker="worker-1", request_ids=["req-1"])
        line.at.GetCurrentTime()
        return query_pb2.GetHistoryResponse(lines=[line])

    async def GetShardMap(self, request, context):  # noqa: N802
        shards = [
            query_pb2.ShardOwner(shard=number, worker="worker-1", term=3, state="owned") for number in range(1024)
        ]
        return query_pb2.GetShardMapResponse(term=3, shards=shards)

    async def ListWorkers(self, request, context):  # noqa: N802
        return query_pb2.ListWorkersResponse(workers=[query_pb2.WorkerInfo(worker="worker-1", connected=True)])

    async def ListServices(self, request, context):  # noqa: N802
        await self._refuse(context)
        living = presence_pb2.ServiceInfo(service="worker", host="worker-1", version="0.1.0", alive=True)
        living.last_seen.GetCurrentTime()
        return presence_pb2.ListServicesResponse(services=[living], complete=True)

    async def ListOperations(self, request, context):  # noqa: N802
        return query_pb2.ListOperationsResponse()

    async def GetOperation(self, request, context):  # noqa: N802
        return await context.abort(grpc.StatusCode.NOT_FOUND, "no such operation")

    async def ListDebugFlags(self, request, context):  # noqa: N802
        flag = resource_pb2.DebugFlag(scope=resource_pb2.OPERATION_SCOPE_TENANT, target_id=TENANT, reason="tests")
        return query_pb2.ListDebugFlagsResponse(flags=[flag])

    async def ListFindings(self, request, context):  # noqa: N802
        finding = query_pb2.Finding(resource_id=ROUTER, server_id=IMAGE, finding="surplus")
        return query_pb2.ListFindingsResponse(findings=[finding], complete=True)

    async def WatchResources(self, request, context):  # noqa: N802
        await self._refuse(context)
        self.watched.append(request)
        while (message := await self.changes.get()) is not None:
            yield message


@dataclass
class Api:
    """A running API and what it stands on."""

    url: str
    port: int
    scheduler: ScriptedScheduler
    rpc: RpcServer
    session: aiohttp.ClientSession
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def put(self, path: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self.session.put(self.url + path, **options) as answer:
            return answer.status, await answer.json(content_type=None), answer

    async def get(self, path: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self.session.get(self.url + path, **options) as answer:
            return answer.status, await answer.json(content_type=None), answer


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Api]:
    scripted = ScriptedScheduler()
    names = [f"astara.scheduler.v1.{name}" for name in ("QueryService", "OperateService", "PresenceService")]
    rpc = RpcServer(GrpcSettings(), "127.0.0.1:0", names)
    query_pb2_grpc.add_QueryServiceServicer_to_server(scripted, rpc.server)
    operate_pb2_grpc.add_OperateServiceServicer_to_server(scripted, rpc.server)
    presence_pb2_grpc.add_PresenceServiceServicer_to_server(scripted, rpc.server)
    await rpc.start()
    settings = RpcapiSettings(
        **{"auth": "none", "port": free_port(), "command_rate": 1e6, "query_rate": 1e6, **options}
    )
    channel = open_channel(GrpcSettings(), rpc.address)
    stop = asyncio.Event()
    app = build(settings, Scheduler(channel), read_token(settings), stop)
    serving = asyncio.create_task(serve(app, settings, bind("rpcapi", settings.listen, settings.port), stop))
    async with aiohttp.ClientSession() as session:
        try:
            yield Api(f"http://127.0.0.1:{settings.port}", settings.port, scripted, rpc, session, stop)
        finally:
            stop.set()
            await serving
            await channel.close()
            await rpc.stop(0)
