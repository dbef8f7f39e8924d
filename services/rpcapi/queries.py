"""What operators can ask: the scheduler's read side as JSON, under /v1."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.rpcapi import convert, models
from services.rpcapi.models import UUID_PATTERN
from services.rpcapi.parameters import (
    Limit,
    OperationId,
    PageSize,
    PageToken,
    ResourceId,
    SchedulerDep,
    TenantFilter,
    canonical,
)

router = APIRouter(prefix="/v1", tags=["queries"])


@router.get("/resources")
async def list_resources(
    scheduler: SchedulerDep,
    tenant: TenantFilter = None,
    state: Annotated[models.StateName | None, Query(description="Only in this state")] = None,
    limit: PageSize = 1_000,
    page_token: PageToken = "",
) -> models.Resources:
    """Routers and load balancers, sorted by id, a page at a time."""
    answer = await scheduler.resources((tenant or "").lower(), convert.state_number(state), limit, page_token)
    return models.Resources(
        resources=[convert.resource(entry) for entry in answer.resources],
        next_page_token=answer.next_page_token,
        as_of=convert.time_of(answer, "as_of"),
        complete=answer.complete,
    )


@router.get("/resources/{resource_id}")
async def get_resource(resource_id: ResourceId, scheduler: SchedulerDep) -> models.ResourceAnswer:
    """One router or load balancer. 503 instead of 404 while the view is incomplete."""
    answer = await scheduler.resource(canonical(resource_id))
    return models.ResourceAnswer(
        resource=convert.resource(answer.resource),
        as_of=convert.time_of(answer, "as_of"),
        complete=answer.complete,
    )


@router.get("/resources/{resource_id}/history")
async def get_history(resource_id: ResourceId, scheduler: SchedulerDep, limit: Limit = 100) -> models.History:
    """What happened to a resource, newest first."""
    answer = await scheduler.history(canonical(resource_id), limit)
    return models.History(lines=[convert.history_line(line) for line in answer.lines])


@router.get("/workers")
async def list_workers(scheduler: SchedulerDep) -> models.Workers:
    """The workers that the leader knows."""
    answer = await scheduler.workers()
    return models.Workers(
        workers=[convert.worker(entry) for entry in answer.workers], as_of=convert.time_of(answer, "as_of")
    )


@router.get("/services")
async def list_services(scheduler: SchedulerDep) -> models.Services:
    """Every instance of every service, alive or dead; incomplete while a new leader may not have heard of all."""
    answer = await scheduler.services()
    return models.Services(
        services=[convert.service(entry) for entry in answer.services],
        as_of=convert.time_of(answer, "as_of"),
        complete=answer.complete,
    )


@router.get("/shards")
async def list_shards(scheduler: SchedulerDep) -> models.Shards:
    """Who owns which shard."""
    answer = await scheduler.shards()
    return models.Shards(
        term=answer.term,
        shards=[convert.shard(entry) for entry in answer.shards],
        as_of=convert.time_of(answer, "as_of"),
    )


@router.get("/operations")
async def list_operations(
    scheduler: SchedulerDep,
    target: Annotated[
        str | None, Query(pattern=UUID_PATTERN, description="Only for this resource or tenant, as it was spelled")
    ] = None,
    limit: Limit = 100,
) -> models.Operations:
    """Operators' commands, newest first."""
    answer = await scheduler.operations((target or "").lower(), limit)
    return models.Operations(operations=[convert.operation(entry) for entry in answer.operations])


@router.get("/operations/{operation_id}")
async def get_operation(operation_id: OperationId, scheduler: SchedulerDep) -> models.Operation:
    """One command and what became of it."""
    return convert.operation(await scheduler.operation(canonical(operation_id)))


@router.get("/debug-flags")
async def list_debug_flags(scheduler: SchedulerDep) -> models.DebugFlags:
    """What is left alone, and why."""
    answer = await scheduler.debug_flags()
    return models.DebugFlags(flags=[convert.debug_flag(flag) for flag in answer.flags])


@router.get("/findings")
async def list_findings(scheduler: SchedulerDep) -> models.Findings:
    """Servers and ports with our mark that nobody needs; reported only."""
    answer = await scheduler.findings()
    return models.Findings(
        findings=[convert.finding(entry) for entry in answer.findings],
        as_of=convert.time_of(answer, "as_of"),
        complete=answer.complete,
    )
