"""The cloud's APIs: one keystoneauth session a process, shared by all threads, with capped calls.

Hot paths use openstacksdk's proxies as plain REST adapters (`connection.network.get("/ports", …)`): their resource
objects cost milliseconds a call. Every call is capped at `timeout` seconds, because a stale owner's late call must die.
The service user's credentials are keystoneauth's own options in section [openstack].
"""

import dataclasses
import time
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from keystoneauth1 import loading
from keystoneauth1.exceptions import MissingRequiredOptions
from openstack.connection import Connection
from oslo_config import cfg
from requests.adapters import HTTPAdapter

from services.common.settings import Settings, SettingsError, option

GROUP = "openstack"


@dataclasses.dataclass(frozen=True)
class OpenStackSettings:
    """What is not keystoneauth's own."""

    group: ClassVar[str] = GROUP
    partial: ClassVar[bool] = True

    region_name: str = option("", help="Region; empty: the only one")
    interface: str = option("internal", help="Endpoints to use", choices=("public", "internal", "admin"))
    call_timeout: float = option(15.0, help="Seconds after which a call is given up", minimum=1.0, maximum=60.0)
    pool_size: int = option(32, help="Connections kept open to each API", minimum=1, maximum=1000)


def register(conf: cfg.ConfigOpts) -> None:
    """Register keystoneauth's options (auth_type, auth_url, username, …, cafile, insecure)."""
    loading.register_auth_conf_options(conf, GROUP)
    loading.register_session_conf_options(conf, GROUP)


def connect(settings: Settings) -> Connection:
    """A connection of the service user. No call is made yet. SettingsError when the credentials are incomplete."""
    own = settings[OpenStackSettings]
    conf = settings.conf
    if not conf[GROUP].auth_type:
        # Credentials of a user with a password are what almost everybody has; others say their auth_type.
        conf.set_default("auth_type", "password", group=GROUP)
    try:
        auth = loading.load_auth_from_conf_options(conf, GROUP)
    except (MissingRequiredOptions, cfg.Error) as error:
        msg = f"[{GROUP}] {error}"
        raise SettingsError(msg) from error
    http = _Session()
    # keystoneauth authenticates; without this, requests looks for a .netrc at every call and would send what it finds.
    http.auth = _unchanged
    adapter = HTTPAdapter(pool_connections=8, pool_maxsize=own.pool_size, pool_block=False)
    http.mount("http://", adapter)
    http.mount("https://", adapter)
    session: Any = loading.load_session_from_conf_options(
        conf, GROUP, auth=auth, session=http, user_agent="astara", timeout=own.call_timeout
    )
    return Connection(
        session=session,
        region_name=own.region_name or None,
        interface=own.interface,
        network_interface=own.interface,
        compute_interface=own.interface,
        image_interface=own.interface,
    )


class _Session(requests.Session):
    """What keystoneauth needs of requests, at half the CPU: no cookies, hooks and redirects, which it does not use.

    Proxies and certificates are read from the environment once for each API, not at each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[tuple[Any, ...], Any] = {}

    def request(self, method: Any, url: Any, *arguments: Any, **options: Any) -> requests.Response:
        if arguments or not options.keys() <= _PLAIN or options.get("allow_redirects", True):
            return super().request(method, url, *arguments, **options)
        began = time.perf_counter()
        prepared = requests.PreparedRequest()
        prepared.prepare_method(method)
        prepared.prepare_url(url, options.get("params"))
        prepared.prepare_headers({**self.headers, **(options.get("headers") or {})})
        prepared.prepare_body(options.get("data"), None)
        prepared.prepare_hooks(None)
        how = self.merge_environment_settings(prepared.url, {}, None, options.get("verify"), options.get("cert"))
        response = self.get_adapter(str(prepared.url)).send(prepared, timeout=options.get("timeout"), **how)
        response.elapsed = timedelta(seconds=time.perf_counter() - began)
        # Reading the body gives the connection back to the pool.
        _ = response.content
        return response

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if proxies:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc, stream, str(verify), str(cert))
        if key not in self._environment:
            self._environment[key] = super().merge_environment_settings(url, proxies, stream, verify, cert)
        return dict(self._environment[key])


_PLAIN = frozenset(("allow_redirects", "cert", "data", "headers", "params", "timeout", "verify"))


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
