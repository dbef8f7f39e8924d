"""The agent's REST API over a real socket."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from astara_appliance.agent import APPLIANCE, MAX_BODY, create_app
from astara_appliance.backend import Link, RecordingBackend
from astara_appliance.boot import BootData

TOKEN = "5ec4e7"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BOOT = BootData.model_validate(
    {
        "version": 1,
        "deployment": "astara",
        "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "management": {"mac": "fa:00:00:00:00:01", "addresses": ["127.0.0.1/8"]},
        "token": TOKEN,
    }
)
LINKS = [Link("fa:00:00:00:00:01", 1500), Link("fa:00:00:00:00:02", 1500), Link("fa:00:00:00:00:03", 1450)]
EXTERNAL = {
    "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
    "network_type": "external",
    "interface": {"ifname": "ge1", "lladdr": "fa:00:00:00:00:02", "addresses": ["172.24.4.9/24"]},
}
INTERNAL = {
    "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a02",
    "network_type": "internal",
    "interface": {"ifname": "ge2", "lladdr": "fa:00:00:00:00:03", "addresses": ["10.0.0.1/24"], "mtu": 1450},
    "subnets": [
        {
            "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b02",
            "cidr": "10.0.0.0/24",
            "gateway_ip": "10.0.0.1",
            "dhcp_enabled": True,
        }
    ],
}
WANTED = {
    "hostname": "r1",
    "default_v4_gateway": "172.24.4.1",
    "networks": [EXTERNAL, INTERNAL],
    "floating_ips": [
        {
            "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1f01",
            "floating_ip": "172.24.4.20",
            "fixed_ip": "10.0.0.5",
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
        }
    ],
    "labels": [{"name": "metered", "prefixes": ["198.51.100.0/24"], "direction": "egress"}],
}


class Agent:
    """A served appliance and a client that knows its token."""

    def __init__(self, server, session, backend):
        self.url = str(server.make_url("")).rstrip("/")
        self.app = server.app
        self.session = session
        self.backend = backend

    async def ask(self, method, path, *, headers=BEARER, **more):
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            body = await answer.read()
            kind = answer.content_type
            return answer.status, json.loads(body) if kind.endswith("json") else body.decode()

    async def push(self, document=WANTED, digest="v1:a", epoch="1.1"):
        marks = {"X-Astara-Digest": digest, "X-Astara-Epoch": epoch}
        headers = BEARER | {key: value for key, value in marks.items() if value is not None}
        return await self.ask("PUT", "/v1/system/config", headers=headers, json=document)

    async def status(self):
        return (await self.ask("GET", "/v1/status"))[1]


@contextlib.asynccontextmanager
async def serve(state_dir=None, boot=BOOT, machine=RecordingBackend):
    backend = machine(LINKS)
    ticks = iter(range(1_000_000))
    app = create_app(boot, state_dir, backend, lambda: float(next(ticks)))
    async with TestServer(app) as server, ClientSession() as session:
        yield Agent(server, session, backend)


@pytest.fixture
async def agent():
    async with serve() as served:
        yield served


async def test_before_the_first_push_status_says_what_is_known(agent):
    assert await agent.status() == {
        "v4": False,
        "v6": False,
        "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "version": "0.1.0",
        "uptime_seconds": 1.0,
        "digest": None,
        "epoch": None,
        "interfaces": {"fa:00:00:00:00:01": "ge0", "fa:00:00:00:00:02": "ge1", "fa:00:00:00:00:03": "ge2"},
        "undone": [],
    }
    assert (await agent.ask("GET", "/v1/system/config"))[1]["configuration"]["networks"] == []


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/v1/status", "v4"),
        ("GET", "/v1/firewall/rules", None),
        ("GET", "/v1/firewall/labels", "labels"),
        ("POST", "/v1/firewall/labels/resetcounters", "labels"),
        ("GET", "/v1/system/interface/ge1", "interface"),
        ("GET", "/v1/system/interfaces", "interfaces"),
        ("GET", "/v1/system/config", "configuration"),
        ("PUT", "/v1/system/config", "configuration"),
    ],
)
async def test_each_call_answers_with_and_without_slash_and_wants_the_token(agent, method, path, slash, key):
    more = {"json": WANTED} if method == "PUT" else {}
    status, answer = await agent.ask(method, path + slash, **more)
    assert status == 200
    assert key is None or key in answer
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        status, answer = await agent.ask(method, path + slash, headers=headers, **more)
        assert status == (200 if path == "/v1/status" else 401)


async def test_an_appliance_without_token_is_open():
    async with serve(boot=BOOT.model_copy(update={"token": None})) as agent:
        assert (await agent.ask("GET", "/v1/system/config", headers={}))[0] == 200


async def test_unknown_paths_methods_and_interfaces_get_problem_documents(agent):
    for method, path, expected in (
        ("GET", "/v2/status", 404),
        ("DELETE", "/v1/status", 405),
        ("GET", "/v1/system/interface/eth0", 404),
    ):
        status, problem = await agent.ask(method, path)
        assert status == problem["status"] == expected
        assert problem["title"]


async def test_a_push_is_in_effect_and_told(agent):
    status, answer = await agent.push({"configuration": WANTED})
    assert status == 200
    assert answer["changed"] == ["firewall", "interfaces", "routes", "dhcp", "metadata_proxy"]
    assert (answer["digest"], answer["epoch"]) == ("v1:a", "1.1")
    told = await agent.status()
    assert (told["digest"], told["epoch"], told["v4"], told["v6"]) == ("v1:a", "1.1", True, False)
    kept = (await agent.ask("GET", "/v1/system/config"))[1]["configuration"]
    assert kept == answer["configuration"]
    assert kept["networks"][1]["interface"]["addresses"] == ["10.0.0.1/24"]
    interface = (await agent.ask("GET", "/v1/system/interface/ge2"))[1]["interface"]
    assert interface == {
        "addresses": ["10.0.0.1/24"],
        "description": "",
        "groups": [],
        "ifname": "ge2",
        "lladdr": "fa:00:00:00:00:03",
        "media": None,
        "mtu": 1450,
        "state": "up",
    }


@pytest.mark.parametrize("asked", ["return=minimal", "respond-async, Return=Minimal;x=1"])
async def test_who_prefers_little_is_not_told_what_it_sent(agent, asked):
    marks = {"X-Astara-Digest": "v1:a", "X-Astara-Epoch": "1.1", "Prefer": asked}
    async with agent.session.put(f"{agent.url}/v1/system/config", headers=BEARER | marks, json=WANTED) as answer:
        assert answer.headers["Preference-Applied"] == "return=minimal"
        told = await answer.json()
    assert told == {
        "changed": ["firewall", "interfaces", "routes", "dhcp", "metadata_proxy"], "digest": "v1:a", "epoch": "1.1",
        "undone": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("172.24.4.9", "is the router's own address"),
        ("172.24.4.1", "is a gateway's address"),
        ("10.0.0.1", "is the router's own address"),
        ("127.0.0.1", "is not an address that a host may have"),
    ],
)
async def test_a_floating_ip_stands_for_nothing_else(agent, address, message):
    document = WANTED | {"floating_ips": [WANTED["floating_ips"][0] | {"floating_ip": address}]}
    status, answer = await agent.push(document)
    assert (status, answer["errors"]) == (422, [{"field": "floating_ips[0].floating_ip", "message": message}])
    assert (await agent.status())["digest"] is None


async def test_ports_of_the_routers_own_address_may_be_forwarded(agent):
    forwarding = {
        "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1f09", "floating_ip": "172.24.4.9", "protocol": "tcp",
        "external_port": 80, "fixed_ip": "10.0.0.5", "internal_port": 8080,
    }  # fmt: skip
    assert (await agent.push(WANTED | {"port_forwardings": [forwarding]}))[0] == 200


async def test_the_management_address_survives_whatever_is_pushed(agent):
    await agent.push({"networks": []})
    interfaces = (await agent.ask("GET", "/v1/system/interfaces"))[1]["interfaces"]
    assert interfaces[0]["ifname"] == "ge0"
    assert interfaces[0]["addresses"] == ["127.0.0.1/8"]
    stolen = {**INTERNAL, "interface": {**INTERNAL["interface"], "lladdr": "fa:00:00:00:00:01"}}
    status, problem = await agent.push({"networks": [stolen]})
    assert status == 422
    assert problem["errors"] == [
        {"field": "networks[0].interface.lladdr", "message": "is the management interface's"},
    ]


async def test_an_equal_push_changes_nothing_and_a_small_change_touches_its_service_only(agent):
    await agent.push()
    assert (await agent.push())[1]["changed"] == []
    routed = WANTED | {"static_routes": [["192.0.2.0/24", "10.0.0.9"]]}
    _, answer = await agent.push(routed, digest="v1:b")
    assert answer["changed"] == ["routes"]
    assert (await agent.status())["digest"] == "v1:b"


async def test_firewall_rules_look_as_iptables_prints_them(agent):
    await agent.push()
    status, text = await agent.ask("GET", "/v1/firewall/rules")
    assert status == 200
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:2] == ["Chain INPUT (policy DROP)", "target prot opt source destination"]
    assert "DNAT tcp -- 0.0.0.0/0 169.254.169.254 in ge2 tcp dpt:80 to:10.0.0.1:9602" in lines
    assert "DNAT all -- 0.0.0.0/0 172.24.4.20 to:10.0.0.5" in lines
    assert "SNAT all -- 10.0.0.5 0.0.0.0/0 to:172.24.4.20" in lines
    assert "SNAT all -- 0.0.0.0/0 0.0.0.0/0 out ge1 to:172.24.4.9" in lines
    assert "DROP all -- 0.0.0.0/0 127.0.0.1 in !ge0" in lines
    await agent.push(WANTED | {"admin_state_up": False, "enable_snat": False})
    lines = (await agent.ask("GET", "/v1/firewall/rules"))[1].splitlines()
    begins = lines.index("Chain FORWARD (policy DROP)")
    assert lines[begins + 2] == ""
    assert not [line for line in lines if line.startswith("SNAT") and "out ge1" in line]


async def test_label_counters_are_told_as_they_were_when_they_are_reset(agent):
    await agent.push()
    agent.backend.counted["metered"].packets = 7
    agent.backend.counted["metered"].bytes = 900
    counted = {"labels": [{"name": "metered", "packets": 7, "bytes": 900}]}
    assert (await agent.ask("GET", "/v1/firewall/labels"))[1] == counted
    assert (await agent.ask("POST", "/v1/firewall/labels/resetcounters"))[1] == counted
    assert (await agent.ask("GET", "/v1/firewall/labels"))[1]["labels"][0]["bytes"] == 0


async def test_a_lower_epoch_is_refused_and_told_the_highest(agent):
    assert (await agent.push(epoch="3.17"))[0] == 200
    for stale in ("3.16", "2.99", "0.0", None):
        status, problem = await agent.push({"networks": []}, digest="v1:stale", epoch=stale)
        assert (status, problem["epoch"], problem["status"]) == (409, "3.17", 409)
    assert (await agent.status())["digest"] == "v1:a"
    assert (await agent.push(epoch="3.17"))[0] == 200
    assert (await agent.push(epoch="4.0"))[0] == 200


async def test_a_push_without_epoch_passes_before_the_first_owner(agent):
    status, answer = await agent.push(digest=None, epoch=None)
    assert (status, answer["digest"], answer["epoch"]) == (200, None, None)


async def test_a_refused_push_changes_nothing_but_its_owners_epoch_counts(agent):
    await agent.push()
    status, problem = await agent.push({"networks": [{}], "surprise": 1}, digest="v1:bad", epoch="2.0")
    assert status == 422
    assert {error["field"] for error in problem["errors"]} >= {"surprise", "networks[0].network_id"}
    told = await agent.status()
    assert (told["digest"], told["epoch"]) == ("v1:a", "2.0")
    assert (await agent.push(epoch="1.1"))[0] == 409


@pytest.mark.parametrize(
    ("headers", "body", "status", "word"),
    [
        ({}, b'{"networks": [}', 400, "line 1, column 15"),
        ({}, b"\xff", 400, "UTF-8"),
        ({"X-Astara-Epoch": "three"}, b"{}", 400, "<term>.<counter>"),
        ({"X-Astara-Digest": "x" * 300}, b"{}", 400, "256"),
        ({}, b" " * (MAX_BODY + 1), 413, str(MAX_BODY)),
    ],
    ids=["syntax", "encoding", "epoch", "digest", "large"],
)
async def test_what_cannot_be_read_is_refused_with_its_reason(agent, headers, body, status, word):
    got, problem = await agent.ask("PUT", "/v1/system/config", headers=BEARER | headers, data=body)
    assert (got, problem["status"]) == (status, status)
    assert word in problem["detail"]


async def test_a_body_that_does_not_say_its_length_is_limited_too(agent):
    async def endless():
        for _ in range(MAX_BODY // 2**16 + 2):
            yield b" " * 2**16

    status, problem = await agent.ask("PUT", "/v1/system/config", data=endless())
    assert (status, problem["status"]) == (413, 413)


async def test_when_a_service_fails_all_are_rolled_back_and_the_problem_names_it(agent):
    await agent.push()
    before = {name: agent.app[APPLIANCE].state(name) for name in ("interfaces", "routes", "firewall", "dhcp")}
    agent.backend.refusing = frozenset(["dhcp"])
    other = {**INTERNAL, "interface": {**INTERNAL["interface"], "addresses": ["10.0.0.2/24"]}, "subnets": []}
    status, problem = await agent.push({"networks": [other]}, digest="v1:b")
    assert (status, problem["service"]) == (500, "dhcp")
    assert "the former configuration runs again" in problem["detail"]
    assert {name: agent.app[APPLIANCE].state(name) for name in before} == before
    assert (await agent.status())["digest"] == "v1:a"
    agent.backend.refusing = frozenset()
    assert (await agent.push({"networks": [other]}, digest="v1:b"))[1]["changed"]


class Breaking(RecordingBackend):
    """A machine that breaks while routes are changed for the second time."""

    breaks = True

    async def apply(self, service, state):
        changes = service == "routes" and self.read(service) not in ({}, state)
        await super().apply(service, state)
        if changes and self.breaks:
            self.refusing = frozenset(["interfaces", "dhcp"])


async def test_when_the_roll_back_fails_the_digest_is_unknown():
    changed = WANTED | {
        "static_routes": [["192.0.2.0/24", "172.24.4.7"]],
        "networks": [EXTERNAL, {**INTERNAL, "mtu": 1400, "interface": {"ifname": "ge2"}, "subnets": []}],
    }
    async with serve(machine=Breaking) as agent:
        await agent.push()
        status, problem = await agent.push(changed, digest="v1:b")
        assert (status, problem["service"]) == (500, "dhcp")
        assert "unknown" in problem["detail"]
        told = await agent.status()
        assert (told["digest"], told["epoch"]) == (None, "1.1")
        agent.backend.breaks, agent.backend.refusing = False, frozenset()
        assert (await agent.push(changed, digest="v1:b"))[0] == 200
        assert (await agent.status())["digest"] == "v1:b"


async def test_a_restart_adopts_what_ran(tmp_path):
    async with serve(tmp_path) as agent:
        await agent.push(epoch="3.17")
        before = (await agent.ask("GET", "/v1/system/config"))[1]
    async with serve(tmp_path) as agent:
        told = await agent.status()
        assert (told["digest"], told["epoch"], told["v4"]) == ("v1:a", "3.17", True)
        assert (await agent.ask("GET", "/v1/system/config"))[1] == before
        assert agent.app[APPLIANCE].state("dhcp")
        assert (await agent.push(epoch="3.16"))[0] == 409
        assert (await agent.push(epoch="3.17"))[1]["changed"] == []


async def test_the_epoch_of_a_refused_push_survives_a_restart(tmp_path):
    async with serve(tmp_path) as agent:
        assert (await agent.push({"surprise": 1}, epoch="9.9"))[0] == 422
    async with serve(tmp_path) as agent:
        assert (await agent.push(epoch="9.8"))[0] == 409


async def test_a_remembered_configuration_that_no_longer_validates_leaves_the_digest_unknown(tmp_path):
    async with serve(tmp_path) as agent:
        await agent.push()
    state = json.loads((tmp_path / "state.json").read_text())
    state["configuration"]["of_another_version"] = True
    (tmp_path / "state.json").write_text(json.dumps(state))
    async with serve(tmp_path) as agent:
        told = await agent.status()
        assert (told["digest"], told["epoch"]) == (None, "1.1")
        assert (await agent.push())[0] == 200


async def test_a_state_that_cannot_be_kept_is_an_error_and_not_told_as_done(tmp_path):
    async with serve(tmp_path) as agent:
        await agent.push()
        (tmp_path / "state.json.new").mkdir()
        status, problem = await agent.push({"networks": []}, digest="v1:b")
        assert (status, problem["title"]) == (500, "The state cannot be kept")
        assert (await agent.status())["digest"] is None


async def test_a_plugged_interface_gets_the_next_name_and_keeps_it_when_it_comes_back(tmp_path):
    async with serve(tmp_path) as agent:
        for mac in ("fa:00:00:00:00:04", "fa:00:00:00:00:05"):
            agent.backend.plug(Link(mac, 1500))
            await agent.app[APPLIANCE].links_changed()
        agent.backend.unplug("fa:00:00:00:00:04")
        await agent.app[APPLIANCE].links_changed()
        told = (await agent.status())["interfaces"]
        assert "fa:00:00:00:00:04" not in told
        assert told["fa:00:00:00:00:05"] == "ge4"
    async with serve(tmp_path) as agent:
        agent.backend.plug(Link("fa:00:00:00:00:04", 1500))
        await agent.app[APPLIANCE].links_changed()
        assert (await agent.status())["interfaces"]["fa:00:00:00:00:04"] == "ge3"


async def test_a_push_that_no_longer_names_an_unplugged_interface_is_told_by_its_digest(tmp_path):
    async with serve(tmp_path) as agent:
        await agent.push({"networks": [INTERNAL]}, digest="v1:a")
        agent.backend.unplug(INTERNAL["interface"]["lladdr"])
        await agent.app[APPLIANCE].links_changed()
        assert (await agent.status())["digest"] is None
        await agent.push({"networks": []}, digest="v1:b")
        assert (await agent.status())["digest"] == "v1:b"


async def test_an_interface_is_found_by_its_mac_whatever_name_was_sent(agent):
    misnamed = {**INTERNAL, "interface": {**INTERNAL["interface"], "ifname": "eth7"}}
    await agent.push({"networks": [misnamed]})
    interface = (await agent.ask("GET", "/v1/system/interface/ge2"))[1]["interface"]
    assert interface["addresses"] == ["10.0.0.1/24"]


async def test_a_push_whose_caller_goes_away_is_finished():
    began, goes_on = asyncio.Event(), asyncio.Event()

    class Waiting(RecordingBackend):
        waits = False

        async def apply(self, service, state):
            if self.waits:
                began.set()
                await goes_on.wait()
            await super().apply(service, state)

    backend = Waiting(LINKS)
    app = create_app(BOOT, None, backend)
    # As the agent is served: a handler is cancelled when its client goes away.
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    backend.waits = True
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/system/config"
    async with ClientSession() as session:
        push = asyncio.create_task(session.put(url, headers=BEARER, json=WANTED).__aenter__())
        await began.wait()
        push.cancel()
        await asyncio.gather(push, return_exceptions=True)
        goes_on.set()
        # The next push waits for the one that runs, so it is answered when that one has ended.
        async with session.put(url, headers=BEARER, json=WANTED) as answer:
            assert (await answer.json())["changed"] == []
    await runner.cleanup()
