"""Who counts as alive, who is forgotten, and what a leader refuses to remember."""

import pytest
from astara.scheduler.v1 import presence_pb2

from services.common.clock import ManualClock
from services.scheduler.roster import FullError, Roster, WrongFieldError
from services.scheduler.settings import SchedulerSettings

LEADER = presence_pb2.AnnounceRequest(service="scheduler", host="s1", version="1", address="127.0.0.1:44251")


class Situation:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.roster = Roster(
            SchedulerSettings(presence_interval=20.0, presence_limit=10, presence_kept_hours=24.0), self.clock
        )

    def announce(self, service: str, host: str, **facts: object) -> None:
        self.roster.announce(presence_pb2.AnnounceRequest(service=service, host=host, **facts))

    def alive(self) -> dict[str, bool]:
        return {f"{one.service} {one.host}": one.alive for one in self.roster.listed(LEADER).services}


def test_an_instance_lives_until_it_has_missed_three_announcements() -> None:
    here = Situation()
    here.announce("worker", "w1")
    here.clock.advance(60)
    assert here.alive() == {"scheduler s1": True, "worker w1": True}
    here.clock.advance(1)
    assert here.alive() == {"scheduler s1": True, "worker w1": False}
    here.announce("worker", "w1")
    assert here.alive()["worker w1"]


def test_what_an_instance_said_last_is_shown_and_when() -> None:
    here = Situation()
    here.announce("worker", "w1", version="1", address="10.0.0.1:44254")
    here.announce("worker", "w1", version="2", address="10.0.0.2:44254")
    seen = here.clock.wall()
    here.clock.advance(7)
    (_, shown) = here.roster.listed(LEADER).services
    assert (shown.version, shown.address, shown.last_seen.ToSeconds()) == ("2", "10.0.0.2:44254", seen)


def test_a_silent_instance_is_listed_for_a_day() -> None:
    here = Situation()
    here.announce("worker", "w1")
    here.clock.advance(24 * 3600)
    assert "worker w1" in here.alive()
    here.clock.advance(1)
    assert "worker w1" not in here.alive()


def test_the_view_is_complete_once_everybody_had_time_to_announce_itself() -> None:
    here = Situation()
    here.clock.advance(59)
    assert not here.roster.listed(LEADER).complete
    here.clock.advance(1)
    assert here.roster.listed(LEADER).complete


def test_a_leader_that_announced_itself_as_a_standby_is_listed_once() -> None:
    here = Situation()
    here.roster.announce(LEADER)
    here.clock.advance(100)
    assert here.alive() == {"scheduler s1": True}


def test_the_longest_dead_makes_room_and_nobody_who_lives_does() -> None:
    here = Situation()
    here.announce("worker", "dead")
    here.clock.advance(61)
    for number in range(10):
        here.announce("worker", f"w{number}")
    assert "worker dead" not in here.alive()
    with pytest.raises(FullError, match=r"10 instances of services live.*\[scheduler\] presence_limit"):
        here.announce("worker", "one too many")
    here.announce("worker", "w0")
    assert sum(here.alive().values()) == 11


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"service": "", "host": "h"}, "service"),
        ({"service": "Worker", "host": "h"}, "service"),
        ({"service": "w" * 33, "host": "h"}, "service"),
        ({"service": "worker", "host": ""}, "host"),
        ({"service": "worker", "host": "h" * 256}, "host"),
        ({"service": "worker", "host": "h\n"}, "host"),
        ({"service": "worker", "host": "h", "version": "1" * 65}, "version"),
        ({"service": "worker", "host": "h", "address": "a" * 256}, "address"),
        ({"service": "worker", "host": "h", "started_at": {"seconds": 2**60}}, "started_at"),
        ({"service": "worker", "host": "h", "started_at": {"nanos": -1}}, "started_at"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_kept(facts: dict[str, object], field: str) -> None:
    here = Situation()
    with pytest.raises(WrongFieldError, match=f"^{field}:"):
        here.roster.announce(presence_pb2.AnnounceRequest(**facts))
    assert set(here.alive()) == {"scheduler s1"}
