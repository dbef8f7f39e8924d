"""A ping that runs for as long as something else takes, and counts what is lost."""

import re
import subprocess
import threading
import time
from typing import Self

from lab.wires import Namespace

_SEQUENCE = re.compile(r"icmp_seq=(\d+)(?P<answer>.* time=)?")


class Ping:
    """`with Ping(namespace, address) as ping`: it runs as long as the block; its numbers can be read all along."""

    def __init__(self, namespace: Namespace, address: str, interval: float = 0.1) -> None:
        """`interval` is that of the pings, in seconds."""
        self._namespace = namespace
        self.command = ("ping", "-n", "-O", "-i", f"{interval:g}", address)
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._answered: set[int] = set()
        self._highest = 0
        self._last_answer = 0.0

    @property
    def sent(self) -> int:
        """How many were sent and are decided."""
        return self._highest

    @property
    def lost(self) -> int:
        """How many of them got no answer."""
        return self._highest - len(self._answered)

    @property
    def last_answer(self) -> float:
        """When the last answer came, on the monotonic clock."""
        return self._last_answer

    def __enter__(self) -> Self:
        self._process = self._namespace.start(
            *self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None  # noqa: S101 - entered
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101 - made with a pipe
        for line in self._process.stdout:
            if found := _SEQUENCE.search(line):
                number = int(found[1])
                # Without an answer ping says so when it sends the next one.
                self._highest = max(self._highest, number)
                if found["answer"]:
                    self._answered.add(number)
                    self._last_answer = time.monotonic()
        self._process.stdout.close()
