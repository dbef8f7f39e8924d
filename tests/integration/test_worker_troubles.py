"""When something breaks: appliances die or refuse, boots fail; and what operators order."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from astara.resource.v1 import resource_pb2 as pb
from worker_running import Bench, do, running

from lab.cloud.hypervisor import AppliancesInProcess
from lab.workbench import TenantRouter
from services.worker.states import Action, InstanceState


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as started:
        yield started


async def poll(bench: Bench, *made: TenantRouter) -> None:
    """Deliver polls and wait until they have had their turn."""
    for one in made:
        bench.deliver(one, Action.POLL, priority=1)
    await bench.until(lambda: all(bench.resource(one).hand is None for one in made))


async def replaced(bench: Bench, made: TenantRouter, server: str) -> None:
    """Wait until a router is configured on another server."""
    await bench.until(lambda: bench.resource(made).instance is not None and bench.server_id(made) != server)
    await bench.until_idle(made)


# Instances


async def test_a_dead_appliance_is_replaced_at_the_same_address(bench: Bench) -> None:
    made = await bench.configured()
    before = bench.resource(made).instance
    assert before is not None
    await bench.hypervisor.kill(before.server_id)
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: bench.resource(made).instance not in (None, before))
    await bench.until_idle(made)
    after = bench.resource(made).instance
    assert after is not None
    assert (after.address, after.management["id"], after.management["mac_address"]) == (
        before.address, before.management["id"], before.management["mac_address"],
    )  # fmt: skip
    assert after.boot_id != before.boot_id
    bench.check_tidy(made, networks=2)
    assert "death" in [kind for kind, _ in bench.history()]


async def test_a_dead_appliance_that_nova_cannot_remove_at_once_is_not_taken_for_one_that_boots(
    bench: Bench,
) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    fault = bench.fault("error", "nova", "DELETE", f"/servers/{server}", times=1)
    await bench.hypervisor.kill(server)
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    assert fault.hits == 1
    bench.check_tidy(made, networks=2)


async def test_a_dead_appliance_whose_worker_stood_still_is_not_taken_for_one_that_boots(
    bench: Bench,
) -> None:
    made = await bench.configured()
    server = bench.server_id(made)

    class StandsStill:
        """The worker found it dead, and its lease ended before it could do anything about it."""

        def __bool__(self) -> bool:
            return "is dead" not in bench.resource(made).last_error

    bench.owns = StandsStill()
    await bench.hypervisor.kill(server)
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: not bench.owns and bench.resource(made).hand is None)
    assert bench.server_id(made) == server
    # It may act again.
    bench.owns = True
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    bench.check_tidy(made, networks=2)


async def test_an_instance_that_answers_again_before_nova_deletes_it_is_kept(bench: Bench) -> None:
    made = await bench.configured()
    server, boot = bench.server_id(made), bench.boot_id(made)
    fault = bench.fault("error", "nova", "DELETE", f"/servers/{server}", status=409)
    bench.host.fault(boot, "slow", seconds=1.2)  # longer than it is waited for
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: fault.hits > 1)
    assert bench.resource(made).state is InstanceState.RESTART
    assert [kind for kind, _ in bench.history()].count("death") == 1
    bench.host.fault(boot, "none")
    await bench.until_idle(made)
    assert bench.server_id(made) == server
    instance = bench.resource(made).instance
    assert instance is not None
    assert (instance.dead_in, bench.resource(made).last_error) == ("", "")
    # It may die again.
    bench.cloud.faults.remove(fault)
    await bench.hypervisor.kill(server)
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    bench.check_tidy(made, networks=2)


async def test_a_server_that_was_deleted_by_hand_is_replaced(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    admin = await do(lambda: bench.connect("admin", "admin").compute)
    await do(admin.delete_server, server)
    await bench.until(lambda: not bench.own_servers())
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    bench.check_tidy(made, networks=2)


async def test_a_server_that_was_shut_off_is_replaced_at_once(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    admin = await do(lambda: bench.connect("admin", "admin").compute)
    await do(admin.stop_server, server)
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    bench.check_tidy(made, networks=2)


async def test_an_appliance_that_answers_again_in_time_is_not_replaced(bench: Bench) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    bench.host.fault(boot, "failing")  # it lives; only pushes fail
    bench.host.fault(boot, "slow", seconds=1.2)  # longer than it is waited for
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: bench.resource(made).unanswered_since is not None)
    bench.host.fault(boot, "none")
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot
    assert bench.resource(made).unanswered_since is None


async def test_a_service_port_that_somebody_pulled_out_is_plugged_in_again(bench: Bench) -> None:
    made = await bench.configured()
    (port,) = [one for one in bench.own_ports() if one["network_id"] == made.network_id]
    service = await do(lambda: bench.connect("astara", "service").compute)
    await do(service.delete_server_interface, port["id"], server=bench.server_id(made))
    await bench.until(lambda: port["device_id"] == "")
    boot = bench.boot_id(made)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: port["device_id"] != "")
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot
    bench.check_tidy(made, networks=2)


async def test_ports_that_nova_takes_along_with_a_server_are_made_anew(bench: Bench) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    owned = [one for one in bench.own_ports() if one["device_id"] == server]
    assert len(owned) == 3

    async def tap(service: str, method: str, path: str) -> None:
        # As Nova does with a server whose network it could not set up.
        if (service, method, path) == ("nova", "DELETE", f"/servers/{server}"):
            for port in owned:
                bench.cloud.network.ports.discard(port)

    bench.tap = tap
    await bench.hypervisor.kill(server)
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: bench.resource(made).instance is not None and bench.server_id(made) != server)
    resource = await bench.until_idle(made)
    assert resource.attempts == 0
    assert not any("ERROR" in text for kind, text in bench.history() if kind == "state")
    bench.check_tidy(made, networks=2)


async def second_network(made: TenantRouter) -> str:
    """Attach another network to the router; answers with its id."""
    net = made.connection.network
    network = await do(net.create_network, name="second")
    subnet = await do(net.create_subnet, network_id=network.id, cidr="10.1.0.0/24", ip_version=4)
    await do(net.add_interface_to_router, made.router_id, subnet_id=subnet.id)
    return str(network.id)


async def test_a_network_that_is_attached_while_nova_is_away_costs_no_instance(bench: Bench) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    added = await second_network(made)
    away = bench.fault("error", "nova")
    bench.deliver(made, Action.UPDATE)
    for _ in range(3):
        failures = bench.resource(made).failures
        await bench.until(lambda failures=failures: bench.resource(made).failures > failures)
        bench.clock.ahead += 600
    bench.cloud.faults.remove(away)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: added in bench.attached(made))
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot
    bench.check_tidy(made, networks=3)


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_an_instance_to_which_nova_attaches_nothing_is_booted_anew(bench: Bench, status: int) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    added = await second_network(made)
    bench.fault("error", "nova", "POST", "/os-interface", status=status)
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.resource(made).failures >= 2)
    assert bench.boot_id(made) == boot
    bench.clock.ahead += 600
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.resource(made).instance is not None and bench.boot_id(made) != boot)
    await bench.until_idle(made)
    assert added in bench.attached(made)
    bench.check_tidy(made, networks=3)


async def test_an_instance_on_which_nova_is_at_work_is_not_booted_anew(bench: Bench) -> None:
    made = await bench.configured()
    boot, (server,) = bench.boot_id(made), bench.own_servers()
    added = await second_network(made)
    refused = bench.fault("error", "nova", "POST", "/os-interface", status=409)
    server["OS-EXT-STS:task_state"] = "migrating"
    bench.deliver(made, Action.UPDATE)
    for _ in range(4):
        hits = refused.hits
        await bench.until(lambda hits=hits: refused.hits > hits)
        bench.clock.ahead += 600
        bench.deliver(made, Action.UPDATE)
    bench.cloud.faults.remove(refused)
    bench.clock.ahead += 600
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: added in bench.attached(made))
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot


@pytest.mark.parametrize("death", ["killed", "deleted"])
async def test_an_instance_that_dies_while_a_network_is_attached_is_replaced(bench: Bench, death: str) -> None:
    made = await bench.configured()
    server = bench.server_id(made)
    added = await second_network(made)
    fault = bench.fault("error", "nova", "POST", "/os-interface")
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.resource(made).state is InstanceState.REPLUG and fault.hits > 0)
    if death == "killed":
        await bench.hypervisor.kill(server)
    else:
        admin = await do(lambda: bench.connect("admin", "admin").compute)
        await do(admin.delete_server, server)
        await bench.until(lambda: not bench.own_servers())
    bench.cloud.faults.remove(fault)
    bench.deliver(made, Action.POLL, priority=1)
    await replaced(bench, made, server)
    assert added in bench.attached(made)
    bench.check_tidy(made, networks=3)


async def test_when_no_appliance_answers_the_network_is_suspected_and_nothing_is_rebuilt(bench: Bench) -> None:
    routers = [await bench.configured(f"t{n}", cidr=f"10.{n}.0.0/24") for n in range(3)]
    boots = [bench.boot_id(made) for made in routers]
    for boot in boots:
        bench.host.fault(boot, "dead")
    for made in routers:
        bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: all("management network" in bench.resource(made).last_error for made in routers))
    bench.clock.ahead += 3600
    for made in routers:
        bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: all(bench.resource(made).failures >= 2 for made in routers))
    assert [bench.boot_id(made) for made in routers] == boots
    for boot in boots:
        bench.host.fault(boot, "none")
    for made in routers:
        bench.deliver(made, Action.UPDATE)
        await bench.until_idle(made)
    assert [bench.boot_id(made) for made in routers] == boots
    assert all(bench.resource(made).last_error == "" for made in routers)


async def test_of_many_that_die_at_once_only_a_few_are_replaced_each_minute(bench: Bench) -> None:
    routers = [await bench.configured(f"t{n}", cidr=f"10.{n}.0.0/24") for n in range(6)]
    survivor, dying = routers[0], routers[1:]
    for made in dying:
        await bench.hypervisor.kill(bench.server_id(made))
    for made in dying:
        bench.deliver(made, Action.POLL, priority=1)

    def held() -> list[TenantRouter]:
        return [made for made in dying if "common cause" in bench.resource(made).last_error]

    def replaced() -> list[TenantRouter]:
        return [made for made in dying if bench.resource(made).state is InstanceState.CONFIGURED
                and not bench.resource(made).inbox and made not in held()]  # fmt: skip

    await bench.until(lambda: len(held()) == 2 and len(replaced()) == 3)
    bench.clock.ahead += 61  # the minute is over: the breaker lets the others through by itself
    for made in held():
        bench.deliver(made, Action.UPDATE)
    for made in dying:
        await bench.until_idle(made)
    assert len(bench.own_servers()) == 6
    assert bench.resource(survivor).state is InstanceState.CONFIGURED


# Boots


def break_boots(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let servers end in ERROR while the answer's first element is true."""
    broken, boot = [True], AppliancesInProcess.boot

    async def fail(self: AppliancesInProcess, *arguments: Any) -> None:
        if broken[0]:
            raise OSError("No valid host was found")
        await boot(self, *arguments)

    monkeypatch.setattr(AppliancesInProcess, "boot", fail)
    return broken


async def test_boots_that_fail_end_in_error_which_cools_down_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(router={"boot_attempts": 2}) as bench:
        broken = break_boots(bench, monkeypatch)
        made = await bench.tenant_router("one")
        bench.deliver(made, Action.CREATE)
        await bench.until(lambda: bench.resource(made).state is InstanceState.ERROR)
        resource = bench.resource(made)
        assert "2 boots failed" in resource.last_error
        assert "No valid host was found" in resource.last_error
        await bench.until(lambda: resource.retry_at is not None)
        assert 0 < resource.retry_at - bench.clock.lease() <= 40
        # A user's change does not end the pause; the timer does.
        bench.deliver(made, Action.UPDATE)
        await bench.until(lambda: resource.retry_at is not None)
        assert resource.state is InstanceState.ERROR
        broken[0] = False
        bench.clock.ahead += 60
        bench.deliver(made, Action.UPDATE)
        await bench.until_idle(made)
        assert (resource.attempts, resource.cooldowns, resource.last_error) == (0, 0, "")
        bench.check_tidy(made, networks=2)


async def test_a_failed_boot_that_nova_cannot_remove_at_once_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as bench:
        broken = break_boots(bench, monkeypatch)
        fault = bench.fault("error", "nova", "DELETE", "/servers/", times=2)
        made = await bench.tenant_router("one")
        bench.deliver(made, Action.CREATE)
        await bench.until(lambda: fault.hits == 2)
        assert "No valid host was found" in str(bench.history())
        broken[0] = False
        await bench.until_idle(made)
        states = [text for kind, text in bench.history() if kind == "state"]
        assert states[:2] == ["RESTART to DOWN", "DOWN to BOOTING"]
        bench.check_tidy(made, networks=2)


async def test_an_operators_command_ends_the_cool_down_and_deleting_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(router={"boot_attempts": 1}) as bench:
        broken = break_boots(bench, monkeypatch)
        made, doomed = await bench.tenant_router("one"), await bench.tenant_router("two", "10.2.0.0/24")
        for one in (made, doomed):
            bench.deliver(one, Action.CREATE)
        await bench.until(lambda: all(bench.resource(r).state is InstanceState.ERROR for r in (made, doomed)))
        net = doomed.connection.network
        await do(net.remove_interface_from_router, doomed.router_id, subnet_id=doomed.subnet_id)
        await do(net.delete_router, doomed.router_id)
        bench.deliver(doomed, Action.DELETE)
        await bench.until(lambda: bench.gone == [doomed.router_id])
        broken[0] = False
        update = pb.Operation(operation_id="op", kind=pb.OPERATION_KIND_UPDATE)
        bench.deliver(made, operations=(update,))
        await bench.until_idle(made)
        bench.check_tidy(made, networks=2)


async def test_a_quota_that_is_used_up_is_said_in_words(bench: Bench) -> None:
    made = await bench.tenant_router("one")
    bench.fault("error", "nova", "POST", "/servers$", status=403)
    bench.deliver(made, Action.CREATE)
    await bench.until(lambda: "nova: POST /servers: 403" in bench.resource(made).last_error)


# The appliance refuses


async def test_a_refused_configuration_leaves_the_running_one_and_is_tried_at_the_next_change(bench: Bench) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    running_before = bench.appliance_configuration(made)
    bench.host.fault(boot, "rejecting")
    await do(made.connection.network.update_router, made.router_id, name="renamed")
    bench.deliver(made, Action.UPDATE)
    resource = bench.resource(made)
    await bench.until(lambda: "hostname" in resource.last_error)
    assert bench.appliance_configuration(made) == running_before
    bench.history()
    await poll(bench, made)  # a poll looks whether it lives, and pushes nothing
    await bench.until(lambda: resource.hand is None)
    assert bench.boot_id(made) == boot
    assert "hostname" in resource.last_error
    bench.host.fault(boot, "none")
    bench.deliver(made, Action.UPDATE)
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["hostname"] == "renamed"
    assert resource.last_error == ""


async def test_an_instance_that_dies_in_the_pause_after_a_failure_is_replaced() -> None:
    async with running(worker={"last_retry": 1800.0}) as bench:
        made = await bench.configured()
        resource, boot = bench.resource(made), bench.boot_id(made)
        bench.host.fault(boot, "rejecting")
        await do(made.connection.network.update_router, made.router_id, name="renamed")
        bench.deliver(made, Action.UPDATE)
        await bench.until(lambda: "hostname" in resource.last_error)
        await bench.hypervisor.kill(bench.server_id(made))
        bench.deliver(made, Action.POLL, priority=1)
        await bench.until(lambda: resource.instance is not None and resource.instance.boot_id != boot)
        await bench.until_idle(made)


async def test_a_worker_whose_epoch_is_old_stops_acting(bench: Bench) -> None:
    made = await bench.configured()
    bench.epoch = (2, 0)
    await do(made.connection.network.update_router, made.router_id, name="by-the-new-owner")
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.appliance_configuration(made)["hostname"] == "by-the-new-owner")
    await bench.until_idle(made)
    bench.epoch = (1, 7)
    await do(made.connection.network.update_router, made.router_id, name="by-the-old-owner")
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.resource(made).retry_at is not None)
    assert bench.appliance_configuration(made)["hostname"] == "by-the-new-owner"
    assert bench.cloud.calls.total("nova") == 0
    assert Action.UPDATE in bench.resource(made).inbox.wanted()


async def test_an_appliance_that_fails_at_a_push_is_pushed_to_again(bench: Bench) -> None:
    made = await bench.configured()
    bench.host.fault(bench.boot_id(made), "failing")
    await do(made.connection.network.update_router, made.router_id, name="renamed")
    bench.deliver(made, Action.UPDATE)
    await bench.until(lambda: bench.resource(made).failures >= 2)
    bench.host.fault(bench.boot_id(made), "none")
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["hostname"] == "renamed"


# Operators


async def test_a_rebuild_from_another_image_keeps_the_image_until_a_rebuild_without(bench: Bench) -> None:
    made = await bench.configured()
    other = next(row["id"] for row in bench.cloud.image.images if row["name"] == "tiny")
    usual = bench.own_servers()[0]["image"]["id"]

    async def rebuild(name: str, image: str) -> str:
        boot = bench.boot_id(made)
        operation = pb.Operation(operation_id=name, kind=pb.OPERATION_KIND_REBUILD, image_id=image)
        bench.deliver(made, operations=(operation,))
        await bench.until(lambda: bench.resource(made).instance is not None and bench.boot_id(made) != boot)
        await bench.until_idle(made)
        bench.check_tidy(made, networks=2)
        return str(bench.own_servers()[0]["image"]["id"])

    assert await rebuild("op-1", other) == other
    await bench.hypervisor.kill(bench.server_id(made))
    boot = bench.boot_id(made)
    bench.deliver(made, Action.POLL, priority=1)
    await bench.until(lambda: bench.resource(made).instance is not None and bench.boot_id(made) != boot)
    await bench.until_idle(made)
    assert bench.own_servers()[0]["image"]["id"] == other
    assert await rebuild("op-2", "") == usual


async def test_a_rebuild_that_is_delivered_again_is_recognised_by_a_new_worker(bench: Bench) -> None:
    made = await bench.configured()
    boot = bench.boot_id(made)
    operation = pb.Operation(operation_id="op-1", kind=pb.OPERATION_KIND_REBUILD)
    bench.deliver(made, operations=(operation,))
    await bench.until(lambda: bench.resource(made).instance is not None and bench.boot_id(made) != boot)
    await bench.until_idle(made)
    boot = bench.boot_id(made)
    await bench.restart_worker()
    bench.deliver(made, operations=(operation,))
    await bench.until_idle(made)
    assert bench.boot_id(made) == boot
    reports = [message.operation for message in bench.reporter.take() if message.WhichOneof("message") == "operation"]
    assert [(one.operation_id, one.state) for one in reports][-1] == ("op-1", pb.OPERATION_STATE_SUCCEEDED)


async def test_in_debug_mode_nothing_is_done_and_afterwards_everything(bench: Bench) -> None:
    made = await bench.configured()
    flag = pb.DebugFlag(scope=pb.OPERATION_SCOPE_RESOURCE, target_id=made.router_id)
    bench.flags.change(flag, cleared=False)
    await do(made.connection.network.update_router, made.router_id, name="renamed")
    await bench.hypervisor.kill(bench.server_id(made))
    boot = bench.boot_id(made)
    bench.cloud.calls.reset()
    bench.deliver(made, Action.UPDATE)
    bench.deliver(made, Action.DELETE)
    bench.deliver(made, operations=(pb.Operation(operation_id="op", kind=pb.OPERATION_KIND_REBUILD),))
    other = await bench.configured("two", cidr="10.2.0.0/24")  # others go on
    assert bench.boot_id(made) == boot
    assert bench.resource(other).state is InstanceState.CONFIGURED
    bench.flags.change(flag, cleared=True)
    bench.dispatcher.reconcile(lambda resource: resource.resource_id == made.router_id)
    await bench.until(lambda: bench.resource(made).instance is not None and bench.boot_id(made) != boot)
    await bench.until_idle(made)
    assert bench.appliance_configuration(made)["hostname"] == "renamed"


@pytest.mark.parametrize("status", [0, 403])
async def test_a_deletion_that_nova_lost_is_begun_anew(status: int) -> None:
    async with running(router={"stop_timeout": 1.0}) as bench:
        made = await bench.configured()
        servers = bench.cloud.compute.servers
        servers.lost_deletions = 2
        fault = bench.fault("error", "nova", "POST", "/action$", status=status) if status else None
        net = made.connection.network
        await do(net.remove_interface_from_router, made.router_id, subnet_id=made.subnet_id)
        await do(net.delete_router, made.router_id)
        bench.deliver(made, Action.DELETE)
        resource = bench.resource(made)
        await bench.until(lambda: "has not deleted server" in resource.last_error)
        if fault is not None:
            # Not even that is allowed: it is said, and tried again.
            await bench.until(lambda: fault.hits > 1)
            assert resource.public_error.startswith("Nova has not deleted its server")
            assert servers.lost_deletions == 1
            bench.cloud.faults.remove(fault)
        await bench.until(lambda: bench.gone == [made.router_id])
        assert servers.lost_deletions == 0
        assert bench.own_servers() == []
        assert bench.own_ports() == []
