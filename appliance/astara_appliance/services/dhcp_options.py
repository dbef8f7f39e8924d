"""Which of Neutron's extra DHCP options can be given, and by which number (RFC 2132, RFC 8415).

Neutron takes any text for name and value, from any user. An option is given when its name is known, or is a number, and
its value holds no character that means something in dnsmasq's files; any other is left out, so that one port's nonsense
keeps no router from its configuration.
"""

import re
from collections.abc import Iterable

from ..models import DhcpOption

_NUMBERS = {
    4: {
        "netmask": 1, "time-offset": 2, "router": 3, "dns-server": 6, "log-server": 7, "lpr-server": 9,
        "boot-file-size": 13, "domain-name": 15, "swap-server": 16, "root-path": 17, "extension-path": 18,
        "ip-forward-enable": 19, "non-local-source-routing": 20, "policy-filter": 21, "max-datagram-reassembly": 22,
        "default-ttl": 23, "mtu": 26, "all-subnets-local": 27, "router-discovery": 31, "router-solicitation": 32,
        "static-route": 33, "trailer-encapsulation": 34, "arp-timeout": 35, "ethernet-encap": 36, "tcp-ttl": 37,
        "tcp-keepalive": 38, "nis-domain": 40, "nis-server": 41, "ntp-server": 42, "netbios-ns": 44, "netbios-dd": 45,
        "netbios-nodetype": 46, "netbios-scope": 47, "x-windows-fs": 48, "x-windows-dm": 49, "vendor-class": 60,
        "nis+-domain": 64, "nis+-server": 65, "tftp-server": 66, "tftp-server-name": 66, "bootfile-name": 67,
        "mobile-ip-home": 68, "smtp-server": 69, "pop3-server": 70, "nntp-server": 71, "irc-server": 74,
        "user-class": 77, "posix-timezone": 100, "tzdb-timezone": 101, "domain-search": 119, "sip-server": 120,
        "classless-static-route": 121, "vendor-id-encap": 125, "tftp-server-address": 150, "server-ip-address": 255,
    },
    6: {
        "sip-server-domain": 21, "sip-server": 22, "dns-server": 23, "domain-search": 24, "nis-server": 27,
        "nis+-server": 28, "nis-domain": 29, "nis+-domain": 30, "sntp-server": 31, "information-refresh-time": 32,
        "posix-timezone": 41, "tzdb-timezone": 42, "ntp-server": 56, "bootfile-url": 59, "bootfile-param": 60,
    },
}  # fmt: skip

# Of the conversation itself: addresses, lease times, message types, identifiers (RFC 2132, section 9).
_PROTOCOLS_OWN = {4: frozenset((0, *range(50, 60), 61, 81, 82, 255)), 6: frozenset((*range(21), 25, 26, 39))}

_NUMBER = re.compile(r"[0-9]{1,3}")
_VALUE = re.compile(r"[!$-\[\]-~]([ !$-\[\]-~]*[!$-\[\]-~])?")
"""Printable ASCII without quotes, backslash and number sign."""


def usable(options: Iterable[DhcpOption]) -> list[list[int | str]]:
    """IP version, number and value of each option that can be given; the first of a number counts."""
    found: dict[tuple[int, int], str] = {}
    for option in options:
        number = _number_of(option)
        if number is not None and _VALUE.fullmatch(option.opt_value):
            found.setdefault((option.ip_version, number), option.opt_value)
    return [[version, number, value] for (version, number), value in found.items()]


def _number_of(option: DhcpOption) -> int | None:
    if not _NUMBER.fullmatch(option.opt_name):
        return _NUMBERS[option.ip_version].get(option.opt_name)
    number = int(option.opt_name)
    return number if number < 255 and number not in _PROTOCOLS_OWN[option.ip_version] else None
