"""The scheduler as the API sees it: one channel, a deadline on every call.

Errors stay gRPC errors here; `problems` decides what they mean to a caller.
"""

from typing import cast

import grpc
import grpc.aio
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import (
    operate_pb2,
    operate_pb2_grpc,
    presence_pb2,
    presence_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

CALL_SECONDS = 10.0
READY_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""Beyond the time that a command was told to wait, until its call is given up."""

UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Scheduler:
    """The scheduler's read side and its door for commands."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._query = cast("query_pb2_grpc.QueryServiceAsyncStub", query_pb2_grpc.QueryServiceStub(channel))
        self._operate = cast("operate_pb2_grpc.OperateServiceAsyncStub", operate_pb2_grpc.OperateServiceStub(channel))
        self._presence = cast(
            "presence_pb2_grpc.PresenceServiceAsyncStub", presence_pb2_grpc.PresenceServiceStub(channel)
        )
        self._health = health_pb2_grpc.HealthStub(channel)

    async def ready(self) -> bool:
        """Whether a leader answers. Other errors than silence are raised."""
        request = health_pb2.HealthCheckRequest(service="astara.scheduler.v1.QueryService")
        try:
            answer = await self._health.Check(request, timeout=READY_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in UNREACHABLE:
                return False
            raise
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving

    async def start(self, request: operate_pb2.StartOperationRequest) -> resource_pb2.Operation:
        """Give a command; answers with the operation that was made of it."""
        timeout = request.wait_milliseconds / 1000 + GRACE_SECONDS
        answer: operate_pb2.StartOperationResponse = await self._operate.StartOperation(request, timeout=timeout)
        return answer.operation

    async def resources(
        self, tenant_id: str, state: resource_pb2.InstanceState.ValueType, limit: int, page_token: str
    ) -> query_pb2.ListResourcesResponse:
        """A page of resources."""
        request = query_pb2.ListResourcesRequest(
            tenant_id=tenant_id, state=state, page_size=limit, page_token=page_token
        )
        answer: query_pb2.ListResourcesResponse = await self._query.ListResources(request, timeout=CALL_SECONDS)
        return answer

    async def resource(self, resource_id: str) -> query_pb2.GetResourceResponse:
        """One resource."""
        answer: query_pb2.GetResourceResponse = await self._query.GetResource(
            query_pb2.GetResourceRequest(resource_id=resource_id), timeout=CALL_SECONDS
        )
        return answer

    async def history(self, resource_id: str, limit: int) -> query_pb2.GetHistoryResponse:
        """What happened to a resource, newest first."""
        request = query_pb2.GetHistoryRequest(resource_id=resource_id, limit=limit)
        answer: query_pb2.GetHistoryResponse = await self._query.GetHistory(request, timeout=CALL_SECONDS)
        return answer

    async def workers(self) -> query_pb2.ListWorkersResponse:
        """All workers."""
        answer: query_pb2.ListWorkersResponse = await self._query.ListWorkers(
            query_pb2.ListWorkersRequest(), timeout=CALL_SECONDS
        )
        return answer

    async def services(self) -> presence_pb2.ListServicesResponse:
        """All instances of services."""
        answer: presence_pb2.ListServicesResponse = await self._presence.ListServices(
            presence_pb2.ListServicesRequest(), timeout=CALL_SECONDS
        )
        return answer

    async def shards(self) -> query_pb2.GetShardMapResponse:
        """The shard map."""
        answer: query_pb2.GetShardMapResponse = await self._query.GetShardMap(
            query_pb2.GetShardMapRequest(), timeout=CALL_SECONDS
        )
        return answer

    async def operations(self, target_id: str, limit: int) -> query_pb2.ListOperationsResponse:
        """Operations, newest first."""
        request = query_pb2.ListOperationsRequest(target_id=target_id, limit=limit)
        answer: query_pb2.ListOperationsResponse = await self._query.ListOperations(request, timeout=CALL_SECONDS)
        return answer

    async def operation(self, operation_id: str) -> resource_pb2.Operation:
        """One operation."""
        request = query_pb2.GetOperationRequest(operation_id=operation_id)
        answer: query_pb2.GetOperationResponse = await self._query.GetOperation(request, timeout=CALL_SECONDS)
        return answer.operation

    async def debug_flags(self) -> query_pb2.ListDebugFlagsResponse:
        """All debug flags."""
        answer: query_pb2.ListDebugFlagsResponse = await self._query.ListDebugFlags(
            query_pb2.ListDebugFlagsRequest(), timeout=CALL_SECONDS
        )
        return answer

    async def findings(self) -> query_pb2.ListFindingsResponse:
        """Surplus and orphaned servers and ports."""
        answer: query_pb2.ListFindingsResponse = await self._query.ListFindings(
            query_pb2.ListFindingsRequest(), timeout=CALL_SECONDS
        )
        return answer

    def watch(
        self, resource_ids: list[str], tenant_id: str
    ) -> "grpc.aio.UnaryStreamCall[query_pb2.WatchResourcesRequest, query_pb2.WatchResourcesResponse]":
        """A call that reads resources as they are and then each change; whoever opens it cancels it."""
        return self._query.WatchResources(
            query_pb2.WatchResourcesRequest(resource_ids=resource_ids, tenant_id=tenant_id)
        )
