"""Operators' commands, spelled as in section 1.5.2 of the functional description.

Each answers with the operation that the scheduler keeps of it: 202 while it goes on, 200 when it is over. What needs a
terminal (browse, ssh) is answered 501.
"""

from typing import Annotated, Any

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2
from fastapi import APIRouter, Body, Depends, Request, Response

from services.common import logging
from services.rpcapi import convert
from services.rpcapi.models import CommandBody, Operation, RebuildBody
from services.rpcapi.parameters import (
    WAIT_SECONDS,
    IdempotencyKey,
    Image,
    Reason,
    RouterId,
    SchedulerDep,
    TenantId,
    Wait,
    canonical,
)
from services.rpcapi.problems import ProblemError

router = APIRouter(tags=["commands"])
log = logging.get(__name__)

_FINISHED = frozenset({resource_pb2.OPERATION_STATE_SUCCEEDED, resource_pb2.OPERATION_STATE_FAILED})
_ACCEPTED: dict[str, Any] = {
    "status_code": 202,
    "responses": {200: {"model": Operation, "description": "It is over already"}},
}


class Caller:
    """Who commands, under which id, and where the answer's status goes."""

    def __init__(
        self,
        scheduler: SchedulerDep,
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> None:
        self._scheduler = scheduler
        self._client = request.client.host if request.client else "unknown"
        self._response = response
        self._operation_id = canonical(idempotency_key) if idempotency_key else ""

    async def give(self, command: operate_pb2.StartOperationRequest) -> Operation:
        """Start the operation; sets the answer's status and Location."""
        command.operation_id = self._operation_id
        command.requested_by = f"http {self._client}"
        message = await self._scheduler.start(command)
        answer = convert.operation(message)
        self._response.headers["Location"] = f"/v1/operations/{answer.operation_id}"
        self._response.status_code = 200 if message.state in _FINISHED else 202
        log.info(
            "command",
            operation=answer.operation_id,
            kind=answer.kind,
            scope=answer.scope,
            target=answer.target_id,
            client=self._client,
        )
        return answer


def why(body: Annotated[CommandBody | None, Body()] = None, reason: Reason = "") -> str:
    """The reason, from the query or else from the body."""
    return reason or (body.reason if body else "")


def milliseconds(wait: Wait = WAIT_SECONDS) -> int:
    """How long a command waits for the workers."""
    return wait * 1000


CallerDep = Annotated[Caller, Depends()]
Why = Annotated[str, Depends(why)]
WaitMs = Annotated[int, Depends(milliseconds)]


@router.put("/poll", **_ACCEPTED)
async def poll(caller: CallerDep, reason: Why) -> Operation:
    """Look whether the instances of every router are alive."""
    return await caller.give(
        operate_pb2.StartOperationRequest(
            kind=resource_pb2.OPERATION_KIND_POLL, scope=resource_pb2.OPERATION_SCOPE_GLOBAL, reason=reason
        )
    )


@router.put("/workers/debug", **_ACCEPTED)
async def workers_debug(caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """Have every worker print, and answer with, what it does: shards, resources and their states, queues, threads."""
    return await caller.give(
        operate_pb2.StartOperationRequest(
            kind=resource_pb2.OPERATION_KIND_WORKERS_DEBUG,
            scope=resource_pb2.OPERATION_SCOPE_GLOBAL,
            reason=reason,
            wait_milliseconds=wait,
        )
    )


@router.put("/router/update/{router_id}", **_ACCEPTED)
async def router_update(router_id: RouterId, caller: CallerDep, reason: Why) -> Operation:
    """Read Neutron and bring the router's configuration up to date."""
    return await caller.give(
        operate_pb2.StartOperationRequest(
            kind=resource_pb2.OPERATION_KIND_UPDATE,
            scope=resource_pb2.OPERATION_SCOPE_RESOURCE,
            target_id=canonical(router_id),
            reason=reason,
        )
    )


@router.put("/router/rebuild/{router_id}", **_ACCEPTED)
async def router_rebuild(
    router_id: RouterId,
    caller: CallerDep,
    body: Annotated[RebuildBody | None, Body()] = None,
    router_image_uuid: Image = None,
    reason: Reason = "",
) -> Operation:
    """Destroy the router's instance and boot another, from another image where one is named."""
    image = router_image_uuid or (body.router_image_uuid if body else None)
    return await caller.give(
        operate_pb2.StartOperationRequest(
            kind=resource_pb2.OPERATION_KIND_REBUILD,
            scope=resource_pb2.OPERATION_SCOPE_RESOURCE,
            target_id=canonical(router_id),
            image_id=canonical(image) if image else "",
            reason=why(body, reason),
        )
    )


@router.put("/router/debug/{router_id}", **_ACCEPTED)
async def router_debug(router_id: RouterId, caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """Leave the router alone until it is managed again; answers when the step that runs has ended."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_DEBUG, "resource", canonical(router_id), reason, wait))


@router.put("/router/manage/{router_id}", **_ACCEPTED)
async def router_manage(router_id: RouterId, caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """End the router's debug mode and reconcile it."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_MANAGE, "resource", canonical(router_id), reason, wait))


@router.put("/tenant/debug/{tenant_id}", **_ACCEPTED)
async def tenant_debug(tenant_id: TenantId, caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """Leave all routers of a tenant alone until the tenant is managed again."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_DEBUG, "tenant", tenant_id.lower(), reason, wait))


@router.put("/tenant/manage/{tenant_id}", **_ACCEPTED)
async def tenant_manage(tenant_id: TenantId, caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """End the debug mode of a tenant and of each of its routers."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_MANAGE, "tenant", tenant_id.lower(), reason, wait))


@router.put("/global/debug", **_ACCEPTED)
async def global_debug(caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """Leave everything alone until it is managed again."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_DEBUG, "global", "", reason, wait))


@router.put("/global/manage", **_ACCEPTED)
async def global_manage(caller: CallerDep, reason: Why, wait: WaitMs) -> Operation:
    """End the global debug mode. Flags of single tenants and routers stay."""
    return await caller.give(_flag(resource_pb2.OPERATION_KIND_MANAGE, "global", "", reason, wait))


def _flag(
    kind: resource_pb2.OperationKind.ValueType, scope: str, target_id: str, reason: str, wait: int
) -> operate_pb2.StartOperationRequest:
    return operate_pb2.StartOperationRequest(
        kind=kind,
        scope=resource_pb2.OperationScope.Value(f"OPERATION_SCOPE_{scope.upper()}"),
        target_id=target_id,
        reason=reason,
        wait_milliseconds=wait,
    )


@router.put("/browse", include_in_schema=False)
@router.put("/router/browse/{router_id}", include_in_schema=False)
@router.put("/ssh", include_in_schema=False)
@router.put("/ssh/{router_id}", include_in_schema=False)
@router.put("/router/ssh/{router_id}", include_in_schema=False)
async def interactive() -> None:
    """What needs a terminal."""
    raise ProblemError(501, "This command is interactive: run it with astara-ctl on a terminal")
