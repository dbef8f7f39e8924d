"""An instance's metadata request on its way to the orchestrator's metadata service.

The forwarder adds what only the appliance knows (which network the request came from, and from which address) and the
proof of who the appliance is; whatever a tenant sent under these names is dropped first. Requests at a time, bytes and
seconds are bounded, so a tenant can exhaust no more than its own appliance's share.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from .boot import BootData

MAX_REQUEST = 64 * 2**10
"""Bytes of a request's body; cloud-init posts a password and host keys at most."""

MAX_RESPONSE = 4 * 2**20
"""Bytes of an answer; Nova limits user data to 64 KiB and vendor data to a few times that."""

AT_ONCE = 32
"""Requests of one appliance that may be on their way."""

TIMEOUT = 15.0
"""Seconds for one request, waiting for its turn included."""

# RFC 9110, section 7.6.1, and what frames a message: they belong to one connection.
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
_OURS = (
    "x-astara-",
    "x-forwarded-",
    "x-instance-id",
    "x-tenant-id",
    "x-project-id",
    "x-real-ip",
    "x-lab-",
    "x-metadata-",
)
_OURS_EXACT = frozenset(("authorization", "forwarded", "via"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetadataRequest:
    """What came from an instance. `path` is path and query as received, `source` the instance's address."""

    method: str
    path: str
    headers: Iterable[tuple[str, str]]
    body: bytes
    network_id: str
    source: str


@dataclass(frozen=True, slots=True)
class MetadataResponse:
    """What to answer the instance."""

    status: int
    headers: "CIMultiDict[str]"
    body: bytes


class MetadataForwarder:
    """Forwards for one appliance; the HTTP session may be shared by many."""

    __slots__ = ("_away", "_boot", "_session", "_slots")

    def __init__(self, boot: BootData, session: aiohttp.ClientSession, at_once: int = AT_ONCE) -> None:
        self._boot = boot
        self._session = session
        self._slots = asyncio.Semaphore(at_once)
        self._away: set[str] = set()

    async def forward(self, request: MetadataRequest) -> MetadataResponse:
        """The orchestrator's answer, or 400, 413, 502, 503, 504 when there is none. Raises nothing of the network's."""
        # Behind an address, "@elsewhere/" would be another host, which would get the token.
        if not request.path.startswith("/"):
            return _failure(400, "a path is expected")
        if len(request.body) > MAX_REQUEST:
            return _failure(413, "the request is too large")
        try:
            async with asyncio.timeout(TIMEOUT), self._slots:
                return await self._try_addresses(request)
        except TimeoutError:
            return _failure(504, "the metadata service did not answer in time")

    async def _try_addresses(self, request: MetadataRequest) -> MetadataResponse:
        orchestrator = self._boot.orchestrator
        headers = self._headers(request)
        for address in orchestrator.addresses:
            base = URL.build(scheme="http", host=address, port=orchestrator.metadata_port)
            # The path goes as it came: a second encoding would ask Nova for something else.
            url = URL(f"{base}{request.path}", encoded=True)
            try:
                async with self._session.request(
                    request.method, url, headers=headers, data=request.body or None, allow_redirects=False
                ) as answer:
                    self._is_back(address)
                    return await _read(answer)
            except aiohttp.ClientConnectorError as error:
                self._is_away(address, error)
            except aiohttp.ClientError as error:
                self._is_away(address, error)
                return _failure(502, "the metadata service broke off")
        return _failure(503, "the metadata service cannot be reached")

    def _is_away(self, address: str, error: aiohttp.ClientError) -> None:
        # Once, not for each request: instances ask as often as they like.
        if address not in self._away:
            self._away.add(address)
            _log.warning("metadata service at %s: %s", address, error)

    def _is_back(self, address: str) -> None:
        if address in self._away:
            self._away.remove(address)
            _log.info("metadata service at %s answers again", address)

    def _headers(self, request: MetadataRequest) -> "CIMultiDict[str]":
        boot = self._boot
        # A header that Connection names is for this hop only, too.
        named = {
            name.strip().lower()
            for key, value in request.headers
            if key.lower() == "connection"
            for name in value.split(",")
        }
        headers = CIMultiDict(
            (key, value) for key, value in request.headers if not _is_dropped(key.lower()) and key.lower() not in named
        )
        headers["X-Astara-Deployment"] = boot.deployment
        headers["X-Astara-Resource"] = boot.resource_id
        headers["X-Astara-Slot"] = str(boot.slot)
        headers["X-Astara-Instance"] = boot.instance
        headers["X-Astara-Network"] = request.network_id
        headers["X-Forwarded-For"] = request.source
        if boot.token is not None:
            headers["Authorization"] = f"Bearer {boot.token}"
        return headers


async def _read(answer: aiohttp.ClientResponse) -> MetadataResponse:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * 2**10):
        body += chunk
        if len(body) > MAX_RESPONSE:
            answer.close()
            return _failure(502, "the answer is too large")
    # The session decodes a compressed body, so its encoding is not told either.
    headers = CIMultiDict(
        (key, value)
        for key, value in answer.headers.items()
        if key.lower() not in _HOP_BY_HOP and key.lower() != "content-encoding"
    )
    return MetadataResponse(answer.status, headers, bytes(body))


def _is_dropped(name: str) -> bool:
    return name in _HOP_BY_HOP or name in _OURS_EXACT or name.replace("_", "-").startswith(_OURS)


def _failure(status: int, text: str) -> MetadataResponse:
    headers = CIMultiDict({"Content-Type": "text/plain; charset=utf-8"})
    if status == 503:
        headers["Retry-After"] = "5"
    return MetadataResponse(status, headers, f"{text}\n".encode())
