"""What happens to a server that Nova boots.

Nova's side calls a `Hypervisor`; it never waits for the machine to be up, only for the call to return.
`AppliancesInProcess` runs the agent of every server whose user data is an appliance's, all in this process, each on
the loopback address that it was told; servers with other user data have no inside.
"""

import base64
import binascii
import json
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from lab.hypervisor.userdata import BOOT_FILE, read_files

from .store import Row

LOG = logging.getLogger(__name__)


class Hypervisor(Protocol):
    """Carries servers. A port is Neutron's object with one more key, `mtu`, that of its network."""

    async def boot(self, server: Row, ports: Sequence[Row], user_data: str | None) -> None:
        """Start a server; `user_data` is decoded."""

    async def attach(self, server: Row, port: Row) -> None:
        """Plug a port into a running server."""

    async def detach(self, server: Row, port: Row) -> None:
        """Pull a port out of a running server."""

    async def reboot(self, server: Row) -> None:
        """Start a server anew with the ports that it has."""

    async def power(self, server: Row, *, on: bool) -> None:
        """Stop a server, or start one that was stopped."""

    async def destroy(self, server: Row) -> None:
        """End a server; nothing happens when it never ran."""

    def console(self, server: Row) -> str | None:
        """What a server wrote on its serial console, at once; None when it has none."""


class NoHypervisor:
    """Servers are entries in a table."""

    async def boot(self, server: Row, ports: Sequence[Row], user_data: str | None) -> None:
        """Nothing to start."""

    async def attach(self, server: Row, port: Row) -> None:
        """Nothing to plug into."""

    async def detach(self, server: Row, port: Row) -> None:
        """Nothing to pull out of."""

    async def reboot(self, server: Row) -> None:
        """Nothing to start anew."""

    async def power(self, server: Row, *, on: bool) -> None:
        """Nothing to start or to stop."""

    async def destroy(self, server: Row) -> None:
        """Nothing to end."""

    def console(self, server: Row) -> str | None:
        """No console."""


class ApplianceCarrier(Protocol):
    """What `astara_appliance.host.ApplianceHost` does: many agents in one process, each known by its instance id."""

    async def start(self, boot_json: dict[str, Any], interfaces: list[dict[str, Any]]) -> None:
        """Run an agent with these interfaces (`mac`, `mtu`, `name`)."""

    async def stop(self, instance_id: str) -> None:
        """End an agent."""

    async def plug(self, instance_id: str, mac: str, mtu: int) -> None:
        """Give an agent one more interface."""

    async def unplug(self, instance_id: str, mac: str) -> None:
        """Take an interface from an agent."""


class AppliancesInProcess:
    """Runs an appliance's agent for each server that was booted as one."""

    def __init__(self, carrier: ApplianceCarrier) -> None:
        self._carrier = carrier
        self._running: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}
        self._off: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}

    async def boot(self, server: Row, ports: Sequence[Row], user_data: str | None) -> None:
        """Start the agent named in the user data; other servers stay empty."""
        boot = appliance_boot(user_data)
        if boot is None:
            return
        interfaces = {port["mac_address"]: int(port["mtu"]) for port in ports}
        self._running[server["id"]] = (boot, interfaces)
        await self._carrier.start(boot, _interfaces(interfaces))

    async def attach(self, server: Row, port: Row) -> None:
        """Give the agent one more interface."""
        if server["id"] in self._running:
            boot, interfaces = self._running[server["id"]]
            interfaces[port["mac_address"]] = int(port["mtu"])
            await self._carrier.plug(boot["instance"], port["mac_address"], int(port["mtu"]))

    async def detach(self, server: Row, port: Row) -> None:
        """Take an interface from the agent."""
        if server["id"] in self._running:
            boot, interfaces = self._running[server["id"]]
            if interfaces.pop(port["mac_address"], None) is not None:
                await self._carrier.unplug(boot["instance"], port["mac_address"])

    async def reboot(self, server: Row) -> None:
        """End the agent and start it anew."""
        if server["id"] in self._running:
            boot, interfaces = self._running[server["id"]]
            await self._carrier.stop(boot["instance"])
            await self._carrier.start(boot, _interfaces(interfaces))

    async def power(self, server: Row, *, on: bool) -> None:
        """End the agent, or start it again."""
        if on and server["id"] in self._off:
            self._running[server["id"]] = boot, interfaces = self._off.pop(server["id"])
            await self._carrier.start(boot, _interfaces(interfaces))
        elif not on and server["id"] in self._running:
            self._off[server["id"]] = boot, _ = self._running.pop(server["id"])
            await self._carrier.stop(boot["instance"])

    async def destroy(self, server: Row) -> None:
        """End the agent."""
        self._off.pop(server["id"], None)
        if (running := self._running.pop(server["id"], None)) is not None:
            await self._carrier.stop(running[0]["instance"])

    def console(self, server: Row) -> str | None:
        """No console: the agents' logs are this process's."""

    async def kill(self, server_id: str) -> None:
        """End the agent while Nova still calls its server ACTIVE, as a crash in the machine does."""
        if (running := self._running.pop(server_id, None)) is not None:
            await self._carrier.stop(running[0]["instance"])

    async def close(self) -> None:
        """End all agents."""
        while self._running:
            _, (boot, _) = self._running.popitem()
            await self._carrier.stop(boot["instance"])


def appliance_boot(user_data: str | None) -> dict[str, Any] | None:
    """The content of `/etc/astara/appliance.json` in cloud-config user data; None when there is none."""
    if not user_data or BOOT_FILE not in user_data:
        return None
    try:
        for file in read_files(user_data):
            if file.path == BOOT_FILE:
                boot: dict[str, Any] = json.loads(file.content)
                return boot
    except ValueError as error:
        LOG.warning("user data cannot be read: %s", type(error).__name__)
    return None


def decode_user_data(encoded: str | None) -> str | None:
    """User data as Nova's API carries it; None when it is no base64 text."""
    if not encoded:
        return None
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _interfaces(macs: dict[str, int]) -> list[dict[str, Any]]:
    return [{"mac": mac, "mtu": mtu, "name": f"eth{n}"} for n, (mac, mtu) in enumerate(macs.items())]
