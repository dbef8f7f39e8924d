"""Many appliances in one process, and what a lab can do to them."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiohttp.test_utils import TestServer
from astara_appliance.host import SOURCE_HEADER, ApplianceHost
from pydantic import ValidationError
from yarl import URL

PORT = 15099


def boot(number, **more):
    return {
        "version": 1,
        "deployment": "astara",
        "resource_id": f"5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a{number:04x}",
        "resource_kind": "router",
        "slot": 0,
        "tenant_id": "a8f4ad2ab5b24a0cb6c9a5ea8c1e9a3f",
        "instance": f"5b7ff0bd-0d4a-4be8-9a6e-4bb46a2b{number:04x}",
        "management": {"mac": mac(0, number), "addresses": [f"127.77.0.{number}/8"], "mtu": 1500, "gateway": None},
        "orchestrator": {"addresses": ["127.0.0.1"], "metadata_port": 9, "api_port": 44250},
        "api_port": PORT,
        "token": "5ec4e7",
    } | more


def mac(interface, number):
    return f"fa:{interface:02x}:00:00:00:{number:02x}"


def internal(number, address="10.0.0.1/24", interface=1):
    return {
        "network_id": f"5b7ff0bd-0d4a-4be8-9a6e-{interface:04x}6a2c{number:04x}",
        "network_type": "internal",
        "interface": {"ifname": f"ge{interface}", "lladdr": mac(interface, number), "addresses": [address]},
    }


class Lab:
    """A host with a client beside it."""

    def __init__(self, host, session):
        self.host = host
        self.session = session

    async def start(self, number, **more):
        facts = boot(number, **more)
        await self.host.start(facts, [{"mac": facts["management"]["mac"].upper(), "mtu": 1500}])
        return facts["instance"]

    async def ask(self, number, method="GET", path="/v1/status", *, port=PORT, timeout=30.0, **more):
        headers = {"Authorization": "Bearer 5ec4e7", **more.pop("headers", {})}
        async with self.session.request(
            method,
            URL(f"http://127.77.0.{number}:{port}{path}", encoded=True),
            headers=headers,
            timeout=ClientTimeout(total=timeout),
            **more,
        ) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type.endswith("json") else body


@pytest.fixture
async def lab():
    async with contextlib.AsyncExitStack() as stack:
        host = ApplianceHost(metadata=True)
        stack.push_async_callback(host.close)
        yield Lab(host, await stack.enter_async_context(ClientSession()))


async def test_each_appliance_answers_on_its_own_address(lab):
    for number in (1, 2, 3):
        await lab.start(number)
    for number in (1, 2, 3):
        told = (await lab.ask(number))[1]
        assert told["resource_id"] == boot(number)["resource_id"]
        assert told["interfaces"] == {mac(0, number): "ge0"}
    assert len(lab.host.instances()) == 3


async def test_pushes_and_plugs_reach_one_appliance_only(lab):
    one, _ = await lab.start(1), await lab.start(2)
    await lab.host.plug(one, mac(1, 1), 1450)
    status, answer = await lab.ask(1, "PUT", "/v1/system/config", json={"networks": [internal(1)]})
    assert (status, answer["changed"]) == (200, ["firewall", "interfaces", "routes", "metadata_proxy"])
    assert (await lab.ask(1))[1]["interfaces"] == {mac(0, 1): "ge0", mac(1, 1): "ge1"}
    assert (await lab.ask(2))[1]["interfaces"] == {mac(0, 2): "ge0"}
    assert (await lab.ask(2, path="/v1/system/config/"))[1]["configuration"]["networks"] == []
    await lab.host.unplug(one, mac(1, 1))
    assert (await lab.ask(1))[1]["interfaces"] == {mac(0, 1): "ge0"}


async def test_a_stopped_appliance_is_gone_at_once_and_its_address_free(lab):
    instance = await lab.start(1)
    await lab.ask(1)
    await lab.host.stop(instance)
    await lab.host.stop(instance)
    assert lab.host.instances() == []
    with pytest.raises(ClientError):
        await lab.ask(1)
    await lab.start(1)
    assert (await lab.ask(1))[0] == 200


async def test_wrong_facts_a_second_start_and_a_taken_address_leave_nothing_behind(lab):
    instance = await lab.start(1)
    with pytest.raises(ValueError, match="runs already"):
        await lab.start(1)
    with pytest.raises(ValidationError):
        await lab.start(2, api_port=-1)
    with pytest.raises(OSError, match="address already in use"):
        await lab.start(2, management=boot(1)["management"])
    assert lab.host.instances() == [instance]
    assert (await lab.ask(1))[0] == 200
    await lab.start(2)


async def test_a_dead_appliance_never_answers_until_it_is_healed(lab):
    instance = await lab.start(1)
    lab.host.fault(instance, "dead")
    with pytest.raises(TimeoutError):
        await lab.ask(1, timeout=0.05)
    waiting = asyncio.create_task(lab.ask(1))
    lab.host.fault(instance, "none")
    assert (await waiting)[0] == 200


async def test_a_dead_appliance_can_be_stopped_while_somebody_waits(lab):
    instance = await lab.start(1)
    lab.host.fault(instance, "dead")
    with pytest.raises(TimeoutError):
        await lab.ask(1, timeout=0.05)
    waiting = asyncio.create_task(lab.ask(1))
    await asyncio.sleep(0)
    await lab.host.stop(instance)
    with pytest.raises(ClientError):
        await waiting


@pytest.mark.parametrize(("fault", "status"), [("rejecting", 422), ("failing", 500)])
async def test_an_appliance_can_be_told_to_refuse_pushes(lab, fault, status):
    instance = await lab.start(1)
    lab.host.fault(instance, fault)
    got, problem = await lab.ask(1, "PUT", "/v1/system/config", json={})
    assert (got, problem["status"]) == (status, status)
    assert (await lab.ask(1))[0] == 200


async def test_a_slow_appliance_answers_after_its_time(lab):
    instance = await lab.start(1)
    lab.host.fault(instance, "slow", seconds=3600)
    with pytest.raises(TimeoutError):
        await lab.ask(1, timeout=0.05)
    lab.host.fault(instance, "slow", seconds=0.01)
    assert (await lab.ask(1))[0] == 200
    with pytest.raises(ValueError, match="none of"):
        lab.host.fault(instance, "sleepy")


@contextlib.asynccontextmanager
async def metadata_service():
    """A stand-in for the orchestrator's metadata service that says what it was asked."""
    seen = []

    async def answer(request):
        seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        return web.Response(text="ami-1", headers={"X-Kept": "yes"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield server.port, seen


async def test_an_instances_metadata_request_goes_out_with_the_appliances_facts_and_token(lab):
    async with metadata_service() as (port, seen):
        # The first address does not answer, the second does.
        orchestrator = {"addresses": ["127.0.0.2", "127.0.0.1"], "metadata_port": port}
        instance = await lab.start(1, orchestrator=orchestrator)
        await lab.host.plug(instance, mac(1, 1), 1450)
        await lab.host.plug(instance, mac(2, 1), 1450)
        networks = [internal(1), internal(1, "10.0.1.1/24", 2)]
        await lab.ask(1, "PUT", "/v1/system/config", json={"networks": networks})
        forged = {
            "Authorization": "Bearer forged",
            SOURCE_HEADER: "10.0.1.7",
            "X-Forwarded-For": "10.0.0.99",
            "X-Instance-ID": "forged",
            "X_Astara_Resource": "forged",
            "x-astara-network": "forged",
            "Forwarded": "for=forged",
            "Connection": "x-hop",
            "X-Hop": "forged",
            "X-Mine": "kept",
        }
        path = "/latest/meta%2Ddata/?a=1&b=%20"
        status, body = await lab.ask(1, "POST", path, port=9602, headers=forged, data=b"key")
        assert (status, body) == (200, b"ami-1")
        ((method, raw_path, headers, sent),) = seen
        assert (method, raw_path, sent) == ("POST", path, b"key")
        assert headers["Authorization"] == "Bearer 5ec4e7"
        assert headers["X-Astara-Deployment"] == "astara"
        assert headers["X-Astara-Resource"] == boot(1)["resource_id"]
        assert headers["X-Astara-Instance"] == instance
        assert headers["X-Astara-Slot"] == "0"
        assert headers["X-Astara-Network"] == networks[1]["network_id"]
        assert headers["X-Forwarded-For"] == "10.0.1.7"
        assert headers["X-Mine"] == "kept"
        assert "forged" not in str(headers)


async def test_metadata_listeners_follow_the_pushed_networks(lab):
    async with metadata_service() as (port, _):
        instance = await lab.start(1, orchestrator={"addresses": ["127.0.0.1"], "metadata_port": port})
        await lab.host.plug(instance, mac(1, 1), 1450)
        await lab.ask(1, "PUT", "/v1/system/config", json={"networks": [internal(1)]})
        assert (await lab.ask(1, path="/", port=9601))[0] == 200
        await lab.ask(1, "PUT", "/v1/system/config", json={"networks": []})
        with pytest.raises(ClientError):
            await lab.ask(1, path="/", port=9601)


async def test_without_a_metadata_service_the_instance_is_told_to_come_back(lab):
    instance = await lab.start(1)
    await lab.host.plug(instance, mac(1, 1), 1450)
    await lab.ask(1, "PUT", "/v1/system/config", json={"networks": [internal(1)]})
    assert (await lab.ask(1, path="/latest", port=9601))[0] == 503
