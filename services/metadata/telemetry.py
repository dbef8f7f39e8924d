"""What the service counts for Prometheus."""

from collections.abc import Callable

from prometheus_client import Counter, Histogram

REQUESTS = Counter("astara_metadata_requests", "Requests answered", ("status",))
SECONDS = Histogram("astara_metadata_request_seconds", "Time until a request was answered")
LOOKUPS = Counter(
    "astara_metadata_lookups",
    "Questions about resources (to the scheduler) and instances (to Neutron): answered from memory, joined to one that "
    "was on its way, or asked",
    ("about", "how"),
)


def counter(about: str) -> Callable[[str], None]:
    """Counts how questions about one thing were answered."""
    return lambda how: LOOKUPS.labels(about, how).inc()
