"""Routes and forwarding.

With `admin_state_up` false the interfaces keep their addresses and nothing is forwarded (section "The state machine" of
the architecture).
"""

from typing import ClassVar

from ..backend import State
from ..fields import version_of
from ..models import Configuration
from .base import RecordedService


class Routes(RecordedService):
    """What `ip route` and the forwarding switches would be told."""

    __slots__ = ()
    name: ClassVar[str] = "routes"

    def render(self, configuration: Configuration) -> State:
        """Default routes of both families, then the extra routes."""
        defaults = {
            "0.0.0.0/0": configuration.default_v4_gateway,
            "::/0": configuration.default_v6_gateway,
        }
        routes = [
            {"version": version_of(gateway), "destination": destination, "nexthop": gateway}
            for destination, gateway in defaults.items()
            if gateway is not None
        ]
        routes += [
            {"version": version_of(route.nexthop), "destination": route.destination, "nexthop": route.nexthop}
            for route in configuration.static_routes
        ]
        return {"forwarding": configuration.admin_state_up, "routes": routes} if configuration.networks else {}
