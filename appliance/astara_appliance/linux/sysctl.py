"""The kernel's switches of interfaces, /proc/sys/net (ip-sysctl in the kernel's documentation).

CAP_NET_ADMIN is enough to write them. One that is right already is not written.
"""

from collections.abc import Mapping
from pathlib import Path

from ..backend import BackendError

_ROOT = Path("/proc/sys/net")

# No address, route or redirect is taken from the network; questions for an address are answered by the interface that
# has it, and by no other; answers may come another way than questions went (loose, whatever the image's default is).
# Link-local addresses are made of the MAC address: those are what advertisements speak for.
_V4 = {
    "accept_redirects": 0,
    "accept_source_route": 0,
    "arp_announce": 2,
    "arp_ignore": 1,
    "promote_secondaries": 1,
    "rp_filter": 2,
    "send_redirects": 0,
}
_V6 = {
    "accept_dad": 0,
    "accept_ra": 0,
    "accept_redirects": 0,
    "accept_source_route": -1,
    "addr_gen_mode": 0,
    "autoconf": 0,
    "disable_ipv6": 0,
}


def harden(ifname: str, *, has_v6: bool = True) -> None:
    """Set an interface's switches as an appliance's shall be. Raises `BackendError`."""
    _put("ipv4", ifname, _V4)
    if has_v6:
        _put("ipv6", ifname, _V6)


def harden_all() -> None:
    """Set what counts for all interfaces together, and what new ones begin with. Raises `BackendError`."""
    # Redirects that the machine as a whole may send are sent, whatever the interface says.
    _put("ipv4", "all", {"send_redirects": 0, "accept_redirects": 0})
    _put("ipv6", "default", _V6)


def forward_v4(ifname: str, forwards: bool) -> None:
    """Whether IPv4 packets that arrive on an interface are forwarded. Raises `BackendError`."""
    _put("ipv4", ifname, {"forwarding": int(forwards)})


def forward_v6(forwards: bool) -> None:
    """Whether IPv6 packets are forwarded: the kernel decides for the whole machine. Raises `BackendError`."""
    _put("ipv6", "all", {"forwarding": int(forwards)})


def is_host_v6(ifname: str) -> None:
    """Let an interface of a machine that forwards be a host's (RFC 4861's IsRouter flag). Raises `BackendError`."""
    _put("ipv6", ifname, {"forwarding": 0})


def answer_for_others() -> None:
    """Answer neighbours for the IPv6 addresses that an interface has a proxy entry for. Raises `BackendError`.

    The switch of all interfaces, because only with it the questions that come to such an address itself are answered.
    """
    _put("ipv6", "all", {"proxy_ndp": 1})


def answer_at_once(ifname: str) -> None:
    """Do not leave others the time to answer for such an address first: nobody else does. Raises `BackendError`."""
    _write(_ROOT / "ipv6" / "neigh" / ifname / "proxy_delay", 0)


def is_forwarding(ifname: str) -> bool:
    """Whether IPv4 packets that arrive on an interface are forwarded."""
    try:
        return (_ROOT / "ipv4" / "conf" / ifname / "forwarding").read_text().strip() == "1"
    except OSError:
        return False


def is_forwarding_v6() -> bool:
    """Whether IPv6 packets are forwarded."""
    try:
        return (_ROOT / "ipv6" / "conf" / "all" / "forwarding").read_text().strip() == "1"
    except OSError:
        return False


def _put(family: str, scope: str, values: Mapping[str, int]) -> None:
    directory = _ROOT / family / "conf" / scope
    for name, value in values.items():
        _write(directory / name, value)


def _write(path: Path, value: int) -> None:
    try:
        if path.read_text().strip() != str(value):
            path.write_text(f"{value}\n")
    except OSError as error:
        raise BackendError(f"{path} cannot be set to {value}: {error.strerror}") from error
