"""What Neutron shows of a router, its floating IPs and its ports: told after each run, where Neutron takes it.

It is for people: what cannot be told never ends a run and is told after a later one. Only differences to what Neutron
showed when it was last read, or was last told, cost a call.
"""

from services.common import logging

from .cloud import Json
from .configuration import LATER
from .errors import CloudError, NotFoundError, UncertainError
from .neutron import STATUS, Neutron
from .reading import RouterReading
from .resource import ManagedResource
from .states import InstanceState

ACTIVE, ALLOCATING, ERROR, DOWN = "ACTIVE", "ALLOCATING", "ERROR", "DOWN"
_LONGEST_REASON = 1024

_COMING = {
    InstanceState.DOWN: "an instance is about to be booted",
    InstanceState.BOOTING: "its instance boots",
    InstanceState.RESTART: "its instance is replaced",
}

_NOTHING_SERVES = frozenset({*_COMING, InstanceState.ERROR})
_PARTS = ("floating_ips", "ports")
_ALL = "*"
"""Instead of an id: all of the router's."""

_log = logging.get(__name__)


class RouterStatus:
    """Tells Neutron. Never raises."""

    def __init__(self, neutron: Neutron) -> None:
        self._neutron = neutron

    def seen(self, resource: ManagedResource, reading: RouterReading) -> None:
        """A reading shows what Neutron was told of the router itself."""
        router = reading.router
        resource.shown = (str(router.get("status") or ""), str(router.get("status_reason") or ""))

    def serves(self, resource: ManagedResource, reading: RouterReading) -> None:
        """An appliance runs what a reading says: so its floating IPs and ports are what they should be."""
        is_enabled = bool(reading.router.get("admin_state_up", True))

        def is_shown(one: Json, status: str) -> bool:
            # A reading may be older than what was told when nothing was served.
            return bool((DOWN if resource.told_down else one.get("status")) == status)

        wanted = {str(one["id"]): ACTIVE if is_enabled and _is_used(one) else DOWN for one in reading.floating_ips}
        floating = {
            str(one["id"]): wanted[str(one["id"])]
            for one in reading.floating_ips
            if not is_shown(one, wanted[str(one["id"])])
        }
        resource.unserved = _unserved(resource, reading)
        own = [*reading.interface_ports, *reading.gateway_ports]
        served = ACTIVE if is_enabled else DOWN
        ports = {str(port["id"]): served for port in own if not is_shown(port, served)}
        resource.untold, resource.told_down = {}, False
        for part, statuses in zip(_PARTS, (floating, ports), strict=True):
            if statuses:
                resource.untold[part] = statuses

    async def tell(self, resource: ManagedResource) -> None:
        """Tell what differs. `NotFoundError` means that the router is gone, which is for the next reading to find."""
        if STATUS not in self._neutron.extensions or resource.shown is None:
            return
        if resource.state in _NOTHING_SERVES:
            is_news = resource.shown[0] not in (ALLOCATING, ERROR)
            resource.untold = {part: {_ALL: DOWN} for part in _PARTS} if is_news else {}
            resource.told_down |= is_news
        elif resource.told_down:
            resource.untold = {}
        told: Json = dict(resource.untold)
        if (status := _status(resource)) is not None and status != resource.shown:
            told["status"], told["reason"] = status
        if not told:
            return
        try:
            await self._neutron.set_status(resource.resource_id, told)
        except NotFoundError:
            return
        except CloudError as error:
            # What is refused is a fault of ours or of the cloud's configuration; all else passes.
            log = _log.warning if 400 <= error.status < 500 else _log.info
            log("status not told to Neutron", resource=resource.resource_id, reason=str(error))
            if isinstance(error, UncertainError):
                # Whether it shows this or what was there before: all is told again.
                resource.shown = ("", "")
            return
        resource.untold = {}
        resource.shown = status or resource.shown


def _status(resource: ManagedResource) -> tuple[str, str] | None:
    """Status and reason in Neutron's words and for a router's users; None when there is nothing to say."""
    state, reason = resource.state, _shortened(resource.public_error)
    if state is InstanceState.ERROR:
        return ERROR, reason
    if state in _COMING:
        return ALLOCATING, reason or _COMING[state]
    if state is InstanceState.CONFIGURED:
        return ACTIVE, reason or _shortened(resource.unserved)
    if state in (InstanceState.UP, InstanceState.REPLUG) and reason:
        # It runs what it ran before; only if that was never anything, nothing is served.
        return (ACTIVE if resource.shown and resource.shown[0] == ACTIVE else ALLOCATING), reason
    return None


def _shortened(reason: str) -> str:
    """As long as Neutron takes it."""
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 2]} …"


def _unserved(resource: ManagedResource, reading: RouterReading) -> str:
    """What its users go without, though the appliance runs what it was given."""
    unknown = resource.instance.unknown if resource.instance else frozenset()
    parts = {
        "not done yet": reading.unserved,
        "not possible in its instance": resource.status.undone if resource.status else (),
        "not until its instance is rebuilt": [words for name, words in LATER.items() if name in unknown],
    }
    return "; ".join(f"{why}: {', '.join(words)}" for why, words in parts.items() if words)


def _is_used(floating_ip: Json) -> bool:
    return bool(floating_ip.get("fixed_ip_address") or floating_ip.get("port_forwardings"))
