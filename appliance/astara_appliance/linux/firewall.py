"""The firewall on this machine: one nftables table, loaded by `nft -f -`, one process for each change.

The kernel counts the changes of its nftables. The number after each of ours is noted beside the state, with the
version of the rules: while it is the kernel's still, the table is exactly what was loaded last, and only differences to
that are loaded, also after a restart of the agent. Otherwise (the first start, another agent's version, somebody's
`nft`) the table is replaced as a whole, in one transaction as well: at no moment is there no firewall.
"""

import asyncio
import contextlib
import json
from typing import ClassVar

from ..backend import BackendError, Counter, State
from . import conntrack, netfilter, ruleset
from .effect import Machine
from .process import run


class FirewallEffect:
    """Satisfies `effect.Effect`, and reads and resets the counters of the labels."""

    name: ClassVar[str] = "firewall"

    def __init__(self, machine: Machine) -> None:
        self._note = machine.runtime / "firewall.generation"
        self._loaded: State | None = None
        self._generation: int | None = None
        # Counters must not be read while the table that holds them is replaced: what they count would be lost.
        self._lock = asyncio.Lock()

    async def adopt(self, recorded: State) -> bool:
        """Whether nothing has changed in the kernel since this state was loaded."""
        if self._noted() != netfilter.generation():
            return False
        self._loaded, self._generation = recorded, self._noted()
        return True

    async def check(self, state: State) -> None:
        """Have nftables judge the very transaction that would be loaded."""
        text = self._transaction(state, {})
        if text:
            await run("nft", "--check", "--file", "-", stdin=text.encode())

    async def apply(self, former: State | None, state: State) -> None:  # noqa: ARG002 - the kernel knows better
        """Load the differences, then drop the connections that live on what was taken away."""
        async with self._lock:
            known = self._known()
            text = self._transaction(state, {} if known is not None else self._counted(state))
            if text:
                await self._load(text, state)
            try:
                await asyncio.to_thread(conntrack.drop_stale, known, state)
            except BackendError:
                # What is left of them is found when all are looked at again.
                self._generation = None
                raise

    async def close(self) -> None:
        """The kernel needs nobody."""

    async def read(self) -> dict[str, Counter]:
        """What each label has counted."""
        async with self._lock:
            return self._counted(self._loaded or {})

    async def reset(self) -> dict[str, Counter]:
        """What each label has counted; it counts from zero now, and no packet went uncounted."""
        async with self._lock:
            return self._counted(self._loaded or {}, reset=True)

    def _known(self) -> State | None:
        """What the kernel has loaded, if nobody else has changed anything since."""
        if self._generation is None or self._generation != netfilter.generation():
            return None
        return self._loaded

    def _transaction(self, state: State, counted: dict[str, Counter]) -> str:
        known = self._known()
        return ruleset.load(state, counted) if known is None else ruleset.change(known, state)

    def _counted(self, state: State, *, reset: bool = False) -> dict[str, Counter]:
        labels = {label["name"]: ruleset.counter_name(label["name"]) for label in state.get("labels", ())}
        if not labels:
            return {}
        found = netfilter.counters(ruleset.TABLE, reset=reset)
        return {label: found[name] for label, name in sorted(labels.items()) if name in found}

    async def _load(self, text: str, state: State) -> None:
        before = netfilter.generation()
        with contextlib.suppress(FileNotFoundError):
            self._note.unlink()
        await run("nft", "--file", "-", stdin=text.encode())
        after = netfilter.generation()
        # One transaction is one step. More were somebody else's, and what they did is not known.
        is_ours = after == (before + 1) & 0xFFFFFFFF
        self._loaded, self._generation = state, after if is_ours else None
        if is_ours:
            self._write(after)

    def _write(self, generation: int) -> None:
        beside = self._note.with_suffix(".new")
        try:
            self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_text(json.dumps({"generation": generation, "version": ruleset.VERSION}), encoding="utf-8")
            beside.replace(self._note)
        except OSError as error:
            raise BackendError(f"{self._note} cannot be written: {error.strerror}") from error

    def _noted(self) -> int | None:
        try:
            note = json.loads(self._note.read_bytes())
            return int(note["generation"]) if note["version"] == ruleset.VERSION else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
