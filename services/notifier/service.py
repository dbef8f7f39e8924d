"""The notifier: the broker's messages in, events to the scheduler out, acks back.

Health has three names. The empty one and `liveness` say that the process runs; `readiness` says that broker and
scheduler are both connected, so that an outage of either makes nobody restart notifiers.
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable
from typing import Any

from services.common import logging, metrics, presence, rpc
from services.common.clock import SystemClock
from services.common.metrics import MetricsSettings
from services.common.process import host_name, run_until
from services.common.publisher import Publisher
from services.common.settings import CommonSettings, GrpcSettings, Settings

from . import metrics as counts
from .consumer import Consumer
from .delivery import Delivery
from .normalise import Normaliser
from .settings import NotifierSettings

SETTINGS = (NotifierSettings, GrpcSettings, MetricsSettings)

LIVENESS = "liveness"
READINESS = "readiness"

# Unknown types that get a counter of their own; a sender of nonsense must not fill the memory.
_MOST_UNKNOWN = 200

# How long a notifier that is told to stop waits for the answers to what it has taken, and how often it looks.
_FINISH_SECONDS = 3.0
_FINISH_LOOK = 0.02

_log = logging.get(__name__)


class Notifier:
    """Joins consumer and publisher. The consumer's thread calls `arrived`, `connected`, `disconnected` and `failed`."""

    def __init__(self, settings: Settings, publisher: Publisher, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._publisher = publisher
        self._known_unknown: set[str] = set()
        self.broker = False
        self.failure: asyncio.Future[None] = loop.create_future()
        self.changed = asyncio.Event()
        common = settings[CommonSettings]
        self.consumer = Consumer(
            settings[NotifierSettings],
            Normaliser(common.deployment, self._unknown),
            self,
            name=f"astara-notifier {host_name(common)}",
            random_=random.Random(),
            new_id=lambda: str(uuid.uuid4()),
        )

    def arrived(self, deliveries: list[Delivery]) -> None:
        """One call into the loop for all that was read at once."""
        self._call(self._submit, deliveries)

    def connected(self) -> None:
        """Ask for a resync: what was sent while nothing was bound is lost."""
        self._call(self._set_broker, True)

    def disconnected(self) -> None:
        """The broker is gone."""
        self._call(self._set_broker, False)

    def failed(self, error: Exception) -> None:
        """The consumer ended; so does the process."""
        self._call(self._fail, error)

    def _call(self, function: Callable[[Any], None], argument: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            # The loop has ended before the thread did; what was read is delivered again.
            return

    def _submit(self, deliveries: list[Delivery]) -> None:
        submit = self._publisher.submit
        for delivery in deliveries:
            answered = delivery.answered
            for event in delivery.events:
                submit(event, answered)

    def _set_broker(self, connected: bool) -> None:
        self.broker = connected
        if connected:
            self._publisher.request_resync()
        self.changed.set()

    def _fail(self, error: Exception) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    def _unknown(self, event_type: str) -> None:
        if event_type not in self._known_unknown and len(self._known_unknown) < _MOST_UNKNOWN:
            self._known_unknown.add(event_type)
            _log.info("ignoring messages of a type that is not known", type=event_type[:100])
        label = event_type[:100] if event_type in self._known_unknown else "others"
        counts.UNKNOWN.labels(label).inc()


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set."""
    common = settings[CommonSettings]
    metrics.serve(settings[MetricsSettings])
    server = rpc.RpcServer(settings[GrpcSettings], settings[NotifierSettings].listen)
    loop = asyncio.get_running_loop()
    myself = presence.announcement("notifier", host_name(common), server.address)
    async with rpc.open_channel(settings[GrpcSettings]) as channel, server, presence.announced(channel, myself):
        changed = asyncio.Event()
        publisher = Publisher(channel, f"notifier-{host_name(common)}", SystemClock(), changed=changed.set)
        notifier = Notifier(settings, publisher, loop)
        notifier.changed = changed
        await server.set_health(LIVENESS, serving=True)

        async def tell_readiness() -> None:
            while True:
                counts.CONNECTED.labels("scheduler").set(publisher.connected)
                await server.set_health(READINESS, serving=notifier.broker and publisher.connected)
                await changed.wait()
                changed.clear()

        finished = asyncio.Event()

        async def finish() -> None:
            """Let what was taken be answered and acked, so that nobody has to do it again after us."""
            await stop.wait()
            notifier.consumer.finish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_SECONDS):
                    while notifier.broker and publisher.connected and not notifier.consumer.finished:  # noqa: ASYNC110 - a thread's
                        await asyncio.sleep(_FINISH_LOOK)
            finished.set()
            await asyncio.Event().wait()

        notifier.consumer.start()
        try:
            await run_until(finished, publisher.run(), tell_readiness(), notifier.failure, finish())
        finally:
            await asyncio.to_thread(notifier.consumer.stop)
