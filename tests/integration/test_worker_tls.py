"""Worker and appliance over TLS: both show certificates, and an instance without them is spoken to as before."""

import ssl
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from authority import Authority

from services.common.marks import ServerMark
from services.common.settings import SettingsError
from services.worker.appliance import ApplianceClient, Endpoint
from services.worker.certificates import Certificates
from services.worker.errors import ApplianceError, UnreachableError
from services.worker.settings import ApplianceSettings

SECRET = "a-secret-long-enough"
NAME = "astara-appliance"
BOOT = "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


def settings(authority: Authority, port: int, **more: str) -> ApplianceSettings:
    cert, key = authority.issue("worker")
    appliance_cert, appliance_key = authority.issue(NAME)
    files = {
        "tls_ca": str(authority.ca), "tls_cert": cert, "tls_key": key,
        "tls_appliance_cert": appliance_cert, "tls_appliance_key": appliance_key,
    }  # fmt: skip
    return ApplianceSettings(SECRET, port=port, **files | more)


async def served(authority: Authority, name: str = NAME) -> TestServer:
    """What answers as an appliance, and wants a certificate of the authority."""

    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"instance": BOOT, "v4": True})

    app = web.Application()
    app.router.add_get("/v1/status", status)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(*authority.issue(name))
    context.verify_mode = ssl.CERT_REQUIRED
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    return server


def endpoint(*, tls: bool = True) -> Endpoint:
    return Endpoint("127.0.0.1", "token", BOOT, tls=tls)


async def test_an_appliance_with_certificates_is_asked_over_tls(authority: Authority) -> None:
    server = await served(authority)
    client = ApplianceClient(settings(authority, server.port or 0))
    try:
        assert (await client.status(endpoint())).v4
        with pytest.raises(UnreachableError):
            await client.status(endpoint(tls=False))
    finally:
        await client.close()
        await server.close()


async def test_another_authority_and_another_name_are_not_believed(authority: Authority, stranger: Authority) -> None:
    for server, own in (
        (await served(stranger), settings(authority, 0)),
        (await served(authority, "somebody"), settings(authority, 0)),
        (await served(authority), settings(stranger, 0, tls_ca=str(authority.ca))),
    ):
        client = ApplianceClient(ApplianceSettings(**{**vars(own), "port": server.port or 0}))
        try:
            with pytest.raises(UnreachableError):
                await client.status(endpoint())
        finally:
            await client.close()
            await server.close()


async def test_a_worker_without_certificates_takes_no_appliance_with_them_for_dead() -> None:
    client = ApplianceClient(ApplianceSettings(SECRET))
    try:
        with pytest.raises(ApplianceError, match=r"\[appliance\] tls_ca is not set") as raised:
            await client.status(endpoint())
        assert not isinstance(raised.value, UnreachableError)
    finally:
        await client.close()


def test_a_new_instance_is_given_its_certificates_and_its_server_says_so(authority: Authority) -> None:
    files = Certificates(settings(authority, 5000)).boot_files()
    assert {file["path"]: file["permissions"] for file in files} == {
        "/etc/astara/tls/tls.crt": "0644", "/etc/astara/tls/tls.key": "0600", "/etc/astara/tls/ca.crt": "0644",
    }  # fmt: skip
    mark = ServerMark("lab", "r", 0, "b", tls=True)
    assert ServerMark.parse(mark.metadata()) == mark
    assert ServerMark.parse(ServerMark("lab", "r", 0, "b").metadata()) == ServerMark("lab", "r", 0, "b")


def test_certificates_are_read_again_when_they_change_and_broken_ones_are_not_taken(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    own = settings(authority, 5000)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.ca.read_bytes())
    certificates = Certificates(ApplianceSettings(**{**vars(own), "tls_ca": str(ca)}))
    before = certificates.context()
    assert certificates.context() is before
    renewed = tmp_path / "renewed.pem"
    renewed.write_bytes(authority.ca.read_bytes() + stranger.ca.read_bytes())
    renewed.replace(ca)
    assert certificates.context() is not before
    assert certificates.boot_files()[2]["content"] == ca.read_text()
    kept, given = certificates.context(), certificates.boot_files()
    Path(own.tls_key).write_bytes(Path(own.tls_appliance_key).read_bytes())
    ca.unlink()
    assert certificates.context() is kept
    assert certificates.boot_files() == given


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tls_key": ""}, r"\[appliance\] tls_ca is set, so tls_key must be set too"),
        ({"tls_cert": "/nowhere.pem"}, r"\[appliance\] tls_ca, tls_cert or tls_key cannot be used"),
        ({"tls_appliance_key": "/nowhere.pem"}, r"\[appliance\] tls_ca, tls_appliance_cert or tls_appliance_key"),
    ],
)
def test_wrong_certificates_are_named_at_the_start(authority: Authority, change: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Certificates(settings(authority, 5000, **change))
