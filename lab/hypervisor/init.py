"""PID 1 of a machine: makes the machine's own view of the file system, keeps its one program running, reaps.

Started by the hypervisor in fresh network, mount, process, host name and IPC namespaces. The machine has its own /proc,
/sys, /run (empty at each boot), /etc and /var/lib (the outer ones with its own changes above them), host name,
/etc/hosts and /etc/resolv.conf; /etc/astara and /var/lib/astara are its disk. Everything else it shares with the
machine outside. Its death is the death of every process in it.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lab.hypervisor.machine import Folder, Machine

GRACE_SECONDS = 5.0
"""From SIGTERM to the end of what did not obey."""

RESTART_SECONDS = 1.0
"""Until a program that ended is started again, as systemd does."""

_PROGRAMS = {"appliance": "astara_appliance", "host": "lab.hypervisor.host"}
_PRIVATE = ("/etc/", "/var/lib/", "/run/")
_SURPRISING = re.compile(r"[^A-Za-z0-9-]")
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM}


def main() -> int:
    """`init FOLDER READY`: READY is a descriptor that gets the process id, as it is outside, when all is mounted."""
    folder, ready = Folder(Path(sys.argv[1])), int(sys.argv[2])
    # The process file system is the outer one still.
    outside = Path("/proc/self").readlink()
    machine = folder.read()
    if machine is None:
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _mount_all(folder)
    _make_own(machine)
    os.write(ready, f"{outside}\n".encode())
    os.close(ready)
    _say(f"{machine.name} boots as {machine.kind} {machine.id}")
    return _keep_running(machine)


def _mount_all(folder: Folder) -> None:
    # Copies of other machines' namespaces, which would keep those alive.
    subprocess.run(("umount", "--lazy", "--recursive", "/run/netns"), stderr=subprocess.DEVNULL, check=False)
    _mount("-t", "proc", "proc", "/proc")
    private = folder.private
    _mount("-t", "tmpfs", "-o", "mode=0700", "private", str(private))
    for place in ("etc", "var/lib"):
        upper, work = private / place / "upper", private / place / "work"
        # As the outer ones: dnsmasq, which gives up root, reads in both.
        upper.mkdir(mode=0o755, parents=True)
        work.mkdir(mode=0o755)
        (upper / "astara").mkdir(mode=0o755)
        options = f"lowerdir=/{place},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", options, "overlay", f"/{place}")
    _mount("--bind", str(folder.etc), "/etc/astara")
    _mount("--bind", str(folder.lib), "/var/lib/astara")
    _mount("-t", "tmpfs", "-o", "mode=0755", "run", "/run")
    Path("/run/astara").mkdir(mode=0o755)


def _make_own(machine: Machine) -> None:
    name = _SURPRISING.sub("-", machine.name)[:63] if machine.kind == "appliance" else "localhost"
    socket.sethostname(name)
    Path("/etc/hostname").write_text(f"{name}\n", encoding="utf-8")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {name}\n::1 localhost\n", encoding="utf-8")
    resolver = Path("/etc/resolv.conf")
    # It may be a link to a file of the machine outside.
    resolver.unlink(missing_ok=True)
    resolver.write_text("", encoding="utf-8")
    # A new network namespace takes these from the outer one; a kernel that boots has them off.
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", switch).write_text("0", encoding="ascii")
    for file in machine.files:
        path = Path(os.path.normpath(file.path))
        if not str(path).startswith(_PRIVATE):
            _say(f"{path} is not written: only {', '.join(_PRIVATE)} are the machine's own")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode), "w", encoding="utf-8") as out:
            # An existing file keeps its permissions otherwise.
            os.fchmod(out.fileno(), file.mode)
            out.write(file.content)


def _keep_running(machine: Machine) -> int:
    program = _start(machine)
    restart_at: float | None = None
    while True:
        patience = 3600.0 if restart_at is None else max(0.0, restart_at - time.monotonic())
        arrived = signal.sigtimedwait(_SIGNALS, patience)
        if arrived is not None and arrived.si_signo == signal.SIGTERM:
            _say("shutting down")
            return _shut_down()
        for pid, code in _reap():
            if pid == program:
                _say(f"{_PROGRAMS[machine.kind]} ended with {code}; it is started again")
                restart_at = time.monotonic() + RESTART_SECONDS
        if restart_at is not None and time.monotonic() >= restart_at:
            program, restart_at = _start(machine), None


def _start(machine: Machine) -> int:
    command = [sys.executable, "-m", _PROGRAMS[machine.kind]]
    if machine.kind == "appliance":
        command.append("run")
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def _reap() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def _shut_down() -> int:
    os.kill(-1, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        _reap()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break
        signal.sigtimedwait({signal.SIGCHLD}, left)
    # What is left dies with PID 1.
    return 0


def _mount(*words: str) -> None:
    subprocess.run(("mount", *words), check=True)


def _say(text: str) -> None:
    with Path("/proc/uptime").open(encoding="ascii") as uptime:
        print(f"[{float(uptime.read().split()[0]):12.2f}] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
