"""Starts the processes of a machine, and ends them. They are nobody's children: they outlive who started them."""

import io
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab.layout import MARK
from lab.processes import Identity, start_time

from .errors import HypervisorError
from .machine import Folder

BOOT_SECONDS = 30.0


def launch(root: Path, folder: Folder, machine_id: str, namespace: str) -> tuple[Identity, Identity]:
    """Start a keeper (`keeper`), who starts PID 1 (`init`) in a namespace: both.

    HypervisorError when the machine does not start, with the last words of its console.
    """
    told, ready = os.pipe()
    with folder.console.open("ab") as console, os.fdopen(told, "rb", buffering=0) as said:
        try:
            subprocess.run(
                (
                    *("setsid", "--fork", sys.executable, "-m", "lab.hypervisor.keeper", str(root), machine_id),
                    *(str(ready), "ip", "netns", "exec", namespace),
                    *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                    *(sys.executable, "-m", "lab.hypervisor.init", str(folder.path), str(ready)),
                ),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=_environment(),
                cwd="/",
                pass_fds=(ready,),
                check=True,
            )
        finally:
            os.close(ready)
        started = [_identity(pid) for pid in _read(said)]
    match started:
        case [Identity() as keeper, Identity() as process]:
            return keeper, process
    words = folder.console.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise HypervisorError(f"machine {machine_id} does not start; its console: {' | '.join(words)}")


def end(process: Identity, number: signal.Signals, seconds: float) -> None:
    """Signal a process and wait until it is gone, at most so long."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # After the descriptor was had, so that the number cannot go to another process in between.
        if process.alive():
            signal.pidfd_send_signal(descriptor, number)
            select.select([descriptor], [], [], seconds)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _read(said: io.FileIO) -> list[int]:
    """The numbers of a line, or of its beginning when nobody is left to end it or the time is over."""
    deadline, text = time.monotonic() + BOOT_SECONDS, b""
    while not text.endswith(b"\n"):
        answered, _, _ = select.select([said], [], [], max(0.0, deadline - time.monotonic()))
        chunk = said.read(64) if answered else b""
        if not chunk:
            break
        text += chunk
    return [int(word) for word in text.split()]


def _identity(pid: int) -> Identity | None:
    started = start_time(pid)
    return None if started is None else Identity(pid, started)


def _environment() -> dict[str, str]:
    """What a machine is told of this one: the lab's mark, by which its processes are found."""
    kept = (MARK, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root", **inherited}
