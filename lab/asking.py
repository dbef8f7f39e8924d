"""Asking ports of this machine on which perhaps nobody listens yet.

They lie where Linux takes ports for connections from. Who asks such a port from its own address may get it as the port
to ask from: the connection then finds itself, looks like a server, and keeps the real one from listening for a minute.
So the lab asks from an address on which nobody listens.
"""

import asyncio
import contextlib
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

_FROM = ("127.0.0.2", 0)


async def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=_FROM)
    except OSError:
        return False
    writer.close()
    return True


def get(url: str, *, seconds: float) -> tuple[int, bytes]:
    """Status and body of a GET of a plain HTTP URL on 127.0.0.1. OSError when nobody answers in HTTP."""
    where = urlsplit(url)
    with contextlib.closing(HTTPConnection(where.netloc, timeout=seconds, source_address=_FROM)) as connection:
        try:
            connection.request("GET", f"{where.path}?{where.query}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        except HTTPException as error:
            raise ConnectionError(f"{url}: {error!r}") from error
