"""Prometheus metrics: one HTTP listener a service, off unless a port is set."""

from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import start_http_server

from services.common.settings import option


@dataclass(frozen=True)
class MetricsSettings:
    """Where a service shows its metrics."""

    group: ClassVar[str] = "metrics"

    port: int = option(0, help="TCP port for Prometheus; 0: none", minimum=0, maximum=65535)
    address: str = option("127.0.0.1", help="Address to listen on for Prometheus")


def serve(settings: MetricsSettings) -> None:
    """Begin to answer `GET /metrics` in a thread of its own, when a port is set."""
    if settings.port:
        start_http_server(settings.port, addr=settings.address)
