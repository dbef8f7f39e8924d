"""Glance v2: images by id and name, made with or without content. Content is counted, not kept."""

import datetime as dt
from typing import Any

from .options import CloudOptions
from .store import Row, Table
from .web import Call, CloudError, Reply, Routes


class ImageService:
    """The image service."""

    def __init__(self, options: CloudOptions) -> None:
        self._options = options
        self.images = Table("name")

    def add(self, name: str, owner: str, *, size: int | None = None, **more: Any) -> Row:
        """A new image; active when its size is known."""
        now = dt.datetime.fromtimestamp(self._options.clock(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        image_id = more.pop("id", None) or self._options.new_id()
        return self.images.add(
            {
                "id": image_id, "name": name, "status": "queued" if size is None else "active", "visibility": "shared",
                "owner": owner, "size": size, "virtual_size": None, "checksum": None, "os_hidden": False,
                "container_format": "bare", "disk_format": "raw", "min_disk": 0, "min_ram": 0, "protected": False,
                "os_hash_algo": None, "os_hash_value": None, "created_at": now, "updated_at": now, "tags": [],
                "self": f"/v2/images/{image_id}", "file": f"/v2/images/{image_id}/file", "schema": "/v2/schemas/image",
                **more,
            }
        )  # fmt: skip

    def routes(self) -> Routes:
        """All calls of the service."""
        routes = Routes()
        routes.add("GET", "/", self._versions, public=True)
        routes.add("GET", "/versions", self._versions, public=True)
        routes.add("GET", "/v2/images", self._list)
        routes.add("POST", "/v2/images", self._create)
        routes.add("GET", "/v2/images/{id}", lambda call: Reply(self._find(call)))
        routes.add("PATCH", "/v2/images/{id}", self._update)
        routes.add("DELETE", "/v2/images/{id}", self._delete)
        routes.add("PUT", "/v2/images/{id}/file", self._upload)
        return routes

    def _visible(self, call: Call, row: Row) -> bool:
        return call.context.is_admin or row["visibility"] == "public" or row["owner"] == call.context.project_id

    def _find(self, call: Call) -> Row:
        row = self.images.get(call.variables[0])
        if row is None or not self._visible(call, row):
            raise CloudError(404, "Not Found", f"No image found with ID {call.variables[0]}")
        return row

    def _versions(self, call: Call) -> Reply:
        link = [{"rel": "self", "href": f"{call.base_url}/v2/"}]
        versions = [{"id": f"v2.{n}", "status": "CURRENT" if n == 17 else "SUPPORTED", "links": link} for n in (17, 9)]
        return Reply({"versions": versions}, 300)

    def _list(self, call: Call) -> Reply:
        query = call.query()
        limit = next((int(value) for key, value in query if key == "limit"), 1000)
        marker = next((value for key, value in query if key == "marker"), None)
        wanted = [pair for pair in query if pair[0] in ("name", "status", "owner", "visibility", "id")]
        rows = [row for row in self.images if self._visible(call, row) and _fits(row, wanted)]
        if marker is not None:
            ids = [row["id"] for row in rows]
            rows = rows[ids.index(marker) + 1 :] if marker in ids else []
        page = rows[:limit]
        body: dict[str, Any] = {"images": page, "first": "/v2/images", "schema": "/v2/schemas/images"}
        if len(rows) > limit:
            body["next"] = f"/v2/images?marker={page[-1]['id']}&limit={limit}"
        return Reply(body)

    def _create(self, call: Call) -> Reply:
        body = call.json()
        return Reply(self.add(body.pop("name", ""), body.pop("owner", None) or call.context.project_id, **body), 201)

    def _update(self, call: Call) -> Reply:
        row = self._find(call)
        patch = call.json_list()
        changes = {one["path"].strip("/"): one.get("value") for one in patch if one["op"] != "remove"}
        return Reply(self.images.change(row, changes))

    def _delete(self, call: Call) -> Reply:
        self.images.remove(self._find(call)["id"])
        return Reply(None, 204)

    def _upload(self, call: Call) -> Reply:
        self.images.change(self._find(call), {"size": len(call.raw), "status": "active"})
        return Reply(None, 204)


def _fits(row: Row, wanted: list[tuple[str, str]]) -> bool:
    return all(row.get(key) in value.removeprefix("in:").split(",") for key, value in wanted)
