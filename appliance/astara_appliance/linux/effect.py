"""What every service's effect on the machine can do, and what it may use."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from ..backend import State
from ..boot import BootData


@dataclass(frozen=True, slots=True)
class Machine:
    """What all effects share.

    `runtime` is a directory that a reboot empties (`/run/astara`), as it does the kernel's state; `state` one that
    survives it (`/var/lib/astara`). Both belong to the agent alone.
    """

    boot: BootData
    runtime: Path
    state: Path


class Effect(Protocol):
    """Puts the states of one service into effect. All verbs raise `BackendError` with words for an operator.

    A state names interfaces as the kernel does: `geN`. An empty one means that the service does not run.
    """

    name: ClassVar[str]
    """That of the service."""

    async def adopt(self, recorded: State) -> bool:
        """Whether `recorded`, which was put into effect since the machine's start, is in effect still.

        Touches nothing that runs; an effect with daemons takes charge of them here.
        """

    async def check(self, state: State) -> None:
        """Have the kernel's or the daemon's dry run judge `state`. Nothing changes."""

    async def apply(self, former: State | None, state: State) -> None:
        """Put `state` into effect. `former` is in effect now, so that only differences are touched.

        None means that nobody knows what is in effect: look at the machine, take away what is not wanted, add what is
        missing, and leave alone what is right.
        """

    async def close(self) -> None:
        """The agent ends. What moves packets goes on; what lives in the agent's process ends."""
