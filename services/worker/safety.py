"""What keeps a mistaken worker from doing damage: absence and silence destroy nothing by accident.

Removals that no DELETE event explains are counted by the hour; deaths are counted by the minute. Past the limit the
answer is no, and it becomes yes again by itself as the counted events grow old (for removals: as an operator deletes by
command, or the hour ends).
"""

from collections import deque
from collections.abc import Callable

from services.common.clock import Clock


class Budget:
    """At most max(`least`, `share` of what there is) events in `period` seconds."""

    def __init__(self, clock: Clock, population: Callable[[], int], least: int, share: float, period: float) -> None:
        self._clock = clock
        self._population = population
        self._least = least
        self._share = share
        self._period = period
        self._spent: deque[float] = deque()

    def limit(self) -> int:
        """How many are allowed in a period, as things are now."""
        return max(self._least, int(self._share * self._population()))

    def draw(self) -> bool:
        """Spend one; False, and nothing spent, when the limit is reached."""
        now = self._clock.lease()
        while self._spent and now - self._spent[0] > self._period:
            self._spent.popleft()
        if len(self._spent) >= self.limit():
            return False
        self._spent.append(now)
        return True
