"""The whole way of a metadata request: instance, appliance, the service as a process, scheduler, Neutron, Nova."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import sys

import grpc.aio
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import query_pb2, query_pb2_grpc
from astara_appliance.host import SOURCE_HEADER, ApplianceHost
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab.ports import free_port
from services.common import marks
from services.metadata.errors import NoInstanceError, TryAgainError
from services.metadata.resources import SchedulerResources

KEY = "the appliances' key, long enough"
ROUTER = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001"
BOOT = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002"
NETWORK = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0003"


class Scheduler(query_pb2_grpc.QueryServiceServicer):
    """Knows one router, or fails with `code`."""

    code = None

    async def GetResource(self, request, context):  # noqa: N802 - the name in the proto
        if self.code is not None:
            await context.abort(self.code, "said so")
        if request.resource_id != ROUTER:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such resource")
        resource = resource_pb2.Resource(
            resource_id=ROUTER,
            instances=[resource_pb2.Instance(instance_id=BOOT)],
            attachments=[resource_pb2.Attachment(network_id=NETWORK, role=resource_pb2.ATTACHMENT_ROLE_INTERNAL)],
        )
        return query_pb2.GetResourceResponse(resource=resource, complete=True)


@pytest.fixture
async def scheduler():
    servicer = Scheduler()
    server = grpc.aio.server()
    query_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer
    await server.stop(None)


async def test_what_the_scheduler_cannot_say_is_try_again_and_what_it_denies_is_gone(scheduler):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scheduler.port}") as channel:
        resources = SchedulerResources(channel)
        assert (await resources.get(ROUTER)).networks == {NETWORK}
        with pytest.raises(NoInstanceError):
            await resources.get("another")
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED):
            scheduler.code = code
            with pytest.raises(TryAgainError, match=code.name):
                await resources.get(ROUTER)


async def neutron(request):
    if not request.path.endswith("/ports"):
        links = [{"rel": "self", "href": str(request.url.with_path("/v2.0"))}]
        return web.json_response({"version": {"id": "v2.0", "status": "CURRENT", "links": links}})
    known = request.query["network_id"] == NETWORK and request.query["fixed_ips"] == "ip_address=10.0.0.5"
    port = {"device_id": "server-1", "device_owner": "compute:nova", "project_id": "tenant-1"}
    return web.json_response({"ports": [port] if known else []})


async def nova(request):
    signature = hmac.new(b"hunter2", request.headers["X-Instance-ID"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers["X-Instance-ID-Signature"]):
        raise web.HTTPForbidden
    return web.Response(text=f"{request.headers['X-Instance-ID']} of {request.headers['X-Tenant-ID']}{request.path_qs}")


async def serve(stack, handler):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return (await stack.enter_async_context(TestServer(app))).port


@contextlib.asynccontextmanager
async def service(folder, scheduler_port, neutron_port, nova_port):
    """`python -m services.metadata` with a configuration file; gives its HTTP and gRPC ports and its log."""
    port, grpc_port = free_port(), free_port()
    config = folder / "astara.ini"
    config.write_text(
        f"""
[DEFAULT]
log_level = debug
log_format = json
[grpc]
scheduler = 127.0.0.1:{scheduler_port}
[openstack]
auth_type = none
endpoint = http://127.0.0.1:{neutron_port}
[appliance]
secret = {KEY}
[metadata]
listen = 127.0.0.1
port = {port}
grpc_listen = 127.0.0.1:{grpc_port}
nova_metadata_url = http://127.0.0.1:{nova_port}
shared_secret = hunter2
"""
    )
    log = folder / "metadata.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.metadata", "--config-file", str(config), stderr=output, stdout=output
        )
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            yield port, log
        finally:
            process.terminate()
            assert await process.wait() == 0


def boot_facts(port):
    return {
        "version": 1,
        "deployment": "astara",
        "resource_id": ROUTER,
        "instance": BOOT,
        "management": {"mac": "fa:00:00:00:00:01", "addresses": ["127.78.0.1/8"]},
        "orchestrator": {"addresses": ["127.0.0.1"], "metadata_port": port},
        "api_port": 15098,
        "token": marks.appliance_token(KEY, "astara", ROUTER, 0, BOOT),
    }


async def test_an_instance_behind_an_appliance_gets_its_own_metadata(tmp_path, scheduler):
    async with contextlib.AsyncExitStack() as stack:
        ports = [scheduler.port, await serve(stack, neutron), await serve(stack, nova)]
        port, log = await stack.enter_async_context(service(tmp_path, *ports))
        host = ApplianceHost(metadata=True)
        stack.push_async_callback(host.close)
        session = await stack.enter_async_context(ClientSession())
        await host.start(boot_facts(port), [{"mac": "fa:00:00:00:00:01", "mtu": 1500}])
        await host.plug(BOOT, "fa:00:00:00:00:02", 1450)
        network = {
            "network_id": NETWORK,
            "network_type": "internal",
            "interface": {"ifname": "ge1", "lladdr": "fa:00:00:00:00:02", "addresses": ["10.0.0.1/24"]},
        }
        await host.appliance(BOOT).push(json.dumps({"networks": [network]}).encode(), None, None)

        async def ask(source):
            url = "http://127.78.0.1:9601/latest/meta-data?x=1"
            async with session.get(url, headers={SOURCE_HEADER: source, "X-Instance-ID": "server-2"}) as answer:
                return answer.status, await answer.text()

        assert await ask("10.0.0.5") == (200, "server-1 of tenant-1/latest/meta-data?x=1")
        assert (await ask("10.0.0.6"))[0] == 404
        scheduler.code = grpc.StatusCode.UNAVAILABLE
        await host.stop(BOOT)
        await host.start(boot_facts(port) | {"token": "f" * 64}, [])
        await host.plug(BOOT, "fa:00:00:00:00:02", 1450)
        await host.appliance(BOOT).push(json.dumps({"networks": [network]}).encode(), None, None)
        assert (await ask("10.0.0.5"))[0] == 403
    text = log.read_text()
    assert "refused" in text
    for secret in (KEY, "hunter2", boot_facts(port)["token"], "f" * 64):
        assert secret not in text


async def test_a_service_that_lacks_its_secret_says_so_and_ends(tmp_path):
    config = tmp_path / "astara.ini"
    config.write_text("[appliance]\nsecret = of sufficient length\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.metadata", "--config-file", str(config), stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert b"[metadata] shared_secret must be set" in error
