"""What of Neutron's QoS policies an appliance is told: the bandwidth limits of its external addresses.

As in Neutron's L3 agent (`qos-fip`, `qos-gateway-ip`) each IPv4 address has its limits to itself, a policy is not
shared by those that have it, and `ingress` is what the address receives from outside.
"""

from collections.abc import Iterator

from .cloud import Json
from .reading import BANDWIDTH_LIMIT, RouterReading

# More than an interface carries is no limit; an appliance takes no higher number.
_MOST_KBPS = 100_000_000
_MOST_BURST_KBPS = 25_000_000


def rate_limits(reading: RouterReading) -> list[Json]:
    """The limits, each with the addresses that have it. A rate of 0 is no limit, as Neutron's agent has it."""
    found: dict[tuple[str, int, int], set[str]] = {}
    for address, policy_id in _limited(reading):
        for rule in reading.qos_policies.get(policy_id, {}).get("rules", ()):
            rate = min(int(rule.get("max_kbps") or 0), _MOST_KBPS)
            if rule.get("type") == BANDWIDTH_LIMIT and rate:
                burst = min(int(rule.get("max_burst_kbps") or 0), _MOST_BURST_KBPS)
                found.setdefault((str(rule.get("direction") or "egress"), rate, burst), set()).add(address)
    return [
        {"direction": direction, "max_kbps": rate, "max_burst_kbps": burst, "addresses": sorted(addresses)}
        for (direction, rate, burst), addresses in sorted(found.items())
    ]


def _limited(reading: RouterReading) -> Iterator[tuple[str, str]]:
    """IPv4 addresses of the external side, each with the policy that it has."""
    policy = (reading.router.get("external_gateway_info") or {}).get("qos_policy_id")
    # Neutron has one policy for all gateways of a router.
    for ip in (ip for port in reading.gateway_ports for ip in port["fixed_ips"]):
        if policy and ":" not in ip["ip_address"]:
            yield str(ip["ip_address"]), str(policy)
    for one in reading.floating_ips:
        if one.get("qos_policy_id") and (one.get("fixed_ip_address") or one.get("port_forwardings")):
            yield str(one["floating_ip_address"]), str(one["qos_policy_id"])
