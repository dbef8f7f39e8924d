"""What operators get from the HTTP API: answers, refusals, the live stream, and who may ask."""

import asyncio
import json
import logging
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import query_pb2
from authority import Authority
from fastapi import FastAPI
from rpcapi_running import IMAGE, ROUTER, TENANT, TOKEN, Api, running

from lab.ports import free_port
from services.common.listen import AddressTakenError, bind
from services.common.settings import SettingsError
from services.rpcapi.server import serve
from services.rpcapi.settings import RpcapiSettings, read_token


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as one:
        yield one


def configured(resource_id: str = ROUTER, tenant_id: str = TENANT) -> resource_pb2.Resource:
    resource = resource_pb2.Resource(
        resource_id=resource_id,
        kind=resource_pb2.RESOURCE_KIND_ROUTER,
        tenant_id=tenant_id,
        name="r1",
        shard=17,
        worker="worker-1",
        state=resource_pb2.INSTANCE_STATE_CONFIGURED,
        digest="v1:ab",
        attempts=1,
        last_error="once",
    )
    resource.since.FromSeconds(1_800_000_000)
    instance = resource.instances.add(slot=0, role="single", server_id=IMAGE, management_addresses=["127.64.0.9"])
    instance.state = resource_pb2.INSTANCE_STATE_CONFIGURED
    resource.attachments.add(network_id=IMAGE, role=resource_pb2.ATTACHMENT_ROLE_GATEWAY)
    return resource


# Commands


@pytest.mark.parametrize(
    ("path", "kind", "scope", "target"),
    [
        ("/poll/", "POLL", "GLOBAL", ""),
        ("/workers/debug/", "WORKERS_DEBUG", "GLOBAL", ""),
        (f"/router/rebuild/{ROUTER}", "REBUILD", "RESOURCE", ROUTER),
        (f"/router/update/{ROUTER}", "UPDATE", "RESOURCE", ROUTER),
        (f"/router/debug/{ROUTER}", "DEBUG", "RESOURCE", ROUTER),
        (f"/router/manage/{ROUTER}", "MANAGE", "RESOURCE", ROUTER),
        (f"/tenant/debug/{TENANT}", "DEBUG", "TENANT", TENANT),
        (f"/tenant/manage/{TENANT}", "MANAGE", "TENANT", TENANT),
        ("/global/debug", "DEBUG", "GLOBAL", ""),
        ("/global/manage", "MANAGE", "GLOBAL", ""),
    ],
)
@pytest.mark.parametrize("slash", ["with", "without"])
async def test_a_command_answers_with_the_operation_it_made(api: Api, path, kind, scope, target, slash):
    spelled = path.rstrip("/") + ("/" if slash == "with" else "")
    status, body, answer = await api.put(spelled)
    assert status == 202
    assert (body["kind"], body["scope"], body["target_id"]) == (kind.lower(), scope.lower(), target)
    assert answer.headers["Location"] == f"/v1/operations/{body['operation_id']}"
    (command,) = api.scheduler.commands
    assert resource_pb2.OperationKind.Name(command.kind) == f"OPERATION_KIND_{kind}"
    assert resource_pb2.OperationScope.Name(command.scope) == f"OPERATION_SCOPE_{scope}"


async def test_the_descriptions_curl_examples_work_as_they_are_written_over_ipv6(api: Api):
    for path in ("/poll/", "/workers/debug/", f"/router/rebuild/{ROUTER}"):
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"),
            *("-X", "PUT", "-g6", f"http://[::1]:{api.port}{path}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await curl.communicate()
        assert (path, output) == (path, b"202")


async def test_workers_debug_answers_with_what_the_workers_say(api: Api):
    api.scheduler.diagnoses = [json.dumps({"worker": "worker-1", "shards": 512}), "not json"]
    api.scheduler.state = resource_pb2.OPERATION_STATE_SUCCEEDED
    status, body, _ = await api.put("/workers/debug/")
    assert status == 200
    assert body["diagnoses"] == [{"worker": "worker-1", "shards": 512}, "not json"]


@pytest.mark.parametrize("how", ["query", "body"])
async def test_a_rebuild_takes_another_image_and_a_reason(api: Api, how):
    words = {"router_image_uuid": IMAGE, "reason": "new kernel"}
    await api.put(f"/router/rebuild/{ROUTER}", **({"params": words} if how == "query" else {"json": words}))
    assert (api.scheduler.commands[0].image_id, api.scheduler.commands[0].reason) == (IMAGE, "new kernel")


async def test_a_repeated_command_with_one_key_is_one_operation(api: Api):
    key = str(uuid.uuid4())
    for _ in range(2):
        _, body, _ = await api.put("/poll", headers={"Idempotency-Key": key})
        assert body["operation_id"] == key


async def test_ids_without_hyphens_and_in_capitals_mean_the_same_router(api: Api):
    await api.put(f"/router/update/{ROUTER.replace('-', '').upper()}")
    assert api.scheduler.commands[0].target_id == ROUTER


@pytest.mark.parametrize(
    "path", ["/browse", f"/router/browse/{ROUTER}", "/ssh", f"/ssh/{ROUTER}", f"/router/ssh/{ROUTER}/"]
)
async def test_interactive_commands_are_not_implemented_over_http(api: Api, path):
    status, body, answer = await api.put(path)
    assert (status, body["status"], answer.content_type) == (501, 501, "application/problem+json")


# Errors


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "field_name"),
    [
        ("PUT", "/router/rebuild/nonsense", {}, 422, "router_id"),
        ("PUT", "/tenant/debug/%00", {}, 422, "tenant_id"),
        ("PUT", f"/router/rebuild/{ROUTER}?router_image_uuid=x", {}, 422, "query.router_image_uuid"),
        ("PUT", f"/router/rebuild/{ROUTER}", {"json": {"router_image_uuid": 5}}, 422, "body.router_image_uuid"),
        ("PUT", "/poll", {"json": {"reasons": "typo"}}, 422, "body.reasons"),
        ("PUT", "/poll", {"json": [1]}, 422, "body"),
        ("PUT", "/workers/debug?wait=61", {}, 422, "query.wait"),
        ("GET", "/v1/resources?state=dead", {}, 422, "query.state"),
        ("GET", "/v1/resources?limit=0", {}, 422, "query.limit"),
        ("GET", "/v1/resources/x/history", {}, 422, "resource_id"),
        ("PUT", "/router/dance/" + ROUTER, {}, 404, None),
        ("GET", "/nothing", {}, 404, None),
        ("GET", "/poll", {}, 405, None),
        ("DELETE", "/v1/workers", {}, 405, None),
    ],
)
async def test_every_refusal_is_a_problem_document(api: Api, method, path, options, status, field_name):
    async with api.session.request(method, api.url + path, **options) as answer:
        body = json.loads(await answer.read())
        assert (answer.status, body["status"], answer.content_type) == (status, status, "application/problem+json")
    assert body["title"]
    assert body["detail"]
    if field_name:
        assert [entry["field"] for entry in body["errors"]] == [field_name]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.FAILED_PRECONDITION, 409),
        (grpc.StatusCode.INVALID_ARGUMENT, 422),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.INTERNAL, 502),
    ],
)
async def test_what_the_scheduler_refuses_is_told_in_its_words(api: Api, code, status):
    api.scheduler.refusal = (code, "the router is in debug mode")
    answered, body, answer = await api.put(f"/router/update/{ROUTER}")
    assert (answered, body["detail"]) == (status, "the router is in debug mode")
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_a_field_that_the_scheduler_refuses_is_named(api: Api):
    api.scheduler.violation = ("image_id", "no such image")
    status, body, _ = await api.put(f"/router/rebuild/{ROUTER}")
    assert (status, body["errors"]) == (422, [{"field": "image_id", "message": "no such image"}])


async def test_a_scheduler_that_is_away_is_not_known_yet(api: Api):
    await api.rpc.stop(0)
    status, body, answer = await api.get(f"/v1/resources/{ROUTER}")
    assert (status, answer.headers["Retry-After"]) == (503, "2")
    assert "not known yet" in body["detail"]
    assert (await api.get("/readyz"))[0] == 503
    assert (await api.get("/healthz"))[0] == 200


async def test_a_large_body_is_refused_before_it_is_read(api: Api):
    async with api.session.put(api.url + "/poll", data=b"x" * 70_000) as answer:
        assert (answer.status, answer.content_type) == (413, "application/problem+json")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000

    async with api.session.put(api.url + "/poll", data=endless()) as answer:
        assert answer.status == 413


# Queries


async def test_a_resource_shows_everything_known_of_it(api: Api):
    api.scheduler.resources = [configured()]
    status, body, _ = await api.get(f"/v1/resources/{ROUTER}/")
    assert (status, body["complete"]) == (200, True)
    resource = body["resource"]
    assert (resource["state"], resource["since"]) == ("configured", "2027-01-15T08:00:00Z")
    assert (resource["tenant_id"], resource["shard"], resource["worker"]) == (TENANT, 17, "worker-1")
    assert (resource["attempts"], resource["last_error"], resource["digest"]) == (1, "once", "v1:ab")
    assert resource["instances"][0]["management_addresses"] == ["127.64.0.9"]
    assert resource["attachments"] == [{"network_id": IMAGE, "role": "gateway", "port_id": "", "subnet_ids": []}]


async def test_resources_come_in_pages_and_by_tenant_and_state(api: Api):
    api.scheduler.resources = [configured(str(uuid.UUID(int=number))) for number in range(5)]
    api.scheduler.resources[4].tenant_id = "f" * 32
    _, first, _ = await api.get("/v1/resources?limit=3")
    _, second, _ = await api.get(f"/v1/resources?limit=3&page_token={first['next_page_token']}")
    assert [len(first["resources"]), len(second["resources"]), second["next_page_token"]] == [3, 2, ""]
    _, tenants, _ = await api.get(f"/v1/resources?tenant={'F' * 32}")
    assert len(tenants["resources"]) == 1
    _, down, _ = await api.get("/v1/resources?state=down")
    assert down["resources"] == []


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/workers", "workers"),
        ("/v1/services", "services"),
        ("/v1/shards", "shards"),
        ("/v1/operations", "operations"),
        ("/v1/debug-flags", "flags"),
        ("/v1/findings", "findings"),
        (f"/v1/resources/{ROUTER}/history", "lines"),
    ],
)
async def test_the_scheduler_can_be_asked(api: Api, path, key):
    status, body, _ = await api.get(path)
    assert status == 200
    assert isinstance(body[key], list)


async def test_services_are_shown_with_what_is_known_of_them(api: Api):
    _, body, _ = await api.get("/v1/services/")
    (shown,) = body["services"]
    assert shown.pop("last_seen").endswith("Z")
    assert shown == {
        "service": "worker", "host": "worker-1", "version": "0.1.0", "address": "", "started_at": None, "alive": True,
    }  # fmt: skip
    assert body["complete"]


async def test_an_unknown_operation_does_not_exist(api: Api):
    assert (await api.get(f"/v1/operations/{uuid.uuid4()}"))[0] == 404


# The live stream


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in answer.content:
        text = line.decode().strip()
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield name, json.loads(text.removeprefix("data: "))


async def test_the_stream_shows_what_is_and_then_each_change(api: Api):
    api.scheduler.changes.put_nowait(query_pb2.WatchResourcesResponse(changed=[configured()], synced=True))
    async with api.session.get(f"{api.url}/v1/stream?tenant={TENANT}&resource={ROUTER}") as answer:
        assert answer.content_type == "text/event-stream"
        events = _events(answer)
        name, data = await anext(events)
        assert (name, data["changed"][0]["state"], data["synced"]) == ("resources", "configured", True)
        api.scheduler.changes.put_nowait(query_pb2.WatchResourcesResponse(gone_resource_ids=[ROUTER]))
        _, data = await anext(events)
        assert data["gone"] == [ROUTER]
        api.scheduler.changes.put_nowait(None)
        name, data = await anext(events)
        assert (name, data["status"]) == ("problem", 503)
    assert (api.scheduler.watched[0].tenant_id, list(api.scheduler.watched[0].resource_ids)) == (TENANT, [ROUTER])


async def test_a_stream_that_cannot_begin_is_a_problem_document(api: Api):
    api.scheduler.refusal = (grpc.StatusCode.UNAVAILABLE, "no inventory yet")
    status, body, answer = await api.get("/v1/stream")
    assert (status, body["detail"], answer.content_type) == (503, "no inventory yet", "application/problem+json")


async def test_open_streams_are_limited_and_end_when_the_service_stops():
    async with running(max_streams=1) as api:
        api.scheduler.changes.put_nowait(query_pb2.WatchResourcesResponse(synced=True))
        async with api.session.get(f"{api.url}/v1/stream") as answer:
            events = _events(answer)
            await anext(events)
            assert (await api.get("/v1/stream"))[0] == 503
            api.stop.set()
            assert [event async for event in events] == []


# Who may ask


async def test_with_a_token_only_probes_and_the_description_are_open():
    async with running(auth="token", token=TOKEN) as api:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await api.get(path))[0] == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            status, _, answer = await api.put("/poll/", headers=headers)
            assert (status, answer.content_type) == (401, "application/problem+json")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await api.get("/v1/resources"))[0] == 401
        assert (await api.put("/poll/", headers={"Authorization": f"Bearer {TOKEN}"}))[0] == 202


async def test_one_client_cannot_flood_the_api_with_commands():
    async with running(command_rate=0.5) as api:
        answers = [await api.put("/poll") for _ in range(3)]
        assert [status for status, _, _ in answers] == [202, 429, 429]
        assert int(answers[1][2].headers["Retry-After"]) >= 1
        assert (await api.get("/v1/workers"))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:44250", "192.0.2.1:44250", "127.0.0.1.evil.example", ""]
)
async def test_an_open_api_does_not_answer_to_the_names_of_others(api: Api, host):
    status, body, answer = await api.put("/poll/", headers={"Host": host})
    assert (status, answer.content_type) == (403, "application/problem+json")
    assert "auth = token" in body["detail"]
    assert not api.scheduler.commands


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.1.2.3:44250", "[::1]", "[::1]:44250"])
async def test_an_open_api_answers_to_loopback(api: Api, host):
    status, _, _ = await api.get("/v1/resources", headers={"Host": host})
    assert status == 200


def test_an_open_api_is_refused_on_other_addresses_than_loopback():
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        read_token(RpcapiSettings(auth="none", listen=("127.0.0.1", "192.0.2.1")))
    with pytest.raises(SettingsError, match="token_file"):
        read_token(RpcapiSettings(auth="token"))


async def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path):
    file = tmp_path / "tls.pem"
    file.write_text("no certificate")
    settings = RpcapiSettings(tls_cert=str(file), tls_key=str(file))
    with pytest.raises(SettingsError, match=r"^\[rpcapi\] tls_cert or tls_key cannot be used: .*tls\.pem"):
        await serve(FastAPI(), settings, [], asyncio.Event())


async def test_a_client_that_does_not_listen_holds_up_no_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cert, key = Authority(tmp_path / "authority").issue("localhost")
    app = FastAPI()
    stop, listening = asyncio.Event(), socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    serving = asyncio.create_task(serve(app, RpcapiSettings(tls_cert=cert, tls_key=key), [listening], stop))

    def ask() -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(tmp_path / "authority" / "ca.pem"))
        client = context.wrap_socket(socket.create_connection(address, 10), server_hostname="localhost")
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        return client

    client = await asyncio.to_thread(ask)
    stop.set()
    await serving
    client.close()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_the_token_is_read_from_a_file_and_never_shown(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings = RpcapiSettings(token_file=str(file))
    assert read_token(settings) == TOKEN
    assert TOKEN not in repr(RpcapiSettings(token=TOKEN))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token(RpcapiSettings(token_file=str(tmp_path / "missing")))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_is_named(taken: int):
    with pytest.raises(AddressTakenError, match=rf"127\.0\.0\.1 port {taken}"):
        bind("rpcapi", ("127.0.0.1",), taken)


@pytest.mark.parametrize("listen", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_addresses_that_take_each_others_port_are_wrong_settings(listen: tuple[str, ...]):
    port = free_port()
    with pytest.raises(SettingsError, match=rf"{listen[1]} port {port}"):
        bind("rpcapi", listen, port)


# What it says about itself


async def test_metrics_count_by_route_and_never_by_invented_paths(api: Api):
    await api.get(f"/v1/resources/{ROUTER}")
    await api.get("/invented/path")
    async with api.session.get(api.url + "/metrics") as answer:
        text = await answer.text()
    assert 'astara_rpcapi_requests_total{method="GET",route="/v1/resources/{resource_id}",status="404"}' in text
    assert "invented" not in text


async def test_the_page_of_the_api_loads_nothing_from_elsewhere(api: Api):
    async with api.session.get(api.url + "/docs") as answer:
        page = await answer.text()
    assert "/router/rebuild/{router_id}" in page
    assert "<script" not in page
    assert "//" not in page.replace("<!doctype html>", "")
