"""Gives the servers of a real Nova an inside: an appliance for each server that Nova calls ACTIVE.

A control plane without hypervisor boots servers that are only entries in a database. This process, started as
`python -m lab.real_cloud --cloud NAME`, lists the servers that carry an appliance's user data, and runs an agent for
each on the loopback address named there. It plugs and unplugs as Nova's attachments come and go, and ends the agents
whose servers are gone. What Neutron and Nova were told is thereby answered by the agents that Astara talks to.
"""

import argparse
import asyncio
import logging
import signal
from typing import Any

import openstack
from astara_appliance.host import ApplianceHost
from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

from lab.cloud.hypervisor import appliance_boot, decode_user_data

LOG = logging.getLogger(__name__)

_USER_DATA_VERSION = "2.3"


class ApplianceFollower:
    """Makes the agents on this machine follow the servers in Nova."""

    def __init__(self, connection: Connection, host: ApplianceHost) -> None:
        self._connection = connection
        self._host = host
        self._running: dict[str, tuple[str, dict[str, int]]] = {}

    async def follow(self, interval: float) -> None:
        """Look every `interval` seconds; a look that fails is logged and the agents stay as they are."""
        while True:
            try:
                await self.look()
            except (ClientException, SDKException, ValueError, OSError) as error:
                LOG.warning("Nova's servers cannot be followed: %s", error)
            await asyncio.sleep(interval)

    async def look(self) -> None:
        """Make agents and servers agree once."""
        servers = await asyncio.to_thread(self._servers)
        for server_id in set(self._running) - {str(server["id"]) for server in servers}:
            instance, _ = self._running.pop(server_id)
            await self._host.stop(instance)
            LOG.info("server %s is gone", server_id)
        for server in servers:
            if server["status"] == "ACTIVE":
                await self._agree(server)

    async def _agree(self, server: dict[str, Any]) -> None:
        server_id = str(server["id"])
        macs = await asyncio.to_thread(self._macs, server_id)
        if server_id not in self._running:
            boot = appliance_boot(decode_user_data(server.get("OS-EXT-SRV-ATTR:user_data")))
            if boot is None or boot["management"]["mac"] not in macs:
                return
            await self._host.start(boot, [{"mac": mac, "mtu": 1450} for mac in macs])
            self._running[server_id] = (boot["instance"], dict.fromkeys(macs, 1450))
            LOG.info("server %s runs as instance %s", server_id, boot["instance"])
            return
        instance, plugged = self._running[server_id]
        for mac in set(macs) - set(plugged):
            await self._host.plug(instance, mac, 1450)
            plugged[mac] = 1450
        for mac in set(plugged) - set(macs):
            await self._host.unplug(instance, mac)
            del plugged[mac]

    def _servers(self) -> list[dict[str, Any]]:
        answer = self._connection.compute.get(
            "/servers/detail", params={"all_tenants": "1", "name": "^astara-"}, microversion=_USER_DATA_VERSION
        )
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["servers"]
        return found

    def _macs(self, server_id: str) -> list[str]:
        answer = self._connection.compute.get(f"/servers/{server_id}/os-interface")
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        return [str(entry["mac_addr"]) for entry in answer.json()["interfaceAttachments"]]


async def _run(cloud: str, interval: float) -> None:
    host = ApplianceHost(metadata=True)
    with openstack.connect(cloud=cloud) as connection:
        following = asyncio.create_task(ApplianceFollower(connection, host).follow(interval))
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await stopping.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await host.close()


def main() -> None:
    """Parse the command line and follow until a signal."""
    parser = argparse.ArgumentParser(prog="python -m lab.real_cloud", description=__doc__)
    parser.add_argument("--cloud", required=True, help="name of an admin's cloud in clouds.yaml")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks (default 0.5)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_run(arguments.cloud, arguments.interval))


if __name__ == "__main__":
    main()
