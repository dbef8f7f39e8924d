"""The worker's settings, sections [worker], [router] and [appliance] of the ini file."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.settings import option

AUTO = "auto"
APPLIANCE = "appliance"
NEUTRON = "neutron"


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works."""

    group: ClassVar[str] = "worker"

    name: str = option("", help="Name of this worker, unique and constant over restarts; empty: the host's name")
    listen: str = option("127.0.0.1:44254", help="Where the worker's gRPC server (health, reflection) listens")
    max_running: int = option(256, help="Resources that are worked on at once", minimum=1, maximum=10_000)
    neutron_threads: int = option(16, help="Calls to Neutron at once", minimum=1, maximum=256)
    nova_threads: int = option(16, help="Calls to Nova at once", minimum=1, maximum=256)
    nova_plug_threads: int = option(
        4, help="Calls to Nova at once that attach, detach or delete", minimum=1, maximum=64
    )
    first_retry: float = option(2.0, help="Seconds before a failed step is tried again; doubles", minimum=0.1)
    last_retry: float = option(1800.0, help="Most seconds between two tries", minimum=1.0, maximum=1800.0)
    outage_retry: float = option(
        60.0,
        help="The same while Neutron, Nova or Glance does not answer, or fails by itself",
        minimum=1.0,
        maximum=1800.0,
    )
    status_interval: float = option(0.05, help="Seconds for which status reports are gathered", minimum=0.0)
    capacity: int = option(0, help="Resources this worker can care for; 0: no limit", minimum=0)
    unexplained_removals: int = option(
        5,
        help="Removals an hour that no DELETE event explains (or 2 %, if more) before an operator is awaited",
        minimum=0,
    )


@dataclass(frozen=True)
class RouterSettings:
    """What a router's instance is made of."""

    group: ClassVar[str] = "router"

    image_id: str = option(help="Glance image (id) of the appliance")
    flavor: str = option(help="Nova flavor (id or name) of the appliance")
    management_network_id: str = option(help="Neutron network (id) on which appliances are managed")
    management_security_groups: tuple[str, ...] = option((), help="Security groups (ids) of management ports")
    availability_zone: str = option("", help="Nova availability zone of instances; empty: Nova chooses")
    ssh_public_key: str = option("", help="SSH public key for the user astara in the appliance")
    orchestrator_addresses: tuple[str, ...] = option(
        ("fdca:3ba5:a17a:acda::1",), help="Addresses at which appliances reach the metadata service"
    )
    metadata_port: int = option(9697, help="Port of the metadata service", minimum=1, maximum=65535)
    boot_timeout: float = option(
        300.0, help="Seconds until an instance that does not answer counts as failed", minimum=1
    )
    boot_look_interval: float = option(1.0, help="Seconds between two looks at a booting instance", minimum=0.05)
    boot_attempts: int = option(4, help="Boots that may fail before the router cools down in ERROR", minimum=1)
    replug_timeout: float = option(60.0, help="Seconds until Nova must take a port, the appliance see it", minimum=1)
    stop_timeout: float = option(
        120.0, help="Seconds until a deleted server must be gone; then it is deleted anew", minimum=1
    )
    dhcp: str = option(
        AUTO,
        help="Who serves DHCP on subnets that have it enabled; auto: appliances, unless OVN does",
        choices=(AUTO, APPLIANCE, NEUTRON),
    )
    asn: int = option(64512, help="AS number of appliances", minimum=1, maximum=4_294_967_294)
    neighbor_asn: int = option(64512, help="AS number of their upstream", minimum=1, maximum=4_294_967_294)


@dataclass(frozen=True)
class ApplianceSettings:
    """How appliances are called."""

    group: ClassVar[str] = "appliance"

    secret: str = option(help="Key from which appliances' tokens are derived; at least 16 characters", secret=True)
    port: int = option(5000, help="Port of the appliance's API", minimum=1, maximum=65535)
    alive_timeout: float = option(3.0, help="Seconds for one question whether an appliance is alive", minimum=0.1)
    alive_retries: int = option(3, help="Questions without answer before Nova is asked", minimum=1, maximum=20)
    alive_retry_interval: float = option(1.0, help="Seconds between these questions", minimum=0.0)
    dead_after: float = option(
        20.0, help="Seconds without answer until an instance that Nova calls ACTIVE is dead", minimum=0.0
    )
    config_timeout: float = option(15.0, help="Seconds for one push", minimum=1.0, maximum=60.0)
    tls_ca: str = option(
        "",
        help="File with the authorities that sign the certificates of appliances and workers (PEM); it switches TLS on",
    )
    tls_cert: str = option("", help="File with the certificate chain that the worker shows to appliances (PEM)")
    tls_key: str = option("", help="File with its private key (PEM)")
    tls_appliance_cert: str = option("", help="File with the certificate chain that new appliances are given (PEM)")
    tls_appliance_key: str = option("", help="File with its private key (PEM)")
    tls_appliance_name: str = option("astara-appliance", help="The name in the appliances' certificate")
