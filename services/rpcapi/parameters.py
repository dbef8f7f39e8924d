"""What paths and queries may hold; FastAPI checks these before a route runs and names the one that is wrong."""

import uuid
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from services.rpcapi.models import UUID_PATTERN
from services.rpcapi.scheduler import Scheduler

WAIT_SECONDS = 20


def canonical(text: str) -> str:
    """A UUID as Neutron spells it: lower case, with hyphens."""
    return str(uuid.UUID(text))


def scheduler_of(request: Request) -> Scheduler:
    """The application's scheduler."""
    scheduler: Scheduler = request.app.state.scheduler
    return scheduler


SchedulerDep = Annotated[Scheduler, Depends(scheduler_of)]
RouterId = Annotated[str, Path(pattern=UUID_PATTERN, description="The router's id in Neutron")]
ResourceId = Annotated[str, Path(pattern=UUID_PATTERN, description="The router's or load balancer's id")]
TenantId = Annotated[
    str, Path(pattern=UUID_PATTERN, description="The project's id as Keystone spells it, mostly 32 hexadecimal digits")
]
OperationId = Annotated[str, Path(pattern=UUID_PATTERN, description="The operation's id")]
TenantFilter = Annotated[
    str | None, Query(pattern=UUID_PATTERN, description="Only this project's; without it all of them")
]
Limit = Annotated[int, Query(ge=1, le=1_000, description="At most this many")]
PageSize = Annotated[int, Query(ge=1, le=10_000, description="At most this many on a page")]
PageToken = Annotated[str, Query(max_length=1_000, description="next_page_token of the page before")]
Reason = Annotated[str, Query(max_length=1_000, description="Why; shown with the operation")]
Image = Annotated[
    str | None, Query(pattern=UUID_PATTERN, description="Glance image to boot from, kept as this router's override")
]
Wait = Annotated[
    int, Query(ge=1, le=60, description="Seconds to wait for the workers before answering with the operation as it is")
]
IdempotencyKey = Annotated[
    str | None,
    Header(pattern=UUID_PATTERN, description="A UUID of your choice, the id of the operation: repeating is harmless"),
]
