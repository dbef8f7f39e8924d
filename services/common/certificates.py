"""Certificates in files that are replaced while the process runs, as cert-manager and kubelets do.

True at all times: what is in use was read as one set, and the set fits: every part can be read, the key is the
certificate's. A broken or half-written set is not taken; the former one stays in use, and when the files are still so
at the next look, an error names them, once. It does not matter how files are replaced: in place, by renaming, or by a
directory that is swapped beneath symbolic links.
"""

import contextlib
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.common import logging
from services.common.settings import SettingsError

_log = logging.get(__name__)

_Marks = tuple[tuple[int, int, int], ...]


class Pem(NamedTuple):
    """What the files of a set hold; empty where none is named."""

    authorities: bytes
    certificate: bytes
    key: bytes


class CertificateFiles:
    """One set of files. Threads may share it."""

    def __init__(self, options: str, *, authorities: str = "", certificate: str = "", key: str = "") -> None:
        """`options` names the settings in errors. Raises SettingsError when the files cannot be used."""
        self._options = options
        self._paths = (authorities, certificate, key)
        self._lock = threading.Lock()
        self._doubt = ""
        self._told = False
        try:
            self._marks = self._look()
            self._pem = self._read()
        except _UnusableError as error:
            raise SettingsError(f"{options} cannot be used: {error}") from error

    @property
    def pem(self) -> Pem:
        """The set in use."""
        return self._pem

    def look(self) -> bool:
        """Look at the files again; True when another set is in use now."""
        with self._lock:
            try:
                marks = self._look()
                if marks == self._marks:
                    return False
                pem = self._read()
            except _UnusableError as error:
                self._refuse(str(error))
                return False
            changed = pem != self._pem
            self._marks, self._pem, self._doubt = marks, pem, ""
        if changed:
            _log.info("certificates were renewed", options=self._options)
        return changed

    def load(self, context: ssl.SSLContext) -> None:
        """Give a context the set in use."""
        _load(context, self._pem, self._paths)

    def _refuse(self, why: str) -> None:
        # Between two writes nothing fits. What is still so at the next look is a mistake.
        if why != self._doubt:
            self._doubt, self._told = why, False
        elif not self._told:
            self._told = True
            _log.error("new certificates cannot be used, the former ones stay", options=self._options, reason=why)

    def _look(self) -> _Marks:
        """Marks that change with the files. They are taken before the files are read: never newer than what was."""
        try:
            found = [Path(path).stat() for path in self._paths if path]
        except OSError as error:
            raise _UnusableError(f"{error.filename}: {error.strerror}") from error
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in found)

    def _read(self) -> Pem:
        try:
            pem = Pem(*(Path(path).read_bytes() if path else b"" for path in self._paths))
        except OSError as error:
            raise _UnusableError(f"{error.filename}: {error.strerror}") from error
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem, self._paths)
        return pem


class _UnusableError(Exception):
    """Why the files cannot be used, with their names."""


def _load(context: ssl.SSLContext, pem: Pem, paths: tuple[str, str, str]) -> None:
    """Raises _UnusableError."""
    authorities, certificate, key = paths
    if bool(certificate) != bool(key):
        raise _UnusableError(f"{certificate or key}: certificate and key belong together")
    try:
        if certificate:
            with _as_file(pem.certificate) as one, _as_file(pem.key) as other:
                # An empty password: nobody is there to be asked for that of an encrypted key.
                context.load_cert_chain(one, other, password="")
    except (OSError, ValueError) as error:
        raise _UnusableError(f"{certificate} and {key}: {_words(error)}") from error
    try:
        if authorities:
            with _as_file(pem.authorities) as one:
                context.load_verify_locations(one)
    except OSError as error:
        raise _UnusableError(f"{authorities}: {_words(error)}") from error


def _words(error: Exception) -> str:
    return (isinstance(error, ssl.SSLError) and error.reason) or str(error)


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path that leads to `content`: ssl reads pairs from files only, and this one is never on a disk."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
