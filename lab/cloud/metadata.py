"""Nova's metadata API as a metadata proxy uses it: the instance is named in headers and vouched for by a signature."""

import hashlib
import hmac
from collections.abc import Callable

from .options import CloudOptions
from .store import Row, Table
from .web import Call, CloudError, Reply, Routes


class MetadataService:
    """Answers for the servers of Nova."""

    def __init__(self, options: CloudOptions, servers: Table) -> None:
        self._secret = options.metadata_secret.encode()
        self._servers = servers

    def routes(self) -> Routes:
        """All calls of the service; none of them takes a token."""
        routes = Routes()
        routes.add("GET", "/", lambda _: _text("1.0\n2009-04-04\nlatest"), public=True)
        for version in ("latest", "2009-04-04"):
            routes.add("GET", f"/{version}", lambda _: _text("meta-data/\nuser-data"), public=True)
            routes.add("GET", f"/{version}/meta-data", self._index, public=True)
            routes.add("GET", f"/{version}/meta-data/{{key}}", self._value, public=True)
            routes.add("GET", f"/{version}/user-data", self._user_data, public=True)
        routes.add("GET", "/openstack", lambda _: _text("2012-08-10\nlatest"), public=True)
        routes.add("GET", "/openstack/latest", lambda _: _text("meta_data.json\nuser_data"), public=True)
        # The table of routes drops a trailing `.json`.
        routes.add("GET", "/openstack/latest/meta_data", self._openstack, public=True)
        routes.add("GET", "/openstack/latest/user_data", self._user_data, public=True)
        return routes

    def _server(self, call: Call) -> Row:
        instance = call.headers.get("X-Instance-ID")
        if not instance:
            raise CloudError(400, "Bad Request", "X-Instance-ID header is missing from request.")
        if not call.headers.get("X-Tenant-ID"):
            raise CloudError(400, "Bad Request", "X-Tenant-ID header is missing from request.")
        expected = hmac.new(self._secret, instance.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, call.headers.get("X-Instance-ID-Signature", "")):
            raise CloudError(403, "Forbidden", "Invalid proxy request signature.")
        server = self._servers.get(instance)
        if server is None or server["tenant_id"] != call.headers["X-Tenant-ID"]:
            raise CloudError(404, "Not Found", "The resource could not be found.")
        return server

    def _facts(self, server: Row) -> dict[str, Callable[[], str]]:
        addresses = [one["addr"] for network in server["addresses"].values() for one in network if one["version"] == 4]
        return {
            "ami-id": lambda: "None",
            "hostname": lambda: server["name"] + ".novalocal",
            "instance-id": lambda: f"i-{int(server['id'][:8], 16):08x}",
            "instance-type": lambda: str(server["flavor"]["original_name"]),
            "local-hostname": lambda: server["name"] + ".novalocal",
            "local-ipv4": lambda: addresses[0] if addresses else "",
            "public-ipv4": lambda: "",
        }

    def _index(self, call: Call) -> Reply:
        return _text("\n".join(self._facts(self._server(call))))

    def _value(self, call: Call) -> Reply:
        facts = self._facts(self._server(call))
        if call.variables[0] not in facts:
            raise CloudError(404, "Not Found", "The resource could not be found.")
        return _text(facts[call.variables[0]]())

    def _user_data(self, call: Call) -> Reply:
        content = self._server(call)["OS-EXT-SRV-ATTR:user_data"]
        if not content:
            raise CloudError(404, "Not Found", "The resource could not be found.")
        return _text(content)

    def _openstack(self, call: Call) -> Reply:
        server = self._server(call)
        return Reply(
            {
                "uuid": server["id"], "name": server["name"], "hostname": server["name"] + ".novalocal",
                "project_id": server["tenant_id"], "meta": server["metadata"], "availability_zone": "nova",
                "launch_index": 0, "keys": [], "devices": [],
            }
        )  # fmt: skip


def _text(content: str) -> Reply:
    return Reply(content.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})
