"""DHCP and DNS on the machine: one dnsmasq for each internal network that is served.

What is always true:

- A network's dnsmasq hears and answers on that network's interface alone, and no other network's change touches it.
- Hosts, names and options come and go by SIGHUP. A dnsmasq is started anew only when its main file changes, or when an
  address has a new owner while the former one's lease still lasts: dnsmasq would refuse it to the new owner, and it
  forgets a lease in no other way than by reading its lease file without it.
- The main file lies there only in the form that the running dnsmasq has read: a new one is written while none runs.
- Without room for the new files, the old ones and the dnsmasq that runs stay as they are.
- Leases survive a reboot, and with them the hosts file, which tells whose they were.
"""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, ClassVar

from ..backend import BackendError, State
from . import dnsmasq
from .daemon import Daemon, pid_file
from .effect import Machine
from .files import changed, find_room, read, write
from .process import run

_AT_ONCE = 4


class DhcpEffect:
    """Satisfies `effect.Effect` for the states of `services.dhcp`."""

    name: ClassVar[str] = "dhcp"

    def __init__(self, machine: Machine) -> None:
        self._runtime = machine.runtime / "dnsmasq"
        self._state = machine.state / "dnsmasq"
        self._served: dict[str, _Served] = {}

    async def adopt(self, recorded: State) -> bool:
        """Whether each network's dnsmasq runs with the files of `recorded`, and no other does."""
        self._find()
        there = {ifname for ifname, served in self._served.items() if served.adopt()}
        return there == recorded.keys() and all(
            self._served[ifname].has(network) for ifname, network in recorded.items()
        )

    async def check(self, state: State) -> None:
        """Have dnsmasq read every main file that would be new, and find room for all files that would be."""
        news = {}
        contents: list[bytes] = []
        for ifname, network in state.items():
            served = self._served.get(ifname) or self._make(ifname)
            contents += served.volatile(network)
            if (text := served.main_for(network)) != served.main:
                news[ifname] = text
        find_room(self._runtime, contents)
        if not news:
            return
        with tempfile.TemporaryDirectory(prefix="astara-dnsmasq-") as scratch:
            turns = asyncio.Semaphore(_AT_ONCE)

            async def try_out(ifname: str, text: str) -> None:
                path = Path(scratch) / ifname
                path.write_text(text, encoding="ascii")
                async with turns:
                    await run("dnsmasq", "--test", f"--conf-file={path}")

            await _all(try_out(ifname, text) for ifname, text in news.items())

    async def apply(self, former: State | None, state: State) -> None:
        """Serve what `state` has; the networks do not wait for each other."""
        is_known = former is not None
        if not is_known:
            self._find()
        gone = [self._served.pop(ifname) for ifname in list(self._served) if ifname not in state]
        others = {ifname: network for ifname, network in state.items() if (former or {}).get(ifname) != network}
        for ifname in others:
            self._served.setdefault(ifname, self._make(ifname))
        if not is_known:
            for served in (*gone, *self._served.values()):
                served.adopt()
        await _all(
            (
                *(served.remove() for served in gone),
                *(self._served[ifname].serve(network, is_known) for ifname, network in others.items()),
            )
        )

    async def close(self) -> None:
        """The agent ends; dnsmasq goes on."""
        for served in self._served.values():
            served.close()

    def _find(self) -> None:
        """Know of what earlier agents left."""
        for folder in self._runtime.iterdir() if self._runtime.exists() else ():
            self._served.setdefault(folder.name, self._make(folder.name))

    def _make(self, ifname: str) -> "_Served":
        return _Served(ifname, self._runtime / ifname, self._state / ifname)


class _Served:
    """One network's dnsmasq. `main` is the main file that the running one has read; None when that is not known."""

    __slots__ = ("_daemon", "_files", "_ifname", "_runtime", "_state", "main")

    def __init__(self, ifname: str, runtime: Path, state: Path) -> None:
        name = f"dnsmasq-{ifname}"
        self._ifname = ifname
        self._runtime = runtime
        self._state = state
        self._files = dnsmasq.Files(
            main=runtime / "main.conf",
            options=runtime / "options",
            names=runtime / "names",
            hosts=state / "hosts",
            leases=state / "leases",
            pid=pid_file(name, runtime),
        )
        self._daemon = Daemon(name, ("dnsmasq", f"--conf-file={self._files.main}"), runtime)
        self.main: str | None = None

    def adopt(self) -> bool:
        """Take charge of the dnsmasq that runs, if one does."""
        self.main = read(self._files.main) if self._daemon.adopt() else None
        return self.main is not None

    def has(self, network: dict[str, Any]) -> bool:
        """Whether the files are those of `network`."""
        return all(read(path) == text for path, text in self._texts(network).items())

    def volatile(self, network: dict[str, Any]) -> list[bytes]:
        """What is new of the files that a reboot takes away."""
        news = changed(self._texts(network))
        return [text.encode() for path, text in news.items() if path.parent == self._runtime]

    def main_for(self, network: dict[str, Any]) -> str:
        """What the main file would be."""
        try:
            link = socket.if_nametoindex(self._ifname)
        except OSError as error:
            raise BackendError(f"there is no interface {self._ifname}") from error
        return dnsmasq.main_file(self._files, self._ifname, link, network)

    async def serve(self, network: dict[str, Any], is_known: bool) -> None:
        """Serve `network`; what dnsmasq has read of the other files is as they lie there when `is_known`."""
        texts = self._texts(network)
        owners = dnsmasq.owners_in(read(self._files.hosts))
        owned = {address: mac for address, mac in dnsmasq.owners(network).items() if owners.get(address) != mac}
        news = changed(texts)
        if texts[self._files.main] == self.main and not self._is_blocked(owned):
            write(news)
            if news or not is_known:
                await self._daemon.reload()
            return
        # Before the one that runs is ended: it is better than none.
        find_room(self._runtime, self.volatile(network))
        self.main = None
        await self._daemon.stop()
        if self._is_blocked(owned):
            news[self._files.leases] = dnsmasq.without_leases_of_others(read(self._files.leases), owned)
        write(news)
        await self._daemon.start()
        self.main = texts[self._files.main]

    async def remove(self) -> None:
        """Serve the network no more. Hosts and leases stay: the network may come back."""
        await self._daemon.stop()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def close(self) -> None:
        """Let go of dnsmasq; it goes on."""
        self._daemon.close()

    def _is_blocked(self, owned: dict[str, str]) -> bool:
        """Whether a lease keeps an address from its new owner."""
        leases = read(self._files.leases) if owned else ""
        return dnsmasq.without_leases_of_others(leases, owned) != leases

    def _texts(self, network: dict[str, Any]) -> dict[Path, str]:
        return {
            self._files.main: self.main_for(network),
            self._files.options: dnsmasq.options_file(network),
            self._files.names: dnsmasq.names_file(network),
            self._files.hosts: dnsmasq.hosts_file(network),
        }


async def _all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all, also when one fails; then raise the first failure."""
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
