"""Resources that were in progress when a worker died: after enough deaths they are handed to no other worker.

Counted by the leader when a lease ends without a goodbye; a success forgets, an operator's command trusts again.
"""

from collections.abc import Iterable


class Quarantine:
    """Deaths by resource. `moved` collects counts to be written."""

    def __init__(self, deaths: dict[str, int], limit: int) -> None:
        self._deaths = dict(deaths)
        self._limit = limit
        self.moved: dict[str, int] = {}

    def all(self) -> set[str]:
        """The resources that are held back."""
        return {resource_id for resource_id, deaths in self._deaths.items() if deaths >= self._limit}

    def holds(self, resource_id: str) -> bool:
        """Whether the resource is held back."""
        return self._deaths.get(resource_id, 0) >= self._limit

    def died(self, resource_ids: Iterable[str]) -> list[str]:
        """A worker died while these were in progress; answers with those that are held back by this."""
        held = []
        for resource_id in resource_ids:
            self._set(resource_id, self._deaths.get(resource_id, 0) + 1)
            if self._deaths[resource_id] == self._limit:
                held.append(resource_id)
        return held

    def trust(self, resource_id: str) -> bool:
        """Forget the deaths; True when the resource was held back."""
        held = self.holds(resource_id)
        if resource_id in self._deaths:
            self._set(resource_id, 0)
        return held

    def _set(self, resource_id: str, deaths: int) -> None:
        self.moved[resource_id] = deaths
        if deaths:
            self._deaths[resource_id] = deaths
        else:
            self._deaths.pop(resource_id, None)
