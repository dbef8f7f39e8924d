"""Is the appliance alive? Death needs two signals on different paths, and a management network that works.

An appliance that does not answer is asked again; then Nova is asked what it knows of the server. A server that Nova
calls ACTIVE is dead only after `dead_after` seconds of silence, while another appliance of this worker answers (when
none does, the management network is suspected and nothing is rebuilt), and while few fall silent at once.
"""

import asyncio
import heapq

from .appliance import ApplianceClient, ApplianceStatus
from .errors import ApplianceError, CloudError, StaleEpochError, StepError, UnreachableError
from .machine import Observer, StepResult
from .nova import COMING, RUNNING, Nova
from .resource import Instance, ManagedResource
from .router_environment import RouterEnvironment
from .safety import Budget
from .states import InstanceState

_WITNESSES = 5  # other appliances that are asked before one is called dead
_ANSWERING = frozenset({InstanceState.UP, InstanceState.CONFIGURED, InstanceState.REPLUG})


class RouterHealth:
    """Asks appliances, and Nova where they do not answer."""

    def __init__(
        self,
        nova: Nova,
        appliances: ApplianceClient,
        environment: RouterEnvironment,
        observer: Observer,
        deaths: Budget,
    ) -> None:
        self._nova = nova
        self._appliances = appliances
        self._env = environment
        self._observer = observer
        self._deaths = deaths

    async def ask(self, resource: ManagedResource) -> ApplianceStatus:
        """Its status. UnreachableError without an answer; StaleEpochError when a later owner has been there."""
        status = await self._appliances.status(self._env.endpoint(resource))
        resource.status, resource.unanswered_since = status, None
        if resource.instance is not None:
            resource.instance.dead_in = ""
        if status.epoch is not None and status.epoch > self._env.epoch(resource):
            raise StaleEpochError(f"the appliance has seen epoch {status.epoch[0]}.{status.epoch[1]}")
        return status

    def judge(self, resource: ManagedResource, status: ApplianceStatus) -> InstanceState:
        """What an answer says of the instance's state; what is being plugged is so until that has been done."""
        if resource.state is InstanceState.REPLUG:
            return InstanceState.REPLUG
        if resource.wanted_digest is not None and status.digest == resource.wanted_digest:
            return InstanceState.CONFIGURED
        return InstanceState.UP

    async def alive(self, resource: ManagedResource) -> StepResult:
        """State ALIVE."""
        if resource.instance is None:
            return StepResult(InstanceState.DOWN)
        try:
            status = await self.ask(resource)
        except UnreachableError as error:
            return await self._unanswered(resource, resource.instance, str(error))
        return StepResult(self.judge(resource, status))

    async def judge_again(self, resource: ManagedResource) -> StepResult | None:
        """What has become of an instance that an earlier run found dead and could not have deleted: it may answer by
        now. None when it is as dead as it was, or no earlier run has found it so.
        """
        if resource.instance is None or resource.instance.dead_in in ("", resource.reconcile_id):
            return None
        found = await self.alive(resource)
        return None if found.state is InstanceState.RESTART and found.wait is None else found

    async def _unanswered(self, resource: ManagedResource, instance: Instance, reason: str) -> StepResult:
        settings, now = self._env.appliance, self._env.clock.lease()
        state = resource.state or InstanceState.UP
        if resource.unanswered_since is None:
            resource.unanswered_since = now
        silent = now - resource.unanswered_since
        if silent < settings.alive_retry_interval * (settings.alive_retries - 1):
            return StepResult(state, wait=settings.alive_retry_interval)
        try:
            server = await self._nova.server(instance.server_id)
        except CloudError as error:
            error.public = f"{UnreachableError.public}, and {error.public}"
            raise
        if server is None:
            verdict, why = InstanceState.DOWN, "Nova does not know its server"
        elif server["status"] in COMING or self._may_still_boot(resource, instance):
            return StepResult(InstanceState.BOOTING)
        elif server["status"] != RUNNING:
            verdict, why = InstanceState.RESTART, f"its server is {server['status']}"
        elif silent < settings.dead_after:
            resource.failed(reason, UnreachableError.public)
            return StepResult(state, wait=max(settings.alive_retry_interval, settings.dead_after / 8))
        else:
            await self._check_management_network(resource, instance, silent, reason)
            verdict, why = InstanceState.RESTART, f"no answer for {silent:.0f} s: {reason}"
        if not instance.dead_in:
            resource.failed(
                f"instance {instance.server_id} is dead: {why}", "its instance is dead; another takes its place"
            )
            self._observer.happened(resource, "death", resource.last_error)
        instance.dead_in = resource.reconcile_id
        return StepResult(verdict)

    async def _check_management_network(
        self, resource: ManagedResource, instance: Instance, silent: float, reason: str
    ) -> None:
        """Raise StepError when the silence may be ours rather than the appliance's."""
        peers = (peer for peer in self._env.peers(resource) if peer.state in _ANSWERING)
        witnesses = heapq.nsmallest(_WITNESSES, peers, key=lambda peer: peer.unanswered_since is not None)
        answers = await asyncio.gather(*(self._answers(witness) for witness in witnesses))
        if witnesses and not any(answers):
            raise StepError(
                f"no answer for {silent:.0f} s, but none of {len(witnesses)} other appliances answers either: the "
                f"management network is suspected, nothing is rebuilt ({reason})"
            )
        if not instance.dead_in and not self._deaths.draw():
            raise StepError(
                f"no answer for {silent:.0f} s, but more than {self._deaths.limit()} instances fell silent within a "
                f"minute: a common cause is suspected, the others wait ({reason})"
            )

    async def _answers(self, resource: ManagedResource) -> bool:
        if resource.instance is None:
            return False
        try:
            await self._appliances.status(self._env.endpoint(resource))
        except ApplianceError:
            return False
        return True

    def _may_still_boot(self, resource: ManagedResource, instance: Instance) -> bool:
        if resource.wanted_digest is not None:
            return False
        return self._env.clock.wall() - instance.booted_at < self._env.router.boot_timeout
