"""Shows how routers come up: a table that lives on a terminal, plain lines everywhere else."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lab import asking
from lab.tenants import TenantRouter

LOOK_SECONDS = 0.15
_STYLES = {"configured": "bold green", "error": "bold red", "booting": "yellow", "up": "cyan"}

Row = tuple[str, str, str, str, str, str]


def resources(api_url: str) -> dict[str, dict[str, Any]]:
    """What the operator API lists, by id; empty while it does not answer."""
    try:
        status, body = asking.get(f"{api_url}/v1/resources?limit=10000", seconds=5.0)
    except OSError:
        return {}
    if status != HTTPStatus.OK:
        return {}
    return {entry["resource_id"]: entry for entry in json.loads(body)["resources"]}


def rows(routers: Iterable[TenantRouter], known: dict[str, dict[str, Any]]) -> list[Row]:
    """Tenant, router, state, management address, worker, last error of each router."""
    found: list[Row] = []
    for router in routers:
        entry = known.get(router.router_id, {})
        addresses = [address for instance in entry.get("instances", ()) for address in instance["management_addresses"]]
        found.append(
            (
                router.tenant,
                router.router_id,
                entry.get("state", "not seen yet"),
                ", ".join(addresses),
                entry.get("worker", ""),
                entry.get("last_error", ""),
            )
        )
    return found


def until_configured(
    console: Console, api_url: str, routers: Sequence[TenantRouter], *, go_on: Callable[[], bool]
) -> bool:
    """Show the routers until all are configured (True), or `go_on` says no (False)."""
    if not console.is_terminal:
        return _follow(_Lines(console).show, api_url, routers, go_on)
    with Live(_table([]), console=console, refresh_per_second=8) as live:
        return _follow(lambda shown: live.update(_table(shown)), api_url, routers, go_on)


def _follow(
    show: Callable[[list[Row]], None], api_url: str, routers: Sequence[TenantRouter], go_on: Callable[[], bool]
) -> bool:
    before: list[Row] | None = None
    while True:
        now = rows(routers, resources(api_url))
        if now != before:
            show(now)
            before = now
        if all(row[2] == "configured" for row in now):
            return True
        if not go_on():
            return False
        time.sleep(LOOK_SECONDS)


class _Lines:
    """A line for each router whenever something about it changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: dict[str, Row] = {}

    def show(self, shown: list[Row]) -> None:
        """Print what is new."""
        for row in shown:
            if self._printed.get(row[1]) != row:
                self._printed[row[1]] = row
                self._console.print("  ".join(part for part in row if part), soft_wrap=True, highlight=False)


def _table(shown: Sequence[Row]) -> Group:
    # The columns fit into a terminal of 80; errors stand below, whole.
    table = Table(title="Routers, live from /v1/resources", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("tenant", "router", "state", "address", "worker"):
        table.add_column(column, no_wrap=True)
    for tenant, router, state, address, worker, _error in shown:
        styled = f"[{_STYLES[state]}]{state}[/]" if state in _STYLES else state
        table.add_row(tenant, router, styled, address, worker)
    return Group(table, *(Text(f"{tenant}: {error}") for tenant, *_, error in shown if error))
