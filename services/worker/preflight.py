"""What must be true of the cloud before this worker may work, said in words when it is not.

Each finding names what the service user lacks (a role, quota, an image, a flavor, a network) and what to do. While
there are findings the worker takes no shard; it looks again until there are none.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from services.common import logging

from .cloud import Cloud, Json
from .errors import CloudError, ForbiddenError, NotFoundError
from .glance import why_unusable
from .neutron import Neutron
from .router_environment import ManagementNetwork
from .settings import AUTO, NEUTRON, ApplianceSettings, RouterSettings

_log = logging.get(__name__)
_T = TypeVar("_T")


class Preflight:
    """Looks at the cloud as the service user sees it."""

    def __init__(self, cloud: Cloud, neutron: Neutron, router: RouterSettings, appliance: ApplianceSettings) -> None:
        self._cloud = cloud
        self._neutron = neutron
        self._router = router
        self._appliance = appliance
        self._findings: list[str] = []

    async def look(self) -> tuple[ManagementNetwork | None, list[str]]:
        """The facts that the drivers need, and findings in words; facts are None when there are findings."""
        self._findings = []
        if len(self._appliance.secret) < 16:
            self._findings.append("[appliance] secret has fewer than 16 characters: choose a longer one")
        try:
            project = await self._cloud.project_id()
        except CloudError as error:
            self._findings.append(
                f"Keystone does not let the service user in; check section [openstack]: {error.detail}"
            )
            return None, self._findings
        self._neutron.project_id = project
        network = await self._try("management network", self._management_network())
        subnets = await self._try("management subnets", self._management_subnets())
        flavor = await self._try("flavor", self._flavor())
        await asyncio.gather(
            self._try("image", self._image()),
            self._try("routers", self._sees_all_routers()),
            self._try("extensions", self._extensions()),
            self._try("quota", self._quotas(project)),
        )
        if self._findings or network is None or subnets is None or flavor is None:
            return None, self._findings
        mtu = int(network.get("mtu") or 1500)
        return ManagementNetwork(self._router.management_network_id, mtu, subnets, flavor), []

    async def until_passed(self, pause: float) -> ManagementNetwork:
        """Look until nothing is lacking; each finding is logged each time."""
        while True:
            facts, findings = await self.look()
            if facts is not None:
                _log.info("preflight passed", management_network=facts.network_id, flavor=facts.flavor_id)
                return facts
            for finding in findings:
                _log.error("preflight", finding=finding)
            await asyncio.sleep(pause)

    async def _try(self, what: str, look: Awaitable[_T]) -> _T | None:
        try:
            return await look
        except ForbiddenError as error:
            self._findings.append(
                f"the service user may not look at the {what} ({error.status}): give it the role admin in its project"
            )
        except CloudError as error:
            self._findings.append(f"the {what} cannot be checked: {error}")
        return None

    async def _management_network(self) -> Json | None:
        network_id = self._router.management_network_id
        try:
            answer = await self._cloud.neutron.get(f"/networks/{network_id}")
        except NotFoundError:
            self._findings.append(
                f"[router] management_network_id: Neutron has no network {network_id} that the service user can see"
            )
            return None
        network: Json = answer["network"]
        return network

    async def _management_subnets(self) -> dict[str, Json] | None:
        subnets = await self._neutron.listing("subnets", [("network_id", self._router.management_network_id)])
        if not subnets:
            self._findings.append("the management network has no subnet: appliances would have no address")
            return None
        return {subnet["id"]: subnet for subnet in subnets}

    async def _image(self) -> None:
        if reason := await why_unusable(self._cloud.glance, self._router.image_id):
            self._findings.append(f"[router] image_id: {reason}")

    async def _flavor(self) -> str | None:
        """The flavor's id, given by id or by name."""
        wanted = self._router.flavor
        answer = await self._cloud.nova.get("/flavors/detail", {"is_public": "none"})
        for flavor in answer["flavors"]:
            if wanted in (flavor["id"], flavor["name"]):
                return str(flavor["id"])
        self._findings.append(f"[router] flavor: Nova has no flavor {wanted!r} that the service user can use")
        return None

    async def _sees_all_routers(self) -> None:
        if not await self._neutron.sees_everything():
            self._findings.append(
                "the service user sees Neutron as an ordinary member, so other projects' routers are hidden from it: "
                "give it the role admin in its project"
            )

    async def _extensions(self) -> None:
        """What this Neutron can do, and who is to serve DHCP: OVN does it by itself, and agents of its show it.

        Where snapshots say it too, that is what holds until one is read.
        """
        await self._neutron.load_extensions()
        wanted, extensions = self._router.dhcp, self._neutron.extensions
        self._neutron.is_told_dhcp = wanted == AUTO
        if wanted == AUTO and "agent" in extensions:
            agents = await self._neutron.listing("agents", [("fields", "agent_type")])
            wanted = NEUTRON if any(str(one["agent_type"]).startswith("OVN Controller") for one in agents) else wanted
        self._neutron.serves_dhcp = wanted != NEUTRON

    async def _quotas(self, project: str) -> None:
        neutron = await self._cloud.neutron.get(f"/quotas/{project}")
        ports = int(neutron["quota"].get("port", -1))
        if 0 <= ports < 100:
            self._findings.append(
                f"the service user's project has a quota of {ports} ports; each router needs one, and one more for a "
                f"network: openstack quota set --ports -1 {project}"
            )
        limits = (await self._cloud.nova.get("/limits"))["limits"]["absolute"]
        for name, used, word in (
            ("maxTotalInstances", "totalInstancesUsed", "instances"),
            ("maxTotalCores", "totalCoresUsed", "cores"),
        ):
            most = int(limits.get(name, -1))
            if most >= 0 and most - int(limits.get(used, 0)) < 1:
                self._findings.append(
                    f"the service user's project has used up its quota of {most} {word}: "
                    f"openstack quota set --{word} -1 {project}"
                )
