"""How the appliance bounds what it forwards to the metadata service."""

import asyncio
import contextlib

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from astara_appliance import metadata_forwarder
from astara_appliance.boot import BootData
from astara_appliance.metadata_forwarder import MAX_REQUEST, MAX_RESPONSE, MetadataForwarder, MetadataRequest


class Orchestrator:
    """Stands for the metadata service; `reply` answers."""

    def __init__(self):
        self.reply = lambda request: web.Response(text="fine")
        self.running = self.most = 0

    async def answer(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            reply = self.reply(request)
            return await reply if asyncio.iscoroutine(reply) else reply
        finally:
            self.running -= 1


@contextlib.asynccontextmanager
async def forwarding(at_once=8):
    orchestrator = Orchestrator()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", orchestrator.answer)
    async with TestServer(app) as server, ClientSession() as session:
        boot = BootData.model_validate(
            {
                "version": 1,
                "deployment": "astara",
                "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
                "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
                "management": {"mac": "fa:00:00:00:00:01", "addresses": ["127.0.0.1/8"]},
                "orchestrator": {"addresses": ["127.0.0.1"], "metadata_port": server.port},
                "token": "5ec4e7",
            }
        )
        yield orchestrator, MetadataForwarder(boot, session, at_once)


def asking(path="/latest", body=b""):
    return MetadataRequest("GET", path, [("Accept", "*/*")], body, "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0003", "10.0.0.5")


@pytest.mark.parametrize("path", ["@127.0.0.2:80/", "http://127.0.0.2/", "127.0.0.2", "*", ""])
async def test_a_target_that_is_no_path_goes_nowhere(path):
    async with forwarding() as (orchestrator, forwarder):
        assert (await forwarder.forward(asking(path))).status == 400
        assert orchestrator.most == 0


async def test_too_large_a_request_is_not_sent():
    async with forwarding() as (orchestrator, forwarder):
        assert (await forwarder.forward(asking(body=b"x" * (MAX_REQUEST + 1)))).status == 413
        assert orchestrator.most == 0


async def test_too_large_an_answer_is_not_passed_on():
    async with forwarding() as (orchestrator, forwarder):
        orchestrator.reply = lambda request: web.Response(body=b"x" * (MAX_RESPONSE + 1))
        assert (await forwarder.forward(asking())).status == 502


async def test_no_more_than_allowed_are_on_their_way_and_none_is_lost():
    async with forwarding(at_once=2) as (orchestrator, forwarder):
        gate = asyncio.Event()

        async def wait(_request):
            if orchestrator.running == 2:
                gate.set()
            await gate.wait()
            return web.Response()

        orchestrator.reply = wait
        answers = await asyncio.gather(*(forwarder.forward(asking()) for _ in range(10)))
        assert [answer.status for answer in answers] == [200] * 10
        assert orchestrator.most == 2


async def test_a_silent_metadata_service_is_504_after_its_time(monkeypatch):
    monkeypatch.setattr(metadata_forwarder, "TIMEOUT", 0.05)
    async with forwarding() as (orchestrator, forwarder):
        never = asyncio.Event()

        async def wait(_request):
            await never.wait()

        orchestrator.reply = wait
        assert (await forwarder.forward(asking())).status == 504
        never.set()


async def test_a_metadata_service_that_breaks_off_is_502():
    async with forwarding() as (orchestrator, forwarder):

        def break_off(request):
            request.transport.abort()
            return web.Response()

        orchestrator.reply = break_off
        assert (await forwarder.forward(asking())).status == 502


async def test_redirects_and_refusals_are_the_instances_to_see():
    async with forwarding() as (orchestrator, forwarder):
        orchestrator.reply = lambda request: web.Response(status=302, headers={"Location": "http://127.0.0.2/"})
        answer = await forwarder.forward(asking())
        assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.2/")
        orchestrator.reply = lambda request: web.Response(status=503, headers={"Retry-After": "2"})
        answer = await forwarder.forward(asking())
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
