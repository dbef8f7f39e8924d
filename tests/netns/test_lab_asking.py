"""A port on which nobody listens yet, in a namespace whose kernel has few ports to give to connections."""

import secrets
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from lab import asking
from lab.wires import Namespace

FEW = range(44340, 44360)
API = 44350


@pytest.fixture
def few_ports() -> Iterator[None]:
    """The test's own thread is in such a namespace."""
    namespace = Namespace(f"few-{secrets.token_hex(3)}")
    try:
        namespace.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={FEW[0]} {FEW[-1]}")
        with namespace.entered():
            yield
    finally:
        namespace.close()


def finds_itself(made: socket.socket) -> bool:
    try:
        made.connect(("127.0.0.1", API))
    except ConnectionRefusedError:
        return False
    return made.getsockname() == made.getpeername()


def test_who_asks_from_the_same_address_finds_itself(few_ports: None):
    """What `asking` is for: without it, this kernel lets a connection be its own server."""
    found = 0
    for _ in range(200):
        with socket.socket() as made:
            found += finds_itself(made)
    assert found


async def test_the_lab_hears_nobody_while_nobody_listens(few_ports: None):
    assert not any([await asking.listens(API) for _ in range(200)])
    for _ in range(200):
        with pytest.raises(ConnectionRefusedError):
            asking.get(f"http://127.0.0.1:{API}/health", seconds=5.0)
    # Nor has asking kept the port from who listens next.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", API))
        listener.listen()
        assert await asking.listens(API)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.wfile.write(
            b"nonsense\r\n\r\n" if "nonsense" in self.path else b"HTTP/1.0 203 Well\r\n\r\n" + self.path.encode()
        )

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        pass


def test_an_answer_is_read_whole_and_nonsense_is_no_answer(few_ports: None):
    with HTTPServer(("127.0.0.1", API), _Answer) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            status, body = asking.get(f"http://127.0.0.1:{API}/v1/resources?limit=2", seconds=5.0)
            with pytest.raises(ConnectionError, match="BadStatusLine"):
                asking.get(f"http://127.0.0.1:{API}/nonsense", seconds=5.0)
        finally:
            server.shutdown()
            serving.join()
    assert (status, body) == (203, b"/v1/resources?limit=2")
