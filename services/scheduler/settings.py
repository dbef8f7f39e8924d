"""The scheduler's settings. Every limit that the scheduler has is an option here."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.settings import option

PATIENCE = 1.1
"""A leader grants a silent worker's shards to others after this many leases: clocks drift, messages are late."""


@dataclass(frozen=True)
class SchedulerSettings:
    """Section [scheduler]."""

    group: ClassVar[str] = "scheduler"

    listen: str = option("127.0.0.1:44251", help="Where the scheduler's gRPC server listens, host:port")
    database: str = option(
        "sqlite:////var/lib/astara/scheduler.db",
        help="SQLAlchemy URL of the database, e.g. mysql+pymysql://astara@db/astara; SQLite serves one replica only",
        secret=True,
    )
    replicas: int = option(
        1, help="Schedulers that are run with this configuration; several are refused SQLite", minimum=0, maximum=100
    )
    lease_seconds: float = option(5.0, help="Length of a worker's lease", minimum=0.2, maximum=300)
    leader_lease_seconds: float = option(
        6.0,
        help="Length of the leader's own lease; with election = database the replicas' clocks should agree within a "
        "third of it",
        minimum=0.5,
        maximum=300,
    )
    election: str = option(
        "database",
        help="What the replicas elect their leader by: a row of the database, or a Lease of Kubernetes",
        choices=("database", "kubernetes"),
    )
    lease_name: str = option("astara-scheduler", help="Name of the Lease, with election = kubernetes")
    lease_namespace: str = option("", help="Namespace of the Lease; empty: that of the pod's service account")
    inventory: str = option(
        "required",
        help="Whether the view of the cluster is complete only once health has listed everything (required), "
        "or as soon as the workers have reported (optional: an installation without health)",
        choices=("required", "optional"),
    )
    credit: int = option(10_000, help="Events that a producer may have unanswered", minimum=1, maximum=1_000_000)
    unacked_batches: int = option(
        8, help="Batches of at most 1,000 hints that a worker may have unacked", minimum=1, maximum=1000
    )
    late_seconds: float = option(
        2.0,
        help="A worker that has not acked hints after this long no longer holds producers' acks: the hints become rows",
        minimum=0.05,
    )
    unmatched_seconds: float = option(
        60.0, help="How long an event that matches no known resource is kept for an inventory or status to name it"
    )
    unmatched_limit: int = option(
        20_000, help="Events kept that match no known resource; the oldest go first", minimum=0
    )
    mark_limit: int = option(
        200_000, help="Rows of hints for shards without an owner; at the limit producers' acks wait", minimum=1000
    )
    announced_limit: int = option(
        20_000, help="Resources known only from an event's naming them; the oldest are forgotten first", minimum=1
    )
    history_per_resource: int = option(200, help="Lines of history kept for each resource", minimum=1)
    history_days: float = option(30.0, help="Days after which a line of history goes")
    history_buffer: int = option(
        10_000, help="Lines of history waiting to be written; more are counted and dropped", minimum=1
    )
    operations_kept_days: float = option(30.0, help="Days after which a finished operation goes")
    quarantine_deaths: int = option(
        2,
        help="A resource in progress in this many deaths of workers is held back until an operator commands it",
        minimum=1,
    )
    presence_interval: float = option(
        20.0,
        help="Seconds after which every service announces itself again, and health tells Neutron; whoever misses three "
        "counts as dead. Take at most a third of Neutron's agent_down_time",
        minimum=0.05,
        maximum=3600,
    )
    presence_limit: int = option(
        1000,
        help="Instances of services that are kept; Neutron is told of as many",
        minimum=10,
        maximum=1000,
    )
    presence_kept_hours: float = option(
        24.0, help="Hours after which an instance that is silent is listed no more", minimum=0.0
    )
