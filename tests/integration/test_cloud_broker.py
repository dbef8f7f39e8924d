"""The simulated cloud's messages on a real broker, also over a restart of it."""

import json
import queue
import threading

import kombu
import pytest

from lab.cloud import CloudOptions, SimulatedCloud

pytestmark = pytest.mark.rabbitmq


class Consumer:
    """Takes messages off exchanges as a service bound to them does."""

    def __init__(self, url):
        self.got = queue.Queue()
        self._url = url
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        neutron = kombu.Exchange("neutron", "topic", durable=False)
        agents = kombu.Exchange("l3_agent_fanout", "fanout", durable=False, auto_delete=True)
        queues = [
            kombu.Queue("contract-neutron", neutron, "notifications.info", durable=False, auto_delete=True),
            kombu.Queue("contract-agents", agents, durable=False, auto_delete=True),
        ]
        with kombu.Connection(self._url) as connection, connection.Consumer(queues, callbacks=[self._take]):
            self._ready.set()
            while not self._stop.is_set():
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    continue

    def _take(self, _body, message):
        content = json.loads(message.payload["oslo.message"])
        self.got.put((message.delivery_info["exchange"], content.get("event_type") or content["method"]))
        message.ack()

    def take(self, count):
        return [self.got.get(timeout=30) for _ in range(count)]


@pytest.fixture
async def cloud(rabbitmq):
    cloud = SimulatedCloud(CloudOptions(amqp_url=rabbitmq.url))
    cloud.seed()
    await cloud.start()
    yield cloud
    await cloud.stop()


async def test_notifications_and_casts_arrive_on_their_exchanges(cloud, rabbitmq):
    tenant = cloud.tenant("blue")
    with Consumer(rabbitmq.url) as consumer:
        cloud.notifications.network(tenant, "router.delete.start", {"router_id": "r"})
        cloud.notifications.cast(tenant, "l3_agent_fanout", "router_deleted", {"router_id": "r"})
        assert set(consumer.take(2)) == {("neutron", "router.delete.start"), ("l3_agent_fanout", "router_deleted")}


async def test_messages_wait_for_a_broker_that_is_away(cloud, rabbitmq):
    tenant = cloud.tenant("green")
    with Consumer(rabbitmq.url) as consumer:
        cloud.notifications.network(tenant, "network.create.end", {"network": {}})
        assert consumer.take(1) == [("neutron", "network.create.end")]
    # The exchange goes with the broker; nobody but a consumer that has bound again would see a message.
    rabbitmq.stop()
    rabbitmq.start()
    with Consumer(rabbitmq.url) as consumer:
        cloud.notifications.network(tenant, "network.delete.end", {"network_id": "n"})
        assert consumer.take(1) == [("neutron", "network.delete.end")]
