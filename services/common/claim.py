"""Which routers Astara manages: the claim rule. Everything else in the cloud is not touched.

There is no default: taking over a router that somebody else serves is an outage, so the operator says which are ours.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

from services.common.settings import SettingsError, option

_DRIVER_WORD = "astara"


class ClaimError(Exception):
    """Neutron did not tell which flavors are ours."""


@dataclass(frozen=True)
class ClaimSettings:
    """The claim rule, section [claim]."""

    group: ClassVar[str] = "claim"

    claim: str = option(
        help="Routers that Astara manages: all of the cloud, those of one flavor (flavor_id), or those of our provider",
        choices=("all", "flavor", "provider"),
    )
    flavor_id: str = option("", help="With claim = flavor: the router flavor's id")


class Claim:
    """Answers whether a router is ours. With `provider` it must be refreshed, first before it is asked."""

    def __init__(self, settings: ClaimSettings, connection: Connection) -> None:
        if settings.claim == "flavor" and not settings.flavor_id:
            raise SettingsError("[claim] claim = flavor wants flavor_id, the id of the router flavor")
        self._rule = settings.claim
        self._connection = connection
        self._flavors = frozenset({settings.flavor_id}) if settings.claim == "flavor" else frozenset[str]()

    def covers(self, router: Mapping[str, Any]) -> bool:
        """Whether Astara manages a router, given as Neutron's JSON object with `flavor_id`."""
        return self._rule == "all" or str(router.get("flavor_id") or "") in self._flavors

    async def refresh(self) -> None:
        """With `provider`: learn which flavors are ours. ClaimError when Neutron does not answer; the old set stays."""
        if self._rule == "provider":
            self._flavors = await asyncio.to_thread(self._provider_flavors)

    def _provider_flavors(self) -> frozenset[str]:
        try:
            network = self._connection.network
            profiles = _listing(network, "/service_profiles", "service_profiles")
            ours = {profile["id"] for profile in profiles if _DRIVER_WORD in str(profile.get("driver") or "").lower()}
            flavors = _listing(network, "/flavors", "flavors")
        except (ClientException, SDKException) as error:
            raise ClaimError(f"neutron: the flavors of our provider cannot be listed: {error}") from error
        return frozenset(
            str(flavor["id"])
            for flavor in flavors
            if flavor.get("service_type") == "L3_ROUTER_NAT" and ours & set(flavor.get("service_profiles") or ())
        )


def _listing(proxy: Any, path: str, key: str) -> list[dict[str, Any]]:
    response = proxy.get(path)
    if response.status_code >= 400:
        raise ClaimError(f"neutron: GET {path}: {response.status_code}")
    entries: list[dict[str, Any]] = response.json()[key]
    return entries
