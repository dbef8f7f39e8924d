"""The Ethernet interfaces of this machine: which are plugged, what they are called, and when that changes.

What is known was read from the kernel when it last said that something changed, so asking costs nothing. An interface
is found by its MAC address and known to the kernel by its index: one that is pulled out and plugged in again has the
same MAC and another index, and nothing of what was set up on it is left.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from ..backend import BackendError, Link
from .rtnetlink import attributes

_ETHERNET = 1
_UP = 1
# Virtual devices that somebody builds on top of the plugged ones, with the MAC of one of those, are not plugged.
_PLUGGED_KINDS = (None, "veth")
_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_QUEUE = 2**20
_PAUSE = 1.0
# Inside a message's header and ifinfomsg (rtnetlink(7)); a multicast datagram holds one message.
_KIND = struct.Struct("=4xH")
_INDEX = struct.Struct("=20xi")
_LINK_ATTRIBUTES = 32
_IFLA_IFNAME = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """One interface as the kernel has it."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    max_mtu: int
    is_up: bool
    alias: str
    is_plugged: bool


class Links:
    """The interfaces of the network namespace in which it was opened. Call `open` before anything else."""

    def __init__(self) -> None:
        self._netlink: AsyncIPRoute | None = None
        self._monitor: socket.socket | None = None
        # A netlink socket carries one dump at a time.
        self._turn = asyncio.Lock()
        self._devices: dict[str, Device] = {}
        self._names: Mapping[str, str] = {}
        self._named: frozenset[tuple[int, str]] | None = None
        self._told: frozenset[tuple[int, str]] = frozenset()
        self._has_renamed = False

    async def open(self) -> None:
        """Read what is plugged, and hear from now on what changes. Raises `BackendError`."""
        try:
            self._monitor = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._monitor.setblocking(False)
            self._monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
            # Heard before the first look: what changes in between is looked at once more.
            self._monitor.bind((0, _RTMGRP_LINK))
        except OSError as error:
            raise BackendError(f"the kernel's interfaces cannot be watched: {error.strerror}") from error
        self._netlink = AsyncIPRoute()
        await self.refresh()
        self._told = self._identities()

    def close(self) -> None:
        """Hear no more; nothing is changed."""
        if self._netlink is not None:
            self._netlink.close()
        if self._monitor is not None:
            self._monitor.close()

    def known(self) -> list[Link]:
        """The plugged interfaces in the order in which they were plugged."""
        return [Link(device.mac, device.mtu, device.max_mtu) for device in self._plugged()]

    def device(self, name: str) -> Device | None:
        """The plugged interface of this name; None when there is none."""
        device = self._devices.get(name)
        return device if device is not None and device.is_plugged else None

    def devices(self) -> dict[str, Device]:
        """The plugged interfaces by name."""
        return {device.name: device for device in self._plugged()}

    async def rename(self, names: Mapping[str, str]) -> bool:
        """Call the plugged interfaces by these names, by MAC; those without one keep theirs.

        True when something was renamed, or when other interfaces are plugged than at the last call. Raises
        `BackendError`.
        """
        await self.refresh()
        self._names = dict(names)
        wanted = {device.ifindex: names[device.mac] for device in self._plugged() if device.mac in names}
        await self._rename(wanted)
        former, self._named = self._named, self._identities()
        has_renamed, self._has_renamed = self._has_renamed, False
        return has_renamed or (former is not None and former != self._named)

    async def rename_one(self, mac: str, name: str) -> None:
        """Call one interface by its name, ahead of the others; the next `rename` tells of it. Raises `BackendError`."""
        await self._rename({device.ifindex: name for device in self._plugged() if device.mac == mac})

    async def set(self, name: str, **attributes: Any) -> None:
        """Set attributes (mtu, state, ifalias) of a plugged interface. Raises `BackendError`."""
        device = self.device(name)
        if device is None:
            raise BackendError(f"{name} is not plugged")
        await self._set(device, **attributes)
        now = self.device(name)
        if now is not None and now.ifindex == device.ifindex:
            self._devices[name] = replace(
                now,
                mtu=attributes.get("mtu", now.mtu),
                is_up={"up": True, "down": False}.get(attributes.get("state", ""), now.is_up),
                alias=attributes.get("ifalias", now.alias),
            )

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Await `changed` whenever other interfaces are plugged than it was told of, or bear other names.

        Until cancelled. What was plugged since `open` counts.
        """
        assert self._monitor is not None  # noqa: S101 - `open` came first
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._monitor, self._hear, heard)
        try:
            while True:
                await heard.wait()
                heard.clear()
                try:
                    await self.refresh()
                except BackendError as error:
                    _log.error("%s; another try in %g s", error, _PAUSE)
                    await asyncio.sleep(_PAUSE)
                    heard.set()
                    continue
                if self._told != (now := self._identities()) or self._is_misnamed():
                    self._told = now
                    await changed()
        finally:
            loop.remove_reader(self._monitor)

    # The kernel

    def _hear(self, news: asyncio.Event) -> None:
        """Take what the monitor has; most of it tells of our own changes to interfaces that were told of: no news.

        What was found since by a look of somebody else is news here: `changed` has not heard of it.
        """
        told = {index for index, _ in self._told}
        names = {device.ifindex: device.name for device in self._devices.values()}
        assert self._monitor is not None  # noqa: S101 - `open` came first
        while True:
            try:
                message = self._monitor.recv(2**16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The kernel had no room for some: nobody knows what they said.
                news.set()
                continue
            kind, index = _KIND.unpack_from(message)[0], _INDEX.unpack_from(message)[0]
            name = dict(attributes(message, _LINK_ATTRIBUTES)).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode()
            if kind != _RTM_NEWLINK or index not in told or names.get(index) != name:
                news.set()

    async def refresh(self) -> None:
        """Read anew what is plugged and how it is set. Raises `BackendError`."""
        assert self._netlink is not None  # noqa: S101 - `open` came first
        messages: list[Any] = []
        is_torn = True
        async with self._turn:
            while is_torn:
                try:
                    messages = [message async for message in await self._netlink.link("dump")]
                except NetlinkDumpInterrupted:
                    continue
                except (NetlinkError, OSError) as error:
                    raise BackendError(f"the kernel's interfaces cannot be read: {_words(error)}") from error
                # Something was plugged while the kernel counted: some may be missing.
                is_torn = any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages)
        self._devices = {(device := _device(message)).name: device for message in messages}

    def _plugged(self) -> list[Device]:
        first: dict[str, Device] = {}
        for device in sorted(self._devices.values(), key=lambda one: one.ifindex):
            if device.is_plugged:
                first.setdefault(device.mac, device)
        return list(first.values())

    def _is_misnamed(self) -> bool:
        return any(self._names.get(device.mac, device.name) != device.name for device in self._plugged())

    def _identities(self) -> frozenset[tuple[int, str]]:
        return frozenset((device.ifindex, device.mac) for device in self._plugged())

    async def _rename(self, wanted: Mapping[int, str]) -> None:
        """Names may change in a circle: one that somebody else has is taken away from it first."""
        for index, name in wanted.items():
            by_index = {device.ifindex: device for device in self._devices.values()}
            device, holder = by_index[index], self._devices.get(name)
            if device.name == name:
                continue
            if holder is not None:
                await self._call(holder, f"was{holder.ifindex}")
            await self._call(device, name)
            self._has_renamed = True
            await self.refresh()

    async def _call(self, device: Device, name: str) -> None:
        try:
            await self._set(device, ifname=name)
        except BackendError as error:
            # Kernels before 6.2 rename no interface that is up.
            if not (isinstance(error.__cause__, NetlinkError) and error.__cause__.code == errno.EBUSY):
                raise
            await self._set(device, state="down")
            await self._set(device, ifname=name)

    async def _set(self, device: Device, **attributes: Any) -> None:
        assert self._netlink is not None  # noqa: S101 - `open` came first
        try:
            async with self._turn:
                await self._netlink.link("set", index=device.ifindex, **attributes)
        except (NetlinkError, OSError) as error:
            told = ", ".join(f"{key} {value!r}" for key, value in attributes.items())
            raise BackendError(f"{device.name} does not take {told}: {_words(error)}") from error


def _device(message: Any) -> Device:
    info = message.get("linkinfo")
    kind = None if info is None else info.get("kind")
    mac = message.get("address") or ""
    return Device(
        ifindex=message["index"],
        name=message.get("ifname"),
        mac=mac.lower(),
        mtu=message.get("mtu") or 0,
        max_mtu=message.get("max_mtu") or 65535,
        is_up=bool(message["flags"] & _UP),
        alias=message.get("ifalias") or "",
        is_plugged=message["ifi_type"] == _ETHERNET and kind in _PLUGGED_KINDS,
    )


def _words(error: NetlinkError | OSError) -> str:
    code = error.code if isinstance(error, NetlinkError) else error.errno
    return os.strerror(code or 0)
