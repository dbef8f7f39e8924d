"""What `helm test` runs tells a system that works from one that does not."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from chart_rendering import CHART, Rendering

from services.common.rpc import RpcServer
from services.common.settings import GrpcSettings

_LEADERS_SERVICE = "astara.scheduler.v1.WorkService"


@contextmanager
def _api(ready: int) -> Iterator[str]:
    """An HTTP server that answers as rpcapi does on /healthz and /readyz; its URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(ready if self.path == "/readyz" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _impatient(folder: Path) -> Path:
    """The script with no patience, so that what fails, fails at once."""
    script = (CHART / "files" / "check.py").read_text(encoding="utf-8")
    assert "LIMIT_SECONDS = 60.0" in script
    path = folder / "check.py"
    path.write_text(
        script.replace("LIMIT_SECONDS = 60.0", "LIMIT_SECONDS = 0.0").replace(
            "PAUSE_SECONDS = 2.0", "PAUSE_SECONDS = 0.1"
        )
    )
    return path


@pytest.mark.parametrize(
    ("leads", "ready", "expected"),
    [
        (True, 200, "ok"),
        (False, 200, "0 replicas of the scheduler lead"),
        (False, 503, "0 replicas of the scheduler lead"),
        (True, 503, "HTTP Error 503"),
    ],
)
async def test_the_check_says_what_is_wrong(tmp_path: Path, leads: bool, ready: int, expected: str) -> None:
    server = RpcServer(GrpcSettings(health_listen="127.0.0.1:0"), "127.0.0.1:0", (_LEADERS_SERVICE,))
    await server.start(serving=leads)
    try:
        with _api(ready) as url:
            arguments = (sys.executable, str(_impatient(tmp_path)), url, f"127.0.0.1:{server.health_port}")
            done = await _run(arguments)
    finally:
        await server.stop()
    assert expected in done.stdout, done.stderr
    assert done.returncode == (0 if expected == "ok" else 1)


async def _run(arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    import asyncio

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))

    return await asyncio.to_thread(run)


def test_the_pod_runs_the_script_that_is_tested_here(rendered: Callable[..., Rendering]) -> None:
    (container,) = rendered("minimal").one("Pod", "astara-test")["spec"]["containers"]
    program, flag, script, *arguments = container["command"]
    assert (program, flag) == ("python", "-c")
    assert script.strip() == (CHART / "files" / "check.py").read_text(encoding="utf-8").strip()
    assert arguments == ["https://astara-rpcapi:44250", "astara-scheduler:44260"]
    assert container["image"] == "astara-rpcapi:0.1.0"
    assert container["env"] == [{"name": "CA_FILE", "value": "/etc/astara/tls/ca.crt"}]
