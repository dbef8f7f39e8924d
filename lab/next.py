"""What somebody who just ran `make up` can try next, with commands that work as printed."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lab.layout import Layout, Plan
from lab.tenants import TenantRouter

_SERVICES = ("scheduler", "notifier", "health", "worker-1", "worker-2", "rpcapi", "metadata")


def what_next(console: Console, layout: Layout, plan: Plan, routers: Sequence[TenantRouter]) -> None:
    """Print it."""
    first = routers[0]
    api = f"http://127.0.0.1:{plan.ports.api}"
    api6 = f"http://[::1]:{plan.ports.api}"
    openstack = f"OS_CLIENT_CONFIG_FILE={layout.clouds} {_tool('openstack')} --os-cloud {first.tenant}"
    sections = {
        "Command it, as in the functional description": [
            f'curl -X PUT -g6 "{api6}/poll/"',
            f'curl -X PUT -g6 "{api6}/workers/debug/"',
            f'curl -X PUT -g6 "{api6}/router/rebuild/{first.router_id}"',
            f"curl -X PUT {api}/router/debug/{first.router_id}      # left alone by everything, until:",
            f"curl -X PUT {api}/router/manage/{first.router_id}",
        ],
        "Ask it": [
            f"curl {api}/v1/resources",
            f"curl {api}/v1/resources/{first.router_id}/history",
            f"curl -N {api}/v1/stream                 # live; then change something",
            f"curl {api}/v1/workers                   # all of it: {api}/docs",
        ],
        "Be a user": [
            f"{openstack} router list",
            f"{openstack} router create another --external-gateway public",
            f"{openstack} router delete {first.name}   # remove its subnet first",
        ],
        "Talk to the services": _grpcurl(plan),
        "Break it": [
            f"kill -9 $(cat {layout.run}/worker-1.pid)      # or {', '.join(s for s in _SERVICES if s != 'worker-1')}",
            f'curl -X POST {plan.cloud_url}/faults -d \'{{"service": "nova", "kind": "error", "times": 3}}\'',
        ],
        "Read": [f"tail -f {layout.logs}/worker-1.log       # one file a service", str(layout.config)],
    }
    if plan.namespaces:
        machines = f"{sys.executable} -m lab.hypervisor --root {layout.hypervisor}"
        sections["See its packets"] = [
            "make demo                                # a tenant's host, step by step; then the appliance is killed",
            f"{machines} list",
            f"{machines} exec astara-router-{first.router_id} {_tool('astara-appliance')} show",
            f"{machines} exec astara-router-{first.router_id} nft list ruleset",
            f"{machines} kill astara-router-{first.router_id}      # or console, reboot, exec … bash",
        ]
    for title, lines in sections.items():
        console.print(f"[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    console.print("\n`make down` ends it and leaves nothing behind.", highlight=False)


def _grpcurl(plan: Plan) -> list[str]:
    grpcurl = _tool("grpcurl")
    lines = [
        f"{grpcurl} -plaintext 127.0.0.1:{plan.ports.grpc(service)} list          # {service}" for service in _SERVICES
    ]
    scheduler = f"127.0.0.1:{plan.ports.grpc('scheduler')}"
    lines.append(f"{grpcurl} -plaintext {scheduler} astara.scheduler.v1.QueryService/ListResources")
    lines.append(f"{grpcurl} -plaintext {scheduler} grpc.health.v1.Health/Check")
    return lines


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name
