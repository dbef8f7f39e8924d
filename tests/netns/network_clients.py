"""What instances do on their networks: ask for addresses, names and metadata, and listen to routers."""

import asyncio
import ipaddress
import itertools
import os
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lab.wires import Namespace

_numbers = itertools.count(1)

_DHCLIENT = """\
option classless-routes code 121 = array of unsigned integer 8;
option microsoft-routes code 249 = array of unsigned integer 8;
also request classless-routes, microsoft-routes, interface-mtu, tftp-server-name, bootfile-name;
also request dhcp6.domain-search;
timeout {seconds};
initial-interval 1;
"""

_SCRIPT = """\
#!/bin/sh
case "$reason" in
  BOUND|BOUND6|REBOOT|RENEW|RENEW6|REBIND|REBIND6) env > "$OUT.new"; mv "$OUT.new" "$OUT";;
esac
"""


class Instance:
    """A host with ISC's DHCP client; `folder` keeps the client's memory, as a disk would."""

    def __init__(self, host: Namespace, folder: Path) -> None:
        self.host = host
        self._folder = folder / f"client-{next(_numbers)}"
        self._folder.mkdir(parents=True)
        script = self._folder / "script"
        script.write_text(_SCRIPT)
        script.chmod(0o755)

    async def lease(
        self, version: int = 4, *, stateless: bool = False, duid: str = "", seconds: int = 15
    ) -> dict[str, str]:
        """What the server gives: the client's variables without their `new_`. Empty when it gives nothing in time."""
        out = self._folder / "out"
        out.unlink(missing_ok=True)
        pid = self._folder / "pid"
        (self._folder / "conf").write_text(_DHCLIENT.format(seconds=seconds))
        leases = self._folder / f"leases{version}"
        if duid:
            octets = "".join(f"\\{int(octet, 16):03o}" for octet in duid.split(":"))
            leases.write_text(f'default-duid "{octets}";\n')
        arguments = ["-S"] if stateless else []
        client = self.host.start(
            *("dhclient", f"-{version}", "-1", "-d", *arguments, "-sf", str(self._folder / "script")),
            *("-cf", str(self._folder / "conf"), "-lf", str(leases), "-pf", str(pid), "-e", f"OUT={out}", "eth0"),
            stdout=(self._folder / "log").open("ab"), stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not out.exists() and client.poll() is None:  # noqa: ASYNC110 - the client sets no event
                        await asyncio.sleep(0.02)
        finally:
            # Killed, not ended: it must not give its lease back.
            with suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()
        if not out.exists():
            return {}
        pairs = (line.partition("=") for line in out.read_text().splitlines())
        return {name.removeprefix("new_"): value for name, _, value in pairs if name.startswith("new_")}

    def log(self) -> str:
        """What the client has said."""
        return (self._folder / "log").read_text(errors="replace")


def programs(host: Namespace, name: str) -> dict[int, list[str]]:
    """The processes of a machine that run a program, with their command lines."""
    found = {}
    for pid in host.pids():
        # It may have ended since.
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if words[0] == name:
                found[pid] = words
    return found


def routes_of(option: str) -> dict[str, str]:
    """Destinations and next hops of a classless static route option (RFC 3442) as dhclient prints it."""
    octets = [int(word) for word in option.split()]
    routes = {}
    while octets:
        length = octets.pop(0)
        size = (length + 7) // 8
        destination, octets = octets[:size] + [0] * (4 - size), octets[size:]
        gateway, octets = octets[:4], octets[4:]
        routes[f"{'.'.join(map(str, destination))}/{length}"] = ".".join(map(str, gateway))
    return routes


# Names

_TYPES = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28}


async def resolve(host: Namespace, server: str, name: str, kind: str = "A", *, dns_class: int = 1) -> list[str] | None:
    """What a name server answers; None when it says that it knows no such name, or refuses."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", _TYPES[kind], dns_class)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with host.socket(family, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            await loop.sock_connect(made, (server, 53))
            await loop.sock_sendall(made, query)
            answer = await loop.sock_recv(made, 4096)
    _, flags, _, count, _, _ = struct.unpack_from("!6H", answer)
    if flags & 0xF:
        return None
    at = 12 + len(question) + 4
    found = []
    for _ in range(count):
        at = _skip_name(answer, at)
        kind_of, _, _, size = struct.unpack_from("!HHIH", answer, at)
        data = answer[at + 10 : at + 10 + size]
        if kind_of in (1, 28):
            found.append(str(ipaddress.ip_address(data)))
        elif kind_of == 12:
            found.append(_name_at(answer, at + 10))
        else:
            found.append(data[1:].decode())
        at += 10 + size
    return sorted(found)


def _skip_name(packet: bytes, at: int) -> int:
    while (size := packet[at]) and size < 0xC0:
        at += 1 + size
    return at + (2 if size >= 0xC0 else 1)


def _name_at(packet: bytes, at: int) -> str:
    labels = []
    while size := packet[at]:
        if size >= 0xC0:
            at = struct.unpack_from("!H", packet, at)[0] & 0x3FFF
            continue
        labels.append(packet[at + 1 : at + 1 + size].decode())
        at += 1 + size
    return ".".join(labels)


# Router advertisements


@dataclass
class Advertisement:
    """One router advertisement, as it came over the wire (RFC 4861, RFC 8106)."""

    source: str
    managed: bool
    other: bool
    lifetime: int
    mtu: int | None = None
    prefixes: dict[str, bool] = field(default_factory=dict)
    """Whether hosts make addresses of a prefix by themselves."""
    resolvers: list[str] = field(default_factory=list)


class Listener:
    """Hears the advertisements that reach a host."""

    def __init__(self, host: Namespace) -> None:
        self._socket = host.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        with host.entered():
            self._link = socket.if_nametoindex("eth0")
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def ask(self) -> None:
        """Solicit advertisements, as a host does that comes up."""
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        await asyncio.get_running_loop().sock_sendto(
            self._socket, struct.pack("!BBHI", 133, 0, 0, 0), ("ff02::2", 0, 0, self._link)
        )

    async def next(self, seconds: float = 60.0) -> Advertisement:
        """The next one."""
        async with asyncio.timeout(seconds):
            while True:
                packet, where = await asyncio.get_running_loop().sock_recvfrom(self._socket, 2048)
                if packet[0] == 134:
                    return _parse(packet, where[0].partition("%")[0])


def _parse(packet: bytes, source: str) -> Advertisement:
    flags, lifetime = packet[5], struct.unpack_from("!H", packet, 6)[0]
    found = Advertisement(source, bool(flags & 0x80), bool(flags & 0x40), lifetime)
    at = 16
    while at < len(packet):
        kind, size = packet[at], packet[at + 1] * 8
        body = packet[at : at + size]
        if kind == 3:
            found.prefixes[f"{ipaddress.ip_address(body[16:32])}/{body[2]}"] = bool(body[3] & 0x40)
        elif kind == 5:
            found.mtu = struct.unpack_from("!I", body, 4)[0]
        elif kind == 25:
            found.resolvers += [str(ipaddress.ip_address(body[i : i + 16])) for i in range(8, size, 16)]
        at += size
    return found


# HTTP


@dataclass
class Answer:
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: str


async def http(
    host: Namespace, address: str, path: str = "/", *, port: int = 80, method: str = "GET",
    headers: Iterable[tuple[str, str]] = (), body: bytes = b"", source: str = "", seconds: float = 30.0,
) -> Answer:  # fmt: skip
    """One request, byte for byte as asked. OSError when nobody answers."""
    async with asyncio.timeout(seconds):
        reader, writer = await connect(host, address, port, source)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"Host: {address}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join((*lines, "", "")).encode() + body)
            return await read_answer(reader)
        finally:
            writer.close()


async def connect(
    host: Namespace, address: str, port: int, source: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection from a host; a link-local address is one of eth0's."""
    is_v6 = ":" in address
    made = host.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
    try:
        made.setblocking(False)
        with host.entered():
            link = socket.if_nametoindex("eth0") if address.startswith("fe80") else 0
        if source:
            made.bind((source, 0, 0, link) if is_v6 else (source, 0))
        await asyncio.get_running_loop().sock_connect(made, (address, port, 0, link) if is_v6 else (address, port))
        return await asyncio.open_connection(sock=made)
    except BaseException:
        made.close()
        raise


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The answer that comes next; its body ends with the connection or has a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    length = headers.get("content-length")
    body = await (reader.readexactly(int(length)) if length is not None else reader.read())
    return Answer(int(status.split()[1]), headers, body.decode(errors="replace"))
