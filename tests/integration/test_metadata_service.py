"""The metadata service between appliances and stand-ins of Nova, Neutron and scheduler, all on real sockets."""

import asyncio
import contextlib
import gzip
import hashlib
import hmac

import pytest
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestServer
from openstack.connection import Connection
from prometheus_client import REGISTRY
from yarl import URL

from services.common import marks
from services.metadata.errors import NoInstanceError, TryAgainError
from services.metadata.instances import NeutronInstances
from services.metadata.nova import MAX_REQUEST, MAX_RESPONSE, NovaMetadata
from services.metadata.resources import ResourceView
from services.metadata.service import MetadataService
from services.metadata.settings import MetadataSettings

SECRET = "the appliances' key, long enough"
SHARED = "the secret that Nova shares"
ROUTER, NETWORK, BOOT = "router-1", "network-1", "boot-1"
SERVER = {"id": "port-1", "device_id": "server-1", "device_owner": "compute:nova", "project_id": "tenant-1"}


class Scheduler:
    """What the scheduler says, and how often it was asked."""

    def __init__(self):
        self.views = {ROUTER: ResourceView(frozenset([(0, BOOT)]), frozenset([NETWORK]), complete=True)}
        self.failure = None
        self.asked = 0

    async def get(self, resource_id):
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        if resource_id not in self.views:
            raise NoInstanceError("no such resource")
        return self.views[resource_id]


class Neutron:
    """A port listing over HTTP, as openstacksdk asks for it."""

    def __init__(self):
        self.ports = {(NETWORK, "10.0.0.5"): [SERVER]}
        self.status = 200
        self.queries = []
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def answer(self, request):
        if not request.path.endswith("/ports"):
            links = [{"rel": "self", "href": str(request.url.with_path("/v2.0"))}]
            return web.json_response({"version": {"id": "v2.0", "status": "CURRENT", "links": links}})
        self.queries.append({name: request.query.getall(name) for name in request.query})
        self.asked.set()
        await self.gate.wait()
        address = request.query["fixed_ips"].removeprefix("ip_address=")
        ports = self.ports.get((request.query["network_id"], address), [])
        return web.json_response({"ports": ports}, status=self.status)


class Nova:
    """The metadata API; `reply` answers, `seen` says what was asked."""

    def __init__(self):
        self.seen = []
        self.reply = lambda request: web.Response(text="server-1.example")

    async def answer(self, request):
        self.seen.append((request.method, request.raw_path, request.headers.copy(), await request.read()))
        reply = self.reply(request)
        return await reply if asyncio.iscoroutine(reply) else reply


class Metadata:
    """The service, what it depends on, and a client that plays an appliance."""

    def __init__(self, url, session, scheduler, neutron, nova, clock):
        self.url, self.session = url, session
        self.scheduler, self.neutron, self.nova, self.clock = scheduler, neutron, nova, clock

    async def ask(self, path="/latest/meta-data/hostname", *, method="GET", data=None, headers=None, **facts):
        facts = {"resource": ROUTER, "slot": "0", "instance": BOOT, "network": NETWORK} | facts
        token = marks.appliance_token(SECRET, "astara", facts["resource"], int(facts["slot"]), facts["instance"])
        sent = {
            "Authorization": f"Bearer {token}",
            "X-Astara-Deployment": "astara",
            "X-Forwarded-For": facts.pop("source", "10.0.0.5"),
        }
        sent |= {f"X-Astara-{name.title()}": value for name, value in facts.items()} | (headers or {})
        sent = {name: value for name, value in sent.items() if value is not None}
        url = URL(f"{self.url}{path}", encoded=True)
        async with self.session.request(method, url, headers=sent, data=data, allow_redirects=False) as answer:
            self.headers = answer.headers
            return answer.status, await answer.read()


@contextlib.asynccontextmanager
async def serve_all(**options):
    async with contextlib.AsyncExitStack() as stack:
        scheduler, neutron, nova, clock = Scheduler(), Neutron(), Nova(), [0.0]
        servers = {}
        for name, stand_in in (("neutron", neutron), ("nova", nova)):
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", stand_in.answer)
            servers[name] = await stack.enter_async_context(TestServer(app))
        endpoint = str(servers["neutron"].make_url("/v2.0"))
        connection = Connection(auth_type="none", auth={"endpoint": endpoint}, network_endpoint_override=endpoint)
        instances = NeutronInstances(connection, 2)
        stack.callback(instances.close)
        settings = MetadataSettings(shared_secret=SHARED, **options)
        own = NovaMetadata(str(servers["nova"].make_url("")), SHARED, settings.nova_timeout, 10)
        stack.push_async_callback(own.close)
        service = MetadataService(settings, "astara", SECRET, scheduler, instances, own, lambda: clock[0])
        server = await stack.enter_async_context(TestServer(service.application()))
        session = await stack.enter_async_context(ClientSession(auto_decompress=False))
        stack.callback(neutron.gate.set)
        yield Metadata(str(server.make_url("")).rstrip("/"), session, scheduler, neutron, nova, clock)


@pytest.fixture
async def metadata():
    async with serve_all() as served:
        yield served


async def test_a_request_reaches_nova_signed_and_otherwise_as_it_was(metadata):
    status, body = await metadata.ask("/openstack/lat%65st/x?a=1&b=%2F", method="POST", data=b"key")
    assert (status, body) == (200, b"server-1.example")
    ((method, path, headers, sent),) = metadata.nova.seen
    assert (method, path, sent) == ("POST", "/openstack/lat%65st/x?a=1&b=%2F", b"key")
    assert headers["X-Instance-ID"] == "server-1"
    assert headers["X-Tenant-ID"] == "tenant-1"
    assert headers["X-Forwarded-For"] == "10.0.0.5"
    signature = hmac.new(SHARED.encode(), b"server-1", hashlib.sha256).hexdigest()
    assert headers["X-Instance-ID-Signature"] == signature
    (query,) = metadata.neutron.queries
    assert (query["network_id"], query["fixed_ips"]) == ([NETWORK], ["ip_address=10.0.0.5"])
    assert {"device_id", "device_owner", "project_id"} <= set(query["fields"])


async def test_nova_gets_neither_our_token_nor_what_a_tenant_forged(metadata):
    forged = {
        "X-Instance-ID": "server-2",
        "X_Instance_ID": "server-2",
        "X-Tenant-ID": "tenant-2",
        "X-Metadata-Provider": "forged",
        "X-Metadata-Provider-Signature": "forged",
        "Connection": "x-hop",
        "X-Hop": "forged",
        "X-Kept": "yes",
    }
    await metadata.ask(headers=forged)
    headers = metadata.nova.seen[0][2]
    assert headers["X-Kept"] == "yes"
    assert headers.getall("X-Instance-ID") == ["server-1"]
    text = str(headers)
    for word in ("server-2", "tenant-2", "forged", "Bearer", "Astara"):
        assert word not in text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"Authorization": None}}, 403),
        ({"headers": {"Authorization": "Bearer " + "0" * 64}}, 403),
        ({"headers": {"Authorization": "Basic YTpi"}}, 403),
        ({"headers": {"X-Astara-Slot": "1"}}, 403),
        ({"headers": {"X-Astara-Resource": "router-2"}}, 403),
        ({"headers": {"X-Astara-Deployment": "other"}}, 403),
        ({"headers": {"X-Astara-Instance": None}}, 400),
        ({"headers": {"X-Astara-Network": "a&network_id=b"}}, 400),
        ({"headers": {"X-Astara-Slot": "²"}}, 400),
        ({"source": "10.0.0.5, 10.0.0.6"}, 400),
        ({"source": "somewhere"}, 400),
    ],
)
async def test_a_caller_that_proves_nothing_learns_nothing(metadata, change, status):
    got, body = await metadata.ask(**change)
    assert got == status
    assert b"server" not in body
    assert (metadata.scheduler.asked, metadata.neutron.queries, metadata.nova.seen) == (0, [], [])


@pytest.mark.parametrize(
    "facts", [{"instance": "boot-0"}, {"slot": "1"}, {"network": "network-2"}], ids=["former", "slot", "network"]
)
async def test_a_proven_caller_asks_for_its_own_networks_and_only_while_it_is_current(metadata, facts):
    assert (await metadata.ask(**facts))[0] == 403
    assert metadata.nova.seen == []
    view = metadata.scheduler.views[ROUTER]
    metadata.scheduler.views[ROUTER] = ResourceView(view.instances, view.networks, complete=False)
    metadata.clock[0] += 60
    assert (await metadata.ask(**facts))[0] == 503
    assert int(metadata.headers["Retry-After"]) > 0


async def test_an_instance_that_was_just_booted_is_known_at_once(metadata):
    assert (await metadata.ask())[0] == 200
    metadata.scheduler.views[ROUTER] = ResourceView(frozenset([(0, "boot-2")]), frozenset([NETWORK]), complete=True)
    assert (await metadata.ask(instance="boot-2"))[0] == 200


async def test_a_resource_that_does_not_exist_is_404(metadata):
    assert (await metadata.ask(resource="router-9"))[0] == 404


async def test_a_silent_scheduler_is_try_again(metadata):
    metadata.scheduler.failure = TryAgainError("UNAVAILABLE")
    assert (await metadata.ask())[0] == 503
    assert metadata.headers["Retry-After"]
    metadata.scheduler.failure = None
    assert (await metadata.ask())[0] == 200


@pytest.mark.parametrize(
    "ports",
    [
        [],
        [SERVER | {"device_owner": "network:dhcp"}],
        [SERVER | {"device_id": ""}],
        [SERVER, SERVER | {"id": "port-2", "device_id": "server-2"}],
    ],
    ids=["none", "no server's", "unbound", "ambiguous"],
)
async def test_an_address_without_one_instance_is_404(metadata, ports):
    metadata.neutron.ports[NETWORK, "10.0.0.5"] = ports
    assert (await metadata.ask())[0] == 404
    assert metadata.nova.seen == []


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_neutron_in_trouble_is_try_again_and_not_remembered(metadata, status):
    metadata.neutron.status = status
    assert (await metadata.ask())[0] == 503
    metadata.neutron.status = 200
    assert (await metadata.ask())[0] == 200


async def test_lookups_are_remembered_for_their_time_and_no_longer(metadata):
    await metadata.ask()
    await metadata.ask()
    assert (len(metadata.neutron.queries), metadata.scheduler.asked) == (1, 1)
    assert (await metadata.ask(source="10.0.0.6"))[0] == 404
    metadata.neutron.ports[NETWORK, "10.0.0.6"] = [SERVER]
    assert (await metadata.ask(source="10.0.0.6"))[0] == 404
    metadata.clock[0] += 2.5
    assert (await metadata.ask(source="10.0.0.6"))[0] == 200
    assert (len(metadata.neutron.queries), metadata.scheduler.asked) == (3, 2)
    metadata.clock[0] += 10
    await metadata.ask()
    assert len(metadata.neutron.queries) == 4


async def test_an_address_that_changed_hands_is_looked_up_again_when_nova_knows_nothing(metadata):
    await metadata.ask()
    metadata.neutron.ports[NETWORK, "10.0.0.5"] = [SERVER | {"device_id": "server-2"}]
    metadata.nova.reply = lambda request: web.Response(
        status=404 if request.headers["X-Instance-ID"] == "server-1" else 200
    )
    assert (await metadata.ask())[0] == 404
    assert (await metadata.ask())[0] == 200


async def test_the_same_question_from_many_is_asked_once(metadata):
    metadata.neutron.gate.clear()
    questions = [asyncio.create_task(metadata.ask()) for _ in range(20)]
    await metadata.neutron.asked.wait()
    questions[0].cancel()
    metadata.neutron.gate.set()
    answers = await asyncio.gather(*questions[1:])
    assert {status for status, _ in answers} == {200}
    assert len(metadata.neutron.queries) == 1


async def test_one_router_cannot_take_all():
    async with serve_all(max_requests_per_resource=1, max_requests=2) as metadata:
        view = metadata.scheduler.views[ROUTER]
        metadata.scheduler.views |= {f"router-{n}": view for n in (2, 3)}
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def wait(_request):
            began.set()
            await goes_on.wait()
            return web.Response()

        metadata.nova.reply = wait
        running = asyncio.create_task(metadata.ask())
        await began.wait()
        assert (await metadata.ask())[0] == 503
        began.clear()
        other = asyncio.create_task(metadata.ask(resource="router-2"))
        await began.wait()
        assert (await metadata.ask(resource="router-3"))[0] == 503
        goes_on.set()
        assert [(await task)[0] for task in (running, other)] == [200, 200]
        assert (await metadata.ask())[0] == 200


async def test_novas_answer_passes_as_it_is(metadata):
    packed = gzip.compress(b"user data")
    metadata.nova.reply = lambda request: web.Response(
        status=203, body=packed, headers={"Content-Encoding": "gzip", "X-Nova": "1", "Keep-Alive": "timeout=1"}
    )
    assert await metadata.ask() == (203, packed)
    assert metadata.headers["X-Nova"] == "1"
    assert "Keep-Alive" not in metadata.headers
    metadata.nova.reply = lambda request: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/elsewhere"})
    assert (await metadata.ask())[0] == 302
    assert (await metadata.ask(method="HEAD"))[0] == 302


async def test_an_answer_without_length_is_streamed(metadata):
    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"x" * 100_000)
        return response

    metadata.nova.reply = stream
    assert await metadata.ask() == (200, b"x" * 300_000)


async def test_a_body_beyond_the_limit_is_413(metadata):
    assert (await metadata.ask(method="POST", data=b"x" * (MAX_REQUEST + 1)))[0] == 413

    async def endless():
        for _ in range(3):
            yield b"x" * (MAX_REQUEST // 2)

    assert (await metadata.ask(method="POST", data=endless()))[0] == 413
    assert metadata.nova.seen == []


async def test_an_answer_beyond_the_limit_is_not_passed_on(metadata):
    metadata.nova.reply = lambda request: web.Response(body=b"x" * (MAX_RESPONSE + 1))
    assert (await metadata.ask())[0] == 502

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 2**20)
        return response

    metadata.nova.reply = endless
    with pytest.raises(ClientError):
        await metadata.ask()


async def test_a_silent_nova_is_502_after_its_time():
    async with serve_all(nova_timeout=0.1) as metadata:
        never = asyncio.Event()

        async def wait(_request):
            await never.wait()

        metadata.nova.reply = wait
        assert (await metadata.ask())[0] == 502
        never.set()


async def test_a_nova_that_breaks_off_is_502(metadata):
    def break_off(request):
        request.transport.abort()
        return web.Response()

    metadata.nova.reply = break_off
    assert (await metadata.ask())[0] == 502


async def test_answers_are_counted_by_status(metadata):
    def counted(status):
        return REGISTRY.get_sample_value("astara_metadata_requests_total", {"status": status}) or 0.0

    before = counted("200"), counted("403")
    await metadata.ask()
    await metadata.ask(headers={"Authorization": None})
    assert (counted("200"), counted("403")) == (before[0] + 1, before[1] + 1)
