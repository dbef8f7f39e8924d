"""Neutron's service plugins that go with a router plugin, beside `astara-router`.

Neutron's own ones insist on Neutron's router plugin, and call agents. These are the same with neither.
"""

from typing import Any, ClassVar

from neutron.services.conntrack_helper import plugin as conntrack_helper
from neutron.services.ndp_proxy import plugin as ndp_proxy
from neutron.services.portforwarding import pf_plugin

from .silence import Nobody

_ROUTERS = ["astara-router"]


class PortForwardingPlugin(pf_plugin.PortForwardingPlugin):
    """Port forwardings of floating IPs."""

    required_service_plugins: ClassVar[list[str]] = _ROUTERS

    def __init__(self) -> None:
        super().__init__()
        self.push_api: Any = Nobody()


class ConntrackHelperPlugin(conntrack_helper.Plugin):
    """Conntrack helpers of routers."""

    required_service_plugins: ClassVar[list[str]] = _ROUTERS

    def __init__(self) -> None:
        super().__init__()
        self.push_api: Any = Nobody()


class NdpProxyPlugin(ndp_proxy.NDPProxyPlugin):
    """NDP proxies of routers."""

    required_service_plugins: ClassVar[list[str]] = _ROUTERS

    def __init__(self) -> None:
        super().__init__()
        self.push_api: Any = Nobody()
