"""Whom a payload concerns, and so which event it becomes. One small function for each kind of object in Neutron.

Each takes the object as Neutron describes it and answers an event, or None when this one concerns nobody. The project
is the object's own: the context of a notification is the caller's, and Nova binds tenants' ports as project `service`.
Only an object that names none is taken for the caller's (`table.Becomes.is_callers`).
"""

from collections.abc import Callable
from typing import Any

from astara.event.v1 import event_pb2 as pb

from services.common.marks import PortMark

from .envelope import MessageError

# The object, and the id of this deployment.
Maker = Callable[[dict[str, Any], str], pb.Event | None]

_ROUTER_OWNER = "network:router_"
_FLOATING_OWNER = "network:floatingip"


def router_created(router: dict[str, Any], _deployment: str) -> pb.Event:
    """A router that is new."""
    return _router(pb.EVENT_KIND_CREATE, router)


def router_updated(router: dict[str, Any], _deployment: str) -> pb.Event:
    """A router that was changed: attributes, gateway, routes."""
    return _router(pb.EVENT_KIND_UPDATE, router)


def router_deleted(router: dict[str, Any], _deployment: str) -> pb.Event:
    """A router that is gone."""
    return _router(pb.EVENT_KIND_DELETE, router)


def router_changed(change: dict[str, Any], _deployment: str) -> pb.Event:
    """A router of which something changed, says the change feed (docs/contracts.md)."""
    kind = pb.EVENT_KIND_DELETE if change.get("deleted") is True else pb.EVENT_KIND_UPDATE
    return _event(kind, pb.Subject(resource_id=_id(change), project_id=_project(change)))


def router_interface(interface: dict[str, Any], _deployment: str) -> pb.Event:
    """A router that was attached to a network or detached; the object's id is the router's."""
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(
            resource_id=_id(interface),
            project_id=_project(interface),
            network_id=interface.get("network_id") or "",
            subnet_id=interface.get("subnet_id") or "",
            port_id=interface.get("port_id") or "",
            scope=pb.ATTACHMENT_SCOPE_INTERNAL,
        ),
    )


def port(one: dict[str, Any], deployment: str) -> pb.Event | None:
    """A port: an allocation on an internal network, or a router's own port. Our appliances' ports concern nobody."""
    mark = PortMark.parse(one.get("description"))
    if mark is not None and mark.deployment == deployment:
        return None
    owner = one.get("device_owner") or ""
    if owner == _FLOATING_OWNER:
        # The floating IP's own notification says it.
        return None
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(
            # The project of a gateway port is empty, and its router is no internal attachment of its network.
            resource_id=(one.get("device_id") or "") if owner.startswith(_ROUTER_OWNER) else "",
            project_id=_project(one),
            network_id=one.get("network_id") or "",
            port_id=_id(one),
            scope=pb.ATTACHMENT_SCOPE_INTERNAL,
        ),
    )


def subnet(one: dict[str, Any], _deployment: str) -> pb.Event:
    """A subnet: of interest to whoever is attached to its network, gateways too."""
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(
            project_id=_project(one),
            network_id=one.get("network_id") or "",
            subnet_id=_id(one),
            scope=pb.ATTACHMENT_SCOPE_ANY,
        ),
    )


def network(one: dict[str, Any], _deployment: str) -> pb.Event:
    """A network: of interest to whoever is attached to it, gateways too."""
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(project_id=_project(one), network_id=_id(one), scope=pb.ATTACHMENT_SCOPE_ANY),
    )


def floating_ip(one: dict[str, Any], _deployment: str) -> pb.Event:
    """A floating IP. Without a router it may just have lost one: its id, then the external network, lead there."""
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(
            resource_id=one.get("router_id") or "",
            project_id=_project(one),
            network_id=one.get("floating_network_id") or "",
            port_id=one.get("port_id") or "",
            floating_ip_id=_id(one),
            scope=pb.ATTACHMENT_SCOPE_GATEWAY,
        ),
    )


def port_forwarding(one: dict[str, Any], _deployment: str) -> pb.Event:
    """A port forwarding. It names the port inside, seldom its floating IP, and never a router, network or project."""
    return _event(
        pb.EVENT_KIND_UPDATE,
        pb.Subject(
            project_id=_project(one),
            port_id=one.get("internal_port_id") or "",
            floating_ip_id=one.get("floatingip_id") or "",
            scope=pb.ATTACHMENT_SCOPE_GATEWAY,
        ),
    )


def named_router(kind: pb.EventKind.ValueType, router_id: Any) -> pb.Event:
    """A router of which a cast tells only the id (or, from older Neutrons, the object)."""
    if isinstance(router_id, dict):
        router_id = router_id.get("id")
    if not isinstance(router_id, str) or not router_id:
        msg = "a router without id"
        raise MessageError(msg)
    return _event(kind, pb.Subject(resource_id=router_id))


def _router(kind: pb.EventKind.ValueType, router: dict[str, Any]) -> pb.Event:
    event = _event(kind, pb.Subject(resource_id=_id(router), project_id=_project(router)))
    revision = router.get("revision_number")
    if isinstance(revision, int):
        event.revision = revision
    return event


def _event(kind: pb.EventKind.ValueType, subject: pb.Subject) -> pb.Event:
    return pb.Event(kind=kind, subject=subject, priority=pb.PRIORITY_USER)


def _id(one: dict[str, Any]) -> str:
    value = one.get("id")
    if not isinstance(value, str) or not value:
        msg = "an object without id"
        raise MessageError(msg)
    return value


def _project(one: dict[str, Any]) -> str:
    return one.get("project_id") or one.get("tenant_id") or ""
