"""Routes and forwarding in the kernel.

The appliance's routes have an origin of their own, so those of the kernel, of BIRD and of an operator are left alone,
and a metric behind the kernel's own, so no extra route takes the place of a connected network. Forwarding begins when
the routes are there and ends before they go; the management interface never forwards.
"""

import socket
from typing import ClassVar

from ..backend import BackendError, State
from ..interfaces import MANAGEMENT
from . import sysctl
from .links import Links
from .rtnetlink import Nexthop, Route, Rtnetlink, put_route, remove_route


class RoutesEffect:
    """Satisfies `effect.Effect`."""

    name: ClassVar[str] = "routes"

    def __init__(self, links: Links, rtnetlink: Rtnetlink) -> None:
        self._links = links
        self._rtnetlink = rtnetlink

    async def adopt(self, recorded: State) -> bool:
        """Whether the kernel has these routes of ours and no others, and forwards where it shall."""
        try:
            wanted = self._routes(recorded)
        except BackendError:
            return False
        if await self._rtnetlink.routes() != set(wanted.values()):
            return False
        forwards = recorded.get("forwarding", False)
        return sysctl.is_forwarding_v6() == forwards and all(
            sysctl.is_forwarding(name) == forwards for name in recorded.get("interfaces", ())
        )

    async def check(self, state: State) -> None:
        """Next hops may be behind addresses that are not there yet: only the kernel's real answer counts."""

    async def apply(self, former: State | None, state: State) -> None:
        """Change what differs."""
        present = await self._present(former)
        wanted = self._routes(state)
        forwards = state.get("forwarding", False)
        if not forwards:
            self._forward(former, state, forwards)
        gone = [route for key, route in present.items() if key not in wanted]
        news = [route for key, route in wanted.items() if present.get(key) != route]
        await self._rtnetlink.send([*map(remove_route, gone), *map(put_route, news)])
        if forwards:
            self._forward(former, state, forwards)

    async def close(self) -> None:
        """Routes stay."""

    async def _present(self, former: State | None) -> dict[tuple[bytes, int], Route]:
        if former is not None:
            try:
                return self._routes(former)
            except BackendError:
                # Over an interface that was pulled out: the kernel has dropped it.
                pass
        return {(route.destination, route.length): route for route in await self._rtnetlink.routes()}

    def _forward(self, former: State | None, state: State, forwards: bool) -> None:
        wanted = state.get("interfaces", [])
        known = self._links.devices() if former is None else former.get("interfaces", [])
        for name in known:
            if name not in wanted and self._links.device(name) is not None:
                sysctl.forward_v4(name, False)
        for name in wanted:
            sysctl.forward_v4(name, forwards)
        sysctl.forward_v6(forwards)
        sysctl.is_host_v6(MANAGEMENT)

    def _routes(self, state: State) -> dict[tuple[bytes, int], Route]:
        """By destination. `BackendError` when an interface is not plugged."""
        grouped: dict[tuple[bytes, int], set[Nexthop]] = {}
        for route in state.get("routes", ()):
            device = self._links.device(route["ifname"])
            if device is None:
                raise BackendError(f"{route['ifname']} is not plugged")
            family = socket.AF_INET if route["version"] == 4 else socket.AF_INET6
            network, _, length = route["destination"].partition("/")
            step = Nexthop(device.ifindex, socket.inet_pton(family, route["nexthop"]), route["onlink"])
            grouped.setdefault((socket.inet_pton(family, network), int(length)), set()).add(step)
        return {key: Route(*key, frozenset(steps)) for key, steps in grouped.items()}
