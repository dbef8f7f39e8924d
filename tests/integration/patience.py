"""Waiting for what another process or thread does."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(reached: Callable[[], bool | Awaitable[bool]], seconds: float = 90.0) -> None:
    """Wait until something is true; TimeoutError when it does not become so."""
    async with asyncio.timeout(seconds):
        while True:
            answer = reached()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)
