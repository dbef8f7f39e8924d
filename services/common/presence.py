"""How a service tells the scheduler that it runs, so that operators and Neutron's list of agents show it.

It is for people: an announcement that fails neither ends nor delays anything. While the scheduler is away the next one
waits for its return, so that a new leader knows everybody soon.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from astara.scheduler.v1.presence_pb2 import AnnounceRequest
from astara.scheduler.v1.presence_pb2_grpc import PresenceServiceStub

from services.common import logging
from services.common.clock import Clock, SystemClock
from services.common.process import version

_PATIENCE_SECONDS = 20.0
_FIRST_RETRY_SECONDS = 1.0

_log = logging.get(__name__)


def announcement(service: str, host: str, address: str, clock: Clock | None = None) -> AnnounceRequest:
    """What a process that begins now says of itself; `host` is its name where a machine may run several."""
    own = AnnounceRequest(service=service, host=host, version=version(), address=address)
    own.started_at.FromSeconds(int((clock or SystemClock()).wall()))
    return own


@contextlib.asynccontextmanager
async def announced(channel: grpc.aio.Channel, own: AnnounceRequest) -> AsyncIterator[None]:
    """Announce in the background, as often as the scheduler asks for, until the block ends."""
    announcing = asyncio.create_task(_announce(PresenceServiceStub(channel), own))
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


async def _announce(stub: Any, own: AnnounceRequest) -> None:
    failures = 0
    while True:
        try:
            answer = await stub.Announce(own, wait_for_ready=True, timeout=_PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            # Once may be a change of leader.
            if failures == 1:
                _log.warning("not announced to the scheduler", reason=f"{error.code().name}: {error.details()}")
            wait = min(_PATIENCE_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(failures, 10))
            failures += 1
        else:
            if failures > 1:
                _log.info("announced to the scheduler again")
            failures = 0
            wait = max(0.05, answer.interval_milliseconds / 1000)
        await asyncio.sleep(wait)
