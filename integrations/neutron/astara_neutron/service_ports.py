"""What Neutron does with ports that carry Astara's mark: they are the orchestrator's, whatever network they are on.

True at all times: who may not give a port a mark cannot make one look like Astara's; a marked port of another project
is changed and deleted only by those whom `change_astara_port` lets (the orchestrator, Nova, admins); management ports
do not exist for anybody without global access who is not of their project. Neutron itself may do everything.
"""

import functools
import unicodedata
from typing import Any

import sqlalchemy as sa
from neutron.common import _constants as neutron_constants
from neutron.db import models_v2
from neutron.db.models import local_ip
from neutron.objects import local_ip as local_ip_objects
from neutron.objects import ports as port_objects
from neutron_lib import context as neutron_context
from neutron_lib import exceptions
from neutron_lib.api.definitions import ip_allocation, port_security
from neutron_lib.api.definitions import port as port_definition
from neutron_lib.callbacks import events, priority_group, registry, resources
from neutron_lib.db import api as db_api
from neutron_lib.db import model_query, resource_extend, standard_attr
from neutron_lib.db import utils as db_utils
from neutron_lib.plugins import constants as plugin_types
from neutron_lib.plugins import directory
from oslo_log import log
from sqlalchemy import orm
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from . import marks, policies

LOG = log.getLogger(__name__)

_MANAGEMENT_LIKE = f"{marks.PREFIX}%:{marks.MANAGEMENT}"
_SERVICE_LIKE = f"{marks.PREFIX}%:{marks.SERVICE}"
_BEFORE_OTHERS = priority_group.PRIORITY_DEFAULT - 100


class PortOfAstaraError(exceptions.NotAuthorized):
    """403: somebody else's hands are on the orchestrator's port."""

    message = (
        "Port %(port)s is the orchestrator's: through it the appliance of router %(router)s is on this network. "
        "It goes when the router's interface on the network is removed"
    )


class MarkReservedError(exceptions.NotAuthorized):
    """403: a mark by somebody who is not the orchestrator."""

    message = "description: texts of the form astara:…:mgt and astara:…:svc mark the orchestrator's ports"


class PortSecurityOnError(exceptions.BadRequest):
    """400: it could not carry a router's addresses."""

    message = "port_security_enabled: false is expected on a service port, which carries addresses that are a router's"


@resource_extend.has_resource_extenders
@registry.has_registry_receivers
class ServicePorts:
    """Protects, hides and completes them."""

    def __init__(self) -> None:
        model_query.register_hook(
            models_v2.Port, "astara_management_ports", query_hook=_without_management, filter_hook=None
        )
        for model, column in ((local_ip.LocalIP, "local_port_id"), (local_ip.LocalIPAssociation, "fixed_port_id")):
            db_api.sqla_listen(model, "before_insert", functools.partial(_before_local_ip, column))
        if not _has_port_security():
            LOG.error(
                "Astara's service ports cannot be created: ML2 has no port security. Add port_security to "
                "[ml2] extension_drivers"
            )

    @staticmethod
    @resource_extend.extends([port_definition.COLLECTION_NAME])
    def _show_allocation(shown: dict[str, Any], port: Any) -> None:
        """As Neutron's plugin for segments does; without it, Nova refuses ports that have no address."""
        shown[ip_allocation.IP_ALLOCATION] = port["ip_allocation"] or ip_allocation.IP_ALLOCATION_IMMEDIATE

    @registry.receives(resources.PORT, [events.PRECOMMIT_CREATE])
    def _keep_allocation(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """Ports created several at a time: Neutron says, but does not write, that they were to have no address."""
        port = payload.latest_state
        said = getattr(port, ip_allocation.IP_ALLOCATION, ip_allocation.IP_ALLOCATION_IMMEDIATE)
        if isinstance(port, port_objects.Port) and said != ip_allocation.IP_ALLOCATION_IMMEDIATE:
            port.db_obj.ip_allocation = said

    @registry.receives(resources.PORT, [events.BEFORE_CREATE])
    def _before_create(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        _check_description(payload.context, payload.latest_state)

    @registry.receives(resources.PORT, [events.BEFORE_UPDATE])
    def _before_update(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        before, wanted = payload.states[0], payload.states[1]
        if not any(before.get(key) != value for key, value in wanted.items() if key != "id"):
            # Neutron looks at all ports of a network again when it gets a subnet whose hosts find their own addresses.
            return
        _check_owner(payload.context, before)
        if wanted.get(port_security.PORTSECURITY) and _serves(before["description"]):
            raise PortSecurityOnError
        if "description" in wanted and wanted["description"] != before["description"]:
            _check_description(payload.context, {**dict(before), **wanted})

    @registry.receives(resources.PORT, [events.BEFORE_DELETE], priority=_BEFORE_OTHERS)
    def _before_delete(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        port = payload.metadata["port"]
        _check_owner(payload.context, port)
        if marks.parse(port["description"]) is not None:
            _release_from_local_ips(port["id"])

    @registry.receives(resources.TRUNK, [events.PRECOMMIT_CREATE])
    @registry.receives(resources.SUBPORTS, [events.PRECOMMIT_CREATE])
    def _before_trunk(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A port of a trunk cannot be deleted, and nothing else says that it becomes one."""
        if added := payload.metadata.get("subports"):
            ids = [one.port_id for one in added]
        else:
            trunk = payload.desired_state
            ids = [trunk.port_id, *(one.port_id for one in trunk.sub_ports)]
        for port in directory.get_plugin().get_ports(payload.context.elevated(), filters={"id": ids}):
            _check_owner(payload.context, port)

    @registry.receives(resources.NETWORK, [events.BEFORE_DELETE], priority=_BEFORE_OTHERS)
    def _keep_network(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """Neutron would name the ports that keep a network, management ports as well."""
        with db_api.CONTEXT_READER.using(payload.context) as session:
            port = models_v2.Port
            here = session.query(port.id).filter(port.network_id == payload.resource_id)
            shown = _without_management(payload.context, port, here)
            if shown is not here and here.count() > shown.count():
                raise exceptions.NetworkInUse(net_id=payload.resource_id, reason="Ports of the cloud are on it")

    @registry.receives(resources.NETWORK, [events.BEFORE_DELETE])
    def _release_network(self, _resource: str, _event: str, _trigger: Any, payload: Any) -> None:
        """A network on which nothing is left but service ports may go, and they with it, as DHCP's ports do.

        The router is not attached any more, or its own port would be there: they are going in any case, also when
        somebody else refuses to let the network go. Nova hears of it as it does when a user
        deletes a server's port, and unplugs it.
        """
        context = neutron_context.get_admin_context()
        core = directory.get_plugin()
        for port_id in _left_alone(context, payload.resource_id):
            try:
                port = core.get_port(context, port_id)
                core.delete_port(context, port_id)
            except exceptions.PortNotFound:
                continue  # the orchestrator was faster
            LOG.info("Deleted service port %s along with network %s", port_id, payload.resource_id)
            told = events.APIEventPayload(
                context,
                "port.delete.end",
                "delete_port",
                resource_id=port_id,
                states=({}, {port_definition.RESOURCE_NAME: port}),
                collection_name=port_definition.COLLECTION_NAME,
            )
            registry.publish(resources.PORT, events.BEFORE_RESPONSE, self, payload=told)


def _before_local_ip(column: str, _mapper: Any, connection: Any, target: Any) -> None:
    """Nothing says that a port gets a local IP, which could then not be deleted: so each row is looked at."""
    session = orm.object_session(target)
    context = session.info.get("using_context") if session is not None else None
    if context is None:
        return
    port, attributes = models_v2.Port, standard_attr.StandardAttribute
    query = sa.select(port.id, port.project_id, attributes.description)
    query = query.join(attributes, attributes.id == port.standard_attr_id).where(port.id == getattr(target, column))
    for row in connection.execute(query).mappings():
        _check_owner(context, row)


def _release_from_local_ips(port_id: str) -> None:
    """Local IPs from before the plugin refused them do not keep a port of ours, and agents hear that they go."""
    plugin = directory.get_plugin(plugin_types.LOCAL_IP)
    if plugin is None:
        return
    context = neutron_context.get_admin_context()
    for found in local_ip_objects.LocalIP.get_objects(context, local_port_id=port_id):
        for one in local_ip_objects.LocalIPAssociation.get_objects(context, local_ip_id=found.id):
            plugin.delete_local_ip_port_association(context, one.fixed_port_id, found.id)
        plugin.delete_local_ip(context, found.id)
        LOG.info("Deleted local IP %s along with port %s, which is the orchestrator's", found.id, port_id)


def _without_management(context: Any, port: Any, query: Any) -> Any:
    """A hook in each query for ports: leaves out management ports of others, where a query is a user's at all."""
    if not db_utils.model_query_scope_is_project(context, port):
        return query
    return query.filter(sa.or_(port.project_id == context.project_id, ~_is_marked(port, _MANAGEMENT_LIKE)))


class _Exactly(FunctionElement[str]):
    """A text that is compared as it is written."""

    type = sa.String()
    inherit_cache = True


@compiles(_Exactly)
def _as_it_is(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_Exactly, "mysql", "mariadb")
def _in_bytes(element: Any, compiler: Any, **options: Any) -> str:
    """Their usual collations find many letters alike."""
    return f"CAST({compiler.process(element.clauses, **options)} AS BINARY)"


def _is_marked(port: Any, pattern: str) -> Any:
    return port.standard_attr.has(_Exactly(standard_attr.StandardAttribute.description).like(pattern))


def _left_alone(context: Any, network_id: str) -> list[str]:
    """The service ports of a network, when nothing else is on it that Neutron would not remove by itself."""
    port = models_v2.Port
    with db_api.CONTEXT_READER.using(context) as session:
        here = session.query(port.id).filter(port.network_id == network_id)
        found = [row.id for row in here.filter(_is_marked(port, _SERVICE_LIKE))]
        if not found:
            return []
        others = here.filter(port.id.notin_(found), port.device_owner.notin_(neutron_constants.AUTO_DELETE_PORT_OWNERS))
        return [] if others.first() else found


def _check_owner(context: Any, port: Any) -> None:
    """PortOfAstaraError when a port is the orchestrator's and the caller neither of its project nor let by policy."""
    mark = marks.parse(port["description"])
    if mark is None or port["project_id"] == context.project_id:
        return
    if context.is_admin and not context.user_id:
        return  # Neutron itself, or an agent of it
    if not policies.allows(context, policies.CHANGE_PORT):
        raise PortOfAstaraError(port=port["id"], router=mark.resource_id)


def _check_description(context: Any, port: dict[str, Any]) -> None:
    """MarkReservedError, or PortSecurityOnError for a service port that filters."""
    description = port.get("description")
    if not _reads_like_mark(description):
        return
    if not policies.allows(context, policies.CREATE_PORT):
        raise MarkReservedError
    if _serves(description) and _has_port_security() and port.get(port_security.PORTSECURITY) is not False:
        raise PortSecurityOnError


def _serves(description: str | None) -> bool:
    mark = marks.parse(description)
    return mark is not None and mark.role == marks.SERVICE


def _reads_like_mark(description: Any) -> bool:
    """Whether a database might take a text for a mark; some compare letters without case and accents."""
    if not isinstance(description, str) or ":" not in description:
        return False
    letters = (one for one in unicodedata.normalize("NFKD", description) if not unicodedata.combining(one))
    plain = "".join(letters).casefold().strip()
    return plain.startswith(marks.PREFIX) and plain.endswith((f":{marks.MANAGEMENT}", f":{marks.SERVICE}"))


def _has_port_security() -> bool:
    return port_security.ALIAS in getattr(directory.get_plugin(), "supported_extension_aliases", ())
