"""Nova as the router driver needs it: boot, look, delete, attach, detach. One call each."""

from typing import Any

from services.common import marks

from .cloud import Api, Json
from .errors import AttachError, CloudError, NotFoundError

RUNNING = "ACTIVE"
COMING = frozenset({"BUILD", "REBUILD", "REBOOT", "HARD_REBOOT", "RESIZE", "VERIFY_RESIZE", "MIGRATING", "PASSWORD"})

_CANNOT_ATTACH = "Failed to attach network adapter"
"""What a hypervisor that has no room for another device makes of a 500 (`InterfaceAttachFailed`)."""


class Nova:
    """Calls to Nova. Raises the errors of `errors.CloudError`."""

    def __init__(self, api: Api, deployment: str) -> None:
        self._api = api
        self._deployment = deployment

    async def boot(
        self,
        mark: marks.ServerMark,
        image_id: str,
        flavor_id: str,
        port_ids: list[str],
        user_data: str,
        availability_zone: str,
    ) -> str:
        """Boot a server with these ports in this order and a config drive; answers with its id.

        UncertainError when no answer came: the server may exist; look for it by name.
        """
        server: dict[str, Any] = {
            "name": mark.name(),
            "imageRef": image_id,
            "flavorRef": flavor_id,
            "config_drive": True,
            "user_data": user_data,
            "metadata": mark.metadata(),
            "networks": [{"port": port_id} for port_id in port_ids],
        }
        if availability_zone:
            server["availability_zone"] = availability_zone
        answer = await self._api.post("/servers", {"server": server})
        return str(answer["server"]["id"])

    async def server(self, server_id: str) -> Json | None:
        """The server, or None when Nova does not know it."""
        try:
            answer = await self._api.get(f"/servers/{server_id}")
        except NotFoundError:
            return None
        server: Json = answer["server"]
        return server

    async def servers_of(self, resource_id: str, slot: int) -> list[Json]:
        """Our servers of a resource's slot, whatever state they are in, by name and mark."""
        name = marks.server_name(resource_id, slot)
        answer = await self._api.get("/servers/detail", {"name": f"^{name}$"})
        found = []
        for server in answer["servers"]:
            mark = marks.ServerMark.parse(server.get("metadata"))
            if mark and mark.deployment == self._deployment and (mark.resource_id, mark.slot) == (resource_id, slot):
                found.append(server)
        return found

    async def delete(self, server_id: str) -> None:
        """Ask Nova to delete a server; it goes in its own time. Nothing when it is gone already."""
        try:
            await self._api.delete(f"/servers/{server_id}")
        except NotFoundError:
            return

    async def delete_anew(self, server_id: str) -> None:
        """Delete a server whose deletion Nova began and lost, as it does when its database goes away meanwhile.

        As long as Nova believes that it is deleting, it ignores who asks again.
        """
        try:
            await self._api.post(f"/servers/{server_id}/action", {"os-resetState": {"state": "error"}})
        except NotFoundError:
            return
        await self.delete(server_id)

    async def attach(self, server_id: str, port_id: str) -> None:
        """Plug a port into a running server. AttachError when Nova says that it is this that it cannot do."""
        try:
            await self._api.post(f"/servers/{server_id}/os-interface", {"interfaceAttachment": {"port_id": port_id}})
        except CloudError as error:
            if error.status == 500 and _CANNOT_ATTACH in error.detail:
                raise AttachError(error.service, error.call, error.status, error.detail) from error
            raise

    async def detach(self, server_id: str, port_id: str) -> None:
        """Pull a port out of a running server; nothing when it is out already."""
        try:
            await self._api.delete(f"/servers/{server_id}/os-interface/{port_id}")
        except NotFoundError:
            return
