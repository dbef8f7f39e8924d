"""Calls to appliances over the management network (docs/contracts.md, section 1.3.2 of the functional description).

One aiohttp session for thousands of appliances. A call that gets no answer raises UnreachableError; the machine decides
what that means.
"""

from dataclasses import dataclass
from typing import Any

import aiohttp

from .certificates import Certificates
from .cloud import Json
from .errors import ApplianceError, RejectedError, StaleEpochError, UnreachableError
from .settings import ApplianceSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an appliance is and how it knows us. `instance_id` is the boot that we mean to talk to."""

    address: str
    token: str
    instance_id: str
    tls: bool = False


@dataclass(frozen=True, slots=True)
class ApplianceStatus:
    """What an appliance says of itself."""

    v4: bool
    v6: bool
    digest: str | None
    epoch: tuple[int, int] | None
    interfaces: dict[str, str]
    undone: tuple[str, ...] = ()  # what of its configuration it cannot do, in words for users


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an appliance says of a configuration that it took: the services that changed, and what it cannot do."""

    changed: list[str]
    undone: tuple[str, ...]


class ApplianceClient:
    """Asks and tells appliances. Open it on the loop that uses it; close it at the end."""

    def __init__(self, settings: ApplianceSettings, *, connections: int = 1024) -> None:
        """SettingsError when the certificates cannot be used."""
        self._settings = settings
        self.certificates = Certificates(settings)
        connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=30.0, use_dns_cache=False)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._short = aiohttp.ClientTimeout(total=settings.alive_timeout)
        self._long = aiohttp.ClientTimeout(total=settings.config_timeout, connect=settings.alive_timeout)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def status(self, endpoint: Endpoint) -> ApplianceStatus:
        """Ask whether the appliance is there. UnreachableError also when another boot answers at that address."""
        answer = await self._call("GET", endpoint, "/v1/status", self._short)
        if answer.get("instance") != endpoint.instance_id:
            msg = f"{endpoint.address} answers as another instance ({answer.get('instance')})"
            raise UnreachableError(msg)
        return ApplianceStatus(
            bool(answer.get("v4")),
            bool(answer.get("v6")),
            answer.get("digest"),
            _epoch(answer.get("epoch")),
            dict(answer.get("interfaces") or {}),
            _words(answer),
        )

    async def configure(self, endpoint: Endpoint, configuration: Json, digest: str, epoch: tuple[int, int]) -> Accepted:
        """Push a configuration.

        RejectedError names every wrong field; StaleEpochError when somebody with a higher epoch was there.
        """
        headers = {
            "X-Astara-Digest": digest,
            "X-Astara-Epoch": f"{epoch[0]}.{epoch[1]}",
            "Prefer": "return=minimal",
        }
        answer = await self._call(
            "PUT", endpoint, "/v1/system/config", self._long, headers, {"configuration": configuration}
        )
        return Accepted([str(name) for name in answer.get("changed", ())], _words(answer))

    async def labels(self, endpoint: Endpoint) -> list[Json]:
        """Traffic counters by label."""
        answer = await self._call("GET", endpoint, "/v1/firewall/labels", self._long)
        return list(answer.get("labels", ()))

    async def _call(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: dict[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        url = f"{'https' if endpoint.tls else 'http'}://{host}:{self._settings.port}{path}"
        everything = {"Authorization": f"Bearer {endpoint.token}", **(headers or {})}
        secure: dict[str, Any] = {}
        if endpoint.tls:
            if not self.certificates.enabled:
                raise ApplianceError(f"{endpoint.address} speaks TLS, but [appliance] tls_ca is not set")
            secure = {"ssl": self.certificates.context(), "server_hostname": self.certificates.server_name}
        try:
            async with self._session.request(
                method, url, headers=everything, json=body, timeout=timeout, allow_redirects=False, **secure
            ) as response:
                answer: Any = await response.json(content_type=None) if response.status != 204 else {}
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            msg = f"{method} {path} at {endpoint.address}: {error or type(error).__name__}"
            raise UnreachableError(msg) from error
        if not isinstance(answer, dict):
            msg = f"{method} {path} at {endpoint.address}: the answer is not a JSON object"
            raise ApplianceError(msg)
        if response.status == 422:
            fields = "; ".join(f"{e.get('field')}: {e.get('message')}" for e in answer.get("errors", ())[:20])
            raise RejectedError(
                f"the appliance refused the configuration: {fields or answer.get('detail')}", _unknown(answer)
            )
        if response.status == 409:
            raise StaleEpochError(f"the appliance has seen epoch {answer.get('epoch')}")
        if response.status >= 400:
            detail = answer.get("detail") or answer.get("title")
            raise ApplianceError(f"{method} {path} at {endpoint.address}: {response.status}: {detail}")
        return answer


def _words(answer: Json) -> tuple[str, ...]:
    """What it cannot do; appliances of earlier releases do not tell."""
    return tuple(str(one) for one in answer.get("undone") or ())


def _unknown(answer: Json) -> frozenset[str]:
    """The unknown fields when they are all that is wrong."""
    errors = answer.get("errors", ())
    is_all = all(error.get("message") == "unknown field" for error in errors)
    return frozenset(str(error.get("field")) for error in errors) if is_all else frozenset()


def _epoch(text: object) -> tuple[int, int] | None:
    """`<term>.<counter>` as two numbers; None before the first push, and for what is no epoch."""
    term, _, counter = str(text).partition(".")
    return (int(term), int(counter)) if term.isdecimal() and counter.isdecimal() else None
