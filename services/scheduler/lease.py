"""Leadership by a Lease of Kubernetes (coordination.k8s.io/v1). Imported only where it is chosen.

What is always true:

- A leader acts until `ttl` after the moment at which it *sent* its last successful renewal; a standby takes the Lease
  only when it has seen it unchanged, on a clock of its own, for `PATIENCE` times its duration. So a leader has stopped
  before another begins, and nobody's clock is compared with another's.
- The term is the database's, which only grows, whatever becomes of the Lease. A new holder of the Lease takes the
  leader's row on condition that the term is the one it read before it asked for the Lease: of two that overtake each
  other one fails.
- A Lease that names nobody, or does not exist, is free at once only when the row says too that nobody leads. Otherwise
  its leader may live, and writes it again: deleting a Lease deposes nobody.
- The row is kept beside the Lease, so that a replica that leads by the row alone (`election = database`, while a
  roll-out changes this option) and one that leads by the Lease keep each other out.

Needed permissions in the Lease's namespace: `get` and `update` of this one Lease, `create` of leases.
"""

import json
import math
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
from kubernetes_asyncio.client import (
    ApiClient,
    ApiException,
    Configuration,
    CoordinationV1Api,
    V1Lease,
    V1LeaseSpec,
    V1ObjectMeta,
)
from kubernetes_asyncio.config import ConfigException, load_incluster_config

from services.common import logging
from services.common.clock import Clock
from services.common.settings import SettingsError

from .election import ElectionError
from .settings import PATIENCE, SchedulerSettings
from .store import DeposedError, Store, Term

log = logging.get(__name__)

_T = TypeVar("_T")
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_MOST_SECONDS = 1.0
_FORBIDDEN, _ABSENT, _CONFLICT = 403, 404, 409


@asynccontextmanager
async def in_cluster(
    own: SchedulerSettings, store: Store, clock: Clock, *, host: str
) -> AsyncIterator["KubernetesElection"]:
    """An election with the access that Kubernetes gives to a pod. Raises SettingsError where there is none."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # the library's
        namespace = own.lease_namespace or _own_namespace()
    except (ConfigException, OSError) as error:
        raise SettingsError(
            f"[scheduler] election = kubernetes works in a pod with a service account: {error}"
        ) from error
    async with ApiClient(configuration) as client:
        yield KubernetesElection(
            LeaseObject(CoordinationV1Api(client), namespace, own.lease_name, patience=own.leader_lease_seconds / 3),
            store,
            clock,
            # A pod's name may come back, in a StatefulSet, while its namesake still runs on a node cut off.
            identity=f"{host}_{uuid.uuid4()}",
            ttl=own.leader_lease_seconds,
            worker_lease_seconds=own.lease_seconds,
        )


class LeaseObject:
    """One Lease behind the API server. All calls raise ElectionError, which names a permission that is missing."""

    def __init__(self, api: CoordinationV1Api, namespace: str, name: str, *, patience: float) -> None:
        """`patience`: seconds that a call may take."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._patience = patience

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def read(self) -> V1Lease | None:
        """The Lease as it is; None when there is none."""
        call = self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=self._patience)
        return await self._call("get", call, _ABSENT)

    async def write(self, spec: V1LeaseSpec, over: V1Lease | None) -> V1Lease | None:
        """Replace `over`, or create what did not exist; None when it is not, or no longer, as the caller saw it."""
        meta = V1ObjectMeta(name=self._name, namespace=self._namespace)
        if over is None:
            body = V1Lease(metadata=meta, spec=spec)
            call = self._api.create_namespaced_lease(self._namespace, body, _request_timeout=self._patience)
            return await self._call("create", call, _CONFLICT)
        # Labels and annotations are others'. The version that was read makes this compare-and-set.
        body = V1Lease(metadata=over.metadata, spec=spec)
        call = self._api.replace_namespaced_lease(self._name, self._namespace, body, _request_timeout=self._patience)
        return await self._call("update", call, _CONFLICT, _ABSENT)

    async def _call(self, verb: str, call: Awaitable[_T], *answers: int) -> _T | None:
        try:
            return await call
        except ApiException as error:
            if error.status in answers:
                return None
            if error.status == _FORBIDDEN:
                raise ElectionError(
                    f"the service account may not {verb} leases.coordination.k8s.io: a Role in namespace "
                    f"{self._namespace} must allow it for {self._name} ({_message(error)})"
                ) from error
            raise ElectionError(f"cannot {verb} lease {self}: {error.status} {_message(error)}") from error
        except (aiohttp.ClientError, ConfigException, OSError, TimeoutError, ValueError) as error:
            raise ElectionError(f"cannot {verb} lease {self}: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class _Seen:
    """What a Lease said, and since when it has said so on this replica's clock."""

    record: tuple[str, str, int]
    since: float


class KubernetesElection:
    """Leadership by a Lease, with the database's terms."""

    def __init__(
        self,
        lease: LeaseObject,
        store: Store,
        clock: Clock,
        *,
        identity: str,
        ttl: float,
        worker_lease_seconds: float,
    ) -> None:
        """`identity` is this process's alone, for ever; `ttl` and `worker_lease_seconds` in seconds."""
        self._lease = lease
        self._store = store
        self._clock = clock
        self._identity = identity
        self._ttl = ttl
        self._worker_lease_seconds = worker_lease_seconds
        self._group = f"lease:{lease}:"
        self._valid_until = 0.0
        self._seen: _Seen | None = None
        self._held: V1Lease | None = None

    async def acquire(self) -> Term | None:
        """Try to become leader; None while another one leads."""
        row = await self._store.leader()
        ours = row.holder.startswith(self._group)
        if not ours and row.holder and row.expires > self._clock.wall():
            return None
        asked = self._clock.lease()
        if not await self._take(nobody_leads=not row.holder):
            return None
        term = None
        try:
            term = await self._store.acquire(
                (self._group + self._identity)[:255],
                now=self._clock.wall(),
                ttl=self._ttl,
                lease_seconds=self._worker_lease_seconds,
                over=row,
            )
        finally:
            if term is None:
                await self._release()
        if term is not None:
            self._valid_until = asked + self._ttl
        return term

    async def renew(self) -> None:
        """Stay leader. Raises DeposedError."""
        asked = self._clock.lease()
        await self._keep()
        self._valid_until = asked + self._ttl
        await self._store.renew(now=self._clock.wall(), ttl=self._ttl)

    async def resign(self) -> None:
        """Leave, so that the next leader need not wait; nothing when this replica does not lead."""
        if self._held is None:
            return
        self._valid_until = 0.0
        try:
            await self._store.resign()
        finally:
            await self._release()

    def valid_until(self) -> float:
        """Until when this replica may act; counted from before the Lease was written."""
        return self._valid_until

    def interval(self) -> float:
        """A third of the Lease's life, and at most a second: a Lease that was let go is seen soon."""
        return min(self._ttl / 3, _MOST_SECONDS)

    async def _take(self, *, nobody_leads: bool) -> bool:
        lease = await self._lease.read()
        record = _record(lease)
        now = self._clock.lease()
        if self._seen is None or self._seen.record != record:
            self._seen = _Seen(record, now)
        spec = lease.spec if lease is not None and lease.spec is not None else V1LeaseSpec()
        holder = spec.holder_identity or ""
        free = nobody_leads if not holder else holder == self._identity
        duration = max(self._ttl, spec.lease_duration_seconds or 0)
        if not free and now < self._seen.since + PATIENCE * duration:
            return False
        transitions = (spec.lease_transitions or 0) + (holder != self._identity)
        self._held = await self._lease.write(self._spec(self._identity, transitions), lease)
        return self._held is not None

    async def _keep(self) -> None:
        """Write the held Lease again. Raises DeposedError when it is another's."""
        if self._held is None or self._held.spec is None:
            raise DeposedError("the Lease was not held")
        transitions = self._held.spec.lease_transitions or 0
        acquired = self._held.spec.acquire_time
        written = await self._lease.write(self._spec(self._identity, transitions, acquired), self._held)
        if written is None:
            # Somebody wrote or deleted it; or it was this replica, by a call whose answer never came.
            now = await self._lease.read()
            holder = _record(now)[0] if now is not None else ""
            if holder not in ("", self._identity):
                self._held = None
                raise DeposedError(f"lease {self._lease} is held by {holder}")
            written = await self._lease.write(self._spec(self._identity, transitions, acquired), now)
            if written is None:
                raise ElectionError(f"lease {self._lease} changes while it is renewed")
        self._held = written

    async def _release(self) -> None:
        """Let the Lease go, if it can be; otherwise it runs out."""
        held, self._held = self._held, None
        if held is None or held.spec is None:
            return
        with suppress(ElectionError):
            await self._lease.write(self._spec("", held.spec.lease_transitions or 0), held)

    def _spec(self, holder: str, transitions: int, acquired: datetime | None = None) -> V1LeaseSpec:
        now = datetime.fromtimestamp(self._clock.wall(), UTC)
        # The API wants the fraction of a second, which Python leaves out when it is 0.
        now = now.replace(microsecond=now.microsecond or 1)
        return V1LeaseSpec(
            holder_identity=holder,
            lease_duration_seconds=math.ceil(self._ttl),
            lease_transitions=transitions,
            acquire_time=acquired or now,
            renew_time=now,
        )


def _own_namespace() -> str:
    return _NAMESPACE.read_text(encoding="ascii").strip()


def _record(lease: V1Lease | None) -> tuple[str, str, int]:
    spec = lease.spec if lease is not None else None
    if spec is None:
        return ("", "", 0)
    return (spec.holder_identity or "", str(spec.renew_time), spec.lease_transitions or 0)


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or b"")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
