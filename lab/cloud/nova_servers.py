"""Servers over time: BUILD, then ACTIVE or ERROR, then gone; and their ports, which Nova binds and unbinds.

Nova answers before the work is done. The work of one server runs in one task after the other: a delete waits for the
boot that it interrupts. Ports that were given to Nova outlive the server, ports that Nova made do not. Binding is
done as the service user of Nova's section `[neutron]`, which the notifications show.
"""

import asyncio
import datetime as dt
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from .hypervisor import Hypervisor, decode_user_data
from .neutron import NetworkService
from .neutron_ports import Ports
from .notifications import Notifications
from .nova_notifications import ServerNotifications
from .options import CloudOptions
from .store import Row, Table
from .web import CloudError, Context

LOG = logging.getLogger(__name__)


class Servers:
    """All servers; `boot_delay` and `delete_delay` may be changed while the cloud runs."""

    def __init__(
        self, options: CloudOptions, network: NetworkService, notifications: Notifications, hypervisor: Hypervisor,
        flavors: Table, images: Table,
    ) -> None:  # fmt: skip
        self._options = options
        self._network = network
        self._notifications = notifications
        self._announce = ServerNotifications(options, notifications)
        self.hypervisor = hypervisor
        self._flavors = flavors
        self._images = images
        self.table = Table("tenant_id", "name")
        self.boot_delay = options.boot_delay
        self.delete_delay = options.delete_delay
        self.lost_deletions = 0
        """How many of the next deletions leave the server, as when Nova's database is away when they end."""
        self.binder: Context | None = None
        """As whom ports are bound; the cloud sets it once accounts exist."""
        self._own_ports: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop all work that is under way."""
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def idle(self, server_id: str) -> None:
        """Return when no work on a server is under way."""
        while (task := self._tasks.get(server_id)) is not None:
            await asyncio.wait({task})
            await asyncio.sleep(0)

    def create(self, context: Context, wanted: Row) -> Row:
        """Check a wish and begin to build; CloudError 400 or 409 when the flavor, the image or a port is not usable."""
        flavor = self._flavors.get(str(wanted["flavorRef"]))
        if flavor is None:
            raise CloudError(400, "badRequest", f"Flavor {wanted['flavorRef']} could not be found.")
        image = self._images.get(wanted.get("imageRef") or "")
        if wanted.get("imageRef") and image is None:
            raise CloudError(400, "badRequest", f"Image {wanted['imageRef']} could not be found.")
        ports, networks = self._usable(context, wanted.get("networks") or [])
        server_id = self._options.new_id()
        now = self._now()
        server: Row = {
            "id": server_id, "name": wanted["name"], "status": "BUILD", "tenant_id": context.project_id,
            "user_id": context.user_id, "metadata": dict(wanted.get("metadata") or {}), "created": now, "updated": now,
            "addresses": {}, "hostId": "", "accessIPv4": "", "accessIPv6": "", "progress": 0,
            "image": {"id": image["id"], "links": []} if image else "", "tags": [], "locked": False,
            "flavor": {
                "original_name": flavor["name"], "ram": flavor["ram"], "disk": flavor["disk"], "swap": 0,
                "vcpus": flavor["vcpus"], "ephemeral": 0, "extra_specs": {},
            },
            "config_drive": "True" if wanted.get("config_drive") else "", "key_name": wanted.get("key_name"),
            "security_groups": [{"name": "default"}], "description": wanted.get("description"),
            "OS-DCF:diskConfig": "MANUAL", "OS-EXT-AZ:availability_zone": "nova", "OS-EXT-STS:power_state": 0,
            "OS-EXT-STS:task_state": "scheduling", "OS-EXT-STS:vm_state": "building",
            "OS-SRV-USG:launched_at": None, "OS-SRV-USG:terminated_at": None,
            "OS-EXT-SRV-ATTR:host": None, "OS-EXT-SRV-ATTR:hypervisor_hostname": None,
            "OS-EXT-SRV-ATTR:instance_name": f"instance-{len(self.table) + 1:08x}",
            "OS-EXT-SRV-ATTR:hostname": wanted["name"], "OS-EXT-SRV-ATTR:user_data": wanted.get("user_data"),
            "os-extended-volumes:volumes_attached": [], "launched_by": context,
        }  # fmt: skip
        self.table.add(server)
        self._announce.update(context, server, "building", "scheduling", "scheduling")
        self._work(server, self._build, context, server, ports, networks)
        return server

    def delete(self, context: Context, server: Row) -> None:
        """Begin to delete a server; asking again changes nothing."""
        if server["OS-EXT-STS:task_state"] == "deleting":
            return
        before = server["OS-EXT-STS:vm_state"]
        self._change(server, {"OS-EXT-STS:task_state": "deleting"})
        self._announce.update(context, server, before, "deleting", "deleting")
        self._work(server, self._destroy, context, server)

    def reset_state(self, server: Row, state: str) -> None:
        """Forget what is being done to a server; it is called ACTIVE or ERROR."""
        state = "active" if state == "active" else "error"
        self._change(server, {"status": state.upper(), "OS-EXT-STS:vm_state": state, "OS-EXT-STS:task_state": None})

    def reboot(self, context: Context, server: Row) -> None:
        """Begin to reboot an ACTIVE server; CloudError 409 otherwise."""
        self._require_active(server, "reboot")
        self._change(server, {"status": "REBOOT", "OS-EXT-STS:task_state": "rebooting"})
        self._announce.event(context, server, "reboot.start")
        self._work(server, self._restart, context, server)

    def power(self, context: Context, server: Row, *, on: bool) -> None:
        """Stop or start a server."""
        self._change(
            server,
            {
                "status": "ACTIVE" if on else "SHUTOFF", "OS-EXT-STS:vm_state": "active" if on else "stopped",
                "OS-EXT-STS:power_state": 1 if on else 4,
            },
        )  # fmt: skip
        verb = "power_on" if on else "power_off"
        self._announce.event(context, server, f"{verb}.start")
        self._announce.event(context, server, f"{verb}.end")
        self._work(server, functools.partial(self.hypervisor.power, on=on), server)

    def attach(self, context: Context, server: Row, wanted: Row) -> Row:
        """Plug a port, or a new one on a network, into a server; the port, bound."""
        if server["status"] not in ("ACTIVE", "SHUTOFF"):
            raise _conflict("attach_interface", server)
        if port_id := wanted.get("port_id"):
            port = self._usable_port(server["tenant_id"], port_id)
        else:
            port = self._make_port(context, server, wanted["net_id"], wanted.get("fixed_ips"))
        self._bind(server, port)
        self._refresh(server)
        self._work(server, self.hypervisor.attach, server, self._with_mtu(port))
        return port

    def detach(self, context: Context, server: Row, port_id: str) -> None:
        """Begin to pull a port out; Nova answers before it looks whether the server has it."""
        port = self._ports.table.get(port_id)
        if port is not None and port["device_id"] == server["id"]:
            self._work(server, self._unplug, context, server, port)

    def set_metadata(self, context: Context, server: Row, metadata: dict[str, str]) -> None:
        """Exchange a server's metadata."""
        self._change(server, {"metadata": dict(metadata)})
        self._announce.update(context, server, server["OS-EXT-STS:vm_state"], None, None)

    def ports_of(self, server: Row) -> list[Row]:
        """The ports that are plugged into a server."""
        return self._ports.table.find("device_id", server["id"])

    def console(self, server: Row) -> str:
        """What the server wrote on its serial console."""
        return self.hypervisor.console(server) or f"{server['name']} login: "

    # The work

    @property
    def _ports(self) -> Ports:
        return self._network.ports

    async def _build(self, context: Context, server: Row, ports: list[Row], networks: list[str]) -> None:
        host = self._options.hostname
        self._change(server, {"OS-EXT-SRV-ATTR:host": host, "OS-EXT-SRV-ATTR:hypervisor_hostname": host})
        self._announce.event(context, server, "create.start")
        try:
            _check_owner(server, ports)
            for port in ports:
                self._bind(server, port)
            for network_id in networks:
                self._bind(server, self._make_port(context, server, network_id, None))
        except CloudError as error:
            self._fail(context, server, str(error))
            return
        self._refresh(server)
        for before, task in (("scheduling", "networking"), ("networking", "spawning")):
            self._change(server, {"OS-EXT-STS:task_state": task})
            self._announce.update(context, server, "building", before, task)
        if self.boot_delay:
            await asyncio.sleep(self.boot_delay)
        user_data = decode_user_data(server["OS-EXT-SRV-ATTR:user_data"])
        try:
            await self.hypervisor.boot(server, [self._with_mtu(port) for port in self.ports_of(server)], user_data)
        except (OSError, ValueError) as error:
            LOG.warning("server %s does not boot: %s", server["name"], error)
            self._fail(context, server, str(error))
            return
        self._change(
            server,
            {
                "status": "ACTIVE", "OS-EXT-STS:task_state": None, "OS-EXT-STS:vm_state": "active",
                "OS-EXT-STS:power_state": 1, "OS-SRV-USG:launched_at": self._now().removesuffix("Z") + ".000000",
                "hostId": self._options.hostname,
            },
        )  # fmt: skip
        self._announce.update(context, server, "building", "spawning", None)
        self._announce.event(context, server, "create.end")

    async def _destroy(self, context: Context, server: Row) -> None:
        self._announce.event(context, server, "delete.start")
        self._announce.event(context, server, "shutdown.start")
        if self.delete_delay:
            await asyncio.sleep(self.delete_delay)
        await self.hypervisor.destroy(server)
        if self.lost_deletions:
            self.lost_deletions -= 1
            return
        for port in self.ports_of(server):
            self._release(context, port)
        self._announce.event(context, server, "shutdown.end")
        server["OS-EXT-STS:vm_state"] = "deleted"
        self._announce.update(context, server, "active", "deleting", None)
        if server["id"] in self.table:
            self.table.remove(server["id"])
        self._announce.event(context, server, "delete.end")

    async def _restart(self, context: Context, server: Row) -> None:
        await self.hypervisor.reboot(server)
        self._change(server, {"status": "ACTIVE", "OS-EXT-STS:task_state": None})
        self._announce.event(context, server, "reboot.end")

    async def _unplug(self, context: Context, server: Row, port: Row) -> None:
        if self._options.attach_delay:
            await asyncio.sleep(self._options.attach_delay)
        await self.hypervisor.detach(server, port)
        self._release(context, port)
        self._refresh(server)

    def _work(self, server: Row, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        before = self._tasks.get(server["id"])
        name = f"nova {server['id']}"
        task = asyncio.get_running_loop().create_task(_after(before, work, *arguments), name=name)
        self._tasks[server["id"]] = task
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda done: self._forget(server["id"], done))

    def _forget(self, server_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(server_id) is task:
            del self._tasks[server_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("work on server %s failed", server_id, exc_info=error)

    # Ports

    def _usable(self, context: Context, networks: list[Row] | str) -> tuple[list[Row], list[str]]:
        if isinstance(networks, str):
            return [], []
        ports, plain = [], []
        for one in networks:
            if one.get("port"):
                ports.append(self._bootable_port(context, one["port"]))
            else:
                network = self._network.networks.table.get(one.get("uuid"))
                if network is None or not self._network.networks.visible(context, network):
                    raise CloudError(400, "badRequest", f"Network {one.get('uuid')} could not be found.")
                plain.append(network["id"])
        return ports, plain

    def _bootable_port(self, context: Context, port_id: str) -> Row:
        """A port as the call to boot checks it: a foreign one that the caller sees fails the build, not the call."""
        port = self._ports.table.get(port_id)
        if port is None or not self._ports.visible(context, port):
            raise CloudError(400, "badRequest", f"Port id {port_id} could not be found.")
        _check_free(port)
        if not port["fixed_ips"] and not self._options.ip_allocation:
            raise CloudError(400, "badRequest", f"Port {port_id} requires a FixedIP in order to be used.")
        return port

    def _usable_port(self, project: str, port_id: str) -> Row:
        """A port as an attach checks it, which does not insist on addresses."""
        port = self._ports.table.get(port_id)
        if port is None:
            raise CloudError(404, "itemNotFound", f"Port id {port_id} could not be found.")
        if port["project_id"] != project:
            raise CloudError(400, "badRequest", f"Port {port_id} not usable for instance.")
        _check_free(port)
        return port

    def _make_port(self, context: Context, server: Row, network_id: str, fixed_ips: Any) -> Row:
        wanted = {
            "device_id": server["id"], "network_id": network_id, "admin_state_up": True,
            "tenant_id": server["tenant_id"],
        }  # fmt: skip
        self._notifications.network(context, "port.create.start", {"port": wanted})
        body = {**wanted, "project_id": server["tenant_id"], "fixed_ips": fixed_ips}
        port = self._ports.build(context, {key: value for key, value in body.items() if key != "tenant_id"})
        self._notifications.network(context, "port.create.end", {"port": self._ports.created(context, port)})
        self._own_ports.add(port["id"])
        return port

    def _bind(self, server: Row, port: Row) -> None:
        changes = {
            "device_id": server["id"], "device_owner": "compute:nova", "binding:host_id": self._options.hostname
        }  # fmt: skip
        self._update_port(port, changes)

    def _release(self, context: Context, port: Row) -> None:
        if port["id"] not in self._own_ports:
            changes: Row = {"binding:host_id": None, "device_id": "", "device_owner": "", "binding:profile": {}}
            self._update_port(port, changes)
            return
        self._own_ports.discard(port["id"])
        self._notifications.network(context, "port.delete.start", {"port_id": port["id"]})
        self._ports.discard(port)
        former = self._ports.deleted(context, port)
        self._notifications.network(context, "port.delete.end", {"port": former, "port_id": port["id"]})

    def _update_port(self, port: Row, changes: Row) -> None:
        assert self.binder is not None, "the cloud names who binds before it listens"  # noqa: S101
        self._notifications.network(self.binder, "port.update.start", {"port": changes, "id": port["id"]})
        self._ports.apply(self.binder, port, changes)
        self._ports.touch(port, 2)
        self._notifications.network(self.binder, "port.update.end", {"port": dict(port)})
        self._ports.settle(self.binder, port)

    def _with_mtu(self, port: Row) -> Row:
        network = self._network.networks.table.get(port["network_id"])
        return {**port, "mtu": network["mtu"] if network else 1500}

    # Rows

    def _refresh(self, server: Row) -> None:
        addresses: dict[str, list[Row]] = {}
        for port in self.ports_of(server):
            network = self._network.networks.get(port["network_id"])
            for one in port["fixed_ips"]:
                addresses.setdefault(network["name"], []).append(
                    {
                        "version": 6 if ":" in one["ip_address"] else 4, "addr": one["ip_address"],
                        "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": port["mac_address"],
                    }
                )  # fmt: skip
        self._change(server, {"addresses": addresses})

    def _fail(self, context: Context, server: Row, why: str) -> None:
        fault = {"code": 500, "message": why, "created": self._now()}
        self._change(
            server,
            {"status": "ERROR", "OS-EXT-STS:vm_state": "error", "OS-EXT-STS:task_state": None, "fault": fault},
        )
        self._announce.event(context, server, "create.error")

    def _change(self, server: Row, changes: Row) -> None:
        if server["id"] in self.table:
            self.table.change(server, {**changes, "updated": self._now()})

    @staticmethod
    def _require_active(server: Row, action: str) -> None:
        if server["status"] != "ACTIVE":
            raise _conflict(action, server)

    def _now(self) -> str:
        return dt.datetime.fromtimestamp(self._options.clock(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_free(port: Row) -> None:
    if port["device_id"]:
        raise CloudError(409, "conflictingRequest", f"Port {port['id']} is still in use.")


def _check_owner(server: Row, ports: list[Row]) -> None:
    if any(port["project_id"] != server["tenant_id"] for port in ports):
        raise CloudError(500, "computeFault", f"Exceeded maximum number of retries for {server['id']}.")


def _conflict(action: str, server: Row) -> CloudError:
    return CloudError(
        409, "conflictingRequest",
        f"Cannot '{action}' instance {server['id']} while it is in vm_state {server['OS-EXT-STS:vm_state']}",
    )  # fmt: skip


async def _after(
    before: asyncio.Task[None] | None, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
) -> None:
    if before is not None:
        await asyncio.wait({before})
    await work(*arguments)
