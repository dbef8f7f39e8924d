"""Which instances of services run, as they say themselves.

Kept by the leader in memory, and bounded: an instance that has been silent for long is forgotten, sooner when there is
no room for one that lives. An instance that lives is never forgotten for another.
"""

import re
from dataclasses import dataclass

from astara.scheduler.v1 import presence_pb2

from services.common.clock import Clock

from .settings import SchedulerSettings

MISSES = 3
"""Whoever has been silent for this many intervals counts as dead."""

_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LONGEST_NAME = 255
_LONGEST_VERSION = 64
_LAST_SECOND = 253402300799


class WrongFieldError(ValueError):
    """An announcement that cannot be taken."""


class FullError(Exception):
    """As many instances live as are kept."""


@dataclass(slots=True)
class _Instance:
    said: presence_pb2.AnnounceRequest
    at: float
    """On the clock of leases."""


class Roster:
    """What a leader was told."""

    def __init__(self, settings: SchedulerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock.lease()
        self._instances: dict[tuple[str, str], _Instance] = {}

    @property
    def interval_milliseconds(self) -> int:
        """How often to announce."""
        return int(self._settings.presence_interval * 1000)

    def announce(self, said: presence_pb2.AnnounceRequest) -> None:
        """Take an announcement. Raises WrongFieldError, FullError."""
        _check(said)
        said.DiscardUnknownFields()
        key = (said.service, said.host)
        if key not in self._instances:
            self._make_room()
        self._instances[key] = _Instance(said, self._clock.lease())

    def listed(self, own: presence_pb2.AnnounceRequest) -> presence_pb2.ListServicesResponse:
        """Everybody, and `own`, who leads and therefore lives."""
        self._forget()
        now = self._clock.lease()
        found = self._instances | {(own.service, own.host): _Instance(own, now)}
        response = presence_pb2.ListServicesResponse(
            services=[self._shown(found[key], now) for key in sorted(found)],
            complete=now - self._began >= self._patience(),
            interval_milliseconds=self.interval_milliseconds,
        )
        response.as_of.FromNanoseconds(int(self._clock.wall() * 1e9))
        return response

    def _patience(self) -> float:
        return MISSES * self._settings.presence_interval

    def _shown(self, instance: _Instance, now: float) -> presence_pb2.ServiceInfo:
        said, ago = instance.said, now - instance.at
        info = presence_pb2.ServiceInfo(
            service=said.service,
            host=said.host,
            version=said.version,
            address=said.address,
            alive=ago <= self._patience(),
        )
        info.last_seen.FromNanoseconds(int((self._clock.wall() - ago) * 1e9))
        if said.HasField("started_at"):
            info.started_at.CopyFrom(said.started_at)
        return info

    def _forget(self) -> None:
        oldest = self._clock.lease() - self._settings.presence_kept_hours * 3600
        for key in [key for key, instance in self._instances.items() if instance.at < oldest]:
            del self._instances[key]

    def _make_room(self) -> None:
        if len(self._instances) < self._settings.presence_limit:
            return
        key = min(self._instances, key=lambda one: self._instances[one].at)
        if self._clock.lease() - self._instances[key].at <= self._patience():
            raise FullError(
                f"{len(self._instances)} instances of services live, more than [scheduler] presence_limit are not kept"
            )
        del self._instances[key]


def _check(said: presence_pb2.AnnounceRequest) -> None:
    if not _SERVICE.fullmatch(said.service):
        raise WrongFieldError("service: at most 32 of a-z, 0-9 and - are expected, a letter first")
    if not said.host:
        raise WrongFieldError("host: must be given")
    for name, longest in (("host", _LONGEST_NAME), ("address", _LONGEST_NAME), ("version", _LONGEST_VERSION)):
        text = getattr(said, name)
        if len(text) > longest or (text and not text.isprintable()):
            raise WrongFieldError(f"{name}: at most {longest} printable characters are expected")
    if not 0 <= said.started_at.seconds <= _LAST_SECOND or not 0 <= said.started_at.nanos < 1e9:
        raise WrongFieldError("started_at: a time between 1970 and 9999 is expected")
