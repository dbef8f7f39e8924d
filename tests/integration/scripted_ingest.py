"""A scheduler's entrance that does what a test tells it, over real gRPC, and remembers what it was given."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc.aio
from astara.event.v1 import event_pb2 as pb
from astara.scheduler.v1 import ingest_pb2 as ingest
from astara.scheduler.v1.ingest_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server


class ScriptedIngest(IngestServiceServicer):
    """Keeps every event and acks it, unless told otherwise."""

    def __init__(self, credit: int = 5000) -> None:
        self.credit = credit
        self.events: list[pb.Event] = []
        self.batches: list[int] = []
        self.resyncs = 0
        self.streams = 0
        self.most_unanswered = 0
        # Answers None to ack, text to reject; raising ends the stream.
        self.judge: Callable[[pb.Event], str | None] = lambda _event: None
        # While cleared, events are taken and not answered.
        self.answering = asyncio.Event()
        self.answering.set()
        self.inventory: list[ingest.InventoryRequest] = []
        self.listening = True
        self.list_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen; a second start listens on the same port."""
        self._server = grpc.aio.server(
            # As our own servers: clients ask every few seconds whether it is there.
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000)]
        )
        add_IngestServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Cut all streams."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def until(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something is true of what was received."""
        async with asyncio.timeout(seconds):
            while not reached():
                self._changed.clear()
                await self._changed.wait()

    async def Publish(  # noqa: N802
        self, requests: AsyncIterator[ingest.PublishRequest], _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ingest.PublishResponse]:
        self.streams += 1
        self._changed.set()
        yield ingest.PublishResponse(credit=self.credit)
        taken: asyncio.Queue[tuple[int, pb.Event]] = asyncio.Queue()

        async def take() -> None:
            expected = 1
            async for request in requests:
                if request.resync:
                    self.resyncs += 1
                if request.events:
                    assert request.first_number == expected
                    expected += len(request.events)
                    self.batches.append(len(request.events))
                for number, event in enumerate(request.events, request.first_number):
                    self.events.append(event)
                    taken.put_nowait((number, event))
                self.most_unanswered = max(self.most_unanswered, taken.qsize())
                self._changed.set()

        reader = asyncio.create_task(take())
        try:
            while True:
                pairs = [await taken.get()]
                await self.answering.wait()
                while not taken.empty():
                    pairs.append(taken.get_nowait())
                response = ingest.PublishResponse()
                for number, event in pairs:
                    reason = self.judge(event)
                    if reason is None:
                        response.acked.append(number)
                    else:
                        response.rejected.add(number=number, reason=reason)
                yield response
        finally:
            reader.cancel()

    async def Inventory(  # noqa: N802
        self, requests: AsyncIterator[ingest.InventoryRequest], _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ingest.InventoryResponse]:
        answers: asyncio.Queue[ingest.InventoryResponse] = asyncio.Queue()
        answers.put_nowait(ingest.InventoryResponse(listening=self.listening, list_now=self.listening))

        async def take() -> None:
            async for request in requests:
                self.inventory.append(request)
                if request.end:
                    answers.put_nowait(
                        ingest.InventoryResponse(listening=self.listening, taken_generation=request.generation)
                    )
                self._changed.set()

        async def ask() -> None:
            while True:
                await self.list_now.wait()
                self.list_now.clear()
                answers.put_nowait(ingest.InventoryResponse(listening=self.listening, list_now=True))

        jobs = [asyncio.create_task(take()), asyncio.create_task(ask())]
        try:
            while True:
                yield await answers.get()
        finally:
            for job in jobs:
                job.cancel()
