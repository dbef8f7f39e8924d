"""The change feed: after a commit, the routers that it concerned are named in a notification.

A transaction's entries go into a queue and the request goes on; one thread of each process resolves what has gathered
and sends it. A queue that is full loses the oldest, and nothing waits for the broker: a hint that is lost is made up
for by whoever lists what changed. The same thread prunes the log now and then, where there is anything to log.
"""

import collections
import os
import random
import threading
import time

from neutron_lib import context as neutron_context
from neutron_lib import rpc
from neutron_lib.db import api as db_api
from oslo_log import log as logging

from . import log
from .changes import Touched
from .routers import Entry, concerned

LOG = logging.getLogger(__name__)

EVENT = "astara.router.changed"

_MOST_QUEUED = 10_000
_MOST_ROUTERS = 200
_GATHER = 0.05  # seconds in which what belongs together comes together
_PAUSE = 1.0  # seconds after a failure
_PRUNE_EVERY = 1800.0, 5400.0  # seconds, from and to: many processes prune, so each at a time of its own


class Feed:
    """Give it what transactions touched; it sends."""

    def __init__(self) -> None:
        self._queue: collections.deque[Touched] = collections.deque(maxlen=_MOST_QUEUED)
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._pid = 0
        self._lost = 0
        self._prune_at = time.monotonic() + random.uniform(0, _PRUNE_EVERY[0])

    def put(self, touched: list[Touched]) -> None:
        """Take what a transaction touched. Never waits, never raises."""
        room = _MOST_QUEUED - len(self._queue)
        if len(touched) > room:
            if not self._lost:
                LOG.warning("the change feed does not keep up: the oldest changes are not announced")
            self._lost += len(touched) - room
        self._queue.extend(touched)
        self._news.set()
        if self._pid != os.getpid():
            try:
                self._start()
            except RuntimeError:
                LOG.exception("the change feed has no thread; tried again with the next change")

    def queued(self) -> int:
        """How many things wait to be told."""
        return len(self._queue)

    def flush(self) -> None:
        """Send what is queued. Raises the errors of the database and of oslo.messaging."""
        touched = self._taken()
        if touched:
            self._send(touched)

    def _start(self) -> None:
        """One thread a process; the first change after a fork starts that of the child."""
        with self._lock:
            if self._pid == os.getpid():
                return
            threading.Thread(target=self._run, name="astara-feed", daemon=True).start()
            self._pid = os.getpid()

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            time.sleep(_GATHER)
            try:
                self.flush()
                self._lost = 0
                self._prune()
            except Exception:
                # Whatever the database or the broker has: this thread must go on.
                LOG.exception("changes were not announced, or old ones not pruned")
                time.sleep(_PAUSE)

    def _taken(self) -> list[Touched]:
        taken: dict[Touched, None] = {}
        while self._queue:
            try:
                taken[self._queue.popleft()] = None
            except IndexError:
                break
        return list(taken)

    def _send(self, touched: list[Touched]) -> None:
        context = neutron_context.get_admin_context()
        with db_api.CONTEXT_READER.using(context) as session:
            # Not below the entries that these were written as, which are committed.
            revision = log.latest(session)
            found = concerned(session, (Entry(revision, one) for one in touched))
        changes = [
            {
                "id": router_id,
                "project_id": one.project_id,
                "revision": one.revision,
                "kinds": sorted(one.kinds),
                "deleted": one.deleted,
            }
            for router_id, one in sorted(found.items())
        ]
        if not changes:
            return
        notifier = rpc.get_notifier("network")
        for start in range(0, len(changes), _MOST_ROUTERS):
            notifier.info(context, EVENT, {"router_changes": changes[start : start + _MOST_ROUTERS]})

    def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + random.uniform(*_PRUNE_EVERY)
        log.prune(neutron_context.get_admin_context())
