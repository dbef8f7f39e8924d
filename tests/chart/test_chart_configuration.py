"""Configuration is oslo.config ini that every service accepts, every option can be set, and secrets stay in Secrets."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from chart_rendering import Rendering
from chart_values import CASES, MINIMAL, SERVICES, at, merged
from sqlalchemy.engine import make_url

from services.common import metrics, openstack
from services.common.amqp import broker_urls
from services.common.claim import ClaimSettings
from services.common.openstack import OpenStackSettings
from services.common.settings import CommonSettings, GrpcSettings, Settings, SettingsError, load
from services.health.settings import HealthSettings
from services.metadata.settings import ApplianceSecretSettings, MetadataSettings
from services.metadata.settings import check as check_metadata
from services.notifier.settings import NotifierSettings
from services.rpcapi.settings import RpcapiSettings
from services.scheduler.settings import SchedulerSettings
from services.worker.settings import ApplianceSettings, RouterSettings, WorkerSettings

_EVERYWHERE = (CommonSettings, GrpcSettings, metrics.MetricsSettings)
CLASSES: dict[str, tuple[type[Any], ...]] = {
    "notifier": (*_EVERYWHERE, NotifierSettings),
    "health": (*_EVERYWHERE, HealthSettings, ClaimSettings, OpenStackSettings),
    "scheduler": (*_EVERYWHERE, SchedulerSettings),
    "worker": (*_EVERYWHERE, OpenStackSettings, ClaimSettings, WorkerSettings, RouterSettings, ApplianceSettings),
    "rpcapi": (*_EVERYWHERE, RpcapiSettings),
    "metadata": (*_EVERYWHERE, OpenStackSettings, ApplianceSecretSettings, MetadataSettings),
}
OPTIONS = [
    (service, settings.group, field)
    for service, classes in CLASSES.items()
    for settings in classes
    for field in dataclasses.fields(settings)
]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Rendering, str], Settings]:
    """A service's settings as it reads them in its pod."""

    def of(rendering: Rendering, service: str) -> Settings:
        folder = tmp_path / service
        folder.mkdir(exist_ok=True)
        (folder / "astara.conf").write_text(rendering.configuration(service), encoding="utf-8")
        with monkeypatch.context() as patch:
            for name, value in rendering.environment(service).items():
                patch.setenv(name, value)
            extra = openstack.register if OpenStackSettings in CLASSES[service] else None
            arguments = ("--config-dir", str(folder))
            settings = load(f"astara-{service}", arguments, CLASSES[service], extra=extra)
            if extra:
                # The service's own first step; it calls nobody.
                with openstack.connect(settings) as connection:
                    assert connection.session.auth.auth_url.endswith(":5000/v3")
            return settings

    return of


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("case", [case for case in CASES if case != "existing-secrets"])
def test_each_service_accepts_its_configuration(
    rendered: Callable[..., Rendering], read: Callable[[Rendering, str], Settings], case: str, service: str
) -> None:
    settings = read(rendered(case), service)
    assert settings[CommonSettings].deployment == "astara"
    assert settings[metrics.MetricsSettings].port == 9100
    if service == "metadata":
        check_metadata(settings[MetadataSettings], settings[ApplianceSecretSettings])


@pytest.mark.parametrize("service", ["notifier", "health", "worker"])
def test_the_classes_here_are_those_that_the_services_name(service: str) -> None:
    main = importlib.import_module(f"services.{service}.__main__")
    assert {CommonSettings, *main.SETTINGS} == set(CLASSES[service])


OF_THE_CHART = {
    ("DEFAULT", "host"), ("worker", "name"), ("metrics", "port"), ("grpc", "health_listen"), ("rpcapi", "port"),
    ("rpcapi", "grpc_listen"), ("metadata", "port"), ("metadata", "grpc_listen"), ("scheduler", "listen"),
    ("scheduler", "replicas"), ("scheduler", "election"), ("scheduler", "lease_name"), ("notifier", "listen"),
    ("health", "listen"), ("worker", "listen"), ("metrics", "address"), ("rpcapi", "listen"), ("metadata", "listen"),
}  # fmt: skip
"""What pods must not be told: the chart's Services, probes, roles and policies stand on it. Refused, see there."""


def _some_value(field: "dataclasses.Field[Any]") -> Any:
    """A value that is allowed and is not the default."""
    known = field.metadata
    if known["choices"]:
        return next(choice for choice in known["choices"] if choice != field.default)
    default = field.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        least = known["min"] if known["min"] is not None else 0
        most = known["max"] if known["max"] is not None else default + 1
        return next(value for value in (default + 1, least, most) if value != default and least <= value <= most)
    if isinstance(default, tuple):
        return ["2001:db8::1", "192.0.2.1"] if "address" in known["help"].lower() else ["one:two", "three:four"]
    return "given"


@pytest.mark.parametrize("service", SERVICES)
def test_every_option_reaches_its_service(
    render_values: Callable[[Any], Rendering], read: Callable[[Rendering, str], Settings], service: str
) -> None:
    wanted: dict[str, dict[str, Any]] = {}
    for owner, group, field in OPTIONS:
        refused = field.metadata["secret"] or (group, field.name) in OF_THE_CHART
        if owner == service and not refused:
            wanted.setdefault(group, {})[field.name] = _some_value(field)
    wanted["DEFAULT"]["deployment"] = "other"
    wanted.get("rpcapi", {}).pop("auth", None)
    shared = {group: wanted.pop(group) for group in ("claim", "DEFAULT") if group in wanted}
    # The Secret tells the region, and the environment comes before files.
    region = at("secretKeys.identity.region_name", None)
    values = merged(MINIMAL, region, {"conf": shared}, at(f"{service}.conf", wanted))
    settings = read(render_values(values), service)
    for settings_class in CLASSES[service]:
        options = (wanted | shared).get(settings_class.group, {})
        read_values = settings[settings_class]
        for field in dataclasses.fields(settings_class):
            if field.name in options:
                expected = options[field.name]
                found = getattr(read_values, field.name)
                assert found == (tuple(expected) if isinstance(expected, list) else expected), field.name


def test_values_of_every_kind_arrive_as_they_were(render_values: Callable[[Any], Rendering]) -> None:
    written = {
        "a": (0, "a = 0"),
        "b": (0.5, "b = 0.5"),
        "c": (4294967294, "c = 4294967294"),
        "d": (True, "d = true"),
        "e": (False, "e = false"),
        "f": ("", "f ="),
        "g": ("text with = and # in it", "g = text with = and # in it"),
        "h": (["a", "b"], "h = a,b"),
        "i": ([], "i ="),
    }
    options = {name: value for name, (value, _) in written.items()}
    text = render_values(merged(MINIMAL, at("conf.worker", options), at("worker.conf.worker", {"a": 0})))
    lines = text.configuration("worker").splitlines()
    assert [line for line in lines if line[:2] in {f"{name} " for name in written}] == [
        line for _, line in written.values()
    ]
    assert not [line for line in lines if line != line.rstrip()]


def test_a_misspelt_option_stops_the_service(
    render_values: Callable[[Any], Rendering], read: Callable[[Rendering, str], Settings]
) -> None:
    rendering = render_values(merged(MINIMAL, at("conf.worker.max_runing", 5)))
    with pytest.raises(SettingsError, match=r"max_runing.*is max_running meant"):
        read(rendering, "worker")


def test_a_services_own_options_come_on_top_and_are_its_alone(render_values: Callable[[Any], Rendering]) -> None:
    values = merged(MINIMAL, at("conf.DEFAULT.log_level", "debug"), at("worker.conf.DEFAULT.log_level", "error"))
    rendering = render_values(values)
    assert "log_level = error\n" in rendering.configuration("worker")
    assert "log_level = debug\n" in rendering.configuration("health")
    assert "[worker]" not in rendering.configuration("health")


@pytest.mark.parametrize("case", CASES)
def test_no_secret_stands_outside_of_a_secret(rendered: Callable[..., Rendering], case: str) -> None:
    secrets = [*MINIMAL["credentials"].values(), "of-keystone", "of%20db", "of db", "of%3Abroker"]
    for document in rendered(case).documents:
        if document["kind"] != "Secret":
            text = str(document)
            assert not [secret for secret in secrets if secret in text], document["metadata"]["name"]


@pytest.mark.parametrize("nodes", [0, 3])
def test_secrets_of_any_signs_arrive_as_they_are(
    render_values: Callable[[Any], Rendering], read: Callable[[Rendering, str], Settings], nodes: int
) -> None:
    user, secret = "us$r@x", r"a$b ${x}$$\$%41/?#[]@:;&+\"'é-of-16-characters"
    values = merged(
        MINIMAL,
        at("credentials", dict.fromkeys(("appliance", "metadata", "rpcapi"), secret)),
        at("endpoints.oslo_messaging.statefulset", {"name": "rabbit", "replicas": nodes} if nodes else {}),
        *(
            at(f"endpoints.{name}.auth.astara", {"username": user, "password": secret})
            for name in ("identity", "oslo_db", "oslo_messaging")
        ),
    )
    rendering = render_values(values)
    broker = read(rendering, "notifier")[NotifierSettings].broker
    logins = [unquote(part) for url in broker_urls(broker) for part in urlsplit(url).netloc.split("@")[0].split(":")]
    assert logins == [user, secret] * max(nodes, 1)
    database = make_url(read(rendering, "scheduler")[SchedulerSettings].database)
    assert (database.username, database.password) == (user, secret)
    cloud = read(rendering, "worker")
    assert (cloud.conf.openstack.username, cloud.conf.openstack.password) == (user, secret)
    assert cloud[ApplianceSettings].secret == secret
    assert read(rendering, "metadata")[MetadataSettings].shared_secret == secret
    assert rendering.one("Secret", "astara-api-token")["stringData"] == {"token": secret}


def test_existing_secrets_are_read_by_their_keys_and_none_is_made(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("existing-secrets")
    assert {one["type"] for one in rendering.of("Secret").values()} == {"kubernetes.io/tls"}
    read = {
        entry["name"]: tuple(entry["valueFrom"]["secretKeyRef"].values())
        for service in SERVICES
        for entry in rendering.container(service)["env"]
        if "valueFrom" in entry
    }
    assert read == {
        "OS_NOTIFIER__BROKER": ("astara-rabbitmq-user", "RABBITMQ_CONNECTION"),
        "OS_SCHEDULER__DATABASE": ("astara-db-user", "DB_CONNECTION"),
        "OS_APPLIANCE__SECRET": ("astara-appliance", "secret"),
        "OS_METADATA__SHARED_SECRET": ("nova-metadata-proxy", "metadata_proxy_shared_secret"),
        "OS_OPENSTACK__AUTH_URL": ("astara-keystone-user", "OS_AUTH_URL"),
        "OS_OPENSTACK__USERNAME": ("astara-keystone-user", "OS_USERNAME"),
        "OS_OPENSTACK__PASSWORD": ("astara-keystone-user", "OS_PASSWORD"),
        "OS_OPENSTACK__PROJECT_NAME": ("astara-keystone-user", "OS_PROJECT_NAME"),
        "OS_OPENSTACK__USER_DOMAIN_NAME": ("astara-keystone-user", "OS_USER_DOMAIN_NAME"),
        "OS_OPENSTACK__PROJECT_DOMAIN_NAME": ("astara-keystone-user", "OS_PROJECT_DOMAIN_NAME"),
        "OS_OPENSTACK__REGION_NAME": ("astara-keystone-user", "OS_REGION_NAME"),
    }
    (token,) = [
        volume["secret"]
        for name, pod in rendering.pods()
        if name == "astara-rpcapi"
        for volume in pod["volumes"]
        if volume["name"] == "token"
    ]
    assert (token["secretName"], token["items"]) == ("astara-operators", [{"key": "token", "path": "token"}])


def test_each_service_gets_only_the_secrets_that_it_needs(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("existing-secrets")
    names = {
        service: {
            entry["valueFrom"]["secretKeyRef"]["name"]
            for entry in rendering.container(service)["env"]
            if "valueFrom" in entry
        }
        for service in SERVICES
    }
    assert names == {
        "notifier": {"astara-rabbitmq-user"},
        "health": {"astara-keystone-user"},
        "scheduler": {"astara-db-user"},
        "worker": {"astara-keystone-user", "astara-appliance"},
        "rpcapi": set(),
        "metadata": {"astara-keystone-user", "astara-appliance", "nova-metadata-proxy"},
    }


def test_application_credentials_take_the_place_of_a_password(render_values: Callable[[Any], Rendering]) -> None:
    keys = dict.fromkeys(("username", "password", "project_name", "user_domain_name", "project_domain_name"))
    values = merged(
        MINIMAL,
        at("conf.openstack.auth_type", "v3applicationcredential"),
        at("secrets.identity.astara", "credential"),
        at(
            "secretKeys.identity",
            {**keys, "application_credential_id": "id", "application_credential_secret": "secret"},
        ),
    )
    names = {entry["name"] for entry in render_values(values).container("health")["env"] if "valueFrom" in entry}
    assert names == {
        "OS_OPENSTACK__AUTH_URL",
        "OS_OPENSTACK__REGION_NAME",
        "OS_OPENSTACK__APPLICATION_CREDENTIAL_ID",
        "OS_OPENSTACK__APPLICATION_CREDENTIAL_SECRET",
    }


def test_urls_are_built_from_endpoints_in_openstack_helms_form(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("openstack-helm")
    environment = rendering.environment("worker")
    assert environment["OS_OPENSTACK__AUTH_URL"] == "http://keystone-api.openstack.svc.cluster.local:5000/v3"
    assert environment["OS_OPENSTACK__REGION_NAME"] == "RegionTwo"
    assert broker_urls(rendering.environment("notifier")["OS_NOTIFIER__BROKER"]) == [
        f"amqp://astara:of%3Abroker@rabbitmq-rabbitmq-{n}.rabbitmq.openstack.svc.cluster.local:5672/neutron"
        for n in (0, 1)
    ]
    assert "nova_metadata_url = http://nova-metadata.openstack.svc.cluster.local:8775\n" in rendering.configuration(
        "metadata"
    )


def test_a_path_needs_no_slash_and_the_number_of_schedulers_is_told(render_values: Callable[[Any], Rendering]) -> None:
    rendering = render_values(merged(MINIMAL, at("endpoints.identity.path.default", "v3"), at("scheduler.replicas", 3)))
    assert rendering.environment("worker")["OS_OPENSTACK__AUTH_URL"].endswith(":5000/v3")
    assert "\nreplicas = 3\n" in rendering.configuration("scheduler")
    assert "replicas" not in rendering.configuration("worker")


def test_users_of_openstack_helm_beside_astara_are_ignored(render_values: Callable[[Any], Rendering]) -> None:
    admin = at("secrets", {"identity": {"admin": "keystone-admin"}, "oslo_messaging": {"admin": "rabbitmq-admin"}})
    assert "keystone-admin" not in str(render_values(merged(MINIMAL, admin)).documents)


def test_urls_of_hosts_outside_are_what_was_said(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("outside")
    assert rendering.environment("health")["OS_OPENSTACK__AUTH_URL"] == "http://198.51.100.5:5000/v3"
    assert len(broker_urls(rendering.environment("notifier")["OS_NOTIFIER__BROKER"])) == 2
    assert "nova_metadata_url = http://[2001:db8::8]:8775\n" in rendering.configuration("metadata")
    database = make_url(rendering.environment("scheduler")["OS_SCHEDULER__DATABASE"])
    assert (database.host, database.port, database.database) == ("2001:db8::9", 3306, "astara")
    assert (database.username, database.password) == ("astara", "of db/@")
    assert database.query == {"charset": "utf8mb4"}


@pytest.mark.parametrize(
    ("case", "address", "listen"),
    [("minimal", "0.0.0.0", "0.0.0.0"), ("ipv6", "[::]", "::"), ("dual-stack", "[::]", "::,0.0.0.0")],
)
def test_services_listen_in_the_families_of_the_pods(
    rendered: Callable[..., Rendering], case: str, address: str, listen: str
) -> None:
    rendering = rendered(case)
    assert f"listen = {address}:44254\n" in rendering.configuration("worker") + "\n"
    assert f"health_listen = {address}:44260\n" in rendering.configuration("worker")
    for service in ("rpcapi", "metadata"):
        assert f"\nlisten = {listen}\n" in rendering.configuration(service)


@pytest.mark.parametrize(
    ("case", "addresses", "port"),
    [
        ("minimal", "192.0.2.10", 9697),
        ("node-port", "192.0.2.20", 30697),
        ("external-ips", "192.0.2.20", 9697),
        ("ipv6", "2001:db8::10", 9697),
    ],
)
def test_appliances_are_told_the_address_of_metadata(
    rendered: Callable[..., Rendering], case: str, addresses: str, port: int
) -> None:
    text = rendered(case).configuration("worker")
    assert f"orchestrator_addresses = {addresses}\n" in text
    assert f"metadata_port = {port}\n" in text
