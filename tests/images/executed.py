"""Runs in an image: starts its service, and answers with what was executed, what is installed, and what there is.

The service ends by itself where a setting is missing; the scheduler gets what it needs to migrate a database, and is
told to stop once it is fit to run. `python executed.py SERVICE`.
"""

import importlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

OWN = Path("/opt/astara/own")
ABSENT = ("pip", "setuptools", "pkg_resources", "grpc_tools", "lab", "tests", "astara_appliance", "mypy", "pytest")
SERVICES = ("health", "metadata", "notifier", "rpcapi", "scheduler", "worker")
ENVIRONMENT = {
    "OS_SCHEDULER__DATABASE": "sqlite:////tmp/astara/scheduler.db",
    "OS_GRPC__HEALTH_LISTEN": "127.0.0.1:44260",
}

ON_DEMAND = {"scheduler": ("services.scheduler.lease",)}
"""What a service imports only where a setting asks for it."""

executed: set[str] = set()


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    """Remember the files whose code is executed."""
    if event == "exec":
        executed.add(getattr(arguments[0], "co_filename", ""))


def stop_when_fit() -> None:
    """Send SIGTERM once health answers that the process is fit to run."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel("127.0.0.1:44260") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=30):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the service, and tell."""
    service = sys.argv[1]
    os.environ.update(ENVIRONMENT)
    sys.addaudithook(listen)
    sys.argv = [service]
    if service == "scheduler":
        threading.Thread(target=stop_when_fit, daemon=True).start()
    try:
        runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    for module in ON_DEMAND.get(service, ()):
        importlib.import_module(module)
    others = [f"services.{other}" for other in SERVICES if other != service]
    answer = {
        "code": code,
        "present": sorted(str(path) for path in OWN.rglob("*.py")),
        "executed": sorted(name for name in executed if name.startswith(f"{OWN}/")),
        "distributions": sorted({found.metadata["Name"] for found in metadata.distributions()}),
        "unwanted": [name for name in (*ABSENT, *others) if importlib.util.find_spec(name) is not None],
        "commands": sorted(path.name for path in Path(sys.prefix, "bin").iterdir()),
        "tests": sorted(str(path) for path in Path(sys.prefix).rglob("tests") if path.is_dir()),
        "strays": sorted(
            str(path)
            for path in OWN.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and ".dist-info/" not in str(path)
        ),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
