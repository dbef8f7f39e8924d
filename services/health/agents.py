"""Neutron's list of agents shows Astara's services: health names those that live, where Neutron has `astara-services`.

One health does it, the one that the scheduler listens to. It is for people: what fails is tried again at the next turn
and logged once, and ends nothing. Who is dead is not named any more; Neutron then shows it so (docs/contracts.md).
"""

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any

import grpc.aio
from astara.scheduler.v1.presence_pb2 import ListServicesRequest, ListServicesResponse, ServiceInfo
from astara.scheduler.v1.presence_pb2_grpc import PresenceServiceStub
from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

from services.common import logging
from services.common.clock import Clock

ALIAS = "astara-services"

LOOK_AGAIN_SECONDS = 300.0
"""How often a Neutron without the extension is asked for it."""

_FIRST_INTERVAL_SECONDS = 20.0
_LEAST_INTERVAL_SECONDS = 0.05
_CALL_SECONDS = 10.0
# As many as Neutron takes (docs/contracts.md).
_MOST = 1000

_log = logging.get(__name__)


class AgentsError(Exception):
    """Neutron was not told, and why."""


class Agents:
    """Tells Neutron who lives."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        connection: Connection,
        deployment: str,
        clock: Clock,
        look_again: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        self._stub: Any = PresenceServiceStub(channel)
        self._connection = connection
        self._deployment = deployment
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="agents")
        self._listening = asyncio.Event()
        self._has_extension = False
        self._look_again = look_again
        self._look_at = -math.inf
        self._interval = _FIRST_INTERVAL_SECONDS
        self._telling = self._failing = False
        """What was logged last."""

    def close(self) -> None:
        """Let go of the thread; a call under way ends by its own time-out."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def listened_to(self, listening: bool) -> None:
        """Whether the scheduler listens to this health, which is then the one that tells Neutron."""
        if listening:
            self._listening.set()
        else:
            self._listening.clear()

    async def run(self) -> None:
        """Tell Neutron as often as services announce themselves; ends only by cancellation."""
        while True:
            await self._listening.wait()
            await asyncio.sleep(await self._turn())

    async def _turn(self) -> float:
        """Tell Neutron once; answers with the seconds until the next turn."""
        try:
            if not self._has_extension and not await self._look():
                return self._look_at - self._clock.lease()
            known: ListServicesResponse = await self._stub.ListServices(ListServicesRequest(), timeout=_CALL_SECONDS)
            self._interval = max(_LEAST_INTERVAL_SECONDS, known.interval_milliseconds / 1000)
            living = [service for service in known.services if service.alive]
            await self._tell(living)
        except grpc.aio.AioRpcError as error:
            self._failed(f"{error.code().name}: {error.details()}")
        except AgentsError as error:
            self._failed(str(error))
        else:
            if not self._telling:
                _log.info("services are told to Neutron", living=len(living))
            self._telling, self._failing = True, False
        return self._interval

    def _failed(self, reason: str) -> None:
        if not self._failing:
            _log.warning("services are not told to Neutron", reason=reason)
        self._telling, self._failing = False, True

    async def _look(self) -> bool:
        """Whether Neutron has the extension; asked every few minutes while it has not. Raises AgentsError."""
        if self._clock.lease() < self._look_at:
            return False
        self._has_extension = await self._call("GET", f"/extensions/{ALIAS}")
        self._look_at = self._clock.lease() + self._look_again
        return self._has_extension

    async def _tell(self, living: Sequence[ServiceInfo]) -> None:
        path = f"/{ALIAS}/{self._deployment}"
        if not await self._call("PUT", path, {"services": [_agent(service) for service in living[:_MOST]]}):
            # The plugin was taken out, or its policy hides it from our user.
            self._has_extension = False
            self._look_at = self._clock.lease() + self._look_again
            raise AgentsError(f"PUT {path}: 404")

    async def _call(self, method: str, path: str, body: Any = None) -> bool:
        """Whether there is such a thing. Raises AgentsError for other refusals than 404."""

        def blocking() -> Any:
            return self._connection.network.request(path, method, json=body)

        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, blocking)
        except (ClientException, SDKException, OSError) as error:
            if getattr(error, "http_status", 0) == 404:
                return False
            raise AgentsError(f"{method} {path}: {error}") from error
        if answer.status_code >= 400 and answer.status_code != 404:
            raise AgentsError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        found: bool = answer.status_code != 404
        return found


def _agent(service: ServiceInfo) -> dict[str, Any]:
    return {
        "binary": f"astara-{service.service}",
        "host": service.host,
        "started_at": service.started_at.ToDatetime(tzinfo=UTC).isoformat(timespec="seconds"),
        "configurations": {"version": service.version, "address": service.address},
    }
