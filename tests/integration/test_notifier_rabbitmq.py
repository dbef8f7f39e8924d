"""The notifier between a real RabbitMQ and a scripted scheduler: nothing is lost, nothing is acked early."""

import asyncio
import itertools
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from astara.event.v1 import event_pb2 as pb
from broker_traffic import CuttingProxy, Sender, corpus, envelope, router_updated
from patience import until
from scripted_ingest import ScriptedIngest

from lab.rabbitmq import RabbitNode
from services.common.settings import CommonSettings, load
from services.notifier.service import SETTINGS, main

ROOT = Path(__file__).parents[2]
_names = itertools.count(1)


class Names:
    """Exchanges and queues of one test's own."""

    def __init__(self) -> None:
        number = next(_names)
        self.neutron = f"neutron-{number}"
        self.octavia = f"octavia-{number}"
        self.casts = f"l3_agent_fanout-{number}"
        self.queue = f"astara.notifications-{number}"
        self.dead = f"astara.dead-letter-{number}"
        self.command = f"astara.command-{number}"


class Running:
    """A notifier in this process."""

    def __init__(self, task: asyncio.Task[None], stop: asyncio.Event) -> None:
        self.task = task
        self._stop = stop

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self.task, 60)


def configuration(folder: Path, names: Names, broker: str, scheduler: str, **more: Any) -> Path:
    options = {
        "broker": broker,
        "listen": "127.0.0.1:0",
        "queue": names.queue,
        "dead_letter_queue": names.dead,
        "topics": f"{names.neutron}:notifications.info,{names.octavia}:notifications.info",
        "casts": names.casts,
        "command_exchange": names.command,
        "command_queue": names.command,
        "reconnect_most": 0.5,
        **more,
    }
    path = folder / f"notifier-{next(_names)}.ini"
    lines = "\n".join(f"{name} = {value}" for name, value in options.items())
    path.write_text(f"[grpc]\nscheduler = {scheduler}\n[notifier]\n{lines}\n")
    return path


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def start(tmp_path: Path, names: Names, rabbitmq: RabbitNode, ingest: ScriptedIngest) -> AsyncIterator[Start]:
    """Starts notifiers; they have reached the broker when it returns."""
    running: list[Running] = []

    async def begin(broker: str = "", **more: Any) -> Running:
        file = configuration(tmp_path, names, broker or rabbitmq.url, ingest.address, **more)
        settings = load("astara-notifier", ["--config-file", str(file)], (CommonSettings, *SETTINGS))
        stop = asyncio.Event()
        before = ingest.resyncs
        one = Running(asyncio.create_task(main(settings, stop)), stop)
        running.append(one)
        # It asks for a resync when it is bound.
        await ingest.until(lambda: ingest.resyncs > before)
        return one

    yield begin
    for one in running:
        if not one.task.done():
            await one.stop()


@pytest.fixture
async def sender(rabbitmq: RabbitNode, names: Names) -> AsyncIterator[Sender]:
    one = await asyncio.to_thread(Sender, rabbitmq.url)
    one.declare(names.neutron)
    one.declare(names.octavia)
    one.declare(names.casts, "fanout", auto_delete=True)
    yield one
    one.close()


def distinct(ingest: ScriptedIngest) -> set[str]:
    return {one.subject.resource_id for one in ingest.events}


async def test_all_recordings_reach_the_scheduler_as_the_table_says(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    await start()
    notifications = [*corpus("*neutron-notifications.jsonl"), *corpus("octavia-notifications.jsonl")]
    casts = [one for one in corpus("*casts.jsonl") if one["exchange"] == "l3_agent_fanout"]
    exchanges = {"neutron": names.neutron, "octavia": names.octavia}

    def send() -> None:
        for one in notifications:
            sender.send(one["body"].encode(), exchanges[one["exchange"]], one["routing_key"])
        for one in casts:
            sender.send(one["body"].encode(), names.casts, "")

    await asyncio.to_thread(send)
    # No recording is lost and none comes twice.
    wanted = Counter({
        "router.create.end": 4, "router.update.end": 14, "router.delete.end": 4,
        "router.interface.create": 6, "router.interface.delete": 6,
        "port.create.end": 21, "port.update.end": 47, "port.delete.end": 19,
        "network.update.end": 2, "network.delete.end": 8,
        "subnet.create.end": 12, "subnet.update.end": 6, "subnet.delete.end": 10,
        "floatingip.create.end": 4, "floatingip.update.end": 4, "floatingip.delete.end": 4,
        "l3_agent.router_deleted": 4,
    })  # fmt: skip
    await ingest.until(lambda: len(ingest.events) >= wanted.total())
    await until(lambda: sender.messages(names.queue) == 0)
    assert Counter(one.source for one in ingest.events) == wanted
    assert sender.messages(names.dead) == 0
    deleted = {one.subject.resource_id for one in ingest.events if one.kind == pb.EVENT_KIND_DELETE}
    assert len(deleted) == 4


async def test_a_message_that_cannot_be_understood_is_kept_with_its_reason_and_stops_nothing(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    await start()
    poison = [
        b"\x00\xff not JSON",
        b'{"oslo.version": "2.0", "oslo.message": "{"}',
        b'{"oslo.version": "7.0", "oslo.message": "{}"}',
        b"[1, 2]",
        b'{"hello": "world"}',
        envelope("router.update.end", {"something": "else"}),
        envelope("router.update.end", {"router": {"name": "without id"}}),
        envelope("port.create.end", {"port": {"id": "x", "network_id": 5}}),
    ]
    for number, body in enumerate(poison):
        sender.send(body, names.neutron)
        sender.send(router_updated(number), names.neutron)
    await ingest.until(lambda: len(ingest.events) >= len(poison))
    await until(lambda: sender.messages(names.dead) == len(poison))
    letters = [sender.take(names.dead) for _ in poison]
    assert [
        bytes(letter.body) if isinstance(letter.body, bytes) else letter.body.encode() for letter in letters
    ] == poison
    reasons = [letter.properties["application_headers"]["x-astara-reason"] for letter in letters]
    assert reasons == [
        "the body is not JSON",
        "oslo.message is not JSON at character 1",
        "envelope version '7.0' is unknown",
        "the body is JSON but no object",
        "neither a notification (event_type) nor a cast (method)",
        "router.update.end: the payload holds no router",
        "router.update.end: an object without id",
        "port.create.end: a field has an unexpected type",
    ]
    assert distinct(ingest) == {f"r{number}" for number in range(len(poison))}


async def test_what_the_scheduler_refuses_goes_to_the_dead_letters_with_its_words(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    ingest.judge = lambda event: "subject: nobody" if event.subject.resource_id == "r1" else None
    await start()
    for number in range(3):
        sender.send(router_updated(number), names.neutron)
    await until(lambda: sender.messages(names.dead) == 1)
    letter = sender.take(names.dead)
    assert letter is not None
    assert letter.properties["application_headers"]["x-astara-reason"] == "subject: nobody"


async def test_a_message_stays_with_the_broker_until_the_scheduler_has_answered(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    notifier = await start()
    ingest.answering.clear()
    for number in range(20):
        sender.send(router_updated(number), names.neutron)
    await ingest.until(lambda: len(ingest.events) == 20)
    await notifier.stop()
    # The notifier is gone and nothing was answered: all of it is still there.
    await until(lambda: sender.messages(names.queue) == 20)
    ingest.events.clear()
    ingest.answering.set()
    await start()
    await ingest.until(lambda: len(distinct(ingest)) == 20)
    await until(lambda: sender.messages(names.queue) == 0)


async def test_while_the_scheduler_is_away_the_broker_keeps_what_comes(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    notifier = await start(prefetch=50)
    await ingest.stop()
    for number in range(300):
        sender.send(router_updated(number), names.neutron)
    # The prefetch bounds what a notifier holds in memory.
    await until(lambda: sender.messages(names.queue) == 250)
    await ingest.start()
    await ingest.until(lambda: len(distinct(ingest)) == 300)
    await notifier.stop()
    await until(lambda: sender.messages(names.queue) == 0)


async def test_a_notifier_that_is_killed_loses_nothing(
    tmp_path: Path, rabbitmq: RabbitNode, sender: Sender, names: Names, ingest: ScriptedIngest, start: Start
) -> None:
    ingest.answering.clear()
    file = configuration(tmp_path, names, rabbitmq.url, ingest.address)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.notifier",
        "--config-file",
        str(file),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await ingest.until(lambda: ingest.resyncs > 0)
    for number in range(100):
        sender.send(router_updated(number), names.neutron)
    await ingest.until(lambda: len(ingest.events) == 100)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    ingest.events.clear()
    ingest.answering.set()
    await start()
    await ingest.until(lambda: len(distinct(ingest)) == 100)


async def test_a_connection_cut_in_mid_message_loses_no_event(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest, rabbitmq: RabbitNode
) -> None:
    proxy = CuttingProxy(rabbitmq.ports.amqp)
    await proxy.start()
    await start(broker=rabbitmq.url.replace(str(rabbitmq.ports.amqp), str(proxy.port)))
    sent = 0
    # Each message is some 250 bytes on the wire: these counts fall into frame headers, properties and bodies.
    for cut, count in enumerate((5, 333, 2001, 4567, 10_007), 1):
        proxy.cut_after(count)
        for _ in range(100):
            sender.send(router_updated(sent), names.neutron)
            sent += 1
        await until(lambda cut=cut: proxy.cuts == cut)
        # The next one cuts a connection that works again.
        await ingest.until(lambda cut=cut: ingest.resyncs > cut)
    await ingest.until(lambda: len(distinct(ingest)) == sent)
    await until(lambda: sender.messages(names.queue) == 0)
    assert sender.messages(names.dead) == 0
    await proxy.stop()


async def test_a_broker_that_stops_and_starts_loses_no_confirmed_event(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest, rabbitmq: RabbitNode
) -> None:
    ingest.answering.clear()
    await start()
    for number in range(100):
        sender.send(router_updated(number), names.neutron)
    await ingest.until(lambda: len(ingest.events) == 100)
    for end in (rabbitmq.stop, rabbitmq.kill):
        before = ingest.resyncs
        await asyncio.to_thread(end)
        await asyncio.to_thread(rabbitmq.start)
        # The notifier is back and has bound its queue again: the exchange went with the broker.
        await ingest.until(lambda before=before: ingest.resyncs > before)
    # What was not acked is delivered again, each time.
    await ingest.until(lambda: len(ingest.events) >= 300)
    again = await asyncio.to_thread(Sender, rabbitmq.url)
    for number in range(100, 200):
        again.send(router_updated(number), names.neutron)
    ingest.answering.set()
    await ingest.until(lambda: len(distinct(ingest)) == 200)
    await until(lambda: again.messages(names.queue) == 0)
    again.close()


async def test_exchanges_that_an_operator_made_durable_are_used_as_they_are(
    start: Start, rabbitmq: RabbitNode, names: Names, ingest: ScriptedIngest
) -> None:
    sender = await asyncio.to_thread(Sender, rabbitmq.url)
    sender.declare(names.neutron, durable=True)
    sender.declare(names.casts, "fanout", durable=True)
    await start()
    sender.send(router_updated(1), names.neutron)
    await ingest.until(lambda: distinct(ingest) == {"r1"})
    sender.close()


async def test_commands_are_taken_only_when_switched_on(
    start: Start, sender: Sender, names: Names, ingest: ScriptedIngest
) -> None:
    off = await start()
    with pytest.raises(Exception, match="NOT_FOUND"):
        sender.channel.exchange_declare(names.command, "topic", passive=True)
    await off.stop()
    await start(commands=True)
    again = Sender(sender.url)
    again.send(
        b'{"command": "router rebuild", "router_id": "r9", "image_id": "i1", "reason": "upgrade"}', names.command
    )
    again.send(b'{"command": "poll"}', names.command)
    again.send(b'{"command": "format disk"}', names.command)
    await ingest.until(lambda: len(ingest.events) == 2)
    rebuild, poll = ingest.events
    assert rebuild.kind == pb.EVENT_KIND_COMMAND
    assert rebuild.command == pb.Command(verb="router rebuild", target_id="r9", image_id="i1", reason="upgrade")
    assert (poll.command.verb, poll.priority) == ("poll", pb.PRIORITY_BULK)
    await until(lambda: again.messages(names.dead) == 1)
    again.close()
