"""What every request passes before a route sees it: rate, token, size, and one spelling of its path.

Rate comes first, so that guessing tokens is slow; the token comes before the body, so that strangers cannot make us
read. A body is read whole, at most `max_body_bytes` in at most BODY_SECONDS, before the application starts. `/x/` and
`/x` are the same path.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.rpc import is_loopback
from services.rpcapi.problems import ProblemError
from services.rpcapi.settings import RpcapiSettings

BODY_SECONDS = 10.0
CLIENTS_REMEMBERED = 4_096
PUBLIC = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""Probes cannot carry a token, and the description of an API is no secret."""


class Rate:
    """Token buckets, one a client: `rate` a second, with a burst of two seconds' worth (at least one)."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = max(1.0, 2.0 * rate)
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """0.0 when the request may pass, else the seconds until one may."""
        now = self._now()
        level, at = self._buckets.get(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        passes = level >= 1.0
        self._buckets[client] = (level - 1.0 if passes else level, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > CLIENTS_REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1.0 - level) / self._rate


class Gate:
    """ASGI middleware; see the module."""

    def __init__(
        self,
        app: ASGIApp,
        settings: RpcapiSettings,
        token: str | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._max_body = settings.max_body_bytes
        self._commands = Rate(settings.command_rate, now)
        self._queries = Rate(settings.query_rate, now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem document."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        scope["path"] = path
        headers = dict(scope["headers"])
        try:
            self._check_rate(scope)
            self._check_host(headers)
            self._check_token(path, headers)
            body = await self._read(headers, receive)
        except ProblemError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_rate(self, scope: Scope) -> None:
        client = scope["client"][0] if scope.get("client") else "?"
        rate = self._commands if scope["method"] == "PUT" else self._queries
        seconds = rate.take(client)
        if seconds:
            retry = str(max(1, round(seconds + 0.5)))
            raise ProblemError(429, f"Too many requests from {client}", headers={"Retry-After": retry})

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """An open API on loopback is for this machine: a page that a browser here shows must not reach it by a name."""
        if self._token is not None:
            return
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if not is_loopback(name.strip("[]")):
            raise ProblemError(403, f"Host: {host[:100]!r} is not this machine's loopback; set [rpcapi] auth = token")

    def _check_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._token is None or path in PUBLIC:
            return
        scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self._token):
            raise ProblemError(
                401,
                "This API wants `Authorization: Bearer <token>`, the token of [rpcapi] token_file",
                headers={"WWW-Authenticate": 'Bearer realm="astara"'},
            )

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ProblemError(400, "The request ended before its body did")
                    body += message.get("body", b"")
                    if len(body) > self._max_body:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise ProblemError(408, f"The body did not arrive within {BODY_SECONDS:g} s") from error

    def _too_large(self) -> ProblemError:
        return ProblemError(413, f"The body is larger than {self._max_body} bytes", headers={"Connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that brings the body that was read, and then what the server says (a disconnect)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
