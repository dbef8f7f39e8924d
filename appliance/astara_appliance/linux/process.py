"""Programs that are run to their end: no shell, bounded time and output, errors with the program's own words."""

import asyncio
from collections.abc import Sequence

from ..backend import BackendError

TIMEOUT = 20.0
"""Seconds for one program."""

_MOST_WORDS = 1_000
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

started = 0
"""Programs that this process has started, for those who count them."""


async def run(*argv: str, stdin: bytes = b"", expect: Sequence[int] = (0,)) -> bytes:
    """What a program wrote to its standard output.

    Raises `BackendError` when it is not there, takes too long, or ends with another code than those expected; the text
    holds the end of what it wrote to its standard error.
    """
    global started
    started += 1
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
        )
    except OSError as error:
        raise BackendError(f"{argv[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate(stdin or None)
    except TimeoutError:
        raise BackendError(f"{argv[0]} did not end within {TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in expect:
        words = (errors or output).decode(errors="replace").strip()
        raise BackendError(f"{argv[0]} ended with {process.returncode}: {words[-_MOST_WORDS:]}")
    return output
