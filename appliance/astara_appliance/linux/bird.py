"""Router advertisements and BGP on the machine: one BIRD for both, which runs while either is wanted.

What is always true:

- Each of the two effects owns one file; whoever changes one has BIRD go over to it without a restart, so the sessions
  and the advertisements that stay the same are not disturbed.
- The files lie there only in the form that BIRD has accepted, or was just asked to. Without room for new ones, the old
  ones stay.
- A BIRD that does not answer in time is ended by force and started anew; one that answers with a refusal goes on.
- A BIRD that is started takes over the kernel's routes of one that crashed (`-R`, graceful restart); one that is
  stopped takes its routes away and says goodbye to hosts (an advertisement with lifetime zero) and neighbours.
"""

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import ClassVar

from ..backend import State
from . import bird_control, bird_files
from .daemon import Daemon, pid_file
from .effect import Machine
from .files import changed, find_room, read, write
from .process import run

_OWN_ROUTES = "12"  # RTPROT_BIRD, by which the kernel tells whose a route is

_log = logging.getLogger(__name__)


class Bird:
    """The one BIRD of an appliance, and its files; it runs while the text of any section is not the idle one."""

    def __init__(self, machine: Machine) -> None:
        self._folder = machine.runtime / "bird"
        self._main = self._folder / "main.conf"
        self._control = self._folder / "control"
        self._text = bird_files.main_file(machine.boot)
        argv = ("bird", "-f", "-R", "-c", self._main, "-s", self._control, "-P", pid_file("bird", self._folder))
        self._daemon = Daemon("bird", [str(word) for word in argv], self._folder)
        self._lock = asyncio.Lock()
        self._silence: bird_control.NoAnswerError | None = None

    async def adopt(self, section: str, text: str) -> bool:
        """Take charge of the BIRD that runs; whether it runs `text`, and answers."""
        present = self._present()
        is_new = self._daemon.pid is None
        is_running = self._daemon.adopt()
        if is_running and is_new:
            try:
                await bird_control.greet(self._control)
            except bird_control.NoAnswerError as silence:
                self._silence = silence
        if self._silence is not None:
            return False
        is_main = read(self._main) == self._text
        return present[section] == text and is_running == _is_wanted(present) and (is_main or not is_running)

    async def check(self, section: str, text: str) -> None:
        """Have a BIRD of its own read `text` together with the other section as it is; not what the running one has."""
        present = self._present()
        if text == present[section]:
            return
        find_room(self._folder.parent, [text.encode()])
        if text == bird_files.IDLE[section]:
            return
        with tempfile.TemporaryDirectory(prefix="astara-bird-") as scratch:
            folder = Path(scratch)
            write(self._files(folder, present | {section: text}))
            await run("bird", "-p", "-c", str(folder / "main.conf"))

    async def put(self, section: str, text: str, is_known: bool) -> None:
        """Run `text`. Unless `is_known`, an earlier agent's BIRD may be there."""
        async with self._lock:
            if not is_known:
                self._daemon.adopt()
            present = self._present()
            texts = present | {section: text}
            news = changed(self._files(self._folder, texts))
            if _is_wanted(texts):
                write(news)
                await self._run()
            else:
                await self._daemon.stop()
                self._silence = None
                write(news)
            if present["bgp"] != texts["bgp"] == bird_files.IDLE["bgp"]:
                # BIRD takes its routes away, unless it ended by force or was not done with taking them over.
                for version in ("-4", "-6"):
                    await run("ip", version, "route", "flush", "protocol", _OWN_ROUTES)

    async def _run(self) -> None:
        """Have BIRD run the files as they lie there; one that does not listen is replaced."""
        known, self._silence = self._silence, None
        if self._daemon.pid is None:
            await self._daemon.start()
            return
        try:
            if known is not None:
                raise known
            await bird_control.configure(self._control)
        except bird_control.NoAnswerError as silence:
            _log.warning("bird: process %s is ended by force and started anew: %s", self._daemon.pid, silence)
            await self._daemon.stop(by_force=True)
            await self._daemon.start()

    def close(self) -> None:
        """Let go of BIRD; it goes on."""
        self._daemon.close()

    def _files(self, folder: Path, texts: dict[str, str]) -> dict[Path, str]:
        return {folder / "main.conf": self._text} | {folder / f"{name}.conf": text for name, text in texts.items()}

    def _present(self) -> dict[str, str]:
        return {name: read(self._folder / f"{name}.conf") or idle for name, idle in bird_files.IDLE.items()}


def _is_wanted(texts: dict[str, str]) -> bool:
    return texts != bird_files.IDLE


class _SectionEffect:
    """What both effects do: their states are the text of one section. Satisfies `effect.Effect`."""

    name: ClassVar[str]

    def __init__(self, machine: Machine, bird: Bird) -> None:  # noqa: ARG002 - all effects are made alike
        self._bird = bird

    async def adopt(self, recorded: State) -> bool:
        """Whether BIRD runs `recorded`."""
        return await self._bird.adopt(self.name, self._text(recorded))

    async def check(self, state: State) -> None:
        """Have BIRD read what would be new."""
        await self._bird.check(self.name, self._text(state))

    async def apply(self, former: State | None, state: State) -> None:
        """Have BIRD go over to `state`."""
        await self._bird.put(self.name, self._text(state), former is not None)

    async def close(self) -> None:
        """The agent ends; BIRD goes on."""
        self._bird.close()

    def _text(self, state: State) -> str:
        raise NotImplementedError


class RaEffect(_SectionEffect):
    """Router advertisements."""

    name: ClassVar[str] = "ra"

    def _text(self, state: State) -> str:
        return bird_files.ra_file(state)


class BgpEffect(_SectionEffect):
    """BGP to the gateways."""

    name: ClassVar[str] = "bgp"

    def _text(self, state: State) -> str:
        return bird_files.bgp_file(state)
