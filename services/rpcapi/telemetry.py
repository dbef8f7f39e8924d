"""What the API says about itself: Prometheus metrics by route and status, liveness and readiness.

Liveness says that the process answers; readiness that the scheduler's leader does too. Neither wants a token.
"""

import time

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.process import version
from services.rpcapi.models import Health
from services.rpcapi.parameters import SchedulerDep
from services.rpcapi.problems import RETRY_SECONDS, ProblemError
from services.rpcapi.stream import Streams

REQUESTS = Counter("astara_rpcapi_requests", "HTTP requests answered", ("method", "route", "status"))
SECONDS = Histogram("astara_rpcapi_request_seconds", "Time until the answer began", ("route",))
STREAMS = Gauge("astara_rpcapi_streams", "Live streams that are open")

_METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"})

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> Health:
    """Whether this process answers."""
    return Health(status="ok", version=version())


@router.get("/readyz")
async def readyz(scheduler: SchedulerDep) -> Health:
    """Whether the scheduler answers too; 503 when it does not."""
    if not await scheduler.ready():
        raise ProblemError(503, "The scheduler does not answer", headers={"Retry-After": str(RETRY_SECONDS)})
    return Health(status="ok", version=version())


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus metrics"}},
)
async def metrics(request: Request) -> Response:
    """Metrics of this process for Prometheus."""
    streams: Streams = request.app.state.streams
    STREAMS.set(streams.open)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class Measured:
    """ASGI middleware that counts answers by the route's template, never by paths that callers invent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The application's router wrote the route that it chose into this very scope.
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                REQUESTS.labels(method, route, str(message["status"])).inc()
                SECONDS.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counted)
