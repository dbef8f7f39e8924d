"""The world outside of a lab's external networks: their upstream router, and a host on "the Internet" behind it.

The router has the gateway addresses of the external networks' subnets. It knows no tenant's addresses: what leaves a
tenant untranslated gets no answer, as in the real world. The host answers on port 80 and says whom it sees.
"""

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Sequence

from lab.wires import Fabric, Namespace, WireError

INTERNET = ("203.0.113.80", "2001:db8:ffff::80")
"""Addresses of the host on the Internet (RFC 5737, RFC 3849)."""

_ROUTER = ("203.0.113.1/24", "2001:db8:ffff::1/64")
_HOST = ("203.0.113.80/24", "2001:db8:ffff::80/64")
_BRIDGE = "internet"


class Outside:
    """Router and host of one fabric."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.router = fabric.machine("outside", found=True)
        self.internet = fabric.machine("internet", found=True)

    def plug(self, bridge: str, addresses: Sequence[str]) -> None:
        """Give an external network these addresses (CIDR) as its gateways."""
        if not self.router.path.exists():
            self._make()
        device = f"ext{secrets.token_hex(3)}"
        self._fabric.plug(bridge, self.router, device)
        _set_up(self.router, device, addresses)

    def close(self) -> None:
        """Remove both."""
        self.internet.close()
        self.router.close()
        self._fabric.remove_bridge(_BRIDGE)

    def _make(self) -> None:
        with contextlib.suppress(WireError):
            self.close()
        for name in ("outside", "internet"):
            self._fabric.machine(name)
        self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self._fabric.bridge(_BRIDGE)
        for namespace, addresses in ((self.router, _ROUTER), (self.internet, _HOST)):
            self._fabric.plug(_BRIDGE, namespace, "eth0")
            _set_up(namespace, "eth0", addresses)
        for gateway in _ROUTER:
            self.internet.ip("route", "add", "default", "via", gateway.partition("/")[0])
        # In a session of its own and nobody's child: it outlives this process.
        answering = (sys.executable, "-m", "lab.hypervisor.responder", "internet")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        self.internet.start("setsid", "--fork", *answering, **quiet).wait()


def _set_up(namespace: Namespace, device: str, addresses: Sequence[str]) -> None:
    namespace.ip("link", "set", device, "up")
    for address in addresses:
        # Nobody else has these, and they are wanted at once.
        namespace.ip("address", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))
