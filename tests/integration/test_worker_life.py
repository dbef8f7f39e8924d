"""A router's life as a user drives it: each change in Neutron ends in what the appliance runs, at a known cost."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from worker_running import Bench, do, running

from lab.cloud.server import EXTERNAL_NETWORK
from services.worker.errors import CloudError, NotFoundError
from services.worker.states import Action, InstanceState


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as started:
        yield started


async def test_a_new_router_costs_16_calls_at_most_and_one_push(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    bench.cloud.calls.reset()
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    to_appliance = 2  # one look while it boots, one push
    assert bench.cloud.calls.total() + to_appliance <= 16
    assert bench.pushes() == 1
    bench.check_tidy(made, networks=2)
    assert bench.network(made)["interface"]["addresses"] == ["10.0.0.1/24"]


async def test_an_unchanged_update_costs_7_calls_at_most_and_no_push(bench: Bench) -> None:
    made = await bench.configured()
    bench.history()
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.cloud.calls.total() + 1 <= 7
    assert bench.pushes() == 0


async def test_a_poll_asks_the_appliance_and_nobody_else(bench: Bench) -> None:
    made = await bench.configured()
    bench.cloud.calls.reset()
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until_idle(made)
    assert bench.cloud.calls.total() == 0


async def test_an_added_network_is_plugged_in_and_pushed_and_a_removed_one_pulled_out(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    network = await do(made.connection.network.create_network, name="second")
    subnet = await do(made.connection.network.create_subnet, network_id=network.id, cidr="10.1.0.0/24", ip_version=4)
    await do(made.connection.network.add_interface_to_router, made.router_id, subnet_id=subnet.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: network.id in bench.attached(made))
    await bench.until_idle(made)
    bench.check_tidy(made, networks=3)

    await do(made.connection.network.remove_interface_from_router, made.router_id, subnet_id=subnet.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: network.id not in bench.attached(made))
    await bench.until_idle(made)
    bench.check_tidy(made, networks=2)
    assert bench.server_id(made) == server
    await do(made.connection.network.delete_network, network.id)


async def test_a_second_subnet_on_an_attached_network_only_changes_the_configuration(bench: Bench) -> None:
    made = await bench.configured()
    subnet = await do(
        made.connection.network.create_subnet, network_id=made.network_id, cidr="fd00:1::/64", ip_version=6,
        ipv6_ra_mode="slaac", ipv6_address_mode="slaac",
    )  # fmt: skip
    await do(made.connection.network.add_interface_to_router, made.router_id, subnet_id=subnet.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: len(bench.network(made)["subnets"]) == 2)
    await bench.until_idle(made)
    v6 = next(one for one in bench.network(made)["subnets"] if one["id"] == subnet.id)
    assert (v6["cidr"], v6["ipv6_ra_mode"], v6["ipv6_address_mode"]) == ("fd00:1::/64", "slaac", "slaac")
    # Neutron gives a router the address of the IPv6 network itself.
    assert "fd00:1::/64" in bench.network(made)["interface"]["addresses"]
    bench.check_tidy(made, networks=2)


async def test_a_floating_ip_comes_and_goes(bench: Bench) -> None:
    made = await bench.configured()
    net = made.connection.network
    port = await do(net.create_port, network_id=made.network_id)
    external = await do(net.find_network, EXTERNAL_NETWORK)
    floating = await do(net.create_ip, floating_network_id=external.id, port_id=port.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bool(bench.appliance_configuration(made)["floating_ips"]))
    await bench.until_idle(made)
    (seen,) = bench.appliance_configuration(made)["floating_ips"]
    assert seen["floating_ip"] == floating.floating_ip_address
    assert seen["fixed_ip"] == port.fixed_ips[0]["ip_address"]
    await do(net.update_ip, floating, port_id=None)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: not bench.appliance_configuration(made)["floating_ips"])
    await bench.until_idle(made)


async def test_ports_of_a_floating_ip_are_forwarded_and_no_more(bench: Bench) -> None:
    made = await bench.configured()
    net = made.connection.network
    external = await do(net.find_network, EXTERNAL_NETWORK)
    port = await do(net.create_port, network_id=made.network_id)
    floating = await do(net.create_ip, floating_network_id=external.id)
    path = f"/floatingips/{floating.id}/port_forwardings"

    async def forward(**ports: Any) -> str:
        address = port.fixed_ips[0]["ip_address"]
        body = {"protocol": "tcp", "internal_port_id": port.id, "internal_ip_address": address, **ports}
        answer = await do(net.post, path, json={"port_forwarding": body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["port_forwarding"]["id"])

    one = await forward(internal_port=22, external_port=2222)
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    # As many as without: one in the listing of floating IPs costs nothing.
    assert bench.cloud.calls.total() + 2 <= 8
    (seen,) = bench.appliance_configuration(made)["port_forwardings"]
    assert (seen["floating_ip"], seen["external_port"], seen["internal_port"]) == (
        floating.floating_ip_address, 2222, 22,
    )  # fmt: skip
    await forward(internal_port_range="90:95", external_port_range="9090:9095")
    await do(net.delete, f"{path}/{one}")
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    (seen,) = bench.appliance_configuration(made)["port_forwardings"]
    assert (seen["external_port"], seen["external_port_end"], seen["internal_port_end"]) == (9090, 9095, 95)
    await do(net.delete_port, port.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["port_forwardings"] == []


async def test_a_server_that_lacks_port_forwarding_takes_none_away(bench: Bench) -> None:
    made = await bench.configured()
    net = made.connection.network
    external = await do(net.find_network, EXTERNAL_NETWORK)
    port = await do(net.create_port, network_id=made.network_id)
    floating = await do(net.create_ip, floating_network_id=external.id)
    # Of ranges, the listing of floating IPs shows too little.
    body = {
        "protocol": "tcp", "internal_port_id": port.id, "internal_ip_address": port.fixed_ips[0]["ip_address"],
        "internal_port_range": "90:95", "external_port_range": "9090:9095",
    }  # fmt: skip
    path = f"/floatingips/{floating.id}/port_forwardings"
    assert (await do(net.post, path, json={"port_forwarding": body})).status_code == 201
    server = bench.server_id(made)
    (seen,) = (await bench.neutron.read_router(made.router_id, server)).floating_ips
    assert [one["external_port_range"] for one in seen["port_forwardings"]] == ["9090:9095"]
    fault = bench.fault("error", "neutron", "GET", f"/v2.0{path}", status=404)
    with pytest.raises(CloudError) as refused:
        await bench.neutron.read_router(made.router_id, server)
    assert not isinstance(refused.value, NotFoundError)
    bench.cloud.faults.remove(fault)

    # One that goes away between the two calls forwards nothing.
    async def tap(_service: str, _method: str, called: str) -> None:
        if called.endswith("/floatingips"):
            bench.tap = None
            await do(net.delete_port, port.id)
            await do(net.delete_ip, floating.id)

    bench.tap = tap
    (seen,) = (await bench.neutron.read_router(made.router_id, server)).floating_ips
    assert bench.tap is None
    assert seen["port_forwardings"] == []


async def test_an_instance_of_the_tenant_gets_its_address_from_the_appliance(bench: Bench) -> None:
    made = await bench.configured()
    port = await do(made.connection.network.create_port, network_id=made.network_id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bool(bench.network(made)["address_allocations"]))
    (allocation,) = bench.network(made)["address_allocations"]
    assert allocation["mac_address"] == port.mac_address
    assert allocation["ip_addresses"] == {port.fixed_ips[0]["ip_address"]: True}


async def test_extra_routes_and_admin_state_reach_the_instance_that_stays(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    route = {"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}
    await do(made.connection.network.update_router, made.router_id, routes=[route], is_admin_state_up=False)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.appliance_configuration(made)["static_routes"] == [route])
    assert bench.appliance_configuration(made)["admin_state_up"] is False
    await bench.until_idle(made)
    await do(made.connection.network.update_router, made.router_id, routes=[], is_admin_state_up=True)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.appliance_configuration(made)["admin_state_up"] is True)
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["static_routes"] == []
    assert bench.server_id(made) == server


async def test_a_gateway_is_set_and_cleared(bench: Bench) -> None:
    made = await bench.configured(gateway=False)
    assert bench.appliance_configuration(made)["default_v4_gateway"] is None
    bench.check_tidy(made, networks=1)
    external = await do(made.connection.network.find_network, EXTERNAL_NETWORK)
    await do(made.connection.network.update_router, made.router_id, external_gateway_info={"network_id": external.id})
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.appliance_configuration(made)["default_v4_gateway"] == "172.24.4.1")
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["default_v6_gateway"] == "2001:db8::2"
    bench.check_tidy(made, networks=2)
    await do(made.connection.network.update_router, made.router_id, external_gateway_info=None)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.appliance_configuration(made)["default_v4_gateway"] is None)
    await bench.until_idle(made)
    bench.check_tidy(made, networks=1)


async def test_a_router_without_any_network_gets_an_instance_and_its_network_later(bench: Bench) -> None:
    made = await bench.tenant_router("one", gateway=False)
    await do(made.connection.network.remove_interface_from_router, made.router_id, subnet_id=made.subnet_id)
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    bench.check_tidy(made, networks=0)
    await do(made.connection.network.add_interface_to_router, made.router_id, subnet_id=made.subnet_id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.attached(made) == {made.network_id})
    await bench.until_idle(made)
    bench.check_tidy(made, networks=1)


async def test_a_shared_network_of_another_tenant_is_served(bench: Bench) -> None:
    made = await bench.configured()
    admin = await do(lambda: bench.connect("admin", "admin").network)
    shared = await do(admin.create_network, name="shared", is_shared=True)
    subnet = await do(admin.create_subnet, network_id=shared.id, cidr="10.9.0.0/24", ip_version=4)
    await do(made.connection.network.create_port, network_id=shared.id)
    port = await do(made.connection.network.create_port, network_id=shared.id)
    await do(made.connection.network.add_interface_to_router, made.router_id, port_id=port.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: shared.id in bench.attached(made))
    await bench.until_idle(made)
    served: Any = next(one for one in bench.appliance_configuration(made)["networks"] if one["network_id"] == shared.id)
    assert [one["id"] for one in served["subnets"]] == [subnet.id]
    assert served["interface"]["addresses"] == [f"{port.fixed_ips[0]['ip_address']}/24"]


async def test_two_routers_of_one_tenant_are_two_instances(bench: Bench) -> None:
    first = await bench.configured(cidr="10.1.0.0/24")
    second = await bench.configured(cidr="10.2.0.0/24")
    assert first.tenant_id == second.tenant_id
    assert bench.boot_id(first) != bench.boot_id(second)
    assert first.network_id in bench.attached(first)
    assert second.network_id in bench.attached(second)
    assert second.network_id not in bench.attached(first)


async def test_a_deleted_router_leaves_nothing_and_the_other_alone(bench: Bench) -> None:
    doomed, other = await bench.configured("one"), await bench.configured("two")
    net = doomed.connection.network
    await do(net.remove_interface_from_router, doomed.router_id, subnet_id=doomed.subnet_id)
    await do(net.delete_router, doomed.router_id)
    bench.deliver(doomed, Action.DELETE)
    await bench.until(lambda: bench.gone == [doomed.router_id])
    bench.check_tidy(other, networks=2)
    assert bench.dispatcher.get(doomed.router_id) is None


async def test_a_router_deleted_while_its_instance_boots_leaves_nothing(bench: Bench) -> None:
    bench.cloud.servers.boot_delay = 0.3
    made = await bench.tenant_router("one")
    bench.deliver(made, Action.CREATE)
    await bench.until(lambda: bool(bench.own_servers()))
    net = made.connection.network
    await do(net.remove_interface_from_router, made.router_id, subnet_id=made.subnet_id)
    await do(net.delete_router, made.router_id)
    bench.deliver(made, Action.DELETE)
    await bench.until(lambda: bench.gone == [made.router_id])
    assert bench.own_servers() == []
    assert bench.own_ports() == []


async def test_a_wrong_delete_event_only_updates(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    bench.deliver(made, Action.DELETE)
    await bench.until_idle(made)
    assert bench.server_id(made) == server
    bench.check_tidy(made, networks=2)


async def test_a_router_that_is_not_claimed_is_not_touched(bench: Bench) -> None:
    bench.claims = lambda router: router["name"] != "one-router"
    made = await bench.tenant_router("one")
    bench.deliver(made, Action.CREATE)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.gone == [made.router_id])
    assert bench.own_ports() == []
    assert bench.own_servers() == []


async def test_reading_asks_for_counters_and_ends_configured(bench: Bench) -> None:
    made = await bench.configured()
    bench.deliver(made, Action.READ)
    resource = await bench.until_idle(made)
    assert resource.state is InstanceState.CONFIGURED


async def test_an_answer_of_neutron_older_than_the_event_is_read_again(bench: Bench) -> None:
    made = await bench.configured()
    resource = bench.resource(made)
    bench.deliver(made, Action.UPDATE, revision=resource.revision + 1)
    await bench.until(lambda: "older than the event" in resource.last_error)
    await do(made.connection.network.update_router, made.router_id, name="renamed")
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["hostname"] == "renamed"
    assert resource.last_error == ""
