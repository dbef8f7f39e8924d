"""From RabbitMQ to the state machine: throughput of a backlog-free stream, and the latency of single messages.

A real RabbitMQ, a publisher in a process of its own, the notifier, the scheduler and a worker whose machines only note
when they start share the machine. Messages are `router.update.end` in Neutron's envelope.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import kombu
import uvloop
from amqp.exceptions import ChannelError
from kombu.exceptions import OperationalError

from bench.counting import CountingWorker
from bench.events import start_scheduler, until_owned
from bench.measure import Figure, quantile
from bench.stack import Stack
from lab.ports import free_port
from lab.rabbitmq import Ports, RabbitNode

MESSAGES, PER_SECOND, SECONDS = 30_000, 20, 30


def envelope(router_id: str, tenant_id: str, revision: int) -> bytes:
    """A router.update.end as Neutron sends it."""
    payload = {
        "router": {
            "id": router_id, "name": "router", "project_id": tenant_id, "tenant_id": tenant_id, "admin_state_up": True,
            "status": "ACTIVE", "external_gateway_info": None, "description": "", "availability_zones": [],
            "availability_zone_hints": [], "routes": [], "flavor_id": None, "tags": [],
            "created_at": "2026-11-22T12:12:30Z", "updated_at": "2026-11-22T12:12:31Z", "revision_number": revision,
        }
    }  # fmt: skip
    context = {
        f"_context_{name}": tenant_id
        for name in ("user", "project_id", "project", "user_id", "request_id", "global_request_id", "resource_uuid")
    } | {
        "_context_roles": ["member", "reader"],
        "_context_is_admin": False,
        "_context_timestamp": "2026-11-22 12:12:31",
    }
    message = {
        "message_id": str(uuid.uuid4()), "publisher_id": "network.bench", "event_type": "router.update.end",
        "priority": "INFO", "payload": payload, "timestamp": "2026-11-22 12:12:31.1", "_unique_id": uuid.uuid4().hex,
        **context,
    }  # fmt: skip
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def publish(url: str, count: int, per_second: float) -> None:
    """Publish `count` messages, at most so many a second (0: as fast as it goes); print when each was sent."""
    bodies = [envelope(f"{n:08x}-0000-4000-8000-000000000000", f"{n % 500:032x}", 1) for n in range(count)]
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        exchange = kombu.Exchange("neutron", "topic", durable=False)(channel)
        exchange.declare()
        producer = kombu.Producer(channel, exchange)
        started, sent = time.monotonic(), []
        for number, body in enumerate(bodies):
            if per_second:
                time.sleep(max(0.0, started + number / per_second - time.monotonic()))
            sent.append(time.monotonic())
            producer.publish(
                body, routing_key="notifications.info", content_type="application/json", content_encoding="utf-8",
                delivery_mode=2,
            )  # fmt: skip
    print(json.dumps(sent if per_second else [sent[0]]), flush=True)


async def _measure() -> tuple[float, list[float]]:
    with tempfile.TemporaryDirectory(prefix="astara-bench-") as folder:
        stack = Stack(Path(folder), free_port(), 0)
        ports = Ports(free_port(), free_port(), free_port())
        node = RabbitNode(Path(folder) / "rabbitmq", ports)
        await asyncio.to_thread(node.start)
        try:
            await start_scheduler(stack)
            worker = CountingWorker(stack.scheduler_port, "worker-0")
            working = asyncio.create_task(worker.work())
            await until_owned(stack)
            (stack.folder / "notifier.ini").write_text(
                f"[DEFAULT]\nlog_level = warning\n[grpc]\nscheduler = 127.0.0.1:{stack.scheduler_port}\n"
                f"[notifier]\nbroker = {node.url}\nlisten = 127.0.0.1:{free_port()}\n"
            )
            await stack.start("services.notifier", "--config-file", str(stack.folder / "notifier.ini"), log="notifier")
            await asyncio.to_thread(_until_bound, node.url)
            (first,) = await _publisher(node.url, MESSAGES, 0)
            await _until_seen(worker, MESSAGES)
            rate = MESSAGES / (max(worker.started.values()) - first)
            worker.started.clear()
            sent = await _publisher(node.url, PER_SECOND * SECONDS, PER_SECOND)
            await _until_seen(worker, len(sent))
            delays = [worker.started[f"{n:08x}-0000-4000-8000-000000000000"] - at for n, at in enumerate(sent)]
            working.cancel()
            await stack.channel.close()
            return rate, delays
        finally:
            await stack.stop()
            await asyncio.to_thread(node.stop)


async def _publisher(url: str, count: int, per_second: float) -> list[float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.broker", url, str(count), str(per_second), stdout=asyncio.subprocess.PIPE,
        env={**os.environ},
    )  # fmt: skip
    output, _ = await process.communicate()
    sent: list[float] = json.loads(output)
    return sent


async def _until_seen(worker: CountingWorker, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(worker.started) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(worker.started)} of {count}")
        await asyncio.sleep(0.01)


def _until_bound(url: str) -> None:
    """Wait until the notifier's queue is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with kombu.Connection(url) as connection:
                queue: Any = kombu.Queue("astara.notifications", durable=True)(connection.channel())
                if queue.queue_declare(passive=True).consumer_count:
                    return
        except (ChannelError, OperationalError):
            time.sleep(0.2)  # not declared yet
    raise TimeoutError("the notifier does not listen")


def main() -> None:
    """Three runs."""
    runs = [uvloop.run(_measure()) for _ in range(3)]
    delays = [[delay * 1000 for delay in run[1]] for run in runs]
    Figure("broker_to_machine", "messages/s", [run[0] for run in runs], ">= 2500", 1, f"{MESSAGES} messages").write()
    note = f"{PER_SECOND} messages/s"
    Figure("latency_p50", "ms", [quantile(one, 0.5) for one in delays], "<= 8", 3, note).write()
    Figure("latency_p99", "ms", [quantile(one, 0.99) for one in delays], "<= 40", 3, note).write()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        publish(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
