"""What dnsmasq reads and writes for one network: its files as text, from the states of `services.dhcp`.

dnsmasq reads the main file when it starts, and hosts, names and options again at each SIGHUP. Whatever is put into a
line is one word of harmless characters, whoever chose it; anything else is refused here, though the models know better.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from ..backend import BackendError
from ..fields import version_of

LEASE_SECONDS = {4: 86_400, 6: 900}
"""How long a lease lasts, by IP version.

A day is Neutron's default. DHCPv6 knows hosts by an identifier that a rebuilt instance makes anew (RFC 8415, section
11), and dnsmasq gives an address to another identifier only when the lease has ended, whatever the MAC address: so long
may an instance have to wait after it was rebuilt.
"""

MOST_LEASES = 65_535

_WORD = re.compile(r"[A-Za-z0-9._:/-]+")
# Whatever stands in a line as it is: no quotes, no escapes, no comments.
_VALUE = re.compile(r"[ !$-\[\]-~]+")


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of one network are. `hosts` and `leases` survive a reboot."""

    main: Path
    options: Path
    names: Path
    hosts: Path
    leases: Path
    pid: Path


def main_file(files: Files, ifname: str, link: int, network: Mapping[str, Any]) -> str:
    """What dnsmasq reads when it starts; `link` is the interface's index, to which it binds its sockets for DHCP."""
    lines = [
        f"# link {link}",
        "keep-in-foreground",
        "log-facility=-",
        "quiet-dhcp",
        "quiet-dhcp6",
        # It runs as whoever started it; started by root, it would change to "nobody", who cannot read these files.
        "user=root",
        f"pid-file={files.pid}",
        f"interface={_word(ifname)}",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "no-ident",
        "domain-needed",
        "bogus-priv",
        f"addn-hosts={files.names}",
        f"domain={_word(network['domain'])}",
        f"local=/{_word(network['domain'])}/",
        *(f"server={_word(server)}" for server in network["upstream"]),
        *(f"bogus-nxdomain={_word(cidr)}" for cidr in network["hidden"]),
        "dhcp-authoritative",
        # A host without DHCPv6 addresses is one of another network to DHCPv6; of a stateless subnet it gets options.
        "dhcp-ignore=tag:!known,tag:!known-othernet",
        # A host's name is the one that Neutron gave it, and stands in the names file.
        "dhcp-ignore-names",
        "dhcp-fqdn",
        f"dhcp-lease-max={MOST_LEASES}",
        f"dhcp-leasefile={files.leases}",
        f"dhcp-hostsfile={files.hosts}",
        f"dhcp-optsfile={files.options}",
        # Forced: many clients do not ask for it, and use 1500 then.
        f"dhcp-option-force=option:mtu,{int(network['mtu'])}",
        *(_range(number, subnet["cidr"]) for number, subnet in enumerate(network["subnets"])),
    ]
    return _text(lines)


def options_file(network: Mapping[str, Any]) -> str:
    """The options of the subnets, then those of single hosts, which go before.

    One without a value is not sent, though dnsmasq would by itself.
    """
    lines: list[str] = []
    for number, subnet in enumerate(network["subnets"]):
        tag = f"tag:subnet{number}"
        if version_of(subnet["cidr"]) == 6:
            lines += [
                _option(tag, "option6:dns-server", (f"[{_word(server)}]" for server in subnet["dns"])),
                _option(tag, "option6:domain-search", [_word(network["domain"])]),
            ]
            continue
        routes = [_word(word) for route in subnet["routes"] for word in route]
        lines += [
            _option(tag, "option:router", map(_word, [subnet["gateway"]] if subnet["gateway"] else [])),
            _option(tag, "option:dns-server", map(_word, subnet["dns"])),
        ]
        if routes:
            # 249 is what Windows asked for before RFC 3442.
            lines += [_option(tag, "option:classless-static-route", routes), _option(tag, "249", routes)]
    for host in network["hosts"]:
        for version, number, value in host.get("options", ()):
            lines.append(_option(f"tag:{_tag(host)}", _number(version, number), [_value(value)]))
    return _text(lines)


def hosts_file(network: Mapping[str, Any]) -> str:
    """Who gets an answer, and which addresses. One line a host, and one more for each further IPv4 address."""
    return _text(line for host in network["hosts"] for line in _host(host, network["domain"]))


def names_file(network: Mapping[str, Any]) -> str:
    """The hosts' names, fully qualified.

    dnsmasq would serve what a bare name stands for to the host of that name, were DHCP to give the address or not.
    """
    domain = _word(network["domain"])
    return _text(
        f"{_word(address)} {_word(host['hostname'])}.{domain}"
        for host in network["hosts"]
        if host["hostname"]
        for address in host["names"]
    )


def owners(network: Mapping[str, Any]) -> dict[str, str]:
    """The MAC address of each address that DHCP gives."""
    return {address: host["mac_address"] for host in network["hosts"] for address in host["addresses"]}


def owners_in(hosts: str) -> dict[str, str]:
    """The same, from a hosts file."""
    found = {}
    for line in hosts.splitlines():
        mac, *words = line.split(",")
        found.update({word: mac for word in (word.strip("[]") for word in words) if _is_address(word)})
    return found


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def without_leases_of_others(leases: str, owned: Mapping[str, str]) -> str:
    """The lease file without the leases of addresses that now belong to another host; the same text when there is none.

    `owned` has the addresses whose owner is new. A DHCPv6 lease does not tell its host's MAC address, so it is dropped,
    and its host, should it be the same, gets the address again when it asks.
    """
    lines = leases.splitlines()
    kept = []
    is_v6 = False
    for line in lines:
        fields = line.split()
        is_v6 = is_v6 or fields[:1] == ["duid"]
        if len(fields) < 3 or fields[2] not in owned or (not is_v6 and fields[1] == owned[fields[2]]):
            kept.append(line)
    return leases if len(kept) == len(lines) else _text(kept)


def _range(number: int, cidr: str) -> str:
    network = ip_network(cidr)
    size = network.prefixlen if network.version == 6 else network.netmask
    lease = LEASE_SECONDS[network.version]
    return f"dhcp-range=set:subnet{number},{network.network_address},static,{size},{lease}"


def _option(tag: str, name: str, values: Iterable[str]) -> str:
    return ",".join((tag, name, *values))


def _host(host: Mapping[str, Any], domain: str) -> Iterator[str]:
    # With "id:*" a host is known by its MAC address whatever it calls itself, as when its firmware asks first.
    begin = [_word(host["mac_address"]), "id:*", *([f"set:{_tag(host)}"] if host.get("options") else [])]
    # A bare name may mean something else here: "ignore", "infinite", "2m".
    end = [f"{_word(host['hostname'])}.{_word(domain)}"] if host["hostname"] else []
    v4 = [_word(address) for address in host["addresses"] if version_of(address) == 4]
    v6 = [f"[{_word(address)}]" for address in host["addresses"] if version_of(address) == 6]
    yield ",".join((*begin, *v4[:1], *v6, *end))
    for address in v4[1:]:
        yield ",".join((*begin, address, *end))


def _number(version: int, number: int) -> str:
    if version == 6:
        return f"option6:{int(number)}"
    # The end of all options to others; dnsmasq keeps by this number a field of the message's head.
    return "option:server-ip-address" if number == 255 else str(int(number))


def _tag(host: Mapping[str, Any]) -> str:
    return f"host{_word(host['mac_address']).replace(':', '')}"


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise BackendError(f"{value[:64]!a} cannot stand in a file of dnsmasq")
    return value


def _value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise BackendError(f"{value[:64]!a} cannot be an option's value in a file of dnsmasq")
    return value


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
