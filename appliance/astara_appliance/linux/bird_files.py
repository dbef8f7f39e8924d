"""What BIRD reads: its files as text, from the states of `services.ra` and `services.bgp`.

The main file never changes during the life of an appliance. It includes one file for the advertisements and one for
BGP. The former also says by which of its link-local addresses a router is known: every internal interface has the
metadata address as well, and so may another router on the same network.
"""

import hashlib
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from ..backend import State
from ..boot import BootData
from ..fields import version_of

SECTIONS = ("ra", "bgp")

METRIC = 5_000
"""Of what BGP teaches, in the kernel: worse than any route that was configured."""

MOST_ROUTES = 50_000
"""From one neighbour; the rest is left out."""

_NEVER = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    6: ("::/8", "fe80::/10", "ff00::/8"),
}


def main_file(boot: BootData) -> str:
    """What is the same whatever runs."""
    seed = hashlib.sha256(f"{boot.resource_id}|{boot.slot}".encode()).digest()
    # Only a number that is unique among neighbours (RFC 6286); zero is none.
    router = IPv4Address(seed[:4] if any(seed[:4]) else seed[4:8])
    return f"""\
log stderr {{ warning, error, fatal, auth, bug }};
router id {router};
graceful restart wait 60;
{"".join(f'include "{section}.conf";{chr(10)}' for section in SECTIONS)}"""


def ra_file(state: State) -> str:
    """One instance a network, so that a change of one sends nothing on another.

    Intervals and lifetimes are those of Neutron's radvd; a router lives three intervals after its last advertisement.
    """
    sources = "".join(
        f'  interface "{ifname}" {{ preferred {ip_address(network["source"])}; }};\n'
        for ifname, network in state.items()
        if network["source"]
    )
    return f"protocol device {{\n{sources}}}\n" + "".join(_radv(ifname, network) for ifname, network in state.items())


def bgp_file(state: State) -> str:
    """Sessions, what is announced, and what the kernel gets of what is learned."""
    if not state:
        return ""
    text = ""
    for version in (4, 6):
        announced = [item for item in state["announce"] if version_of(item["prefix"]) == version]
        routes = "".join(f'  route {ip_network(item["prefix"])} via "{item["ifname"]}";\n' for item in announced)
        refused = [ip_network(cidr) for cidr in state["refused"] if version_of(cidr) == version]
        never = ", ".join(f"{cidr}+" for cidr in (*_NEVER[version], *refused))
        text += f"""\
protocol kernel kernel{version} {{
  metric {METRIC};
  graceful restart;
  ipv{version} {{ import none; export where source = RTS_BGP; }};
}}
protocol static announced{version} {{
  ipv{version};
{routes}}}
filter taught{version} {{
  if net.len = 0 then accept;
  if net ~ [ {never} ] then reject;
  accept;
}}
"""
    for number, neighbor in enumerate(state["neighbors"]):
        text += _session(number, neighbor, state["asn"])
    return text


IDLE = {"ra": ra_file({}), "bgp": bgp_file({})}
"""The text of each section when nothing is wanted of it."""


def _radv(ifname: str, network: Mapping[str, Any]) -> str:
    prefixes = "".join(
        f"    prefix {ip_network(item['prefix'])} {{ autonomous {_switch(item['autonomous'])}; }};\n"
        for item in network["prefixes"]
    )
    servers = "".join(f" ns {ip_address(server)};" for server in network["dns"])
    resolvers = f"    rdnss {{{servers} }};\n" if servers else ""
    return f"""\
protocol radv ra_{ifname} {{
  interface "{ifname}" {{
    min ra interval 30;
    max ra interval 100;
    managed {_switch(network["managed"])};
    other config {_switch(network["other"])};
    link mtu {int(network["mtu"])};
{prefixes}    prefix ::/0 {{ skip; }};
{resolvers}  }};
}}
"""


def _session(number: int, neighbor: Mapping[str, Any], asn: int) -> str:
    address = ip_address(neighbor["address"])
    version = address.version
    place = f'  interface "{neighbor["ifname"]}";\n' if address.is_link_local else ""
    # To its own address only: the port is open to no tenant, then, even were the firewall.
    own = f"  local {ip_address(neighbor['own'])} as {int(asn)};\n  strict bind;\n" if neighbor["own"] else ""
    return f"""\
protocol bgp upstream{number} {{
{own or f"  local as {int(asn)};{chr(10)}"}  neighbor {address} as {int(neighbor["asn"])};
{place}  direct;
  graceful restart;
  connect delay time 1;
  error wait time 60, 600;
  ipv{version} {{
    import filter taught{version};
    import limit {MOST_ROUTES} action block;
    export where proto = "announced{version}";
    next hop self;
  }};
}}
"""


def _switch(value: bool) -> str:
    return "yes" if value else "no"
