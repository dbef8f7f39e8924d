"""Addresses, MTU and state of interfaces, as the kernel and the neighbours see them."""

import json

from appliance_machine import Hosts, Machine, eventually, pings, subnet


def addresses(machine: Machine, device: str) -> set[str]:
    """What the kernel has on a device, but for its own link-local address."""
    (found,) = json.loads(machine.vm.ip("-j", "address", "show", "dev", device))
    return {
        f"{one['local']}/{one['prefixlen']}"
        for one in found["addr_info"]
        if not (one["local"].startswith("fe80::") and one["prefixlen"] == 64)
    }


def link(machine: Machine, device: str) -> dict:
    (found,) = json.loads(machine.vm.ip("-j", "link", "show", "dev", device))
    return found


async def test_an_internal_network_gets_its_addresses_and_answers(appliance: Machine, hosts: Hosts) -> None:
    appliance.plug("private", 1450)
    host = hosts.add("host", "private", "10.0.0.5/24", "fd00:1::5/64")
    await appliance.until(lambda status: len(status["interfaces"]) == 2)
    private = appliance.network(
        "private", "internal", "10.0.0.1/24", "fd00:1::1/64", subnets=[subnet("a", "10.0.0.0/24", "10.0.0.1")]
    )
    await appliance.push({"networks": [private]})
    assert addresses(appliance, "ge1") == {"10.0.0.1/24", "fd00:1::1/64", "fe80::a9fe:a9fe/128"}
    assert link(appliance, "ge1")["mtu"] == 1450
    assert pings(host, "10.0.0.1")
    assert pings(host, "fd00:1::1")
