"""Keeps child processes running: what dies is started again, and nothing outlives its supervisor.

A child that dies is started again at once; one that keeps dying waits longer each time, at most LONGEST_DELAY. A child
that ran for STEADY_SECONDS has a clean slate. A child whose *first* run ends with the exit code of wrong settings is
not tried again: no restart mends a file. Children are killed by the kernel when the supervisor dies, however it dies.
Stopping goes stage by stage: SIGTERM, a grace, SIGKILL.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from services.common import logging

STEADY_SECONDS = 10.0
LONGEST_DELAY = 5.0
WRONG_SETTINGS = 2
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

log = logging.get(__name__)


@dataclass(frozen=True)
class Child:
    """One process to keep running. Children of lower `stage` are stopped first."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stage: int = 0


class ChildError(Exception):
    """A child refuses its settings; it said why on its standard error."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} refuses its settings (it says why in its own log)")
        self.name = name


def restart_delay(failures: int) -> float:
    """Seconds before a start that follows `failures` short runs in a row: 0, 0.5, 1, 2, 4, then LONGEST_DELAY."""
    return 0.0 if failures <= 1 else min(LONGEST_DELAY, 0.25 * 2.0 ** (failures - 1))


class Supervisor:
    """Starts, watches and stops children."""

    def __init__(self, *, log_dir: Path | None = None, run_dir: Path | None = None, grace: float = 15.0) -> None:
        """`log_dir`: a file for each child's output, else it is ours. `run_dir`: NAME.pid for each running child."""
        self._log_dir = log_dir
        self._run_dir = run_dir
        self._grace = grace
        self._stages: dict[str, int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for folder in (log_dir, run_dir):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self._stages[child.name] = child.stage
        self._tasks[child.name] = asyncio.create_task(self._keep(child), name=child.name)

    def pid(self, name: str) -> int | None:
        """The process of a child that runs."""
        process = self._running.get(name)
        return process.pid if process else None

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set, then stop all children. ChildError when one refuses its settings."""
        waiter = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([waiter, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiter}:
                task.result()
        finally:
            waiter.cancel()
            await self.stop()

    async def stop(self) -> None:
        """Stop all children, stage by stage; returns when none is left."""
        for stage in sorted(set(self._stages.values())):
            names = [name for name, own in self._stages.items() if own == stage]
            for name in names:
                # From here on nobody starts it again; the process itself is ended below.
                self._tasks[name].cancel()
            await asyncio.gather(*(self._tasks[name] for name in names), return_exceptions=True)
            await asyncio.gather(*(self._end(name) for name in names))

    async def _keep(self, child: Child) -> None:
        failures = 0
        first = True
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            process = self._spawn(child)
            code = await _ended(process)
            self._forget(child.name)
            if first and code == WRONG_SETTINGS:
                raise ChildError(child.name)
            lasted = loop.time() - began
            first = first and lasted < STEADY_SECONDS
            failures = 1 if lasted >= STEADY_SECONDS else failures + 1
            delay = restart_delay(failures)
            log.warning(
                "a process ended; starting it again",
                process=child.name,
                code=code,
                ran_seconds=round(lasted, 1),
                in_seconds=delay,
            )
            await asyncio.sleep(delay)

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = None
            if self._log_dir is not None:
                output = stack.enter_context((self._log_dir / f"{child.name}.log").open("ab"))
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env={**os.environ, **child.environment},
                # A group of its own: an interrupt from the terminal reaches the supervisor only, which stops in order.
                process_group=0,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - only a system call; no thread has run here yet
            )
        self._running[child.name] = process
        if self._run_dir is not None:
            (self._run_dir / f"{child.name}.pid").write_text(f"{process.pid}\n", encoding="ascii")
        log.info("started", process=child.name, pid=process.pid)
        return process

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)
        if self._run_dir is not None:
            (self._run_dir / f"{name}.pid").unlink(missing_ok=True)

    async def _end(self, name: str) -> None:
        process = self._running.get(name)
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._grace):
                    await _ended(process)
            except TimeoutError:
                log.warning("killed: it did not stop in time", process=name, seconds=self._grace)
                process.kill()
                await _ended(process)
        self._forget(name)


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program: ask to be killed when `parent` is no more."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent died before the request was made; nobody would tell us.
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process without a thread; answers with its exit code (negative: the signal)."""
    if process.poll() is None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()
