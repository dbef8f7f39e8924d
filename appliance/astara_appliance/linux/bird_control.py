"""BIRD's control socket: one command, its answer in numbered lines (BIRD's documentation, "Remote control").

A line is `CODE` and a space when it is the last of an answer, a hyphen when more follow; a line that begins with a
space goes on with the code before. Codes from 8000 are errors of the command, from 9000 of what it was to read.
"""

import asyncio
from pathlib import Path

from ..backend import BackendError

TIMEOUT = 4.0
"""Seconds for one command. BIRD answers in milliseconds; a push that has to end it and start it anew must be answered
before the orchestrator gives up (15 s), even when the start takes all of `daemon.READY_WITHIN`."""

_GREETING = 1
_MOST_BYTES = 64 * 2**10
_FIRST_ERROR = 8000
_SHUTTING_DOWN = 6


class NoAnswerError(BackendError):
    """Nothing that could be understood came from the control socket in time: BIRD hangs, or is going."""


async def configure(path: Path) -> None:
    """Have the BIRD behind the socket `path` go over to its files as they are now; sessions that stay the same stay.

    It answers when it has accepted it; protocols that go away may still be saying so to their neighbours. Raises
    `NoAnswerError`, or another `BackendError` with BIRD's words when it refuses.
    """
    code, words = await _ask(path, b"configure")
    if code >= _FIRST_ERROR or code == _SHUTTING_DOWN:
        raise BackendError(f"bird refused its configuration: {words}")


async def greet(path: Path) -> None:
    """Have the BIRD behind the socket `path` show that it is awake; nothing changes. Raises `NoAnswerError`."""
    await _ask(path, b"show status")


async def _ask(path: Path, command: bytes) -> tuple[int, str]:
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
            try:
                await _answer(reader, _GREETING)
                writer.write(command + b"\n")
                return await _answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise NoAnswerError(f"bird did not answer on its control socket within {TIMEOUT:g} s") from None
    except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        raise NoAnswerError(f"bird does not answer on its control socket: {error!r}") from error


async def _answer(reader: asyncio.StreamReader, expected: int | None = None) -> tuple[int, str]:
    """The code and the words of one answer; ValueError when it is none."""
    words = []
    while True:
        line = (await reader.readuntil(b"\n")).decode(errors="replace").rstrip("\n")
        if line.startswith(" "):
            words.append(line[1:])
            continue
        words.append(line[5:])
        if line[4:5] != "-":
            break
    code = int(line[:4])
    if expected not in (None, code):
        raise ValueError(f"answer {code} instead of {expected}")
    return code, " ".join(words)
