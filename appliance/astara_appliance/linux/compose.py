"""All of a machine's effects, put together."""

import secrets
from pathlib import Path

from ..boot import BootData
from .announce import Announcer
from .backend import LinuxBackend
from .bird import BgpEffect, Bird, RaEffect
from .dhcp import DhcpEffect
from .effect import Effect, Machine
from .firewall import FirewallEffect
from .interfaces import InterfacesEffect
from .links import Links
from .metadata_proxy import MetadataProxyEffect
from .probe import Prober
from .routes import RoutesEffect
from .rtnetlink import Rtnetlink


def compose(boot: BootData, runtime: Path, state: Path) -> LinuxBackend:
    """The machine that this process runs on, in its network namespace; nothing is looked at or changed yet.

    `runtime` and `state` are those of `effect.Machine`. Must be called on the loop that will use it. Raises
    `BackendError` when the kernel gives none of the sockets that are needed.
    """
    machine = Machine(boot, runtime, state)
    links, rtnetlink = Links(), Rtnetlink()
    prober = Prober(links, rtnetlink, boot.probes, secrets.randbits(16))
    firewall, bird = FirewallEffect(machine), Bird(machine)
    effects: list[Effect] = [
        firewall,
        InterfacesEffect(machine, links, rtnetlink, Announcer(), lambda: backend.forget("routes")),
        RoutesEffect(links, rtnetlink),
        DhcpEffect(machine),
        RaEffect(machine, bird),
        BgpEffect(machine, bird),
        MetadataProxyEffect(machine),
    ]
    backend = LinuxBackend(machine, links, rtnetlink, effects, firewall, prober)
    return backend
