"""Instances get their addresses, and all that goes with them, by DHCP and DHCPv6, as a real client sees it."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from network_clients import Instance, programs, routes_of
from standing_appliance import plug_again

from lab.appliance_machine import Hosts, Machine, subnet, uuid_of

pytest_plugins = ("standing_appliance",)

ONE, TWO = "fa:20:00:00:00:05", "fa:20:00:00:00:06"
METADATA = "169.254.169.254/32"


def allocation(mac: str, *addresses: str, hostname: str = "", **more: Any) -> dict[str, Any]:
    return {
        "mac_address": mac, "device_id": uuid_of(mac), "hostname": hostname or f"host-{mac[-2:]}",
        "ip_addresses": dict.fromkeys(addresses, True),
    } | more  # fmt: skip


def red(machine: Machine, *allocations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A network with IPv4 only; `more` replaces members of its subnet."""
    served = subnet("red", "10.1.0.0/24", "10.1.0.1", dhcp=True) | more
    return numbered(machine, machine.network("red", "internal", "10.1.0.1/24", subnets=[served],
                                             address_allocations=list(allocations)))  # fmt: skip


def blue(machine: Machine, *allocations: dict[str, Any], mode: str = "dhcpv6-stateful", **more: Any) -> dict[str, Any]:
    """A network with both versions; `more` replaces members of its IPv6 subnet."""
    served = [
        subnet("blue4", "10.2.0.0/24", "10.2.0.1", dhcp=True),
        subnet("blue6", "2001:db8:2::/64", "2001:db8:2::1", dhcp=True, ipv6_address_mode=mode, ipv6_ra_mode=mode)
        | more,
    ]
    return numbered(machine, machine.network("blue", "internal", "10.2.0.1/24", "2001:db8:2::1/64", subnets=served,
                                             address_allocations=list(allocations)))  # fmt: skip


def numbered(machine: Machine, network: dict[str, Any]) -> dict[str, Any]:
    network["interface"]["ifname"] = f"ge{list(machine.macs).index(network['name']) + 1}"
    return network


async def push(machine: Machine, *networks: dict[str, Any]) -> list[str]:
    return await machine.push({"networks": list(networks)})


def dnsmasqs(machine: Machine) -> dict[str, int]:
    """Process ids by interface."""
    return {Path(words[1]).parent.name: pid for pid, words in programs(machine.vm, "dnsmasq").items()}


def lease_file(machine: Machine, ifname: str) -> str:
    return (machine.root / "state" / "dnsmasq" / ifname / "leases").read_text()


@pytest.fixture
def instance(neighbours: Hosts, tmp_path: Path):
    """Makes instances, each with one interface on a network."""

    def make(network: str, mac: str) -> Instance:
        return Instance(neighbours.add(f"{network}-{mac[-2:]}", network, mac=mac), tmp_path)

    return make


# IPv4


async def test_a_known_host_gets_its_address_and_all_that_goes_with_it(machine, instance):
    wanted = red(machine, allocation(ONE, "10.1.0.5", hostname="web-1"))
    wanted["interface"]["mtu"] = 1400
    await push(machine, wanted)
    lease = await instance("red", ONE).lease()
    assert lease["ip_address"] == "10.1.0.5"
    assert lease["subnet_mask"] == "255.255.255.0"
    assert lease["routers"] == "10.1.0.1"
    assert lease["interface_mtu"] == "1400"
    assert lease["host_name"] == "web-1"
    assert lease["domain_name"] == "openstacklocal"
    assert lease["domain_name_servers"] == "10.1.0.1"
    assert lease["dhcp_lease_time"] == "86400"


@pytest.mark.parametrize("name", ["ignore", "infinite", "2m", "300", "set"])
async def test_a_name_means_nothing_but_itself(machine, instance, name):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5", hostname=name)))
    lease = await instance("red", ONE).lease()
    assert (lease["ip_address"], lease["dhcp_lease_time"], lease["host_name"]) == ("10.1.0.5", "86400", name)


async def test_routes_come_with_the_default_route_and_the_one_to_the_metadata_address(machine, instance):
    routes = [
        {"destination": "198.51.100.0/25", "nexthop": "10.1.0.9"},
        {"destination": "192.0.2.0/24", "nexthop": "10.1.0.8"},
    ]
    await push(machine, red(machine, allocation(ONE, "10.1.0.5"), host_routes=routes))
    lease = await instance("red", ONE).lease()
    wanted = {"198.51.100.0/25": "10.1.0.9", "192.0.2.0/24": "10.1.0.8", METADATA: "10.1.0.1", "0.0.0.0/0": "10.1.0.1"}
    assert routes_of(lease["classless_routes"]) == wanted
    assert routes_of(lease["microsoft_routes"]) == wanted


async def test_a_subnet_without_gateway_gives_no_router_but_a_way_to_metadata(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5"), gateway_ip=None))
    lease = await instance("red", ONE).lease()
    assert lease["ip_address"] == "10.1.0.5"
    assert "routers" not in lease
    assert routes_of(lease["classless_routes"]) == {METADATA: "10.1.0.1"}


async def test_name_servers_are_the_subnets_in_their_order(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5"), dns_nameservers=["192.0.2.9", "192.0.2.1"]))
    assert (await instance("red", ONE).lease())["domain_name_servers"] == "192.0.2.9 192.0.2.1"


async def test_the_unspecified_address_as_name_server_means_none(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5"), dns_nameservers=["0.0.0.0"]))
    lease = await instance("red", ONE).lease()
    assert lease["ip_address"] == "10.1.0.5"
    assert "domain_name_servers" not in lease


async def test_a_port_gets_its_own_options_and_no_other_does(machine, instance):
    options = [
        {"opt_name": "bootfile-name", "opt_value": "pxelinux.0"},
        {"opt_name": "66", "opt_value": "boot.example.org"},
        {"opt_name": "dns-server", "opt_value": "192.0.2.7"},
        {"opt_name": "bootfile-url", "opt_value": "http://example.org/boot", "ip_version": 6},
    ]
    own, other = allocation(ONE, "10.1.0.5", extra_dhcp_opts=options), allocation(TWO, "10.1.0.6")
    await push(machine, red(machine, own, other))
    lease = await instance("red", ONE).lease()
    given = lease["bootfile_name"], lease["tftp_server_name"], lease["domain_name_servers"]
    assert given == ("pxelinux.0", "boot.example.org", "192.0.2.7")
    lease = await instance("red", TWO).lease()
    assert lease["domain_name_servers"] == "10.1.0.1"
    assert "bootfile_name" not in lease


async def test_options_that_make_no_sense_keep_nobody_from_an_address(machine, instance):
    options = [
        {"opt_name": "bootfile-name", "opt_value": "a\ndhcp-script=/bin/sh"},
        {"opt_name": "no-such-option", "opt_value": "1"},
        {"opt_name": "ntp-server", "opt_value": "not an address"},
        {"opt_name": "option:router,tag:", "opt_value": '"'},
        {"opt_name": "51", "opt_value": "1"},
        {"opt_name": "tftp-server", "opt_value": "boot.example.org"},
    ]
    await push(machine, red(machine, allocation(ONE, "10.1.0.5", extra_dhcp_opts=options)))
    lease = await instance("red", ONE).lease()
    assert (lease["ip_address"], lease["dhcp_lease_time"]) == ("10.1.0.5", "86400")
    assert lease["tftp_server_name"] == "boot.example.org"
    assert "bootfile_name" not in lease


async def test_an_unknown_host_gets_nothing(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")))
    assert await instance("red", TWO).lease(seconds=2) == {}


async def test_an_address_that_dhcp_shall_not_give_is_not_given(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5", ip_addresses={"10.1.0.5": False})))
    assert await instance("red", ONE).lease(seconds=2) == {}


async def test_a_host_of_one_network_is_unknown_on_another(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")), blue(machine, allocation(TWO, "10.2.0.6")))
    assert await instance("red", TWO).lease(seconds=2) == {}
    assert (await instance("blue", TWO).lease())["ip_address"] == "10.2.0.6"


async def test_a_new_host_is_served_by_the_process_that_runs(machine, instance):
    await push(machine, red(machine), blue(machine))
    before = dnsmasqs(machine)
    assert await push(machine, red(machine, allocation(ONE, "10.1.0.5")), blue(machine)) == ["dhcp", "metadata_proxy"]
    assert (await instance("red", ONE).lease())["ip_address"] == "10.1.0.5"
    assert dnsmasqs(machine) == before


async def test_a_removed_host_gets_nothing_any_more(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")))
    host = instance("red", ONE)
    assert await host.lease()
    before = dnsmasqs(machine)
    await push(machine, red(machine))
    assert dnsmasqs(machine) == before
    assert await host.lease(seconds=2) == {}


async def test_another_mtu_starts_that_networks_process_anew_and_no_other(machine, instance):
    await push(machine, red(machine), blue(machine))
    before = dnsmasqs(machine)
    changed = red(machine, allocation(ONE, "10.1.0.5"))
    changed["interface"]["mtu"] = 1300
    await push(machine, changed, blue(machine))
    after = dnsmasqs(machine)
    assert after["ge2"] == before["ge2"]
    assert (await instance("red", ONE).lease())["interface_mtu"] == "1300"


async def test_a_network_that_goes_takes_its_process_along(machine):
    await push(machine, red(machine), blue(machine))
    before = dnsmasqs(machine)
    await push(machine, blue(machine))
    assert dnsmasqs(machine) == {"ge2": before["ge2"]}


async def test_an_address_goes_to_its_new_owner_while_the_former_ones_lease_lasts(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")), blue(machine))
    assert (await instance("red", ONE).lease())["ip_address"] == "10.1.0.5"
    before = dnsmasqs(machine)
    await push(machine, red(machine, allocation(TWO, "10.1.0.5")), blue(machine))
    assert dnsmasqs(machine)["ge2"] == before["ge2"]
    assert (await instance("red", TWO).lease())["ip_address"] == "10.1.0.5"


async def test_a_host_that_changes_its_address_gets_the_new_one(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")))
    host = instance("red", ONE)
    assert (await host.lease())["ip_address"] == "10.1.0.5"
    await push(machine, red(machine, allocation(ONE, "10.1.0.77")))
    assert (await host.lease())["ip_address"] == "10.1.0.77"


async def test_two_hosts_that_swap_addresses_get_each_others(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5"), allocation(TWO, "10.1.0.6")))
    one, two = instance("red", ONE), instance("red", TWO)
    assert [(await host.lease())["ip_address"] for host in (one, two)] == ["10.1.0.5", "10.1.0.6"]
    await push(machine, red(machine, allocation(ONE, "10.1.0.6"), allocation(TWO, "10.1.0.5")))
    assert [(await host.lease())["ip_address"] for host in (one, two)] == ["10.1.0.6", "10.1.0.5"]


# IPv6


async def test_dhcpv6_gives_a_host_its_address_by_its_mac_address(machine, instance):
    await push(machine, blue(machine, allocation(ONE, "10.2.0.5", "2001:db8:2::55", hostname="web-1")))
    host = instance("blue", ONE)
    lease = await host.lease(6)
    assert lease["ip6_address"] == "2001:db8:2::55"
    assert lease["dhcp6_name_servers"] == "2001:db8:2::1"
    assert lease["dhcp6_domain_search"] == "openstacklocal."
    assert (await host.lease(4))["ip_address"] == "10.2.0.5"


async def test_dhcpv6_tells_an_unknown_host_nothing(machine, instance):
    await push(machine, blue(machine, allocation(ONE, "2001:db8:2::55")))
    assert await instance("blue", TWO).lease(6, seconds=3) == {}


async def test_a_stateless_subnet_gives_options_and_no_address(machine, instance):
    wanted = blue(machine, allocation(ONE, "10.2.0.5", "2001:db8:2::55"), mode="dhcpv6-stateless",
                  dns_nameservers=["2001:db8::53"])  # fmt: skip
    await push(machine, wanted)
    host = instance("blue", ONE)
    options = await host.lease(6, stateless=True)
    assert options["dhcp6_name_servers"] == "2001:db8::53"
    assert options["dhcp6_domain_search"] == "openstacklocal."
    assert "ip6_address" not in options
    assert await host.lease(6, seconds=3) == {}


async def test_an_ipv6_address_goes_to_its_new_owner_while_the_former_ones_lease_lasts(machine, instance):
    await push(machine, blue(machine, allocation(ONE, "2001:db8:2::55")))
    assert (await instance("blue", ONE).lease(6))["ip6_address"] == "2001:db8:2::55"
    await push(machine, blue(machine, allocation(TWO, "2001:db8:2::55")))
    assert (await instance("blue", TWO).lease(6))["ip6_address"] == "2001:db8:2::55"


async def test_an_address_that_was_nobodys_for_a_while_goes_to_its_new_owner(machine, instance):
    await push(machine, blue(machine, allocation(ONE, "10.2.0.5", "2001:db8:2::55")))
    host = instance("blue", ONE)
    assert await host.lease(4)
    assert await host.lease(6)
    await push(machine, blue(machine))
    await machine.restart()
    await push(machine, blue(machine, allocation(TWO, "10.2.0.5", "2001:db8:2::55")))
    later = instance("blue", TWO)
    assert (await later.lease(4))["ip_address"] == "10.2.0.5"
    assert (await later.lease(6))["ip6_address"] == "2001:db8:2::55"


# Lives


async def test_processes_and_leases_survive_the_agents_restart(machine, instance):
    networks = red(machine, allocation(ONE, "10.1.0.5")), blue(machine, allocation(TWO, "2001:db8:2::66"))
    await push(machine, *networks)
    assert await instance("red", ONE).lease()
    assert await instance("blue", TWO).lease(6)
    before, leases = dnsmasqs(machine), [lease_file(machine, ifname) for ifname in ("ge1", "ge2")]
    for number in (signal.SIGTERM, signal.SIGKILL):
        await machine.restart(number)
        assert await push(machine, *networks) == []
        assert dnsmasqs(machine) == before
        assert [lease_file(machine, ifname) for ifname in ("ge1", "ge2")] == leases


async def test_a_process_that_is_killed_comes_back_with_its_leases(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")), blue(machine))
    host = instance("red", ONE)
    assert await host.lease()
    leases, before = lease_file(machine, "ge1"), dnsmasqs(machine)
    os.kill(before["ge1"], signal.SIGKILL)
    async with asyncio.timeout(90):
        while dnsmasqs(machine).get("ge1") in (None, before["ge1"]):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.02)
    assert dnsmasqs(machine)["ge2"] == before["ge2"]
    assert lease_file(machine, "ge1") == leases
    assert "dnsmasq-ge1: process" in machine.log()
    assert (await host.lease())["ip_address"] == "10.1.0.5"


async def test_one_that_is_killed_while_the_agent_is_away_comes_back_with_the_agent(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")))
    machine.stop()
    os.kill(dnsmasqs(machine)["ge1"], signal.SIGKILL)
    machine.start()
    await machine.answers()
    assert (await instance("red", ONE).lease())["ip_address"] == "10.1.0.5"


async def test_leases_survive_a_reboot(machine, instance):
    await push(machine, red(machine, allocation(ONE, "10.1.0.5")), blue(machine, allocation(TWO, "2001:db8:2::77")))
    assert await instance("red", ONE).lease()
    assert await instance("blue", TWO).lease(6)
    leases = [lease_file(machine, ifname) for ifname in ("ge1", "ge2")]
    await machine.reboot()
    await machine.until(lambda status: len(status["interfaces"]) == 3)
    assert sorted(dnsmasqs(machine)) == ["ge1", "ge2"]
    assert [lease_file(machine, ifname) for ifname in ("ge1", "ge2")] == leases


async def test_hosts_are_served_on_an_interface_that_was_plugged_again(machine, instance):
    await push(machine, red(machine), blue(machine, allocation(ONE, "10.2.0.5", "2001:db8:2::88")))
    before = dnsmasqs(machine)
    await plug_again(machine, "blue")
    assert dnsmasqs(machine)["ge1"] == before["ge1"]
    host = instance("blue", ONE)
    assert (await host.lease(4))["ip_address"] == "10.2.0.5"
    assert (await host.lease(6))["ip6_address"] == "2001:db8:2::88"
