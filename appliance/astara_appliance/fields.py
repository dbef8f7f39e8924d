"""The scalar types of the appliance's wire models.

Each is a string in JSON and stays a string in Python, in the canonical spelling of its kind (lower case, compressed
IPv6): equal wishes are then equal text, and the whole configuration is compared and kept as bytes. A value that is not
of the kind is refused with a message that says what was expected and never repeats what was sent.

Most values of a push are those of the push before it, so what was found right is remembered, within bounds.
"""

import functools
import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

_remembered = functools.lru_cache(maxsize=32_768)
"""Each kind remembers as many values as the largest configuration has, about 5 MB; a refusal is not remembered."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
_IFNAME = re.compile(r"[a-z][a-z0-9_-]{0,14}")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@_remembered
def _address(value: str) -> str:
    if "%" in value:
        raise ValueError("an IP address without zone is expected")
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("an IPv4 or IPv6 address is expected") from None


@_remembered
def _address_v4(value: str) -> str:
    address = _address(value)
    if version_of(address) != 4:
        raise ValueError("an IPv4 address is expected")
    return address


@_remembered
def _address_v6(value: str) -> str:
    address = _address(value)
    if version_of(address) != 6 or not is_of_host(address):
        raise ValueError("an IPv6 address that a host may have is expected")
    return address


@_remembered
def _interface_address(value: str) -> str:
    host, slash, length = value.partition("/")
    host = _address(host)
    if not slash:
        return host
    if not (length.isascii() and length.isdigit() and len(length) <= 3):
        raise ValueError("a prefix length is expected behind the slash")
    try:
        return str(ipaddress.ip_interface(f"{host}/{int(length)}"))
    except ValueError:
        raise ValueError("the prefix is longer than the address") from None


@_remembered
def _cidr(value: str) -> str:
    address = _interface_address(value)
    if "/" not in address:
        raise ValueError("a network in CIDR form is expected")
    try:
        return str(ipaddress.ip_network(address))
    except ValueError:
        raise ValueError("the network has bits set behind its prefix") from None


@_remembered
def _mac(value: str) -> str:
    value = value.lower()
    if not _MAC.fullmatch(value):
        raise ValueError("a MAC address (six octets in hexadecimal, with colons) is expected")
    if int(value[:2], 16) & 1:
        raise ValueError("a unicast MAC address is expected")
    return value


@_remembered
def _uuid(value: str) -> str:
    value = value.lower()
    if not _UUID.fullmatch(value):
        raise ValueError("a UUID is expected")
    return value


def _ifname(value: str) -> str:
    if not _IFNAME.fullmatch(value):
        raise ValueError("an interface name (lower case, at most 15 characters) is expected")
    return value


@_remembered
def _hostname(value: str) -> str:
    value = value.rstrip(".")
    if value and (len(value) > 253 or not _HOSTNAME.fullmatch(value)):
        raise ValueError("a host name (letters, digits, hyphens and dots, RFC 1123) is expected")
    return value


def _tenant(value: str) -> str:
    if not _TENANT.fullmatch(value):
        raise ValueError("a project id (at most 64 letters, digits, hyphens) is expected")
    return value


Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
"""An IPv4 or IPv6 address."""

AddressV4 = Annotated[str, Field(max_length=64), AfterValidator(_address_v4)]
"""An IPv4 address."""

HostAddressV6 = Annotated[str, Field(max_length=64), AfterValidator(_address_v6)]
"""An IPv6 address that a host may have."""

InterfaceAddress = Annotated[str, Field(max_length=64), AfterValidator(_interface_address)]
"""An address with its prefix length; without one it is a host address (/32, /128)."""

Cidr = Annotated[str, Field(max_length=64), AfterValidator(_cidr)]
"""A network such as 10.0.0.0/24, no bit set behind its prefix."""

Mac = Annotated[str, Field(max_length=17), AfterValidator(_mac)]
"""A unicast MAC address, colons, lower case."""

Uuid = Annotated[str, Field(max_length=36), AfterValidator(_uuid)]
"""A UUID, with hyphens or without."""

InterfaceName = Annotated[str, Field(max_length=15), AfterValidator(_ifname)]
"""A name that Linux accepts for an interface."""

Hostname = Annotated[str, Field(max_length=254), AfterValidator(_hostname)]
"""A host name that can stand in a DNS answer; empty when the port has none."""

Tenant = Annotated[str, AfterValidator(_tenant)]
"""The id of a project; Keystone allows more than UUIDs."""

Text = Annotated[str, Field(max_length=255)]
"""Words that a user typed in Neutron. Any character may be in it: no daemon's file may ever hold it as it stands."""

Mtu = Annotated[int, Field(ge=68, le=65535)]
"""Bytes; 68 is the least that IPv4 (RFC 791) works with."""

Port = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""

AutonomousSystem = Annotated[int, Field(ge=1, le=4294967294)]
"""An AS number (RFC 6793)."""


def is_of_host(address: str) -> bool:
    """Whether one host may have an address: no multicast, loopback, unspecified or reserved one."""
    if ":" in address:
        return address not in ("::", "::1") and not address.startswith("ff")
    first = int(address.partition(".")[0])
    return 0 < first < 224 and first != 127


def version_of(value: str) -> int:
    """4 or 6 for an address or network of the types above."""
    return 6 if ":" in value else 4
