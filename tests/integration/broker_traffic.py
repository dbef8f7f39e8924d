"""What OpenStack's services do on the broker, and what a cable does to a connection."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


def corpus(pattern: str = "*.jsonl") -> list[dict[str, Any]]:
    """The recorded messages, each with `exchange`, `routing_key` and `body`."""
    files = sorted(CORPUS.glob(pattern))
    if not files:
        pytest.fail(f"the recordings of OpenStack's messages are not there: {CORPUS / pattern}", pytrace=False)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def envelope(event_type: str, payload: dict[str, Any], **more: Any) -> bytes:
    """A notification as oslo.messaging's driver messagingv2 sends it."""
    inner = {"message_id": "m", "publisher_id": "network.host", "event_type": event_type, "payload": payload, **more}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def router_updated(number: int) -> bytes:
    """A router's update, told apart by its number."""
    return envelope("router.update.end", {"router": {"id": f"r{number}", "project_id": "p", "revision_number": number}})


class Sender:
    """Publishes with confirms, as a service that must not lose a notification; blocking."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = kombu.Connection(url, connect_timeout=5)
        self._connection.ensure_connection(max_retries=10, interval_start=0.2, interval_step=0, interval_max=0.2)
        self.channel = self._connection.channel()

    def declare(self, exchange: str, kind: str = "topic", **more: Any) -> None:
        self.channel.exchange_declare(exchange, kind, **{"durable": False, "auto_delete": False, **more})

    def send(self, body: bytes, exchange: str, key: str = "notifications.info") -> None:
        message = amqp.Message(body, content_type="application/json", content_encoding="utf-8", delivery_mode=2)
        self.channel.basic_publish_confirm(message, exchange=exchange, routing_key=key)

    def messages(self, queue: str) -> int:
        """How many messages a queue holds ready."""
        return int(self.channel.queue_declare(queue, passive=True).message_count)

    def take(self, queue: str) -> amqp.Message | None:
        """One message out of a queue."""
        return self.channel.basic_get(queue, no_ack=True)

    def reopen(self) -> None:
        """Open a channel again that a refusal closed."""
        self.channel = self._connection.channel()

    def close(self) -> None:
        self._connection.release()


class CuttingProxy:
    """A TCP proxy that can cut every connection, at once or after some more bytes towards the client."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._left: int | None = None
        self.port = 0
        self.cuts = 0
        self.connections = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.cut()
            self._server = None

    def cut_after(self, count: int) -> None:
        """Cut once `count` more bytes have gone to the client."""
        self._left = count

    def cut(self) -> None:
        """Cut everything now."""
        self._left = None
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        await asyncio.gather(self._copy(reader, far_writer, down=False), self._copy(far_reader, writer, down=True))
        self._writers -= pair

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if down and self._left is not None:
                    if len(data) >= self._left:
                        writer.write(data[: self._left])
                        await writer.drain()
                        self.cuts += 1
                        # An orderly end first, so that the half message surely arrives.
                        self._left = None
                        writer.close()
                        self.cut()
                        return
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
        writer.close()
