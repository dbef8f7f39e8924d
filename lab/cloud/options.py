"""What can be set about the simulated cloud before it starts; nothing is read from the environment."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SERVICES = ("keystone", "neutron", "nova", "glance", "metadata", "lab")
"""The cloud's HTTP servers; with `port_base` n the i-th of them listens on n + i."""


@dataclass(frozen=True, slots=True)
class CloudOptions:
    """Settings of one simulated cloud. Times are seconds."""

    host: str = "127.0.0.1"
    advertise: str = ""
    """Name by which clients elsewhere reach the cloud, for the URLs that it tells; empty: `host`."""
    port_base: int = 0
    """First of six consecutive ports, in the order of `SERVICES`; 0 takes free ones."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Ports of single services, before `port_base`."""
    password: str = "lab"
    """Password of the accounts `admin` and `astara` and of every tenant that `SimulatedCloud.tenant` makes."""
    amqp_url: str | None = None
    """Broker to which notifications go; None publishes nothing."""
    metadata_secret: str = "lab-metadata-secret"
    boot_delay: float = 0.0
    """From the call to ACTIVE."""
    delete_delay: float = 0.0
    """From the call until the server is gone."""
    attach_delay: float = 0.0
    """How long Nova takes to answer an attach; a detach is finished that long after its answer."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """Added to every call of a service, by its name in `SERVICES`."""
    token_seconds: float = 3600.0
    segments: bool = False
    """Neutron has the extensions `segments` and `ip_allocation`: Nova plugs ports that have no address."""
    plugin: bool = False
    """Neutron has Astara's own plugin: snapshots, status write-back, `ip_allocation` on ports."""
    filter_validation: bool = True
    """As Neutron's option of that name: filters that are no attributes answer 400, `changed_since` among them."""
    management_cidr: str = "127.64.0.0/16"
    """Management addresses of appliances: loopback's, or those of a network of their own that the hypervisor has.

    Clouds that run at the same time on one machine need different ones.
    """
    hostname: str = "lab-host"
    """Nova's compute host, and the host in the publisher ids of notifications."""
    clock: Callable[[], float] = time.time
    new_id: Callable[[], str] = field(default=lambda: str(uuid.uuid4()))

    @property
    def ip_allocation(self) -> bool:
        """Whether Neutron says how a port got its addresses, so that Nova takes one that has none."""
        return self.segments or self.plugin
