"""Where the services leave what they want: the one seam between this agent and the machine.

`RecordingBackend` only records. It keeps, for each service, the state that was last committed, as canonical JSON, and
answers questions about it; nothing of the machine is touched. It is also what the tests and the lab use, so it can be
told to fail.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

State = dict[str, Any]
"""A service's wanted state, JSON-able; equal states mean that there is nothing to do."""


class BackendError(Exception):
    """The machine refused or failed; the message is for an operator."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface that is plugged into the machine."""

    mac: str
    mtu: int


@dataclass(slots=True)
class Counter:
    """Traffic of one label since its counters were last reset."""

    packets: int = 0
    bytes: int = 0


class Backend(Protocol):
    """What the services and the agent ask of the machine."""

    def links(self) -> Iterable[Link]:
        """The interfaces that are plugged, in the order in which they were first seen."""

    def read(self, service: str) -> State | None:
        """What is in effect for a service; None when nothing is."""

    async def apply(self, service: str, state: State | None) -> None:
        """Put `state` into effect, None for none at all. Raises `BackendError`; what is in effect is then unknown."""

    def counters(self) -> dict[str, Counter]:
        """The traffic counters of the labels that the firewall counts, by name."""

    def reset_counters(self) -> None:
        """Set all counters to zero."""


class RecordingBackend:
    """A machine that takes every state and remembers it.

    `refusing` names services that take no other state than the one they have, as a daemon that cannot read its new
    file would.
    """

    __slots__ = ("_counters", "_links", "_states", "refusing")

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._links = {link.mac: link for link in links}
        self._states: dict[str, bytes] = {}
        self._counters: dict[str, Counter] = {}
        self.refusing: frozenset[str] = frozenset()

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

    def read(self, service: str) -> State | None:
        """What was last committed for a service."""
        recorded = self._states.get(service)
        state: State | None = None if recorded is None else json.loads(recorded)
        return state

    async def apply(self, service: str, state: State | None) -> None:
        """Record `state`. Raises `BackendError` for a service in `refusing` that shall change."""
        recorded = None if state is None else json.dumps(state, separators=(",", ":")).encode()
        if service in self.refusing and recorded != self._states.get(service):
            raise BackendError(f"{service} refused its new state")
        if recorded is None:
            self._states.pop(service, None)
        else:
            self._states[service] = recorded
        if service == "firewall":
            names = {label["name"] for label in (state or {}).get("labels", ())}
            self._counters = {name: self._counters.get(name, Counter()) for name in sorted(names)}

    def counters(self) -> dict[str, Counter]:
        """The counters; recorded rules count nothing unless a test does."""
        return self._counters

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        for name in self._counters:
            self._counters[name] = Counter()
