"""`python -m services.scheduler --config-file FILE`: one replica of the scheduler."""

import asyncio
import sys
import uuid

from astara.scheduler.v1 import ingest_pb2_grpc, operate_pb2_grpc, query_pb2_grpc, work_pb2_grpc

from services.common import metrics, process
from services.common.clock import SystemClock
from services.common.metrics import MetricsSettings
from services.common.rpc import RpcServer
from services.common.settings import CommonSettings, GrpcSettings, Settings

from .election import DatabaseElection
from .ingest import IngestServicer
from .operate import OperateServicer
from .query import QueryServicer
from .replica import Replica
from .settings import SchedulerSettings
from .store import Store
from .work import WorkServicer

SERVICES = tuple(
    f"astara.scheduler.v1.{name}" for name in ("IngestService", "WorkService", "OperateService", "QueryService")
)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Listen, then lead or stand by until told to stop."""
    own = settings[SchedulerSettings]
    clock = SystemClock()
    # The address is bound before leadership is asked for: see election.py.
    server = RpcServer(settings[GrpcSettings], own.listen, SERVICES)
    metrics.serve(settings[MetricsSettings])
    store = Store(own.database)
    await store.open()
    election = DatabaseElection(
        store,
        clock,
        holder=f"{process.host_name(settings[CommonSettings])}/{server.address}",
        ttl=own.leader_lease_seconds,
        worker_lease_seconds=own.lease_seconds,
    )
    replica = Replica(own, store, election, clock, lambda: str(uuid.uuid4()), server.set_serving)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(IngestServicer(replica), server.server)
    work_pb2_grpc.add_WorkServiceServicer_to_server(WorkServicer(replica), server.server)
    operate_pb2_grpc.add_OperateServiceServicer_to_server(OperateServicer(replica), server.server)
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryServicer(replica), server.server)
    await server.start(serving=False)
    try:
        await process.run_until(stop, replica.run())
    finally:
        await server.stop()
        await store.close()


if __name__ == "__main__":
    sys.exit(process.run("scheduler", (SchedulerSettings, GrpcSettings, MetricsSettings), main))
