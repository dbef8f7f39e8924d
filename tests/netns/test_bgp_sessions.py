"""BGP with an upstream router: another BIRD, whose kernel and packets say what was learned."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from network_clients import programs

from lab.appliance_machine import Hosts, Machine, eventually, pings, subnet
from lab.wires import Namespace

pytest_plugins = ("standing_appliance",)

OURS = 64512
ROUTER4, ROUTER6 = "203.0.113.2", "2001:db8:ff::2"
UPSTREAM4, UPSTREAM6 = "203.0.113.1", "2001:db8:ff::1"


class Upstream:
    """A router of the provider's, with a BIRD of its own. `taught` are the prefixes that it announces."""

    def __init__(self, host: Namespace, folder: Path) -> None:
        self.host = host
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, asn: int, neighbor: str, own: str, *taught: str, peer: int = OURS) -> None:
        """Speak BGP with `neighbor`, the appliance."""
        version = 6 if ":" in neighbor else 4
        routes = "".join(f"route {prefix} unreachable;" for prefix in taught)
        place = 'interface "eth0";' if own.startswith("fe80") else ""
        configuration = self._folder / "upstream.conf"
        configuration.write_text(f"""
            router id 203.0.113.1;
            protocol device {{ }}
            protocol kernel {{ ipv{version} {{ import none; export where source = RTS_BGP; }}; }}
            protocol static taught {{ ipv{version}; {routes} }}
            protocol bgp appliance {{
              local {own} as {asn}; neighbor {neighbor} as {peer}; {place} direct; graceful restart;
              passive; error wait time 1, 2;
              ipv{version} {{ import all; export where proto = "taught"; next hop self; }};
            }}
        """)
        self._process = self.host.start(
            "bird", "-f", "-c", str(configuration), "-s", str(self._control), stderr=subprocess.DEVNULL
        )

    @property
    def _control(self) -> Path:
        return self._folder / "control"

    def session(self) -> tuple[str, str]:
        """The state of the session, and since when."""
        done = self.host.run("birdc", "-s", str(self._control), "show", "protocols", "appliance", check=False)
        lines = [line.split() for line in done.stdout.splitlines() if line.startswith("appliance")]
        return (lines[0][5], lines[0][4]) if lines and len(lines[0]) > 5 else ("", "")

    def is_up(self) -> bool:
        return self.session()[0] == "Established"

    def routes(self, version: int) -> set[str]:
        """What the appliance has taught the kernel here."""
        return {route["dst"] for route in bird_routes(self.host, version)}

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def bird_routes(host: Namespace, version: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.ip(f"-{version}", "-j", "route", "show", "proto", "bird") or "[]")
    return found


def becomes(machine: Machine, true: Callable[[], bool], seconds: float = 90.0) -> bool:
    """Whether something becomes true in time.

    The appliance's BIRD is woken again and again: what its timers set in motion it goes on with when something else
    wakes it, else after up to three seconds.
    """

    def woken() -> bool:
        machine.vm.run("birdc", "-s", str(machine.root / "run" / "bird" / "control"), "show", "status", check=False)
        return true()

    return eventually(woken, seconds)


def bird(machine: Machine) -> int | None:
    """The process id of the appliance's BIRD."""
    return next(iter(programs(machine.vm, "bird")), None)


def wanted(machine: Machine, neighbor: int | None = OURS, **more: Any) -> dict[str, Any]:
    """Blue as the external network and red as an internal one, both with both versions."""
    external = machine.network("blue", "external", f"{ROUTER4}/24", f"{ROUTER6}/64")
    internal = machine.network(
        "red", "internal", "10.1.0.1/24", "2001:db8:1::1/64",
        subnets=[
            subnet("red4", "10.1.0.0/24", "10.1.0.1"),
            subnet("red6", "2001:db8:1::/64", "2001:db8:1::1"),
        ],
    )  # fmt: skip
    external["interface"]["ifname"], internal["interface"]["ifname"] = "ge2", "ge1"
    return {
        "asn": OURS if neighbor else None, "neighbor_asn": neighbor, "default_v6_gateway": UPSTREAM6,
        "networks": [external, internal],
    } | more  # fmt: skip


@pytest.fixture
def upstream(machine: Machine, neighbours: Hosts, tmp_path: Path) -> Iterator[Upstream]:
    host = neighbours.add("upstream", "blue", f"{UPSTREAM4}/24", f"{UPSTREAM6}/64", "fe80::1/64")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    made = Upstream(host, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def inside(machine: Machine, neighbours: Hosts) -> Namespace:
    host = neighbours.add("inside", "red", "10.1.0.5/24", "2001:db8:1::5/64", gateway="10.1.0.1")
    host.ip("-6", "route", "add", "default", "via", "2001:db8:1::1")
    return host


@pytest.mark.parametrize("neighbor", [OURS, 64999])
async def test_the_upstream_learns_the_internal_ipv6_networks_and_packets_find_them(
    machine, upstream, inside, neighbor
):
    await machine.push(wanted(machine, neighbor))
    upstream.start(neighbor, ROUTER6, UPSTREAM6)
    assert becomes(machine, lambda: upstream.routes(6) == {"2001:db8:1::/64"})
    assert pings(upstream.host, "2001:db8:1::5", count=5)
    assert pings(inside, UPSTREAM6, count=5)


async def test_a_network_that_comes_or_goes_is_announced_or_withdrawn_in_the_same_session(machine, upstream):
    await machine.push(wanted(machine))
    upstream.start(OURS, ROUTER6, UPSTREAM6)
    assert becomes(machine, lambda: upstream.routes(6) == {"2001:db8:1::/64"})
    session = upstream.session()
    changed = wanted(machine)
    changed["networks"][1]["subnets"].pop()
    await machine.push(changed)
    assert becomes(machine, lambda: upstream.routes(6) == set())
    await machine.push(wanted(machine))
    assert becomes(machine, lambda: upstream.routes(6) == {"2001:db8:1::/64"})
    assert upstream.session() == session


async def test_a_prefix_that_is_still_to_be_delegated_is_not_announced(machine, upstream):
    changed = wanted(machine)
    changed["networks"][1]["subnets"].append(subnet("later", "::/64", None))
    await machine.push(changed)
    upstream.start(OURS, ROUTER6, UPSTREAM6)
    assert becomes(machine, lambda: upstream.routes(6) == {"2001:db8:1::/64"})


async def test_a_link_local_gateway_is_a_neighbour_too(machine, upstream):
    await machine.push(wanted(machine, default_v6_gateway="fe80::1"))
    own = f"fe80::f800:ff:fe00:{list(machine.macs).index('blue') + 1:x}"
    upstream.start(OURS, own, "fe80::1")
    assert becomes(machine, lambda: upstream.routes(6) == {"2001:db8:1::/64"})


async def test_ipv4_networks_are_announced_only_where_nothing_is_translated(machine, upstream, inside):
    await machine.push(wanted(machine, default_v4_gateway=UPSTREAM4, default_v6_gateway=None))
    upstream.start(OURS, ROUTER4, UPSTREAM4)
    assert becomes(machine, upstream.is_up)
    assert upstream.routes(4) == set()
    await machine.push(wanted(machine, default_v4_gateway=UPSTREAM4, default_v6_gateway=None, enable_snat=False))
    assert becomes(machine, lambda: upstream.routes(4) == {"10.1.0.0/24"})
    assert pings(upstream.host, "10.1.0.5", count=5)


async def test_what_is_taught_is_a_backup_and_never_our_own(machine, upstream, inside):
    await machine.push(wanted(machine))
    taught = ("::/0", "2001:db8:aaaa::/48", "2001:db8:1::/64", "2001:db8:1::5/128", "fdca:3ba5:a17a:acda::/64",
              "fdca:3ba5:a17a:acda::1/128", "2001:db8:ff::/64", "fe80::/64", "ff00::/8")  # fmt: skip
    upstream.start(OURS, ROUTER6, UPSTREAM6, *taught)
    assert becomes(machine, lambda: len(bird_routes(machine.vm, 6)) >= 2)
    learned = {(route["dst"], route["metric"]) for route in bird_routes(machine.vm, 6)}
    assert learned == {("default", 5000), ("2001:db8:aaaa::/48", 5000)}
    defaults = json.loads(machine.vm.ip("-6", "-j", "route", "show", "default"))
    assert min(defaults, key=lambda route: route["metric"])["protocol"] != "bird"
    assert pings(machine.vm, "2001:db8:1::5", count=5)


async def test_the_session_survives_the_agents_restart(machine, upstream):
    await machine.push(wanted(machine))
    upstream.start(OURS, ROUTER6, UPSTREAM6, "2001:db8:aaaa::/48")
    assert becomes(machine, lambda: upstream.routes(6) != set() and bird_routes(machine.vm, 6) != [])
    session, process = upstream.session(), bird(machine)
    for number in (signal.SIGTERM, signal.SIGKILL):
        await machine.restart(number)
        assert await machine.push(wanted(machine)) == []
    assert upstream.session() == session
    assert bird(machine) == process


async def test_packets_and_routes_stay_while_bird_dies_and_comes_back(machine, upstream, inside):
    await machine.push(wanted(machine))
    upstream.start(OURS, ROUTER6, UPSTREAM6, "2001:db8:aaaa::/48")
    assert becomes(machine, lambda: upstream.routes(6) != set() and bird_routes(machine.vm, 6) != [])
    session, process = upstream.session(), bird(machine)
    running = upstream.host.start("ping", "-n", "-q", "-i", "0.05", "2001:db8:1::5", stdout=subprocess.PIPE)
    watching = [
        host.start("ip", "-6", "monitor", "route", stdout=subprocess.PIPE) for host in (machine.vm, upstream.host)
    ]
    os.kill(process, signal.SIGKILL)
    assert eventually(lambda: bird(machine) not in (None, process))
    assert becomes(machine, lambda: upstream.is_up() and upstream.session() != session)
    # What is taught now shows that the recovery is over.
    changed = wanted(machine)
    changed["networks"][1]["subnets"].append(subnet("more", "2001:db8:2::/64", "2001:db8:2::1"))
    changed["networks"][1]["interface"]["addresses"].append("2001:db8:2::1/64")
    await machine.push(changed)
    assert eventually(lambda: "2001:db8:2::/64" in upstream.routes(6))
    running.send_signal(signal.SIGINT)
    told = running.communicate()[0].decode()
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", told).groups())
    assert received == sent > 10, told
    for process in watching:
        process.send_signal(signal.SIGTERM)
        assert "Deleted 2001:db8:" not in process.communicate()[0].decode()
    assert {route["dst"] for route in bird_routes(machine.vm, 6)} == {"2001:db8:aaaa::/48"}


async def test_without_numbers_nothing_is_announced_or_kept_any_more(machine, upstream):
    await machine.push(wanted(machine))
    upstream.start(OURS, ROUTER6, UPSTREAM6, "2001:db8:aaaa::/48")
    assert becomes(machine, lambda: upstream.routes(6) != set() and bird_routes(machine.vm, 6) != [])
    await machine.push(wanted(machine, None))
    assert becomes(machine, lambda: upstream.routes(6) == set())
    assert bird_routes(machine.vm, 6) == []
    assert bird(machine) is None


async def test_a_gateway_that_speaks_no_bgp_leaves_no_line_in_the_log(machine, upstream, inside, said):
    await machine.push(wanted(machine, default_v4_gateway=UPSTREAM4))
    assert pings(inside, UPSTREAM4, count=3)
    # It refuses the connection, which takes a moment to be tried.
    with upstream.host.socket(10) as listener:
        listener.bind((UPSTREAM6, 179))
        listener.listen()
        listener.settimeout(30)
        listener.accept()[0].close()
    assert eventually(lambda: bird(machine) is not None)
    assert "bird" not in said().lower()


async def test_nobody_inside_reaches_the_bgp_port(machine, inside):
    await machine.push(wanted(machine))
    for address in ("10.1.0.1", "2001:db8:1::1", ROUTER6):
        done = inside.run("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{address}/179", check=False)
        assert done.returncode != 0
