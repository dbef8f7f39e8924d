"""What the API's answers look like; the OpenAPI document is made of these.

Times are RFC 3339 in UTC, names of states are those of the functional description in lower case, and a fact that is not
known is null (or an empty text where the protocol has one).
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UUID_PATTERN = r"^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"

StateName = Literal["unknown", "down", "booting", "up", "configured", "restart", "replug", "gone", "error", "degraded"]
KindName = Literal["router", "load_balancer"]
OperationKindName = Literal["unknown", "poll", "update", "rebuild", "debug", "manage", "workers_debug"]
ScopeName = Literal["unknown", "resource", "tenant", "global"]
OperationStateName = Literal["unknown", "pending", "running", "succeeded", "failed"]


class CommandBody(BaseModel):
    """What a command may carry; all of it may be left out."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=1_000, description="Why; shown with the operation and the debug flag")


class RebuildBody(CommandBody):
    """What a rebuild may carry."""

    router_image_uuid: str | None = Field(
        default=None,
        pattern=UUID_PATTERN,
        description="Glance image to boot from, kept as this router's override; without it the configured one",
    )


class Operation(BaseModel):
    """An operator's command and what became of it."""

    operation_id: str
    kind: OperationKindName
    scope: ScopeName
    target_id: str = Field(description="The router's or tenant's id; empty for `global`")
    image_id: str
    requested_by: str
    reason: str
    state: OperationStateName
    created_at: datetime | None
    updated_at: datetime | None
    total: int = Field(description="Resources that it covers")
    done: int
    failed: int
    message: str = Field(description="What failed, or what was done, in words")
    diagnoses: list[Any] = Field(description="For `workers_debug`: what each worker says it does")


class Operations(BaseModel):
    """Operations, newest first."""

    operations: list[Operation]


class Attachment(BaseModel):
    """One network to which a resource is attached."""

    network_id: str
    role: Literal["unknown", "internal", "gateway"]
    port_id: str
    subnet_ids: list[str]


class Instance(BaseModel):
    """One appliance VM."""

    slot: int
    role: str = Field(description="`single`, `active` or `standby`")
    instance_id: str = Field(description="The id of this boot")
    server_id: str = Field(description="The Nova server")
    management_addresses: list[str]
    management_port_id: str
    image_id: str
    state: StateName
    booted_at: datetime | None
    digest: str = Field(description="Of the configuration that it says it runs")


class Resource(BaseModel):
    """A router or load balancer, and its instances."""

    resource_id: str
    kind: KindName
    tenant_id: str
    name: str
    shard: int
    worker: str = Field(description="The worker that owns it now; empty when nobody does")
    state: StateName
    since: datetime | None
    instances: list[Instance]
    attachments: list[Attachment]
    digest: str = Field(description="Of the wanted configuration")
    attempts: int = Field(description="Boots since the last success")
    last_error: str = Field(description="Why the last try failed, in words; empty after a success")
    revision: int
    debug: bool
    quarantined: bool
    in_progress: bool
    retry_at: datetime | None = Field(description="When a cooling-down resource is tried again")


class View(BaseModel):
    """How fresh an answer is."""

    as_of: datetime | None = Field(description="When the scheduler took this view")
    complete: bool = Field(description="False: not everybody has reported to this leader yet, so more may exist")


class Resources(View):
    """A page of resources, sorted by id."""

    resources: list[Resource]
    next_page_token: str = Field(description="For the parameter page_token; empty on the last page")


class ResourceAnswer(View):
    """One resource."""

    resource: Resource


class HistoryLine(BaseModel):
    """One thing that happened to a resource."""

    at: datetime | None
    kind: str
    text: str
    reconcile_id: str = Field(description="Joins log lines and history of one run of the state machine")
    request_ids: list[str]
    worker: str


class History(BaseModel):
    """What happened to a resource, newest first."""

    lines: list[HistoryLine]


class Worker(BaseModel):
    """One worker."""

    worker: str
    incarnation: str
    version: str
    address: str
    connected: bool
    shards: int
    resources: int
    unacked_hints: int
    renewed_at: datetime | None
    joined_at: datetime | None


class Workers(BaseModel):
    """All workers, by name."""

    workers: list[Worker]
    as_of: datetime | None


class Service(BaseModel):
    """One instance of a service."""

    service: str
    host: str = Field(description="Or its name, where a host may run several")
    version: str
    address: str = Field(description="Where its gRPC server listens")
    started_at: datetime | None
    last_seen: datetime | None = Field(description="When it last announced itself to the scheduler")
    alive: bool = Field(description="False: it has missed three announcements")


class Services(View):
    """All instances that were heard of within the last day, by service and host."""

    services: list[Service]


class Shard(BaseModel):
    """Who owns one shard."""

    shard: int
    worker: str
    term: int
    counter: int
    state: str = Field(description="`owned`, `revoking`, `waiting` or `unowned`")


class Shards(BaseModel):
    """The map, all shards in order."""

    term: int
    shards: list[Shard]
    as_of: datetime | None


class DebugFlag(BaseModel):
    """What is left alone."""

    scope: ScopeName
    target_id: str
    reason: str
    set_by: str
    set_at: datetime | None


class DebugFlags(BaseModel):
    """All debug flags."""

    flags: list[DebugFlag]


class Finding(BaseModel):
    """A server or port with our mark that nobody needs."""

    resource_id: str
    server_id: str
    port_id: str
    finding: str = Field(description="`surplus` or `orphan`")


class Findings(View):
    """All findings of the last full inventory."""

    findings: list[Finding]


class Health(BaseModel):
    """Of this process."""

    status: Literal["ok"]
    version: str
