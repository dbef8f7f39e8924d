"""TLS between worker and appliances: what the worker shows and believes, and what new appliances are given.

Both sides show certificates of one authority. The files are read again when they change, so a certificate is renewed
without a restart; an instance keeps those that it was booted with. An instance that was booted without certificates
(its server's metadata tells) is spoken to in plain HTTP until it is rebuilt: switching TLS on kills nothing.
"""

import ssl

from services.common.certificates import CertificateFiles
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
        self._context: ssl.SSLContext | None = None
        if self.enabled:
            ca = settings.tls_ca
            self._own = CertificateFiles(
                "[appliance] tls_ca, tls_cert or tls_key",
                authorities=ca, certificate=settings.tls_cert, key=settings.tls_key,
            )  # fmt: skip
            self._given = CertificateFiles(
                "[appliance] tls_ca, tls_appliance_cert or tls_appliance_key",
                authorities=ca, certificate=settings.tls_appliance_cert, key=settings.tls_appliance_key,
            )  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """For calls to appliances: shows the worker's certificate, believes only the authority. Only with TLS on."""
        if self._own.look() or self._context is None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._own.load(self._context)
        return self._context

    def boot_files(self) -> list[Json]:
        """Entries for cloud-init's write_files; none when TLS is off."""
        if not self.enabled:
            return []
        self._given.look()
        pem = self._given.pem
        return [
            {"path": f"{FOLDER}/{name}", "permissions": mode, "content": content.decode("utf-8", "replace")}
            for name, content, mode in (
                ("tls.crt", pem.certificate, "0644"),
                ("tls.key", pem.key, "0600"),
                ("ca.crt", pem.authorities, "0644"),
            )
        ]
