"""What Neutron's further extensions say of a router reaches its appliance, and users learn what does not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import astara_appliance.appliance
import pytest
from astara_appliance.models import Configuration
from astara_appliance.validation import FieldError, InvalidConfiguration
from worker_running import Bench, do, running

from lab.cloud.server import EXTERNAL_NETWORK
from lab.workbench import TenantRouter
from services.worker.configuration import LATER
from services.worker.neutron import UNLIMITED
from services.worker.states import Action

SLOW = {"direction": "egress", "type": "bandwidth_limit", "max_kbps": 1000, "max_burst_kbps": 800}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(cloud={"plugin": True}) as started:
        yield started


@pytest.fixture
def old_appliance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appliances of the release before refuse what they do not know."""
    parse = astara_appliance.appliance.parse_configuration

    def refusing(document: Any) -> Configuration:
        given = document.get("configuration", document)
        if unknown := [FieldError(name, "unknown field") for name in LATER if name in given]:
            raise InvalidConfiguration(unknown)
        return parse(document)

    monkeypatch.setattr(astara_appliance.appliance, "parse_configuration", refusing)


def shown(bench: Bench, made: TenantRouter) -> tuple[str, str]:
    """Status and reason as Neutron shows them."""
    router = bench.cloud.network.routers.get(made.router_id)
    return router["status"], router.get("status_reason", "")


async def update(bench: Bench, made: TenantRouter) -> None:
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)


async def limited_floating_ip(bench: Bench, made: TenantRouter, *rules: dict[str, Any]) -> str:
    """Give the tenant a floating IP whose policy has these rules; answers with its address."""
    net = made.connection.network
    external = await do(net.find_network, EXTERNAL_NETWORK)
    port = await do(net.create_port, network_id=made.network_id)
    floating = await do(net.create_ip, floating_network_id=external.id, port_id=port.id)
    bench.cloud.network.floatingips.get(floating.id)["qos_policy_id"] = "policy"
    bench.cloud.network.astara.qos_policies["policy"] = {"id": "policy", "rules": list(rules)}
    return str(floating.floating_ip_address)


async def test_a_policy_of_a_floating_ip_and_of_the_gateway_is_pushed_as_limits_of_their_addresses(
    bench: Bench,
) -> None:
    made = await bench.configured()
    address = await limited_floating_ip(bench, made, SLOW)
    gateway = bench.cloud.network.routers.get(made.router_id)["external_gateway_info"]
    gateway["qos_policy_id"] = "policy"
    await update(bench, made)
    own = next(ip["ip_address"] for ip in gateway["external_fixed_ips"] if ":" not in ip["ip_address"])
    (limit,) = bench.appliance_configuration(made)["rate_limits"]
    assert limit == {
        "direction": "egress", "max_kbps": 1000, "max_burst_kbps": 800, "addresses": sorted([address, own]),
    }  # fmt: skip
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", ""))
    bench.cloud.network.astara.qos_policies["policy"]["rules"] = []
    await update(bench, made)
    assert bench.appliance_configuration(made)["rate_limits"] == []


def limits_of_service_ports(bench: Bench, made: TenantRouter) -> dict[str, str | None]:
    """The QoS policy's name of each service port, by network."""
    names = {one["id"]: one["name"] for one in bench.cloud.network.astara.qos_policies.values()}
    return {
        port["network_id"]: names.get(port.get("qos_policy_id"))
        for port in bench.own_ports()
        if port["description"].endswith(":svc") and made.router_id in port["description"]
    }


async def test_what_a_tenant_gives_to_a_network_does_not_limit_the_routers_port_there(bench: Bench) -> None:
    astara = bench.cloud.network.astara
    made = await bench.configured()
    external = (await do(made.connection.network.find_network, EXTERNAL_NETWORK)).id
    # What the operator gives to the external network limits gateways, as it does those of Neutron's routers.
    assert limits_of_service_ports(bench, made) == {made.network_id: UNLIMITED, external: None}
    (policy,) = astara.qos_policies.values()
    assert policy["rules"] == []
    # The next worker finds it, and takes nobody else's of that name.
    astara.qos_policies["0"] = {"id": "0", "name": UNLIMITED, "project_id": "another", "rules": [SLOW]}
    await bench.restart_worker()
    other = await bench.configured("other")
    assert limits_of_service_ports(bench, other)[other.network_id] == UNLIMITED
    assert set(astara.qos_policies) == {"0", policy["id"]}
    # Deleted while no port has it: the router comes all the same, and a new policy with the next look.
    bench.neutron.look_again = 3600.0
    del astara.qos_policies[policy["id"]]
    several = await asyncio.gather(*(bench.configured(name) for name in ("third", "fifth", "sixth")))
    assert {limits_of_service_ports(bench, one)[one.network_id] for one in several} == {None}
    bench.neutron.look_again = 0.0
    fourth = await bench.configured("fourth")
    assert limits_of_service_ports(bench, fourth)[fourth.network_id] == UNLIMITED


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_policy_of_their_own_ports_are_made_all_the_same(bench: Bench, method: str) -> None:
    bench.cloud.network.astara.qos_policies.clear()
    bench.fault("error", "neutron", method, "/v2.0/qos/policies", status=403)
    await bench.restart_worker()
    made = await bench.configured()
    assert limits_of_service_ports(bench, made)[made.network_id] is None


async def test_users_learn_of_rules_that_no_appliance_carries_out(bench: Bench) -> None:
    made = await bench.configured()
    await limited_floating_ip(bench, made, SLOW, {"type": "dscp_marking", "dscp_mark": 10})
    await update(bench, made)
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", "not done yet: QoS rules of type dscp_marking"))
    assert bench.appliance_configuration(made)["rate_limits"]


async def test_conntrack_helpers_are_pushed_and_users_learn_which_the_appliance_cannot_do(bench: Bench) -> None:
    made = await bench.configured()
    helpers = [("tcp", 21, "ftp"), ("tcp", 6667, "irc"), ("dccp", 1, "ftp")]
    bench.cloud.network.astara.conntrack_helpers[made.router_id] = [
        {"id": str(number), "router_id": made.router_id, "protocol": protocol, "port": port, "helper": name}
        for number, (protocol, port, name) in enumerate(helpers)
    ]
    bench.host.lacks(bench.boot_id(made), "conntrack helper irc (tcp)")
    await update(bench, made)
    assert bench.appliance_configuration(made)["conntrack_helpers"] == [
        {"protocol": "tcp", "port": 21, "helper": "ftp"}, {"protocol": "tcp", "port": 6667, "helper": "irc"},
    ]  # fmt: skip
    told = "not done yet: conntrack helper ftp (dccp 1); not possible in its instance: conntrack helper irc (tcp)"
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", told))
    # The next worker learns it of the appliance, without a push.
    await bench.restart_worker()
    bench.history()
    shown_row = bench.cloud.network.routers.get(made.router_id)
    shown_row["status_reason"] = ""
    await update(bench, made)
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", told))
    assert bench.pushes() == 0


@pytest.mark.parametrize("status", [403, 404])
async def test_nothing_changes_for_a_router_when_neutron_gives_no_snapshots_any_more(bench: Bench, status: int) -> None:
    bench.cloud.network.astara.who_serves_dhcp = "neutron"
    made = await bench.configured()
    await limited_floating_ip(bench, made, SLOW)
    astara, router = bench.cloud.network.astara, bench.cloud.network.routers.get(made.router_id)
    helper = {"id": "1", "router_id": made.router_id, "protocol": "tcp", "port": 21, "helper": "ftp"}
    astara.conntrack_helpers[made.router_id] = [helper]
    astara.ndp_proxies[made.router_id] = [{"id": "1", "router_id": made.router_id, "ip_address": "2001:db8:1::5"}]
    router["enable_ndp_proxy"] = True
    await update(bench, made)
    before = bench.appliance_configuration(made)
    assert before["rate_limits"]
    assert before["conntrack_helpers"]
    assert before["ndp_proxies"] == ["2001:db8:1::5"]
    assert not any(subnet["dhcp_enabled"] for one in before["networks"] for subnet in one["subnets"])
    bench.history()
    bench.fault("error", "neutron", "GET", "/v2.0/astara-router-snapshots", status=status)
    await update(bench, made)
    assert bench.appliance_configuration(made) == before
    assert bench.pushes() == 0
    # Nor are these read once only.
    astara.conntrack_helpers[made.router_id] = []
    astara.qos_policies["policy"]["rules"] = []
    astara.ndp_proxies[made.router_id] = []
    await update(bench, made)
    after = bench.appliance_configuration(made)
    assert (after["rate_limits"], after["conntrack_helpers"], after["ndp_proxies"]) == ([], [], [])


async def test_status_and_floating_ips_are_told_however_much_is_not_done(bench: Bench) -> None:
    made = await bench.configured()
    bench.cloud.network.astara.conntrack_helpers[made.router_id] = [
        {"id": f"{port}{name}", "router_id": made.router_id, "protocol": "tcp", "port": port, "helper": name}
        for port in range(5000, 5040)
        for name in ("ftp", "irc")
    ]
    await limited_floating_ip(bench, made, SLOW)
    await update(bench, made)
    (floating,) = bench.cloud.network.floatingips.table
    await bench.until(lambda: floating["status"] == "ACTIVE")
    status, reason = shown(bench, made)
    assert status == "ACTIVE"
    assert reason.startswith("not done yet: conntrack helper irc (tcp 5000), ")
    assert reason.endswith(" …")
    assert len(reason) == 1024


async def test_a_router_with_ndp_proxies_publishes_their_addresses_and_no_others(bench: Bench) -> None:
    made = await bench.configured()
    assert bench.appliance_configuration(made)["ndp_proxies"] is None
    router = bench.cloud.network.routers.get(made.router_id)
    router["enable_ndp_proxy"] = True
    await update(bench, made)
    assert bench.appliance_configuration(made)["ndp_proxies"] == []
    bench.cloud.network.astara.ndp_proxies[made.router_id] = [
        {"id": str(number), "router_id": made.router_id, "ip_address": f"2001:db8:1::{number}"} for number in (7, 5)
    ]
    await update(bench, made)
    assert bench.appliance_configuration(made)["ndp_proxies"] == ["2001:db8:1::5", "2001:db8:1::7"]
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", ""))
    router["enable_ndp_proxy"] = False
    await update(bench, made)
    assert bench.appliance_configuration(made)["ndp_proxies"] is None


async def test_a_second_gateway_is_plugged_and_shares_the_traffic_when_the_router_says_so(bench: Bench) -> None:
    made = await bench.configured()
    first = bench.network(made, "external")
    second = await second_gateway(bench, made)
    await update(bench, made)
    await bench.until(lambda: len(bench.appliance_configuration(made)["networks"]) == 4)
    built = bench.appliance_configuration(made)
    external = [one for one in built["networks"] if one["network_type"] == "external"]
    assert [one["network_id"] for one in external] == [first["network_id"], second]
    assert external[1]["interface"]["addresses"] == ["203.0.113.9/24"]
    assert built["default_v4_gateway"] != "203.0.113.1"
    assert built["more_default_gateways"] == []
    bench.check_tidy(made, networks=3)
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", ""))
    router = bench.cloud.network.routers.get(made.router_id)
    router["enable_default_route_ecmp"] = True
    await update(bench, made)
    assert bench.appliance_configuration(made)["more_default_gateways"] == ["203.0.113.1"]
    router["external_gateways"].pop()
    ports = bench.cloud.network.ports
    (port,) = [one for one in ports.table.find("network_id", second) if one["device_id"] == made.router_id]
    ports.discard(port)
    await update(bench, made)
    await bench.until(lambda: len(bench.appliance_configuration(made)["networks"]) == 3)
    assert bench.appliance_configuration(made)["more_default_gateways"] == []


async def second_gateway(bench: Bench, made: TenantRouter) -> str:
    """Give the router a gateway on another external network; answers with the network."""

    def make() -> tuple[str, list[dict[str, Any]]]:
        net = bench.connect("admin", "admin").network
        network = net.create_network(name="public-2", is_router_external=True)
        subnet = net.create_subnet(network_id=network.id, ip_version=4, cidr="203.0.113.0/24", gateway_ip="203.0.113.1")
        port = net.create_port(
            network_id=network.id, device_id=made.router_id, device_owner="network:router_gateway",
            fixed_ips=[{"subnet_id": subnet.id, "ip_address": "203.0.113.9"}],
        )  # fmt: skip
        return network.id, port.fixed_ips

    network_id, fixed_ips = await do(make)
    router = bench.cloud.network.routers.get(made.router_id)
    router["external_gateways"] = [
        router["external_gateway_info"], {"network_id": network_id, "external_fixed_ips": fixed_ips},
    ]  # fmt: skip
    return network_id


async def test_an_appliance_of_an_earlier_release_does_all_but_what_it_does_not_know(
    bench: Bench, old_appliance: None
) -> None:
    made = await bench.configured()
    address = await limited_floating_ip(bench, made, SLOW)
    await update(bench, made)
    (floating,) = bench.appliance_configuration(made)["floating_ips"]
    assert floating["floating_ip"] == address
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", "not until its instance is rebuilt: QoS"))
    bench.history()
    await update(bench, made)
    assert bench.pushes() == 0
    # The next worker finds out for itself, and changes nothing.
    await bench.restart_worker()
    await update(bench, made)
    assert bench.pushes() == 0
    await bench.until(lambda: shown(bench, made) == ("ACTIVE", "not until its instance is rebuilt: QoS"))
