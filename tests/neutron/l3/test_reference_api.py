"""Neutron's own tests of its L3 API, run against `astara-router`.

The test cases are Neutron's; only the router plugin that they load is exchanged, and the plugins that go with one. What
does not apply is in two tables with its reason. A test of the first must fail for just that reason: one that passes, or
that Neutron has no more, is a failure here, and so is a test case of these modules that no table knows.
"""

import importlib
import inspect
import unittest
from typing import Any
from unittest import mock

import pytest
from astara_neutron import options
from astara_neutron.db import models  # noqa: F401 - its tables are made with Neutron's
from neutron import manager
from neutron.conf.db import extraroute_db as extraroute_options
from neutron.db import address_scope_db, l3_db
from neutron.tests.common import test_db_base_plugin_v2 as test_base
from neutron.tests.unit.extensions import test_l3
from neutron_lib.api.definitions import address_scope
from oslo_config import cfg

ROUTERS = "astara_neutron.l3_plugin.AstaraRouterPlugin"
FLAVORS = "neutron.services.flavors.flavors_plugin.FlavorsPlugin"
COMPANIONS = {
    "neutron.services.portforwarding.pf_plugin.PortForwardingPlugin": "PortForwardingPlugin",
    "neutron.services.conntrack_helper.plugin.Plugin": "ConntrackHelperPlugin",
    "neutron.services.ndp_proxy.plugin.NDPProxyPlugin": "NdpProxyPlugin",
}

CASES = {
    "test_l3": ("L3NatDBSepTestCase", "L3NatDBFloatingIpTestCaseWithDNS", "L3DBFloatingIpTestCaseLogging"),
    "test_extraroute": ("ExtraRouteDBSepTestCase",),
    "test_l3_ext_gw_mode": ("ExtGwModeSepTestCase",),
    "test_floating_ip_port_forwarding": ("FloatingIPPorForwardingTestCase",),
    "test_expose_port_forwarding_in_fip": ("TestExtendFipPortForwardingExtension",),
    "test_fip_port_details": ("FloatingIPPortDetailsDBSepTestCase",),
    "test_floatingip_pools": ("FloatingIPPoolsDBSepTestCase",),
    "test_qos_fip": ("FloatingIPQoSDBSepTestCase",),
    "test_qos_gateway_ip": ("GatewayIPQoSDBSepTestCase",),
    "test_router_availability_zone": ("TestAZRouterCase",),
    "test_l3_conntrack_helper": ("L3NConntrackHelperTestCase",),
    "test_l3_ndp_proxy": ("L3NDPProxyTestCase",),
}

# A router waits for its appliance, and is not ACTIVE from the start. A floating IP, too.
_ALLOCATING, _DOWN = "'ALLOCATING'", "'DOWN'"
# A router that is to be distributed is refused; the test looks for it in the answer.
_NO_ROUTER = "'router'"
NOT_OURS = {
    "test_router_create": _ALLOCATING,
    "test_router_show": _ALLOCATING,
    "test_router_create_show_ext_gwinfo_default": _ALLOCATING,
    "test_router_create_show_ext_gwinfo_with_snat_disabled": _ALLOCATING,
    "test_router_create_show_ext_gwinfo_with_snat_enabled": _ALLOCATING,
    "test_router_create_show_no_ext_gwinfo": _ALLOCATING,
    "test_create_floatingip_with_assoc": _DOWN,
    "test_floatingip_update": _DOWN,
    "test_floatingip_update_subnet_gateway_disabled": _DOWN,
    "test_floatingip_update_to_same_port_id_twice": _DOWN,
    "test_port_in_used_by_port_forwarding": _NO_ROUTER,
}
"""Tests that do not apply, and what they must fail with. Each name belongs to one case."""

_CORE = "a router plugin that is the core plugin too; ours is beside one, as in the case of the same name with Sep"
_AGENTS = "what L3 agents ask Neutron for; there are none"
CASES_NOT_OURS = {
    "L3NatExtensionTestCase": "how Neutron calls a router plugin that is a mock",
    "ExtraAttributesMixinTestCase": "a mixin of Neutron's alone",
    "L3NatDBIntAgentSchedulingTestCase": _AGENTS,
    "L3RpcCallbackTestCase": _AGENTS,
    "L3AgentDbIntTestCase": _AGENTS,
    "L3AgentDbSepTestCase": _AGENTS,
    "TestL3DbOperationBounds": "what Neutron's own router plugin asks the database; it makes distributed routers",
    "TestL3DbOperationBoundsProject": "the same",
    "L3NatDBIntTestCase": _CORE,
    "ExtraRouteDBIntTestCase": _CORE,
    "TestGetEnableSnat": "a mixin of Neutron's alone",
    "TestL3GwModeMixin": "a mixin of Neutron's alone",
    "ExtGwModeIntTestCase": _CORE,
    "FloatingIPPortDetailsDBIntTestCase": _CORE,
    "FloatingIPPoolsDBIntTestCase": _CORE,
    "FloatingIPQoSDBIntTestCase": _CORE,
    "FloatingIPQoSDBWithRevisionIntTestCase": _CORE,
    "FloatingIPQoSDBWithRevisionSepTestCase": "the same tests again beside another plugin, which is not exchanged",
    "GatewayIPQoSDBIntTestCase": _CORE,
}
LATER_NAMES = {"TestL3DbOperationBoundsTenant": "TestL3DbOperationBoundsProject"}
"""What Neutron 2026.1 and later call these cases."""

_set_up = test_base.NeutronDbPluginV2TestCase.setUp


class CorePlugin(address_scope_db.AddressScopeDbMixin, test_l3.TestNoL3NatPlugin):
    """In the place of core plugins that are router plugins, too; those of NDP proxies have address scopes."""

    supported_extension_aliases = (*test_l3.TestNoL3NatPlugin.supported_extension_aliases, address_scope.ALIAS)


def _is_router_plugin(namespace: str, name: str) -> bool:
    return issubclass(manager.NeutronManager.load_class_for_provider(namespace, name), l3_db.L3_NAT_dbonly_mixin)


def _exchanged(plugins: Any) -> dict[str, str]:
    """The service plugins of a test case, with ours in the place of its router plugin and of what goes with one."""
    names = plugins.values() if isinstance(plugins, dict) else plugins or ()
    others = [name for name in names if not _is_router_plugin("neutron.service_plugins", name)]
    ours = [f"astara_neutron.companions.{COMPANIONS[name]}" if name in COMPANIONS else name for name in others]
    return {name: name for name in (ROUTERS, FLAVORS, *ours)}


def _set_up_ours(self: Any, plugin: Any = None, service_plugins: Any = None, ext_mgr: Any = None) -> None:
    if _is_router_plugin("neutron.core_plugins", plugin):
        plugin = f"{CorePlugin.__module__}.{CorePlugin.__name__}"
    cfg.CONF.set_override("availability_zones", ["nova1", "nova2", "nova3"], options.GROUP)
    _set_up(self, plugin=plugin, service_plugins=_exchanged(service_plugins), ext_mgr=ext_mgr)


def _ours(base: type, known: set[Any]) -> type:
    """A test case of Neutron's with our plugins, without the tests that another case has had already."""

    def set_up(self: Any) -> None:
        extraroute_options.register_db_extraroute_opts()
        with mock.patch.object(test_base.NeutronDbPluginV2TestCase, "setUp", _set_up_ours):
            super(made, self).setUp()

    made = type(f"{base.__name__}OnAstara", (base,), {"setUp": set_up, "__module__": __name__})
    for name in [name for name in dir(base) if name.startswith("test")]:
        # Neutron's test cases wrap those that they inherit.
        test = inspect.unwrap(getattr(base, name))
        if test in known:
            setattr(made, name, None)
        elif name in NOT_OURS:
            setattr(made, name, _fails_with(getattr(base, name), NOT_OURS[name]))
        known.add(test)
    return made


def _fails_with(test: Any, what: str) -> Any:
    def run(self: Any) -> None:
        with pytest.raises((AssertionError, KeyError), match=what):
            test(self)

    return run


def _modules() -> dict[str, Any]:
    return {name: importlib.import_module(f"neutron.tests.unit.extensions.{name}") for name in CASES}


_known: set[Any] = set()
for _name, _module in _modules().items():
    for _case in CASES[_name]:
        globals()[f"{_case}OnAstara"] = _ours(getattr(_module, _case), _known)


def test_the_tables_name_what_neutron_has() -> None:
    assert {test.__name__ for test in _known} >= set(NOT_OURS)
    cases = {
        LATER_NAMES.get(case.__name__, case.__name__)
        for module in _modules().values()
        for case in vars(module).values()
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == module.__name__
        if any(name.startswith("test") for name in dir(case))
    }
    assert cases == {*CASES_NOT_OURS, *(case for cases in CASES.values() for case in cases)}
