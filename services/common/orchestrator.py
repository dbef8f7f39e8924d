"""`astara-orchestrator --config-file FILE`: all services as one supervised process tree, for small set-ups.

The six services run as children on this machine, with as many workers as asked for. Workers stop first, so that they
hand back their shards while the scheduler still listens; the scheduler stops last. Options that must differ between
children of one file (a worker's name and address, metrics ports) are given through the environment.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg

from services.common import process
from services.common.metrics import MetricsSettings
from services.common.rpc import split_address
from services.common.settings import Settings, SettingsError, option
from services.common.supervisor import Child, ChildError, Supervisor

SERVICES = ("scheduler", "notifier", "health", "metadata", "rpcapi")
WORKER_PORT_STEP = 10

_WORKERS, _SOURCES, _SCHEDULER = range(3)


@dataclass(frozen=True)
class WorkerPlace:
    """Where the first worker listens; the worker's own settings hold the rest."""

    group: ClassVar[str] = "worker"
    partial: ClassVar[bool] = True

    listen: str = option(
        "127.0.0.1:44254",
        help=f"Where the worker's gRPC server listens; worker n of one tree adds {WORKER_PORT_STEP} * (n - 1)",
    )


def _arguments(conf: cfg.ConfigOpts) -> None:
    conf.register_cli_opts(
        [
            cfg.IntOpt("workers", default=1, min=1, max=64, help="Workers to run"),
            cfg.FloatOpt(
                "grace", default=15.0, min=0.0, help="Seconds that a stopping service gets before it is killed"
            ),
            cfg.StrOpt("log-dir", default="", help="A log file for each service in this folder; else standard error"),
            cfg.StrOpt("run-dir", default="", help="A file NAME.pid for each running service in this folder"),
        ]
    )


def children(files: Sequence[str], workers: int, first_listen: str, first_metrics_port: int) -> list[Child]:
    """The process tree. Metrics ports count up from the configured one in the order of this list; 0 stays 0."""
    config = tuple(word for path in files for word in ("--config-file", path))
    host, port = split_address(first_listen)
    plan: list[tuple[str, str, dict[str, str], int]] = [
        (name, name, {}, _SCHEDULER if name == "scheduler" else _SOURCES) for name in SERVICES
    ]
    for index in range(workers):
        own = f"[{host}]" if ":" in host else host
        environment = {
            "OS_WORKER__NAME": f"worker-{index + 1}",
            "OS_WORKER__LISTEN": f"{own}:{port + index * WORKER_PORT_STEP}",
        }
        plan.append((f"worker-{index + 1}", "worker", environment, _WORKERS))
    return [
        Child(
            name=name,
            command=(sys.executable, "-m", f"services.{service}", *config),
            environment={
                **environment,
                **({"OS_METRICS__PORT": str(first_metrics_port + index)} if first_metrics_port else {}),
            },
            stage=stage,
        )
        for index, (name, service, environment, stage) in enumerate(plan)
    ]


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    conf = settings.conf
    supervisor = Supervisor(
        log_dir=Path(conf.log_dir) if conf.log_dir else None,
        run_dir=Path(conf.run_dir) if conf.run_dir else None,
        grace=conf.grace,
    )
    listen, metrics_port = settings[WorkerPlace].listen, settings[MetricsSettings].port
    for child in children(conf.config_file or (), conf.workers, listen, metrics_port):
        supervisor.start(child)
    try:
        await supervisor.run(stop)
    except ChildError as error:
        raise SettingsError(str(error)) from error


def main() -> int:
    """Run the tree until a signal stops it; answers with the exit code."""
    return process.run("orchestrator", (WorkerPlace, MetricsSettings), _main, extra=_arguments)


if __name__ == "__main__":
    sys.exit(main())
