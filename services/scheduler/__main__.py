"""`python -m services.scheduler --config-file FILE`: one replica of the scheduler."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from astara.scheduler.v1 import ingest_pb2_grpc, operate_pb2_grpc, presence_pb2_grpc, query_pb2_grpc, work_pb2_grpc

from services.common import logging, metrics, presence, process
from services.common.clock import SystemClock
from services.common.metrics import MetricsSettings
from services.common.rpc import RpcServer, open_channel
from services.common.settings import CommonSettings, GrpcSettings, Settings, SettingsError

from .database import Database, DatabaseAwayError
from .election import DatabaseElection, LeaderElection
from .ingest import IngestServicer
from .operate import OperateServicer
from .presence import PresenceServicer
from .query import QueryServicer
from .replica import Replica
from .settings import SchedulerSettings
from .store import Store
from .work import WorkServicer

log = logging.get(__name__)

_AGAIN_SECONDS = 1.0

SERVICES = tuple(
    f"astara.scheduler.v1.{name}"
    for name in ("IngestService", "WorkService", "OperateService", "PresenceService", "QueryService")
)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Listen, then lead or stand by until told to stop."""
    own = settings[SchedulerSettings]
    clock = SystemClock()
    # The address is bound before leadership is asked for: see election.py.
    server = RpcServer(settings[GrpcSettings], own.listen, SERVICES)
    metrics.serve(settings[MetricsSettings])
    myself = presence.announcement("scheduler", process.host_name(settings[CommonSettings]), server.address, clock)
    store = Store(Database(own.database, patience=own.leader_lease_seconds, replicas=own.replicas))
    async with _election(settings, store, clock, server.address) as election:
        replica = Replica(own, store, election, clock, lambda: str(uuid.uuid4()), server.set_serving)
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(IngestServicer(replica), server.server)
        work_pb2_grpc.add_WorkServiceServicer_to_server(WorkServicer(replica), server.server)
        operate_pb2_grpc.add_OperateServiceServicer_to_server(OperateServicer(replica), server.server)
        presence_pb2_grpc.add_PresenceServiceServicer_to_server(PresenceServicer(replica, myself), server.server)
        query_pb2_grpc.add_QueryServiceServicer_to_server(QueryServicer(replica), server.server)
        await server.start(serving=False)
        try:
            # A standby announces itself as everybody does, to the replica that leads.
            async with open_channel(settings[GrpcSettings]) as channel, presence.announced(channel, myself):
                await process.run_until(stop, _run(store, replica))
        finally:
            await server.stop()
            await store.close()


async def _run(store: Store, replica: Replica) -> None:
    said = False
    while True:
        try:
            await store.open()
        except DatabaseAwayError as error:
            if not said:
                log.warning("waiting for the database", error=str(error))
            said = True
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            break
    await replica.run()


@asynccontextmanager
async def _election(
    settings: Settings, store: Store, clock: SystemClock, address: str
) -> AsyncIterator[LeaderElection]:
    own, host = settings[SchedulerSettings], process.host_name(settings[CommonSettings])
    if own.election == "kubernetes":
        try:
            # Only here: an installation without Kubernetes needs no client of it.
            from .lease import in_cluster  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(
                f"[scheduler] election = kubernetes: pip install kubernetes-asyncio ({error})"
            ) from error
        async with in_cluster(own, store, clock, host=host) as election:
            yield election
        return
    yield DatabaseElection(
        store,
        clock,
        holder=f"{host}/{address}",
        ttl=own.leader_lease_seconds,
        worker_lease_seconds=own.lease_seconds,
    )


if __name__ == "__main__":
    sys.exit(process.run("scheduler", (SchedulerSettings, GrpcSettings, MetricsSettings), main))
