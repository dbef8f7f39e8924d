"""`python -m lab supervise`: the lab's one parent process, which keeps broker, cloud and orchestrator running.

The simulated cloud lives in memory. When it is started again it is another cloud with other ids, so the settings are
written anew and the orchestrator is told to start over; `make up` then makes the tenants' routers again.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from lab import asking, processes, settings
from lab.layout import TENANTS, WORKERS, Layout, Plan
from services.common import logging
from services.common.settings import CommonSettings
from services.common.supervisor import Child, Supervisor

START_SECONDS = 60.0
LOOK_SECONDS = 0.05
GRACE_SECONDS = 25.0

_ORCHESTRATOR, _CLOUD, _BROKER = range(3)

log = logging.get(__name__)


def children(layout: Layout, plan: Plan) -> dict[str, Child]:
    """The three children; the orchestrator runs the services."""
    python = (sys.executable, "-m")
    broker = {
        "rabbitmq": (*python, "lab", "node"),
        "embedded": (*python, "lab.broker", "--port", str(plan.ports.broker)),
    }[plan.broker]
    tenants = tuple(word for tenant in TENANTS for word in ("--tenant", tenant))
    cloud = (
        *(*python, "lab.cloud", "--port-base", str(plan.ports.cloud), "--clouds", str(layout.clouds), *tenants),
        *("--management-cidr", plan.management_cidr),
        *(("--hypervisor", str(layout.hypervisor)) if plan.namespaces else ()),
    )
    # Not as arguments: everybody on the machine sees those.
    secrets = {"ASTARA_LAB_AMQP_URL": plan.amqp_url, "ASTARA_LAB_METADATA_SECRET": plan.metadata_secret}
    orchestrator = (
        *(*python, "services.common.orchestrator", "--config-file", str(layout.config), "--workers", str(WORKERS)),
        *("--log-dir", str(layout.logs), "--run-dir", str(layout.run), "--grace", "10"),
    )
    return {
        "broker": Child("broker", broker, stage=_BROKER),
        "cloud": Child("cloud", cloud, secrets, stage=_CLOUD),
        "orchestrator": Child("orchestrator", orchestrator, stage=_ORCHESTRATOR),
    }


async def supervise(layout: Layout) -> None:
    """Run the lab until SIGTERM or SIGINT."""
    plan = layout.read_plan()
    logging.setup("lab", CommonSettings())
    processes.record(layout.supervisor)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisor = Supervisor(log_dir=layout.logs, run_dir=layout.run, grace=GRACE_SECONDS)
    jobs = asyncio.ensure_future(_bring_up(supervisor, layout, plan))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([jobs, stopping], return_when=asyncio.FIRST_COMPLETED)
        if jobs.done():
            jobs.result()
    finally:
        jobs.cancel()
        stopping.cancel()
        await supervisor.stop()


async def _bring_up(supervisor: Supervisor, layout: Layout, plan: Plan) -> None:
    everybody = children(layout, plan)
    supervisor.start(everybody["broker"])
    await _listening(plan.ports.broker, "broker")
    supervisor.start(everybody["cloud"])
    await _cloud_answers(layout, plan)
    settings.write(layout, plan)
    supervisor.start(everybody["orchestrator"])
    await _listening(plan.ports.api, "operator API")
    layout.ready.touch()
    watching = asyncio.ensure_future(supervisor.run(asyncio.Event()))
    following = asyncio.ensure_future(_follow_cloud(supervisor, layout, plan))
    done, pending = await asyncio.wait([watching, following], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


async def _follow_cloud(supervisor: Supervisor, layout: Layout, plan: Plan) -> None:
    known = supervisor.pid("cloud")
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = supervisor.pid("cloud")
        if now is None or now == known:
            continue
        known = now
        await _cloud_answers(layout, plan)
        settings.write(layout, plan)
        log.warning("the simulated cloud was started again and is empty: `make up` makes its tenants' routers again")
        orchestrator = supervisor.pid("orchestrator")
        if orchestrator is not None:
            os.kill(orchestrator, signal.SIGTERM)


async def _listening(port: int, what: str) -> None:
    await _until(lambda: asking.listens(port), what)


async def _cloud_answers(layout: Layout, plan: Plan) -> None:
    def ask() -> bool:
        try:
            status, _ = asking.get(f"{plan.cloud_url}/health", seconds=2.0)
        except OSError:
            return False
        # The file comes right after the first answer.
        return status == HTTPStatus.OK and layout.clouds.exists()

    await _until(lambda: asyncio.to_thread(ask), "simulated cloud")


async def _until(ask: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await ask():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"the {what} did not come up within {START_SECONDS:g} s") from error
