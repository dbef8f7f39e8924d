"""Routes and forwarding in the kernel.

The appliance's routes have an origin of their own, so those of the kernel, of BIRD and of an operator are left alone,
and a metric behind the kernel's own, so no extra route takes the place of a connected network. Forwarding begins when
the routes are there and ends before they go; the management interface never forwards. Uplinks have tables of their own,
which only packets with their mark follow, and these only where no route of the main table but a default one is theirs.
"""

import socket
from typing import ClassVar

from ..backend import BackendError, State
from ..interfaces import MANAGEMENT
from . import sysctl
from .links import Links
from .rtnetlink import ANY, MAIN, Nexthop, Route, Rtnetlink, put_route, remove_route
from .rtnetlink import MANAGEMENT as MANAGEMENT_TABLE
from .rules import Rule, add_rule, present_rules, remove_rule, rules_of

_Key = tuple[int, bytes, int]
"""Table, destination and prefix length of a route."""


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
        if await self._known_routes() != set(wanted.values()):
            return False
        if await present_rules(self._rtnetlink) != rules_of(wanted.values()):
            return False
        forwards = recorded.get("forwarding", False)
        return sysctl.is_forwarding_v6() == forwards and all(
            sysctl.is_forwarding(name) == forwards for name in recorded.get("interfaces", ())
        )

    async def check(self, state: State) -> None:
        """Next hops may be behind addresses that are not there yet: only the kernel's real answer counts."""

    async def apply(self, former: State | None, state: State) -> None:
        """Change what differs."""
        present, rules = await self._present(former)
        wanted = self._routes(state)
        wanted_rules = rules_of(wanted.values())
        forwards = state.get("forwarding", False)
        if not forwards:
            self._forward(former, state, forwards)
        # A packet that no rule takes follows the main table, so rules go before their routes and come after them.
        requests = [remove_rule(rule) for rule in sorted(rules - wanted_rules)]
        requests += [remove_route(route) for key, route in present.items() if key not in wanted]
        requests += [put_route(route) for key, route in wanted.items() if present.get(key) != route]
        requests += [add_rule(rule) for rule in sorted(wanted_rules - rules)]
        await self._rtnetlink.send(requests)
        if forwards:
            self._forward(former, state, forwards)

    async def close(self) -> None:
        """Routes stay."""

    async def _known_routes(self) -> set[Route]:
        """Those of ours in the kernel but for the management network's, which this has nothing to do with."""
        return {route for route in await self._rtnetlink.routes(ANY) if route.table != MANAGEMENT_TABLE}

    async def _present(self, former: State | None) -> tuple[dict[_Key, Route], set[Rule]]:
        if former is not None:
            try:
                routes = self._routes(former)
            except BackendError:
                # Over an interface that was pulled out: the kernel has dropped it.
                pass
            else:
                return routes, rules_of(routes.values())
        known = {(route.table, route.destination, route.length): route for route in await self._known_routes()}
        return known, await present_rules(self._rtnetlink)

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

    def _routes(self, state: State) -> dict[_Key, Route]:
        """`BackendError` when an interface is not plugged."""
        grouped: dict[_Key, set[Nexthop]] = {}
        for route in (*state.get("routes", ()), *state.get("uplinks", ())):
            device = self._links.device(route["ifname"])
            if device is None:
                raise BackendError(f"{route['ifname']} is not plugged")
            family = socket.AF_INET if route["version"] == 4 else socket.AF_INET6
            network, _, length = route["destination"].partition("/")
            step = Nexthop(device.ifindex, socket.inet_pton(family, route["nexthop"]), route["onlink"])
            key = (route.get("mark", MAIN), socket.inet_pton(family, network), int(length))
            grouped.setdefault(key, set()).add(step)
        return {key: Route(key[1], key[2], frozenset(steps), key[0]) for key, steps in grouped.items()}
