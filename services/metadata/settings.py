"""The metadata service's settings, sections [metadata] and [appliance] of the ini file."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from services.common.settings import SettingsError, option


@dataclass(frozen=True)
class MetadataSettings:
    """How instances' metadata is answered."""

    group: ClassVar[str] = "metadata"

    shared_secret: str = option(
        help="Nova's [neutron] metadata_proxy_shared_secret, with which instance ids are signed", secret=True
    )
    listen: tuple[str, ...] = option(
        ("127.0.0.1", "::1"), help="Addresses to listen on, without port; appliances reach one of them"
    )
    port: int = option(9697, help="TCP port on each of these addresses", minimum=1, maximum=65535)
    grpc_listen: str = option("127.0.0.1:44256", help="Where gRPC health, reflection and channelz listen, host:port")
    nova_metadata_url: str = option("http://127.0.0.1:8775", help="Nova's metadata API, without path")
    nova_timeout: float = option(10.0, help="Seconds for one answer of Nova's metadata API", minimum=0.1, maximum=60.0)
    neutron_threads: int = option(8, help="Calls to Neutron at once", minimum=1, maximum=256)
    instance_ttl: float = option(
        10.0,
        help="Seconds for which the instance behind an address is remembered; an address that changes hands within "
        "them is answered as its former owner",
        minimum=0.0,
        maximum=300.0,
    )
    no_instance_ttl: float = option(
        2.0, help="Seconds for which it is remembered that an address has no instance", minimum=0.0, maximum=60.0
    )
    resource_ttl: float = option(
        2.0, help="Seconds for which the scheduler's answer about a router is remembered", minimum=0.0, maximum=60.0
    )
    cache_size: int = option(50_000, help="Addresses, and routers, remembered at most", minimum=1, maximum=10_000_000)
    max_requests: int = option(1_000, help="Requests at a time; more are answered 503", minimum=1, maximum=100_000)
    max_requests_per_resource: int = option(
        64, help="Requests at a time of one router's instances; more are answered 503", minimum=1, maximum=10_000
    )


@dataclass(frozen=True)
class ApplianceSecretSettings:
    """What the worker derives appliances' tokens from; the other options of this section are the worker's."""

    group: ClassVar[str] = "appliance"
    partial: ClassVar[bool] = True

    secret: str = option(help="Key from which appliances' tokens are derived; at least 16 characters", secret=True)


def check(settings: MetadataSettings, appliance: ApplianceSecretSettings) -> None:
    """Raise SettingsError for what would let the service start and answer nothing, or anybody."""
    if not settings.listen:
        raise SettingsError("[metadata] listen names no address")
    if not settings.shared_secret:
        raise SettingsError("[metadata] shared_secret is empty: Nova would refuse every request")
    if len(appliance.secret) < 16:
        raise SettingsError("[appliance] secret wants at least 16 characters")
    url = urlsplit(settings.nova_metadata_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query or url.username:
        raise SettingsError(
            f"[metadata] nova_metadata_url {settings.nova_metadata_url!r} is not http(s)://host[:port] without path"
        )
