"""A router between an upstream and one tenant's host, as the tests of the appliance's kernel side know it."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.appliance_machine import Hosts, Machine, eventually, subnet, uuid_of
from lab.wires import Namespace

GATEWAY, GATEWAY6 = "172.24.4.1", "2001:db8:4::1"
OUTSIDE, OUTSIDE6 = "172.24.4.9", "2001:db8:4::9"
INSIDE, INSIDE6 = "10.0.0.1", "fd00:1::1"
HOST, HOST6 = "10.0.0.5", "fd00:1::5"


def network(machine: Machine, name: str, kind: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """One network of a configuration; `more` replaces members of its interface."""
    made = machine.network(name, kind, *addresses)
    mac = made["interface"]["lladdr"]
    made["interface"] |= {"ifname": f"ge{int(mac[-2:], 16)}"} | more
    return made


def wanted(machine: Machine, **more: Any) -> dict[str, Any]:
    """An external and an internal network of both families; `more` are members of the configuration."""
    external = network(machine, "ext", "external", f"{OUTSIDE}/24", f"{OUTSIDE6}/64")
    internal = network(machine, "private", "internal", f"{INSIDE}/24", f"{INSIDE6}/64")
    internal["subnets"] = [subnet("v4", "10.0.0.0/24", INSIDE), subnet("v6", "fd00:1::/64", INSIDE6)]
    return {
        "networks": [external, internal],
        "default_v4_gateway": GATEWAY,
        "default_v6_gateway": GATEWAY6,
        "enable_snat": False,
    } | more


def floating(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Floating IPs of the external network, each with the fixed address that it stands for."""
    return [
        {"id": uuid_of(address), "floating_ip": address, "fixed_ip": fixed, "network_id": uuid_of("ext")}
        for address, fixed in pairs
    ]


async def plugged(machine: Machine, *networks: str) -> None:
    """Plug the machine into networks, one after the other, so their interfaces are ge1, ge2, …"""
    for number, name in enumerate(networks, len(machine.plugged) + 1):
        machine.plug(name)
        await machine.until(lambda status, number=number: len(status["interfaces"]) == number)


def upstream(hosts: Hosts) -> Namespace:
    """The gateway of the external network, who knows the way to the tenant's network."""
    made = hosts.add("gateway", "ext", f"{GATEWAY}/24", f"{GATEWAY6}/64")
    made.ip("route", "add", "10.0.0.0/24", "via", OUTSIDE)
    made.ip("route", "add", "fd00:1::/64", "via", OUTSIDE6)
    return made


def tenant(hosts: Hosts) -> Namespace:
    """A host on the internal network."""
    made = hosts.add("tenant", "private", f"{HOST}/24", f"{HOST6}/64", gateway=INSIDE)
    made.ip("route", "add", "default", "via", INSIDE6)
    return made


def addresses(machine: Machine, device: str) -> set[str]:
    """What the kernel has on a device, but for its own link-local address."""
    (found,) = json.loads(machine.vm.ip("-j", "address", "show", "dev", device))
    return {
        f"{one['local']}/{one['prefixlen']}"
        for one in found["addr_info"]
        if not (one["local"].startswith("fe80::") and one["prefixlen"] == 64)
    }


def link(machine: Machine, device: str) -> dict[str, Any]:
    """What the kernel says of a device."""
    (found,) = json.loads(machine.vm.ip("-j", "link", "show", "dev", device))
    return found


def routes(machine: Machine) -> set[str]:
    """The appliance's own routes, as `ip` words them without what is the same for all."""
    text = machine.vm.ip("-4", "-o", "route", "show", "proto", "170")
    text += machine.vm.ip("-6", "-o", "route", "show", "proto", "170")
    return {re.sub(r" (proto 170|metric 512|pref medium)", "", line).strip() for line in text.splitlines()}


def show(machine: Machine, *words: str) -> str:
    """What `astara-appliance show` prints."""
    return machine.vm.run(
        *(sys.executable, "-m", "astara_appliance", "show", "--boot-file", str(machine.root / "boot.json")),
        *("--state-dir", str(machine.root / "state"), "--runtime-dir", str(machine.root / "run")),
        *words,
    ).stdout


@contextmanager
def no_kernel_event(machine: Machine) -> Iterator[None]:
    """Nothing of addresses, links and routes changes inside the block."""
    monitor = machine.vm.start("ip", "-o", "monitor", "link", "address", "route", stdout=subprocess.PIPE, text=True)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.extend(monitor.stdout))
    reader.start()
    try:
        _mark(machine, heard, "192.0.2.1")
        yield
        _mark(machine, heard, "192.0.2.2")
        assert [line for line in heard if "192.0.2." not in line] == []
    finally:
        monitor.terminate()
        monitor.wait(10)
        reader.join(10)


def _mark(machine: Machine, heard: list[str], address: str) -> None:
    """Have the monitor hear of something: it listens, and has told all that came before."""

    def hears() -> bool:
        machine.vm.ip("address", "replace", f"{address}/32", "dev", "lo")
        machine.vm.ip("address", "delete", f"{address}/32", "dev", "lo")
        return any(address in line for line in list(heard))

    assert eventually(hears)


def connects(machine: Namespace, address: str, seconds: float = 30.0) -> bool:
    """Whether somebody listens on the port of the appliance's API at an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with machine.entered():
        where = socket.getaddrinfo(address, 5000, family, socket.SOCK_STREAM)[0][4]
    with machine.socket(family) as own:
        own.settimeout(seconds)
        try:
            own.connect(where)
        except OSError:
            return False
        return True
