"""A real scheduler and real workers as processes, against a simulated cloud with delays in another process."""

import asyncio
import configparser
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from astara.event.v1 import event_pb2 as event
from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import query_pb2 as query
from astara.scheduler.v1 import query_pb2_grpc
from openstack.connection import Connection

from lab.ports import free_port
from services.common.clock import SystemClock
from services.common.publisher import Publisher
from services.common.rpc import open_channel
from services.common.settings import GrpcSettings


@dataclass(slots=True)
class Stack:
    """Handles of a running stack."""

    folder: Path
    scheduler_port: int
    cloud_port: int
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    channel: Any = None
    publisher: Any = None

    async def start(self, *arguments: str, log: str, **environment: str) -> asyncio.subprocess.Process:
        """Start one process; its output goes to a file."""
        with (self.folder / f"{log}.log").open("w") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *arguments, stdout=output, stderr=output, env={**os.environ, **environment}
            )
        self.processes.append(process)
        return process

    async def stop(self) -> None:
        """End all processes."""
        for process in reversed(self.processes):
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    def connect(self, user: str = "admin", project: str = "admin") -> Connection:
        """An SDK connection to the simulated cloud."""
        return Connection(
            auth={
                "auth_url": f"http://127.0.0.1:{self.cloud_port}/v3", "username": user, "password": "lab",
                "project_name": project, "user_domain_id": "default", "project_domain_id": "default",
            },
            region_name="RegionOne",
        )  # fmt: skip

    async def states(self) -> dict[str, int]:
        """How many resources are in each state, as the scheduler knows them."""
        stub: Any = query_pb2_grpc.QueryServiceStub(self.channel)
        answer = await stub.ListResources(query.ListResourcesRequest(page_size=10_000))
        counts: dict[str, int] = {}
        for resource in answer.resources:
            name = pb.InstanceState.Name(resource.state).removeprefix("INSTANCE_STATE_")
            counts[name] = counts.get(name, 0) + 1
        return counts

    async def shards_owned(self) -> int:
        """How many of the 1,024 shards a worker owns."""
        stub: Any = query_pb2_grpc.QueryServiceStub(self.channel)
        answer = await stub.GetShardMap(query.GetShardMapRequest())
        return sum(shard.state == "owned" for shard in answer.shards)


@asynccontextmanager
async def running(
    workers: int, *, boot_delay: float, latency: dict[str, float], appliance_delay: float = 0.0
) -> AsyncIterator[Stack]:
    """A stack whose workers own all shards."""
    with tempfile.TemporaryDirectory(prefix="astara-bench-") as folder:
        stack = Stack(Path(folder), free_port(), 36100)
        try:
            await stack.start(
                "bench.cloud", str(stack.cloud_port), str(boot_delay), str(appliance_delay), log="cloud",
            )  # fmt: skip
            await _until(lambda: asyncio.to_thread(_answers, f"http://127.0.0.1:{stack.cloud_port}/v3"))
            await asyncio.to_thread(_write_settings, stack)
            await asyncio.to_thread(set_latency, stack.cloud_port, latency)
            await stack.start("services.scheduler", "--config-file", str(stack.folder / "astara.ini"), log="scheduler")
            for number in range(workers):
                await stack.start(
                    "services.worker", "--config-file", str(stack.folder / "astara.ini"), log=f"worker-{number}",
                    OS_WORKER__NAME=f"worker-{number}", OS_WORKER__LISTEN=f"127.0.0.1:{free_port()}",
                )  # fmt: skip
            settings = GrpcSettings(scheduler=f"127.0.0.1:{stack.scheduler_port}")
            stack.channel = open_channel(settings)
            await _until(lambda: _owned(stack))
            stack.publisher = Publisher(stack.channel, "bench", SystemClock())
            publishing = asyncio.create_task(stack.publisher.run())
            yield stack
            publishing.cancel()
            await stack.channel.close()
        finally:
            await stack.stop()


def routers_of_tenants(connection: Connection, count: int) -> list[tuple[str, str]]:
    """Make `count` routers with gateway and one network each; (router, tenant) ids. Projects need not exist."""
    external = connection.network.create_network(name="wide", is_router_external=True).id
    connection.network.create_subnet(network_id=external, cidr="172.16.0.0/16", ip_version=4, is_dhcp_enabled=False)
    made = []
    for number in range(count):
        tenant = f"{number:032x}"
        network = connection.network.create_network(name=f"net-{number}", project_id=tenant)
        subnet = connection.network.create_subnet(
            network_id=network.id, cidr="10.0.0.0/24", ip_version=4, project_id=tenant
        )
        router = connection.network.create_router(
            name=f"router-{number}", project_id=tenant, external_gateway_info={"network_id": external}
        )
        connection.network.put(f"/routers/{router.id}/add_router_interface", json={"subnet_id": subnet.id})
        made.append((router.id, tenant))
    return made


def router_event(kind: "event.EventKind.ValueType", router_id: str, tenant_id: str) -> event.Event:
    """An event that names a router."""
    subject = event.Subject(resource_id=router_id, project_id=tenant_id)
    return event.Event(kind=kind, subject=subject, priority=event.PRIORITY_USER, source="bench")


async def until_configured(stack: Stack, count: int, seconds: float) -> None:
    """Wait until so many resources are CONFIGURED."""
    deadline = time.monotonic() + seconds
    while (configured := (counts := await stack.states()).get("CONFIGURED", 0)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{counts} after {seconds} s")
        # A listing costs the scheduler as much as many events: ask rarely while much is missing.
        await asyncio.sleep(max(0.2, (count - configured) / 300))


def _write_settings(stack: Stack) -> None:
    connection = stack.connect("astara", "service")
    image, network = connection.image.find_image("astara").id, connection.network.find_network("astara-mgmt").id
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_dict(
        {
            "DEFAULT": {"deployment": "bench", "log_level": "warning", "log_format": "json"},
            "grpc": {"scheduler": f"127.0.0.1:{stack.scheduler_port}"},
            "openstack": {
                "auth_url": f"http://127.0.0.1:{stack.cloud_port}/v3", "username": "astara", "password": "lab",
                "project_name": "service", "user_domain_id": "default", "project_domain_id": "default",
            },
            "scheduler": {
                "listen": f"127.0.0.1:{stack.scheduler_port}", "database": f"sqlite:///{stack.folder}/scheduler.db",
                "inventory": "optional",
            },
            "claim": {"claim": "all"},
            "router": {
                "image_id": image, "flavor": "m1.astara", "management_network_id": network,
                "orchestrator_addresses": "127.0.0.1",
            },
            "appliance": {"secret": "a-secret-of-the-bench-only"},
        }
    )  # fmt: skip
    with (stack.folder / "astara.ini").open("w") as file:
        ini.write(file)


def set_latency(cloud_port: int, latency: dict[str, float]) -> None:
    """Set what every call of a service of the simulated cloud takes, in seconds."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{cloud_port + 5}/lab/latency", json.dumps(latency).encode(), method="PUT"
    )
    urllib.request.urlopen(request, timeout=5).close()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True


async def _owned(stack: Stack) -> bool:
    try:
        return await stack.shards_owned() == 1024
    except grpc.aio.AioRpcError:
        return False


async def _until(condition: Any, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the stack does not come up")
        await asyncio.sleep(0.1)
