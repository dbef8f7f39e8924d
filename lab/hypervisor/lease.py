"""What dhclient runs when something became of a lease (dhclient-script(8)): addresses, routes, MTU, name servers.

Routes of the classless option replace those of the routers option when both are there (RFC 3442). A lease that is
confirmed changes nothing.
"""

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

RESOLVER = Path("/etc/resolv.conf")
_WON = {"BOUND", "RENEW", "REBIND", "REBOOT"}
_LOST = {"EXPIRE", "FAIL", "RELEASE", "STOP"}


def main() -> int:
    """Do what `$reason` says; the exit code tells dhclient whether the lease can be used."""
    told = os.environ
    device, reason = told.get("interface", ""), told.get("reason", "")
    if reason in ("PREINIT", "PREINIT6"):
        _ip("link", "set", device, "up")
    elif reason in _WON:
        _take4(device, told)
    elif reason in _LOST:
        _drop(device, told.get("old_ip_address"), told.get("old_subnet_mask"))
    elif reason.removesuffix("6") in _WON:
        _take6(device, told)
    elif reason.removesuffix("6") in _LOST | {"DEPREF"} and "old_ip6_address" in told:
        _drop(device, told["old_ip6_address"], told.get("old_ip6_prefixlen"))
    return 0


def classless_routes(octets: str) -> Iterator[tuple[str, str]]:
    """Destination and router of each route in the option's decimal octets (RFC 3442). ValueError when malformed."""
    numbers = iter(octets.split())
    for width in numbers:
        length = int(width)
        significant = (length + 7) // 8
        try:
            destination = [next(numbers) for _ in range(significant)] + ["0"] * (4 - significant)
            router = ".".join(next(numbers) for _ in range(4))
        except StopIteration:
            raise ValueError(f"the classless routes end too early: {octets}") from None
        yield str(ipaddress.ip_network((".".join(destination), length), strict=False)), router


def _take4(device: str, told: Mapping[str, str]) -> None:
    address, mask = told["new_ip_address"], told.get("new_subnet_mask", "255.255.255.255")
    old = told.get("old_ip_address")
    if old not in (None, address):
        _drop(device, old, told.get("old_subnet_mask"))
    if mtu := told.get("new_interface_mtu"):
        _ip("link", "set", device, "mtu", mtu)
    interface = ipaddress.ip_interface(f"{address}/{mask}")
    _ip("address", "replace", str(interface), "dev", device)
    for destination, router in _routes(told):
        # RFC 3442: a router of zeros means on the link.
        via = () if router == "0.0.0.0" else ("via", router)
        _ip("route", "replace", destination, *via, "dev", device)
    _resolve(told.get("new_domain_name_servers"), told.get("new_domain_name"))
    facts = ("routers", "rfc3442_classless_static_routes", "domain_name_servers", "interface_mtu", "dhcp_lease_time")
    known = " ".join(f"{fact}={told[f'new_{fact}']}" for fact in facts if f"new_{fact}" in told)
    if told["reason"] != "RENEW":
        print(f"dhcp {device}: {interface} from {told.get('new_dhcp_server_identifier', 'nobody')} {known}", flush=True)


def _routes(told: Mapping[str, str]) -> list[tuple[str, str]]:
    if classless := told.get("new_rfc3442_classless_static_routes"):
        return list(classless_routes(classless))
    return [("0.0.0.0/0", router) for router in told.get("new_routers", "").split()[:1]]


def _take6(device: str, told: Mapping[str, str]) -> None:
    if address := told.get("new_ip6_address"):
        cidr = f"{address}/{told.get('new_ip6_prefixlen', '128')}"
        _ip("address", "replace", cidr, "dev", device)
        if told["reason"] != "RENEW6":
            print(f"dhcp {device}: {cidr}", flush=True)
    _resolve(told.get("new_dhcp6_name_servers"), told.get("new_dhcp6_domain_search"))


def _drop(device: str, address: str | None, length: str | None) -> None:
    if address:
        cidr = str(ipaddress.ip_interface(f"{address}/{length}" if length else address))
        subprocess.run(("ip", "address", "delete", cidr, "dev", device), stderr=subprocess.DEVNULL, check=False)


def _resolve(servers: str | None, domain: str | None) -> None:
    if servers is None:
        return
    family = ":" in servers
    known = RESOLVER.read_text(encoding="utf-8").splitlines() if RESOLVER.exists() else []
    # Those of the other family stay.
    kept = [line for line in known if line.startswith("nameserver") and (":" in line) != family]
    lines = [f"search {domain}"] if domain else [line for line in known if line.startswith("search")]
    RESOLVER.write_text("\n".join([*lines, *(f"nameserver {one}" for one in servers.split()), *kept, ""]))


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


if __name__ == "__main__":
    sys.exit(main())
