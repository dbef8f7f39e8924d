"""How evenly 1,024 shards and 10,000 tenants spread over 3, 10 and 100 workers, and what moves when one joins."""

import hashlib
import itertools
from collections import Counter

from bench.measure import Figure
from services.common.clock import ManualClock
from services.common.marks import SHARDS, shard_of
from services.scheduler.ownership import Key, Ownership

TENANTS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(10_000)]


class _Cluster:
    """Workers that do at once what the leader says."""

    def __init__(self) -> None:
        counter = itertools.count(1)
        self._ownership = Ownership(
            ManualClock(), term=1, lease_seconds=5.0, next_counter=lambda: next(counter), granted_before=0
        )
        self._keys: list[Key] = []

    def join(self, count: int) -> None:
        for _ in range(count):
            key = Key(f"worker-{len(self._keys)}", "1")
            self._keys.append(key)
            self._ownership.hello(key, [])
        self._settle()

    def _settle(self) -> None:
        while True:
            plan = self._ownership.plan()
            if not plan.grants and not plan.revokes:
                return
            for key, held in plan.revokes.items():
                self._ownership.released(key, held)

    def owners(self) -> dict[int, str]:
        return {
            number: key.name for key in self._keys for number in range(SHARDS) if self._ownership.holds(key, number)
        }


def main() -> None:
    """Deterministic: one run."""
    for workers in (3, 10, 100):
        cluster = _Cluster()
        cluster.join(workers)
        before = cluster.owners()
        load = Counter(before[shard_of(tenant)] for tenant in TENANTS)
        Figure(
            f"balance_{workers}_workers", "max/mean", [max(load.values()) / (len(TENANTS) / workers)], "", 11
        ).write()
        cluster.join(1)
        after = cluster.owners()
        moved = sum(before[shard_of(tenant)] != after[shard_of(tenant)] for tenant in TENANTS) / len(TENANTS) * 100
        Figure(f"moved_by_joining_{workers}", "% of tenants", [moved], "", 11).write()


if __name__ == "__main__":
    main()
