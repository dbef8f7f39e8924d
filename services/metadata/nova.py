"""Nova's metadata API: sign, forward, and pass the answer on as it comes.

Method, path, query and body go as the instance sent them. Headers that belong to one connection, and those by which
Nova or we know who asks, are not taken from the instance.
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterable

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from services.metadata.errors import MalformedError, NovaError, TooLargeError
from services.metadata.instances import Instance

MAX_REQUEST = 64 * 2**10
"""Bytes of a request's body; cloud-init posts a password or host keys at most."""

MAX_RESPONSE = 4 * 2**20
"""Bytes of an answer; Nova limits user data to 64 KiB and vendor data to a few times that."""

_CHUNK = 64 * 2**10

# RFC 9110, section 7.6.1, and what frames a message.
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_NOT_FROM_INSTANCES = (
    "authorization",
    "forwarded",
    "via",
    "x-astara-",
    "x-forwarded-",
    "x-instance-id",
    "x-metadata-provider",
    "x-project-id",
    "x-real-ip",
    "x-tenant-id",
)


class NovaMetadata:
    """Forwards to one Nova metadata API. Make it on the loop that uses it, and close it at the end."""

    def __init__(self, url: str, shared_secret: str, timeout: float, connections: int) -> None:
        self._base = url.rstrip("/")
        self._secret = shared_secret.encode()
        self._timeout = timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=30.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The instance gets the bytes of Nova, compressed or not.
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def forward(self, request: web.Request, instance: Instance, source: str) -> web.StreamResponse:
        """Answer `request` with what Nova says about `instance`.

        NovaError when it says nothing in time, TooLargeError and MalformedError for requests that are not passed on. A
        fault after the answer began breaks the connection off, so that nobody takes a part for the whole.
        """
        # Behind an address, "@elsewhere/" would be another host.
        if not request.raw_path.startswith("/"):
            raise MalformedError("the request's target is not a path")
        body = await self._body(request)
        url = URL(self._base + request.raw_path, encoded=True)
        headers = self._headers(request, instance, source)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    request.method, url, headers=headers, data=body or None, allow_redirects=False
                ) as answer,
            ):
                return await self._pass_on(request, answer)
        except TimeoutError:
            raise NovaError(f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise NovaError(f"{type(error).__name__}: {error}") from error

    async def _body(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > MAX_REQUEST:
            raise TooLargeError(f"a body of {request.content_length} bytes")
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise TooLargeError(f"a body of more than {MAX_REQUEST} bytes") from None

    def _headers(self, request: web.Request, instance: Instance, source: str) -> "CIMultiDict[str]":
        headers = _end_to_end(request.headers.items())
        for name in list(headers):
            # WSGI makes one of `X-Instance-ID` and `X_Instance_ID`.
            if name.lower().replace("_", "-").startswith(_NOT_FROM_INSTANCES):
                headers.popall(name, None)
        signature = hmac.new(self._secret, instance.instance_id.encode(), hashlib.sha256).hexdigest()
        headers["X-Instance-ID"] = instance.instance_id
        headers["X-Tenant-ID"] = instance.project_id
        headers["X-Forwarded-For"] = source
        headers["X-Instance-ID-Signature"] = signature
        return headers

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        if (answer.content_length or 0) > MAX_RESPONSE:
            raise NovaError(f"an answer of {answer.content_length} bytes")
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers.items())
        )
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            async for chunk in _limited(answer):
                await response.write(chunk)
        except BaseException:
            if request.transport is not None:
                request.transport.abort()
            raise
        await response.write_eof()
        return response


async def _limited(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body in chunks; NovaError when it grows too large."""
    size = 0
    async for chunk in answer.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > MAX_RESPONSE:
            raise NovaError(f"an answer of more than {MAX_RESPONSE} bytes")
        yield chunk


def _end_to_end(headers: Iterable[tuple[str, str]]) -> "CIMultiDict[str]":
    """Without the headers of one connection, those that Connection names included."""
    items = list(headers)
    named = {name.strip().lower() for key, value in items if key.lower() == "connection" for name in value.split(",")}
    return CIMultiDict((key, value) for key, value in items if key.lower() not in _HOP_BY_HOP | named)
