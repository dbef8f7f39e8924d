"""The lab's embedded broker, as kombu and the notifier see it."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from broker_traffic import Sender, router_updated
from patience import until
from scripted_ingest import ScriptedIngest

from lab.broker import Broker
from services.common.settings import CommonSettings, load
from services.notifier.service import SETTINGS, main


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    one = Broker()
    await one.start()
    yield one
    await one.stop()


def url(broker: Broker) -> str:
    return f"amqp://lab:any@127.0.0.1:{broker.port}//"


async def with_kombu(broker: Broker, work: Callable[[kombu.Connection], Any]) -> Any:
    """Do blocking work with a connection, beside the loop in which the broker runs."""

    def blocking() -> Any:
        with kombu.Connection(url(broker), connect_timeout=5) as connection:
            return work(connection)

    return await asyncio.to_thread(blocking)


def bound(connection: kombu.Connection, queue: str, *keys: str) -> Any:
    channel = connection.channel()
    channel.exchange_declare("things", "topic", durable=False, auto_delete=False)
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    for key in keys:
        channel.queue_bind(queue, "things", key)
    return channel


def publish(channel: Any, body: bytes, key: str, exchange: str = "things", **more: Any) -> None:
    message = amqp.Message(body, content_type="text/plain", application_headers={"x": 1})
    channel.basic_publish_confirm(message, exchange=exchange, routing_key=key, **more)


def everything(channel: Any, queue: str) -> list[bytes]:
    found = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        body = message.body
        found.append(body if isinstance(body, bytes) else body.encode())
    return found


@pytest.mark.parametrize(
    ("binding", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("#", "any.thing", True),
        ("a.#.c", "a.c", True),
        ("*", "", False),
        ("a.b", "axb", False),
    ],
)
async def test_topics_match_as_amqp_says(broker: Broker, binding: str, key: str, matches: bool) -> None:
    def work(connection: kombu.Connection) -> list[bytes]:
        channel = bound(connection, "q", binding)
        publish(channel, b"hello", key)
        return everything(channel, "q")

    assert await with_kombu(broker, work) == ([b"hello"] if matches else [])


async def test_a_large_message_keeps_its_body_and_properties(broker: Broker) -> None:
    body = bytes(range(256)) * 4000

    def work(connection: kombu.Connection) -> None:
        channel = bound(connection, "q", "k")
        publish(channel, body, "k")
        message = channel.basic_get("q")
        assert message.body == body
        assert message.properties["content_type"] == "text/plain"
        assert message.properties["application_headers"] == {"x": 1}

    await with_kombu(broker, work)


async def test_what_was_not_acked_comes_again_in_order_when_the_connection_ends(broker: Broker) -> None:
    def first(connection: kombu.Connection) -> None:
        channel = bound(connection, "q", "k")
        for number in range(5):
            publish(channel, str(number).encode(), "k")
        tags = [channel.basic_get("q").delivery_info["delivery_tag"] for _ in range(4)]
        channel.basic_ack(tags[1])

    def second(connection: kombu.Connection) -> list[tuple[bytes, bool]]:
        channel = connection.channel()
        found = [channel.basic_get("q") for _ in range(4)]
        return [(one.body, one.delivery_info["redelivered"]) for one in found]

    await with_kombu(broker, first)
    assert await with_kombu(broker, second) == [(b"0", True), (b"2", True), (b"3", True), (b"4", False)]


async def test_prefetch_bounds_what_a_consumer_holds(broker: Broker) -> None:
    def work(connection: kombu.Connection) -> None:
        channel = bound(connection, "q", "k")
        for number in range(10):
            publish(channel, str(number).encode(), "k")
        got: list[amqp.Message] = []
        channel.basic_qos(0, 3, False)
        channel.basic_consume("q", callback=got.append)
        while len(got) < 3:
            connection.drain_events(timeout=30)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        channel.basic_ack(got[-1].delivery_info["delivery_tag"], multiple=True)
        while len(got) < 6:
            connection.drain_events(timeout=30)

    await with_kombu(broker, work)


async def test_a_refusal_closes_the_channel_and_not_the_connection(broker: Broker) -> None:
    def work(connection: kombu.Connection) -> None:
        with pytest.raises(NotFound):
            connection.channel().exchange_declare("nowhere", "topic", passive=True)
        with pytest.raises(NotFound):
            publish(connection.channel(), b"x", "k", exchange="nowhere")
        channel = bound(connection, "q", "k")
        with pytest.raises(PreconditionFailed):
            channel.exchange_declare("things", "topic", durable=True, auto_delete=False)
        assert connection.channel().queue_declare("q", passive=True).message_count == 0

    await with_kombu(broker, work)


async def test_a_fanout_exchange_goes_with_its_last_queue(broker: Broker) -> None:
    def work(connection: kombu.Connection) -> None:
        channel = connection.channel()
        channel.exchange_declare("all", "fanout", durable=False, auto_delete=True)
        names = [channel.queue_declare("", exclusive=True).queue for _ in range(2)]
        for name in names:
            channel.queue_bind(name, "all", "")
        publish(channel, b"x", "any", exchange="all")
        assert [everything(channel, name) for name in names] == [[b"x"], [b"x"]]

    await with_kombu(broker, work)
    assert "all" not in broker.state.exchanges
    assert not broker.state.queues


async def test_the_notifier_works_with_it_over_a_restart(
    broker: Broker, ingest: ScriptedIngest, tmp_path: Path
) -> None:
    file = tmp_path / "notifier.ini"
    file.write_text(
        f"[grpc]\nscheduler = {ingest.address}\n"
        f"[notifier]\nbroker = {url(broker)}\nlisten = 127.0.0.1:0\nreconnect_most = 0.2\n"
    )
    settings = load("astara-notifier", ["--config-file", str(file)], (CommonSettings, *SETTINGS))
    stop = asyncio.Event()
    notifier = asyncio.create_task(main(settings, stop))
    sent = 0
    for round_ in (1, 2):
        await ingest.until(lambda wanted=round_: ingest.resyncs >= wanted)
        sender = await asyncio.to_thread(Sender, url(broker))
        for _ in range(200):
            await asyncio.to_thread(sender.send, router_updated(sent), "neutron")
            sent += 1
        await asyncio.to_thread(sender.send, b"poison", "neutron")
        await ingest.until(lambda wanted=sent: len({e.subject.resource_id for e in ingest.events}) == wanted)
        letter = None
        while letter is None:
            letter = await asyncio.to_thread(sender.take, "astara.dead-letter")
        assert letter.properties["application_headers"]["x-astara-reason"] == "the body is not JSON at character 0"
        await asyncio.to_thread(sender.close)
        if round_ == 1:
            port = broker.port
            await broker.stop()
            broker.state = type(broker.state)()
            await broker.start(port)
    stop.set()
    await notifier


async def test_the_notifier_speaks_tls_and_trusts_only_the_named_authority(
    ingest: ScriptedIngest, tmp_path: Path
) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem "
        "-out cert.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    await asyncio.to_thread(subprocess.run, command.split(), check=True, cwd=tmp_path, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    broker = Broker()
    await broker.start(tls=context)
    file = tmp_path / "notifier.ini"

    async def run(more: str, done: Callable[[], bool]) -> None:
        file.write_text(
            f"[grpc]\nscheduler = {ingest.address}\n[notifier]\nlisten = 127.0.0.1:0\n"
            f"broker = amqps://lab:any@localhost:{broker.port}//\nreconnect_most = 0.1\n{more}"
        )
        settings = load("astara-notifier", ["--config-file", str(file)], (CommonSettings, *SETTINGS))
        stop = asyncio.Event()
        notifier = asyncio.create_task(main(settings, stop))
        await until(done)
        stop.set()
        await notifier

    tries = 0
    before = broker.state.queues.copy()

    def refused() -> bool:
        nonlocal tries
        tries += 1
        return tries > 100

    await run("", refused)
    assert broker.state.queues == before
    await run(f"broker_ca = {tmp_path}/cert.pem\n", lambda: ingest.resyncs > 0)
    assert "astara.notifications" in broker.state.queues
    await broker.stop()
