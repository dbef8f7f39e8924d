"""From an appliance's request to the instance's metadata.

What is always true: nothing is looked up for a caller without a valid token; an instance's metadata goes to nobody but
the current instance of a router that serves the network on which Neutron knows the instance; every refusal ends here,
as a status that cloud-init understands, one log line and one count.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from services.common import logging
from services.metadata import telemetry
from services.metadata.cache import Cache
from services.metadata.caller import Caller, authenticate
from services.metadata.errors import ForbiddenError, NoInstanceError, RefusalError, TryAgainError
from services.metadata.instances import Instance, Instances
from services.metadata.nova import MAX_REQUEST, NovaMetadata
from services.metadata.resources import Resources, ResourceView
from services.metadata.settings import MetadataSettings

RETRY_SECONDS = 2

log = logging.get(__name__)


class MetadataService:
    """Answers appliances. `secret` is the key of their tokens, `clock` gives seconds that only grow."""

    def __init__(
        self,
        settings: MetadataSettings,
        deployment: str,
        secret: str,
        resources: Resources,
        instances: Instances,
        nova: NovaMetadata,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._deployment = deployment
        self._secret = secret
        self._resources = resources
        self._instances = instances
        self._nova = nova
        self._views: Cache[str, ResourceView] = Cache(settings.cache_size, clock, telemetry.counter("resource"))
        self._found: Cache[tuple[str, str], Instance | None] = Cache(
            settings.cache_size, clock, telemetry.counter("instance")
        )
        self._running: Counter[str] = Counter()

    def application(self) -> web.Application:
        """The HTTP application; it answers any method and path."""
        app = web.Application(client_max_size=MAX_REQUEST)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        with telemetry.SECONDS.time():
            try:
                response = await self._answer(request)
            except RefusalError as refusal:
                log.warning("refused", status=refusal.status, why=refusal.detail)
                response = _refuse(refusal)
        telemetry.REQUESTS.labels(str(response.status)).inc()
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        caller = authenticate(request.headers, self._deployment, self._secret)
        with self._admitted(caller):
            await self._check(caller)
            instance = await self._instance(caller)
            response = await self._nova.forward(request, instance, caller.source)
            if response.status == 404:
                # Perhaps the address has changed hands.
                self._found.forget((caller.network_id, caller.source))
            return response

    @contextmanager
    def _admitted(self, caller: Caller) -> Iterator[None]:
        """No router's instances can take all that this process has."""
        if self._running[caller.resource_id] >= self._settings.max_requests_per_resource:
            raise TryAgainError(f"resource {caller.resource_id}: too many requests at a time")
        if self._running.total() >= self._settings.max_requests:
            raise TryAgainError("too many requests at a time")
        self._running[caller.resource_id] += 1
        try:
            yield
        finally:
            self._running[caller.resource_id] -= 1
            if not self._running[caller.resource_id]:
                del self._running[caller.resource_id]

    async def _check(self, caller: Caller) -> None:
        """The caller must be its resource's current instance, and the resource must serve the network."""
        why = _objection(caller, await self._view(caller.resource_id))
        if why is not None:
            # It may have been booted or attached since the view was taken.
            self._views.forget(caller.resource_id)
            view = await self._view(caller.resource_id)
            why = _objection(caller, view)
            if why is not None:
                detail = f"resource {caller.resource_id}: {why}"
                raise ForbiddenError(detail) if view.complete else TryAgainError(detail)

    async def _view(self, resource_id: str) -> ResourceView:
        async def load() -> tuple[ResourceView, float]:
            return await self._resources.get(resource_id), self._settings.resource_ttl

        return await self._views.get(resource_id, load)

    async def _instance(self, caller: Caller) -> Instance:
        async def load() -> tuple[Instance | None, float]:
            found = await self._instances.find(caller.network_id, caller.source)
            return found, self._settings.no_instance_ttl if found is None else self._settings.instance_ttl

        instance = await self._found.get((caller.network_id, caller.source), load)
        if instance is None:
            raise NoInstanceError(f"network {caller.network_id}: no instance has {caller.source}")
        return instance


def _objection(caller: Caller, view: ResourceView) -> str | None:
    if (caller.slot, caller.instance_id) not in view.instances:
        return f"{caller.instance_id} is not its current instance in slot {caller.slot}"
    if caller.network_id not in view.networks:
        return f"it does not serve network {caller.network_id}"
    return None


def _refuse(refusal: RefusalError) -> web.Response:
    headers = {"Retry-After": str(RETRY_SECONDS)} if refusal.status == 503 else None
    return web.Response(status=refusal.status, text=f"{refusal.text}\n", headers=headers)
