"""health's settings, section [health] of the ini file."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.settings import option


@dataclass(frozen=True)
class HealthSettings:
    """How often health looks, and at how much at once."""

    group: ClassVar[str] = "health"

    listen: str = option("127.0.0.1:44253", help="Where health's gRPC server (health, reflection) listens")
    full_interval: float = option(300.0, help="Seconds between two listings of everything", minimum=0.1)
    changed_interval: float = option(30.0, help="Seconds between two looks at what changed", minimum=0.1)
    overlap: float = option(60.0, help="Seconds by which looks at what changed overlap: clocks differ", minimum=0.0)
    poll_interval: float = option(60.0, help="Seconds in which every resource is polled once; 0: never", minimum=0.0)
    page_size: int = option(1000, help="Objects a page when listing", minimum=1, maximum=10_000)
    threads: int = option(4, help="Calls to the cloud at once", minimum=1, maximum=64)
    trusted_share: float = option(
        0.9, help="A full listing with less than this share of the routers known is not believed at once", minimum=0.0
    )
