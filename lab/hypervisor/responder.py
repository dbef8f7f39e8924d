"""What listens on port 80 of every plain host: an answer that says who answers, and whom it sees.

The answer is JSON: `name` is the host's name, `you` the address that the request came from, `me` the one that it came
to. A tenant behind SNAT is told its router's address, one behind a floating IP that.
"""

import asyncio
import functools
import ipaddress
import json
import socket
import sys
from collections.abc import Callable

PORT = 80
_MOST_LINES = 100


async def serve(name: Callable[[], str], port: int = PORT) -> None:
    """Answer on all addresses of both families until cancelled."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await asyncio.start_server(functools.partial(_answer, name), sock=listener)
    async with server:
        await server.serve_forever()


async def _answer(name: Callable[[], str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(10.0):
            for _ in range(_MOST_LINES):
                if (await reader.readline()).strip() == b"":
                    break
            body = json.dumps(
                {
                    "name": name(),
                    "you": _plain(writer.get_extra_info("peername")[0]),
                    "me": _plain(writer.get_extra_info("sockname")[0]),
                }
            ).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body + b"\n")
            await writer.drain()
    except (OSError, TimeoutError):
        return
    finally:
        writer.close()


def _plain(address: str) -> str:
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    return str(parsed.ipv4_mapped or parsed)


def main() -> None:
    """`responder NAME [PORT]`: serve under a name that is not the host's, or on another port."""
    name, *port = sys.argv[1:]
    asyncio.run(serve(lambda: name, *map(int, port)))


if __name__ == "__main__":
    main()
