"""One appliance: what it was told at boot, its interfaces, and the configuration that it runs.

What is always true:

- A push is all or nothing: every service validates, and the machine tries what is new, before any commits; when one
  fails to commit, all that committed are rolled back in reverse order, and the former configuration stays the one that
  runs.
- One push runs at a time. A push that began is finished, whether or not its caller still waits.
- An epoch is remembered, over restarts too, before anything is done in its name; from then on lower ones are refused.
- The digest is told only while the services run what it stands for. After a roll back that failed, a push that could
  not be kept, and a restart that could not put everything into effect again, it is unknown, so the orchestrator pushes
  again. While an interface is missing it is not told either; when the interface is back, what belongs there is put into
  effect again without a push.
- A restart touches nothing that is in effect already.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from . import services
from .backend import Backend, BackendError, Counter, Link, State
from .boot import BootData
from .epoch import Epoch
from .interfaces import InterfaceNames, number_of
from .models import Configuration
from .services.base import Service
from .services.routes import reachable_routes
from .store import Remembered, Store
from .validation import FieldError, InvalidConfiguration, parse_configuration, parse_json

Clock = Callable[[], float]
"""Seconds on a clock that only goes forward."""

_log = logging.getLogger(__name__)
_EMPTY = Configuration().model_dump_json().encode()


class StaleEpoch(Exception):  # noqa: N818 - it names the thing that is wrong
    """A push came from an owner that is one no more."""

    def __init__(self, highest: Epoch) -> None:
        super().__init__(f"an owner with epoch {highest} was here")
        self.highest = highest


class CommitFailed(Exception):  # noqa: N818 - it names the thing that is wrong
    """A service did not take its new state. `restored` says whether the former configuration runs again."""

    def __init__(self, service: str, cause: str, restored: bool) -> None:
        super().__init__(cause)
        self.service = service
        self.restored = restored


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of an accepted push: the names of the services that changed, and the configuration as kept.

    `undone` is what of it this machine cannot do, in words for users.
    """

    changed: list[str]
    configuration: bytes
    digest: str | None
    epoch: Epoch | None
    undone: list[str]


class Appliance:
    """The agent without its HTTP. Call `start` before anything else."""

    __slots__ = (
        "_backend",
        "_clock",
        "_is_complete",
        "_last",
        "_lock",
        "_names",
        "_on_configured",
        "_remembered",
        "_services",
        "_started",
        "_status",
        "_store",
        "_version",
        "boot",
    )

    def __init__(self, boot: BootData, store: Store, backend: Backend, clock: Clock, version: str) -> None:
        self.boot = boot
        self._store = store
        self._backend = backend
        self._clock = clock
        self._version = version
        self._started = clock()
        self._remembered = store.load()
        self._names = InterfaceNames(boot.management.mac, self._remembered.interfaces)
        self._services = services.create(boot, backend, self._names)
        self._lock = asyncio.Lock()
        self._is_complete = True
        self._last: tuple[bytes, Configuration, bytes] | None = None
        self._on_configured: Callable[[], Awaitable[None]] | None = None
        self._status = b""

    async def start(self) -> None:
        """Name the interfaces and put the remembered configuration into effect, as far as it is not already.

        Raises `BackendError` when the interfaces cannot be named: nothing could be set up then.
        """
        async with self._lock:
            self._names.see(self._backend.links())
            await self._backend.name_links(self._names.names)
            await self._backend.adopt()
            await self._run_again()
            self._refresh()

    def on_configured(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await `callback` after each push that changed something; for who listens on behalf of the services."""
        self._on_configured = callback

    @property
    def configuration(self) -> bytes:
        """The configuration that was last accepted, as JSON."""
        return self._remembered.configuration or _EMPTY

    def status(self) -> bytes:
        """The answer to `GET /v1/status`, as JSON; made ahead except for what changes by itself."""
        reachable = self._backend.reachable()
        return b'{"v4":%s,"v6":%s,%s,"uptime_seconds":%.1f}' % (
            _JSON[reachable.v4],
            _JSON[reachable.v6],
            self._status,
            self._clock() - self._started,
        )

    async def links_changed(self) -> None:
        """Look at the interfaces again; something was plugged or unplugged."""
        async with self._lock:
            if self._names.see(self._backend.links()):
                await self._remember(self._remembered)
            try:
                await self._backend.name_links(self._names.names)
            except BackendError:
                _log.exception("the new interfaces cannot be named")
            await self._run_again()
            self._refresh()

    async def _run_again(self) -> None:
        """Put the remembered configuration into effect on the interfaces that are there."""
        remembered = self._remembered.configuration
        self._is_complete = False
        try:
            configuration = Configuration() if remembered is None else parse_configuration(json.loads(remembered))
            plugged = self._plugged(configuration)
            await self._apply(plugged)
            self._is_complete = plugged is configuration
        except (InvalidConfiguration, CommitFailed) as error:
            what = "closing everything but management" if remembered is None else "the remembered configuration"
            _log.error("%s: cannot be put into effect: %s", what, error)

    def _plugged(self, configuration: Configuration) -> Configuration:
        """The configuration without what needs a missing interface; the same object when none is missing."""
        there = {name for name, _ in self._named_links()}
        networks = [one for one in configuration.networks if self._names.of(one.interface) in there]
        if len(networks) == len(configuration.networks):
            return configuration
        return reachable_routes(configuration.model_copy(update={"networks": networks}), self._names)

    def _named_links(self) -> list[tuple[str, Link]]:
        """The plugged interfaces by name; one that is so new that it has no name yet is left out."""
        names = self._names.names
        return [(names[link.mac], link) for link in self._backend.links() if link.mac in names]

    def interfaces(self) -> list[dict[str, Any]]:
        """The plugged interfaces, management first, with the addresses they were given (section 1.3.2)."""
        wanted = self.state("interfaces")
        links = sorted(self._named_links(), key=lambda item: number_of(item[0]) or 0)
        return [_interface(name, link.mac, link.mtu, wanted) for name, link in links]

    def state(self, service: str) -> State:
        """What is in effect for a service; empty when it does not run."""
        return next(item.read() for item in self._services if item.name == service) or {}

    async def labels(self) -> list[dict[str, Any]]:
        """The traffic counters by label. Raises `BackendError`."""
        return _labels(await self._backend.counters())

    async def reset_labels(self) -> list[dict[str, Any]]:
        """The traffic counters as they were; they are zero now. Raises `BackendError`."""
        return _labels(await self._backend.reset_counters())

    async def push(self, body: bytes, digest: str | None, epoch: Epoch | None) -> Pushed:
        """Run the configuration in `body`.

        Raises `StaleEpoch`, `MalformedJson`, `InvalidConfiguration`, `CommitFailed`, or OSError when the outcome cannot
        be kept. It goes on when the caller is cancelled.
        """
        return await asyncio.shield(asyncio.ensure_future(self._push(body, digest, epoch)))

    async def _push(self, body: bytes, digest: str | None, epoch: Epoch | None) -> Pushed:
        async with self._lock:
            await self._admit(epoch)
            configuration, text = self._parsed(body)
            try:
                changed = await self._apply(configuration)
            except CommitFailed as failure:
                if not failure.restored:
                    await self._remember(replace(self._remembered, digest=None))
                raise
            # All that it names is plugged, whatever the former configuration missed.
            self._is_complete = True
            try:
                await self._remember(replace(self._remembered, configuration=text, digest=digest))
            except OSError:
                self._remembered = replace(self._remembered, digest=None)
                self._refresh()
                raise
            if changed and self._on_configured is not None:
                await self._on_configured()
            return Pushed(changed, text, digest, self._remembered.epoch, self._backend.undone())

    def _parsed(self, body: bytes) -> tuple[Configuration, bytes]:
        """The configuration in `body`, and its canonical text; kept, because the same often comes again."""
        mark = hashlib.blake2b(body).digest()
        if self._last is None or self._last[0] != mark:
            configuration = parse_configuration(parse_json(body))
            self._last = mark, configuration, configuration.model_dump_json().encode()
        return self._last[1:]

    async def _admit(self, epoch: Epoch | None) -> None:
        """Let no former owner pass. A push without an epoch (an operator's curl) passes before the first owner only."""
        highest = self._remembered.epoch
        if highest is not None and (epoch is None or epoch < highest):
            raise StaleEpoch(highest)
        if epoch != highest:
            await self._remember(replace(self._remembered, epoch=epoch))

    async def _apply(self, configuration: Configuration) -> list[str]:
        errors: list[FieldError] = []
        for service in self._services:
            errors += service.validate(configuration)
        if errors:
            raise InvalidConfiguration(errors)
        states = [service.render(configuration) for service in self._services]
        await self._check(states)
        committed: list[Service] = []
        changed = []
        for service, state in zip(self._services, states, strict=True):
            committed.append(service)
            try:
                if await service.commit(state):
                    changed.append(service.name)
            except Exception as error:
                # Whatever it is: half of a configuration must not stay.
                if not isinstance(error, BackendError):
                    _log.exception("%s failed in an unexpected way", service.name)
                restored = await self._roll_back(committed)
                raise CommitFailed(service.name, str(error) or repr(error), restored) from error
        return changed

    async def _check(self, states: list[State]) -> None:
        """Have the machine try all that is news, at once."""
        checks = (service.check(state) for service, state in zip(self._services, states, strict=True))
        answers = await asyncio.gather(*checks, return_exceptions=True)
        for service, answer in zip(self._services, answers, strict=True):
            if isinstance(answer, BackendError):
                raise CommitFailed(service.name, str(answer), restored=True) from answer
            if isinstance(answer, BaseException):
                raise answer

    async def _roll_back(self, committed: list[Service]) -> bool:
        """Undo in reverse order; a service that cannot go back does not keep the others from it."""
        restored = True
        for service in reversed(committed):
            try:
                await service.roll_back()
            except Exception:
                _log.exception("%s cannot be rolled back", service.name)
                restored = False
        return restored

    async def _remember(self, remembered: Remembered) -> None:
        remembered = replace(remembered, interfaces=dict(self._names.names))
        if remembered != self._remembered:
            await self._store.save(remembered)
            self._remembered = remembered
        self._refresh()

    def _refresh(self) -> None:
        status = {
            "resource_id": self.boot.resource_id,
            "instance": self.boot.instance,
            "version": self._version,
            "digest": self._remembered.digest if self._is_complete else None,
            "epoch": None if self._remembered.epoch is None else str(self._remembered.epoch),
            "interfaces": {link.mac: name for name, link in self._named_links()},
            "undone": self._backend.undone(),
        }
        # Without the braces: `status` adds the facts that change by themselves.
        self._status = json.dumps(status, separators=(",", ":")).encode()[1:-1]


_JSON = {False: b"false", True: b"true"}


def _labels(counters: dict[str, Counter]) -> list[dict[str, Any]]:
    return [{"name": name, "packets": one.packets, "bytes": one.bytes} for name, one in counters.items()]


def _interface(ifname: str, mac: str, mtu: int, wanted: State) -> dict[str, Any]:
    given = wanted.get(ifname, {})
    return {
        "addresses": [*given.get("addresses", []), *given.get("floating", [])],
        "description": given.get("description", ""),
        "groups": given.get("groups", []),
        "ifname": ifname,
        "lladdr": mac,
        "media": given.get("media"),
        "mtu": given.get("mtu", mtu),
        "state": given.get("state", "down"),
    }
