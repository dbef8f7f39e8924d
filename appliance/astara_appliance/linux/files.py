"""Small text files that daemons read: whole or not at all."""

from pathlib import Path

from ..backend import BackendError


def read(path: Path) -> str:
    """A file's text; empty when there is none. Raises `BackendError`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror}") from error


def write(path: Path, text: str) -> None:
    """Put a text in a file's place at once: nobody ever reads half of it. Raises `BackendError`."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BackendError(f"{path} cannot be written: {error.strerror}") from error
