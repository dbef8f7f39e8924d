"""Pushes to a real appliance in a namespace: wall time, programs started, packets lost beside them. Root only.

Time is what the orchestrator sees, from the first byte of the push to the last of the answer. Programs are counted as
the kernel tells of them. Beside the last pushes a host behind the appliance pings the outside, through it, a hundred
times a second.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.measure import Figure
from bench.programs import Programs
from lab.appliance_machine import Hosts, Machine, subnet, uuid_of
from lab.wires import Fabric, Namespace

RUNS = 3
EXTERNAL = "ext"


@asynccontextmanager
async def running(networks: int) -> AsyncIterator[tuple[Machine, Hosts]]:
    """An appliance with this many interfaces beside management, external one first."""
    with tempfile.TemporaryDirectory(prefix="astara-bench-") as folder, Fabric() as fabric:
        hosts = Hosts(fabric)
        machine = Machine(fabric, Path(folder))
        try:
            machine.plug(EXTERNAL)
            for number in range(1, networks):
                machine.plug(f"net{number}")
            machine.start()
            await machine.answers()
            await machine.until(lambda status: len(status["interfaces"]) == networks + 1)
            yield machine, hosts
        finally:
            hosts.close()
            await machine.close()


def configuration(machine: Machine, networks: int, floating_ips: int = 0, allocations: int = 0) -> dict[str, Any]:
    """An external network and internal ones; floating IPs and allocations on the first internal network."""
    made = [
        machine.network(
            EXTERNAL, "external", "172.24.0.2/16", "2001:db8:ff::2/64",
            subnets=[
                subnet("ext4", "172.24.0.0/16", "172.24.0.1"),
                subnet("ext6", "2001:db8:ff::/64", "2001:db8:ff::1"),
            ],
        )
    ]  # fmt: skip
    for number in range(1, networks):
        name = f"net{number}"
        hosts = [
            {
                "mac_address": f"fa:10:00:{host >> 16:02x}:{host >> 8 & 255:02x}:{host & 255:02x}",
                "hostname": f"host-{number}-{host}", "device_id": uuid_of(f"{name}-{host}"),
                "ip_addresses": {address(10 + number, host + 10): True},
            }
            for host in range(allocations if number == 1 else 5)
        ]  # fmt: skip
        made.append(
            machine.network(
                name, "internal", f"10.{number}.0.1/16", f"2001:db8:{number}::1/64",
                subnets=[
                    subnet(f"{name}-4", f"10.{number}.0.0/16", f"10.{number}.0.1", dhcp=True),
                    subnet(f"{name}-6", f"2001:db8:{number}::/64", f"2001:db8:{number}::1", dhcp=True,
                           ipv6_address_mode="slaac", ipv6_ra_mode="slaac"),
                ],
                address_allocations=hosts,
            )
        )  # fmt: skip
    return {
        "hostname": "bench", "default_v4_gateway": "172.24.0.1", "default_v6_gateway": "2001:db8:ff::1",
        "networks": made, "floating_ips": [floating_ip(number) for number in range(floating_ips)],
    }  # fmt: skip


def address(second: int, host: int) -> str:
    """Host n of 10.m.0.0/16, where m is `second` - 10."""
    return f"10.{second - 10}.{host >> 8 & 255}.{host & 255}"


def floating_ip(number: int) -> dict[str, str]:
    """Floating IP n; they begin at 172.24.16.0."""
    outer = number + 16 * 256
    return {
        "id": uuid_of(f"fip-{number}"), "network_id": uuid_of(EXTERNAL),
        "floating_ip": f"172.24.{outer >> 8}.{outer & 255}", "fixed_ip": address(11, number % 60_000 + 10),
    }  # fmt: skip


class Traffic:
    """A host behind the appliance that pings the outside a hundred times a second."""

    def __init__(self, host: Namespace, to: str) -> None:
        self._process = host.start("ping", "-n", "-q", "-i", "0.01", to, stdout=-1, stderr=-2)

    def lost(self) -> int:
        """End it; how many packets were lost."""
        self._process.send_signal(2)
        text = self._process.communicate(timeout=10)[0].decode()
        sent, received = (int(text.split(words)[0].split()[-1]) for words in (" packets transmitted", " received"))
        # The last one may still be on its way.
        return max(0, sent - received - 1)


async def push(machine: Machine, wanted: dict[str, Any]) -> tuple[float, int]:
    """Seconds, and programs that were started (on the whole machine: nothing else should run), of one push."""
    body = json.dumps({"configuration": wanted}).encode()
    with Programs() as programs:
        began = time.perf_counter()
        code, answer = await machine.put(body)
        seconds = time.perf_counter() - began
    if code != 200:
        raise RuntimeError(f"{code} {answer}")
    return seconds, programs.count


async def first_and_unchanged(networks: int, floating_ips: int = 0, allocations: int = 5) -> dict[str, list[float]]:
    """Milliseconds and programs of a first push and of an equal one."""
    figures: dict[str, list[float]] = {"first": [], "first_programs": [], "unchanged": [], "unchanged_programs": []}
    for _ in range(RUNS):
        async with running(networks) as (machine, _hosts):
            wanted = configuration(machine, networks, floating_ips, allocations)
            for name in ("first", "unchanged"):
                seconds, made = await push(machine, wanted)
                figures[name].append(seconds * 1000)
                figures[f"{name}_programs"].append(made)
    return figures


async def one_more(many: int) -> tuple[list[float], int]:
    """Milliseconds of one more floating IP beside many, and the packets that other traffic lost meanwhile."""
    values = []
    async with running(3) as (machine, hosts):
        hosts.add("outside", EXTERNAL, "172.24.0.1/16")
        inside = hosts.add("inside", "net1", "10.1.0.5/16", gateway="10.1.0.1")
        await machine.push(configuration(machine, 3, many, 5))
        inside.run("ping", "-c", "1", "-W", "5", "172.24.0.1")
        traffic = Traffic(inside, "172.24.0.1")
        for number in range(1, 6):
            seconds, _ = await push(machine, configuration(machine, 3, many + number, 5))
            values.append(seconds * 1000)
        return values, traffic.lost()


def main() -> None:
    """All figures."""
    for name, line, arguments, aims in (
        ("3_networks", 12, (3, 0, 5), ("<= 300", "<= 30")),
        ("10_networks", 13, (10, 0, 5), ("", "")),
        ("3_networks_500_floating_ips_500_allocations", 14, (3, 500, 500), ("<= 1500", "<= 50")),
    ):
        figures = asyncio.run(first_and_unchanged(*arguments))
        for kind, aim in zip(("first", "unchanged"), aims, strict=True):
            Figure(f"push_{name}_{kind}", "ms", figures[kind], aim, line).write()
            Figure(f"push_{name}_{kind}_programs", "programs", figures[f"{kind}_programs"], "", line).write()
    values, lost = asyncio.run(one_more(5_000))
    Figure("push_one_more_than_5000_floating_ips", "ms", values, "<= 100", 14).write()
    Figure("packets_lost_beside_pushes", "packets", [lost], "0", 14, "100 pings a second beside 5 pushes").write()


if __name__ == "__main__":
    main()
