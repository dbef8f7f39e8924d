"""Port forwardings: some ports of a floating IP that no port has to itself, each for a port of an internal address.

The first makes the floating IP its router's, the last frees it. Each change counts a revision of the floating IP, whose
listing shows its forwardings without their ranges. Notifications name neither the floating IP nor a project.
"""

from dataclasses import replace
from typing import Any, ClassVar

from .neutron_base import Collection
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes

_SHOWN = ("id", "protocol", "internal_port_id", "internal_ip_address", "internal_port", "external_port")
_VISIBLE = (*_SHOWN, "internal_port_range", "external_port_range", "description")


class PortForwardings(Collection):
    """`/v2.0/floatingips/<id>/port_forwardings`."""

    name, plural, kind = "port_forwarding", "port_forwardings", "PortForwarding"
    path = "floatingips/{floatingip_id}/port_forwardings"
    defaults: ClassVar[dict[str, Any]] = {
        "internal_ip_address": None, "internal_port": None, "external_port": None, "internal_port_range": None,
        "external_port_range": None, "description": "",
    }  # fmt: skip
    required = ("protocol", "internal_port_id")
    floatingips: Any

    def routes(self, routes: Routes) -> None:
        """The five calls below a floating IP."""
        base = f"/v2.0/{self.path}"
        routes.add("GET", base, self.listing)
        routes.add("POST", base, self.create)
        for method, answer in (("GET", self.show), ("PUT", self.update), ("DELETE", self.delete)):
            routes.add(method, f"{base}/{{id}}", lambda call, answer=answer: answer(self._below(call)))  # type: ignore[misc]

    def listing(self, call: Call) -> Reply:
        """`GET …/port_forwardings`: all of them."""
        floating_ip = self.floatingips.find(call.context, call.variables[0])
        return Reply({self.plural: [self.view(call.context, row) for row in self.of(floating_ip["id"])]})

    def create(self, call: Call) -> Reply:
        """`POST …/port_forwardings`."""
        floating_ip = self.floatingips.writable(call.context, call.variables[0])
        wanted = call.json().get(self.name)
        if not isinstance(wanted, dict):
            raise CloudError(400, "HTTPBadRequest", f"The body has no {self.name}")
        self.notify(call.context, f"{self.name}.create.start", {self.name: wanted})
        body = self._judged(call.context, floating_ip, self._prepare(call.context, wanted))
        if floating_ip["fixed_ip_address"]:
            raise CloudError(
                409, "FloatingIPPortAlreadyAssociated", f"Floating IP {floating_ip['id']} has a port to itself."
            )
        router_id = body.pop("router_id")
        row = self.keep(call.context, body, floatingip_id=floating_ip["id"], project_id=floating_ip["project_id"])
        self.floatingips.table.change(floating_ip, {"router_id": router_id})
        self.floatingips.touch(floating_ip)
        answer = {self.name: self.view(call.context, row)}
        self.notify(call.context, f"{self.name}.create.end", answer)
        return Reply(answer, 201)

    def apply(self, context: Context, row: Row, changes: Row) -> None:
        """Check and make the changes of an update; a port given instead of a range replaces it, and the reverse."""
        kept = {key: value for key, value in row.items() if key in _VISIBLE}
        for side in ("internal", "external"):
            if {f"{side}_port", f"{side}_port_range"} & changes.keys():
                kept |= {f"{side}_port": None, f"{side}_port_range": None}
        floating_ip = self.floatingips.get(row["floatingip_id"])
        body = self._judged(context, floating_ip, kept | changes, row["id"])
        del body["router_id"]
        self.table.change(row, body)
        self.floatingips.touch(floating_ip)

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a forwarding; the last frees its floating IP."""
        super().unmake(context, row)
        floating_ip = self.floatingips.get(row["floatingip_id"])
        if not self.of(floating_ip["id"]):
            self.floatingips.table.change(floating_ip, {"router_id": None})
        self.floatingips.touch(floating_ip)

    def view(self, _context: Context, row: Row) -> Row:
        """A single port is shown as a port and as a range."""
        return {key: row[key] for key in _VISIBLE if key in row}

    def of(self, floatingip_id: str) -> list[Row]:
        """The forwardings of a floating IP."""
        return self.table.find("floatingip_id", floatingip_id)

    def shown(self, floatingip_id: str) -> list[Row]:
        """The forwardings as their floating IP shows them."""
        return [{key: row[key] for key in _SHOWN if key in row} for row in self.of(floatingip_id)]

    def port_gone(self, context: Context, port_id: str) -> None:
        """Remove what leads to a port that is going away, without a word."""
        for row in self.table.find("internal_port_id", port_id):
            self.unmake(context, row)

    def _below(self, call: Call) -> Call:
        floatingip_id, row_id = call.variables
        self.floatingips.find(call.context, floatingip_id)
        if (row := self.table.get(row_id)) is None or row["floatingip_id"] != floatingip_id:
            raise self.missing(row_id)
        return replace(call, variables=(row_id,))

    def _judged(self, context: Context, floating_ip: Row, body: Row, own: str = "") -> Row:
        """The attributes to keep, with the router that serves them; CloudError when they cannot be."""
        port = self.floatingips.ports.find(context, body["internal_port_id"])
        addresses = [one["ip_address"] for one in port["fixed_ips"] if ":" not in one["ip_address"]]
        address = body["internal_ip_address"] or next(iter(addresses), None)
        if address not in addresses:
            raise _bad(f"Requested internal IP address {address} is not suitable for internal port {port['id']}")
        router = self.floatingips.routers.serving(port, address, floating_ip["floating_network_id"])
        if router is None or floating_ip["router_id"] not in (None, router["id"]):
            raise _bad(f"External network {floating_ip['floating_network_id']} is not reachable from {address}")
        internal, external = _ends(body, "internal"), _ends(body, "external")
        if internal[0] != internal[1] and internal[1] - internal[0] != external[1] - external[0]:
            raise _bad("Invalid ranges of internal and/or external ports: the relation must be N-N or 1-N")
        for other in self.of(floating_ip["id"]):
            theirs = _ends(other, "external")
            is_apart = theirs[1] < external[0] or external[1] < theirs[0]
            if other["id"] != own and other["protocol"] == body["protocol"] and not is_apart:
                raise _bad(f"There is a port collision with the external_port_range: {theirs} and {external}")
        whole = {key: value for key, value in body.items() if not key.startswith(("internal_port", "external_port"))}
        whole |= {"internal_port_id": port["id"], "internal_ip_address": address, "router_id": router["id"]}
        for side, (first, last) in (("internal", internal), ("external", external)):
            whole[f"{side}_port_range"] = f"{first}:{last}"
            if first == last:
                whole[f"{side}_port"] = first
        return whole


def _ends(body: Row, side: str) -> tuple[int, int]:
    """First and last port of a side."""
    given = body.get(f"{side}_port") or body.get(f"{side}_port_range")
    try:
        ends = [int(part) for part in str(given).split(":")]
    except ValueError:
        raise _bad(f"{given!r} is no port and no range of ports") from None
    if any(not 1 <= end <= 65535 for end in ends) or len(ends) > 2 or ends != sorted(ends):
        raise _bad(f"{given!r} is no range of ports between 1 and 65535")
    return ends[0], ends[-1]


def _bad(why: str) -> CloudError:
    return CloudError(400, "BadRequest", f"Bad port_forwarding request: {why}.")


def forwardings_table() -> Table:
    """The table of port forwardings."""
    return Table("project_id", "floatingip_id", "internal_port_id")
