"""Questions to the lab's hypervisor, `python -m lab.hypervisor serve`: a line of JSON each way on a Unix socket."""

import json
import socket
from typing import Any

SECONDS = 60.0
"""For one question; a machine boots in less than one."""


class RefusedError(Exception):
    """The hypervisor says no, or does not answer; the text has its words."""


class UnknownMachineError(RefusedError):
    """The hypervisor has no such machine."""


class Client:
    """Asks the hypervisor that listens at `path`. Calls block; threads may share it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, verb: str, **words: Any) -> Any:
        """The answer to a question. RefusedError, UnknownMachineError."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(SECONDS)
                connection.connect(self._path)
                connection.sendall(json.dumps({"verb": verb, **words}).encode() + b"\n")
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise RefusedError(f"{self._path}: {error}") from error
        if "error" in answer:
            raise (UnknownMachineError if answer.get("unknown") else RefusedError)(answer["error"])
        return answer["answer"]
