"""The hypervisor as a service on a Unix socket, for those who run in another Python: Nova's driver.

A connection carries one question and its answer, a line of JSON each: `{"verb": "…", …}`, then `{"answer": …}` or
`{"error": "…", "unknown": true when there is no such machine}`. Questions are answered side by side. The service may be
stopped and started at any time: the machines go on.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.wires import WireError

from .errors import HypervisorError, UnknownMachineError
from .hypervisor import Hypervisor
from .machine import Machine, Port
from .userdata import read_files

LOG = logging.getLogger(__name__)
_MOST_BYTES = 4 * 2**20


class Service:
    """Answers for one hypervisor; the words of a question are the arguments of its verbs."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._verbs: Mapping[str, Callable[..., Any]] = {
            "boot": self._boot,
            "attach": self._attach,
            "detach": hypervisor.detach,
            "reboot": hypervisor.reboot,
            "power": hypervisor.power,
            "kill": hypervisor.kill,
            "destroy": hypervisor.destroy,
            "console": hypervisor.console,
            "machine": lambda machine_id: shown(hypervisor.machine(machine_id)),
            "machines": lambda: [shown(machine) for machine in hypervisor.machines()],
            "reach": hypervisor.reach,
            "outside": hypervisor.outside,
        }

    async def listen(self, path: Path) -> asyncio.Server:
        """Answer from now on, in the place of a former service. OSError when the path cannot be listened on."""
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._connected, path, limit=_MOST_BYTES)
        finally:
            os.umask(before)

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question."""
        words = dict(question)
        verb = words.pop("verb", None)
        if verb not in self._verbs:
            return {"error": f"there is no verb {verb!r}"}
        try:
            return {"answer": await asyncio.to_thread(self._verbs[verb], **words)}
        except (HypervisorError, WireError, OSError, ValueError, TypeError) as error:
            LOG.warning("%s: %s: %s", verb, type(error).__name__, error)
            return {"error": str(error), "unknown": isinstance(error, UnknownMachineError)}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = json.loads(await reader.readline())
            writer.write(json.dumps(await self.answer(question)).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError) as error:
            LOG.warning("a question cannot be answered: %s", error)
        finally:
            writer.close()

    def _boot(self, machine_id: str, name: str, ports: list[dict[str, Any]], user_data: str | None) -> None:
        plugs = tuple(Port(**port) for port in ports)
        self._hypervisor.boot(Machine(machine_id, name, read_files(user_data), plugs))

    def _attach(self, machine_id: str, port: dict[str, Any]) -> None:
        self._hypervisor.attach(machine_id, Port(**port))


def shown(machine: Machine) -> dict[str, Any]:
    """What others are told of a machine: nothing secret."""
    return {
        "id": machine.id,
        "name": machine.name,
        "kind": machine.kind,
        "state": machine.state,
        "ports": [port.id for port in machine.ports],
    }
