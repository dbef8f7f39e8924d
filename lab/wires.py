"""Network namespaces and the wires between them: what a lab's machines are plugged into. Needs root.

Namespaces are the kernel's named ones: `ip netns exec NAME …` shows what happens in them. A `Fabric` is a namespace
that holds one bridge for each network; a machine's interface is a pair of virtual Ethernet devices, one end in the
machine and the other on a bridge. Nothing is ever added to the namespace that this process runs in, but for
`Fabric.reach`, which plugs it into one of the bridges.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class WireError(Exception):
    """The kernel, or `ip`, refused; the text has its words."""


class Namespace:
    """One network namespace. `with` removes it, and ends what still runs in it."""

    def __init__(self, name: str, *, found: bool = False) -> None:
        """Make the namespace `name`; its loopback is up. WireError when there is one already.

        With `found` it is one that was made earlier, maybe by another process.
        """
        self.name = name
        if not found:
            _ip("netns", "add", name)
            self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> Path:
        """The file that keeps it."""
        return Path("/run/netns") / self.name

    def ip(self, *words: str) -> str:
        """`ip WORDS` in here; answers with what it printed. WireError when it fails."""
        return _ip("-n", self.name, *words)

    def run(self, *argv: str, timeout: float = 30.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end. WireError when it fails, unless `check` is off."""
        done = subprocess.run(
            self._inside(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise WireError(f"{self.name}: {' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a program in here, in a session of its own; `options` are Popen's."""
        return subprocess.Popen(
            self._inside(argv), **{"stdin": subprocess.DEVNULL, "start_new_session": True} | options
        )

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread in here until the block ends. No `await` inside: the event loop would stay."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, self.path.open("rb") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, which any thread outside can use."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def pids(self) -> list[int]:
        """The processes in here."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def close(self) -> None:
        """End every process in here and remove the namespace with its devices; no error if it is gone."""
        if not self.path.exists():
            return
        deadline = time.monotonic() + 10.0
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        _ip("netns", "delete", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inside(self, argv: tuple[str, ...]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]


class Fabric:
    """One bridge for each network, all in a namespace of their own."""

    def __init__(self, prefix: str | None = None, *, found: bool = False) -> None:
        """`prefix` begins the names of all that is made here; a random one by default.

        With `found` it is the fabric of that prefix that was made earlier, maybe by another process.
        """
        self.prefix = prefix or f"astara-{secrets.token_hex(3)}"
        self.switch = Namespace(f"{self.prefix}-switch", found=found)
        self._reached: list[str] = []

    def machine(self, name: str, *, found: bool = False) -> Namespace:
        """A namespace for a machine, or with `found` that which was made for it; the caller removes it."""
        return Namespace(f"{self.prefix}-{name}", found=found)

    def bridge(self, bridge: str, mtu: int = 1500) -> None:
        """A bridge, at most 15 characters; no error when there is one."""
        if self._has(bridge):
            return
        self.switch.ip(
            "link", "add", bridge, "mtu", str(mtu), "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"
        )
        self.switch.ip("link", "set", bridge, "up")

    def remove_bridge(self, bridge: str) -> None:
        """Take a bridge away; no error when there is none."""
        if self._has(bridge):
            self.switch.ip("link", "delete", bridge)

    def plug(self, bridge: str, machine: Namespace, device: str, *, mac: str | None = None, mtu: int = 1500) -> str:
        """Give a machine an interface `device` on a bridge; it is down. Answers with the name of the other end."""
        end = f"v{secrets.token_hex(5)}"
        hardware = ("address", mac) if mac else ()
        self.switch.ip(
            *("link", "add", end, "mtu", str(mtu), "type", "veth"),
            *("peer", "name", device, "mtu", str(mtu), *hardware, "netns", machine.name),
        )
        self.switch.ip("link", "set", end, "master", bridge, "up")
        return end

    def unplug(self, end: str) -> None:
        """Pull out what `plug` gave; no error when it is gone."""
        if self._has(end):
            self.switch.ip("link", "delete", end)

    def reach(self, bridge: str, device: str, *addresses: str) -> None:
        """Plug this process's own namespace into a bridge, with these addresses (CIDR). Gone with the fabric."""
        end = f"v{secrets.token_hex(5)}"
        _ip("link", "add", device, "type", "veth", "peer", "name", end, "netns", self.switch.name)
        self._reached.append(device)
        self.switch.ip("link", "set", end, "master", bridge, "up")
        _ip("link", "set", device, "up")
        for address in addresses:
            _ip("address", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))

    def close(self) -> None:
        """Remove the bridges and every wire."""
        for device in self._reached:
            with contextlib.suppress(WireError):
                _ip("link", "delete", device)
        self._reached.clear()
        self.switch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has(self, device: str) -> bool:
        with contextlib.suppress(WireError):
            self.switch.ip("link", "show", device)
            return True
        return False


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise WireError(os.strerror(ctypes.get_errno()))


def _ip(*words: str) -> str:
    done = subprocess.run(
        ["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        raise WireError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
