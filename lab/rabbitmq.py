"""A private RabbitMQ node on loopback, from Debian's package, without systemd and beside any other node.

Everything of a node lies in its state directory: configuration, Erlang cookie, database, logs. It has ports and an epmd
of its own. What it holds durably survives `stop`, `kill` and a new `start`. Only processes that it started are ended,
by id.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.ports import free_port

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_USER = "lab"
_START_SECONDS = 90.0
_STOP_SECONDS = 20.0

MISSING = "RabbitMQ is not installed here: apt-get install rabbitmq-server"


class RabbitError(Exception):
    """A node that cannot be started; the text says why and where its log is."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of a node on 127.0.0.1."""

    amqp: int
    distribution: int
    epmd: int

    @classmethod
    def free(cls) -> "Ports":
        """Ports that nobody uses now."""
        return cls(free_port(), free_port(), free_port())


def installed() -> bool:
    """Whether Debian's package is there."""
    return _SERVER.exists() and shutil.which("epmd") is not None


class RabbitNode:
    """One node. `start` may follow `stop` or `kill` any number of times."""

    def __init__(self, state_dir: Path, ports: Ports) -> None:
        """`state_dir` is made where it is missing, and kept."""
        self._state = state_dir.absolute()
        self.ports = ports
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._password = ""

    @property
    def url(self) -> str:
        """For kombu. The user exists once the node has been started."""
        return f"amqp://{_USER}:{self._password}@127.0.0.1:{self.ports.amqp}//"

    @property
    def log(self) -> Path:
        """Where the node writes what goes on."""
        return self._state / "log" / "server.log"

    @property
    def pids(self) -> list[int]:
        """The processes that this object started and that run."""
        running = (process for process in (self._server, self._epmd) if process is not None and process.poll() is None)
        return [process.pid for process in running]

    def start(self) -> None:
        """Start and wait until AMQP is answered. Raises RabbitError."""
        if not installed():
            raise RabbitError(MISSING)
        self._write_configuration()
        environment = self._environment()
        with self.log.open("ab") as log:
            if self._epmd is None or self._epmd.poll() is not None:
                self._epmd = subprocess.Popen(
                    ["epmd", "-address", "127.0.0.1", "-port", str(self.ports.epmd)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._server = subprocess.Popen(
                [str(_SERVER)],
                env=environment,
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._server.poll() is not None:
                self.close()
                msg = f"RabbitMQ ended while it started; its log: {self.log}"
                raise RabbitError(msg)
            if time.monotonic() > deadline:
                self.close()
                msg = f"RabbitMQ did not answer within {_START_SECONDS:.0f} s; its log: {self.log}"
                raise RabbitError(msg)
            time.sleep(0.1)

    def stop(self) -> None:
        """End the node in order, as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End the node and its epmd; the state stays."""
        self.stop()
        if self._epmd is not None:
            _end_group(self._epmd, signal.SIGTERM)
            self._epmd = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            _end_group(self._server, number)
            self._server = None

    def _write_configuration(self) -> None:
        for name in ("home", "mnesia", "log"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        password = self._state / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_hex(16))
        self._password = password.read_text()
        configuration = self._state / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.ports.amqp}\n"
            f"default_user = {_USER}\n"
            f"default_pass = {self._password}\n"
            "loopback_users = none\n"
            # A lab's disk may be small; the alarm would block every publisher.
            "disk_free_limit.absolute = 50MB\n"
            "log.console = true\n"
            "log.console.level = warning\n"
            "log.file = false\n"
        )
        (self._state / "enabled_plugins").write_text("[].\n")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(self._state / "home"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "RABBITMQ_NODENAME": f"lab{self.ports.amqp}@localhost",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._state / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._state / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._state / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._state / "log"),
            "RABBITMQ_PID_FILE": str(self._state / "pid"),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }

    def _answers(self) -> bool:
        """Whether the node speaks AMQP: the port alone opens before the node is ready."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports.amqp), 1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            connection.settimeout(2)
            return connection.recv(1) == b"\x01"
        return False


def _end_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a process that was started in a session of its own, and its children; make sure that it ends."""
    for signal_number, patience in ((number, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    # Whoever is left of its children.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
