"""What all routers of a worker share: settings, facts about the cloud, and what the worker lets their driver ask."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.common.clock import Clock

from .appliance import Endpoint
from .cloud import Api, Json
from .resource import ManagedResource
from .settings import ApplianceSettings, RouterSettings

SLOT = 0
"""A router has one instance; of a pair, the second will be slot 1."""


@dataclass(frozen=True, slots=True)
class ManagementNetwork:
    """Facts about the management network and what instances are booted from, found by the preflight."""

    network_id: str
    mtu: int
    subnets: dict[str, Json]
    flavor_id: str


@dataclass(frozen=True, slots=True)
class RouterEnvironment:
    """Settings, facts and questions to the worker.

    `claims` says of a router (Neutron's JSON) whether it is ours; `epoch` answers with the epoch of a resource's shard
    or raises LostOwnershipError; `peers` names this worker's other resources that have an instance; `boot_files` are
    the certificates for a new one; `zones_are_nova` says whether the zones that routers ask for are Nova's.
    """

    deployment: str
    router: RouterSettings
    appliance: ApplianceSettings
    management: ManagementNetwork
    claims: Callable[[Json], bool]
    epoch: Callable[[ManagedResource], tuple[int, int]]
    glance: Api
    peers: Callable[[ManagedResource], Iterable[ManagedResource]]
    boot_files: Callable[[], list[Json]]
    zones_are_nova: Callable[[], bool]
    new_id: Callable[[], str]
    clock: Clock

    def endpoint(self, resource: ManagedResource) -> Endpoint:
        """Where the resource's appliance listens, which must be there."""
        return resource.endpoint(self.appliance.secret, self.deployment)
