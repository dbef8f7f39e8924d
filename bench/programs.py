"""How many programs this machine started, from the kernel's process events connector (linux/cn_proc.h). Root only."""

import os
import socket
import struct
from typing import Self

_NETLINK_CONNECTOR, _PROC, _LISTEN, _EXEC = 11, 1, 1, 2
_CONNECTOR = struct.Struct("=IIIIHH")  # idx, val, seq, ack, len, flags
_HEADER = struct.Struct("=IHHII")  # length, type, flags, seq, pid
_EVENT_AT = _HEADER.size + _CONNECTOR.size


class Programs:
    """Counts the programs that are executed, on the whole machine, while the block runs."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, _PROC))
        body = _CONNECTOR.pack(_PROC, 1, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), 3, 0, 0, os.getpid()) + body)
        self._socket.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        with self._socket:
            while True:
                try:
                    message = self._socket.recv(4096)
                except BlockingIOError:
                    return
                self.count += int.from_bytes(message[_EVENT_AT : _EVENT_AT + 4], "little") == _EXEC
