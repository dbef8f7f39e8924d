"""A cache for answers of slow services: bounded in size and age, and one question at a time for one key.

Whoever asks for a key that somebody asks for already gets the same answer. Failures are never kept. A caller that gives
up does not take the answer away from the others.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

Load = Callable[[], Awaitable[tuple[V, float]]]
"""Answers with a value and the seconds for which it may be kept; 0: not at all."""


class Cache(Generic[K, V]):
    """At most `size` answers; the one not used for longest goes first. `clock` gives seconds that only grow.

    `count` is called with `hit`, `joined` or `asked` for each question.
    """

    def __init__(self, size: int, clock: Callable[[], float], count: Callable[[str], None]) -> None:
        self._size = size
        self._clock = clock
        self._count = count
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._asked: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: K, load: Load[V]) -> V:
        """The kept answer while it is fresh, else that of `load`; its exceptions reach all who wait for it."""
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[1]:
            self._kept.move_to_end(key)
            self._count("hit")
            return kept[0]
        task = self._asked.get(key)
        self._count("asked" if task is None else "joined")
        if task is None:
            task = asyncio.ensure_future(self._ask(key, load))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._forget_task(key, done))
        # Shielded: the task is everybody's who waits for it.
        return await asyncio.shield(task)

    def forget(self, key: K) -> None:
        """Ask anew next time. A question that is on its way still brings its answer."""
        self._kept.pop(key, None)

    async def _ask(self, key: K, load: Load[V]) -> V:
        value, seconds = await load()
        if seconds > 0:
            self._kept[key] = (value, self._clock() + seconds)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value

    def _forget_task(self, key: K, task: asyncio.Task[V]) -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            # Marks it as looked at, also when all who waited have given up.
            task.exception()
