"""The metadata proxies: one listener for each internal network, on port 9600 + the number of its interface."""

from typing import Any, ClassVar

from ..backend import State
from ..fields import version_of
from ..interfaces import InterfaceNames, number_of
from ..models import Configuration
from ..validation import FieldError
from .base import RecordedService

METADATA_ADDRESS = "169.254.169.254"
FIRST_PORT = 9600


def listeners(configuration: Configuration, names: InterfaceNames) -> list[dict[str, Any]]:
    """Network, interface, IPv4 address and port of each proxy that shall listen.

    An interface without a number or without an IPv4 address has none.
    """
    found = []
    for network in configuration.networks_of("internal"):
        ifname = names.of(network.interface)
        number = number_of(ifname)
        address = next((item for item in network.interface.addresses if version_of(item) == 4), None)
        if number is not None and address is not None:
            found.append(
                {
                    "network_id": network.network_id,
                    "ifname": ifname,
                    "address": address.partition("/")[0],
                    "port": FIRST_PORT + number,
                }
            )
    return found


class MetadataProxy(RecordedService):
    """Which proxies listen where, and to whom they forward."""

    __slots__ = ()
    name: ClassVar[str] = "metadata_proxy"

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """The number of an interface must give a port."""
        return [
            FieldError(f"networks[{index}].interface.ifname", "its number is too high for a metadata proxy's port")
            for index, network in enumerate(configuration.networks)
            if FIRST_PORT + (number_of(self._names.of(network.interface)) or 0) > 65535
        ]

    def render(self, configuration: Configuration) -> State:
        """The listeners and the orchestrator's addresses."""
        found = listeners(configuration, self._names)
        if not found:
            return {}
        orchestrator = self._boot.orchestrator
        return {"listeners": found, "forward_to": list(orchestrator.addresses), "port": orchestrator.metadata_port}
