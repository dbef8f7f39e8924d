"""What all kinds of objects in Neutron have in common: life cycle, visibility, policy, notifications.

A create, update or delete through the API is framed by its `.start` and `.end` notifications; a refused one leaves
`.start` alone. Whatever a service does by itself goes through `make`, `touch` and `unmake`, which notify nobody.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from . import neutron_query
from .notifications import Notifications
from .options import CloudOptions
from .store import Row, Table
from .web import Call, CloudError, Context, Reply, Routes

STANDARD = {"tags", "created_at", "updated_at", "revision_number"}


class Collection:
    """One kind of object."""

    name: ClassVar[str]
    plural: ClassVar[str]
    kind: ClassVar[str]
    """As in the type of the error for a missing one, `<kind>NotFound`."""
    path: ClassVar[str] = ""
    """Below `/v2.0/`; the plural when empty."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Attributes that a create may leave out, with the value that they then have."""
    required: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[frozenset[str]] = frozenset()
    """Attributes that an update may not name."""
    admin_only: ClassVar[frozenset[str]] = frozenset()
    """Attributes that a member may neither see nor set."""
    admin_writes: ClassVar[frozenset[str]] = frozenset()
    """Attributes that a member may see but not set."""
    not_filters: ClassVar[frozenset[str]] = frozenset()
    """Attributes by which the real service refuses to filter."""
    extra_filters: ClassVar[frozenset[str]] = frozenset()
    first_revision: ClassVar[int] = 0
    notifies: ClassVar[bool] = True

    def __init__(self, options: CloudOptions, notifications: Notifications, table: Table) -> None:
        self.options = options
        self.notifications = notifications
        self.table = table
        self.quota: Callable[[str, str], None] = lambda _name, _project: None
        self._known = frozenset(self.defaults) | set(self.required) | STANDARD | self.extra_filters
        self._known = (self._known | {"id", "project_id", "status"}) - self.not_filters

    def routes(self, routes: Routes) -> None:
        """Put the collection's five calls into a table of routes."""
        base = f"/v2.0/{self.path or self.plural}"
        routes.add("GET", base, self.listing)
        routes.add("POST", base, self.create)
        routes.add("GET", f"{base}/{{id}}", self.show)
        routes.add("PUT", f"{base}/{{id}}", self.update)
        routes.add("DELETE", f"{base}/{{id}}", self.delete)

    # What kinds of objects differ in

    def make(self, context: Context, body: Row) -> Row:
        """Check and build a new object; CloudError when it is refused."""
        return self.keep(context, body)

    def apply(self, _context: Context, row: Row, changes: Row) -> None:
        """Check and make the changes of an update."""
        self.table.change(row, changes)

    def unmake(self, _context: Context, row: Row) -> None:
        """Check and remove an object."""
        self.table.remove(row["id"])

    def settle(self, context: Context, row: Row) -> None:
        """What happens silently once a create or an update was notified."""

    def shared(self, _context: Context, _row: Row) -> bool:
        """Whether a member of another project sees the object."""
        return False

    def scope(self, context: Context) -> Iterable[Row]:
        """All objects that a member sees, perhaps some more."""
        return self.table.find("project_id", context.project_id)

    def deleted(self, context: Context, row: Row) -> Row:
        """The former object as the notification of its deletion shows it."""
        return self.view(context, row)

    # The calls

    def listing(self, call: Call) -> Reply:
        """`GET /v2.0/<plural>`."""
        query = neutron_query.parse(call.query(), self._known, strict=self.options.filter_validation)
        rows = self._candidates(call.context, query)
        if not call.context.is_admin:
            rows = [row for row in rows if self.visible(call.context, row)]
        page = neutron_query.select(rows, query)
        body: dict[str, Any] = {self.plural: [self._render(call.context, row, query.fields) for row in page]}
        if found := neutron_query.links(call.base_url + call.path, page, query):
            body[f"{self.plural}_links"] = found
        return Reply(body)

    def show(self, call: Call) -> Reply:
        """`GET /v2.0/<plural>/<id>`."""
        row = self.find(call.context, call.variables[0])
        fields = [value for key, value in call.query() if key == "fields"] if call.query_string else []
        return Reply({self.name: self._render(call.context, row, fields)})

    def create(self, call: Call) -> Reply:
        """`POST /v2.0/<plural>`, of one object or, atomically, of several."""
        body = call.json()
        context = call.context
        bulk = self.plural in body
        wanted = body.get(self.plural) if bulk else [body.get(self.name)]
        if not isinstance(wanted, list) or not wanted or not all(isinstance(one, dict) for one in wanted):
            raise CloudError(400, "HTTPBadRequest", f"The body has no {self.name}")
        self.notify(context, f"{self.name}.create.start", body)
        made: list[Row] = []
        try:
            # What a generator had yielded before it raised is in the list.
            made.extend(self.make(context, self._prepare(context, one)) for one in wanted)
        except CloudError:
            for row in reversed(made):
                self.unmake(context, row)
            raise
        views = [self.created(context, row) for row in made]
        answer = {self.plural: views} if bulk else {self.name: views[0]}
        self.notify(context, f"{self.name}.create.end", answer)
        for row in made:
            self.settle(context, row)
        return Reply(answer, 201)

    def update(self, call: Call) -> Reply:
        """`PUT /v2.0/<plural>/<id>`."""
        changes = call.json().get(self.name)
        if not isinstance(changes, dict):
            raise CloudError(400, "HTTPBadRequest", f"The body has no {self.name}")
        row = self.writable(call.context, call.variables[0])
        self.notify(call.context, f"{self.name}.update.start", {self.name: changes, "id": row["id"]})
        self._check_names(call.context, changes, "PUT")
        if changed := [key for key in changes if key in self.fixed]:
            raise CloudError(400, "HTTPBadRequest", f"Cannot update read-only attribute {changed[0]}")
        self.apply(call.context, row, changes)
        self.touch(row)
        view = dict(self.view(call.context, row))
        self.notify(call.context, f"{self.name}.update.end", {self.name: view})
        self.settle(call.context, row)
        return Reply({self.name: view})

    def delete(self, call: Call) -> Reply:
        """`DELETE /v2.0/<plural>/<id>`."""
        row_id = call.variables[0]
        row = self.writable(call.context, row_id)
        self.notify(call.context, f"{self.name}.delete.start", {f"{self.name}_id": row_id})
        self.unmake(call.context, row)
        former = dict(self.deleted(call.context, row))
        self.notify(call.context, f"{self.name}.delete.end", {f"{self.name}_id": row_id, self.name: former})
        return Reply(None, 204)

    # What services use

    def missing(self, row_id: str) -> CloudError:
        """The error that says that there is no such object."""
        return CloudError(404, f"{self.kind}NotFound", f"{self.kind} {row_id} could not be found.")

    def get(self, row_id: str) -> Row:
        """An object whoever asks; CloudError 404."""
        row = self.table.get(row_id)
        if row is None:
            raise self.missing(row_id)
        return row

    def find(self, context: Context, row_id: str) -> Row:
        """An object that the caller sees; CloudError 404."""
        row = self.table.get(row_id)
        if row is None or not self.visible(context, row):
            raise self.missing(row_id)
        return row

    def writable(self, context: Context, row_id: str) -> Row:
        """An object that the caller may change; CloudError 404 or 403."""
        row = self.find(context, row_id)
        if not context.is_admin and row["project_id"] != context.project_id:
            raise forbidden(f"update_{self.name}")
        return row

    def visible(self, context: Context, row: Row) -> bool:
        """Whether the caller sees the object."""
        return context.is_admin or row["project_id"] == context.project_id or self.shared(context, row)

    def keep(self, context: Context, body: Row, **more: Any) -> Row:
        """Store a new object with id, project, times and revision; CloudError 409 over quota."""
        project = body.get("project_id", context.project_id)
        self.quota(self.name, project)
        now = self.now()
        row = {"id": self.options.new_id(), "project_id": project, "tenant_id": project, **body, **more}
        row |= {"tags": [], "created_at": now, "updated_at": now, "revision_number": self.first_revision}
        return self.table.add(row)

    def touch(self, row: Row, steps: int = 1) -> None:
        """Count revisions and set the time of change."""
        row["revision_number"] += steps
        row["updated_at"] = self.now()

    def now(self) -> str:
        """The time as Neutron writes it, in whole seconds."""
        return dt.datetime.fromtimestamp(self.options.clock(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def notify(self, context: Context, event_type: str, payload: dict[str, Any]) -> None:
        """Send a notification, unless objects of this kind are silent."""
        if self.notifies:
            self.notifications.network(context, event_type, payload)

    def view(self, context: Context, row: Row) -> Row:
        """The object as the caller may see it; the row itself or a copy without some attributes."""
        if context.is_admin or not self.admin_only:
            return row
        return {key: value for key, value in row.items() if key not in self.admin_only}

    def created(self, context: Context, row: Row) -> Row:
        """The object as the answer to its creation shows it."""
        return dict(self.view(context, row))

    def _render(self, context: Context, row: Row, fields: list[str]) -> Row:
        view = self.view(context, row)
        return {key: view[key] for key in fields if key in view} if fields else view

    def _candidates(self, context: Context, query: neutron_query.Query) -> Iterable[Row]:
        narrow: list[Row] | None = None
        if "id" in query.filters:
            rows = (self.table.get(value) for value in dict.fromkeys(query.filters["id"]))
            return [row for row in rows if row is not None]
        if "fixed_ips" in query.filters and self.table.indexed("address"):
            addresses = [v.partition("=")[2] for v in query.filters["fixed_ips"] if v.startswith("ip_address=")]
            if addresses:
                return self.table.find("address", *addresses)
            return self.table.find("subnet", *(v.partition("=")[2] for v in query.filters["fixed_ips"]))
        for key, values in query.filters.items():
            if self.table.indexed(key):
                rows_of_key = self.table.find(key, *values)
                if narrow is None or len(rows_of_key) < len(narrow):
                    narrow = rows_of_key
        if narrow is not None:
            return narrow
        return self.table if context.is_admin else self.scope(context)

    def _prepare(self, context: Context, body: Row) -> Row:
        self._check_names(context, body, "POST")
        if missing := [key for key in self.required if key not in body]:
            raise CloudError(
                400, "HTTPBadRequest",
                f"Failed to parse request. Required attribute '{missing[0]}' not specified",
            )  # fmt: skip
        project = body.get("project_id") or body.get("tenant_id") or context.project_id
        if project != context.project_id and not context.is_admin:
            raise forbidden(f"create_{self.name}:project_id")
        given = {key: value for key, value in body.items() if key != "tenant_id"}
        fresh = {key: value.copy() if isinstance(value, dict | list) else value for key, value in self.defaults.items()}
        return fresh | given | {"project_id": project}

    def _check_names(self, context: Context, body: Row, method: str) -> None:
        allowed = self.defaults.keys() | set(self.required) | {"project_id", "tenant_id", "revision_number"}
        if unknown := [key for key in body if key not in allowed]:
            raise CloudError(400, "HTTPBadRequest", f"Unrecognized attribute(s) '{', '.join(unknown)}'")
        if context.is_admin:
            return
        for key in body:
            if key in self.admin_only or (key in self.admin_writes and body[key] not in (None, False)):
                raise forbidden(f"{'create' if method == 'POST' else 'update'}_{self.name}:{key}")


def forbidden(rule: str) -> CloudError:
    """The error of a call that the policy refuses."""
    return CloudError(403, "PolicyNotAuthorized", f"rule:{rule} is disallowed by policy")
