"""The world outside of a lab's external networks: their upstream router, and a host on "the Internet" behind it.

The upstream router has the gateway addresses of the external networks' subnets. Of tenants' addresses it knows what
their routers teach it by BGP, and nothing else: what leaves a tenant untranslated and untaught gets no answer, as in
the real world. The host answers on port 80 and says whom it sees.
"""

import contextlib
import ipaddress
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.wires import Fabric, Namespace, WireError

INTERNET = ("203.0.113.80", "2001:db8:ffff::80")
"""Addresses of the host on the Internet (RFC 5737, RFC 3849)."""

ASN = 64512
"""The upstream router's AS number and that of the routers it listens to: the default of both in Astara."""

_ROUTER = ("203.0.113.1/24", "2001:db8:ffff::1/64")
_HOST = ("203.0.113.80/24", "2001:db8:ffff::80/64")
_BRIDGE = "internet"


class Outside:
    """Upstream router and host of one fabric; `folder` keeps the router's files."""

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self._fabric = fabric
        self._folder = folder
        self.router = fabric.machine("outside", found=True)
        self.internet = fabric.machine("internet", found=True)

    def plug(self, bridge: str, addresses: Sequence[str]) -> str:
        """Give an external network these addresses (CIDR) as its gateways; answers with the device's name."""
        if not self.router.path.exists():
            self._make()
        device = f"ext{secrets.token_hex(3)}"
        self._fabric.plug(bridge, self.router, device)
        _set_up(self.router, device, addresses)
        return device

    def add(self, device: str, addresses: Iterable[str]) -> None:
        """Give an external network more gateways."""
        _set_up(self.router, device, addresses)

    def listen(self, networks: Mapping[str, Iterable[str]]) -> None:
        """Speak BGP with whoever calls from an external network; `networks` are all gateways (CIDR) by device."""
        ranges = [ipaddress.ip_interface(address).network for addresses in networks.values() for address in addresses]
        self._folder.mkdir(exist_ok=True)
        configuration, control = self._folder / "bird.conf", str(self._folder / "bird.ctl")
        configuration.write_text(_bird(ranges), encoding="ascii")
        if self.router.run("birdc", "-s", control, "configure", check=False).returncode != 0:
            self.router.run("bird", "-c", str(configuration), "-s", control)

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


def _bird(ranges: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> str:
    sessions = "".join(
        f"""\
protocol bgp range{number} {{
  local as {ASN};
  neighbor range {network} as {ASN};
  dynamic name "router{number}_";
  direct;
  ipv{network.version} {{ import where net.len > 0; export none; }};
}}
"""
        for number, network in enumerate(ranges)
    )
    kernels = "".join(
        f"protocol kernel {{ ipv{version} {{ import none; export where source = RTS_BGP; }}; }}\n" for version in (4, 6)
    )
    return f"router id {_ROUTER[0].partition('/')[0]};\nprotocol device {{ }}\n{kernels}{sessions}"


def _set_up(namespace: Namespace, device: str, addresses: Iterable[str]) -> None:
    namespace.ip("link", "set", device, "up")
    for address in addresses:
        # Nobody else has these, and they are wanted at once.
        namespace.ip("address", "replace", address, "dev", device, *(("nodad",) if ":" in address else ()))
