"""TCP ports for servers that are told theirs before they listen, or that listen again on the one they had.

The kernel gives such a port to nobody else meanwhile: it lies below those for connections and for `bind` to port 0.
Nor do two processes that ask side by side get the same one.
"""

import fcntl
import itertools
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# Beside those that the lab has (lab/layout.py).
_RANGE = range(20100, 25000)
_guard = threading.Lock()


def free_port() -> int:
    """A port on which nobody listens, and that no other process of this user gets here before this one ends. OSError:
    there is none.
    """
    with _guard:
        for port in itertools.islice(_candidates, len(_RANGE)):
            if _is_ours(port) and _is_free(port):
                return port
    raise OSError(f"no port between {_RANGE[0]} and {_RANGE[-1]} is free")


def _walk() -> Iterator[int]:
    first = random.randrange(len(_RANGE))
    return itertools.cycle([*_RANGE[first:], *_RANGE[:first]])


def _open_locks() -> int:
    # One byte for each port, locked until this process ends.
    path = Path(tempfile.gettempdir()) / f"astara-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_ours(port: int) -> bool:
    try:
        fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


_candidates = _walk()
_locks = _open_locks()
