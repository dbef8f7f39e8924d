"""Hosts learn addresses, routes and resolvers from router advertisements, as the kernel's own SLAAC sees them."""

import os
import signal
from typing import Any

import pytest
from network_clients import Listener, programs
from standing_appliance import plug_again

from lab.appliance_machine import Hosts, Machine, eventually, subnet
from lab.wires import Namespace

pytest_plugins = ("standing_appliance",)

MAC = "fa:20:00:00:00:05"


def network(machine: Machine, name: str = "red", number: int = 1, mode: str | None = "slaac", mtu: int = 1500,
            **more: Any) -> dict[str, Any]:  # fmt: skip
    """10.NUMBER.0.0/24 and 2001:db8:NUMBER::/64; `more` replaces members of the IPv6 subnet."""
    made = machine.network(
        name, "internal", f"10.{number}.0.1/24", f"2001:db8:{number}::1/64",
        subnets=[
            subnet(f"{name}4", f"10.{number}.0.0/24", f"10.{number}.0.1", dhcp=True),
            subnet(f"{name}6", f"2001:db8:{number}::/64", f"2001:db8:{number}::1", dhcp=True,
                   ipv6_address_mode=mode, ipv6_ra_mode=mode) | more,
        ],
    )  # fmt: skip
    made["interface"] |= {"ifname": f"ge{number}", "mtu": mtu}
    return made


def bird(machine: Machine) -> int | None:
    """The process id of BIRD."""
    return next(iter(programs(machine.vm, "bird")), None)


def addresses(host: Namespace) -> str:
    return host.ip("-6", "-o", "address", "show", "dev", "eth0", "scope", "global")


def default_route(host: Namespace) -> str:
    return host.ip("-6", "route", "show", "default")


async def test_a_host_makes_its_address_and_finds_the_router_by_itself(machine: Machine, neighbours: Hosts):
    await machine.push({"networks": [network(machine, mtu=1400)]})
    host = neighbours.add("host", "red", mac=MAC)
    assert eventually(lambda: "2001:db8:1:0:f820:ff:fe00:5/64" in addresses(host))
    assert "via fe80::f800:ff:fe00:1 dev eth0" in default_route(host)
    assert eventually(lambda: host.run("sysctl", "-n", "net.ipv6.conf.eth0.mtu").stdout.strip() == "1400")
    assert host.run("ping", "-c", "1", "-W", "5", "2001:db8:1::1").returncode == 0


@pytest.mark.parametrize(
    ("mode", "managed", "other", "autonomous"),
    [("slaac", False, False, True), ("dhcpv6-stateless", False, True, True), ("dhcpv6-stateful", True, True, False)],
)
async def test_the_mode_says_how_hosts_get_addresses(machine, neighbours, mode, managed, other, autonomous):
    host = neighbours.add("host", "red", mac=MAC)
    with Listener(host) as listener:
        await machine.push({"networks": [network(machine, mode=mode)]})
        heard = await listener.next()
    assert (heard.managed, heard.other, heard.prefixes) == (managed, other, {"2001:db8:1::/64": autonomous})
    assert heard.source == "fe80::f800:ff:fe00:1"
    assert heard.mtu == 1500
    assert heard.lifetime > 0


async def test_a_stateful_subnet_makes_no_host_choose_an_address(machine, neighbours):
    host = neighbours.add("host", "red", mac=MAC)
    await machine.push({"networks": [network(machine, mode="dhcpv6-stateful")]})
    assert eventually(lambda: "via fe80::" in default_route(host))
    assert addresses(host) == ""


async def test_resolvers_are_the_subnets_in_their_order(machine, neighbours):
    host = neighbours.add("host", "red", mac=MAC)
    servers = ["2001:db8::9", "192.0.2.1", "2001:db8::1"]
    with Listener(host) as listener:
        await machine.push({"networks": [network(machine, dns_nameservers=servers)]})
        assert (await listener.next()).resolvers == ["2001:db8::9", "2001:db8::1"]


async def test_without_any_the_router_is_the_resolver(machine, neighbours):
    host = neighbours.add("host", "red", mac=MAC)
    with Listener(host) as listener:
        await machine.push({"networks": [network(machine)]})
        assert (await listener.next()).resolvers == ["2001:db8:1::1"]


async def test_a_subnet_without_a_mode_is_not_advertised(machine, neighbours):
    host = neighbours.add("host", "blue", mac=MAC)
    with Listener(host) as listener:
        await machine.push({"networks": [network(machine, mode=None), network(machine, "blue", 2)]})
        assert (await listener.next()).prefixes == {"2001:db8:2::/64": True}
    silent = neighbours.add("silent", "red", mac=MAC)
    with Listener(silent) as listener:
        await listener.ask()
        with pytest.raises(TimeoutError):
            await listener.next(3)


async def test_a_host_that_asks_is_answered(machine, neighbours):
    await machine.push({"networks": [network(machine)]})
    host = neighbours.add("host", "red", mac=MAC)
    with Listener(host) as listener:
        await listener.ask()
        assert (await listener.next()).lifetime > 0


async def test_another_mode_is_told_without_a_restart(machine, neighbours):
    host = neighbours.add("host", "red", mac=MAC)
    await machine.push({"networks": [network(machine)]})
    before = bird(machine)
    with Listener(host) as listener:
        assert not (await listener.next()).managed
        await machine.push({"networks": [network(machine, mode="dhcpv6-stateful")]})
        while not (heard := await listener.next()).managed:
            pass
    assert heard.prefixes == {"2001:db8:1::/64": False}
    assert bird(machine) == before


async def test_a_network_that_goes_says_goodbye_and_others_hear_nothing(machine, neighbours):
    leaving, staying = neighbours.add("leaving", "red", mac=MAC), neighbours.add("staying", "blue", mac=MAC)
    both = [network(machine), network(machine, "blue", 2)]
    await machine.push({"networks": both})
    before = bird(machine)
    assert eventually(lambda: "via fe80::" in default_route(leaving) and "via fe80::" in default_route(staying))
    with Listener(staying) as listener:
        await machine.push({"networks": [network(machine, mode=None), both[1]]})
        assert eventually(lambda: default_route(leaving) == "")
        # It is still there for those who ask, and its lifetime was never zero.
        await listener.ask()
        assert (await listener.next()).lifetime > 0
    assert "via fe80::" in default_route(staying)
    assert bird(machine) == before


async def test_a_router_that_is_switched_off_says_goodbye(machine, neighbours):
    host = neighbours.add("host", "red", mac=MAC)
    await machine.push({"networks": [network(machine)]})
    assert eventually(lambda: "via fe80::" in default_route(host))
    await machine.push({"admin_state_up": False, "networks": [network(machine)]})
    assert eventually(lambda: default_route(host) == "")
    assert bird(machine) is None
    await machine.push({"networks": [network(machine)]})
    assert eventually(lambda: "via fe80::" in default_route(host))


async def test_nothing_runs_where_nothing_is_advertised(machine):
    await machine.push({"networks": [network(machine, mode=None)]})
    assert bird(machine) is None


async def test_the_process_survives_the_agents_restart_and_comes_back_when_it_is_killed(machine, neighbours):
    await machine.push({"networks": [network(machine)]})
    before = bird(machine)
    await machine.restart(signal.SIGKILL)
    assert await machine.push({"networks": [network(machine)]}) == []
    assert bird(machine) == before
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: bird(machine) not in (None, before))
    host = neighbours.add("host", "red", mac=MAC)
    assert eventually(lambda: "via fe80::" in default_route(host))


async def test_an_interface_that_was_plugged_again_is_advertised_on(machine, neighbours):
    await machine.push({"networks": [network(machine), network(machine, "blue", 2)]})
    before = bird(machine)
    await plug_again(machine, "blue")
    assert bird(machine) == before
    host = neighbours.add("host", "blue", mac=MAC)
    assert eventually(lambda: "2001:db8:2:0:f820:ff:fe00:5/64" in addresses(host))
    assert "via fe80::f800:ff:fe00:2 dev eth0" in default_route(host)
