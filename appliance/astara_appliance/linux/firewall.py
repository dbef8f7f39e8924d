"""The firewall on this machine: one nftables table, loaded by `nft -f -`, one process for each change.

The kernel counts the changes of its nftables. The number after each of ours is noted beside the state, with the
version of the rules: while it is the kernel's still, the table is exactly what was loaded last, and only differences to
that are loaded, also after a restart of the agent. Otherwise (the first start, another agent's version, somebody's
`nft`) the table is replaced as a whole, in one transaction as well: at no moment is there no firewall.
"""

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from typing import ClassVar

from ..backend import BackendError, Counter, State
from . import conntrack, netfilter
from .effect import Machine
from .process import run
from .ruleset import TABLE, VERSION, Helper, Ruleset, counter_name, helper_object, helpers_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The transaction that leads from what is known to be loaded (None: unknown) to what is wanted."""

    known: Ruleset | None
    wanted: Ruleset
    text: str


class FirewallEffect:
    """Satisfies `effect.Effect`, and reads and resets the counters of the labels."""

    name: ClassVar[str] = "firewall"

    def __init__(self, machine: Machine) -> None:
        self._note = machine.runtime / "firewall.generation"
        self._loaded: Ruleset | None = None
        self._generation: int | None = None
        self._tried: _Plan | None = None
        self._helpers: set[Helper] = set()  # those that the kernel has, as far as it was asked
        # Counters must not be read while the table that holds them is replaced: what they count would be lost.
        self._lock = asyncio.Lock()

    async def adopt(self, recorded: State) -> bool:
        """Whether nothing has changed in the kernel since this state was loaded."""
        noted = self._noted()
        if noted is None or noted != netfilter.generation():
            return False
        self._loaded, self._generation = Ruleset(recorded, await self._lacking(recorded)), noted
        return True

    async def check(self, state: State) -> None:
        """Have nftables judge the very transaction that would be loaded, if there are rules in it.

        One of nothing but elements is judged by being loaded: the firewall is the first that a push commits, a refused
        transaction changes nothing, and the dry run would cost the kernel 20 ms (a grace period of its own).
        """
        known, wanted = self._known(), Ruleset(state, await self._lacking(state))
        plan = _Plan(known, wanted, wanted.load({}) if known is None else wanted.change(known))
        if known is None or wanted.has_other_rules(known):
            await run("nft", "--check", "--file", "-", stdin=plan.text.encode())
        self._tried = plan

    async def apply(self, former: State | None, state: State) -> None:  # noqa: ARG002 - the kernel knows better
        """Load the differences, then drop the connections that live on what was taken away."""
        async with self._lock:
            plan = await self._plan(state)
            if plan.text:
                await self._load(plan)
            try:
                await asyncio.to_thread(conntrack.drop_stale, plan.known, plan.wanted)
            except BackendError:
                # What is left of them is found when all are looked at again.
                self._generation = None
                raise

    async def close(self) -> None:
        """The kernel needs nobody."""

    def is_disturbed(self) -> bool:
        """Whether the kernel's rules are no more what was loaded; costs one question to the kernel."""
        return self._loaded is not None and self._known() is None

    def undone(self) -> list[str]:
        """What was asked for and this kernel cannot do, in the words of its users."""
        lacking = sorted(self._loaded.lacking) if self._loaded is not None else ()
        return [f"conntrack helper {name} ({protocol})" for protocol, name in lacking]

    async def read(self) -> dict[str, Counter]:
        """What each label has counted."""
        async with self._lock:
            return {} if self._loaded is None else self._counted(self._loaded)

    async def reset(self) -> dict[str, Counter]:
        """What each label has counted; it counts from zero now, and no packet went uncounted."""
        async with self._lock:
            return {} if self._loaded is None else self._counted(self._loaded, reset=True)

    def _known(self) -> Ruleset | None:
        """What the kernel has loaded, if nobody else has changed anything since."""
        if self._generation is None or self._generation != netfilter.generation():
            return None
        return self._loaded

    async def _lacking(self, state: State) -> set[Helper]:
        """The helpers that a state asks for and the kernel has not: what it has is asked once, what not each time."""
        lacking = set()
        for helper in helpers_of(state):
            if helper in self._helpers:
                continue
            trial = f"table inet {TABLE}_trial {{\n\tct helper {helper_object(helper)}\n}}\n"
            try:
                await run("nft", "--check", "--file", "-", stdin=trial.encode())
                self._helpers.add(helper)
            except BackendError as error:
                _log.warning("the conntrack helper %s is left out: %s", helper, error)
                lacking.add(helper)
        return lacking

    async def _plan(self, state: State) -> _Plan:
        """What was checked last, if it was checked for this state and against what is loaded still."""
        known, tried = self._known(), self._tried
        self._tried = None
        if tried is not None and tried.wanted.state is state:
            if known is not None and known is tried.known:
                return tried
            wanted = tried.wanted
        else:
            wanted = Ruleset(state, await self._lacking(state))
        return _Plan(known, wanted, wanted.load(self._counted(wanted)) if known is None else wanted.change(known))

    def _counted(self, ruleset: Ruleset, *, reset: bool = False) -> dict[str, Counter]:
        found = netfilter.counters(TABLE, reset=reset) if ruleset.labels else {}
        names = {label: counter_name(label) for label in ruleset.labels}
        return {label: found[name] for label, name in names.items() if name in found}

    async def _load(self, plan: _Plan) -> None:
        before = netfilter.generation()
        with contextlib.suppress(FileNotFoundError):
            self._note.unlink()
        await run("nft", "--file", "-", stdin=plan.text.encode())
        after = netfilter.generation()
        # One transaction is one step. More were somebody else's, and what they did is not known.
        is_ours = after == (before + 1) & 0xFFFFFFFF
        self._loaded, self._generation = plan.wanted, after if is_ours else None
        if is_ours:
            self._write(after)

    def _write(self, generation: int) -> None:
        beside = self._note.with_suffix(".new")
        try:
            self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_text(json.dumps({"generation": generation, "version": VERSION}), encoding="utf-8")
            beside.replace(self._note)
        except OSError as error:
            # The rules are loaded; without the note another agent would only load them again.
            _log.warning("%s cannot be written: %s", self._note, error.strerror)

    def _noted(self) -> int | None:
        try:
            note = json.loads(self._note.read_bytes())
            return int(note["generation"]) if note["version"] == VERSION else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
