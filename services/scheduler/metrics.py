"""The scheduler's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter(
    "astara_scheduler_events_total",
    "Events of producers by what became of them: direct, resolved, matched, unmatched, nameless, expired, withheld, "
    "old, command, rejected",
    ["outcome"],
)
DELIVERED = Counter("astara_scheduler_hints_sent_total", "Hints sent to workers")
DELIVERIES = Counter("astara_scheduler_deliveries_total", "Deliver messages sent to workers")
LATE = Counter("astara_scheduler_late_workers_total", "Times that a worker's unacked hints became rows")
JOURNAL = Histogram("astara_scheduler_journal_seconds", "Time that a transaction of hints takes")
JOURNALED = Counter("astara_scheduler_marks_written_total", "Rows of hints written")
MARKS = Gauge("astara_scheduler_marks", "Rows of hints that no owner has yet")
UNMATCHED = Gauge("astara_scheduler_unmatched_events", "Events kept that match no known resource")
UNMATCHED_EXPIRED = Counter("astara_scheduler_unmatched_expired_total", "Events that nothing came to match")
GRANTED = Counter("astara_scheduler_shards_granted_total", "Shards granted to workers")
ADOPTED = Counter("astara_scheduler_shards_kept_total", "Shards that workers named in Hello and kept")
REVOKED = Counter("astara_scheduler_shards_revoked_total", "Shards revoked from workers")
LEASES_ENDED = Counter("astara_scheduler_leases_ended_total", "Leases that ended without a goodbye")
SHARDS_BY_STATE = Gauge("astara_scheduler_shards", "Shards by state", ["state"])
WORKERS = Gauge("astara_scheduler_workers_connected", "Workers whose stream is open")
RESOURCES = Gauge("astara_scheduler_resources", "Resources known")
STATUS = Counter(
    "astara_scheduler_status_total", "Resources reported by workers, by whether the report counted", ["outcome"]
)
HISTORY_DROPPED = Counter(
    "astara_scheduler_history_dropped_total", "Lines of history dropped because the buffer was full"
)
INVENTORIES = Counter("astara_scheduler_inventories_total", "Inventories taken", ["extent"])
OPERATIONS = Counter("astara_scheduler_operations_total", "Operators' commands taken", ["kind"])
QUARANTINED = Gauge("astara_scheduler_quarantined_resources", "Resources held back until an operator commands them")
LEADING = Gauge("astara_scheduler_leading", "1 while this replica leads")
TERM = Gauge("astara_scheduler_term", "Term of this replica's leadership")
