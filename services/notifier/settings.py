"""The notifier's settings, section [notifier] of the ini file."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.settings import SettingsError, option


@dataclass(frozen=True)
class NotifierSettings:
    """Where notifications come from."""

    group: ClassVar[str] = "notifier"

    broker: str = option(
        help="The broker's URL, amqp://user:password@host:5672/vhost; amqps for TLS. Several hosts of a cluster as "
        "oslo.messaging writes them: rabbit://user:password@one:5672,user:password@two:5672/vhost",
        secret=True,
    )
    broker_ca: str = option(
        "", help="File with the authorities that sign the broker's certificate; empty: the system's"
    )
    broker_cert: str = option("", help="File with a certificate to show to the broker (PEM)")
    broker_key: str = option("", help="File with its private key (PEM)")
    listen: str = option("127.0.0.1:44252", help="Where the notifier's gRPC server (health, reflection) listens")
    queue: str = option("astara.notifications", help="Our durable queue; all notifiers of a deployment share it")
    dead_letter_queue: str = option(
        "astara.dead-letter", help="Durable queue for messages that cannot be understood, with header x-astara-reason"
    )
    dead_letter_limit: int = option(100_000, help="Dead letters that are kept; the oldest go first", minimum=1)
    topics: tuple[str, ...] = option(
        ("neutron:notifications.info", "octavia:notifications.info"), help="What to listen to, exchange:routing key"
    )
    casts: tuple[str, ...] = option(("l3_agent_fanout",), help="Fanout exchanges of casts to agents to listen to")
    prefetch: int = option(
        4000, help="Messages that the broker hands out before they are acked", minimum=1, maximum=50_000
    )
    heartbeat: int = option(20, help="Seconds after which a silent broker counts as gone", minimum=2, maximum=600)
    reconnect_most: float = option(30.0, help="Most seconds between two tries to reach the broker", minimum=0.1)
    commands: bool = option(
        False,
        help="Take operators' commands from the exchange; whoever may publish there bypasses the HTTP API's token",
    )
    command_exchange: str = option("astara.command", help="Topic exchange of operators' commands")
    command_queue: str = option("astara.command", help="Durable queue of operators' commands")


def split_topic(topic: str) -> tuple[str, str]:
    """Exchange and routing key of `exchange:routing key`; SettingsError when it is something else."""
    exchange, _, key = topic.partition(":")
    if not exchange or not key:
        msg = f"[notifier] topics: {topic!r} is not exchange:routing key"
        raise SettingsError(msg)
    return exchange, key
