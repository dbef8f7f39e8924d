"""`make up` and `make down`: the whole system on this machine, in the background.

`up` may be run again at any time: what runs stays, what is missing is made. What a killed lab left behind is cleared
first. `down` ends every process of the lab and removes its folder.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from lab import packages, processes, tenants, watch
from lab.hypervisor.errors import HypervisorError
from lab.hypervisor.hypervisor import Hypervisor
from lab.hypervisor.machine import Machine
from lab.layout import Layout, Plan
from lab.next import what_next
from lab.wires import WireError

READY_SECONDS = 120.0
CONFIGURED_SECONDS = 120.0
STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_LOG_LINES = 15


class LabError(Exception):
    """The lab does not come up; the text says why and where to look."""


def up(layout: Layout, console: Console, *, broker: str, servers: str) -> None:
    """Bring everything up, make the tenants' routers, show them, say what to try. LabError when it does not come up."""
    began = time.monotonic()
    if processes.recorded(layout.supervisor) is None:
        _clear(layout)
        plan = _plan(console, broker, servers)
        layout.write_plan(plan)
        _announce(console, plan)
        _start(layout)
    else:
        console.print("The lab is up already.")
        plan = layout.read_plan()
    _wait_until_ready(layout, console)
    console.print(f"Services answer after {time.monotonic() - began:.1f} s; two tenants make a router each.")
    routers = tenants.make(layout)
    deadline = time.monotonic() + CONFIGURED_SECONDS

    def go_on() -> bool:
        return processes.recorded(layout.supervisor) is not None and time.monotonic() < deadline

    if not watch.until_configured(console, plan.api_url, routers, go_on=go_on):
        raise LabError(f"the routers do not get configured; {layout.logs}/worker-*.log say why\n{_tail(layout)}")
    console.print(f"Both routers are configured, {time.monotonic() - began:.1f} s after the start.\n")
    what_next(console, layout, plan, routers)


def ready_for_demo(layout: Layout, console: Console) -> list[tenants.TenantRouter]:
    """The tenants' routers of a lab whose servers are machines, which is brought up when it is not. LabError."""
    if processes.recorded(layout.supervisor) is not None and not layout.read_plan().namespaces:
        raise LabError("no packet moves in the lab that is up; `make down`, then `make demo` as root")
    if processes.recorded(layout.supervisor) is None:
        up(layout, console, broker="auto", servers="namespaces")
    return tenants.make(layout)


def down(layout: Layout, console: Console) -> None:
    """End every process of the lab and remove its folder."""
    was_there = layout.home.exists()
    ours = processes.recorded(layout.supervisor)
    if ours is not None:
        processes.end([ours], grace=STOP_SECONDS)
    left = _clear(layout)
    if not was_there and not left:
        console.print("There was no lab.")
    else:
        console.print(f"The lab is down{f'; {left} leftover processes were ended' if left else ''}.")


def _clear(layout: Layout) -> int:
    left = processes.marked(layout)
    processes.end(left, grace=5.0)
    if layout.hypervisor.exists():
        Hypervisor(layout.hypervisor).close()
    if layout.home.exists():
        shutil.rmtree(layout.home)
    return len(left)


def _plan(console: Console, broker: str, servers: str) -> Plan:
    if broker == "auto":
        broker = "rabbitmq" if packages.ensure_rabbitmq() else "embedded"
    return Plan.new(broker, namespaces=servers != "processes" and _can_have_machines(console, servers))


def _can_have_machines(console: Console, servers: str) -> bool:
    """Whether machines can be made of namespaces here."""
    why = _obstacle()
    if why is None:
        return True
    if servers == "namespaces":
        raise LabError(f"no machine can be made of namespaces: {why}")
    if os.geteuid() == 0:
        console.print(f"No machine can be made of namespaces: {why}", highlight=False, markup=False, soft_wrap=True)
    return False


def _obstacle() -> str | None:
    """What stands in the way of machines, which is found out by making one."""
    if os.geteuid() != 0:
        return "that needs root"
    if missing := packages.ensure_machine_programs():
        return f"there is no {', no '.join(missing)}"
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(Hypervisor(Path(folder))) as hypervisor:
            hypervisor.boot(Machine("probe", "probe"))
    except (HypervisorError, WireError, OSError) as error:
        return str(error)
    return None


def _announce(console: Console, plan: Plan) -> None:
    kind = "RabbitMQ" if plan.broker == "rabbitmq" else "the lab's embedded broker (RabbitMQ is not installed)"
    console.print(
        f"Starting {kind} on port {plan.ports.broker}, "
        f"a simulated cloud on {plan.ports.cloud} to {plan.ports.cloud + 5}, "
        f"six services with two workers; operator API on {plan.ports.api}.",
        highlight=False,
        soft_wrap=True,
    )
    if plan.namespaces:
        said = f"Servers are machines made of namespaces, appliances are managed on {plan.management_cidr}."
    else:
        said = "Appliances are agents in the simulated cloud; no packet moves (as root they are machines)."
    console.print(said, highlight=False, soft_wrap=True)
    if plan.offset:
        console.print(f"(All ports are {plan.offset} above the documented ones, of which some are taken.)")


def _start(layout: Layout) -> None:
    layout.logs.mkdir(parents=True, exist_ok=True)
    with (layout.logs / "lab.log").open("ab") as log:
        child = subprocess.Popen(
            (sys.executable, "-m", "lab", "supervise"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=layout.environment(),
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_SECONDS
    while processes.recorded(layout.supervisor) is None:
        if child.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the lab's supervisor ended:\n{_tail(layout)}")
        time.sleep(_LOOK_SECONDS)


def _wait_until_ready(layout: Layout, console: Console) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with console.status("waiting for the services …"):
        while not layout.ready.exists():
            if processes.recorded(layout.supervisor) is None:
                raise LabError(f"the lab ended while it came up:\n{_tail(layout)}")
            if time.monotonic() > deadline:
                raise LabError(f"the services do not answer after {READY_SECONDS:g} s:\n{_tail(layout)}")
            time.sleep(_LOOK_SECONDS)


def _tail(layout: Layout) -> str:
    lines = (layout.logs / "lab.log").read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([*lines, f"(all logs: {layout.logs})"])
