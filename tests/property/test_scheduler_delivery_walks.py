"""What was acked to a producer is never lost, whatever happens between outboxes, shelves and the database.

A walk moves shards between two workers and nobody, breaks streams, lets workers ack late and the database write late.
At every moment, each settled event is in an inbox of a worker that acked it, or in a row: what survives a kill at that
very moment. And in the end, every event is settled.
"""

import random

import pytest
from astara.scheduler.v1 import work_pb2

from services.common.clock import ManualClock
from services.scheduler.delivery import Facts, Journal, Outbox, Publisher, Shelf, come_back
from services.scheduler.hints import FLEETING

SHARDS = 4
ACTIONS = 6


class Walk:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.clock = ManualClock()
        self.journal = Journal(1, 0, 10_000, lambda: None)
        self.shelves = [Shelf(self.journal) for _ in range(SHARDS)]
        self.routes = list(self.shelves)
        self.outboxes = [self.fresh() for _ in range(2)]
        self.sent: list[list] = [[], []]
        self.rows: dict[int, tuple[str, int]] = {}
        self.writing = None
        self.inbox: dict[str, int] = {}
        self.events: dict[int, list[tuple[str, int]]] = {}
        self.settled: set[int] = set()
        self.publisher = Publisher(lambda: None)
        self.number = 0

    def fresh(self) -> Outbox:
        outbox = Outbox(self.journal, self.clock, lambda: None, shard_of=int, window=2, late_seconds=1.0)
        outbox.on_leaving = lambda shard, hint: come_back(hint, [], self.journal, self.routes[shard])
        return outbox

    def publish(self) -> None:
        self.number += 1
        self.publisher.unanswered += 1
        shards = self.chance.sample(range(SHARDS), self.chance.choice([1, 1, 2]))
        if len(shards) > 1:
            self.publisher.expect(self.number, len(shards))
        bit = 1 << self.chance.randrange(ACTIONS)
        self.events[self.number] = [(f"{shard}-{self.chance.randrange(3)}", bit) for shard in shards]
        for shard, (resource_id, _) in zip(shards, self.events[self.number], strict=True):
            self.routes[shard].add(Facts(resource_id, 1, str(shard), bit), self.publisher, self.number)

    def deliver(self) -> None:
        worker = self.chance.randrange(2)
        if (message := self.outboxes[worker].take()) is not None:
            self.sent[worker].append(message)

    def ack(self) -> None:
        worker = self.chance.randrange(2)
        if self.sent[worker]:
            message = self.sent[worker].pop(0)
            for hint in message.deliver.hints:
                self.inbox[hint.resource_id] = self.inbox.get(hint.resource_id, 0) | hint.actions
            self.outboxes[worker].ack(message.deliver.number)

    def move(self) -> None:
        shard = self.chance.randrange(SHARDS)
        route = self.routes[shard]
        if isinstance(route, Shelf):
            outbox = self.outboxes[self.chance.randrange(2)]
            outbox.leaving.discard(shard)
            self.routes[shard] = outbox
            for hint, rows in self.shelves[shard].take():
                outbox.put(hint, rows)
            return
        hints, references = route.withdraw({shard})
        self.routes[shard] = self.shelves[shard]
        for hint, rows in hints:
            come_back(hint, rows, self.journal, self.routes[shard])
        self.journal.settle(references)
        route.leaving.add(shard)

    def stream_breaks(self) -> None:
        worker = self.chance.randrange(2)
        outbox, self.outboxes[worker] = self.outboxes[worker], self.fresh()
        self.sent[worker] = []
        for shard, route in enumerate(self.routes):
            if route is outbox:
                self.routes[shard] = self.shelves[shard]
        hints, references = outbox.close()
        for hint, rows in hints:
            come_back(hint, rows, self.journal, self.routes[int(hint.tenant_id)])
        self.journal.settle(references)

    def late(self) -> None:
        self.clock.advance(2.0)
        for outbox in self.outboxes:
            outbox.check_late()

    def database_begins(self) -> None:
        if self.writing is None:
            self.writing = self.journal.take()

    def database_ends(self) -> None:
        if self.writing is not None:
            batch, self.writing = self.writing, None
            for row in batch.rows:
                self.rows[row.row] = (row.resource_id, work_pb2.Hint.FromString(row.hint).actions)
            for row in batch.drop:
                del self.rows[row]
            self.journal.written(batch)

    def check(self) -> None:
        if (response := self.publisher.take()) is not None:
            assert not self.settled & set(response.acked)
            self.settled |= set(response.acked)
        kept = dict(self.inbox)
        for resource_id, actions in self.rows.values():
            kept[resource_id] = kept.get(resource_id, 0) | actions
        for number in self.settled:
            for resource_id, bit in self.events[number]:
                assert bit & FLEETING or kept.get(resource_id, 0) & bit, (number, resource_id, bit)

    def finish(self) -> None:
        for shard in range(SHARDS):
            if isinstance(self.routes[shard], Shelf):
                self.routes[shard] = self.outboxes[0]
                self.outboxes[0].leaving.discard(shard)
                for hint, rows in self.shelves[shard].take():
                    self.outboxes[0].put(hint, rows)
        for _ in range(400):
            self.deliver()
            self.ack()
            self.database_begins()
            self.database_ends()
            self.check()
        assert self.settled == set(self.events)
        assert self.publisher.unanswered == 0
        assert not self.rows


@pytest.mark.parametrize("seed", range(20))
def test_settled_events_are_in_an_inbox_or_a_row_at_every_moment(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(15):
        walk = Walk(chance)
        steps = [walk.publish] * 4 + [walk.deliver, walk.ack] * 2
        steps += [walk.move, walk.move, walk.stream_breaks, walk.late, walk.database_begins, walk.database_ends]
        for _ in range(120):
            chance.choice(steps)()
            walk.check()
        walk.finish()
