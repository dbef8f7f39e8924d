"""Time as everything here reads it; passed in, so that tests own it.

`lease()` goes on while the machine sleeps (CLOCK_BOOTTIME): a lease measured with it ends even on a suspended host.
`wall()` is for people and for other machines, and may jump.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, in seconds."""

    def lease(self) -> float:
        """Seconds on a clock that only grows and counts suspended time."""
        ...

    def wall(self) -> float:
        """Unix time in seconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def lease(self) -> float:
        """Seconds on CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Unix time in seconds."""
        return time.time()


class ManualClock:
    """A clock that stands still until it is told to move; for tests and simulations."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def lease(self) -> float:
        """Seconds since the clock's beginning."""
        return self._now

    def wall(self) -> float:
        """The same instant as Unix time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, which must not be negative."""
        if seconds < 0:
            msg = f"time cannot go back by {-seconds} s"
            raise ValueError(msg)
        self._now += seconds
