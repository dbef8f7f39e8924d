"""What an appliance remembers over a restart of its agent: configuration, digest, epoch, interface names.

They are one file, replaced as a whole (written beside it, flushed to the disk, renamed), so a reader sees the former
state or the new one, never a mixture, wherever the power fails.
"""

import asyncio
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .epoch import Epoch, parse_epoch

_FORMAT = 1
_log = logging.getLogger(__name__)


class StoreError(Exception):
    """What was kept cannot be understood; the message says where it lies."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The facts. `configuration` is JSON text; None before the first accepted push."""

    configuration: bytes | None = None
    digest: str | None = None
    epoch: Epoch | None = None
    interfaces: dict[str, str] = field(default_factory=dict)


class Store(Protocol):
    """Where the facts are kept."""

    def load(self) -> Remembered:
        """The facts of the last `save`; empty ones before the first."""

    async def save(self, remembered: Remembered) -> None:
        """Keep these facts; raises OSError when that cannot be done, and then the former ones stay."""


def read_facts(directory: Path) -> Remembered:
    """What a `FileStore` of this directory holds; empty facts before its first `save`. Raises `StoreError`, OSError."""
    path = directory / "state.json"
    try:
        return _decode(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Remembered()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be understood: {error!r}") from error


class MemoryStore:
    """Keeps the facts as long as the process lives."""

    __slots__ = ("_remembered",)

    def __init__(self) -> None:
        self._remembered = Remembered()

    def load(self) -> Remembered:
        """The facts of the last `save`."""
        return self._remembered

    async def save(self, remembered: Remembered) -> None:
        """Keep these facts."""
        self._remembered = remembered


class FileStore:
    """Keeps the facts in `<directory>/state.json`, readable by its owner only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "state.json"

    def load(self) -> Remembered:
        """The facts in the file.

        A file that cannot be understood is put aside as state.json.broken and nothing is remembered: the digest is then
        unknown, and the orchestrator pushes again.
        """
        try:
            return read_facts(self._directory)
        except StoreError:
            _log.exception("starting without what was kept")
            self._path.replace(self._path.with_suffix(".json.broken"))
            return Remembered()

    async def save(self, remembered: Remembered) -> None:
        """Replace the file; the flush to the disk waits in a thread."""
        await asyncio.to_thread(self._write, _encode(remembered))

    def _write(self, content: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_suffix(".json.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        beside.replace(self._path)
        # The rename itself is safe only when the directory has reached the disk.
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(remembered: Remembered) -> bytes:
    facts = {
        "format": _FORMAT,
        "digest": remembered.digest,
        "epoch": None if remembered.epoch is None else str(remembered.epoch),
        "interfaces": remembered.interfaces,
    }
    # The configuration is JSON already, and may be long.
    return b'%s,"configuration":%s}' % (json.dumps(facts).encode()[:-1], remembered.configuration or b"null")


def _decode(document: dict[str, Any]) -> Remembered:
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']} is not known")
    configuration, epoch = document["configuration"], document["epoch"]
    return Remembered(
        configuration=None if configuration is None else json.dumps(configuration).encode(),
        digest=document["digest"],
        epoch=None if epoch is None else parse_epoch(epoch),
        interfaces=dict(document["interfaces"]),
    )
