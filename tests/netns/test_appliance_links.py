"""Interfaces are found by their MAC address, whatever the kernel calls them, plugged and unplugged at any time."""

import pytest
from router_world import (
    GATEWAY,
    HOST,
    INSIDE,
    INSIDE6,
    addresses,
    link,
    network,
    plugged,
    routes,
    tenant,
    upstream,
    wanted,
)

from lab.appliance_machine import MANAGEMENT_MAC, Hosts, Machine, eventually, pings


async def test_devices_are_called_by_the_names_that_the_api_tells(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    told = (await appliance.status())["interfaces"]
    assert told == {MANAGEMENT_MAC: "ge0", appliance.macs["ext"]: "ge1", appliance.macs["private"]: "ge2"}
    assert {mac: link(appliance, name)["address"] for mac, name in told.items()} == {mac: mac for mac in told}


async def test_a_name_that_another_device_has_is_taken_back(appliance: Machine) -> None:
    await plugged(appliance, "ext", "private")
    await appliance.push(wanted(appliance))
    appliance.stop()
    # As an image's own naming may leave them after a reboot of the same kernel.
    for former, now in (("ge1", "x"), ("ge2", "ge1"), ("ge0", "ge2"), ("x", "ge0")):
        appliance.vm.ip("link", "set", former, "down")
        appliance.vm.ip("link", "set", former, "name", now)
    appliance.start()
    status = await appliance.answers()
    assert {mac: link(appliance, name)["address"] for mac, name in status["interfaces"].items()} == {
        mac: mac for mac in status["interfaces"]
    }
    await appliance.until(lambda status: status["digest"] is not None)
    assert addresses(appliance, "ge2") == {f"{INSIDE}/24", f"{INSIDE6}/64", "fe80::a9fe:a9fe/128"}


async def test_an_interface_that_somebody_renames_gets_its_name_back(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    host = tenant(hosts)
    await appliance.push(wanted(appliance))
    appliance.vm.ip("link", "set", "ge2", "down")
    appliance.vm.ip("link", "set", "ge2", "name", "ens9")
    assert eventually(lambda: "ens9" not in appliance.vm.ip("link"))
    assert eventually(lambda: f"{INSIDE}/24" in addresses(appliance, "ge2"))
    assert pings(host, INSIDE)


@pytest.mark.parametrize("network_name", ["private", "ext"])
async def test_an_interface_that_was_pulled_out_comes_back_as_it_was_without_a_push(
    appliance: Machine, hosts: Hosts, network_name: str
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    extra = [{"destination": "198.51.100.0/24", "nexthop": "10.0.0.77"}]
    await appliance.push(wanted(appliance, static_routes=extra), "v1:before")
    before = [addresses(appliance, device) for device in ("ge1", "ge2")], routes(appliance)
    appliance.unplug(network_name)
    status = await appliance.until(lambda status: len(status["interfaces"]) == 2)
    await appliance.until(lambda status: status["digest"] is None)
    assert appliance.macs[network_name] not in status["interfaces"]
    if network_name == "ext":
        # The tenant's own network goes on meanwhile.
        assert pings(host, INSIDE)
    appliance.plug(network_name)
    await appliance.until(lambda status: status["digest"] == "v1:before")
    assert ([addresses(appliance, device) for device in ("ge1", "ge2")], routes(appliance)) == before
    assert pings(host, GATEWAY)


async def test_a_new_interface_disturbs_no_other_and_is_configured_by_the_next_push(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance), "v1:before")
    daemons = set(appliance.vm.pids())
    assert pings(host, GATEWAY, count=3)
    await plugged(appliance, "second")
    assert (await appliance.status())["digest"] == "v1:before"
    assert addresses(appliance, "ge3") == set()
    document = wanted(appliance)
    document["networks"].append(network(appliance, "second", "internal", "10.2.0.1/24"))
    await appliance.push(document)
    other = hosts.add("other", "second", "10.2.0.5/24", gateway="10.2.0.1")
    assert pings(other, "10.2.0.1")
    assert pings(host, GATEWAY)
    assert daemons <= set(appliance.vm.pids())


async def test_a_push_that_names_an_interface_that_is_not_plugged_is_refused_and_changes_nothing(
    appliance: Machine, hosts: Hosts
) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance), "v1:before")
    document = wanted(appliance)
    appliance.plug("second")
    document["networks"].append(network(appliance, "second", "internal", "10.2.0.1/24"))
    appliance.unplug("second")
    await appliance.until(lambda status: len(status["interfaces"]) == 3)
    code, problem = await appliance.try_push(document)
    assert (code, problem["errors"][0]["field"]) == (422, "networks[2].interface.lladdr")
    assert (await appliance.status())["digest"] == "v1:before"
    assert pings(host, GATEWAY)


async def test_the_management_interface_comes_back_and_the_api_with_it(appliance: Machine, hosts: Hosts) -> None:
    await plugged(appliance, "ext", "private")
    upstream(hosts)
    host = tenant(hosts)
    await appliance.push(wanted(appliance), "v1:before")
    # Away from everybody: by the kernel's hands, as the orchestrator cannot reach it any more.
    appliance.unplug("mgt")
    assert pings(host, GATEWAY)
    await appliance.close_session()
    appliance._wire("mgt", MANAGEMENT_MAC, 1500)
    status = await appliance.answers()
    assert status["interfaces"][MANAGEMENT_MAC] == "ge0"
    await appliance.until(lambda status: status["digest"] == "v1:before")
    assert pings(host, GATEWAY)
    assert HOST not in addresses(appliance, "ge0")
