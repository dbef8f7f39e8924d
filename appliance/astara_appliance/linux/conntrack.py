"""Dropping the tracked connections whose translation the firewall's state does not give any more.

The kernel keeps to the translation that a connection began with, so without this an address that was taken away would
go on working for who uses it. A connection is dropped when the state would translate it otherwise now, and an
untranslated one between the outside and a subnet that is reached by its own addresses no more; all others go on
untouched.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from . import netfilter
from .netfilter import Attributes, attribute, parse
from .ruleset import Ruleset

_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE, _DESTINATION = 1, 2
_PROTOCOL_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_DESTINATION = 1 << 1
_EXPECTED, _SOURCE_TRANSLATED, _DESTINATION_TRANSLATED = 1 << 0, 1 << 4, 1 << 5

_PROTOCOLS = {6: "tcp", 17: "udp"}
_METADATA = "169.254.169.254"

# How an end begins: its addresses, of which the source is first.
_ADDRESSES = struct.pack("=HHHH", 20, _TUPLE_IP | 0x8000, 8, _SOURCE)
_DESTINATION_AT = slice(16, 20)

_FEW = 16
"""So many addresses are asked for one by one; with more, the kernel is asked for all connections once."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A translated IPv4 connection: what its first packet said, and what is answered to. Ports are 0 without any."""

    protocol: int
    source: str
    destination: str
    destination_port: int
    answer_source: str
    answer_source_port: int
    answer_destination: str
    is_source_translated: bool
    is_destination_translated: bool
    is_expected: bool = False  # a helper saw it coming: it has the addresses of the connection that it belongs to


class Translation:
    """How a ruleset translates."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._maps, state = ruleset.elements, ruleset.state
        internal, masks = set(state.get("internal", ())), state.get("masks", ())
        self.masks = {item["address"] for item in masks if item["out"] not in internal}
        """The addresses behind which what leaves on the external side hides."""
        self._forwarding = {key.partition(" ")[0] for key in self._maps["forwardings"]}
        self._inside_masks = {item["address"] for item in masks if item["out"] in internal}

    def gives(self, connection: Connection) -> bool:
        """Whether the ruleset may have made this connection what it is."""
        if connection.is_destination_translated and not self._leads(connection):
            return False
        return not connection.is_source_translated or self._hides(connection)

    def _leads(self, connection: Connection) -> bool:
        if connection.destination == _METADATA or (connection.is_expected and connection.destination in self.masks):
            return True
        protocol = _PROTOCOLS.get(connection.protocol, "")
        port = f"{connection.destination} . {protocol} . {connection.destination_port}"
        to = self._maps["forwardings"].get(port)
        if to is not None:
            return to == f"{connection.answer_source} . {connection.answer_source_port}"
        if connection.is_expected and connection.destination in self._forwarding:
            return True
        return self._maps["floating_in"].get(connection.destination) == connection.answer_source

    def _hides(self, connection: Connection) -> bool:
        behind = connection.answer_destination
        masks = self._inside_masks if connection.is_destination_translated else self.masks
        return behind in masks or self._maps["floating_out"].get(connection.source) == behind


def drop_stale(former: Ruleset | None, now: Ruleset) -> int:
    """Drop what `former` has translated and `now` would not, or, where that is not known, whatever is stale.

    Answers with how many connections that were. Raises `BackendError`. Blocks while the kernel looks through its table.
    """
    dropped = 0 if former is None else _drop_untranslated(former, now)
    addresses = None if former is None else taken_away(former, now)
    if addresses is not None and not addresses:
        return dropped
    translation = Translation(now)
    for attributes in _candidates(addresses, translation.masks):
        connection = _connection(attributes)
        if connection is not None and not translation.gives(connection):
            netfilter.delete_connection(_name(attributes))
            dropped += 1
    return dropped


def _drop_untranslated(former: Ruleset, now: Ruleset) -> int:
    """Drop what passes untranslated between the outside and a subnet that `former` routed and `now` does not."""
    if not former.without(now)["routed"]:
        return 0
    inside, still = ([IPv4Network(cidr) for cidr in one.elements["routed"]] for one in (former, now))
    stale = []
    for attributes in netfilter.connections(b""):
        if not int.from_bytes(attributes[_STATUS], "big") & (_SOURCE_TRANSLATED | _DESTINATION_TRANSLATED):
            asked = parse(parse(attributes[_ORIGINAL])[_TUPLE_IP])
            ends = [IPv4Address(asked[_SOURCE]), IPv4Address(asked[_DESTINATION])]
            own = [end for end in ends if any(end in cidr for cidr in inside)]
            # Between two internal networks nothing has changed.
            if len(own) == 1 and not any(own[0] in cidr for cidr in still):
                stale.append(attributes)
    for attributes in stale:
        netfilter.delete_connection(_name(attributes))
    return len(stale)


def taken_away(former: Ruleset, now: Ruleset) -> set[str]:
    """The outside addresses of which `former` made something that `now` does not."""
    gone = former.without(now)
    called = {key.partition(" ")[0] for name in ("floating_in", "forwardings") for key, _ in gone[name]}
    return called | {address for name in ("floating_out", "masks") for _, address in gone[name]}


def _candidates(addresses: set[str] | None, masks: set[str]) -> Iterator[Attributes]:
    """Connections, each once, among which are all that concern these addresses (None: any that may be stale).

    Each listing is read to its end before any connection is dropped: the kernel goes through its table meanwhile.
    """
    if addresses is None:
        # Most connections of a busy router are of this kind and right; they are not looked at any closer.
        right = {IPv4Address(address).packed for address in masks}
        yield from [
            one for one in netfilter.connections(b"") if not _is_plain(one) or _destination(one[_REPLY]) not in right
        ]
        return
    if len(addresses) > _FEW:
        wanted = {IPv4Address(address).packed for address in addresses}
        ends = (_ORIGINAL, _REPLY)
        yield from [one for one in netfilter.connections(b"") if wanted & {_destination(one[end]) for end in ends}]
        return
    seen: set[bytes] = set()
    for filtered in _filters(sorted(addresses)):
        for attributes in list(netfilter.connections(filtered)):
            if attributes[_ID] not in seen:
                seen.add(attributes[_ID])
                yield attributes


def _is_plain(attributes: Attributes) -> bool:
    """Whether nothing but the source is translated."""
    return not int.from_bytes(attributes[_STATUS], "big") & _DESTINATION_TRANSLATED


def _destination(end: bytes) -> bytes:
    """The destination address of one end, which the kernel writes at its very place, behind the source's."""
    return end[_DESTINATION_AT] if end.startswith(_ADDRESSES) else parse(parse(end)[_TUPLE_IP])[_DESTINATION]


def _filters(addresses: Iterable[str]) -> Iterator[bytes]:
    """Who calls the address, and who hides behind it: answers go to it then."""
    for address in addresses:
        ip = attribute(_DESTINATION, IPv4Address(address).packed)
        of = attribute(_TUPLE_IP, ip, nested=True)
        for which, flags in ((_ORIGINAL, _FILTER_ORIGINAL), (_REPLY, _FILTER_REPLY)):
            mask = attribute(flags, struct.pack("=I", _BY_DESTINATION))
            yield attribute(which, of, nested=True) + attribute(_FILTER, mask, nested=True)


def _connection(attributes: Attributes) -> Connection | None:
    """The connection if it is translated."""
    status = int.from_bytes(attributes[_STATUS], "big")
    if not status & (_SOURCE_TRANSLATED | _DESTINATION_TRANSLATED):
        return None
    original, reply = parse(attributes[_ORIGINAL]), parse(attributes[_REPLY])
    asked, answered = parse(original[_TUPLE_IP]), parse(reply[_TUPLE_IP])
    protocol, answering = parse(original[_TUPLE_PROTOCOL]), parse(reply[_TUPLE_PROTOCOL])
    return Connection(
        protocol[_PROTOCOL_NUMBER][0],
        _address(asked[_SOURCE]),
        _address(asked[_DESTINATION]),
        int.from_bytes(protocol.get(_DESTINATION_PORT, b""), "big"),
        _address(answered[_SOURCE]),
        int.from_bytes(answering.get(_SOURCE_PORT, b""), "big"),
        _address(answered[_DESTINATION]),
        bool(status & _SOURCE_TRANSLATED),
        bool(status & _DESTINATION_TRANSLATED),
        bool(status & _EXPECTED),
    )


def _name(attributes: Attributes) -> bytes:
    """What names this very connection, not one that has taken its place."""
    named = attribute(_ORIGINAL, attributes[_ORIGINAL], nested=True) + attribute(_ID, attributes[_ID])
    return named + (attribute(_ZONE, attributes[_ZONE]) if _ZONE in attributes else b"")


def _address(packed: bytes) -> str:
    return str(IPv4Address(packed))
