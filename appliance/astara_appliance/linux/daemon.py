"""A program that runs as long as it is wanted, whether or not the agent does.

What is always true:

- A daemon runs in a session of its own and outlives the agent. What an earlier agent started is taken charge of again
  when process id, start time and command line are those of the note; when the note is missing or wrong, by the command
  line alone, which names files that no other agent has. One of the note that has another command line was started by
  an older version of the agent: it runs until it is started anew or stopped.
- A daemon that ends by itself is started again, at once the first time, then more and more slowly; the log says so.
- The note is a help, not a need: without room for it, a daemon is started and taken charge of all the same.
- A process is only ever signalled by its descriptor (pidfd_open(2)), so never another one that got its number.
- One is ready when it has written its number to its pid file, which dnsmasq and BIRD do when they have accepted their
  configuration and opened their sockets.
"""

import asyncio
import contextlib
import logging
import os
import select
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..backend import BackendError

READY_WITHIN = 10.0
"""Seconds in which a daemon must be ready."""

GRACE = 5.0
"""Seconds between the request to end and the end by force."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a daemon that ended is started again; they double each time."""

STEADY_AFTER = 60.0
"""Seconds after which a daemon that ends is treated as one that never did."""

_LOOK_EVERY = 0.004
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_log = logging.getLogger(__name__)


class Daemon:
    """One daemon. `argv` starts it in the foreground and makes it write `pid_file(name, runtime)` when it is ready.

    Its output goes where the agent's standard error goes. All methods belong to one event loop.
    """

    __slots__ = ("_argv", "_failures", "_note", "_outdated", "_pid_file", "_process", "_timer", "_watched", "name")

    def __init__(self, name: str, argv: Sequence[str], runtime: Path) -> None:
        self.name = name
        self._argv = tuple(argv)
        self._pid_file = pid_file(name, runtime)
        self._note = runtime / f"{name}.started"
        self._process: _Process | None = None
        self._outdated: _Process | None = None
        self._watched: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """The number of the running process; None when none runs, or it is about to be started again."""
        return None if self._process is None else self._process.pid

    def adopt(self) -> bool:
        """Take charge of the process that runs already, if there is one. Nothing is started or signalled."""
        if self._process is not None:
            return True
        self._forget_outdated()
        noted = self._noted()
        if noted is not None and noted.argv != self._argv:
            self._outdated = noted
            return False
        self._process = noted or _Process.find(self._argv)
        if self._process is not None:
            if noted is None:
                self._write_note(self._process)
            self._watch()
        return self._process is not None

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises `BackendError`, and then it does not run."""
        self._cancel_timer()
        await self._end_outdated()
        if self._process is None:
            self._spawn()
        try:
            await self._until_ready()
        except BaseException:
            await self.stop()
            raise

    async def reload(self, number: signal.Signals = signal.SIGHUP) -> None:
        """Have it read its files again; when it does not run, start it. Raises `BackendError`."""
        if self._process is None or not self._process.signal(number):
            await self.start()

    async def stop(self, *, by_force: bool = False) -> None:
        """End it, by force if it takes too long or is known not to listen, and return when it is gone."""
        self._cancel_timer()
        self._unwatch()
        await self._end_outdated()
        process, self._process = self._process, None
        if process is not None:
            try:
                await process.end(by_force=by_force)
            finally:
                process.close()
        self._failures = 0
        for file in (self._note, self._pid_file):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """The agent ends; the daemon goes on."""
        self._cancel_timer()
        self._unwatch()
        self._forget_outdated()
        if self._process is not None:
            self._process.close()
            self._process = None

    async def _end_outdated(self) -> None:
        if self._outdated is not None:
            _log.info("%s: process %d is of an older version, and is ended", self.name, self._outdated.pid)
            await self._outdated.end()
            self._forget_outdated()

    def _forget_outdated(self) -> None:
        if self._outdated is not None:
            self._outdated.close()
            self._outdated = None

    def _spawn(self) -> None:
        try:
            self._pid_file.unlink(missing_ok=True)
            self._process = _Process.start(self._argv)
            self._write_note(self._process)
        except OSError as error:
            raise BackendError(f"{self.name} cannot be started: {error.strerror or error}") from error
        self._watch()

    async def _until_ready(self) -> None:
        """Look at the pid file: the daemons tell it in no other way."""
        deadline = time.monotonic() + READY_WITHIN
        while not self._is_ready():
            if self._process is None:
                raise BackendError(f"{self.name} ended at its start; it has said why in the log")
            if time.monotonic() > deadline:
                raise BackendError(f"{self.name} was not ready within {READY_WITHIN:g} s")
            await asyncio.sleep(_LOOK_EVERY)

    def _is_ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._process is not None and self._pid_file.stat().st_size > 0
        return False

    # Watching

    def _watch(self) -> None:
        if self._process is not None:
            self._watched = asyncio.get_running_loop()
            self._watched.add_reader(self._process.descriptor, self._ended)

    def _unwatch(self) -> None:
        if self._watched is not None and self._process is not None:
            self._watched.remove_reader(self._process.descriptor)
        self._watched = None

    def _ended(self) -> None:
        """The process ended though nobody asked it to."""
        process = self._process
        if process is None:
            return
        self._unwatch()
        self._process = None
        how = process.reap()
        process.close()
        if time.clock_gettime(time.CLOCK_BOOTTIME) - process.started >= STEADY_AFTER:
            self._failures = 0
        self._start_later(f"process {process.pid} {how}")

    def _start_later(self, why: str) -> None:
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        _log.warning("%s: %s; it is started again in %g s", self.name, why, pause)
        self._failures += 1
        self._timer = asyncio.get_running_loop().call_later(pause, self._again)

    def _again(self) -> None:
        self._timer = None
        try:
            self._spawn()
        except BackendError as error:
            self._start_later(str(error))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The note

    def _write_note(self, process: "_Process") -> None:
        beside = self._note.with_suffix(".new")
        try:
            beside.write_text(f"{process.pid} {process.ticks}\n", encoding="ascii")
            beside.replace(self._note)
        except OSError as error:
            beside.unlink(missing_ok=True)
            _log.warning(
                "%s: the note of process %d cannot be written, %s; it will be found by its command line",
                *(self.name, process.pid, error.strerror),
            )

    def _noted(self) -> "_Process | None":
        try:
            pid, ticks = map(int, self._note.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return None
        process = _Process.open(pid)
        if process is not None and process.ticks != ticks:
            process.close()
            return None
        return process


def pid_file(name: str, runtime: Path) -> Path:
    """Where the daemon `name` writes its number when it is ready."""
    return runtime / f"{name}.pid"


@dataclass(slots=True)
class _Process:
    """A process, held by a descriptor; `ticks` is when it started, in clock ticks since the boot."""

    pid: int
    descriptor: int
    ticks: int
    argv: tuple[str, ...]

    @classmethod
    def start(cls, argv: tuple[str, ...]) -> Self:
        """Start a program in a session of its own. Raises OSError."""
        program = shutil.which(argv[0], path=_ENVIRONMENT["PATH"])
        if program is None:
            raise FileNotFoundError(2, f"there is no {argv[0]}")
        pid = os.posix_spawn(
            program,
            argv,
            _ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
            ],
            setsid=True,
            # Python ignores some signals, and that would be inherited.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            setsigmask=[],
        )
        # It cannot vanish before: it is a child that nobody has waited for.
        descriptor = os.pidfd_open(pid)
        return cls(pid, descriptor, _start_of(pid) or 0, argv)

    @classmethod
    def open(cls, pid: int) -> Self | None:
        """The process `pid` if it runs."""
        try:
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        # The descriptor came first: while it is not readable, /proc speaks of the same process.
        ticks, argv = _start_of(pid), _command_of(pid)
        if ticks is None or argv is None or _is_over(descriptor):
            os.close(descriptor)
            return None
        return cls(pid, descriptor, ticks, argv)

    @classmethod
    def find(cls, argv: tuple[str, ...]) -> Self | None:
        """A process with this command line."""
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and _command_of(int(entry.name)) == argv:
                process = cls.open(int(entry.name))
                if process is not None and process.argv == argv:
                    return process
                if process is not None:
                    process.close()
        return None

    @property
    def started(self) -> float:
        """When it started, in seconds of CLOCK_BOOTTIME."""
        return self.ticks / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when the process is gone."""
        try:
            signal.pidfd_send_signal(self.descriptor, number)
        except ProcessLookupError:
            return False
        return not _is_over(self.descriptor)

    async def end(self, *, by_force: bool = False) -> None:
        """Ask it to end, then make it; `by_force`, it is not asked."""
        for number in (signal.SIGTERM, signal.SIGKILL)[by_force:]:
            if self.signal(number):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over(), GRACE)
            if _is_over(self.descriptor):
                break
        self.reap()

    def reap(self) -> str:
        """How it ended, in words; not known of a process that another agent started."""
        try:
            result = os.waitid(os.P_PIDFD, self.descriptor, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "ended"
        if result is None:
            return "runs"
        if result.si_code == os.CLD_EXITED:
            return f"ended with code {result.si_status}"
        return f"was ended by signal {result.si_status}"

    def close(self) -> None:
        """Let go of it; it goes on."""
        os.close(self.descriptor)

    async def _over(self) -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self.descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self.descriptor)


def _is_over(descriptor: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))


def _start_of(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name of the program stands in parentheses, and may hold any character.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def _command_of(pid: int) -> tuple[str, ...] | None:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return tuple(os.fsdecode(word) for word in line.removesuffix(b"\0").split(b"\0"))
