"""Errors as RFC 9457 problem documents: every answer of 400 and above has this shape, whoever made it.

The scheduler's gRPC status decides the HTTP status in one table. "Not known yet" (UNAVAILABLE) is 503 with Retry-After
and is never 404: a view that is incomplete does not say that something does not exist.
"""

import http
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2


class FieldProblem(BaseModel):
    """One wrong field."""

    field: str = Field(description="Where: `router_id`, `query.limit`, `body.reason`")
    message: str = Field(description="What is wrong, in words")


class Problem(BaseModel):
    """An error, RFC 9457."""

    type: str = Field(default="about:blank", description="`about:blank`: the status says it all")
    title: str = Field(description="The status in words")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened to this request, in words")
    errors: list[FieldProblem] | None = Field(default=None, description="With 422: every wrong field")


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer."""
        problem = Problem(
            title=http.HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=self.errors or None,
        )
        return JSONResponse(
            problem.model_dump(exclude_none=True), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.OUT_OF_RANGE: 422,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def from_rpc(error: grpc.aio.AioRpcError) -> ProblemError:
    """What a failed call to the scheduler means to the caller; fields come from google.rpc.BadRequest if attached."""
    status = _STATUS.get(error.code(), 502)
    detail = error.details() or error.code().name
    headers = {}
    if status in {429, 503, 504}:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status == 503 and not _said_by_the_scheduler(detail):
        detail = "The scheduler cannot be reached; not known yet"
    return ProblemError(status, detail, errors=_violations(error) if status == 422 else (), headers=headers)


def _said_by_the_scheduler(detail: str) -> bool:
    # The transport's own texts speak of sockets and addresses, which tell an operator of the API nothing.
    return not any(word in detail.lower() for word in ("connect", "socket", "recvmsg", "goaway", "name resolution"))


def _violations(error: grpc.aio.AioRpcError) -> list[FieldProblem]:
    status = rpc_status.from_call(error)
    found: list[FieldProblem] = []
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [FieldProblem(field=entry.field, message=entry.description) for entry in bad.field_violations]
    return found


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(grpc.aio.AioRpcError, _on_rpc)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_anything)


async def _on_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - registered for this type
    return error.response()


async def _on_rpc(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, grpc.aio.AioRpcError)  # noqa: S101 - registered for this type
    return from_rpc(error).response()


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    return ProblemError(error.status_code, str(error.detail), headers=error.headers).response()


async def _on_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    errors = [_field_problem(entry) for entry in error.errors()]
    words = "; ".join(f"{entry.field}: {entry.message}" for entry in errors)
    return ProblemError(422, words, errors=errors).response()


async def _on_anything(_request: Request, _error: Exception) -> JSONResponse:
    # The error itself goes on to the server, which logs it.
    return ProblemError(500, "The API failed; its log says why").response()


def _field_problem(entry: Mapping[str, Any]) -> FieldProblem:
    where, *rest = [str(part) for part in entry["loc"]]
    # What is in the path has a name that says it all; a query and a body may hold the same name.
    names = rest if where == "path" and rest else [where, *rest]
    return FieldProblem(field=".".join(names), message=entry["msg"])
