"""An appliance as its packaging makes it: Debian 12 with systemd as PID 1, in namespaces and a cgroup of its own.

It stands where `appliance_machine.Machine` stands, on the same wires and with the same verbs, but it is the system's
unit that starts the agent. Nothing is mounted outside of it, and it ends with the process that booted it. Root only,
and a kernel with the unified cgroup hierarchy mounted anywhere.
"""

import contextlib
import errno
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.appliance_machine import Machine
from lab.wires import Fabric

UNIT = "astara-appliance.service"
COMMAND = "/opt/astara/bin/astara-appliance"
_SECONDS = 30.0


class Booted(Machine):
    """A machine that is booted from `layers`; `root` (a folder) keeps what it changes of them."""

    def __init__(self, fabric: Fabric, root: Path, layers: Sequence[Path]) -> None:
        super().__init__(fabric, root)
        self._layers = layers
        self._cgroup = _own_cgroup() / f"{fabric.prefix}-{secrets.token_hex(3)}"
        self._pid = 0
        for name in ("upper", "work"):
            (root / name).mkdir(parents=True)
        # Its permissions become those of the machine's root directory.
        (root / "upper").chmod(0o755)

    # Life

    def start(self, **boot: Any) -> None:
        """Boot; `boot` are more boot facts. Its unit need not be active when this returns."""
        facts = self.root / "boot.json"
        facts.write_text(json.dumps(self.facts(**boot)))
        self._cgroup.mkdir()
        told, ready = os.pipe()
        with os.fdopen(told, "rb", buffering=0) as said, (self.root / "console").open("ab") as console:
            try:
                self.process = subprocess.Popen(
                    # No `ip netns exec`: its /sys would hide the cgroups.
                    (
                        *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.vm.path}"),
                        *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                        *(sys.executable, "-m", "lab.booted_init", "boot", ":".join(map(str, self._layers))),
                        *(str(self.root / "upper"), str(self.root / "work"), str(self._cgroup)),
                        *(str(facts), str(ready)),
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    pass_fds=(ready,),
                    start_new_session=True,
                )
            finally:
                os.close(ready)
            readable, _, _ = select.select([said], [], [], _SECONDS)
            word = said.readline() if readable else b""
        if not word:
            raise AssertionError(f"the machine does not boot: {(self.root / 'console').read_text()[-2000:]}")
        self._pid = int(word)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Shut the whole machine down, or with SIGKILL pull its plug."""
        if self.process is None:
            return
        if number == signal.SIGKILL:
            self.process.kill()
        else:
            self.run("systemctl", "--no-block", "poweroff")
        self.process.wait(_SECONDS)
        self.process = None
        _remove(self._cgroup)

    async def reboot(self) -> None:
        """Shut down and boot again; what is on the disk stays."""
        self.stop()
        await super().reboot()

    async def close(self) -> None:
        """End everything."""
        try:
            await super().close()
        finally:
            with contextlib.suppress(FileNotFoundError):
                _remove(self._cgroup)

    # Look

    def run(self, *argv: str, check: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program in the machine, as its root; `given` is its input.

        When it fails an AssertionError has what it said, unless `check` is off.
        """
        inside = ("nsenter", f"--target={self._pid}", "--all", "--", *argv)
        done = subprocess.run(inside, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def unit(self, name: str) -> str:
        """What systemd says of a property of the agent's unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()

    def log(self) -> str:
        """What the unit has said, and systemd of it; since it was installed."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}", check=False).stdout


def _own_cgroup() -> Path:
    """The folder of this process's cgroup in the unified hierarchy."""
    with Path("/proc/self/mounts").open(encoding="ascii") as mounts:
        mounted = next((words[1] for line in mounts if (words := line.split())[2] == "cgroup2"), None)
    if mounted is None:
        raise AssertionError("the unified cgroup hierarchy is mounted nowhere")
    with Path("/proc/self/cgroup").open(encoding="ascii") as lines:
        own = next(line.removeprefix("0::").strip() for line in lines if line.startswith("0::"))
    return Path(mounted, own.lstrip("/"))


def _remove(cgroup: Path) -> None:
    """Take a tree of cgroups away whose processes were ended."""
    deadline = time.monotonic() + _SECONDS
    for folder, _, _ in os.walk(cgroup, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
                break
            except OSError as error:
                # A process that ended is in it until it was reaped.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
