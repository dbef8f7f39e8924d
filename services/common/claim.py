"""Which routers Astara manages: the claim rule, the same for health and the workers.

There is no default: a deployment that says nothing is refused, so that nobody takes over a cloud's routers by accident.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from services.common import logging
from services.common.settings import SettingsError, option

ALL = "all"
FLAVOR = "flavor"
PROVIDER = "provider"

# In the `driver` of a service profile of ours (neutron/services/l3_router/service_providers, class path).
_DRIVER = "astara"
_REFRESH_SECONDS = 30.0

_log = logging.get(__name__)


@dataclass(frozen=True)
class ClaimSettings:
    """Which routers are ours."""

    group: ClassVar[str] = "claim"

    claim: str = option(
        help="The routers that Astara manages: all of them, those of the flavor flavor_id, or those whose flavor has "
        "our driver in a service profile",
        choices=(ALL, FLAVOR, PROVIDER),
    )
    flavor_id: str = option("", help="Router flavor (id) that Astara manages; for claim = flavor")


class Claim:
    """The rule as a function of a router as Neutron shows it (`flavor_id`)."""

    def __init__(self, settings: ClaimSettings, connection: Any) -> None:
        """SettingsError when the rule lacks its flavor. `connection` is asked only where flavors must be looked up."""
        if settings.claim == FLAVOR and not settings.flavor_id:
            msg = "[claim] claim = flavor wants flavor_id"
            raise SettingsError(msg)
        self._rule = settings.claim
        self._connection = connection
        self._flavors: frozenset[str] = frozenset({settings.flavor_id} if settings.claim == FLAVOR else ())
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    def __call__(self, router: dict[str, Any]) -> bool:
        """Whether a router is ours. A flavor that appeared lately is looked up at the side, and counts next time."""
        if self._rule == ALL:
            return True
        flavor = router.get("flavor_id") or ""
        if flavor in self._flavors:
            return True
        if self._rule == PROVIDER and flavor and time.monotonic() - self._asked_at > _REFRESH_SECONDS:
            self._asked_at = time.monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._refresh_quietly())
        return False

    async def refresh(self) -> None:
        """Look up our flavors; the SDK's errors when Neutron does not tell them."""
        if self._rule == PROVIDER:
            self._asked_at = time.monotonic()
            self._flavors = await asyncio.to_thread(self._our_flavors)

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except Exception as error:
            # The rule stays as it was; the next router with an unknown flavor asks again.
            _log.warning("cannot look up router flavors", error=str(error))

    def _our_flavors(self) -> frozenset[str]:
        network = self._connection.network
        profiles = _read(network, "service_profiles")
        ours = {one["id"] for one in profiles if _DRIVER in (one.get("driver") or "")}
        return frozenset(
            one["id"] for one in _read(network, "flavors") if ours & set(one.get("service_profiles") or ())
        )


async def load(settings: ClaimSettings, connection: Any) -> Claim:
    """The rule, ready to use. SettingsError when it is incomplete, the SDK's errors when flavors cannot be listed."""
    claim = Claim(settings, connection)
    await claim.refresh()
    return claim


def _read(network: Any, plural: str) -> list[dict[str, Any]]:
    response = network.get(f"/{plural}")
    response.raise_for_status()
    found: list[dict[str, Any]] = response.json()[plural]
    return found
