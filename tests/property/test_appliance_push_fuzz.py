"""Whatever is pushed: the answer is 200, 400 or 422, never 500, and what is refused changes nothing."""

import asyncio
import copy
import json

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from astara_appliance.agent import create_app
from astara_appliance.backend import Link, RecordingBackend
from astara_appliance.boot import BootData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BOOT = BootData.model_validate(
    {
        "version": 1,
        "deployment": "astara",
        "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "management": {"mac": "fa:00:00:00:00:01", "addresses": ["127.0.0.1/8"]},
    }
)
VALID = {
    "hostname": "r1",
    "asn": 64512,
    "neighbor_asn": 64512,
    "default_v4_gateway": "172.24.4.1",
    "default_v6_gateway": "2001:db8::1",
    "networks": [
        {
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
            "network_type": "external",
            "interface": {"ifname": "ge1", "lladdr": "fa:00:00:00:00:02", "addresses": ["172.24.4.9/24"]},
        },
        {
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a02",
            "network_type": "internal",
            "mtu": 1450,
            "interface": {
                "ifname": "ge2",
                "lladdr": "fa:00:00:00:00:03",
                "addresses": ["10.0.0.1/24", "2001:db8:1::1/64"],
            },
            "subnets": [
                {
                    "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b02",
                    "cidr": "10.0.0.0/24",
                    "gateway_ip": "10.0.0.1",
                    "dhcp_enabled": True,
                    "dns_nameservers": ["192.0.2.53"],
                    "host_routes": [{"destination": "198.51.100.0/24", "nexthop": "10.0.0.9"}],
                },
                {
                    "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1b03",
                    "cidr": "2001:db8:1::/64",
                    "ipv6_address_mode": "dhcpv6-stateless",
                    "ipv6_ra_mode": "dhcpv6-stateless",
                    "dhcp_enabled": True,
                },
            ],
            "address_allocations": [
                {"hostname": "host", "mac_address": "fa:00:00:00:01:05", "ip_addresses": {"10.0.0.5": True}}
            ],
        },
    ],
    "static_routes": [["192.0.2.0/24", "10.0.0.9"]],
    "floating_ips": [
        {
            "id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1f01",
            "floating_ip": "172.24.4.20",
            "fixed_ip": "10.0.0.5",
            "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a01",
        }
    ],
    "labels": [{"name": "metered", "prefixes": ["0.0.0.0/0"]}],
}


def places(value, path=()):
    """The path of every member and element in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = list(places(VALID))
# Lone surrogates, control characters and very long text are JSON that a careless server dies of.
TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    [
        "\ud800",
        "\x00",
        "a" * 300,
        "10.0.0.0/0",
        "::/0",
        "::1",
        "0.0.0.0",
        "fe80::1/64",
        "ge0",
        "fa:00:00:00:00:01",
        "ge99999",
    ]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)


@st.composite
def nearly_valid(draw):
    """The valid document after a few accidents."""
    document = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(PLACES))
        try:
            place = document
            for part in path[:-1]:
                place = place[part]
            accident = draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
            if accident == "replace":
                place[path[-1]] = draw(ANYTHING)
            elif accident == "remove":
                del place[path[-1]]
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[path[-1]]) if accident == "repeat" else draw(ANYTHING))
            else:
                place[draw(TEXT)] = draw(ANYTHING)
        except (KeyError, IndexError, TypeError):
            # An earlier accident took the place away.
            continue
    return document


class Served:
    """An agent on a socket, asked from tests that are not coroutines."""

    def __init__(self, loop):
        self.loop = loop

    async def start(self):
        links = [Link(f"fa:00:00:00:00:0{number}", 1500) for number in (1, 2, 3)]
        self.server = TestServer(create_app(BOOT, None, RecordingBackend(links), lambda: 0.0))
        await self.server.start_server()
        self.session = ClientSession()

    async def close(self):
        await self.session.close()
        await self.server.close()

    async def _ask(self, method, path, body=None):
        async with self.session.request(method, self.server.make_url(path), data=body) as answer:
            return answer.status, await answer.json(content_type=None)

    def ask(self, *what):
        return self.loop.run_until_complete(self._ask(*what))

    def state(self):
        return self.ask("GET", "/v1/status"), self.ask("GET", "/v1/system/config")

    def push_and_judge(self, body, refusals):
        before = self.state()
        status, answer = self.ask("PUT", "/v1/system/config", body)
        if status == 200:
            assert self.ask("GET", "/v1/system/config")[1]["configuration"] == answer["configuration"]
            assert self.ask("PUT", "/v1/system/config", body)[1]["changed"] == []
        else:
            assert status in refusals, answer
            assert answer["status"] == status
            assert status != 422 or answer["errors"]
            assert self.state() == before


@pytest.fixture(scope="module")
def served():
    loop = asyncio.new_event_loop()
    agent = Served(loop)
    loop.run_until_complete(agent.start())
    yield agent
    loop.run_until_complete(agent.close())
    loop.close()


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FUZZ
@given(document=nearly_valid(), wrapped=st.booleans())
def test_documents_near_the_valid_one_are_run_or_refused(served, document, wrapped):
    served.push_and_judge(json.dumps({"configuration": document} if wrapped else document).encode(), {422})


@FUZZ
@given(document=ANYTHING)
def test_any_json_is_run_or_refused(served, document):
    served.push_and_judge(json.dumps(document).encode(), {400, 422})


@FUZZ
@given(body=st.binary(max_size=200))
def test_any_bytes_are_refused_or_happen_to_be_a_configuration(served, body):
    served.push_and_judge(body, {400, 422})
