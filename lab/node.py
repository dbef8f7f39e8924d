"""`python -m lab node`: the lab's RabbitMQ node in the foreground, so that the lab's supervisor can keep it running.

What an earlier node left running, whose keeper was killed, is ended first; its messages are kept.
"""

import signal
import time
from types import FrameType

from lab import processes
from lab.layout import Layout
from lab.rabbitmq import Ports, RabbitNode

_LOOK_SECONDS = 0.25


class _Asked:
    """Whether a signal came. A plain attribute: a lock could be the one that the interrupted thread holds."""

    def __init__(self) -> None:
        self.to_stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.to_stop = True


def run(layout: Layout) -> int:
    """Run the node until a signal comes (answers 0) or it ends by itself (1)."""
    plan = layout.read_plan()
    processes.end(processes.of_broker(layout), grace=10.0)
    layout.broker.mkdir(parents=True, exist_ok=True)
    password = layout.broker / "password"
    password.touch(mode=0o600)
    password.write_text(plan.broker_password, encoding="ascii")
    asked = _Asked()
    ports = plan.ports
    with RabbitNode(layout.broker, Ports(ports.broker, ports.broker_distribution, ports.epmd)) as node:
        expected = len(node.pids)
        while not asked.to_stop:
            time.sleep(_LOOK_SECONDS)
            if len(node.pids) < expected and not asked.to_stop:
                return 1
    return 0
