"""What the scheduler knows of a router: its current instances, and the networks whose instances it serves."""

from dataclasses import dataclass
from typing import Protocol, cast

import grpc
import grpc.aio
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import query_pb2, query_pb2_grpc

from services.metadata.errors import NoInstanceError, TryAgainError

CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ResourceView:
    """A resource as the scheduler sees it.

    `instances` are pairs of slot and id of the boot. `networks` are attached as internal ones: the network of a gateway
    is shared with strangers, whose metadata is none of this resource's business.
    """

    instances: frozenset[tuple[int, str]]
    networks: frozenset[str]
    complete: bool


class Resources(Protocol):
    """The scheduler's read side, as far as this service needs it."""

    async def get(self, resource_id: str) -> ResourceView:
        """One resource. NoInstanceError when it does not exist, TryAgainError when that cannot be said now."""
        ...


class SchedulerResources:
    """Asks the scheduler's QueryService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._query = cast("query_pb2_grpc.QueryServiceAsyncStub", query_pb2_grpc.QueryServiceStub(channel))

    async def get(self, resource_id: str) -> ResourceView:
        """One resource."""
        request = query_pb2.GetResourceRequest(resource_id=resource_id)
        try:
            answer: query_pb2.GetResourceResponse = await self._query.GetResource(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise NoInstanceError(f"resource {resource_id}: the scheduler knows no such resource") from None
            detail = f"resource {resource_id}: scheduler: {error.code().name}: {error.details()}"
            raise TryAgainError(detail) from error
        return view_of(answer)


def view_of(answer: query_pb2.GetResourceResponse) -> ResourceView:
    """The view in an answer of the scheduler."""
    return ResourceView(
        frozenset((item.slot, item.instance_id) for item in answer.resource.instances if item.instance_id),
        frozenset(
            item.network_id
            for item in answer.resource.attachments
            if item.role == resource_pb2.ATTACHMENT_ROLE_INTERNAL
        ),
        answer.complete,
    )
