"""Settings: oslo.config files and environment, read once at start into frozen dataclasses.

A settings class is a frozen dataclass whose fields are made with `option`; its `group` names the section of the ini
file. `load` reads all that a service names, once, and fails with a sentence that names the option; an option that does
not exist, in a section that the service knows, is a mistake too. The environment overrides files:
`OS_<GROUP>__<OPTION>`, e.g. `OS_CLAIM__CLAIM=all`.

In files oslo.config replaces `$name` by that option's value, as its users know it, and `$$` is a `$`. A value of the
environment is taken as it is: passwords are there, and a generated one holds any sign.
"""

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from oslo_config import cfg, sources
from oslo_config.sources._environment import EnvironmentConfigurationSource

_T = TypeVar("_T")


class SettingsError(Exception):
    """An option is missing or wrong; the text names it and what to do."""


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - the name that oslo.config uses
    secret: bool = False,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare one option of a settings dataclass. Without default it must be set. `secret`: not in repr or logs."""
    metadata = {"help": help, "secret": secret, "choices": choices, "min": minimum, "max": maximum}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def options_of(settings: type[Any]) -> list[cfg.Opt]:
    """The oslo.config options of a settings class, for registration and for the sample generator."""
    hints = typing.get_type_hints(settings)
    return [_to_oslo(field, hints[field.name]) for field in dataclasses.fields(settings)]


class Settings:
    """What `load` read. Ask it for each settings class that was named there."""

    def __init__(self, conf: cfg.ConfigOpts, values: dict[type[Any], Any]) -> None:
        self.conf = conf
        self._values = values

    def __getitem__(self, settings: type[_T]) -> _T:
        """The values of one settings class."""
        value: _T = self._values[settings]
        return value


def load(program: str, argv: Sequence[str] | None, classes: Sequence[type[Any]], *, extra: Any = None) -> Settings:
    """Read `--config-file` and `--config-dir` from argv and the environment into the named settings classes.

    `extra(conf)` may register more options before reading (keystoneauth's). Raises SettingsError.
    """
    conf = cfg.ConfigOpts()
    # oslo.config has no other place for a source that comes before files: those of `config_source` come after them.
    conf._env_driver = _VerbatimEnvironment()  # noqa: SLF001
    for settings in classes:
        conf.register_opts(options_of(settings), group=_group(settings))
    if extra is not None:
        extra(conf)
    arguments = list(sys.argv[1:] if argv is None else argv)
    for path in (arguments[i + 1] for i, word in enumerate(arguments[:-1]) if word == "--config-file"):
        if not Path(path).is_file():
            msg = f"--config-file {path}: no such file"
            raise SettingsError(msg)
    try:
        conf(arguments, project="astara", prog=program, default_config_files=[])
        _refuse_unknown(conf, classes)
        return Settings(conf, {settings: _read(conf, settings) for settings in classes})
    except (cfg.Error, ValueError) as error:
        raise SettingsError(str(error)) from error


class _VerbatimEnvironment(EnvironmentConfigurationSource):  # type: ignore[misc]  # oslo.config has no types
    """The environment, written so that oslo.config's substitution gives back each value as it stands there."""

    def get(self, group_name: str | None, option_name: str, opt: cfg.Opt) -> tuple[Any, Any]:
        value, location = super().get(group_name, option_name, opt)
        if value is not sources._NoValue:  # noqa: SLF001 - what a source answers with for nothing
            # `$$` is a `$`, and so is `\$`: doubling the first sign of either keeps both.
            value = re.sub(r"\\?\$", lambda found: found[0][0] + found[0], value)
        return value, location


def _refuse_unknown(conf: cfg.ConfigOpts, classes: Sequence[type[Any]]) -> None:
    """Raise SettingsError for an option that nobody reads: a misspelt one would quietly keep its default."""
    known: dict[str, set[str]] = {}
    for settings in classes:
        known.setdefault(settings.group, set()).update(field.name for field in dataclasses.fields(settings))
    for settings in classes:
        # The rest of the section is another service's, or a library's.
        if getattr(settings, "partial", False):
            known.pop(settings.group, None)
    files = [Path(path) for path in conf.config_file or ()]
    files += [path for folder in conf.config_dirs for path in sorted(Path(folder).glob("*.conf"))]
    for path in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        for section, options in sections.items():
            for name in options:
                if section in known and name.replace("-", "_") not in known[section]:
                    near = difflib.get_close_matches(name, known[section], 1)
                    hint = f"; is {near[0]} meant?" if near else ""
                    raise SettingsError(f"[{section}] {name}: there is no such option{hint} ({path})")


def _group(settings: type[Any]) -> str | None:
    group: str = settings.group
    return None if group == "DEFAULT" else group


def _read(conf: cfg.ConfigOpts, settings: type[_T]) -> _T:
    section = conf if _group(settings) is None else conf[_group(settings)]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        where = f"[{settings.group}] {field.name}"  # type: ignore[attr-defined]
        try:
            value = section[field.name]
        except (cfg.Error, ValueError) as error:
            # oslo.config's text names its own objects before it comes to the point.
            raise SettingsError(f"{where}: {str(error).rpartition('is not valid: ')[2]}") from error
        if value is None and field.default is dataclasses.MISSING:
            choices = field.metadata["choices"]
            hint = f" (one of: {', '.join(choices)})" if choices else ""
            msg = f"{where} must be set{hint}: {field.metadata['help']}"
            raise SettingsError(msg)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return settings(**values)


def _to_oslo(field: "dataclasses.Field[Any]", hint: Any) -> cfg.Opt:
    arguments: dict[str, Any] = {"help": field.metadata["help"], "secret": field.metadata["secret"]}
    if field.default is not dataclasses.MISSING:
        arguments["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return cfg.ListOpt(field.name, **arguments)
    bounds = {name: field.metadata[name] for name in ("min", "max") if field.metadata[name] is not None}
    if hint is bool:
        return cfg.BoolOpt(field.name, **arguments)
    if hint is int:
        return cfg.IntOpt(field.name, **bounds, **arguments)
    if hint is float:
        return cfg.FloatOpt(field.name, **bounds, **arguments)
    return cfg.StrOpt(field.name, choices=field.metadata["choices"], **arguments)


@dataclasses.dataclass(frozen=True)
class CommonSettings:
    """What every service needs to know."""

    group: typing.ClassVar[str] = "DEFAULT"

    deployment: str = option(
        "astara", help="Id of this deployment, [a-z0-9-]{1,16}; it marks everything made in the cloud"
    )
    host: str = option(
        "", help="Name of this process's host or pod, unique in the deployment; empty: the machine's name"
    )
    log_level: str = option("info", help="Least level that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = option("auto", help="json, text, or auto: text on a terminal", choices=("auto", "json", "text"))


@dataclasses.dataclass(frozen=True)
class GrpcSettings:
    """gRPC between the services. Plain text is accepted on loopback only."""

    group: typing.ClassVar[str] = "grpc"

    scheduler: str = option(
        "127.0.0.1:44251",
        help="Where the scheduler listens, host:port; of all addresses of a name the leader's is used",
    )
    health_listen: str = option(
        "", help="Where health alone answers, in plain text, for probes that speak no TLS, host:port; empty: nowhere"
    )
    tls_cert: str = option(
        "", help="File with this service's certificate chain (PEM); with it TLS is on and both sides show certificates"
    )
    tls_key: str = option("", help="File with its private key (PEM)")
    tls_ca: str = option("", help="File with the authorities that sign the other services' certificates (PEM)")
    tls_server_name: str = option("", help="Name to expect in the scheduler's certificate; empty: the name dialled")
    allow_plaintext: bool = option(False, help="Allow plain text on other addresses than loopback (a mesh encrypts)")
