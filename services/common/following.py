"""A gRPC channel that follows its certificates: gRPC's own clients read them when a channel is made, and never again.

True at all times: a new call begins on one channel, the current one. When the files change, a channel is made of the
new ones; it becomes the current one once a peer has answered on it, so that certificates which nobody accepts yet
replace none that work. A former channel is closed when the last call on it has ended: no call and no stream is broken
by a renewal.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from services.common import logging
from services.common.certificates import CertificateFiles, Pem

LOOK_SECONDS = 1.0
"""How often the files, and a channel made of new ones, are looked at."""

_PATIENCE_LOOKS = 60
"""After which a channel that no peer has answered on is worth a warning."""

_log = logging.get(__name__)


class FollowingChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpc has no types
    """What `dial` makes of the files' content, made anew when that changes. Wants a running loop."""

    def __init__(self, files: CertificateFiles, dial: Callable[[Pem], grpc.aio.Channel]) -> None:
        self._files = files
        self._dial = dial
        self.current = dial(files.pem)
        """Where new calls begin."""
        self._next: grpc.aio.Channel | None = None
        self._next_looks = 0
        self._former: set[grpc.aio.Channel] = set()
        self._running: Counter[grpc.aio.Channel] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._files.look():
                if self._next is not None:
                    await self._next.close()
                self._next, self._next_looks = self._dial(self._files.pem), 0
            if self._next is not None:
                self._try(self._next)

    def _try(self, channel: grpc.aio.Channel) -> None:
        """Let a channel take over if it can. READY says that the peer has accepted the certificate, too."""
        self._next_looks += 1
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            former, self.current, self._next = self.current, channel, None
            self._former.add(former)
            self._let_go(former)
            _log.info("calls are made with the new certificates")
        elif self._next_looks == _PATIENCE_LOOKS:
            _log.warning("no peer has answered to the new certificates yet, the former ones stay in use")

    def began(self, call: Any, channel: grpc.aio.Channel) -> None:
        """Note that a call runs on a channel."""
        self._running[channel] += 1

        def ended(_call: Any) -> None:
            self._running[channel] -= 1
            self._let_go(channel)

        call.add_done_callback(ended)

    def _let_go(self, channel: grpc.aio.Channel) -> None:
        """Close a former channel on which nothing runs. Its own `close` with a grace could not be cut short."""
        if channel in self._former and not self._running[channel]:
            self._former.discard(channel)
            del self._running[channel]
            closing = asyncio.create_task(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self, grace: float | None = None) -> None:
        """Close all channels; calls get `grace` seconds to end, those on former channels none."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        former, self._former = self._former, set()
        await asyncio.gather(*(channel.close() for channel in former), *self._closing)
        if self._next is not None:
            await self._next.close()
        await self.current.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The current channel's."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the channel that is the current one now."""
        await self.current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the channel that is the current one now."""
        await self.current.channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return _Method(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return _Method(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return _Method(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return _Method(self, "stream_stream", arguments, options)


class _Method:
    """A method, called on whichever channel is the current one at that moment."""

    def __init__(self, owner: FollowingChannel, kind: str, arguments: Any, options: Any) -> None:
        self._owner = owner
        self._kind = kind
        self._arguments = arguments
        self._options = options
        self._made_of: grpc.aio.Channel | None = None
        self._made: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        current = self._owner.current
        if self._made_of is not current:
            self._made = getattr(current, self._kind)(*self._arguments, **self._options)
            self._made_of = current
        call = self._made(*arguments, **options)
        self._owner.began(call, current)
        return call
