"""Addresses, MTU and state of the interfaces in the kernel.

What is always true:

- The management interface is set up from the boot facts when the agent starts and is never changed after that.
- An address that stays is not touched. New ones are there before former ones go, so a network that keeps an address of
  the same prefix stays connected; one that moves is taken away first, because IPv6 has an address once.
- Every address that is new on an interface is announced there, and so is one that it answers for from now on.
- Whoever depends on routes hears when a change may have cost some: the kernel drops those of an interface that goes
  down, and of one that loses its addresses.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backend import BackendError, State
from ..interfaces import MANAGEMENT
from ..services.interfaces import MINIMUM_V6_MTU
from . import management, proxies, sysctl
from .announce import Announcement, Announcer
from .effect import Machine
from .links import Device, Links
from .proxies import add_proxy, remove_proxy
from .rtnetlink import Address, Rtnetlink, add_address, address_of, remove_address

_LONGEST_ALIAS = 255


@dataclass(slots=True)
class _Change:
    """One interface on its way: what it gets and loses, and what it answers for from now on (`published`) or no more.

    `facts` are None when nothing is wanted of it.
    """

    device: Device
    facts: dict[str, Any] | None
    added: list[Address]
    removed: list[Address]
    published: list[Address]
    withdrawn: list[Address]

    @property
    def shall_be_up(self) -> bool:
        return self.facts is not None and self.facts["state"] == "up"


class InterfacesEffect:
    """Satisfies `effect.Effect`. `routes_lost` is called when routes may be gone."""

    name: ClassVar[str] = "interfaces"

    def __init__(
        self,
        machine: Machine,
        links: Links,
        rtnetlink: Rtnetlink,
        announcer: Announcer,
        routes_lost: Callable[[], None],
    ) -> None:
        self._boot = machine.boot
        self._links = links
        self._rtnetlink = rtnetlink
        self._announcer = announcer
        self._routes_lost = routes_lost

    async def adopt(self, recorded: State) -> bool:
        """Whether every interface is as `recorded` says, and those that it does not name are unused."""
        changes = await self._changes_from_kernel(recorded)
        return len(changes) >= len(recorded) - 1 and not any(map(_differs, changes))

    async def check(self, state: State) -> None:
        """Whatever the models and the service let pass, the kernel takes."""

    async def apply(self, former: State | None, state: State) -> None:
        """Change what differs."""
        if former is None:
            await self._links.refresh()
            await management.set_up(self._boot, self._links, self._rtnetlink)
            sysctl.harden_all()
            changes = await self._changes_from_kernel(state)
        else:
            changes = self._changes_between(former, state)
        missing = [name for name in state if self._links.device(name) is None]
        if missing:
            raise BackendError(f"{', '.join(missing)}: not plugged")
        are_routes_lost = [await self._set_link(change) for change in changes]
        if any(proxies.texts(facts) for facts in state.values()):
            sysctl.answer_for_others()
        await self._move_addresses(changes)
        for change in changes:
            if change.device.is_up and not change.shall_be_up:
                await self._links.set(change.device.name, state="down")
        if former is None or any(are_routes_lost) or any(map(_costs_routes, changes)):
            self._routes_lost()
        self._announcer.announce(_announcements(changes))

    async def close(self) -> None:
        """Addresses stay; announcements end."""
        await self._announcer.close()

    # What is to be done

    def _changes_between(self, former: State, state: State) -> list[_Change]:
        changes = []
        for name in sorted(former.keys() | state.keys()):
            before, after = former.get(name), state.get(name)
            device = self._links.device(name)
            if name != MANAGEMENT and before != after and device is not None:
                added, removed = _differences(device, _texts(before), _texts(after))
                published, withdrawn = _differences(device, proxies.texts(before), proxies.texts(after))
                changes.append(_Change(device, after, added, removed, published, withdrawn))
        return changes

    async def _changes_from_kernel(self, state: State) -> list[_Change]:
        """Every plugged interface, with the addresses that the kernel says it has."""
        present: dict[int, set[Address]] = {}
        for address in await self._rtnetlink.addresses():
            present.setdefault(address.ifindex, set()).add(address)
        answered: dict[int, set[Address]] = {}
        for address in await proxies.proxies(self._rtnetlink):
            answered.setdefault(address.ifindex, set()).add(address)
        changes = []
        for name, device in self._links.devices().items():
            if name != MANAGEMENT:
                facts = state.get(name)
                wanted = dict.fromkeys(address_of(device.ifindex, text) for text in _texts(facts))
                there = present.get(device.ifindex, set())
                added = [address for address in wanted if address not in there]
                removed = sorted(one for one in there if one not in wanted and not _is_kernels(one))
                answers, asked = answered.get(device.ifindex, set()), _addresses(device, proxies.texts(facts))
                published = [address for address in asked if address not in answers]
                withdrawn = sorted(answers - set(asked))
                changes.append(_Change(device, facts, added, removed, published, withdrawn))
        return changes

    # Doing it

    async def _set_link(self, change: _Change) -> bool:
        """Switches, MTU, alias, and up; True when that may have cost routes or made room for some."""
        facts, device = change.facts, change.device
        if facts is None:
            return False
        if facts["mtu"] != device.mtu:
            await self._links.set(device.name, mtu=facts["mtu"])
        # With less than IPv6 needs the kernel has no switches of IPv6 for the interface.
        sysctl.harden(device.name, has_v6=facts["mtu"] >= MINIMUM_V6_MTU)
        if proxies.texts(facts):
            sysctl.answer_at_once(device.name)
        attributes: dict[str, Any] = {}
        if (alias := _alias(facts["description"])) != device.alias:
            attributes["ifalias"] = alias
        if change.shall_be_up and not device.is_up:
            attributes["state"] = "up"
        if attributes:
            await self._links.set(device.name, **attributes)
        has_lost_v6 = device.mtu >= MINIMUM_V6_MTU > facts["mtu"] or device.mtu < MINIMUM_V6_MTU <= facts["mtu"]
        if has_lost_v6:
            # The kernel took the IPv6 addresses away, or did so before.
            v6 = [address_of(device.ifindex, text) for text in _texts(facts) if ":" in text]
            change.added = [address for address in change.added if len(address.packed) == 4] + v6
            change.published = _addresses(device, proxies.texts(facts))
        return has_lost_v6 or "state" in attributes

    async def _move_addresses(self, changes: list[_Change]) -> None:
        added = [address for change in changes for address in change.added]
        removed = [address for change in changes for address in change.removed]
        hosts = {address.packed for address in added}
        stays = {(address.ifindex, address.packed) for address in added if len(address.packed) == 4}
        # What appears elsewhere goes first, and with another prefix, too, if it is IPv6, which has an address once.
        first = {one for one in removed if one.packed in hosts and (one.ifindex, one.packed) not in stays}
        await self._rtnetlink.send(
            [
                *(remove_address(address) for address in removed if address in first),
                *(add_address(address) for address in added),
                *(remove_address(address) for address in removed if address not in first),
                *(remove_proxy(address) for change in changes for address in change.withdrawn),
                *(add_proxy(address) for change in changes for address in change.published),
            ]
        )


def _texts(facts: dict[str, Any] | None) -> list[str]:
    """The addresses of an interface with these facts: none while it is down, as IPv6 does by itself."""
    if facts is None or facts["state"] != "up":
        return []
    return [*facts["addresses"], *facts["floating"], *facts["link_local"]]


def _addresses(device: Device, texts: Iterable[str]) -> list[Address]:
    return [address_of(device.ifindex, text) for text in dict.fromkeys(texts)]


def _differences(device: Device, before: Iterable[str], after: Iterable[str]) -> tuple[list[Address], list[Address]]:
    """The addresses that come, and those that go."""
    present, wanted = dict.fromkeys(before), dict.fromkeys(after)
    come, go = (text for text in wanted if text not in present), (text for text in present if text not in wanted)
    return _addresses(device, come), _addresses(device, go)


def _is_kernels(address: Address) -> bool:
    """Whether it is a link-local address such as the kernel gives every interface that is up."""
    return len(address.packed) == 16 and address.packed[:8] == b"\xfe\x80" + bytes(6) and address.length == 64


def _costs_routes(change: _Change) -> bool:
    """Whether a connected network may be gone, or the last IPv4 address, and with it every route over the interface."""
    if change.device.is_up and not change.shall_be_up:
        return True
    keeps_v4 = any(":" not in text for text in _texts(change.facts))
    return any(address.length < 8 * len(address.packed) or not keeps_v4 for address in change.removed)


def _differs(change: _Change) -> bool:
    facts, device = change.facts, change.device
    if change.added or change.removed or change.published or change.withdrawn or device.is_up != change.shall_be_up:
        return True
    return facts is not None and (facts["mtu"] != device.mtu or _alias(facts["description"]) != device.alias)


def _alias(description: str) -> str:
    """A user's words as the kernel takes them: no more than 255 bytes, and no byte of zero."""
    return description.replace("\0", " ").encode()[:_LONGEST_ALIAS].decode(errors="ignore")


def _announcements(changes: Iterable[_Change]) -> list[Announcement]:
    return [
        Announcement(change.device.name, bytes.fromhex(change.device.mac.replace(":", "")), address.packed)
        for change in changes
        for address in (*change.added, *change.published)
    ]
