"""The machine as the services see it: states in, packets moving.

What is in effect is known from what was last applied, not asked of the kernel at each push, so a push costs what it
changes. Each state is noted under `runtime` once it is in effect, and its note is removed before a change begins: a
note that is there after a restart of the agent is believed only when its effect confirms it. What an effect could not
confirm, or failed to change, is unknown, and applied anew from what the machine shows.

A push finds out before anything changes whether there is room for its notes. A note that cannot be written later, or
while something is put right or taken back, costs only that the next agent looks at the machine.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic_core import to_json

from ..backend import BackendError, Counter, Link, Reachable, State
from ..interfaces import MANAGEMENT
from . import management
from .effect import Effect, Machine
from .files import find_room
from .links import Links
from .probe import Prober
from .rtnetlink import Rtnetlink

_GUARD_SECONDS = 3.0

_log = logging.getLogger(__name__)


class Counters(Protocol):
    """Who counts the traffic of labels, with rules that somebody else may change."""

    def is_disturbed(self) -> bool:
        """Whether the rules are no more what was loaded."""

    def undone(self) -> list[str]:
        """What of the state in effect the kernel cannot do."""

    async def read(self) -> dict[str, Counter]:
        """As counted."""

    async def reset(self) -> dict[str, Counter]:
        """As counted; zero from now on."""


class LinuxBackend:
    """Satisfies `backend.Backend`. `open` comes first, and `attend` runs as long as the agent does."""

    def __init__(
        self,
        machine: Machine,
        links: Links,
        rtnetlink: Rtnetlink,
        effects: Sequence[Effect],
        counters: Counters,
        prober: Prober,
    ) -> None:
        self._boot = machine.boot
        self._notes = machine.runtime / "applied"
        self._links = links
        self._rtnetlink = rtnetlink
        self._effects = {effect.name: effect for effect in effects}
        self._states: dict[str, State | None] = dict.fromkeys(self._effects)
        self._counters = counters
        self._prober = prober

    async def open(self) -> None:
        """Look at the interfaces and set up management. Raises `BackendError`."""
        await self._links.open()
        await management.set_up(self._boot, self._links, self._rtnetlink)

    async def attend(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Await `changed` when something is plugged, unplugged or disturbed; probe the gateways; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._links.watch(changed))
            tasks.create_task(self._guard(changed))
            tasks.create_task(self._prober.run())

    async def _guard(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Have the rules put right that somebody changed by hand."""
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            try:
                if self._counters.is_disturbed():
                    _log.warning("the ruleset is not what was loaded; it is loaded again")
                    self.forget("firewall")
                    await changed()
            except BackendError as error:
                _log.warning("the ruleset cannot be looked at: %s", error)

    def management_interface(self) -> int | None:
        """The kernel's index of the management interface; None while it is missing."""
        device = self._links.device(MANAGEMENT)
        return None if device is None else device.ifindex

    def links(self) -> Iterable[Link]:
        """The plugged interfaces, by the kernel's index."""
        return self._links.known()

    async def name_links(self, names: Mapping[str, str]) -> None:
        """Rename what is called otherwise. What was in effect on a link that came or went is looked at anew."""
        if await self._links.rename(names):
            for service in self._states:
                self.forget(service)

    async def adopt(self) -> None:
        """Believe the notes that their effects confirm."""
        for service, effect in self._effects.items():
            recorded = self._noted(service)
            try:
                if recorded is not None and await effect.adopt(recorded):
                    self._take(service, recorded)
            except (BackendError, OSError) as error:
                _log.warning("what is in effect for %s is not known: %s", service, error)

    def read(self, service: str) -> State | None:
        """What is in effect; None when it is not known."""
        return self._states[service]

    async def check(self, service: str, state: State) -> None:
        """The dry run of the service's kernel part or daemon, and room for the note of what is news.

        What is unknown has to be put right, whether or not it can be noted.
        """
        if self._states[service] is not None:
            find_room(self._notes, [to_json(state)])
        await self._effects[service].check(state)

    async def apply(self, service: str, state: State) -> None:
        """Put it into effect and note it."""
        former = self._states[service]
        self.forget(service)
        await self._effects[service].apply(former, state)
        self._take(service, state)
        self._note(service, state)

    async def counters(self) -> dict[str, Counter]:
        """As the kernel has counted."""
        return await self._counters.read()

    async def reset_counters(self) -> dict[str, Counter]:
        """As the kernel has counted; zero from now on."""
        return await self._counters.reset()

    def undone(self) -> list[str]:
        """What the kernel has not that the firewall was told to use."""
        return self._counters.undone()

    def reachable(self) -> Reachable:
        """What the last probes found."""
        return self._prober.reachable

    async def close(self) -> None:
        """The agent ends; packets go on."""
        for effect in self._effects.values():
            await effect.close()
        self._links.close()
        self._prober.close()
        self._rtnetlink.close()

    def forget(self, service: str) -> None:
        """What is in effect for a service is not known any more: at its next turn the machine is looked at."""
        self._states[service] = None
        with contextlib.suppress(FileNotFoundError):
            self._path(service).unlink()

    def _take(self, service: str, state: State) -> None:
        self._states[service] = state
        if service == "routes":
            self._prober.aim(state)

    # Notes

    def _note(self, service: str, state: State) -> None:
        path = self._path(service)
        beside = path.with_suffix(".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # No flush to a disk: the directory lives as long as the kernel's state.
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                # Thousands of floating IPs take a quarter of json's time.
                file.write(to_json(state))
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            _log.warning("what is in effect for %s cannot be noted in %s: %s", service, path, error.strerror)

    def _noted(self, service: str) -> State | None:
        try:
            state: State = json.loads(self._path(service).read_bytes())
        except (OSError, ValueError):
            return None
        return state

    def _path(self, service: str) -> Path:
        return self._notes / f"{service}.json"
