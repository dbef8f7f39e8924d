"""What the environment holds arrives as it is; ini files keep oslo.config's substitution."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keystoneauth1 import loading

from services.common import openstack
from services.common.amqp import broker_urls
from services.common.openstack import GROUP, OpenStackSettings
from services.common.settings import Settings, SettingsError, load
from services.metadata.settings import ApplianceSecretSettings, MetadataSettings
from services.notifier.settings import NotifierSettings
from services.rpcapi.settings import RpcapiSettings
from services.scheduler.settings import SchedulerSettings

SIGNS = ["$", "a$b", "$token", "${token}", "${x}", "$$", "$$$", "a$$b$", r"a\$b", r"\\$$\$", "$DEFAULT.host", "100%$"]


def read(*classes: type[Any], text: str = "", folder: Path | None = None, extra: Any = None) -> Settings:
    arguments: list[str] = []
    if folder is not None:
        file = folder / "astara.ini"
        file.write_text(text)
        arguments = ["--config-file", str(file)]
    return load("test", arguments, classes, extra=extra)


@pytest.mark.parametrize("sign", SIGNS)
def test_secrets_of_the_environment_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    secret = f"x{sign}y{sign}"
    url = f"rabbit://user:{secret}@host:5672/neutron"
    for name, value in {
        "NOTIFIER__BROKER": url,
        "SCHEDULER__DATABASE": f"mysql+pymysql://user:{secret}@host/astara",
        "APPLIANCE__SECRET": secret,
        "METADATA__SHARED_SECRET": secret,
        "RPCAPI__TOKEN": secret,
        "OPENSTACK__PASSWORD": secret,
        "OPENSTACK__AUTH_URL": "http://keystone/v3",
        "OPENSTACK__USERNAME": sign,
    }.items():
        monkeypatch.setenv(f"OS_{name}", value)
    classes = (
        NotifierSettings, SchedulerSettings, ApplianceSecretSettings, MetadataSettings, RpcapiSettings,
        OpenStackSettings,
    )  # fmt: skip
    settings = read(*classes, extra=openstack.register)
    assert broker_urls(settings[NotifierSettings].broker) == [url.replace("rabbit", "amqp", 1)]
    assert settings[SchedulerSettings].database == f"mysql+pymysql://user:{secret}@host/astara"
    assert settings[ApplianceSecretSettings].secret == secret
    assert settings[MetadataSettings].shared_secret == secret
    assert settings[RpcapiSettings].token == secret
    # keystoneauth registers the options of its plugin only when it reads them.
    settings.conf.set_default("auth_type", "password", group=GROUP)
    loading.load_auth_from_conf_options(settings.conf, GROUP)
    assert (settings.conf[GROUP].username, settings.conf[GROUP].password) == (sign, secret)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_of_the_environment_arrives_as_it_is(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OS_RPCAPI__TOKEN", text)
        assert read(RpcapiSettings)[RpcapiSettings].token == text


def test_files_keep_oslo_configs_substitution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "[rpcapi]\ntls_cert = /certs/$tls_key\ntls_key = k$$\\$\ntoken_file = ${token}\n"
        "[metadata]\nshared_secret = $rpcapi.token\n"
    )
    monkeypatch.setenv("OS_RPCAPI__TOKEN", "of the $environment")
    settings = read(RpcapiSettings, MetadataSettings, text=text, folder=tmp_path)
    assert settings[RpcapiSettings].tls_cert == "/certs/k$$"
    assert settings[RpcapiSettings].tls_key == "k$$"
    assert settings[RpcapiSettings].token_file == "of the $environment"
    assert settings[MetadataSettings].shared_secret == "of the $environment"


def test_the_environment_comes_before_files_also_when_they_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_RPCAPI__TOKEN", "a$port${port}$$")
    settings = read(RpcapiSettings, text="[rpcapi]\ntoken = of the file\n", folder=tmp_path)
    assert settings[RpcapiSettings].token == "a$port${port}$$"
    settings.conf.reload_config_files()
    assert settings.conf.rpcapi.token == "a$port${port}$$"


def test_lists_and_numbers_of_the_environment_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_RPCAPI__LISTEN", "::1,127.0.0.1,$x")
    monkeypatch.setenv("OS_RPCAPI__PORT", "44299")
    settings = read(RpcapiSettings)[RpcapiSettings]
    assert (settings.listen, settings.port) == (("::1", "127.0.0.1", "$x"), 44299)
    monkeypatch.setenv("OS_RPCAPI__PORT", "$command_rate")
    with pytest.raises(SettingsError, match=r"^\[rpcapi\] port: "):
        read(RpcapiSettings)
