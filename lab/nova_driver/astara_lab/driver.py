"""A Nova virt driver without VMs: every server is a machine of Astara's lab, made of namespaces.

The driver holds no state: which machines there are and how they fare is asked of the hypervisor, so nova-compute may be
restarted at any time. A port is plugged into the bridge of its network, whatever mechanism driver bound it. User data
goes to the hypervisor as a config drive would bring it; images and volumes are not looked at.
"""

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import nova.conf
import os_resource_classes as orc
from nova import exception
from nova.compute import power_state
from nova.objects import fields
from nova.virt import driver, hardware
from oslo_config import cfg
from oslo_log import log
from oslo_serialization import jsonutils

from .client import Client, RefusedError, UnknownMachineError

LOG = log.getLogger(__name__)
CONF = nova.conf.CONF
CONF.register_opts(
    [cfg.StrOpt("socket", default="/run/astara-lab/socket", help="Where the lab's hypervisor listens")],
    group="astara_lab",
)

MACHINES_PER_CPU = 64
"""A machine is a few sleeping processes: many share a processor."""

_STATES = {"running": power_state.RUNNING, "off": power_state.SHUTDOWN, "crashed": power_state.CRASHED}


class NamespaceDriver(driver.ComputeDriver):  # type: ignore[misc]  # Nova has no types
    """Boots, plugs, reboots and destroys machines through the hypervisor's socket."""

    capabilities = {  # noqa: RUF012 - as Nova declares it
        **driver.ComputeDriver.capabilities,
        "has_imagecache": False,
        "supports_attach_interface": True,
        "supports_image_type_raw": True,
        "supports_image_type_qcow2": True,
    }

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        self._hypervisor = Client(CONF.astara_lab.socket)

    def init_host(self, host: str) -> None:
        """Nothing to prepare; say where machines come from."""
        LOG.info("machines of %s are made by the hypervisor at %s", host, CONF.astara_lab.socket)

    # What there is

    def list_instances(self) -> list[str]:
        """Names of all machines."""
        return [machine["name"] for machine in self._hypervisor.ask("machines")]

    def list_instance_uuids(self) -> list[str]:
        """Ids of all machines, which are Nova's of the servers."""
        return [machine["id"] for machine in self._hypervisor.ask("machines")]

    def get_num_instances(self) -> int:
        """How many machines there are."""
        return len(self.list_instance_uuids())

    def instance_exists(self, instance: Any) -> bool:
        """Whether a server has its machine."""
        return instance.uuid in self.list_instance_uuids()

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:  # noqa: ARG002 - Nova's signature
        """Power state of a machine; InstanceNotFound."""
        try:
            machine = self._hypervisor.ask("machine", machine_id=instance.uuid)
        except UnknownMachineError:
            raise exception.InstanceNotFound(instance_id=instance.uuid) from None
        return hardware.InstanceInfo(state=_STATES[machine["state"]])

    def get_console_output(self, context: Any, instance: Any) -> bytes:  # noqa: ARG002
        """What the machine wrote on its console."""
        try:
            return str(self._hypervisor.ask("console", machine_id=instance.uuid)).encode()
        except UnknownMachineError:
            raise exception.InstanceNotFound(instance_id=instance.uuid) from None

    # A machine's life

    def spawn(
        self, context: Any, instance: Any, image_meta: Any, injected_files: Any,  # noqa: ARG002
        admin_password: Any, allocations: Any, network_info: Any = None, block_device_info: Any = None,  # noqa: ARG002
        power_on: bool = True, accel_info: Any = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Boot a machine with the server's ports and user data. InstanceDeployFailure."""
        user_data = base64.b64decode(instance.user_data).decode() if instance.user_data else None
        ports = [_port(vif) for vif in network_info or ()]
        try:
            self._hypervisor.ask(
                "boot", machine_id=instance.uuid, name=instance.display_name, ports=ports, user_data=user_data
            )
            if not power_on:
                self._hypervisor.ask("power", machine_id=instance.uuid, on=False)
        except RefusedError as error:
            raise exception.InstanceDeployFailure(reason=str(error)) from error

    def destroy(
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any = None,  # noqa: ARG002
        destroy_disks: bool = True, destroy_secrets: bool = True,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """End a machine. InstanceTerminationFailure."""
        try:
            self._hypervisor.ask("destroy", machine_id=instance.uuid)
        except RefusedError as error:
            raise exception.InstanceTerminationFailure(reason=str(error)) from error

    def cleanup(
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any = None,
        destroy_disks: bool = True, migrate_data: Any = None, destroy_vifs: bool = True,  # noqa: ARG002
        destroy_secrets: bool = True,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """A machine takes everything with it; one that could not be spawned as well."""
        self.destroy(context, instance, network_info, block_device_info)

    def reboot(
        self, context: Any, instance: Any, network_info: Any, reboot_type: str,  # noqa: ARG002
        block_device_info: Any = None, bad_volumes_callback: Any = None, accel_info: Any = None,  # noqa: ARG002
        share_info: Any = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Start a machine anew. InstanceRebootFailure."""
        try:
            self._hypervisor.ask("reboot", machine_id=instance.uuid, hard=reboot_type.lower() == "hard")
        except RefusedError as error:
            raise exception.InstanceRebootFailure(reason=str(error)) from error

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:  # noqa: ARG002
        """Shut a machine down. InstancePowerOffFailure."""
        try:
            self._hypervisor.ask("power", machine_id=instance.uuid, on=False)
        except RefusedError as error:
            raise exception.InstancePowerOffFailure(reason=str(error)) from error

    def power_on(
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any = None,  # noqa: ARG002
        accel_info: Any = None, share_info: Any = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Start a machine that is off. InstancePowerOnFailure."""
        try:
            self._hypervisor.ask("power", machine_id=instance.uuid, on=True)
        except RefusedError as error:
            raise exception.InstancePowerOnFailure(reason=str(error)) from error

    def resume_state_on_host_boot(
        self, context: Any, instance: Any, network_info: Any, share_info: Any, block_device_info: Any = None
    ) -> None:
        """Start a machine that ran before the whole computer stopped."""
        self.power_on(context, instance, network_info, block_device_info, share_info=share_info)

    # Interfaces

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:  # noqa: ARG002
        """Plug a port into a machine. InterfaceAttachFailed."""
        try:
            self._hypervisor.ask("attach", machine_id=instance.uuid, port=_port(vif))
        except RefusedError as error:
            LOG.warning("port %s: %s", vif["id"], error, instance=instance)
            raise exception.InterfaceAttachFailed(instance_uuid=instance.uuid) from error

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:  # noqa: ARG002
        """Pull a port out of a machine. InterfaceDetachFailed."""
        try:
            self._hypervisor.ask("detach", machine_id=instance.uuid, port_id=vif["id"])
        except UnknownMachineError:
            return
        except RefusedError as error:
            LOG.warning("port %s: %s", vif["id"], error, instance=instance)
            raise exception.InterfaceDetachFailed(instance_uuid=instance.uuid) from error

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Have all ports plugged that a server has; Nova asks for this when it starts."""
        for vif in network_info:
            try:
                self._hypervisor.ask("attach", machine_id=instance.uuid, port=_port(vif))
            except RefusedError as error:
                LOG.warning("port %s is not plugged: %s", vif["id"], error, instance=instance)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Wires go with their machine."""

    # The host

    def get_available_nodes(self, refresh: bool = False) -> list[str]:  # noqa: ARG002
        """One node, named as the host."""
        return [CONF.host]

    def get_host_ip_addr(self) -> str:
        """The host's own address."""
        return str(CONF.my_ip)

    def get_host_uptime(self) -> str:
        """As uptime(1) prints it, for what Nova's API shows."""
        seconds = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        days, rest = divmod(int(seconds), 86_400)
        load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
        return f"up {days} days, {rest // 3600}:{rest % 3600 // 60:02d}, load average: {load}"

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """What this computer has, for Nova's table of compute nodes."""
        total = _resources()
        return {
            "hypervisor_type": "namespaces", "hypervisor_version": 1, "hypervisor_hostname": nodename,
            "vcpus": total["VCPU"], "memory_mb": total["MEMORY_MB"], "local_gb": total["DISK_GB"],
            "vcpus_used": 0, "memory_mb_used": 0, "local_gb_used": 0, "disk_available_least": total["DISK_GB"],
            "cpu_info": jsonutils.dumps({"arch": fields.Architecture.from_host()}), "numa_topology": None,
            "supported_instances": [
                (fields.Architecture.from_host(), fields.HVType.LXC, fields.VMMode.EXE),
            ],
        }  # fmt: skip

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:  # noqa: ARG002
        """Tell Placement what this computer has."""
        reserved = {
            orc.VCPU: CONF.reserved_host_cpus,
            orc.MEMORY_MB: CONF.reserved_host_memory_mb,
            orc.DISK_GB: self._get_reserved_host_disk_gb_from_config(),
        }
        provider_tree.update_inventory(
            nodename,
            {
                name: {
                    "total": total, "min_unit": 1, "max_unit": total, "step_size": 1, "allocation_ratio": 1.0,
                    "reserved": reserved[name],
                }
                for name, total in _resources().items()
            },
        )  # fmt: skip


def _resources() -> dict[str, int]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return {
        orc.VCPU: (os.cpu_count() or 1) * MACHINES_PER_CPU,
        orc.MEMORY_MB: memory,
        orc.DISK_GB: max(1, shutil.disk_usage(CONF.state_path).total // 2**30),
    }


def _port(vif: Any) -> dict[str, Any]:
    network = vif["network"]
    return {
        "id": vif["id"],
        "network_id": network["id"],
        "mac": vif["address"],
        "mtu": int(network.get_meta("mtu") or 1500),
    }
