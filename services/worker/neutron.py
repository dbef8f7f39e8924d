"""Neutron as the router driver needs it: one consistent-enough reading of a router, and our own ports.

With the extension `astara-router-snapshot` a reading is one call. Without it, it costs six in two rounds, whatever the
router's size: the router, and its ports with those of its instance; then networks, subnets, floating IPs and the
addresses to serve. Only port forwardings that Neutron does not show in full with their floating IP cost a call each
floating IP, and QoS policies and NDP proxies one a kind where a router has any, as conntrack helpers do where Neutron
does not show them with their router. Both ways give the
same reading, so that nothing changes for a router when snapshots come or go.

Filters repeat a name to mean "or"; long lists of ids are split so that no URL grows beyond what servers take. A port is
ours when it carries our mark and belongs to the service user's project: tenants may write any mark.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from services.common import logging, marks

from .cloud import Api, Json, Params
from .errors import CloudError, ForbiddenError, NotFoundError
from .reading import GATEWAY_OWNER, INTERFACE_OWNERS, RouterReading, add_extras, reading_of, reading_of_snapshot

_IDS_PER_CALL = 100

SNAPSHOT = "astara-router-snapshot"
STATUS = "astara-router-status"
"""Extensions that Astara's own plugin brings into Neutron (docs/contracts.md)."""

LOOK_AGAIN_SECONDS = 300.0
"""How often Neutron is asked for its extensions: its plugins come and go while a worker runs."""

UNLIMITED = "astara-unlimited"
"""The QoS policy of service ports on tenants' networks."""

_POLICY = "astara_orchestrator"
_QOS = {"qos-fip", "qos-gateway-ip"}

_log = logging.get(__name__)

_ALLOCATION_FIELDS = ("id", "network_id", "device_id", "device_owner", "mac_address", "fixed_ips", "description",
                      "dns_name", "admin_state_up", "extra_dhcp_opts")  # fmt: skip


class Neutron:
    """Calls to Neutron. Raises the errors of `errors.CloudError`."""

    def __init__(self, api: Api, deployment: str) -> None:
        self._api = api
        self._deployment = deployment
        self.look_again = LOOK_AGAIN_SECONDS
        # Who has never asked does not ask again.
        self._looked_at = math.inf
        self._looking = asyncio.Lock()
        self._labels: tuple[float, list[Json]] = (-math.inf, [])
        self._labels_lock = asyncio.Lock()
        self.extensions: frozenset[str] = frozenset()
        self.project_id = ""
        """The service user's project; the preflight finds it."""
        self.serves_dhcp = True
        """Whether appliances are to serve DHCP where a subnet has it enabled, as far as is known."""
        self.is_told_dhcp = False
        """Whether that is for snapshots to say; what the last one said holds where there is none."""
        self._is_refused = False
        self._unlimited: str | None = None
        self._is_limited = False
        """Whether it was logged that Neutron gives no such policy."""

    async def load_extensions(self) -> None:
        """Learn what this Neutron can do; from then on readings learn it anew every few minutes."""
        self._looked_at = time.monotonic()
        answer = await self._api.get("/extensions", {"fields": "alias"})
        try:
            found = frozenset(str(entry["alias"]) for entry in answer["extensions"])
        except (KeyError, TypeError) as error:
            raise CloudError("neutron", "GET /extensions", 200, f"not a list of extensions: {error!r}") from None
        before, self.extensions = self.extensions, found
        if before and before != found:
            _log.info("Neutron's extensions changed", come=sorted(found - before), gone=sorted(before - found))
        if "qos" in found and self._unlimited is None and self.project_id:
            self._unlimited = await self._unlimited_policy()

    async def _unlimited_policy(self) -> str | None:
        """The id of our policy, made without rules where there is none; None when Neutron gives us none.

        A server's port that has no policy takes its network's, a router's interface does not; a service port stands
        for one.
        """
        own = [("name", UNLIMITED), ("project_id", self.project_id), ("fields", "id")]
        description = "Keeps what tenants give to their networks off the routers' ports; made by Astara, has no rules"
        try:
            # Two workers that started at once may have made two.
            found = min((str(one["id"]) for one in await self.listing("qos/policies", own)), default=None)
            if found is None:
                body = {"policy": {"name": UNLIMITED, "description": description}}
                found = str((await self._api.post("/qos/policies", body))["policy"]["id"])
        except (CloudError, KeyError, TypeError) as error:
            if not self._is_limited:
                self._is_limited = True
                _log.warning("service ports get no QoS policy of their own: networks' limit them", reason=str(error))
            return None
        self._is_limited = False
        return found

    async def _look_for_extensions(self) -> None:
        """Once in a while, for all readings; what was known holds where Neutron does not say."""
        now = time.monotonic()
        if now - self._looked_at >= self.look_again:
            await self._learn_again(now)

    async def _learn_again(self, since: float) -> None:
        """Ask for the extensions, unless another reading has since that time."""
        async with self._looking:
            if self._looked_at > since:
                return
            try:
                await self.load_extensions()
            except CloudError as error:
                _log.info("Neutron does not tell its extensions", reason=str(error))

    def zones_are_nova(self) -> bool:
        """Whether routers' availability zones are Nova's: with agents that hold routers they are these agents'."""
        return STATUS in self.extensions and "l3_agent_scheduler" not in self.extensions

    async def read_router(self, router_id: str, server_id: str | None) -> RouterReading:
        """Everything that the configuration of a router is made of. NotFoundError when the router is not there."""
        await self._look_for_extensions()
        started = time.monotonic()
        if SNAPSHOT in self.extensions:
            try:
                return await self._snapshot(router_id, server_id, started)
            except NotFoundError:
                # A server without the plugin answers so too: only the router's own 404 says that it is gone.
                if not await self.router_exists(router_id):
                    raise
                await self._learn_again(started)
                _log.warning("Neutron has no snapshot of a router that it has", resource=router_id)
            except ForbiddenError as error:
                if not self._is_refused:
                    self._is_refused = True
                    _log.error("Neutron lets nobody read snapshots as this user", policy=_POLICY, reason=str(error))
        reading = await self._router_and_ports(router_id, server_id, started)
        try:
            await self._add_details(reading)
        except NotFoundError as error:
            # Of a plugin that is gone, or not on every server yet.
            await self._learn_again(started)
            raise _of_a_part(error) from error
        return reading

    async def _router_and_ports(self, router_id: str, server_id: str | None, started: float) -> RouterReading:
        devices = [("device_id", router_id)] + ([("device_id", server_id)] if server_id else [])
        answer, ports = await asyncio.gather(
            self._api.get(f"/routers/{router_id}"), self.listing("ports", devices), return_exceptions=True
        )
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(ports, NotFoundError):
            raise _of_a_part(ports) from ports
        if isinstance(ports, BaseException):
            raise ports
        reading = reading_of(answer["router"], server_id, ports, started)
        reading.serves_dhcp = self.serves_dhcp
        return reading

    async def _add_details(self, reading: RouterReading) -> None:
        attached = reading.attached_network_ids
        own = (*reading.interface_ports, *reading.gateway_ports)
        subnet_ids = {ip["subnet_id"] for port in own for ip in port["fixed_ips"]}
        (
            networks,
            subnets,
            reading.floating_ips,
            reading.allocations,
            reading.labels,
            helpers,
            proxies,
        ) = await asyncio.gather(
            self._by_ids("networks", "id", attached),
            self._by_ids("subnets", "id", sorted(subnet_ids)),
            self._floating_ips(reading),
            self._by_ids("ports", "network_id", reading.internal_network_ids, _ALLOCATION_FIELDS),
            self._metering_labels(reading),
            self._conntrack_helpers(reading.router),
            self._ndp_proxies(reading.router),
        )
        reading.networks = {network["id"]: network for network in networks}
        reading.subnets = {subnet["id"]: subnet for subnet in subnets}
        policies = await self._by_ids("qos/policies", "id", reading.qos_policy_ids) if _QOS & self.extensions else []
        add_extras(reading, policies, helpers, proxies, ha=bool(reading.router.get("ha")))

    async def _snapshot(self, router_id: str, server_id: str | None, started: float) -> RouterReading:
        path = f"/astara-router-snapshots/{router_id}"
        told = await self._api.get(path, {"instance": server_id} if server_id else None)
        try:
            reading = reading_of_snapshot(told["router_snapshot"], server_id, started)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CloudError("neutron", f"GET {path}", 200, f"not a snapshot: {error!r}") from None
        self._is_refused = False
        if self.is_told_dhcp:
            self.serves_dhcp = reading.serves_dhcp
        reading.serves_dhcp = self.serves_dhcp
        return reading

    async def _conntrack_helpers(self, router: Json) -> list[Json]:
        """Those of a router, which Neutron shows with it (`expose-l3-conntrack-helper`) or below it."""
        shown: list[Json] | None = router.get("conntrack_helpers")
        if shown is not None or "l3-conntrack-helper" not in self.extensions:
            return shown or []
        path = f"routers/{router['id']}/conntrack_helpers"
        try:
            return await self.listing(path, [])
        except NotFoundError:
            if await self.router_exists(str(router["id"])):
                # A server that has no such plugin: not a router without helpers.
                raise
            return []

    async def _ndp_proxies(self, router: Json) -> list[Json]:
        if not router.get("enable_ndp_proxy"):
            return []
        return await self.listing("ndp_proxies", [("router_id", str(router["id"]))])

    async def _floating_ips(self, reading: RouterReading) -> list[Json]:
        if reading.gateway_port is None:
            return []
        return await self.floating_ips(str(reading.router["id"]))

    async def _metering_labels(self, reading: RouterReading) -> list[Json]:
        """Labels that count this router's traffic: its project's, and shared ones. Listed once a minute."""
        if "metering" not in self.extensions:
            return []
        # One listing for all who ask at the same time: a thousand new routers do.
        async with self._labels_lock:
            read_at, labels = self._labels
            if time.monotonic() - read_at > 60.0:
                found, rules = await asyncio.gather(
                    self.listing("metering/metering-labels", []), self.listing("metering/metering-label-rules", [])
                )
                labels = [
                    {**label, "rules": [rule for rule in rules if rule["metering_label_id"] == label["id"]]}
                    for label in found
                ]
                self._labels = (time.monotonic(), labels)
        tenant = reading.router.get("project_id") or reading.router.get("tenant_id")
        return [label for label in labels if label.get("shared") or label.get("project_id") == tenant]

    async def router_exists(self, router_id: str) -> bool:
        """Whether Neutron knows a router of this id: only a 404 says no, an empty listing proves nothing."""
        try:
            await self._api.get(f"/routers/{router_id}", {"fields": "id"})
        except NotFoundError:
            return False
        return True

    async def sees_everything(self) -> bool:
        """Whether the service user is an admin to Neutron; from others it hides what is not theirs, silently."""
        ports = (await self._api.get("/ports", {"limit": "1", "fields": "binding:host_id"}))["ports"]
        return not ports or "binding:host_id" in ports[0]

    async def attached_network_ids(self, router_id: str) -> set[str]:
        """The networks of the router's own ports, read by themselves."""
        ports = await self.listing("ports", [("device_id", router_id)])
        owners = (*INTERFACE_OWNERS, GATEWAY_OWNER)
        return {str(port["network_id"]) for port in ports if port.get("device_owner") in owners}

    async def floating_ips(self, router_id: str) -> list[Json]:
        """The floating IPs that a router serves, each with its `port_forwardings`."""
        found = await self.listing("floatingips", [("router_id", router_id)])
        # One that a port has to itself forwards none; one that a router serves without that does nothing else.
        shared = [one for one in found if not one.get("fixed_ip_address")]
        forwardings = await asyncio.gather(*(self._port_forwardings(one) for one in shared))
        for one, forwarded in zip(shared, forwardings, strict=True):
            one["port_forwardings"] = forwarded
        return found

    async def _port_forwardings(self, floating_ip: Json) -> list[Json]:
        """What Neutron shows with the floating IP (expose-port-forwarding-in-fip), which of ranges is too little."""
        shown = floating_ip.get("port_forwardings")
        if shown is not None and all("external_port" in one and "internal_port" in one for one in shown):
            forwardings: list[Json] = shown
            return forwardings
        if shown is None and "floating-ip-port-forwarding" not in self.extensions:
            return []
        started = time.monotonic()
        try:
            return await self.listing(f"floatingips/{floating_ip['id']}/port_forwardings", [])
        except NotFoundError as error:
            # One that went away meanwhile forwards nothing; of one that is there a server without the plugin says this.
            if await self._by_ids("floatingips", "id", [floating_ip["id"]], ("id",)):
                await self._learn_again(started)
                raise _of_a_part(error) from error
            return []

    async def listed_share(self, router_ids: Iterable[str]) -> float:
        """Which share of these routers Neutron lists: 1.0 all, 0.0 none."""
        wanted = set(router_ids)
        if not wanted:
            return 1.0
        found = await self._by_ids("routers", "id", sorted(wanted), ("id",))
        return len(wanted & {str(router["id"]) for router in found}) / len(wanted)

    async def _by_ids(self, collection: str, name: str, ids: list[str], fields: tuple[str, ...] = ()) -> list[Json]:
        chosen = [("fields", field) for field in fields]
        parts = [ids[i : i + _IDS_PER_CALL] for i in range(0, len(ids), _IDS_PER_CALL)]
        answers = await asyncio.gather(
            *(self.listing(collection, [(name, one) for one in part] + chosen) for part in parts)
        )
        return [entry for answer in answers for entry in answer]

    async def listing(self, collection: str, params: list[tuple[str, str]]) -> list[Json]:
        """A listing to its end, following pages where the server makes them."""
        key = collection.rsplit("/", 1)[-1].replace("-", "_")
        found: list[Json] = []
        marker: list[tuple[str, str]] = []
        while True:
            query: Params = params + marker
            answer = await self._api.get(f"/{collection}", query)
            page: list[Json] = answer[key]
            found.extend(page)
            more = any(link.get("rel") == "next" for link in answer.get(f"{key}_links", ()))
            if not more or not page:
                return found
            marker = [("marker", str(page[-1]["id"]))]

    async def port_by_mac(self, network_id: str, mac: str) -> Json | None:
        """The port with this address on this network."""
        found = await self.listing("ports", [("network_id", network_id), ("mac_address", mac)])
        return found[0] if found else None

    def is_own(self, port: Json, description: str) -> bool:
        """Whether a port is ours and carries this mark."""
        owner = port.get("project_id") or port.get("tenant_id")
        return port.get("description") == description and owner == self.project_id

    async def ports_of(self, resource_id: str, slot: int, roles: tuple[str, ...]) -> list[Json]:
        """Our ports for a resource's slot, by their mark."""
        described = [marks.PortMark(self._deployment, resource_id, slot, role).description() for role in roles]
        owner = [("project_id", self.project_id)]
        found = await self.listing("ports", owner + [("description", text) for text in described])
        return [port for port in found if any(self.is_own(port, text) for text in described)]

    async def create_port(self, body: Json) -> Json:
        """One port. ConflictError when its MAC address is taken on that network."""
        port: Json = (await self._create_port("port", body))["port"]
        return port

    async def create_ports(self, bodies: list[Json]) -> list[Json]:
        """Several ports in one call, all or none."""
        if not bodies:
            return []
        ports: list[Json] = (await self._create_port("ports", bodies))["ports"]
        return ports

    async def _create_port(self, key: str, made: Json | list[Json]) -> Json:
        bodies = made if isinstance(made, list) else [made]
        named = {str(body["qos_policy_id"]) for body in bodies if "qos_policy_id" in body}
        try:
            return await self._api.post("/ports", {key: made})
        except CloudError as error:
            told = named and error.status in (400, 404) and error.detail
            if not told or not any(word in told for word in ("qos_policy_id", *named)):
                raise
            # Somebody deleted it, or Neutron's QoS was switched off: asked about again with the extensions.
            self._unlimited = None
            _log.warning("ports are made without a QoS policy of their own", reason=str(error))
        for body in bodies:
            body.pop("qos_policy_id", None)
        return await self._api.post("/ports", {key: made})

    async def release_port(self, port_id: str) -> None:
        """Let no server hold the port."""
        await self._api.put(f"/ports/{port_id}", {"port": {"device_id": "", "device_owner": ""}})

    async def delete_port(self, port_id: str) -> None:
        """Delete a port."""
        await self._api.delete(f"/ports/{port_id}")

    async def set_status(self, router_id: str, told: Json) -> None:
        """Set what Neutron shows of a router, its floating IPs and ports; wants `astara-router-status`."""
        await self._api.put(f"/astara-router-statuses/{router_id}", {"router_status": told})

    async def set_data_plane_status(self, reading: RouterReading, status: str) -> None:
        """Tell Neutron what the router's own ports do, where it has the extension `data-plane-status` and not ours."""
        if "data-plane-status" not in self.extensions or STATUS in self.extensions:
            return
        for port in (*reading.interface_ports, *reading.gateway_ports):
            if port.get("data_plane_status") != status:
                await self._api.put(f"/ports/{port['id']}", {"port": {"data_plane_status": status}})

    def mac(self, resource_id: str, slot: int, network_id: str, salt: int = 0) -> str:
        """The address of one of our ports; another one for each salt."""
        return marks.derive_mac(self._deployment, resource_id, slot, network_id, salt)

    def port_body(self, resource_id: str, slot: int, role: str, network_id: str, *, is_internal: bool = False) -> Json:
        """What one of our ports is created from; `is_internal`: on a network of tenants, as a router's interface is."""
        mark = marks.PortMark(self._deployment, resource_id, slot, role)
        body: dict[str, Any] = {
            "network_id": network_id,
            "name": mark.name(),
            "description": mark.description(),
            "mac_address": self.mac(resource_id, slot, network_id),
            "admin_state_up": True,
        }
        if role == marks.SERVICE:
            # It carries the router's addresses, which are not its own: no anti-spoofing. Where Neutron does not
            # say how a port got its addresses, Nova refuses one that has none at all, so Neutron gives it one.
            body |= {"port_security_enabled": False, "security_groups": []}
            if "ip_allocation" in self.extensions:
                body["fixed_ips"] = []
            if is_internal and self._unlimited is not None:
                body["qos_policy_id"] = self._unlimited
        return body


def _of_a_part(error: NotFoundError) -> CloudError:
    """A server without some plugin answers 404 to what is asked beside the router: that is no router that is gone."""
    return CloudError(error.service, error.call, 404, error.detail)
