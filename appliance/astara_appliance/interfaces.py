"""Names of interfaces: ge0 is management, every other one gets the next geN when it is first seen, and keeps it.

A name belongs to a MAC address. It survives unplugging and restarts (it is part of what the agent remembers), so a
network that is detached and attached again comes back under its name, because its port's MAC is derived.
"""

from collections.abc import Iterable

from .backend import Link
from .models import Interface

PREFIX = "ge"
MANAGEMENT = "ge0"


class InterfaceNames:
    """MAC → name, for all that were ever seen."""

    __slots__ = ("_next", "names")

    def __init__(self, management_mac: str, remembered: dict[str, str]) -> None:
        self.names = {**remembered, management_mac: MANAGEMENT}
        self._next = 1 + max(number_of(name) or 0 for name in self.names.values())

    def see(self, links: Iterable[Link]) -> bool:
        """Name what is new; True when something was."""
        unknown = [link.mac for link in links if link.mac not in self.names]
        for mac in unknown:
            self.names[mac] = f"{PREFIX}{self._next}"
            self._next += 1
        return bool(unknown)

    def of(self, interface: Interface) -> str:
        """The real name of a configured interface: by its MAC where that is known, else the name as sent."""
        return self.names.get(interface.lladdr or "", interface.ifname)


def number_of(name: str) -> int | None:
    """N of geN; None for other names."""
    digits = name.removeprefix(PREFIX)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None
