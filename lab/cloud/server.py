"""The cloud as a whole: six HTTP servers in one event loop, the dispatch that every call goes through, seeds.

Every call passes the same steps: count, faults, latency, token, handler, answer. The handler itself does not wait.
"""

import asyncio
import ipaddress
import json
import random
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .faults import Calls, Fault, Faults
from .glance import ImageService
from .hypervisor import Hypervisor, NoHypervisor
from .keystone import IdentityService
from .metadata import MetadataService
from .neutron import NetworkService
from .notifications import Notifications
from .nova import ComputeService
from .nova_servers import Servers
from .options import SERVICES, CloudOptions
from .store import Row, Table
from .web import NOBODY, Call, CloudError, Context, Reply, Route, Routes

MANAGEMENT_NETWORK = "astara-mgmt"
EXTERNAL_NETWORK = "public"


class SimulatedCloud:
    """Keystone, Neutron, Nova, Glance and Nova's metadata API on loopback.

    >>> cloud = SimulatedCloud(CloudOptions())
    >>> await cloud.start()
    >>> cloud.urls["keystone"]
    'http://127.0.0.1:…'
    >>> await cloud.stop()
    """

    def __init__(self, options: CloudOptions | None = None, hypervisor: Hypervisor | None = None) -> None:
        self.options = options = options or CloudOptions()
        # Loopback, throwaway: addresses and dice of the simulation are no secrets.
        dice = random.Random()
        self.notifications = Notifications(options)
        self.faults = Faults(dice)
        self.calls = Calls()
        self.latency: dict[str, float] = dict(options.latency)
        self.urls: dict[str, str] = {}
        self.identity = IdentityService(options, self._endpoints)
        self.network = NetworkService(options, self.notifications, dice)
        self.image = ImageService(options)
        self.hypervisor = hypervisor or NoHypervisor()
        flavors = Table("name")
        self.servers = Servers(options, self.network, self.notifications, self.hypervisor, flavors, self.image.images)
        self.compute = ComputeService(options, self.servers, flavors)
        self.metadata = MetadataService(options, self.servers.table)
        self._routes: Mapping[str, Routes] = {
            "keystone": self.identity.routes(), "neutron": self.network.routes(), "nova": self.compute.routes(),
            "glance": self.image.routes(), "metadata": self.metadata.routes(), "lab": self._lab_routes(),
        }  # fmt: skip
        self._runners: list[web.ServerRunner] = []
        self._requests = 0
        self._seed_accounts()

    async def start(self) -> None:
        """Listen; OSError when a port is taken."""
        self.notifications.start()
        for index, service in enumerate(SERVICES):
            port = self.options.ports.get(service) or (self.options.port_base and self.options.port_base + index)
            server = web.Server(self._handler(service), access_log=None, keepalive_timeout=600)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            self._runners.append(runner)
            site = web.TCPSite(runner, self.options.host, port, backlog=1024)
            await site.start()
            self.urls[service] = f"http://{self.options.advertise or self.options.host}:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening, end what is under way and publish what is queued."""
        await self.servers.close()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        await asyncio.to_thread(self.notifications.stop)

    @property
    def auth_url(self) -> str:
        """Where clients authenticate."""
        return f"{self.urls['keystone']}/v3"

    # Seeds

    def _seed_accounts(self) -> None:
        for project, user in (("admin", "admin"), ("service", "astara"), ("service", "neutron")):
            rows = self.identity.projects.find("name", project) or [self.identity.add_project(project)]
            account = self.identity.add_user(user, self.options.password)
            self.identity.assign(account, rows[0], self.identity.role("admin"))
            if user == "neutron":
                self.identity.assign(account, rows[0], self.identity.role("service"))
        self.servers.binder = self.identity.context_of("neutron", "service")

    def seed(self) -> str:
        """Make what every lab has: the management and the external network, images and flavors, all silently.

        Answers with the management network's id.
        """
        admin, service = self.identity.context_of("admin", "admin"), self.identity.context_of("astara", "service")
        management = self._network(service, name=MANAGEMENT_NETWORK)
        cidr = ipaddress.ip_network(self.options.management_cidr)
        # The first addresses are the orchestrator's.
        pool = [{"start": str(cidr[16]), "end": str(cidr[2**16 - 2])}] if cidr.version == 6 else None
        self._subnet(
            service, management, str(cidr), gateway_ip=None, name=MANAGEMENT_NETWORK, allocation_pools=pool
        )  # fmt: skip
        external = self._network(
            admin, name=EXTERNAL_NETWORK,
            **{
                "router:external": True, "provider:network_type": "flat", "provider:physical_network": "physnet1",
                "is_default": True,
            },
        )  # fmt: skip
        self._subnet(admin, external, "172.24.4.0/24", name="public4")
        self._subnet(admin, external, "2001:db8::/64", name="public6", gateway_ip="2001:db8::2")
        self.image.add("astara", service.project_id, size=4096, visibility="public")
        self.image.add("tiny", admin.project_id, size=4096, visibility="public")
        self.compute.add_flavor("m1.astara", ram=512, disk=3, vcpus=1)
        self.compute.add_flavor("tiny", ram=64, disk=1, vcpus=1)
        return str(management["id"])

    def tenant(self, name: str) -> Context:
        """A project with one member of the same name, whose password is that of the options."""
        project = self.identity.add_project(name)
        user = self.identity.add_user(name, self.options.password, project["id"])
        self.identity.assign(user, project, self.identity.role("member"))
        return self.identity.context_of(name, name)

    def _network(self, context: Context, **attributes: Any) -> Row:
        networks = self.network.networks
        return networks.make(context, {**networks.defaults, "project_id": context.project_id, **attributes})

    def _subnet(self, context: Context, network: Row, cidr: str, **attributes: Any) -> Row:
        subnets = self.network.subnets
        body = {
            **subnets.defaults, "network_id": network["id"], "cidr": cidr, "ip_version": 6 if ":" in cidr else 4,
            "enable_dhcp": False, "project_id": context.project_id, **attributes,
        }  # fmt: skip
        return subnets.make(context, body)

    def _endpoints(self) -> Mapping[str, str]:
        return {
            "identity": self.auth_url, "network": self.urls["neutron"], "compute": f"{self.urls['nova']}/v2.1",
            "image": self.urls["glance"],
        }  # fmt: skip

    # Dispatch

    def _handler(self, service: str) -> Any:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._dispatch(service, request)

        return handle

    async def _dispatch(self, service: str, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self._requests += 1
        request_id = f"req-{self._requests:08x}-0000-4000-8000-000000000000"
        raw = await request.read() if request.can_read_body else b""
        context = self.identity.context(request.headers.get("X-Auth-Token"), request_id) or NOBODY
        faults: dict[str, Fault] = {}
        if service != "lab":
            if self.faults.active:
                faults = self.faults.take(service, request.method, path, context.user_name)
            delay = self.latency.get(service, 0.0) + (faults["slow"].seconds if "slow" in faults else 0.0)
            if delay:
                await asyncio.sleep(delay)
        try:
            route, variables = self._routes[service].find(request.method, path)
            if service != "lab":
                self.calls.count(service, request.method, route.pattern, path if variables else "")
            _refuse(service, faults, route, context)
            call = Call(
                request.method, path, request.headers, request.rel_url.raw_query_string, raw, self.urls[service],
                variables, context,
            )  # fmt: skip
            self.notifications.copies = 2 if "duplicate" in faults else 1
            reply = route.handler(call)
        except CloudError as error:
            reply = Reply(error_body(service, error), error.status)
        finally:
            self.notifications.copies = 1
        if "empty" in faults and isinstance(reply.body, dict):
            reply.body = {key: [] if isinstance(value, list) else value for key, value in reply.body.items()}
        if "lost" in faults and request.transport is not None:
            request.transport.abort()
        return self._answer(service, request, reply, request_id)

    def _answer(self, service: str, request: web.BaseRequest, reply: Reply, request_id: str) -> web.Response:
        headers = {"X-Openstack-Request-Id": request_id, **reply.headers}
        if service == "nova":
            version = request.headers.get("OpenStack-API-Version", "compute 2.1")
            headers |= {
                "OpenStack-API-Version": version,
                "X-OpenStack-Nova-API-Version": version.removeprefix("compute "),
                "Vary": "OpenStack-API-Version, X-OpenStack-Nova-API-Version",
            }
        if reply.body is None:
            return web.Response(status=reply.status, headers=headers)
        if isinstance(reply.body, bytes):
            return web.Response(status=reply.status, headers=headers, body=reply.body)
        headers["Content-Type"] = "application/json"
        return web.Response(status=reply.status, headers=headers, body=json.dumps(reply.body).encode())

    # The lab's own API

    def _lab_routes(self) -> Routes:
        routes = Routes()
        routes.add("GET", "/lab/faults", lambda _: Reply([one.to_json() for one in self.faults.active]), public=True)
        routes.add("POST", "/lab/faults", self._add_fault, public=True)
        routes.add("DELETE", "/lab/faults", self._clear_faults, public=True)
        routes.add("GET", "/lab/calls", lambda _: Reply(self.calls.to_json()), public=True)
        routes.add("DELETE", "/lab/calls", self._reset_calls, public=True)
        routes.add("GET", "/lab/read", lambda _: Reply(list(self.calls.read)), public=True)
        routes.add("GET", "/lab/latency", lambda _: Reply(self.latency), public=True)
        routes.add("PUT", "/lab/latency", self._set_latency, public=True)
        routes.add("GET", "/lab/health", lambda _: Reply({"urls": self.urls}), public=True)
        return routes

    def _add_fault(self, call: Call) -> Reply:
        try:
            return Reply(self.faults.add(Fault.from_json(call.json())).to_json(), 201)
        except ValueError as error:
            raise CloudError(400, "Bad Request", str(error)) from error

    def _clear_faults(self, _call: Call) -> Reply:
        self.faults.clear()
        return Reply(None, 204)

    def _reset_calls(self, _call: Call) -> Reply:
        self.calls.reset()
        return Reply(None, 204)

    def _set_latency(self, call: Call) -> Reply:
        self.latency = {service: float(seconds) for service, seconds in call.json().items() if service in SERVICES}
        return Reply(self.latency)


def _refuse(service: str, faults: Mapping[str, Fault], route: Route, context: Context) -> None:
    """Raise what stands before the handler: an injected error, a missing token, a lost role."""
    if "error" in faults:
        raise CloudError(faults["error"].status, "Injected", "The lab was told to answer with an error")
    if route.public:
        return
    if context is NOBODY:
        raise CloudError(401, "Unauthorized", "The request you have made requires authentication.")
    if "lost_role" in faults or (not context.roles and service != "keystone"):
        raise CloudError(403, "PolicyNotAuthorized", "Policy does not allow this to be performed.")


def error_body(service: str, error: CloudError) -> dict[str, Any]:
    """An error in the shape of the service that refuses, or of the middleware that asks for a token."""
    if error.status == 401 or service not in ("neutron", "nova"):
        return {"error": {"code": error.status, "title": error.kind, "message": error.message}}
    if service == "neutron":
        return {"NeutronError": {"type": error.kind, "message": error.message, "detail": ""}}
    names = {400: "badRequest", 403: "forbidden", 404: "itemNotFound", 409: "conflictingRequest", 500: "computeFault"}
    return {names.get(error.status, "computeFault"): {"code": error.status, "message": error.message}}
