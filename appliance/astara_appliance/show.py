"""What runs on this machine, for an operator: the kernel's facts beside what the agent remembers.

Nothing is changed, and the agent is not asked: it may be what does not work.
"""

import json
from pathlib import Path
from typing import Any

from .backend import BackendError
from .boot import BootData
from .linux import netfilter, ruleset, sysctl
from .linux.links import Links
from .linux.rtnetlink import ANY, MAIN, MANAGEMENT, Route, Rtnetlink
from .store import StoreError, read_facts


async def show(boot: BootData, state_dir: Path, runtime_dir: Path, *, as_json: bool) -> str:
    """The facts as text, or as a JSON document. Raises `BackendError` and OSError."""
    facts = await _facts(boot, state_dir, runtime_dir)
    return json.dumps(facts, indent=2) + "\n" if as_json else _text(facts)


async def _facts(boot: BootData, state_dir: Path, runtime_dir: Path) -> dict[str, Any]:
    try:
        remembered = read_facts(state_dir)
    except StoreError as error:
        raise BackendError(str(error)) from error
    configuration = json.loads(remembered.configuration or b"{}")
    applied = {path.stem: json.loads(path.read_bytes()) for path in sorted((runtime_dir / "applied").glob("*.json"))}
    links, rtnetlink = Links(), Rtnetlink()
    try:
        await links.open()
        interfaces = await _interfaces(links, rtnetlink, applied.get("interfaces", {}))
        known = sorted(await rtnetlink.routes(ANY), key=str)
        routes = [_route(route, links) for route in known if route.table == MAIN]
        uplinks = [_route(route, links) for route in known if route.table not in (MAIN, MANAGEMENT)]
    finally:
        links.close()
        rtnetlink.close()
    return {
        "resource_id": boot.resource_id,
        "instance": boot.instance,
        "hostname": configuration.get("hostname", ""),
        "admin_state_up": configuration.get("admin_state_up", True),
        "digest": remembered.digest,
        "epoch": None if remembered.epoch is None else str(remembered.epoch),
        "in_effect": sorted(applied),
        "interfaces": interfaces,
        "forwarding_v6": sysctl.is_forwarding_v6(),
        "routes": routes,
        "uplinks": uplinks,
        "floating_ips": [
            {"floating_ip": item["floating_ip"], "fixed_ip": item["fixed_ip"]}
            for item in configuration.get("floating_ips", ())
        ],
        "dhcp": [
            {
                "ifname": ifname,
                "subnets": [subnet["cidr"] for subnet in network["subnets"]],
                "hosts": len(network["hosts"]),
            }
            for ifname, network in applied.get("dhcp", {}).items()
        ],
        "daemons": _daemons(runtime_dir),
        "labels": _labels(applied.get("firewall", {})),
    }


async def _interfaces(links: Links, rtnetlink: Rtnetlink, applied: dict[str, Any]) -> list[dict[str, Any]]:
    addresses = await rtnetlink.addresses()
    return [
        {
            "ifname": device.name,
            "lladdr": device.mac,
            "network_type": applied.get(device.name, {}).get("network_type"),
            "state": "up" if device.is_up else "down",
            "mtu": device.mtu,
            "forwarding_v4": sysctl.is_forwarding(device.name),
            "addresses": [str(one) for one in sorted(addresses) if one.ifindex == device.ifindex],
        }
        for device in links.devices().values()
    ]


def _route(route: Route, links: Links) -> dict[str, Any]:
    names = {device.ifindex: device.name for device in links.devices().values()}
    return {
        "destination": str(route),
        "nexthops": [
            {"nexthop": step.text, "ifname": names.get(step.ifindex, str(step.ifindex))}
            for step in sorted(route.nexthops)
        ],
    }


def _daemons(runtime_dir: Path) -> list[dict[str, Any]]:
    """Those that an agent started, by their pid files; one that is not running has none in /proc."""
    found = []
    for path in sorted(runtime_dir.rglob("*.pid")):
        pid = path.read_text().strip()
        is_running = pid.isdigit() and Path("/proc", pid).exists()
        found.append({"name": path.stem, "pid": int(pid) if is_running else None})
    return found


def _labels(firewall: dict[str, Any]) -> list[dict[str, Any]]:
    labels = {label["name"] for label in firewall.get("labels", ())}
    counted = netfilter.counters(ruleset.TABLE) if labels else {}
    return [
        {"name": label, "packets": counter.packets, "bytes": counter.bytes}
        for label in sorted(labels)
        if (counter := counted.get(ruleset.counter_name(label))) is not None
    ]


def _text(facts: dict[str, Any]) -> str:
    switched = "" if facts["admin_state_up"] else " (switched off)"
    lines = [
        f"resource    {facts['resource_id']} {facts['hostname']!r}{switched}",
        f"instance    {facts['instance']}",
        f"digest      {facts['digest'] or 'unknown'}",
        f"epoch       {facts['epoch'] or 'none'}",
        f"in effect   {', '.join(facts['in_effect']) or 'nothing'}",
    ]
    for one in facts["interfaces"]:
        forwards = "forwards" if one["forwarding_v4"] else "does not forward"
        lines.append("")
        lines.append(
            f"{one['ifname']:<11} {one['network_type'] or 'no network'}, {one['state']}, {forwards}, "
            f"mtu {one['mtu']}, {one['lladdr']}"
        )
        lines += [f"            {address}" for address in one["addresses"]]
    for title, rows in (
        ("routes", [_route_text(route) for route in facts["routes"]]),
        ("uplinks", [_route_text(route) for route in facts["uplinks"]]),
        ("floating IPs", [f"{one['floating_ip']} = {one['fixed_ip']}" for one in facts["floating_ips"]]),
        ("DHCP", [f"{one['ifname']} {', '.join(one['subnets'])}: {one['hosts']} hosts" for one in facts["dhcp"]]),
        ("daemons", [f"{one['name']} {one['pid'] or 'does not run'}" for one in facts["daemons"]]),
        ("labels", [f"{one['name']} {one['packets']} packets, {one['bytes']} bytes" for one in facts["labels"]]),
    ):
        lines += ["", title, *(f"            {row}" for row in rows or ["none"])]
    return "\n".join(lines) + "\n"


def _route_text(route: dict[str, Any]) -> str:
    steps = ", ".join(f"{step['nexthop']} on {step['ifname']}" for step in route["nexthops"])
    return f"{route['destination']} via {steps}"
