"""Many appliances in one process: what a lab "boots" instead of VMs.

One application and one HTTP server carry all of them; an appliance costs its state and its listening sockets, and a
request finds its appliance by the local address on which it arrived. Nothing survives the process. Unlike a VM's agent
a host can be told to fail (`fault`), and it can play an instance's metadata request: on port 9600 + n of the management
address it stands for the proxy of network geN, with the instance's address in X-Lab-Source-Address.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import aiohttp
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from .agent import application, version
from .appliance import Appliance, Clock
from .backend import Link, RecordingBackend
from .boot import BootData
from .metadata_forwarder import MAX_REQUEST, MetadataForwarder, MetadataRequest
from .problems import Problem
from .store import MemoryStore

Fault = Literal["none", "dead", "slow", "rejecting", "failing"]
FAULTS: tuple[Fault, ...] = ("none", "dead", "slow", "rejecting", "failing")

SOURCE_HEADER = "X-Lab-Source-Address"
_BACKLOG = 64

Where = tuple[str, int]


class _Hosted:
    """One appliance on this host."""

    __slots__ = (
        "appliance",
        "backend",
        "connections",
        "fault",
        "forwarder",
        "healed",
        "networks",
        "seconds",
        "servers",
        "session",
    )

    def __init__(self, appliance: Appliance, backend: RecordingBackend) -> None:
        self.appliance = appliance
        self.backend = backend
        self.servers: dict[Where, asyncio.Server] = {}
        self.connections: list[RequestHandler] = []
        self.networks: dict[Where, str] = {}
        self.forwarder: MetadataForwarder | None = None
        self.fault: Fault = "none"
        self.seconds = 0.0
        self.healed: asyncio.Event | None = None
        self.session: aiohttp.ClientSession | None = None

    def forwards(self) -> MetadataForwarder:
        """The forwarder, whose requests come from the management address, as those of a VM do."""
        if self.forwarder is None:
            boot = self.appliance.boot
            version = ipaddress.ip_address(boot.orchestrator.addresses[0]).version if boot.orchestrator.addresses else 0
            own = (one for one in boot.listen_addresses if ipaddress.ip_address(one).version == version)
            address = next(own, None)
            connector = aiohttp.TCPConnector(local_addr=(address, 0) if address else None)
            self.session = aiohttp.ClientSession(connector=connector)
            self.forwarder = MetadataForwarder(boot, self.session)
        return self.forwarder


class ApplianceHost:
    """Starts, plugs, breaks and stops appliances on this machine's addresses.

    An appliance is named by the `instance` of its boot facts. `metadata` says whether it listens for instances'
    metadata requests, too, one more socket for each internal network.
    """

    def __init__(self, *, metadata: bool = False, clock: Clock = time.monotonic) -> None:
        self._metadata = metadata
        self._clock = clock
        self._version = version()
        self._hosted: dict[str, _Hosted] = {}
        self._by_address: dict[Where, _Hosted] = {}
        self._runner: web.AppRunner | None = None
        self._setup = asyncio.Lock()

    async def start(self, boot_json: dict[str, Any], interfaces: list[dict[str, Any]]) -> None:
        """Boot an appliance and answer on its management addresses.

        `boot_json` is the document of the boot file; `interfaces` has `{"mac", "mtu"}` of each plugged one. Raises
        pydantic's ValidationError for facts that are wrong, ValueError when the instance runs already, OSError when an
        address cannot be listened on, and then nothing is left behind.
        """
        boot = BootData.model_validate(boot_json)
        if boot.instance in self._hosted:
            raise ValueError(f"instance {boot.instance} runs already")
        backend = RecordingBackend(Link(item["mac"].lower(), item["mtu"]) for item in interfaces)
        hosted = _Hosted(Appliance(boot, MemoryStore(), backend, self._clock, self._version), backend)
        self._hosted[boot.instance] = hosted
        try:
            await hosted.appliance.start()
            for address in boot.listen_addresses:
                await self._listen(hosted, (address, boot.api_port))
        except OSError:
            await self.stop(boot.instance)
            raise
        if self._metadata:
            hosted.appliance.on_configured(lambda: self._listen_for_metadata(hosted))

    async def stop(self, instance_id: str) -> None:
        """End an appliance at once, as pulling a plug does; an unknown one is no error."""
        hosted = self._hosted.pop(instance_id, None)
        if hosted is None:
            return
        if hosted.healed is not None:
            hosted.healed.set()
        for where in list(hosted.servers):
            self._close(hosted, where)
        if hosted.session is not None:
            await hosted.session.close()

    async def plug(self, instance_id: str, mac: str, mtu: int) -> None:
        """An interface appears; KeyError for an unknown instance."""
        hosted = self._hosted[instance_id]
        hosted.backend.plug(Link(mac.lower(), mtu))
        await hosted.appliance.links_changed()

    async def unplug(self, instance_id: str, mac: str) -> None:
        """An interface disappears; KeyError for an unknown instance."""
        hosted = self._hosted[instance_id]
        hosted.backend.unplug(mac.lower())
        await hosted.appliance.links_changed()

    def instances(self) -> list[str]:
        """The appliances that run, faulty ones too."""
        return list(self._hosted)

    def appliance(self, instance_id: str) -> Appliance:
        """One appliance, to look into; KeyError for an unknown instance."""
        return self._hosted[instance_id].appliance

    def lacks(self, instance_id: str, *undone: str) -> None:
        """From its next push on, an appliance says that it cannot do these."""
        self._hosted[instance_id].backend.lacking = list(undone)

    def fault(self, instance_id: str, kind: Fault, *, seconds: float = 5.0) -> None:
        """Break an appliance, or heal it with `none`; KeyError for an unknown instance.

        `dead` takes connections and never answers, `slow` answers after `seconds`, `rejecting` answers 422 to every
        push, `failing` 500 to every push.
        """
        if kind not in FAULTS:
            raise ValueError(f"{kind} is none of {', '.join(FAULTS)}")
        hosted = self._hosted[instance_id]
        if hosted.healed is not None:
            hosted.healed.set()
        hosted.healed = asyncio.Event() if kind == "dead" else None
        hosted.fault, hosted.seconds = kind, seconds

    async def close(self) -> None:
        """Stop all appliances and release what they share."""
        for instance_id in list(self._hosted):
            await self.stop(instance_id)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _server(self) -> web.Server:
        async with self._setup:
            if self._runner is None:
                app = application(self._find_appliance)
                app.middlewares.insert(1, self._before())
                self._runner = web.AppRunner(
                    app, access_log=None, handler_cancellation=True, keepalive_timeout=75.0, shutdown_timeout=1.0
                )
                await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 - `setup` made it
        return server

    async def _listen(self, hosted: _Hosted, where: Where) -> None:
        server = await self._server()

        def accept() -> RequestHandler:
            hosted.connections = [item for item in hosted.connections if item.transport is not None]
            connection = server()
            hosted.connections.append(connection)
            return connection

        loop = asyncio.get_running_loop()
        hosted.servers[where] = await loop.create_server(accept, *where, backlog=_BACKLOG)
        self._by_address[where] = hosted

    def _close(self, hosted: _Hosted, where: Where) -> None:
        hosted.servers.pop(where).close()
        self._by_address.pop(where, None)
        hosted.networks.pop(where, None)
        for connection in hosted.connections:
            transport = connection.transport
            if transport is not None and transport.get_extra_info("sockname")[:2] == where:
                transport.abort()

    def _find(self, request: web.Request) -> _Hosted:
        name = request.get_extra_info("sockname")
        hosted = self._by_address.get(name[:2]) if name else None
        if hosted is None:
            raise Problem(404, "There is no appliance here", "It was stopped.")
        return hosted

    def _find_appliance(self, request: web.Request) -> Appliance:
        return self._find(request).appliance

    def _before(self) -> Any:
        @web.middleware
        async def before(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            hosted = self._find(request)
            if hosted.fault != "none":
                await _suffer(hosted, request)
            if hosted.networks:
                network_id = hosted.networks.get(request.get_extra_info("sockname")[:2])
                if network_id is not None:
                    return await self._forward_metadata(hosted, network_id, request)
            return await handler(request)

        return before

    async def _listen_for_metadata(self, hosted: _Hosted) -> None:
        """Follow the recorded state of the metadata proxies."""
        if hosted.appliance.boot.instance not in self._hosted:
            return
        wanted = {
            (address, item["port"]): item["network_id"]
            for item in hosted.appliance.state("metadata_proxy").get("listeners", ())
            for address in hosted.appliance.boot.listen_addresses
        }
        for where in set(hosted.networks) - set(wanted):
            self._close(hosted, where)
        for where in set(wanted) - set(hosted.networks):
            await self._listen(hosted, where)
        hosted.networks = wanted

    async def _forward_metadata(self, hosted: _Hosted, network_id: str, request: web.Request) -> web.Response:
        if (request.content_length or 0) > MAX_REQUEST:
            raise Problem(413, "The request is too large", f"At most {MAX_REQUEST} bytes are read.")
        source = request.headers.get(SOURCE_HEADER) or str(request.remote)
        forwarder = hosted.forwards()
        answer = await forwarder.forward(
            MetadataRequest(
                request.method,
                request.raw_path,
                list(request.headers.items()),
                await request.read(),
                network_id,
                source,
            )
        )
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


async def _suffer(hosted: _Hosted, request: web.Request) -> None:
    """Play the fault; raises the `Problem` that takes the real answer's place, if one does."""
    is_push = request.method == "PUT"
    match hosted.fault:
        case "dead" if hosted.healed is not None:
            await hosted.healed.wait()
        case "slow":
            await asyncio.sleep(hosted.seconds)
        case "rejecting" if is_push:
            errors = [{"field": "hostname", "message": "this appliance was told to reject every push"}]
            raise Problem(422, "The configuration is not valid", "A fault was set.", {"errors": errors})
        case "failing" if is_push:
            raise Problem(500, "The service interfaces failed", "A fault was set.", {"service": "interfaces"})
