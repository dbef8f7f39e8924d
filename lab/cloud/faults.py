"""Faults that a test or an operator of the lab switches on, and the count of all calls.

A fault applies to a call when service, method, path and user fit, it has times left, and its dice say so. Several may
apply to one call.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

_MOST_READ = 100_000

Kind = Literal["error", "slow", "lost", "duplicate", "empty", "lost_role"]


@dataclass(slots=True)
class Fault:
    """One fault; `service`, `method` and `user` of `*` fit every call.

    - `error`: answers `status` and does nothing
    - `slow`: waits `seconds` before the work
    - `lost`: does the work, then closes the connection without an answer
    - `duplicate`: what the call notifies is published twice
    - `empty`: a list answers no items
    - `lost_role`: the caller has no role in its project, so the call answers 403
    """

    kind: Kind
    service: str = "*"
    method: str = "*"
    path: str = ""
    """Regular expression, searched in the path."""
    user: str = "*"
    status: int = 503
    seconds: float = 0.0
    times: int | None = None
    """How often it still applies; None for ever."""
    probability: float = 1.0
    hits: int = 0
    _pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no such kind of fault: {self.kind}")
        self._pattern = re.compile(self.path)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Fault":
        """A fault from the body of `POST /lab/faults`; ValueError when it makes no sense."""
        known = {"kind", "service", "method", "path", "user", "status", "seconds", "times", "probability"}
        if unknown := set(data) - known:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        if "kind" not in data:
            raise ValueError("a fault needs a kind")
        try:
            return cls(**data)
        except (TypeError, re.error) as error:
            raise ValueError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """The fault as `GET /lab/faults` shows it."""
        return {
            "kind": self.kind, "service": self.service, "method": self.method, "path": self.path, "user": self.user,
            "status": self.status, "seconds": self.seconds, "times": self.times, "probability": self.probability,
            "hits": self.hits,
        }  # fmt: skip

    def fits(self, service: str, method: str, path: str) -> bool:
        """Whether the call is of the kind that this fault is about."""
        return (
            self.service in ("*", service)
            and self.method in ("*", method)
            and (self.times is None or self.times > 0)
            and self._pattern.search(path) is not None
        )


class Faults:
    """The faults that are on."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.active: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Switch a fault on."""
        self.active.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Switch one fault off; nothing happens when it is off already."""
        self.active = [other for other in self.active if other is not fault]

    def clear(self) -> None:
        """Switch all faults off."""
        self.active = []

    def take(self, service: str, method: str, path: str, user: str) -> dict[str, Fault]:
        """The faults that apply to this call, by kind; each of them has been used once more."""
        taken: dict[str, Fault] = {}
        for fault in self.active:
            if fault.kind in taken or not fault.fits(service, method, path) or fault.user not in ("*", user):
                continue
            if fault.probability < 1.0 and self._dice.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            fault.hits += 1
            taken[fault.kind] = fault
        return taken


class Calls:
    """How often each route was called, and which single objects were read."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.read: dict[str, None] = {}
        """Paths of single objects in the order of their first reading, the last `_MOST_READ`."""

    def count(self, service: str, method: str, route: str, path: str = "") -> None:
        """Note one call; `path` when it names a single object."""
        self.counts[service, method, route] += 1
        if path and method == "GET":
            self.read[path] = None
            if len(self.read) > _MOST_READ:
                del self.read[next(iter(self.read))]

    def total(self, *services: str) -> int:
        """All calls, or those to the named services."""
        return sum(n for (service, _, _), n in self.counts.items() if not services or service in services)

    def to_json(self) -> dict[str, Any]:
        """The counts as `GET /lab/calls` shows them, most frequent first."""
        return {
            "total": self.total(),
            "calls": [
                {"service": service, "method": method, "route": route, "count": count}
                for (service, method, route), count in self.counts.most_common()
            ],
        }

    def reset(self) -> None:
        """Start from nothing."""
        self.counts.clear()
        self.read.clear()
