"""The agent's TLS: a certificate of its own, and callers who show one of the same authority.

The files `tls.crt`, `tls.key` and `ca.crt` are there all or none; none means plain HTTP. They are read again when they
change. New ones that cannot be used, or files that go away, leave the former ones in use: an API that spoke TLS never
falls back to plain HTTP.
"""

import logging
import ssl
from pathlib import Path

_NAMES = ("tls.crt", "tls.key", "ca.crt")
_log = logging.getLogger(__name__)

_Marks = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """The files cannot be used; the message says which and why."""


class Certificates:
    """The certificates in one directory."""

    def __init__(self, directory: Path) -> None:
        """Raises `CertificateError` when some of the files are there and cannot be used together."""
        self._paths = [directory / name for name in _NAMES]
        self._marks = self._look()
        self.context: ssl.SSLContext | None = None if self._marks is None else self._read()
        """What to serve with; None for plain HTTP."""

    def changed(self) -> bool:
        """Look at the files again; True when `context` is another one now."""
        try:
            marks = self._look()
            if marks is None or marks == self._marks:
                return False
            self.context = self._read()
        except CertificateError as error:
            _log.error("the certificates in use stay: %s", error)
            return False
        self._marks = marks
        return True

    def _look(self) -> _Marks | None:
        try:
            there = [path for path in self._paths if path.exists()]
            if not there:
                return None
            if missing := [str(path) for path in self._paths if path not in there]:
                raise CertificateError(f"{', '.join(missing)}: missing beside {there[0].name}")
            found = [path.stat() for path in self._paths]
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from error
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in found)

    def _read(self) -> ssl.SSLContext:
        certificate, key, authority = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"{certificate.parent}: {error.strerror or error}") from error
        return context
