"""Files of certificates that are replaced under a process: what fits is taken, what does not is named once."""

import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from authority import Authority, openssl
from mounted_secret import MountedSecret
from structlog.testing import capture_logs

from services.common.certificates import CertificateFiles
from services.common.settings import SettingsError

OPTIONS = "[grpc] tls_ca, tls_cert or tls_key"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture
def secret(tmp_path: Path, ours: Authority) -> MountedSecret:
    mounted = MountedSecret(tmp_path / "tls")
    mounted.pair(ours)
    return mounted


def files_of(secret: MountedSecret) -> CertificateFiles:
    paths = secret.options()
    return CertificateFiles(
        OPTIONS, authorities=paths["tls_ca"], certificate=paths["tls_cert"], key=paths["tls_key"]
    )  # fmt: skip


def contents(secret: MountedSecret) -> dict[str, bytes]:
    return {name: Path(secret.path(name.replace("_", "."))).read_bytes() for name in ("tls_crt", "tls_key", "ca_crt")}


def test_a_swapped_secret_is_taken_once_as_a_whole(secret: MountedSecret, ours: Authority, others: Authority) -> None:
    files = files_of(secret)
    assert not files.look()
    secret.pair(others, ours, others)
    assert files.look()
    assert not files.look()
    assert files.pem == tuple(contents(secret)[name] for name in ("ca_crt", "tls_crt", "tls_key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files.load(context)
    assert len(context.get_ca_certs()) == 2


def test_a_swap_to_the_same_content_is_no_change(secret: MountedSecret) -> None:
    files = files_of(secret)
    secret.put(**contents(secret))
    assert not files.look()


def test_files_replaced_one_after_the_other_in_place_are_taken_when_they_fit(
    secret: MountedSecret, others: Authority
) -> None:
    files = files_of(secret)
    certificate, key = others.issue("renewed")
    with capture_logs() as logs:
        shutil.copy(certificate, secret.path("tls.crt"))
        assert not files.look()
        shutil.copy(key, secret.path("tls.key"))
        assert files.look()
    assert [line["log_level"] for line in logs] == ["info"]


def _half(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        content[name] = content[name][: len(content[name]) // 2]

    return change


def _only(name: str, text: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda content: content.update({name: text})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_half("tls_crt"), "tls.crt and"),
        (_half("tls_key"), "tls.key: "),
        (_half("ca_crt"), "ca.crt: "),
        (lambda content: content.update(ca_crt=content["ca_crt"] + content["ca_crt"][:500]), "ca.crt: "),
        (lambda content: content.update(tls_crt=content["ca_crt"]), "tls.key: KEY_VALUES_MISMATCH"),
        (_only("tls_crt", b""), "tls.crt and"),
        (_only("tls_key", b"what is this"), "tls.key: "),
        (_only("ca_crt", b""), "ca.crt: "),
        (lambda content: content.pop("tls_key"), "tls.key: No such file"),
    ],
)
def test_what_does_not_fit_is_not_taken_and_named_once(
    secret: MountedSecret, others: Authority, damage: Callable[[dict[str, bytes]], None], named: str
) -> None:
    files = files_of(secret)
    before = files.pem
    broken = contents(secret)
    damage(broken)
    secret.put(**broken)
    with capture_logs() as logs:
        # It may be halfway through a renewal; what is still so later is an error.
        assert not files.look()
        assert logs == []
        assert not any(files.look() for _ in range(3))
    (line,) = logs
    assert line["log_level"] == "error"
    assert line["options"] == OPTIONS
    assert named in line["reason"]
    assert "PRIVATE" not in str(line)
    assert files.pem == before
    secret.pair(others)
    assert files.look()


def test_an_encrypted_key_is_refused_and_nobody_is_asked(secret: MountedSecret, tmp_path: Path) -> None:
    locked = str(tmp_path / "locked.key")
    openssl("rsa", "-aes128", "-passout", "pass:hidden", "-in", secret.path("tls.key"), "-out", locked)
    with pytest.raises(SettingsError, match=r"locked\.key: "):
        CertificateFiles(OPTIONS, certificate=secret.path("tls.crt"), key=locked)


def test_files_that_cannot_be_used_are_named_at_the_start(secret: MountedSecret) -> None:
    for options, words in (
        ({"certificate": "/nowhere.pem", "key": secret.path("tls.key")}, "/nowhere.pem: No such file or directory"),
        ({"certificate": secret.path("tls.crt")}, "tls.crt: certificate and key belong together"),
        ({"authorities": secret.path("tls.key")}, "tls.key: NO_CERTIFICATE_OR_CRL_FOUND"),
    ):
        with pytest.raises(SettingsError) as refused:
            CertificateFiles(OPTIONS, **options)
        assert str(refused.value).startswith(f"{OPTIONS} cannot be used: ")
        assert words in str(refused.value)
