"""Nova's legacy notifications about servers, with the keys of the recordings of Nova 34."""

import datetime as dt
from typing import Any

from .notifications import Notifications
from .options import CloudOptions
from .store import Row
from .web import Context


class ServerNotifications:
    """Says what happens to servers."""

    def __init__(self, options: CloudOptions, notifications: Notifications) -> None:
        self._options = options
        self._notifications = notifications

    def update(self, context: Context, server: Row, old_state: str, old_task: str | None, new_task: str | None) -> None:
        """`compute.instance.update`: the state or the task changed."""
        if self._notifications.silent:
            return
        now = dt.datetime.fromtimestamp(self._options.clock(), dt.UTC).replace(tzinfo=None)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        payload = self._payload(server) | {
            "old_state": old_state,
            "old_task_state": old_task,
            "new_task_state": new_task,
            "audit_period_beginning": month.isoformat(timespec="microseconds"),
            "audit_period_ending": now.isoformat(timespec="microseconds"),
        }
        self._notifications.compute(context, "compute", "compute.instance.update", payload)

    def event(self, context: Context, server: Row, event: str) -> None:
        """`compute.instance.<event>`, for instance `create.end`."""
        if self._notifications.silent:
            return
        payload = self._payload(server)
        if event == "create.end":
            payload |= {"fixed_ips": _fixed_ips(server), "message": "Success"}
        elif event == "create.start":
            payload["image_name"] = ""
        self._notifications.compute(context, "compute", f"compute.instance.{event}", payload)

    def _payload(self, server: Row) -> dict[str, Any]:
        flavor = server["flavor"]
        image_id = server["image"]["id"] if server["image"] else ""
        return {
            "tenant_id": server["tenant_id"], "user_id": server["user_id"], "instance_id": server["id"],
            "display_name": server["name"], "reservation_id": f"r-{server['id'][:8]}", "hostname": server["name"],
            "instance_type": flavor["original_name"], "instance_type_id": 1, "instance_flavor_id": "1",
            "architecture": None, "memory_mb": flavor["ram"], "disk_gb": flavor["disk"], "vcpus": flavor["vcpus"],
            "root_gb": flavor["disk"], "ephemeral_gb": 0, "host": server["OS-EXT-SRV-ATTR:host"],
            "node": server["OS-EXT-SRV-ATTR:host"], "availability_zone": "nova", "cell_name": "",
            "created_at": server["created"].replace("T", " ").replace("Z", "+00:00"), "terminated_at": "",
            "deleted_at": "", "launched_at": server["OS-SRV-USG:launched_at"] or "",
            "image_ref_url": f"http://{self._options.host}/images/{image_id}", "os_type": None, "kernel_id": "",
            "ramdisk_id": "", "state": server["OS-EXT-STS:vm_state"],
            "state_description": server["OS-EXT-STS:task_state"] or "", "progress": "", "access_ip_v4": None,
            "access_ip_v6": None, "image_meta": {"base_image_ref": image_id}, "metadata": server["metadata"],
        }  # fmt: skip


def _fixed_ips(server: Row) -> list[dict[str, Any]]:
    return [
        {
            "address": one["addr"], "type": "fixed", "version": one["version"], "meta": {}, "floating_ips": [],
            "label": network, "vif_mac": one["OS-EXT-IPS-MAC:mac_addr"],
        }
        for network, addresses in server["addresses"].items()
        for one in addresses
    ]  # fmt: skip
