"""What health counts."""

from typing import Final

from prometheus_client import Counter, Gauge

LISTINGS: Final = Counter(
    "astara_health_listings", "Listings of the cloud, by kind and what became of them", ["kind", "outcome"]
)
SECONDS: Final = Gauge("astara_health_listing_seconds", "How long the last listing took", ["kind"])
RESOURCES: Final = Gauge("astara_health_resources", "Resources that the claim rule covers")
FINDINGS: Final = Gauge("astara_health_findings", "Servers and ports with our mark that nobody needs", ["finding"])
MOVED: Final = Counter("astara_health_moved", "Resources and networks that changed since the last look", ["what"])
POLLS: Final = Counter("astara_health_polls", "POLL events published")
LISTENING: Final = Gauge("astara_health_listening", "1 while the scheduler listens to this lister")
