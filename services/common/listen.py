"""Listening TCP sockets for services that speak HTTP on several addresses of both IP versions."""

import errno
import ipaddress
import socket
from collections.abc import Sequence

from services.common import logging
from services.common.settings import SettingsError

BACKLOG = 512

log = logging.get(__name__)


class AddressTakenError(Exception):
    """Somebody else has the address at the moment: another server, or a connection that the kernel gave this port.

    No fault of the settings: it may pass within seconds, so whoever started this process starts it again.
    """


def bind(group: str, addresses: Sequence[str], port: int) -> list[socket.socket]:
    """A listening socket for each address, given by number. SettingsError, or AddressTakenError when the port is in
    use, names `group` and the address in question.

    `::1` is left out, and this said, on a machine without IPv6: it is in the default list.
    """
    bound: list[socket.socket] = []
    for address in addresses:
        try:
            bound.append(_listen(address, port))
        except OSError as error:
            missing = address == "::1" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
            if missing and len(addresses) > 1:
                log.warning("this machine has no IPv6 loopback; not listening there", address=address)
                continue
            is_ours = any(_overlap(address, other.getsockname()[0]) for other in bound)
            for other in bound:
                other.close()
            fault = AddressTakenError if error.errno == errno.EADDRINUSE and not is_ours else SettingsError
            raise fault(f"[{group}] listen: {address} port {port}: {error.strerror or error}") from error
    return bound


def _overlap(one: str, another: str) -> bool:
    """Whether nobody can listen on both."""
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(another)
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def _listen(address: str, port: int) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(name)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
