"""PresenceService: who runs."""

# ruff: noqa: N802, ARG002 - the names and arguments are those of the generated base class

from typing import Any

import grpc
from astara.scheduler.v1 import presence_pb2, presence_pb2_grpc

from .replica import Replica
from .roster import FullError, WrongFieldError


class PresenceServicer(presence_pb2_grpc.PresenceServiceServicer):
    """For every service, rpcapi, health and people with grpcurl."""

    def __init__(self, replica: Replica, own: presence_pb2.AnnounceRequest) -> None:
        """`own` is what this scheduler says of itself."""
        self._replica = replica
        self._own = own

    async def Announce(self, request: presence_pb2.AnnounceRequest, context: Any) -> presence_pb2.AnnounceResponse:
        """Take one announcement."""
        leader = await self._replica.leading(context)
        try:
            leader.roster.announce(request)
        except WrongFieldError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except FullError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        return presence_pb2.AnnounceResponse(interval_milliseconds=leader.roster.interval_milliseconds)

    async def ListServices(
        self, request: presence_pb2.ListServicesRequest, context: Any
    ) -> presence_pb2.ListServicesResponse:
        """Everybody of whom was heard lately."""
        leader = await self._replica.leading(context)
        return leader.roster.listed(self._own)
