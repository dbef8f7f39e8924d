"""`python -m lab.cloud.addresses CIDR`: makes every address of a network one of this machine's.

Needs NET_ADMIN, and for IPv6 a writable /proc/sys (in a pod: a privileged init container).

Appliances that are agents in the cloud's process listen on management addresses. On loopback they all are there; where
others shall reach them, in a pod, the network becomes local first, by a program that may do that, and the machines
around route it here.
"""

import argparse
import ipaddress
from pathlib import Path

from pyroute2 import IPRoute

_NONLOCAL_BIND = Path("/proc/sys/net/ipv6/ip_nonlocal_bind")
"""A local route lets IPv4 sockets have the addresses; IPv6 ones must have them on an interface, unless this says 1."""

_LOCAL = 255
"""rtnetlink.h: RT_TABLE_LOCAL."""


def make_local(cidr: str) -> None:
    """Listen on any address of `cidr` from now on. Again is no error; NetlinkError or OSError without the right to."""
    network = ipaddress.ip_network(cidr)
    if network.version == 6:
        _NONLOCAL_BIND.write_text("1", encoding="ascii")
    with IPRoute() as kernel:
        (loopback,) = kernel.link_lookup(ifname="lo")
        kernel.route("replace", dst=str(network), oif=loopback, table=_LOCAL, type="local", scope="host")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.cloud.addresses", description="Makes networks local to this machine."
    )
    parser.add_argument("cidr", nargs="+", help="a network, such as 10.64.0.0/16 or fdca:3ba5:a17a:acda::/64")
    for cidr in parser.parse_args().cidr:
        make_local(cidr)


if __name__ == "__main__":
    main()
