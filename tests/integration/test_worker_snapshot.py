"""A router's life where Neutron has Astara's plugin: few calls, and what Neutron shows of it is true."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from worker_running import Bench, do, running

from lab.cloud.server import EXTERNAL_NETWORK
from lab.workbench import TenantRouter
from services.worker.errors import CloudError, NotFoundError
from services.worker.resource import ManagedResource
from services.worker.states import Action, InstanceState

_STATUSES = "/v2.0/astara-router-statuses/{id}"
_SNAPSHOT = "/v2.0/astara-router-snapshots/{id}"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(cloud={"plugin": True}) as started:
        yield started


async def told(bench: Bench, made: TenantRouter) -> ManagedResource:
    """Wait until a router is configured and Neutron has been told."""
    resource = await bench.until_idle(made)
    await bench.until(lambda: resource.shown == ("ACTIVE", "") and not resource.untold)
    return resource


async def router(bench: Bench, made: TenantRouter) -> dict[str, Any]:
    answer = await do(made.connection.network.get, f"/routers/{made.router_id}")
    shown: dict[str, Any] = answer.json()["router"]
    return shown


async def test_a_new_router_costs_10_calls_at_most_in_all_and_one_push(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    bench.cloud.calls.reset()
    bench.deliver(made, Action.CREATE)
    await told(bench, made)
    to_appliance = 2  # one look while it boots, one push
    assert bench.cloud.calls.total() + to_appliance <= 10
    assert bench.calls("GET", _SNAPSHOT) == 1
    assert bench.pushes() == 1
    bench.check_tidy(made, networks=2)
    assert all(not port["fixed_ips"] for port in bench.own_ports() if port["description"].endswith(":svc"))


async def test_an_unchanged_update_costs_2_calls_at_most_and_no_push(bench: Bench) -> None:
    made = await bench.configured()
    await told(bench, made)
    bench.history()
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.cloud.calls.total() + 1 <= 2
    assert bench.pushes() == 0


async def test_the_same_router_has_the_same_digest_with_and_without_the_plugin(bench: Bench) -> None:
    made = await bench.configured()
    net = made.connection.network
    port = await do(net.create_port, network_id=made.network_id, extra_dhcp_opts=[])
    external = await do(net.find_network, EXTERNAL_NETWORK)
    await do(net.create_ip, floating_network_id=external.id, port_id=port.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bool(bench.appliance_configuration(made)["floating_ips"]))
    await bench.until_idle(made)
    neutron = bench.neutron
    server = bench.server_id(made)
    one = await neutron.read_router(made.router_id, server)
    neutron.extensions -= {"astara-router-snapshot"}
    many = await neutron.read_router(made.router_id, server)
    assert one.is_one
    assert not many.is_one
    assert not one.doubt()
    bench.history()
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.pushes() == 0


async def test_a_plugin_that_comes_goes_and_comes_while_the_worker_runs_is_used_as_long_as_it_is_there(
    bench: Bench,
) -> None:
    astara = bench.cloud.network.astara
    astara.who_serves_dhcp = "neutron"
    astara.is_installed = False
    await bench.restart_worker()
    made = await bench.configured()
    row = bench.cloud.network.routers.get(made.router_id)

    async def reads_a_snapshot() -> bool:
        bench.cloud.calls.reset()
        bench.deliver(made, Action.UPDATE)
        await bench.until_idle(made)
        return bool(bench.calls("GET", _SNAPSHOT))

    assert bench.network(made)["subnets"][0]["dhcp_enabled"]
    assert bench.calls("PUT", _STATUSES) == 0
    astara.is_installed = True
    assert not await reads_a_snapshot()
    bench.neutron.look_again = 0.0
    row["status"] = "ALLOCATING"
    assert await reads_a_snapshot()
    assert bench.calls("GET", "/v2.0/extensions") == 1
    await bench.until(lambda: row["status"] == "ACTIVE")
    assert not bench.network(made)["subnets"][0]["dhcp_enabled"]
    astara.is_installed = False
    assert not await reads_a_snapshot()
    # A Neutron that does not say keeps what it had.
    astara.is_installed = True
    fault = bench.fault("error", "neutron", "GET", "/v2.0/extensions", status=503)
    assert not await reads_a_snapshot()
    bench.cloud.faults.remove(fault)
    assert await reads_a_snapshot()
    # Gone between two looks: asked for in vain once.
    bench.neutron.look_again = 3600.0
    astara.is_installed = False
    assert [await reads_a_snapshot() for _ in range(2)] == [True, False]
    bench.neutron.look_again = 0.0
    astara.is_installed = True
    assert await reads_a_snapshot()
    assert not bench.network(made)["subnets"][0]["dhcp_enabled"]


@pytest.mark.parametrize("missing", ["ports", "subnets", "metering/metering-labels", "qos/policies", "ndp_proxies"])
async def test_a_server_that_lacks_a_part_of_neutron_does_not_make_a_router_gone(bench: Bench, missing: str) -> None:
    made = await bench.configured()
    floating = await served_floating_ip(bench, made)
    floating["qos_policy_id"] = "policy"
    bench.cloud.network.astara.qos_policies["policy"] = {"id": "policy", "rules": []}
    bench.cloud.network.routers.get(made.router_id)["enable_ndp_proxy"] = True
    bench.cloud.network.astara.is_installed = False
    server = bench.server_id(made)
    fault = bench.fault("error", "neutron", "GET", f"/v2.0/{missing}", status=404)
    with pytest.raises(CloudError) as refused:
        await bench.neutron.read_router(made.router_id, server)
    assert not isinstance(refused.value, NotFoundError)
    assert missing in str(refused.value)
    bench.cloud.faults.remove(fault)
    # Nor does one that does not tell what it can do.
    bench.neutron.look_again = 0.0
    bench.fault("error", "neutron", "GET", "/v2.0/extensions", status=404)
    assert (await bench.neutron.read_router(made.router_id, server)).floating_ips
    with pytest.raises(NotFoundError):
        await bench.neutron.read_router("00000000-0000-4000-8000-000000000000", server)


async def test_neutron_shows_what_is_true_of_a_router_and_its_floating_ips(bench: Bench) -> None:
    made = await bench.configured()
    await told(bench, made)
    assert (await router(bench, made))["status"] == "ACTIVE"
    net = made.connection.network
    external = await do(net.find_network, EXTERNAL_NETWORK)
    port = await do(net.create_port, network_id=made.network_id)
    floating = await do(net.create_ip, floating_network_id=external.id, port_id=port.id)
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    await bench.until(lambda: bench.cloud.network.floatingips.get(floating.id)["status"] == "ACTIVE")

    def statuses() -> set[str]:
        own = {one["status"] for one in bench.cloud.network.ports.table if one["device_id"] == made.router_id}
        return own | {bench.cloud.network.floatingips.get(floating.id)["status"]}

    assert statuses() == {"ACTIVE"}
    for enabled, shown in ((False, "DOWN"), (True, "ACTIVE")):
        await do(net.update_router, made.router_id, admin_state_up=enabled)
        bench.deliver(made, Action.UPDATE)
        await bench.until_idle(made)
        await bench.until(lambda shown=shown: statuses() == {shown})
        assert (await router(bench, made))["status"] == "ACTIVE"


async def test_a_boot_that_fails_is_shown_with_its_reason_and_forgotten_afterwards(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    fault = bench.fault("error", "nova", "POST", "/servers", status=403)
    bench.deliver(made, Action.CREATE)
    shown = bench.cloud.network.routers.get(made.router_id)
    # Nothing of what Nova said, nor where: the router's users read it.
    await bench.until(lambda: shown.get("status_reason") == "Nova answers 403; it is tried again")
    assert shown["status"] == "ALLOCATING"
    bench.cloud.faults.remove(fault)
    await bench.until_idle(made)
    await bench.until(lambda: (shown["status"], shown["status_reason"]) == ("ACTIVE", ""))


async def served_floating_ip(bench: Bench, made: TenantRouter) -> dict[str, Any]:
    """Give the tenant a floating IP, and wait until Neutron has been told of it; answers with its row."""
    net = made.connection.network
    external = await do(net.find_network, EXTERNAL_NETWORK)
    port = await do(net.create_port, network_id=made.network_id)
    await do(net.create_ip, floating_network_id=external.id, port_id=port.id)
    bench.deliver(made, Action.UPDATE)
    await told(bench, made)
    (floating,) = bench.cloud.network.floatingips.table
    return floating


@pytest.mark.parametrize("lost", [False, True], ids=["told", "answer lost"])
async def test_what_a_rebooted_instance_serves_again_is_shown_so(bench: Bench, lost: bool) -> None:
    made = await bench.configured()
    floating = await served_floating_ip(bench, made)
    router = bench.cloud.network.routers.get(made.router_id)
    boot, (server,) = bench.boot_id(made), bench.own_servers()
    if lost:
        bench.fault("lost", "neutron", "PUT", "/astara-router-statuses", times=1)
    bench.host.fault(boot, "dead")
    server["status"] = "REBOOT"
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: (router["status"], floating["status"]) == ("ALLOCATING", "DOWN"))
    bench.host.fault(boot, "none")
    server["status"] = "ACTIVE"
    await bench.until(lambda: (router["status"], floating["status"]) == ("ACTIVE", "ACTIVE"))
    await told(bench, made)
    assert bench.boot_id(made) == boot


async def test_a_dead_instance_is_shown_as_allocating_and_what_it_served_as_down_until_another_serves(
    bench: Bench,
) -> None:
    made = await bench.configured()
    floating = await served_floating_ip(bench, made)
    network = bench.cloud.network
    router = network.routers.get(made.router_id)
    own = [one for one in network.ports.table if one["device_id"] == made.router_id]
    assert {floating["status"], *(one["status"] for one in own)} == {"ACTIVE"}
    seen: list[tuple[str, str, set[str]]] = []

    async def tap(_service: str, method: str, path: str) -> None:
        if method == "PUT" and "statuses" in path:
            seen.append((router["status"], floating["status"], {one["status"] for one in own}))

    bench.tap = tap
    await bench.hypervisor.kill(bench.server_id(made))
    bench.deliver(made, Action.POLL)
    served, unserved = ("ACTIVE", "ACTIVE", {"ACTIVE"}), ("ALLOCATING", "DOWN", {"DOWN"})
    await bench.until(lambda: unserved in seen and seen[-1] == served)
    assert {one[:2] for one in seen} <= {served[:2], unserved[:2]}


async def test_a_status_that_neutron_does_not_take_stops_nothing_and_is_told_later(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    fault = bench.fault("error", "neutron", "PUT", "/astara-router-statuses", status=500)
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    shown = bench.cloud.network.routers.get(made.router_id)
    assert shown.get("status_reason", "") == ""
    bench.cloud.faults.remove(fault)
    bench.deliver(made, Action.POLL)
    await bench.until_idle(made)
    own = [one for one in bench.cloud.network.ports.table if one["device_id"] == made.router_id]
    await bench.until(lambda: {one["status"] for one in own} == {"ACTIVE"})


async def test_a_router_that_asks_for_a_zone_is_booted_there(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    bench.cloud.network.routers.get(made.router_id)["availability_zone_hints"] = ["nova"]
    asked: list[Any] = []
    api = bench.nova_api
    post = api.post

    async def posted(path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body["server"].get("availability_zone"))
        return await post(path, body)

    api.post = posted  # type: ignore[method-assign]
    bench.deliver(made, Action.CREATE)
    await bench.until_idle(made)
    assert asked == ["nova"]


async def test_what_appliances_do_not_do_yet_is_told_and_not_passed_over(bench: Bench) -> None:
    made = await bench.configured()
    resource = await told(bench, made)
    shown = bench.cloud.network.routers.get(made.router_id)
    shown["ha"] = True
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: "high availability" in shown["status_reason"])
    assert shown["status"] == "ACTIVE"
    shown["ha"] = False
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: resource.shown == ("ACTIVE", ""))


async def test_a_port_of_a_tenant_with_our_mark_is_not_taken_for_ours(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    await do(
        made.connection.network.create_port, network_id=made.network_id,
        description=f"astara:lab:{made.router_id}:0:mgt",
    )  # fmt: skip
    bench.deliver(made, Action.UPDATE)
    resource = await bench.until_idle(made)
    assert resource.state is InstanceState.CONFIGURED
    assert resource.instance is not None
    assert resource.instance.management["network_id"] != made.network_id


@pytest.mark.parametrize("status", [404, 403])
async def test_a_neutron_that_gives_no_snapshots_any_more_ends_no_router(bench: Bench, status: int) -> None:
    made = await bench.configured()
    await told(bench, made)
    server = bench.server_id(made)
    bench.fault("error", "neutron", "GET", "/v2.0/astara-router-snapshots", status=status)
    await do(made.connection.network.update_router, made.router_id, name="other")
    bench.deliver(made, Action.UPDATE)
    resource = await bench.until_idle(made)
    assert resource.state is InstanceState.CONFIGURED
    assert resource.name == "other"
    assert resource.absent_since is None
    assert bench.server_id(made) == server
