"""A plain host, the program of an instance: its interfaces by DHCP and router advertisements, its metadata, an answer.

It does what a cloud image does, and says on its console what it got. Every interface, also one that is plugged in
later, gets dhclient for IPv4; IPv6 is the kernel's, with dhclient for what a router advertisement leaves to DHCP. The
metadata is fetched as cloud-init does, again and again until it is there; it names the host. From then on, and before,
the host answers on port 80 (`responder`).
"""

import asyncio
import contextlib
import json
import shlex
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from pyroute2 import AsyncIPRoute

from . import netlink, responder

METADATA = ("http://169.254.169.254", "http://[fe80::a9fe:a9fe%25{device}]")
FACTS = Path("/run/instance.json")
"""Where the metadata is kept once it is known."""

_RETRY_SECONDS = 1.0
_TRY_SECONDS = 5.0
_CONFIGURATION = """\
timeout 15;
retry 1;
initial-interval 1;
backoff-cutoff 2;
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, host-name, interface-mtu,
  rfc3442-classless-static-routes, dhcp6.name-servers, dhcp6.domain-search;
"""


class Host:
    """The host's interfaces and what it knows of itself."""

    def __init__(self, folder: Path = Path("/run")) -> None:
        self._script = folder / "dhclient-script"
        self._configuration = folder / "dhclient.conf"
        self._folder = folder
        self._clients: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._devices: list[str] = []
        self._said: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the machine ends."""
        self._configuration.write_text(_CONFIGURATION, encoding="ascii")
        # dhclient gives its script an environment of its own, and no arguments.
        command = shlex.join((sys.executable, "-m", "lab.hypervisor.lease"))
        self._script.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
        self._script.chmod(0o755)
        self._spawn(responder.serve(socket.gethostname))
        self._spawn(self._fetch_metadata())
        async with AsyncIPRoute() as kernel:
            with netlink.changes() as changes:
                while True:
                    self._look(await netlink.interfaces(kernel))
                    await _something(changes)

    def _look(self, present: list[netlink.Interface]) -> None:
        """Bring up what is new, start what an advertisement asks for, say what has changed."""
        self._devices = [interface.name for interface in present]
        indices = {interface.index for interface in present}
        for index, kind in list(self._clients):
            if index not in indices:
                self._clients.pop((index, kind)).cancel()
        for interface in present:
            self._client(interface, "-4")
            if interface.managed:
                self._client(interface, "-6")
            elif interface.other:
                self._client(interface, "-6", "-S")
            for address in interface.addresses:
                self._say_once(f"{interface.name} {interface.mac} has {address}")

    def _client(self, interface: netlink.Interface, *family: str) -> None:
        key = (interface.index, family[0])
        if key not in self._clients:
            self._clients[key] = self._spawn(self._dhclient(interface.name, *family))

    async def _dhclient(self, device: str, *family: str) -> None:
        """Keep dhclient running for an interface."""
        beside = self._folder / f"dhclient{family[0]}.{device}"
        files = ("-cf", str(self._configuration), "-lf", f"{beside}.leases", "-pf", f"{beside}.pid")
        while True:
            # The interface is up before: dhclient for IPv6 needs its link-local address.
            await _run("ip", "link", "set", device, "up")
            await _run("dhclient", *family, "-d", "-q", "-sf", str(self._script), *files, device)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _fetch_metadata(self) -> None:
        attempts = 0
        while True:
            for base in METADATA:
                for device in self._devices if "{device}" in base else [""]:
                    attempts += 1
                    facts = await asyncio.to_thread(fetch, base.format(device=device))
                    if facts is not None:
                        self._take(facts, base.format(device=device), attempts)
                        return
            await asyncio.sleep(_RETRY_SECONDS)

    @staticmethod
    def _take(facts: dict[str, Any], where: str, attempts: int) -> None:
        socket.sethostname(str(facts["hostname"])[:64])
        FACTS.write_text(json.dumps(facts), encoding="utf-8")
        print(
            f"metadata from {where} (attempt {attempts}): instance {facts['uuid']} ({facts['instance-id']}), "
            f"hostname {facts['hostname']}",
            flush=True,
        )
        print(f"\n{facts['hostname']} login: ", flush=True)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(text, flush=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"{type(error).__name__}: {error}", flush=True)


def fetch(base: str) -> dict[str, Any] | None:
    """OpenStack's metadata with EC2's instance-id and the user data; None when nobody answers with them."""
    try:
        facts: dict[str, Any] = json.loads(_get(f"{base}/openstack/latest/meta_data.json"))
        facts["instance-id"] = _get(f"{base}/latest/meta-data/instance-id").decode()
        with contextlib.suppress(HTTPError):
            facts["user_data"] = _get(f"{base}/openstack/latest/user_data").decode(errors="replace")
    except (URLError, OSError, ValueError):
        return None
    return facts


def _get(url: str) -> bytes:
    with build_opener(ProxyHandler({})).open(url, timeout=_TRY_SECONDS) as answer:
        content: bytes = answer.read()
        return content


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()


async def _something(changes: socket.socket) -> None:
    try:
        await asyncio.get_running_loop().sock_recv(changes, 65536)
        # Events come in heaps.
        while True:
            changes.recv(65536)
    except BlockingIOError:
        return
    except OSError:
        # The socket overflowed: something has happened, too.
        return


if __name__ == "__main__":
    asyncio.run(Host().run())
