"""Port forwardings: some ports of a floating IP that no port has to itself, each for a port of an internal address.

The first makes the floating IP its router's, the last frees it. Each change that moves a packet counts a revision of
the floating IP, whose listing shows its forwardings without their ranges, and one of the port. Notifications name
neither the floating IP nor a project; what goes with its port or with an address of it goes silently.
"""

from dataclasses import replace
from typing import Any, ClassVar

from . import neutron_query
from .neutron_base import Collection, forbidden
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes

_SHOWN = ("id", "protocol", "internal_port_id", "internal_ip_address", "internal_port", "external_port")
_PROTOCOLS = ("dccp", "icmp", "ipv6-icmp", "sctp", "tcp", "udp")
_VISIBLE = (*_SHOWN, "internal_port_range", "external_port_range", "description")


class PortForwardings(Collection):
    """`/v2.0/floatingips/<id>/port_forwardings`."""

    name, plural, kind = "port_forwarding", "port_forwardings", "PortForwarding"
    path = "floatingips/{floatingip_id}/port_forwardings"
    defaults: ClassVar[dict[str, Any]] = {
        "internal_port": None, "external_port": None, "internal_port_range": None, "external_port_range": None,
        "description": "",
    }  # fmt: skip
    required = ("protocol", "internal_port_id", "internal_ip_address")
    not_filters = frozenset({"internal_port", "internal_ip_address"})
    floatingips: Any

    def routes(self, routes: Routes) -> None:
        """The five calls below a floating IP."""
        base = f"/v2.0/{self.path}"
        routes.add("GET", base, self.listing)
        routes.add("POST", base, self.create)
        for method, answer in (("GET", self.show), ("PUT", self.update), ("DELETE", self.delete)):
            routes.add(method, f"{base}/{{id}}", lambda call, answer=answer: answer(self._below(call)))  # type: ignore[misc]

    def listing(self, call: Call) -> Reply:
        """`GET …/port_forwardings`: those that pass the filters."""
        floating_ip = self.floatingips.find(call.context, call.variables[0])
        query = neutron_query.parse(call.query(), self._known, strict=self.options.filter_validation)
        page = neutron_query.select(self.of(floating_ip["id"]), query)
        body: dict[str, Any] = {self.plural: [self._render(call.context, row, query.fields) for row in page]}
        if found := neutron_query.links(call.base_url + call.path, page, query):
            body[f"{self.plural}_links"] = found
        return Reply(body)

    def create(self, call: Call) -> Reply:
        """`POST …/port_forwardings`; a stranger is told 403, though the floating IP is hidden from him elsewhere."""
        wanted = call.json().get(self.name)
        if not isinstance(wanted, dict):
            raise CloudError(400, "HTTPBadRequest", f"The body has no {self.name}")
        self.notify(call.context, f"{self.name}.create.start", {self.name: wanted})
        floating_ip = self.floatingips.get(call.variables[0])
        if not self.floatingips.visible(call.context, floating_ip):
            raise forbidden("create_floatingip_port_forwarding")
        body = self._ports(floating_ip, self._prepare(call.context, wanted))
        self._check_own_address(body)
        if floating_ip["port_id"]:
            raise CloudError(
                409, "FloatingIPPortAlreadyAssociated", f"Floating IP {floating_ip['id']} has a port to itself."
            )
        self.floatingips.table.change(floating_ip, {"router_id": self._router(call.context, floating_ip, body)})
        row = self.keep(call.context, body, floatingip_id=floating_ip["id"], project_id=floating_ip["project_id"])
        self._touch_ends(row)
        # Only this answer has the port of a range, as null.
        answer = {self.name: {"internal_port": None, "external_port": None, **self.view(call.context, row)}}
        self.notify(call.context, f"{self.name}.create.end", answer)
        return Reply(answer, 201)

    def apply(self, context: Context, row: Row, changes: Row) -> None:
        """Check and make the changes of an update; a port given instead of a range replaces it, and the reverse."""
        before = self.view(context, row)
        kept = dict(before)
        for side in ("internal", "external"):
            if {f"{side}_port", f"{side}_port_range"} & changes.keys():
                kept |= {f"{side}_port": None, f"{side}_port_range": None}
        if "internal_port_id" in changes:
            self._check_own_address(changes)
            if changes["internal_port_id"] != row["internal_port_id"]:
                kept["internal_ip_address"] = None
        floating_ip = self.floatingips.get(row["floatingip_id"])
        body = self._ports(floating_ip, kept | changes, row["id"])
        self._router(context, floating_ip, body)
        self.table.change(row, {"internal_port": None, "external_port": None} | body)
        after = self.view(context, row)
        if before | {"description": ""} != after | {"description": ""}:
            self._touch_ends(row)

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a forwarding; the last frees its floating IP."""
        super().unmake(context, row)
        self._touch_ends(row)
        self._free([row])

    def view(self, _context: Context, row: Row) -> Row:
        """A single port is shown as a port and as a range."""
        return _picked(row, _VISIBLE)

    def of(self, floatingip_id: str) -> list[Row]:
        """The forwardings of a floating IP."""
        return self.table.find("floatingip_id", floatingip_id)

    def shown(self, floatingip_id: str) -> list[Row]:
        """The forwardings as their floating IP shows them."""
        return [_picked(row, _SHOWN) for row in self.of(floatingip_id)]

    def port_gone(self, port_id: str) -> None:
        """Remove what leads to a port that is going away, without a word."""
        self._forget(self.table.find("internal_port_id", port_id))

    def port_changed(self, port: Row) -> None:
        """Remove what leads to an address that a port has no more, without a word; all stay when it has no IPv4."""
        if addresses := _addresses(port):
            leading = self.table.find("internal_port_id", port["id"])
            self._forget([row for row in leading if row["internal_ip_address"] not in addresses])

    def _forget(self, rows: list[Row]) -> None:
        for row in rows:
            self.table.remove(row["id"])
        for floatingip_id in dict.fromkeys(row["floatingip_id"] for row in rows):
            self.floatingips.touch(self.floatingips.get(floatingip_id))
        self._free(rows)

    def _free(self, removed: list[Row]) -> None:
        """No router serves a floating IP that forwards nothing any more."""
        for row in removed:
            if not self.of(row["floatingip_id"]):
                self.floatingips.table.change(self.floatingips.get(row["floatingip_id"]), {"router_id": None})

    def _touch_ends(self, row: Row) -> None:
        self.floatingips.touch(self.floatingips.get(row["floatingip_id"]))
        self.floatingips.ports.touch(self.floatingips.ports.get(row["internal_port_id"]))

    def _below(self, call: Call) -> Call:
        floatingip_id, row_id = call.variables
        self.floatingips.find(call.context, floatingip_id)
        if (row := self.table.get(row_id)) is None or row["floatingip_id"] != floatingip_id:
            raise self.missing(row_id)
        return replace(call, variables=(row_id,))

    def _ports(self, floating_ip: Row, body: Row, own: str = "") -> Row:
        """The attributes to keep; CloudError when they mean nothing, or when another forwarding has the ports."""
        if body["protocol"] not in _PROTOCOLS:
            raise _invalid("protocol", f"{body['protocol']} is not in valid_values")
        internal, external = _ends(body, "internal"), _ends(body, "external")
        if internal[0] != internal[1] and internal[1] - internal[0] != external[1] - external[0]:
            raise _bad("Invalid ranges of internal and/or external ports: the relation must be N-N or 1-N")
        same_inside = [
            one
            for one in self.table.find("internal_port_id", body["internal_port_id"])
            if one["internal_ip_address"] == body["internal_ip_address"]
        ]
        for side, wanted, others in (
            ("internal", internal, same_inside),
            ("external", external, self.of(floating_ip["id"])),
        ):
            for other in others:
                theirs = _ends(other, side)
                is_apart = theirs[1] < wanted[0] or wanted[1] < theirs[0]
                if other["id"] != own and other["protocol"] == body["protocol"] and not is_apart:
                    raise _bad(f"There is a port collision with the {side}_port_range: {theirs} and {wanted}")
        whole = {
            key: value for key, value in body.items() if not key.startswith(("internal_port_r", "external_port_r"))
        }
        for side, (first, last) in (("internal", internal), ("external", external)):
            whole[f"{side}_port_range"] = f"{first}:{last}"
            whole[f"{side}_port"] = first if first == last else None
        return whole

    def _check_own_address(self, body: Row) -> None:
        """A port that has a floating IP to itself is led to by no other."""
        for other in self.floatingips.table.find("port_id", body["internal_port_id"]):
            raise CloudError(
                409, "PortHasBindingFloatingIP",
                f"Cannot create port forwarding to floating IP {other['floating_ip_address']} ({other['id']}) with "
                f"port {body['internal_port_id']}, as that port already has a binding floating IP.",
            )  # fmt: skip

    def _router(self, context: Context, floating_ip: Row, body: Row) -> str:
        """The router that serves the attributes; fills in the first address of the port when none is named."""
        port = self.floatingips.ports.find(context, body["internal_port_id"])
        addresses = _addresses(port)
        body["internal_ip_address"] = address = body["internal_ip_address"] or next(iter(addresses), None)
        if address not in addresses:
            raise _bad(f"Requested internal IP address {address} is not suitable for internal port {port['id']}")
        router = self.floatingips.routers.serving(port, address, floating_ip["floating_network_id"])
        if router is None or floating_ip["router_id"] not in (None, router["id"]):
            raise _bad(f"External network {floating_ip['floating_network_id']} is not reachable from {address}")
        return str(router["id"])


def _picked(row: Row, keys: tuple[str, ...]) -> Row:
    """The attributes that are there; the single port of a range is not."""
    return {key: row[key] for key in keys if row.get(key) is not None}


def _addresses(port: Row) -> list[str]:
    return [one["ip_address"] for one in port["fixed_ips"] if ":" not in one["ip_address"]]


def _ends(body: Row, side: str) -> tuple[int, int]:
    """First and last port of a side."""
    given = body.get(f"{side}_port_range") or body.get(f"{side}_port")
    try:
        ends = [int(part) for part in str(given).split(":")]
    except ValueError:
        raise _invalid(f"{side}_port", f"{given!r} is no port and no range of ports") from None
    if any(not 1 <= end <= 65535 for end in ends) or len(ends) > 2 or ends != sorted(ends):
        raise _invalid(f"{side}_port", f"{given!r} is no range of ports between 1 and 65535")
    return ends[0], ends[-1]


def _invalid(name: str, why: str) -> CloudError:
    return CloudError(400, "HTTPBadRequest", f"Invalid input for {name}. Reason: {why}.")


def _bad(why: str) -> CloudError:
    return CloudError(400, "BadRequest", f"Bad port_forwarding request: {why}.")


def forwardings_table() -> Table:
    """The table of port forwardings."""
    return Table("project_id", "floatingip_id", "internal_port_id")
