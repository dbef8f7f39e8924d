"""`make demo`: packets of a tenant through its router, each step as it happens, with the output of the commands.

A tenant's host is booted through (simulated) Nova. It gets its address and metadata from the appliance, reaches the
Internet through it, is reached on a floating IP, has IPv6; then the appliance is killed and replaced while pings count
what is lost. Everything stays there to be looked at; running it again begins with another host.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lab import watch
from lab.hypervisor.hypervisor import Hypervisor
from lab.hypervisor.outside import INTERNET
from lab.layout import TENANTS, Layout, Plan
from lab.ping import Ping
from lab.settings import connect
from lab.tenants import EXTERNAL_NETWORK, NAME, TenantRouter

HOST = "web"
SIX = "2001:db8:1::/64"
STEP_SECONDS = 60.0
REPLACED_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_PINGS_BEFORE = 10


class DemoError(Exception):
    """Something that was to be shown did not happen; the text says what."""


@dataclass
class _Stage:
    """Where it is shown, and with what."""

    console: Console
    plan: Plan
    cloud: Any
    hypervisor: Hypervisor
    router: TenantRouter
    server_id: str = ""

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold cyan]{text}[/]")

    def say(self, text: str) -> None:
        mark = "[green]✓[/]" if self.console.is_terminal else "ok:"
        self.console.print(f"  {mark} {text}", highlight=False, soft_wrap=True)

    def show(self, where: str, command: str, output: str) -> None:
        self.console.print(f"  [dim]{where} $[/] {command}", highlight=False, soft_wrap=True)
        for line in output.rstrip().splitlines():
            self.console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)

    def until(self, what: str, true: Callable[[], Any], seconds: float = STEP_SECONDS) -> Any:
        """What is true, as soon as it is. DemoError when it does not become so."""
        deadline = time.monotonic() + seconds
        with self.console.status(f"waiting: {what} …") if self.console.is_terminal else contextlib.nullcontext():
            while not (found := true()):
                if time.monotonic() > deadline:
                    raise DemoError(f"{what}: not within {seconds:g} s")
                time.sleep(_LOOK_SECONDS)
        return found

    def resource(self) -> dict[str, Any]:
        """What the operator API says of the router."""
        return watch.resources(self.plan.api_url).get(self.router.router_id, {})

    def on_host(self, *argv: str) -> str:
        """What a command in the tenant's host prints; empty when it fails."""
        done = self.hypervisor.run(self.server_id, *argv)
        return done.stdout if done.returncode == 0 else ""

    def on_internet(self, *argv: str) -> str:
        """What a command on the Internet prints; empty when it fails."""
        done = self.hypervisor.internet().run(*argv, check=False)
        return done.stdout if done.returncode == 0 else ""


def run(layout: Layout, console: Console, routers: list[TenantRouter]) -> None:
    """Show everything, on the first tenant's router. DemoError at the first step that fails."""
    tenant = TENANTS[0]
    router = next(router for router in routers if router.tenant == tenant)
    with connect(layout, tenant) as cloud:
        stage = _Stage(console, layout.read_plan(), cloud, Hypervisor(layout.hypervisor), router)
        _ipv6_subnet(stage)
        _boot(stage)
        _metadata(stage)
        _outside(stage)
        address = _floating_ip(stage)
        _ipv6(stage)
        _replaced(stage, address)
    console.print(
        f"\n[bold green]All of it happened.[/] Look around: "
        f"{sys.executable} -m lab.hypervisor --root {layout.hypervisor} list (or console, exec, kill, reboot)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _ipv6_subnet(stage: _Stage) -> None:
    api = stage.cloud.network
    network = api.find_network(NAME, ignore_missing=False)
    if any(subnet.ip_version == 6 for subnet in api.subnets(network_id=network.id)):
        return
    stage.title("The tenant gives its network IPv6")
    subnet = api.create_subnet(
        network_id=network.id, name="six", ip_version=6, cidr=SIX, ipv6_ra_mode="slaac", ipv6_address_mode="slaac"
    )
    api.add_interface_to_router(stage.router.router_id, subnet_id=subnet.id)
    modes = "--ipv6-ra-mode slaac --ipv6-address-mode slaac"
    stage.show(
        stage.router.tenant,
        f"openstack subnet create six --network {NAME} --ip-version 6 --subnet-range {SIX} {modes}",
        "",
    )
    stage.show(stage.router.tenant, f"openstack router add subnet {stage.router.name} six", "")


def _boot(stage: _Stage) -> None:
    stage.title("The tenant boots a host; it gets its address by DHCP and its metadata")
    compute, api = stage.cloud.compute, stage.cloud.network
    for former in list(compute.servers(name=f"^{HOST}$")):
        compute.delete_server(former)
        compute.wait_for_delete(former, interval=0.2, wait=60)
    began = time.monotonic()
    server = compute.create_server(
        name=HOST, image_id=stage.cloud.image.find_image("tiny").id, flavor_id=compute.find_flavor("tiny").id,
        networks=[{"uuid": api.find_network(NAME).id}],
    )  # fmt: skip
    stage.show(stage.router.tenant, f"openstack server create {HOST} --image tiny --flavor tiny --network {NAME}", "")
    compute.wait_for_server(server, interval=0.2, wait=60)
    stage.server_id = server.id
    console = stage.until(
        "the host has fetched its metadata", lambda: _with(stage.hypervisor.console(server.id), "metadata from")
    )
    stage.show(stage.router.tenant, f"openstack console log show {HOST}", console)
    if server.id not in console:
        raise DemoError("the metadata is somebody else's")
    stage.say(f"after {time.monotonic() - began:.1f} s")


def _metadata(stage: _Stage) -> None:
    url = "http://169.254.169.254/latest/meta-data/instance-id"
    stage.show(HOST, f"curl {url}", stage.on_host("curl", "-s", url))
    stage.show(HOST, "ip route", stage.on_host("ip", "route"))


def _outside(stage: _Stage) -> None:
    stage.title("The host reaches the Internet through its router, which translates its address")
    own = _gateway_addresses(stage)
    url = f"http://{INTERNET[0]}/"
    answer = stage.until("the Internet answers", lambda: stage.on_host("curl", "-s", "--max-time", "2", url))
    stage.show(HOST, f"curl {url}", answer)
    if json.loads(answer)["you"] not in own:
        raise DemoError(f"the Internet does not see the router's address, {', '.join(own)}")
    stage.say(f"the Internet sees the router's address, {json.loads(answer)['you']}")


def _floating_ip(stage: _Stage) -> str:
    stage.title("The host gets a floating IP; the Internet reaches it there")
    api = stage.cloud.network
    external = api.find_network(EXTERNAL_NETWORK, ignore_missing=False)
    port = next(api.ports(device_id=stage.server_id))
    free = next((ip for ip in api.ips() if not ip.port_id), None)
    floating = api.update_ip(free, port_id=port.id) if free else api.create_ip(
        floating_network_id=external.id, port_id=port.id
    )  # fmt: skip
    address = str(floating.floating_ip_address)
    stage.show(stage.router.tenant, f"openstack floating ip create {EXTERNAL_NETWORK} --port {port.id}", address)
    answer = stage.until("it answers", lambda: stage.on_internet("curl", "-s", "--max-time", "2", f"http://{address}/"))
    stage.show("internet", f"curl http://{address}/", answer)
    if not json.loads(answer)["name"].startswith(HOST):
        raise DemoError("somebody else answers")
    url = f"http://{INTERNET[0]}/"
    answer = stage.until("it is seen", lambda: _with(stage.on_host("curl", "-s", "--max-time", "2", url), address))
    stage.show(HOST, f"curl {url}", answer)
    stage.say(f"both ways: the Internet now sees {address}")
    return address


def _ipv6(stage: _Stage) -> None:
    stage.title("The host has IPv6 by router advertisement")
    prefix = SIX.removesuffix("/64").removesuffix(":")
    command = ("ip", "-6", "-brief", "address", "show", "scope", "global")
    addresses = stage.until("it has an address", lambda: _with(stage.on_host(*command), prefix))
    stage.show(HOST, " ".join(command), addresses)
    routes = stage.until("it has a router", lambda: _with(stage.on_host("ip", "-6", "route"), "default"))
    stage.show(HOST, "ip -6 route", routes)
    network = stage.cloud.network.find_network(NAME)
    gateway = next(one.gateway_ip for one in stage.cloud.network.subnets(network_id=network.id) if one.ip_version == 6)
    answer = stage.until("its router answers", lambda: stage.on_host("ping", "-c", "3", "-i", "0.2", "-n", gateway))
    stage.show(HOST, f"ping -c 3 {gateway}", answer)
    url = f"http://[{INTERNET[1]}]/"
    answer = stage.until("the Internet answers", lambda: stage.on_host("curl", "-sg", "--max-time", "2", url))
    stage.show(HOST, f"curl -g {url}", answer)
    stage.say("the Internet learnt the tenant's network by BGP, and sees the host's own address")


def _replaced(stage: _Stage, address: str) -> None:
    stage.title("The appliance is killed, and replaced; the Internet pings the host all the while")
    before = _instance(stage)
    with Ping(stage.hypervisor.internet(), address) as ping:
        stage.until("pings are answered", lambda: ping.sent > _PINGS_BEFORE and not ping.lost)
        stage.show("internet", " ".join(ping.command), "")
        stage.show("lab", f"{sys.executable} -m lab.hypervisor --root {stage.hypervisor.root} kill {before}", "")
        began = time.monotonic()
        stage.hypervisor.kill(before)
        _watch(stage, before, ping, began)
        seconds = time.monotonic() - began
    stage.say(f"instance {before} was replaced by {_instance(stage)}")
    stage.say(f"packets flow again {seconds:.1f} s after its death; {ping.lost} of {ping.sent} pings were lost")
    answer = stage.until("it answers", lambda: stage.on_internet("curl", "-s", "--max-time", "2", f"http://{address}/"))
    stage.show("internet", f"curl http://{address}/", answer)


def _watch(stage: _Stage, before: str, ping: Ping, began: float) -> None:
    """Show how the router fares until another instance answers pings."""
    plain, shown = not stage.console.is_terminal, ""
    with contextlib.nullcontext() if plain else Live(console=stage.console, refresh_per_second=8) as live:
        replaced: float | None = None
        while replaced is None or ping.last_answer < replaced:
            known = stage.resource()
            if replaced is None and known.get("state") == "configured" and _instance(stage) != before:
                replaced = time.monotonic()
            if time.monotonic() - began > REPLACED_SECONDS:
                raise DemoError(f"the router is not replaced within {REPLACED_SECONDS:g} s")
            state = known.get("state", "unknown")
            line = f"    {time.monotonic() - began:5.1f} s  router {state}, {ping.lost} pings lost"
            if live is not None:
                live.update(Text(line))
            elif state != shown:
                stage.console.print(line, highlight=False)
            shown = state
            time.sleep(_LOOK_SECONDS)


def _instance(stage: _Stage) -> str:
    """The server that is the router's instance now; empty while there is none."""
    instances = stage.resource().get("instances") or [{"server_id": ""}]
    return str(instances[0]["server_id"])


def _gateway_addresses(stage: _Stage) -> list[str]:
    router = stage.cloud.network.get_router(stage.router.router_id)
    return [one["ip_address"] for one in router.external_gateway_info["external_fixed_ips"]]


def _with(text: str, part: str) -> str:
    """The text, if the part is in it."""
    return text if part in text else ""
