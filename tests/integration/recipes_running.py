"""The night of docs/grpcurl.md: a tenant changed a router that somebody put into debug mode and forgot.

Everything is a real process: the simulated cloud, a broker, two replicas of the scheduler on one database, notifier,
health and a worker, over plain text or over TLS with certificates on both sides. What changes on the way, `forget`
brings back.
"""

import configparser
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import operate_pb2, operate_pb2_grpc, query_pb2, query_pb2_grpc
from authority import Authority

from lab import asking, processes, settings, tenants
from lab.layout import Layout, Plan
from lab.ports import free_port
from lab.supervise import children
from services.common.marks import MANAGEMENT, PortMark

ROOT = Path(__file__).parents[2]
_SECONDS = 90.0
_REASON = "looking at lost packets, case 4711"


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait for what other processes do; TimeoutError names it."""
    deadline = time.monotonic() + _SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


class Night:
    """Start it, ask it, end it."""

    def __init__(self, folder: Path, database: str, *, tls: bool) -> None:
        self.layout = Layout(folder / "lab")
        self.plan = Plan.new("embedded")
        self._database = database
        self.authority = Authority(folder / "authority") if tls else None
        ports = self.plan.ports
        self.scheduler = f"127.0.0.1:{ports.grpc('scheduler')}"
        self.standby = f"127.0.0.1:{free_port()}"
        self.notifier = f"127.0.0.1:{ports.grpc('notifier')}"
        self.worker = f"127.0.0.1:{ports.grpc('worker-1')}"
        self.probes = f"127.0.0.1:{free_port()}"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Bring everything up, up to the change that waits in the inbox."""
        self.layout.write_plan(self.plan)
        self.layout.logs.mkdir()
        everybody = children(self.layout, self.plan)
        for name in ("broker", "cloud"):
            self._spawn(name, everybody[name].command, everybody[name].environment)
        until(self._cloud_answers, "the simulated cloud")
        settings.write(self.layout, self.plan)
        self._spoil()
        self._serve("scheduler", {"scheduler": {"database": self._database}, "grpc": {"health_listen": self.probes}})
        self._channel = self._open()
        self.query = query_pb2_grpc.QueryServiceStub(self._channel)
        self.operate = operate_pb2_grpc.OperateServiceStub(self._channel)
        until(self._leads, "a scheduler that leads")
        standing_by = {"listen": self.standby, "database": self._database}
        self._serve("scheduler", {"DEFAULT": {"host": "standby"}, "scheduler": standing_by}, "standby")
        self._serve("worker", {"worker": {"name": "worker-1"}})
        self._serve("notifier", {})
        self._serve("health", {"health": {"changed_interval": "1"}})
        _, made = tenants.make(self.layout)
        self.router, self.owner = made.router_id, made.tenant
        until(lambda: self._state() == resource_pb2.INSTANCE_STATE_CONFIGURED, "a configured router")
        self.tenant = self._resource().tenant_id
        until(lambda: self.query.ListFindings(query_pb2.ListFindingsRequest()).complete, "a full inventory")
        self.operation = self.command("UPDATE", "a customer called").operation_id
        until(lambda: self._operation().state == resource_pb2.OPERATION_STATE_SUCCEEDED, "an update")
        self.forget()

    def stop(self) -> None:
        """End every process."""
        if hasattr(self, "_channel"):
            self._channel.close()
        # The worker hands back its shards while there is a scheduler to take them.
        for process in reversed(self._started):
            process.terminate()
            process.wait(30)
        processes.end(processes.marked(self.layout), grace=5.0)

    def forget(self) -> None:
        """The router is left alone; a change by its owner waits."""
        self.command("DEBUG", _REASON)
        with settings.connect(self.layout, self.owner) as cloud:
            cloud.network.update_router(self.router, description=str(uuid.uuid4()))
        until(lambda: "UPDATE" in self._inbox(), "the change in the inbox")

    def manage(self) -> None:
        """The end of the debug mode."""
        self.command("MANAGE", "found")

    def command(self, kind: str, reason: str = "") -> resource_pb2.Operation:
        """An operator's command for the router."""
        request = operate_pb2.StartOperationRequest(
            kind=f"OPERATION_KIND_{kind}", scope="OPERATION_SCOPE_RESOURCE", target_id=self.router, reason=reason,
            requested_by="ops",
        )  # fmt: skip
        return self.operate.StartOperation(request).operation

    def certificates(self) -> tuple[str, str, str]:
        """An operator's files: authority, certificate, key."""
        assert self.authority is not None
        return str(self.authority.ca), *self.authority.issue("operator")

    def _spoil(self) -> None:
        """A port with our mark, of a router that does not exist."""
        with settings.connect(self.layout, "astara") as cloud:
            network = cloud.network.find_network(settings.MANAGEMENT_NETWORK, ignore_missing=False)
            mark = PortMark("lab", str(uuid.uuid4()), 0, MANAGEMENT)
            cloud.network.create_port(network_id=network.id, name=mark.name(), description=mark.description())

    def _serve(self, service: str, options: dict[str, dict[str, str]], name: str = "") -> None:
        name = name or service
        options.setdefault("DEFAULT", {})
        if self.authority is not None:
            cert, key = self.authority.issue(f"astara-{name}")
            tls = {"tls_cert": cert, "tls_key": key, "tls_ca": str(self.authority.ca)}
            options["grpc"] = options.get("grpc", {}) | tls
        file = self.layout.home / f"{name}.ini"
        ini = configparser.ConfigParser(interpolation=None)
        ini.read_dict(options)
        with file.open("w", encoding="utf-8") as own:
            ini.write(own)
        command = (sys.executable, "-m", f"services.{service}", "--config-file", str(self.layout.config))
        self._spawn(name, (*command, "--config-file", str(file)), {})

    def _spawn(self, name: str, command: tuple[str, ...], environment: Any) -> None:
        with (self.layout.logs / f"{name}.log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env={**self.layout.environment(), **environment}, stdout=log, stderr=log
                )
            )

    def _open(self) -> grpc.Channel:
        if self.authority is None:
            return grpc.insecure_channel(self.scheduler)
        ca, cert, key = (Path(path).read_bytes() for path in self.certificates())
        return grpc.secure_channel(self.scheduler, grpc.ssl_channel_credentials(ca, key, cert))

    def _cloud_answers(self) -> bool:
        try:
            return asking.get(f"{self.plan.cloud_url}/health", seconds=2.0)[0] == 200 and self.layout.clouds.exists()
        except OSError:
            return False

    def _leads(self) -> bool:
        try:
            return self.query.ListWorkers(query_pb2.ListWorkersRequest(), wait_for_ready=True, timeout=30) is not None
        except grpc.RpcError:
            return False

    def _resource(self) -> resource_pb2.Resource:
        return self.query.GetResource(query_pb2.GetResourceRequest(resource_id=self.router)).resource

    def _state(self) -> int:
        try:
            return self._resource().state
        except grpc.RpcError:
            return resource_pb2.INSTANCE_STATE_UNSPECIFIED

    def _operation(self) -> resource_pb2.Operation:
        return self.query.GetOperation(query_pb2.GetOperationRequest(operation_id=self.operation)).operation

    def _inbox(self) -> list[str]:
        operation = self.command("WORKERS_DEBUG")
        return [
            action for text in operation.diagnoses for one in json.loads(text)["resources"] for action in one["inbox"]
        ]


def search_path() -> str:
    """Where programs are looked for: grpcurl is installed beside Python."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def environment(night: Night) -> dict[str, str]:
    """What an operator sets before the first recipe."""
    how = "-plaintext"
    if night.authority is not None:
        ca, cert, key = night.certificates()
        how = f"-cacert {ca} -cert {cert} -key {key} -servername localhost"
    return {
        "PATH": search_path(),
        "WITH": how,
        "SCHEDULER": night.scheduler,
        "STANDBY": night.standby,
        "NOTIFIER": night.notifier,
        "WORKER": night.worker,
        "PROBES": night.probes,
        "TENANT": night.tenant,
        "ROUTER": night.router,
        "OPERATION": night.operation,
    }
