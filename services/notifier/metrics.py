"""What the notifier counts."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

MESSAGES: Final = Counter(
    "astara_notifier_messages", "Messages read from the broker, by what became of them", ["outcome"]
)
EVENTS: Final = Counter("astara_notifier_events", "Events handed to the scheduler")
REDELIVERED: Final = Counter("astara_notifier_redelivered", "Messages that the broker delivered once more")
UNKNOWN: Final = Counter("astara_notifier_unknown_types", "Messages of types that the table does not know", ["type"])
CONNECTS: Final = Counter("astara_notifier_broker_connects", "Connections made to the broker")
CONNECTED: Final = Gauge("astara_notifier_connected", "1 while connected", ["peer"])
UNACKED: Final = Gauge("astara_notifier_unacked_messages", "Messages read and not yet acked")
LAG: Final = Histogram(
    "astara_notifier_lag_seconds",
    "From the time in a notification until it was read; clocks of several hosts",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300),
)
