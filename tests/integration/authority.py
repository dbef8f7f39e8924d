"""A certificate authority of the tests."""

import datetime as dt
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key


def openssl(*words: str) -> None:
    subprocess.run(["/usr/bin/openssl", *words], check=True, capture_output=True)


class Authority:
    """Signs certificates for the name localhost, its address, and for what else it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        key = str(folder / "ca.key")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", str(self.ca),
                "-days", "2", "-subj", f"/CN={folder.name}")  # fmt: skip

    def issue(self, name: str) -> tuple[str, str]:
        """The files of a certificate and its key."""
        key, request, cert = (str(self.folder / f"{name}.{suffix}") for suffix in ("key", "csr", "pem"))
        names = self.folder / f"{name}.ext"
        names.write_text(f"subjectAltName = DNS:localhost, IP:127.0.0.1, DNS:{name}\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", str(self.ca), "-CAkey", str(self.folder / "ca.key"),
                "-CAcreateserial", "-days", "2", "-extfile", str(names), "-out", cert)  # fmt: skip
        return cert, key

    def issue_expired(self, name: str) -> tuple[str, str]:
        """The same, of a certificate that has ended an hour ago."""
        cert, key = self.issue(name)
        signer = load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        assert isinstance(signer, RSAPrivateKey)
        model = x509.load_pem_x509_certificate(Path(cert).read_bytes())
        ended = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        builder = x509.CertificateBuilder(
            model.issuer, model.subject, model.public_key(), model.serial_number + 1,
            ended - dt.timedelta(days=1), ended, list(model.extensions),
        )  # fmt: skip
        Path(cert).write_bytes(builder.sign(signer, SHA256()).public_bytes(Encoding.PEM))
        return cert, key
