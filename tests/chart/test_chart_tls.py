"""Certificates: made by helm, by cert-manager, or given; those that helm makes carry a real conversation."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from chart_rendering import Rendering
from chart_values import CASES, MINIMAL, SERVICES, at, merged
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc import RpcServer, open_channel
from services.common.settings import GrpcSettings


def _files(rendering: Rendering, service: str, folder: Path) -> dict[str, str]:
    """A service's Secret as it is mounted; options of [grpc] that name the files."""
    folder.mkdir()
    for name, text in rendering.one("Secret", f"astara-{service}-tls")["data"].items():
        (folder / name).write_bytes(base64.b64decode(text))
    return {
        "tls_cert": str(folder / "tls.crt"),
        "tls_key": str(folder / "tls.key"),
        "tls_ca": str(folder / "ca.crt"),
        "tls_server_name": "astara-scheduler",
    }


async def _ask(server: GrpcSettings, client: GrpcSettings) -> int:
    listening = RpcServer(server, "127.0.0.1:0")
    async with listening, open_channel(client, listening.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        return int(answer.status)


async def test_services_talk_with_the_certificates_that_helm_made(
    rendered: Callable[..., Rendering], tmp_path: Path
) -> None:
    rendering = rendered("minimal")
    server = GrpcSettings(**_files(rendering, "scheduler", tmp_path / "scheduler"))
    for service in ("worker", "notifier"):
        client = GrpcSettings(**_files(rendering, service, tmp_path / service))
        assert await _ask(server, client) == health_pb2.HealthCheckResponse.SERVING


async def test_a_stranger_with_a_certificate_of_another_authority_is_refused(
    rendered: Callable[..., Rendering], tmp_path: Path
) -> None:
    server = GrpcSettings(**_files(rendered("minimal"), "scheduler", tmp_path / "scheduler"))
    own = _files(rendered("minimal"), "worker", tmp_path / "worker")
    other = _files(rendered("dual-stack"), "worker", tmp_path / "other")
    stranger = GrpcSettings(**{**other, "tls_ca": own["tls_ca"]})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _ask(server, stranger)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_each_service_has_a_certificate_of_its_own_name(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("everything")
    authority = rendering.one("Secret", "astara-ca")["data"]
    for service in SERVICES:
        data = rendering.one("Secret", f"astara-{service}-tls")["data"]
        assert data["ca.crt"] == authority["tls.crt"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        wanted = {f"astara-{service}", f"astara-{service}.openstack.svc", "localhost"}
        assert wanted <= set(names.get_values_for_type(x509.DNSName))
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses)
        lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert lasts.days == 1095
        assert ("astara.example.org" in names.get_values_for_type(x509.DNSName)) == (service == "rpcapi")


def test_the_authoritys_key_is_mounted_nowhere(rendered: Callable[..., Rendering]) -> None:
    for case in CASES:
        for _, pod in rendered(case).pods():
            assert "astara-ca" not in {volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}


def _mounted(rendering: Rendering) -> dict[str, str]:
    return {
        name.removeprefix("astara-"): volume["secret"]["secretName"]
        for name, pod in rendering.pods()
        for volume in pod["volumes"]
        if volume["name"] == "tls"
    }


def test_cert_manager_is_asked_for_each_service(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("tls-cert-manager")
    certificates = rendering.of("Certificate")
    assert set(certificates) == {f"astara-{service}-tls" for service in SERVICES}
    for name, certificate in certificates.items():
        spec = certificate["spec"]
        assert spec["secretName"] == name
        assert spec["issuerRef"] == {"name": "our-ca", "kind": "Issuer", "group": "cert-manager.io"}
        assert {"server auth", "client auth"} <= set(spec["usages"])
        assert name.removesuffix("-tls") in spec["dnsNames"]
    mounted = _mounted(rendering)
    assert {mounted.pop("test")} == {"astara-rpcapi-tls"}
    assert mounted == {service: f"astara-{service}-tls" for service in SERVICES}
    assert not [one for one in rendering.of("Secret").values() if one["type"] == "kubernetes.io/tls"]


@pytest.mark.parametrize(
    ("case", "name"), [("tls-given", "astara-tls"), ("tls-given-one-each", "{}-pair")], ids=["one", "each"]
)
def test_given_secrets_are_mounted(rendered: Callable[..., Rendering], case: str, name: str) -> None:
    rendering = rendered(case)
    mounted = _mounted(rendering)
    mounted.pop("test")
    assert mounted == {service: name.format(service) for service in SERVICES}
    assert not rendering.of("Certificate")
    assert not [one for one in rendering.of("Secret").values() if one["type"] == "kubernetes.io/tls"]


def test_plain_text_is_said_to_every_service(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("tls-disabled")
    assert not _mounted(rendering)
    for service in SERVICES:
        assert "allow_plaintext = true\n" in rendering.configuration(service)
        assert "tls_" not in rendering.configuration(service)
        assert "allow_plaintext" not in rendered("minimal").configuration(service)


def test_the_operators_api_speaks_https_unless_told_otherwise(
    rendered: Callable[..., Rendering], render_values: Callable[[Any], Rendering]
) -> None:
    https = "[rpcapi]\ngrpc_listen = 0.0.0.0:44255\nlisten = 0.0.0.0\ntls_cert = /etc/astara/tls/tls.crt\n"
    assert https in rendered("minimal").configuration("rpcapi")
    plain = render_values(merged(MINIMAL, at("rpcapi.https", False)))
    assert https not in plain.configuration("rpcapi")
    (check,) = plain.one("Pod", "astara-test")["spec"]["containers"]
    assert check["command"][-2:] == ["http://astara-rpcapi:44250", "astara-scheduler:44260"]


def test_other_authorities_reach_those_who_need_them(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("everything")
    with_ca = {name for name, pod in rendering.pods() if "cloud-ca" in {one["name"] for one in pod["volumes"]}}
    assert with_ca == {f"astara-{service}" for service in SERVICES if service != "rpcapi"}
    assert "cafile = /etc/astara/cloud-ca/ca.crt\n" in rendering.configuration("health")
    assert "broker_ca = /etc/astara/cloud-ca/ca.crt\n" in rendering.configuration("notifier")
    assert "tls_appliance_key = /etc/astara/appliance-tls/appliance.key\n" in rendering.configuration("worker")
