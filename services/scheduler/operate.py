"""OperateService: operators' commands, and the one place where a refusal becomes a status."""

# ruff: noqa: N802 - the names and arguments are those of the generated base class

from typing import Any

import grpc
from astara.scheduler.v1 import operate_pb2, operate_pb2_grpc
from sqlalchemy.exc import SQLAlchemyError

from .commands import IdTakenError, InDebugModeError, NotKnownYetError, RefusedError, UnknownTargetError
from .replica import Replica
from .store import DeposedError

_STATUS: dict[type[Exception], grpc.StatusCode] = {
    RefusedError: grpc.StatusCode.INVALID_ARGUMENT,
    IdTakenError: grpc.StatusCode.ALREADY_EXISTS,
    UnknownTargetError: grpc.StatusCode.NOT_FOUND,
    NotKnownYetError: grpc.StatusCode.UNAVAILABLE,
    InDebugModeError: grpc.StatusCode.FAILED_PRECONDITION,
    DeposedError: grpc.StatusCode.UNAVAILABLE,
    SQLAlchemyError: grpc.StatusCode.UNAVAILABLE,
}


class OperateServicer(operate_pb2_grpc.OperateServiceServicer):
    """For rpcapi."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def StartOperation(
        self, request: operate_pb2.StartOperationRequest, context: Any
    ) -> operate_pb2.StartOperationResponse:
        """Keep a command and answer with it."""
        leader = await self._replica.leading(context)
        try:
            return operate_pb2.StartOperationResponse(operation=await leader.operations.start(request))
        except tuple(_STATUS) as error:
            status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
            await context.abort(status, str(error))
            raise
