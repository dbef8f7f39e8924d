"""A router's ports of ours: the management port, and one service port on each attached network.

All have derived MAC addresses, which Neutron keeps unique on a network: to create one is compare-and-set, so two
workers can never make two of the same. What is found is ours only when it carries our mark.
"""

from collections.abc import Iterable

from services.common import marks

from . import bootdata
from .cloud import Json
from .errors import CloudError, ConflictError, NotFoundError, StepError
from .machine import Observer
from .neutron import Neutron
from .nova import Nova
from .reading import RouterReading
from .resource import Instance, ManagedResource
from .router_environment import SLOT, RouterEnvironment

_SALTS = range(4)


class RouterPorts:
    """Finds, creates, plugs and deletes them. Raises StepError and its kinds."""

    def __init__(self, neutron: Neutron, nova: Nova, environment: RouterEnvironment, observer: Observer) -> None:
        self._neutron = neutron
        self._nova = nova
        self._env = environment
        self._observer = observer

    async def find(self, resource: ManagedResource) -> tuple[Json | None, list[Json]]:
        """The management port, None when there is none, and the service ports."""
        found = await self._neutron.ports_of(resource.resource_id, SLOT, (marks.MANAGEMENT, marks.SERVICE))
        described = marks.PortMark(self._env.deployment, resource.resource_id, SLOT, marks.MANAGEMENT).description()
        management = [port for port in found if port["description"] == described]
        service = [port for port in found if port["description"] != described]
        return (self.with_facts(management[0]) if management else None), service

    async def management(self, resource: ManagedResource) -> tuple[Json, bool]:
        """The management port, created where it is missing, and whether it was there before."""
        if resource.management is not None:
            return resource.management, True
        body = self._neutron.port_body(resource.resource_id, SLOT, marks.MANAGEMENT, self._env.management.network_id)
        if groups := self._env.router.management_security_groups:
            body["security_groups"] = list(groups)
        port, existed = await self._create(resource, body)
        return self.with_facts(port), existed

    async def service(self, resource: ManagedResource, reading: RouterReading, *, existed: bool) -> dict[str, Json]:
        """Exactly one port of ours on each attached network, by network; `existed`: there may be some already."""
        wanted = set(reading.attached_network_ids)
        found: dict[str, Json] = {}
        if existed:
            found = await self.plugged_or_spare(resource)
            for network_id in set(found) - wanted:
                await self.delete(str(found.pop(network_id)["id"]))
        return found | await self._create_service(resource, reading, wanted - set(found))

    async def plugged_or_spare(self, resource: ManagedResource) -> dict[str, Json]:
        """Our service ports, by network."""
        found = await self._neutron.ports_of(resource.resource_id, SLOT, (marks.SERVICE,))
        return {str(port["network_id"]): port for port in found}

    async def plug(self, resource: ManagedResource, instance: Instance, reading: RouterReading) -> None:
        """Detach what is not attached, attach what is missing; can be broken off anywhere and begun again."""
        wanted = set(reading.attached_network_ids)
        plugged = dict(instance.ports or {})
        ours = await self.plugged_or_spare(resource)
        # Whatever is not plugged in when this breaks off is remembered, so that no port is left behind.
        instance.spare = {network: str(port["id"]) for network, port in ours.items()}
        for network_id in sorted(set(plugged) - wanted):
            if network_id in ours:
                await self._nova.detach(instance.server_id, str(ours[network_id]["id"]))
                await self.delete(str(ours[network_id]["id"]))
                del instance.spare[network_id]
            del plugged[network_id]
            instance.ports = dict(plugged)
        missing = wanted - set(plugged)
        ports = ours | await self._create_service(resource, reading, missing - set(ours))
        instance.spare |= {network: str(ports[network]["id"]) for network in missing}
        for network_id in sorted(missing):
            port = ports[network_id]
            if port.get("device_id") != instance.server_id:
                await self._nova.attach(instance.server_id, str(port["id"]))
            plugged[network_id] = str(port["mac_address"])
            instance.ports = dict(plugged)
        self._observer.happened(resource, "replug", f"now on {len(plugged)} networks")

    async def delete_spare(self, resource: ManagedResource, instance: Instance, wanted: set[str]) -> None:
        """Delete service ports of ours that are neither plugged in nor wanted: a step that broke off left them."""
        if instance.spare is None:
            ours = await self.plugged_or_spare(resource)
            instance.spare = {network: str(port["id"]) for network, port in ours.items()}
        for network_id in set(instance.spare) - set(instance.ports or ()) - wanted:
            await self.delete(instance.spare.pop(network_id))
        instance.spare = {}

    async def delete_all(self, resource: ManagedResource) -> None:
        """Delete every port of ours that serves the resource."""
        for port in await self._neutron.ports_of(resource.resource_id, SLOT, (marks.SERVICE, marks.MANAGEMENT)):
            await self.delete(str(port["id"]))

    async def release(self, port: Json) -> None:
        """Take a port from a server that Nova does not know any more."""
        await self._neutron.release_port(str(port["id"]))
        port["device_id"] = ""

    async def delete(self, port_id: str) -> None:
        """Delete one port; nothing when it is gone already."""
        try:
            await self._neutron.delete_port(port_id)
        except NotFoundError:
            return

    def with_facts(self, port: Json) -> Json:
        """What is kept of a management port, with `cidrs`, `mtu` and `gateway` added."""
        facts = self._env.management
        gateways = [s["gateway_ip"] for s in facts.subnets.values() if s.get("gateway_ip")]
        if not port.get("fixed_ips"):
            raise CloudError("neutron", "management port", 0, f"port {port['id']} has no address")
        return {
            "id": port["id"],
            "network_id": port["network_id"],
            "mac_address": port["mac_address"],
            "fixed_ips": port["fixed_ips"],
            "device_id": port.get("device_id", ""),
            "cidrs": bootdata.with_prefixes(port, facts.subnets),
            "mtu": facts.mtu,
            "gateway": gateways[0] if gateways else None,
        }

    async def _create_service(
        self, resource: ManagedResource, reading: RouterReading, networks: Iterable[str]
    ) -> dict[str, Json]:
        internal = set(reading.internal_network_ids)
        bodies = [
            self._neutron.port_body(resource.resource_id, SLOT, marks.SERVICE, network, is_internal=network in internal)
            for network in sorted(networks)
        ]
        try:
            created = await self._neutron.create_ports(bodies)
        except ConflictError:
            # One of them exists: one by one, so that the others are made and the one is found.
            created = [(await self._create(resource, body))[0] for body in bodies]
        return {str(port["network_id"]): port for port in created}

    async def _create(self, resource: ManagedResource, body: Json) -> tuple[Json, bool]:
        """Create one port, or find the one that is ours; the salt grows past addresses that somebody else holds."""
        reason, network_id = "", str(body["network_id"])
        for salt in _SALTS:
            body["mac_address"] = self._neutron.mac(resource.resource_id, SLOT, network_id, salt)
            try:
                return await self._neutron.create_port(body), False
            except ConflictError as error:
                reason = error.detail
                port = await self._neutron.port_by_mac(network_id, str(body["mac_address"]))
            if port is None:
                break  # Neutron has other reasons to answer 409: a quota, for one
            if self._neutron.is_own(port, str(body["description"])):
                return port, True
        raise StepError(f"a port on network {network_id} can be neither created nor found: {reason}")


def macs_by_network(ports: Iterable[Json], management_network_id: str) -> dict[str, str]:
    """The MAC addresses of an instance's ports, but that of the management port, by network."""
    return {str(p["network_id"]): str(p["mac_address"]) for p in ports if p["network_id"] != management_network_id}
