"""Where the services leave what they want: the one seam between this agent and the machine.

`linux.LinuxBackend` is the machine. `RecordingBackend` only records: it keeps, for each service, the state that was
last committed, as canonical JSON, and answers questions about it; nothing of the machine is touched. It carries
thousands of appliances in one process where nobody looks at packets, and can be told to fail.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

State = dict[str, Any]
"""A service's wanted state, JSON-able; equal states mean that there is nothing to do."""


class BackendError(Exception):
    """The machine refused or failed; the message is for an operator."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface that is plugged into the machine; `max_mtu` is the most that its driver takes."""

    mac: str
    mtu: int
    max_mtu: int = 65535


@dataclass(slots=True)
class Counter:
    """Traffic of one label since its counters were last reset."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reachable:
    """Whether the upstream answers, by IP version."""

    v4: bool = False
    v6: bool = False


class Backend(Protocol):
    """What the services and the agent ask of the machine."""

    def links(self) -> Iterable[Link]:
        """The interfaces that are plugged, in the order in which they were first seen."""

    async def name_links(self, names: Mapping[str, str]) -> None:
        """Call the plugged interfaces by these names, by MAC. Raises `BackendError`."""

    async def adopt(self) -> None:
        """Find out what is in effect already, before anything is applied; touches nothing."""

    def read(self, service: str) -> State | None:
        """What is in effect for a service: empty when it does not run, None when that is not known."""

    async def check(self, service: str, state: State) -> None:
        """Try `state` without putting it into effect. Raises `BackendError` with what the machine says against it."""

    async def apply(self, service: str, state: State) -> None:
        """Put `state` into effect. Raises `BackendError`; what is in effect is then unknown."""

    async def counters(self) -> dict[str, Counter]:
        """The traffic counters of the labels that the firewall counts, by name."""

    async def reset_counters(self) -> dict[str, Counter]:
        """The traffic counters as they were; they are zero now."""

    def undone(self) -> list[str]:
        """What of the states in effect this machine cannot do, in words for users; all else is done."""

    def reachable(self) -> Reachable:
        """What the last probes of the gateways found; costs nothing."""


_DEFAULTS = ("0.0.0.0/0", "::/0")


class RecordingBackend:
    """A machine that takes every state and remembers it.

    `refusing` names services that take no other state than the one they have, as a daemon that cannot read its new
    file would; `lacking` is what it says that it cannot do.
    """

    __slots__ = ("_links", "_states", "counted", "lacking", "refusing")

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._links = {link.mac: link for link in links}
        self._states: dict[str, bytes] = {}
        self.counted: dict[str, Counter] = {}
        self.refusing: frozenset[str] = frozenset()
        self.lacking: list[str] = []

    def links(self) -> Iterable[Link]:
        """The interfaces that were plugged."""
        return self._links.values()

    def plug(self, link: Link) -> None:
        """An interface appears, or changes its MTU."""
        self._links[link.mac] = link

    def unplug(self, mac: str) -> None:
        """An interface disappears; unknown ones are no error."""
        self._links.pop(mac, None)

    def replace_links(self, links: Iterable[Link]) -> bool:
        """These are plugged and no others; True when that is news."""
        former, self._links = self._links, {link.mac: link for link in links}
        return former != self._links

    async def name_links(self, names: Mapping[str, str]) -> None:
        """Nothing to rename."""

    async def adopt(self) -> None:
        """Nothing was there before."""

    def read(self, service: str) -> State:
        """What was last committed for a service."""
        recorded = self._states.get(service)
        state: State = {} if recorded is None else json.loads(recorded)
        return state

    async def check(self, service: str, state: State) -> None:
        """Everything can be recorded."""

    async def apply(self, service: str, state: State) -> None:
        """Record `state`. Raises `BackendError` for a service in `refusing` that shall change."""
        recorded = json.dumps(state, separators=(",", ":")).encode() if state else None
        if service in self.refusing and recorded != self._states.get(service):
            raise BackendError(f"{service} refused its new state")
        if recorded is None:
            self._states.pop(service, None)
        else:
            self._states[service] = recorded
        if service == "firewall":
            names = {label["name"] for label in state.get("labels", ())}
            self.counted = {name: self.counted.get(name, Counter()) for name in sorted(names)}

    async def counters(self) -> dict[str, Counter]:
        """The counters; recorded rules count nothing unless a test does."""
        return dict(self.counted)

    async def reset_counters(self) -> dict[str, Counter]:
        """Set all counters to zero."""
        former, self.counted = self.counted, {name: Counter() for name in self.counted}
        return former

    def undone(self) -> list[str]:
        """What a test put into `lacking`."""
        return self.lacking

    def reachable(self) -> Reachable:
        """Recorded gateways always answer."""
        routes = self.read("routes").get("routes", ())
        versions = {route["version"] for route in routes if route["destination"] in _DEFAULTS}
        return Reachable(4 in versions, 6 in versions)
