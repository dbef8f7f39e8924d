"""The simulated Nova's way to real machines: every server is a machine of `lab.hypervisor`. Needs root.

A server's ports are plugged into the bridges of their networks. The first port on an external network puts the world
outside behind it, with the gateway addresses of that network's subnets.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any

from lab.hypervisor.errors import HypervisorError
from lab.hypervisor.hypervisor import Hypervisor
from lab.hypervisor.machine import Machine, Port
from lab.hypervisor.userdata import read_files
from lab.wires import WireError

from .neutron import NetworkService
from .store import Row


class NamespaceHypervisor:
    """Carries servers as machines; what the hypervisor refuses is an OSError, as a machine's own troubles are."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._network: NetworkService | None = None

    async def open(self, network: NetworkService, management_network_id: str, management_cidr: str) -> None:
        """Forget the machines of an earlier cloud, and plug this process into the management network."""
        self._network = network
        await self._do(self._hypervisor.clear)
        first = f"{ipaddress.ip_network(management_cidr)[1]}/{ipaddress.ip_network(management_cidr).prefixlen}"
        await self._do(self._hypervisor.reach, management_network_id, [first])

    async def boot(self, server: Row, ports: Sequence[Row], user_data: str | None) -> None:
        """Make a machine; ValueError when the user data cannot be read."""
        for port in ports:
            await self._have_outside(port)
        plugs = tuple(_port(port) for port in ports)
        await self._do(self._hypervisor.boot, Machine(server["id"], server["name"], read_files(user_data), plugs))

    async def attach(self, server: Row, port: Row) -> None:
        """Plug a port into the machine."""
        await self._have_outside(port)
        await self._do(self._hypervisor.attach, server["id"], _port(port))

    async def detach(self, server: Row, port: Row) -> None:
        """Pull a port out of the machine."""
        await self._do(self._hypervisor.detach, server["id"], port["id"])

    async def reboot(self, server: Row) -> None:
        """Shut the machine down and start it."""
        await self._do(self._hypervisor.reboot, server["id"])

    async def power(self, server: Row, *, on: bool) -> None:
        """Start the machine, or shut it down."""
        await self._do(self._hypervisor.power, server["id"], on=on)

    async def destroy(self, server: Row) -> None:
        """End the machine and remove its disk."""
        await self._do(self._hypervisor.destroy, server["id"])

    def console(self, server: Row) -> str | None:
        """What the machine wrote on its console."""
        try:
            return self._hypervisor.console(server["id"])
        except HypervisorError:
            return None

    async def close(self) -> None:
        """Destroy all machines, and leave nothing behind."""
        await self._do(self._hypervisor.close)

    async def _have_outside(self, port: Row) -> None:
        if self._network is None:
            return
        network = self._network.networks.table.get(port["network_id"])
        if network is None or not network["router:external"]:
            return
        subnets = self._network.subnets.table.find("network_id", network["id"])
        gateways = [
            f"{subnet['gateway_ip']}/{ipaddress.ip_network(subnet['cidr']).prefixlen}"
            for subnet in subnets
            if subnet["gateway_ip"]
        ]
        await self._do(self._hypervisor.outside, network["id"], gateways)

    @staticmethod
    async def _do(verb: Any, *arguments: Any, **named: Any) -> None:
        try:
            await asyncio.to_thread(verb, *arguments, **named)
        except (HypervisorError, WireError) as error:
            raise OSError(str(error)) from error


def _port(port: Row) -> Port:
    return Port(port["id"], port["network_id"], port["mac_address"], int(port["mtu"]))
