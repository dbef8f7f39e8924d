"""Small text files that daemons read: whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..backend import BackendError

_BLOCK = 4096


def read(path: Path) -> str:
    """A file's text; empty when there is none. Raises `BackendError`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror}") from error


def write(texts: Mapping[Path, str]) -> None:
    """Put each text in its file's place at once, making folders: nobody ever reads half of one.

    All lie beside the old ones before the first is put in place, so a full disk changes nothing. Raises `BackendError`.
    """
    beside = {path: path.with_name(f"{path.name}.new") for path in texts}
    for path, text in texts.items():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside[path].write_text(text, encoding="utf-8")
        except OSError as error:
            for file in beside.values():
                file.unlink(missing_ok=True)
            raise BackendError(f"{path} cannot be written: {error.strerror}") from error
    for path, file in beside.items():
        try:
            file.replace(path)
        except OSError as error:
            raise BackendError(f"{path} cannot be written: {error.strerror}") from error


def changed(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Those of the texts that their files do not have yet. Raises `BackendError`."""
    return {path: text for path, text in texts.items() if not path.exists() or read(path) != text}


def find_room(folder: Path, contents: Iterable[bytes]) -> None:
    """Raise `BackendError` when the disk of `folder`, which is made, has no room for files with these contents.

    The room is given back at once; what is written later may still fail.
    """
    size = sum(-(-len(content) // _BLOCK) * _BLOCK for content in contents)
    if not size:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It has no name, and so nothing to leave behind.
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise BackendError(f"{folder} has no room for {size} bytes more: {error.strerror}") from error
