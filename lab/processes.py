"""Processes by number *and* start time: a number alone may be somebody else's by now.

Only processes that are ours are ever signalled: the recorded supervisor, and those that carry the lab's mark in their
environment. (RabbitMQ's node gets an environment of its own, whose HOME lies in the lab's folder.)
"""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.layout import MARK, Layout

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Identity:
    """A process."""

    pid: int
    started: int
    """In clock ticks since the machine's boot."""

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            os.kill(self.pid, number)


def start_time(pid: int) -> int | None:
    """When a process began, in ticks since boot; None when it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def record(path: Path) -> None:
    """Write who we are."""
    started = start_time(os.getpid())
    assert started is not None  # noqa: S101 - we run
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(Identity(os.getpid(), started))), encoding="utf-8")


def recorded(path: Path) -> Identity | None:
    """The process that `record` wrote, if it still runs."""
    try:
        identity = Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return identity if identity.alive() else None


def marked(layout: Layout) -> list[Identity]:
    """Processes of this lab, without ourselves and those that we descend from."""
    return [*_with_variable(f"{MARK}={layout.home}"), *of_broker(layout)]


def of_broker(layout: Layout) -> list[Identity]:
    """Processes of this lab's RabbitMQ node: the server, its helpers, epmd."""
    return _with_variable(f"HOME={layout.broker}/home")


def _with_variable(assignment: str) -> list[Identity]:
    mark = assignment.encode()
    skip = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in skip:
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            # Gone, or another user's: not ours.
            continue
        started = start_time(int(entry.name))
        if mark in environment and started is not None:
            found.append(Identity(int(entry.name), started))
    return found


def end(identities: list[Identity], *, grace: float) -> None:
    """SIGTERM, wait at most `grace` seconds, SIGKILL; returns when they are gone."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for identity in identities:
            identity.signal(number)
        deadline = time.monotonic() + patience
        while (identities := [one for one in identities if one.alive()]) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


def _ancestors() -> set[int]:
    pids = set()
    pid = os.getpid()
    while pid > 1:
        pids.add(pid)
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        pid = int(status.rpartition(")")[2].split()[1])
    return pids
