"""TLS between worker and appliances: what the worker shows and believes, and what new appliances are given.

Both sides show certificates of one authority. The files are read again when they change, so a certificate is renewed
without a restart; an instance keeps those that it was booted with. An instance that was booted without certificates
(its server's metadata tells) is spoken to in plain HTTP until it is rebuilt: switching TLS on kills nothing.
"""

import ssl
from pathlib import Path

from services.common.settings import SettingsError

from .cloud import Json
from .settings import ApplianceSettings

FOLDER = "/etc/astara/tls"
"""Where the appliance looks for tls.crt, tls.key and ca.crt."""

_OPTIONS = ("tls_ca", "tls_cert", "tls_key", "tls_appliance_cert", "tls_appliance_key")


class Certificates:
    """Reads the files of section [appliance]. SettingsError when some are named and others not, or do not fit."""

    def __init__(self, settings: ApplianceSettings) -> None:
        given = [name for name in _OPTIONS if getattr(settings, name)]
        if given and len(given) < len(_OPTIONS):
            missing = ", ".join(name for name in _OPTIONS if name not in given)
            raise SettingsError(f"[appliance] {given[0]} is set, so {missing} must be set too")
        self.enabled = bool(given)
        self.server_name = settings.tls_appliance_name
        self._settings = settings
        self._read_at: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._files: list[Json] = []
        if self.enabled:
            self.context()
            self.boot_files()

    def context(self) -> ssl.SSLContext:
        """For calls to appliances: shows the worker's certificate, believes only the authority."""
        own = self._settings
        try:
            read_at = tuple(Path(path).stat().st_mtime_ns for path in (own.tls_ca, own.tls_cert, own.tls_key))
            if self._context is None or read_at != self._read_at:
                context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=own.tls_ca)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.load_cert_chain(own.tls_cert, own.tls_key)
                self._context, self._read_at = context, read_at
        except (OSError, ssl.SSLError) as error:
            if self._context is None:
                raise SettingsError(f"[appliance] tls_ca, tls_cert or tls_key cannot be used: {error}") from error
            # Halfway through a renewal: the former ones are good for the moment.
        return self._context

    def boot_files(self) -> list[Json]:
        """Entries for cloud-init's write_files; none when TLS is off."""
        if not self.enabled:
            return []
        own = self._settings
        sources = (
            ("tls.crt", own.tls_appliance_cert, "0644"),
            ("tls.key", own.tls_appliance_key, "0600"),
            ("ca.crt", own.tls_ca, "0644"),
        )
        try:
            self._files = [
                {"path": f"{FOLDER}/{name}", "permissions": mode, "content": Path(source).read_text(encoding="ascii")}
                for name, source, mode in sources
            ]
        except (OSError, UnicodeError) as error:
            if not self._files:
                raise SettingsError(f"[appliance] tls_ca, tls_appliance_cert or tls_appliance_key: {error}") from error
        return self._files
