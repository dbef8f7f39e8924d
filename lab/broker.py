"""`python -m lab.broker --port N`: a small AMQP 0-9-1 broker for a machine that has no RabbitMQ; loopback only.

Enough for kombu and oslo.messaging: direct, fanout and topic exchanges, queues, bindings, publishing with confirms,
consuming with prefetch, acks, redelivery when a connection ends, heartbeats. Everything is in memory: a restart forgets
it, as it forgets OpenStack's own exchanges, and clients declare anew. Any user and password are let in.
"""

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import Sequence
from typing import Any

from amqp.serialization import loads

from lab.amqp_channel import Channel, Method, Wire, encode
from lab.amqp_state import AmqpError, State

HOST = "127.0.0.1"

_PROTOCOL = b"AMQP\x00\x00\x09\x01"
_FRAME_END = 0xCE
_FRAME_MAX = 131_072
_CHANNEL_MAX = 2047
_HEARTBEAT = 60
_METHOD, _HEADER, _BODY, _BEAT = 1, 2, 3, 8
_CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "per_consumer_qos": True,
    "connection.blocked": True,
}


class Broker:
    """Listens, and carries connections until it is stopped."""

    def __init__(self) -> None:
        self.state = State()
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.port = 0

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listen on loopback, with TLS when given; OSError when the port is taken."""
        self._server = await asyncio.start_server(self._serve, HOST, port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.cut()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self.state, reader, writer)
        self._connections.add(connection)
        try:
            # What ends a connection ends nothing else.
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await connection.run()
        finally:
            self._connections.discard(connection)
            connection.end()


class Connection(Wire):
    """One client."""

    def __init__(self, state: State, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._state = state
        self._reader = reader
        self._writer = writer
        self._channels: dict[int, Channel] = {}
        # Channels that we closed: what comes on them before the client has seen it is dropped.
        self._closed: set[int] = set()
        self._contents: dict[int, tuple[int, bytes, bytearray]] = {}
        self._heartbeat = 0
        self._frame_max = _FRAME_MAX

    async def run(self) -> None:
        """Serve until the client closes or goes away."""
        if await self._reader.readexactly(8) != _PROTOCOL:
            self._writer.write(_PROTOCOL)
            return
        properties = {"product": "Astara lab broker", "version": "1.0.0", "capabilities": _CAPABILITIES}
        self.method(0, (10, 10), "ooFSS", (0, 9, properties, "PLAIN AMQPLAIN", "en_US"))
        beating = asyncio.create_task(self._beat())
        try:
            while await self._frame():
                await self._writer.drain()
        finally:
            beating.cancel()

    def cut(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    def end(self) -> None:
        """Give back what was not acked, and remove exclusive queues."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        for name in [name for name, queue in self._state.queues.items() if queue.owner is self]:
            self._state.delete_queue(name)
        self._writer.close()

    def method(self, channel: int, method: Method, arguments: str, values: Sequence[Any]) -> None:
        """Send a method."""
        self._send(_METHOD, channel, encode(method, arguments, values))

    def content(
        self, channel: int, method: Method, arguments: str, values: Sequence[Any], properties: bytes, body: bytes
    ) -> None:
        """Send a method that carries a message."""
        self._send(_METHOD, channel, encode(method, arguments, values))
        self._send(_HEADER, channel, b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + properties)
        size = self._frame_max - 8
        for start in range(0, len(body), size):
            self._send(_BODY, channel, body[start : start + size])

    def _send(self, kind: int, channel: int, payload: bytes) -> None:
        head = bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big")
        self._writer.write(head + payload + bytes((_FRAME_END,)))

    async def _frame(self) -> bool:
        """Take one frame; False when the connection is over."""
        patience = 2.0 * self._heartbeat if self._heartbeat else None
        async with asyncio.timeout(patience):
            head = await self._reader.readexactly(7)
            payload = await self._reader.readexactly(int.from_bytes(head[3:7], "big") + 1)
        kind, channel = head[0], int.from_bytes(head[1:3], "big")
        if payload[-1] != _FRAME_END:
            self._close_connection(501, "FRAME_ERROR - no frame end")
            return False
        payload = payload[:-1]
        if kind == _BEAT:
            return True
        if kind == _METHOD:
            method = (int.from_bytes(payload[0:2], "big"), int.from_bytes(payload[2:4], "big"))
            if method[0] == 10:
                return self._connection_method(method, payload[4:])
            self._on_channel(channel, lambda: self._channel_method(channel, method, payload[4:]))
        elif kind == _HEADER:
            self._contents[channel] = (int.from_bytes(payload[4:12], "big"), payload[12:], bytearray())
            self._on_channel(channel, lambda: self._maybe_complete(channel))
        elif kind == _BODY and channel in self._contents:
            self._contents[channel][2].extend(payload)
            self._on_channel(channel, lambda: self._maybe_complete(channel))
        return True

    def _on_channel(self, number: int, action: Any) -> None:
        """Do something on a channel; a refusal closes the channel, not the connection."""
        if number in self._closed and number not in self._channels:
            self._contents.pop(number, None)
        try:
            action()
        except AmqpError as error:
            channel = self._channels.pop(number, None)
            if channel is not None:
                channel.close()
                self._closed.add(number)
                self.method(number, (20, 40), "BsBB", (error.code, error.text[:255], 0, 0))

    def _channel_method(self, number: int, method: Method, arguments: bytes) -> None:
        if method == (20, 10):
            self._closed.discard(number)
            self._channels[number] = Channel(number, self._state, self)
            self.method(number, (20, 11), "S", ("",))
        elif method == (20, 40):
            if (channel := self._channels.pop(number, None)) is not None:
                channel.close()
            self.method(number, (20, 41), "", ())
        elif method == (20, 41):
            self._closed.discard(number)
        elif number in self._channels:
            self._channels[number].handle(method, arguments)

    def _maybe_complete(self, number: int) -> None:
        content = self._contents.get(number)
        if content is None or len(content[2]) < content[0]:
            return
        del self._contents[number]
        if number in self._channels:
            self._channels[number].message(content[1], bytes(content[2]))

    def _connection_method(self, method: Method, arguments: bytes) -> bool:
        if method == (10, 11):
            self.method(0, (10, 30), "BlB", (_CHANNEL_MAX, _FRAME_MAX, _HEARTBEAT))
        elif method == (10, 31):
            (_, frame_max, self._heartbeat), _ = loads("BlB", arguments, 0)
            self._frame_max = min(frame_max or _FRAME_MAX, _FRAME_MAX)
        elif method == (10, 40):
            self.method(0, (10, 41), "s", ("",))
        elif method == (10, 50):
            self.method(0, (10, 51), "", ())
            return False
        elif method == (10, 51):
            return False
        return True

    def _close_connection(self, code: int, text: str) -> None:
        self.method(0, (10, 50), "BsBB", (code, text, 0, 0))

    async def _beat(self) -> None:
        """Say that we are here, at least twice in each heartbeat that was agreed on."""
        while True:
            await asyncio.sleep(self._heartbeat / 2 if self._heartbeat else 1.0)
            if self._heartbeat:
                self._send(_BEAT, 0, b"")


async def _run(port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker()
    await broker.start(port)
    print(f"AMQP on {HOST}:{broker.port}", flush=True)
    await stop.wait()
    await broker.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m lab.broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    asyncio.run(_run(parser.parse_args(arguments).port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
