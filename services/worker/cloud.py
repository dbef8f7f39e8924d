"""Blocking calls to the cloud's APIs on bounded thread pools, as awaitables with typed errors.

The SDK's proxies are used as plain REST adapters: one HTTP call each, JSON in and out. Attach, detach and delete have a
pool of their own, so that slow ones never hold up boots and reads. Every call is counted, and capped by the session.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter
from openstack.connection import Connection
from openstack.exceptions import SDKException
from prometheus_client import Counter

from .errors import CloudError, ConflictError, ForbiddenError, NotFoundError, UncertainError
from .settings import WorkerSettings

_CALLS = Counter("astara_worker_cloud_calls", "Calls to the cloud's APIs", ["service", "method", "outcome"])

Json = dict[str, Any]
Params = dict[str, Any] | list[tuple[str, str]]


class Api(Protocol):
    """One API of the cloud. Paths are relative to its versioned endpoint. Raises CloudError and its kinds."""

    async def get(self, path: str, params: Params | None = None) -> Json:
        """Read."""
        ...

    async def post(self, path: str, body: Json) -> Json:
        """Create."""
        ...

    async def put(self, path: str, body: Json) -> Json:
        """Change."""
        ...

    async def delete(self, path: str) -> None:
        """Remove; NotFoundError when it was not there."""
        ...


class SdkApi:
    """An API through one of openstacksdk's proxies."""

    def __init__(
        self, name: str, proxy: Callable[[], Any], pool: ThreadPoolExecutor, slow_pool: ThreadPoolExecutor
    ) -> None:
        """`proxy` is asked in a thread of the pool: the first time it discovers the endpoint, which blocks."""
        self._name = name
        self._proxy = proxy
        self._pool = pool
        self._slow_pool = slow_pool

    async def get(self, path: str, params: Params | None = None) -> Json:
        """GET."""
        return await self._call("GET", path, self._pool, params=params)

    async def post(self, path: str, body: Json) -> Json:
        """POST; attaching an interface goes to the slow pool."""
        pool = self._slow_pool if path.endswith("/os-interface") else self._pool
        return await self._call("POST", path, pool, json=body)

    async def put(self, path: str, body: Json) -> Json:
        """PUT."""
        return await self._call("PUT", path, self._pool, json=body)

    async def delete(self, path: str) -> None:
        """DELETE, on the slow pool."""
        await self._call("DELETE", path, self._slow_pool)

    async def _call(self, method: str, path: str, pool: ThreadPoolExecutor, **arguments: Any) -> Json:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, self._blocking, method, path, arguments)

    def _blocking(self, method: str, path: str, arguments: Json) -> Json:
        call = f"{method} {path}"
        try:
            # Below the SDK's own cache, whose keys cost a tenth of the call.
            response = Adapter.request(self._proxy(), path, method, raise_exc=False, **arguments)
        except exceptions.ConnectionError as error:
            _CALLS.labels(self._name, method, "unanswered").inc()
            kind = CloudError if method == "GET" else UncertainError
            raise kind(self._name, call, 0, str(error)) from error
        except (exceptions.ClientException, SDKException) as error:
            _CALLS.labels(self._name, method, "unanswered").inc()
            raise CloudError(self._name, call, 0, str(error)) from error
        if response.status_code >= 400:
            _CALLS.labels(self._name, method, str(response.status_code)).inc()
            raise _error(self._name, method, call, response.status_code, _detail(response))
        _CALLS.labels(self._name, method, "ok").inc()
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError as error:
            raise CloudError(self._name, call, response.status_code, f"not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise CloudError(self._name, call, response.status_code, "not a JSON object")
        return answer


def _error(service: str, method: str, call: str, status: int, detail: str) -> CloudError:
    if status >= 500 and method != "GET":
        # A proxy that gave up waiting says 502 or 504; the service behind it may have done what was asked.
        return UncertainError(service, call, status, detail)
    kinds: dict[int, Callable[[str, str, int, str], CloudError]] = {
        401: ForbiddenError,
        403: ForbiddenError,
        404: NotFoundError,
        409: ConflictError,
    }
    return kinds.get(status, CloudError)(service, call, status, detail)


def _detail(response: Any) -> str:
    """The sentence in an error of Neutron ({"NeutronError": {"message": …}}) or Nova ({"badRequest": {…}})."""
    try:
        for inner in response.json().values():
            if isinstance(inner, dict) and "message" in inner:
                return str(inner["message"])
    except (ValueError, AttributeError):
        pass
    return str(response.text)[:300]


class Cloud:
    """Neutron and Nova of one cloud, as the service user sees them."""

    def __init__(self, connection: Connection, settings: WorkerSettings) -> None:
        neutron_pool = ThreadPoolExecutor(settings.neutron_threads, thread_name_prefix="neutron")
        nova_pool = ThreadPoolExecutor(settings.nova_threads, thread_name_prefix="nova")
        plug_pool = ThreadPoolExecutor(settings.nova_plug_threads, thread_name_prefix="nova-plug")
        self._connection = connection
        self._pools = (neutron_pool, nova_pool, plug_pool)
        self.neutron: Api = SdkApi("neutron", lambda: connection.network, neutron_pool, neutron_pool)
        self.nova: Api = SdkApi("nova", lambda: connection.compute, nova_pool, plug_pool)
        self.glance: Api = SdkApi("glance", lambda: connection.image, nova_pool, nova_pool)

    async def project_id(self) -> str:
        """The service user's project; CloudError when Keystone does not let it in."""
        loop = asyncio.get_running_loop()
        try:
            project = await loop.run_in_executor(self._pools[0], self._connection.session.get_project_id)
        except exceptions.ClientException as error:
            raise CloudError("keystone", "authenticate", 0, str(error)) from error
        return str(project)

    def close(self) -> None:
        """End the threads; calls that run are left to their time-out."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
