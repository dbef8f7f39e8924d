"""The Inventory stream to the scheduler: whether it listens, when it wants everything, and how parts get there."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import grpc
import grpc.aio
from astara.scheduler.v1 import ingest_pb2 as ingest
from astara.scheduler.v1.ingest_pb2_grpc import IngestServiceStub

from services.common import logging, rpc

_PART = 500

_log = logging.get(__name__)


class InventoryStream:
    """Keeps one stream open. While the scheduler listens to another lister, it stands by."""

    def __init__(self, channel: grpc.aio.Channel, producer: str, changed: Callable[[], None]) -> None:
        """`changed` is called when `connected` or `listening` changed, or a listing is wanted."""
        self._stub: Any = IngestServiceStub(channel)
        self._producer = producer
        self._changed = changed
        self._call: Any = None
        self._generation = 0
        self.connected = False
        self.listening = False
        self.list_now = False
        """Set when the scheduler wants everything; whoever begins to list clears it, so that wishes merge."""

    async def run(self) -> None:
        """Keep the stream; ends only by cancellation."""
        attempt = 0
        while True:
            try:
                await self._read()
            except grpc.aio.AioRpcError as error:
                if self.connected or attempt == 0:
                    _log.warning("no inventory stream", reason=f"{error.code().name}: {error.details()}")
            attempt = 1 if self.connected else attempt + 1
            self._call = None
            self.connected = self.listening = False
            self._changed()
            await rpc.reconnect_delay(attempt)

    async def send(
        self,
        resources: Sequence[ingest.InventoryResource],
        instances: Sequence[ingest.InventoryInstance],
        *,
        full: bool,
    ) -> bool:
        """Send one listing in parts. False when the stream broke, or the scheduler listens to another."""
        call = self._call
        if call is None or not self.listening:
            return False
        self._generation += 1
        pieces = list(zip_longest(_pieces(resources), _pieces(instances), fillvalue=())) or [((), ())]
        try:
            for index, (some_resources, some_instances) in enumerate(pieces):
                await call.write(
                    ingest.InventoryRequest(
                        producer=self._producer,
                        generation=self._generation,
                        begin=index == 0,
                        end=index == len(pieces) - 1,
                        full=full,
                        resources=some_resources,
                        instances=some_instances,
                    )
                )
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader meets the same end, with its reason.
            return False
        return True

    async def _read(self) -> None:
        call = self._stub.Inventory()
        try:
            while True:
                response = await call.read()
                if response is grpc.aio.EOF:
                    status = await call.code()
                    if status is not grpc.StatusCode.OK:
                        raise grpc.aio.AioRpcError(
                            status, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
                        )
                    return
                if response.listening != self.listening or not self.connected:
                    _log.info("inventory stream", listening=response.listening)
                self._call = call
                self.connected = True
                self.listening = response.listening
                self.list_now = self.list_now or response.list_now
                self._changed()
        finally:
            call.cancel()


def _pieces(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _PART] for start in range(0, len(items), _PART)]
