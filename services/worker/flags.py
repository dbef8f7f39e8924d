"""Debug flags as this worker has them: what is left alone.

A flag suppresses everything for what it covers from the moment it is set; whoever set it is answered when no step runs
for it any more. Flags are durable with the scheduler; this is a copy.
"""

import asyncio

from astara.resource.v1 import resource_pb2 as pb


class DebugFlags:
    """Which resources, tenants, or everything, are in debug mode."""

    def __init__(self) -> None:
        self._resources: set[str] = set()
        self._tenants: set[str] = set()
        self._everything = False
        self._step_ended = asyncio.Event()

    def covers(self, resource_id: str, tenant_id: str) -> bool:
        """Whether a resource is to be left alone."""
        return self._everything or resource_id in self._resources or tenant_id in self._tenants

    def replace(self, flags: list[pb.DebugFlag]) -> None:
        """Take over all flags (Welcome)."""
        self._resources.clear()
        self._tenants.clear()
        self._everything = False
        for flag in flags:
            self.change(flag, cleared=False)

    def change(self, flag: pb.DebugFlag, *, cleared: bool) -> None:
        """Set or clear one flag."""
        if flag.scope == pb.OPERATION_SCOPE_GLOBAL:
            self._everything = not cleared
            return
        chosen = self._tenants if flag.scope == pb.OPERATION_SCOPE_TENANT else self._resources
        if cleared:
            chosen.discard(flag.target_id)
        else:
            chosen.add(flag.target_id)

    def step_ended(self) -> None:
        """Somewhere a run has ended; who waits in `next_step_end` looks again."""
        self._step_ended.set()
        self._step_ended = asyncio.Event()

    async def next_step_end(self) -> None:
        """Wait until the next run ends."""
        await self._step_ended.wait()
