"""A user's day on a real OpenStack: what `openstack` commands do to routers, and what Astara makes of it."""

import os
import signal
from typing import Any


def _networks(configuration: dict[str, Any] | None, kind: str) -> set[str]:
    return {n["network_id"] for n in (configuration or {}).get("networks", []) if n["network_type"] == kind}


def _addresses(configuration: dict[str, Any] | None, network_id: str) -> set[str]:
    for network in (configuration or {}).get("networks", []):
        if network["network_id"] == network_id:
            return set(network["interface"]["addresses"])
    return set()


def test_a_users_day_ends_with_every_change_pushed_and_nothing_left(real_cloud: Any) -> None:
    cloud, client, until = real_cloud, real_cloud.client, real_cloud.until
    orchestrator = cloud.start_orchestrator()
    until("the operator API answers", lambda: cloud.api("/v1/workers"))

    print("\ntwo routers in one tenant")
    net1 = client("network", "create", "net1")["id"]
    client(
        "subnet", "create", "sub1", "--network", "net1", "--subnet-range", "10.1.0.0/24", "--dns-nameserver", "9.9.9.9"
    )
    r1 = client("router", "create", "r1")["id"]
    client("router", "set", "r1", "--external-gateway", "rig-external")
    client("router", "add", "subnet", "r1", "sub1")
    net2 = client("network", "create", "net2")["id"]
    client("subnet", "create", "sub2", "--network", "net2", "--subnet-range", "10.2.0.0/24")
    r2 = client("router", "create", "r2")["id"]
    client("router", "add", "subnet", "r2", "sub2")
    until("r1 serves net1 and its gateway", lambda: (
        _networks(cloud.configuration(r1), "internal") == {net1}
        and _networks(cloud.configuration(r1), "external") == {cloud.external}
    ))  # fmt: skip
    until("r2 serves net2", lambda: _networks(cloud.configuration(r2), "internal") == {net2})
    assert "10.1.0.1/24" in _addresses(cloud.configuration(r1), net1)
    assert cloud.configuration(r1)["networks"][-1]["subnets"][0]["dns_nameservers"] == ["9.9.9.9"]
    assert len(cloud.servers()) == 2

    print("a port and a floating IP")
    port = client("port", "create", "vm", "--network", "net1", "--fixed-ip", "subnet=sub1,ip-address=10.1.0.55")["id"]
    until("r1 serves its address", lambda: any(
        "10.1.0.55" in allocation["ip_addresses"]
        for network in (cloud.configuration(r1) or {"networks": []})["networks"]
        for allocation in network["address_allocations"]
    ))  # fmt: skip
    fip = client("floating", "ip", "create", "rig-external", "--port", port)
    until("r1 translates", lambda: [f["fixed_ip"] for f in cloud.configuration(r1)["floating_ips"]] == ["10.1.0.55"])
    assert cloud.configuration(r2)["floating_ips"] == []
    client("floating", "ip", "unset", "--port", fip["id"])
    until("r1 no longer translates", lambda: cloud.configuration(r1)["floating_ips"] == [])
    client("floating", "ip", "set", "--port", port, fip["id"])
    until("r1 translates again", lambda: len(cloud.configuration(r1)["floating_ips"]) == 1)

    print("extra routes, both ways of setting them; the second is not announced by Neutron")
    client("router", "set", "r1", "--route", "destination=192.0.2.0/24,gateway=10.1.0.55")
    until("r1 has the route", lambda: len(cloud.configuration(r1)["static_routes"]) == 1)
    client("router", "add", "route", "r1", "--route", "destination=198.51.100.0/24,gateway=10.1.0.55")
    until("r1 has the silent route", lambda: len(cloud.configuration(r1)["static_routes"]) == 2)

    print("a shared network, by port")
    shared = client("network", "create", "rig-shared", "--share", cloud="admin")["id"]
    client("subnet", "create", "shared4", "--network", "rig-shared", "--subnet-range", "10.9.0.0/24", cloud="admin")
    client("port", "create", "leg", "--network", "rig-shared")
    client("router", "add", "port", "r1", "leg")
    until("r1 serves the shared network", lambda: _networks(cloud.configuration(r1), "internal") == {net1, shared})

    print("IPv6 subnets")
    gateway = client(
        "subnet", "create", "six", "--network", "net1", "--ip-version", "6", "--subnet-range", "2001:db8:1::/64",
        "--ipv6-ra-mode", "slaac", "--ipv6-address-mode", "slaac",
    )["gateway_ip"]  # fmt: skip
    client("router", "add", "subnet", "r1", "six")
    until("r1 has its IPv6 address", lambda: f"{gateway}/64" in _addresses(cloud.configuration(r1), net1))
    client("router", "remove", "subnet", "r1", "six")
    until("and loses it again", lambda: f"{gateway}/64" not in _addresses(cloud.configuration(r1), net1))

    print("detach a network")
    client("router", "remove", "port", "r1", "leg")
    until("r1 lets go of the shared network", lambda: _networks(cloud.configuration(r1), "internal") == {net1})

    print("admin state down and up keeps the instance")
    before = cloud.resource(r1)["instances"][0]["server_id"]
    client("router", "set", "r1", "--disable")
    until("r1 stops forwarding", lambda: cloud.configuration(r1)["admin_state_up"] is False)
    client("router", "set", "r1", "--enable")
    until("r1 forwards", lambda: cloud.configuration(r1)["admin_state_up"] is True)
    assert cloud.resource(r1)["instances"][0]["server_id"] == before

    print("a router deleted while the workers do not run")
    workers = cloud.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    client("router", "remove", "subnet", "r2", "sub2")
    client("router", "delete", "r2")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until("r2's instance is gone", lambda: len(cloud.servers()) == 1)
    until("r1 is still there", lambda: (cloud.resource(r1) or {}).get("state") == "configured")
    assert cloud.resource(r1)["instances"][0]["server_id"] == before

    print("a router deleted, and another made, while nothing of Astara runs")
    cloud.stop(orchestrator)
    r3 = client("router", "create", "r3")["id"]
    client("router", "add", "subnet", "r3", "sub2")
    client("router", "set", "r1", "--no-route")
    client("floating", "ip", "delete", fip["id"])
    cloud.start_orchestrator()
    until("r3 serves net2", lambda: _networks(cloud.configuration(r3), "internal") == {net2})
    until("r1 caught up", lambda: (
        cloud.configuration(r1)["static_routes"] == [] and cloud.configuration(r1)["floating_ips"] == []
    ))  # fmt: skip
    assert cloud.resource(r1)["instances"][0]["server_id"] == before

    print("delete everything")
    client("port", "delete", port)
    client("router", "unset", "r1", "--external-gateway")
    client("router", "remove", "subnet", "r1", "sub1")
    client("router", "remove", "subnet", "r3", "sub2")
    client("router", "delete", "r1", "r3")
    until("no server is left", lambda: not cloud.servers())
    until("no port is left", lambda: not cloud.own_ports())
    client("network", "delete", "net1", "net2")
    client("network", "delete", "rig-shared", cloud="admin")
