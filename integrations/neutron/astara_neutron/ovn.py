"""What OVN knows of routers that are Astara's: nothing.

Neutron's OVN driver makes no logical router for a router with a flavor, but the rest of ML2/OVN does not know flavors:

- Each port of such a router becomes a port of a logical switch, which no hypervisor will ever claim. Whenever Neutron
  starts, OVN reports it down, whatever the orchestrator says of it. These are withdrawn, with their revision row:
  without one Neutron's maintenance neither misses nor restores them, and updates and deletion of the port pass. What
  `neutron-ovn-db-sync-util` puts back is withdrawn when Neutron starts next.
- Port forwardings are given to a logical router that is not there, which fails. They are kept from OVN.
- A floating IP that comes over from a router of OVN's stays there, or fails half way. OVN is told to forget it.
"""

from collections.abc import Callable
from typing import Any

from neutron.common.ovn import constants as ovn_constants
from neutron.db import ovn_revision_numbers_db as revisions
from neutron.services.portforwarding import constants as port_forwarding
from neutron_lib import constants as lib_constants
from neutron_lib import context as lib_context
from neutron_lib.callbacks import events, priority_group, registry, resources
from oslo_log import log

from .flavors import Router

LOG = log.getLogger(__name__)

_BEFORE_OVN = priority_group.PRIORITY_DEFAULT - 10
# The OVN driver connects to its databases with the default priority, and compares them there when it is told to.
_AFTER_CONNECTED = priority_group.PRIORITY_DEFAULT + 10
_AFTER_SUBSCRIBED = priority_group.PRIORITY_DEFAULT + 10
_CHANGES = (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE)


class Backend:
    """Beside Neutron's L3 plugin for OVN; `owns` tells which routers are meant. Other routers are left alone."""

    def __init__(self, l3plugin: Any, owns: Callable[[Any, Router], bool]) -> None:
        self._l3 = l3plugin
        self._owns = owns
        registry.subscribe(self._interface_added, resources.ROUTER_INTERFACE, events.AFTER_CREATE)
        registry.subscribe(self._router_changed, resources.ROUTER, events.AFTER_CREATE)
        registry.subscribe(self._router_changed, resources.ROUTER, events.AFTER_UPDATE)
        registry.subscribe(self._floating_ip_changed, resources.FLOATING_IP, events.AFTER_UPDATE, priority=_BEFORE_OVN)
        registry.subscribe(
            self._port_forwardings_begin,
            port_forwarding.PORT_FORWARDING_PLUGIN,
            events.AFTER_INIT,
            priority=_AFTER_SUBSCRIBED,
        )
        registry.subscribe(self._connected, resources.PROCESS, events.AFTER_INIT, priority=_AFTER_CONNECTED)

    def _interface_added(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """ROUTER_INTERFACE AFTER_CREATE."""
        if self._owns(payload.context, payload.states[0]):
            self._withdraw(payload.context.elevated(), payload.metadata["port"])

    def _router_changed(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """ROUTER AFTER_CREATE and AFTER_UPDATE: what follows a gateway that was set, changed or added."""
        router = payload.latest_state
        if not self._owns(payload.context, router):
            return
        # A gateway's port has no project: it is hidden from the tenant.
        context = payload.context.elevated()
        wanted = {"device_id": [router["id"]], "device_owner": [lib_constants.DEVICE_OWNER_ROUTER_GW]}
        for port in self._l3._plugin.get_ports(context, filters=wanted):  # noqa: SLF001 - as Neutron's providers do
            self._withdraw(context, port)

    def _floating_ip_changed(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """FLOATING_IP AFTER_UPDATE: one with a revision row was a router's of OVN until now."""
        context, floating_ip = payload.context.elevated(), payload.states[1]
        router_id, key = floating_ip["router_id"], payload.resource_id
        if not router_id or not revisions.get_revision_row(context, key, ovn_constants.TYPE_FLOATINGIPS):
            return
        if not self._owns(context, self._l3.get_router(context, router_id)):
            return
        if self._l3._nb_ovn.get_floatingip(key):  # noqa: SLF001 - as above
            self._l3._ovn_client.delete_floatingip(context, key)  # noqa: SLF001 - as above
        revisions.delete_revision(context, key, ovn_constants.TYPE_FLOATINGIPS)
        self._l3.update_floatingip_status(context, key, lib_constants.FLOATINGIP_STATUS_DOWN)

    def _port_forwardings_begin(self, _resource: str, _event: str, _trigger: Any, **_nothing: Any) -> None:
        """PORT_FORWARDING_PLUGIN AFTER_INIT: stand between it and OVN's driver, which has just subscribed."""
        for event in _CHANGES:
            registry.unsubscribe(self._ovn_port_forwarding, port_forwarding.PORT_FORWARDING, event)
            registry.subscribe(self._port_forwarding_changed, port_forwarding.PORT_FORWARDING, event)

    def _port_forwarding_changed(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        """PORT_FORWARDING AFTER_CREATE, AFTER_UPDATE and AFTER_DELETE."""
        context = payload.context.elevated()
        router_id = payload.latest_state.router_id
        if not router_id or not self._owns(context, self._l3.get_router(context, router_id)):
            self._ovn_port_forwarding(resource, event, trigger, payload)

    @property
    def _ovn_port_forwarding(self) -> Any:
        return self._l3.port_forwarding._handle_notification  # noqa: SLF001 - OVN's driver has no other name for it

    def _connected(self, _resource: str, _event: str, _trigger: Any, **_nothing: Any) -> None:
        """PROCESS AFTER_INIT, in processes that talk to OVN: withdraw what came back meanwhile."""
        northbound = self._l3._nb_ovn  # noqa: SLF001 - as above
        if not northbound:
            return
        # A port of one of OVN's own routers is of another type.
        found = northbound.db_find_rows("Logical_Switch_Port", ("type", "=", "")).execute(check_error=True)
        ports = [row.name for row in found if _device_owner(row) in lib_constants.ROUTER_PORT_OWNERS]
        if not ports:
            return
        context = lib_context.get_admin_context()
        for port in self._l3._plugin.get_ports(context, filters={"id": ports}):  # noqa: SLF001 - as above
            routers = self._l3.get_routers(context, filters={"id": [port["device_id"]]})
            if routers and self._owns(context, routers[0]):
                LOG.info("Port %s of a router of Astara's had come back to OVN", port["id"])
                self._withdraw(context, port)

    def _withdraw(self, context: Any, port: dict[str, Any]) -> None:
        client = self._l3._ovn_client  # noqa: SLF001 - as above
        if self._l3._nb_ovn.lookup("Logical_Switch_Port", port["id"], default=None):  # noqa: SLF001 - as above
            client.delete_port(context, port["id"], port_object=port)
        revisions.delete_revision(context, port["id"], ovn_constants.TYPE_PORTS)


def _device_owner(row: Any) -> str:
    owner: str = row.external_ids.get(ovn_constants.OVN_DEVICE_OWNER_EXT_ID_KEY, "")
    return owner
