"""Which instance has an address on a network: Neutron's ports say it.

openstacksdk blocks, so its calls run in a pool of threads of their own. It is used as a plain REST adapter.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException

from services.metadata.errors import TryAgainError


@dataclass(frozen=True, slots=True)
class Instance:
    """A server of Nova, and the project of its port."""

    instance_id: str
    project_id: str


class Instances(Protocol):
    """Finds instances."""

    async def find(self, network_id: str, address: str) -> Instance | None:
        """The instance with this address on this network, None when there is none. TryAgainError without an answer."""
        ...


class NeutronInstances:
    """Asks Neutron with at most `threads` calls at a time; the others wait. Close it at the end."""

    def __init__(self, connection: Any, threads: int) -> None:
        self._connection = connection
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="neutron")

    def close(self) -> None:
        """Drop the calls that wait and let the running ones end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, network_id: str, address: str) -> Instance | None:
        """The instance with this address on this network."""
        loop = asyncio.get_running_loop()
        try:
            ports = await loop.run_in_executor(self._threads, self._list, network_id, address)
        except (SDKException, ClientException, ValueError, KeyError) as error:
            raise TryAgainError(f"network {network_id}: Neutron: {type(error).__name__}: {error}") from error
        return choose(ports)

    def _list(self, network_id: str, address: str) -> list[dict[str, Any]]:
        response = self._connection.network.get(
            "/ports",
            params={
                "network_id": network_id,
                "fixed_ips": f"ip_address={address}",
                "fields": ["id", "device_id", "device_owner", "project_id", "tenant_id"],
            },
        )
        if response.status_code != 200:
            raise SDKException(f"listing ports: HTTP {response.status_code}")
        ports: list[dict[str, Any]] = response.json()["ports"]
        return ports


def choose(ports: list[dict[str, Any]]) -> Instance | None:
    """The one instance among the ports that have the address.

    Nova marks the ports of servers `compute:<zone>`. Should two servers have the address, neither is told the other's
    metadata.
    """
    found = {
        Instance(str(port["device_id"]), str(port.get("project_id") or port.get("tenant_id") or ""))
        for port in ports
        if port.get("device_id") and str(port.get("device_owner") or "").startswith("compute:")
    }
    return found.pop() if len(found) == 1 else None
