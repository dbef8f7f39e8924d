"""A user's day on a real OpenStack: what `openstack` commands do to routers, seen by packets of the user's hosts."""

import os
import signal

import pytest
from rig_cloud import Host, RealCloud

from lab.hypervisor.outside import INTERNET
from services.worker.rate_limits import rate_limits

ALL_SERVICES = {
    "astara-health": 1, "astara-metadata": 1, "astara-notifier": 1, "astara-rpcapi": 1, "astara-scheduler": 1,
    "astara-worker": 2,
}  # fmt: skip
"""How many of each the orchestrator runs."""


def test_a_users_day_moves_packets_at_every_step_and_leaves_nothing(real_cloud: RealCloud) -> None:
    cloud, client, until = real_cloud, real_cloud.client, real_cloud.until
    orchestrator = cloud.start_orchestrator()
    until("the operator API answers", lambda: cloud.api("/v1/workers"))

    print("\ntwo routers in one tenant, and hosts behind them")
    net1 = client("network", "create", "net1")["id"]
    client("subnet", "create", "sub1", "--network", "net1", "--subnet-range", "10.1.0.0/24")
    r1 = client("router", "create", "r1")["id"]
    client("router", "set", "r1", "--external-gateway", "rig-external")
    client("router", "add", "subnet", "r1", "sub1")
    net2 = client("network", "create", "net2")["id"]
    client("subnet", "create", "sub2", "--network", "net2", "--subnet-range", "10.2.0.0/24")
    r2 = client("router", "create", "r2")["id"]
    client("router", "add", "subnet", "r2", "sub2")
    web, db, far = cloud.boot({"web": net1, "db": net1, "far": net2})
    first = until("r1 is configured", lambda: cloud.server_of(r1))
    until("r2 is configured", lambda: cloud.server_of(r2))

    print("addresses by DHCP, metadata of the right server")
    for host in (web, db, far):
        until(f"{host.name} has its metadata", lambda host=host: "metadata from" in cloud.console(host))
        assert f"has {host.address}/24" in cloud.console(host)
        assert f"instance {host.id}" in cloud.console(host)
        assert host.run("hostname").startswith(host.name)

    print("out by SNAT, and only where there is a gateway; tenants' networks are apart")
    own = cloud.admin.network.get_router(r1).external_gateway_info["external_fixed_ips"]
    snat = next(one["ip_address"] for one in own if ":" not in one["ip_address"])
    until("the Internet sees r1 for web", lambda: web.seen_as() == snat)
    assert web.pings(INTERNET[0])
    assert web.pings(db.address)
    assert far.asks() is None
    assert not far.pings(web.address)
    assert not web.pings(far.address)
    assert cloud.internet_asks(web.address) is None

    print("Neutron tells the truth")
    until("r1 is active", lambda: cloud.shows("r1") == ("ACTIVE", ""))
    own = list(cloud.admin.network.ports(device_id=r1))
    assert {one.status for one in own} == {"ACTIVE"}

    print("nobody else does, not even an admin; and nobody takes r1's ports away")
    claims = {"router_status": {"status": "ERROR", "reason": "no"}}
    for person in (cloud.user, cloud.admin):
        answer = person.network.put(f"/astara-router-statuses/{r1}", json=claims)
        assert answer.status_code in (403, 404), answer.text
    marked = cloud.user.network.ports(network_id=net1)
    (service_port,) = (port for port in marked if port.name.startswith("astara-svc-"))
    assert "403" in cloud.refusal("port", "delete", service_port.id)
    assert "403" in cloud.refusal("port", "set", "--disable", service_port.id)
    assert service_port.fixed_ips == []
    policy = cloud.admin.network.get_qos_policy(cloud.admin.network.get_port(service_port.id).qos_policy_id)
    assert (policy.name, policy.rules) == ("astara-unlimited", [])
    assert cloud.shows("r1") == ("ACTIVE", "")

    print("the agent list shows the services")
    until("all are alive", lambda: cloud.services_alive() == ALL_SERVICES)

    print("another tenant with the same addresses")
    net3 = client("network", "create", "net1", cloud="other")["id"]
    client("subnet", "create", "sub1", "--network", "net1", "--subnet-range", "10.1.0.0/24", cloud="other")
    r9 = client("router", "create", "r1", cloud="other")["id"]
    client("router", "set", "r1", "--external-gateway", "rig-external", cloud="other")
    client("router", "add", "subnet", "r1", "sub1", cloud="other")
    (twin,) = cloud.boot({"twin": net3}, tenant="other", address=web.address)
    assert twin.address == web.address
    until("the twin has its metadata", lambda: f"instance {twin.id}" in cloud.console(twin))
    theirs = cloud.admin.network.get_router(r9).external_gateway_info["external_fixed_ips"]
    outer_twin = next(one["ip_address"] for one in theirs if ":" not in one["ip_address"])
    until("the Internet sees its router", lambda: twin.seen_as() == outer_twin)
    with twin.serves(7000):
        until("it reaches itself", lambda: twin.asks(f"{twin.address}:7000"))
        assert web.asks(f"{twin.address}:7000") is None
    until("their router is active", lambda: cloud.shows("r1", cloud="other") == ("ACTIVE", ""))
    port = next(cloud.other.network.ports(device_id=twin.id)).id
    door = client("floating", "ip", "create", "rig-external", "--port", port, cloud="other")
    until("the Internet reaches the twin", lambda: _name(cloud, str(door["floating_ip_address"])) == "twin")
    until("Neutron calls its floating IP active", lambda: cloud.floating_status(door["id"]) == "ACTIVE")
    assert web.seen_as() == snat
    client("floating", "ip", "delete", door["id"], cloud="other")
    client("server", "delete", "--wait", "twin", cloud="other")
    client("router", "unset", "r1", "--external-gateway", cloud="other")
    client("router", "remove", "subnet", "r1", "sub1", cloud="other")
    client("router", "delete", "r1", cloud="other")
    until("its ports are gone", lambda: not any(r9 in mark for mark in cloud.own_ports()))
    until("its network can go", lambda: cloud.try_client("network", "delete", "net1", cloud="other"))

    print("a floating IP")
    port = next(cloud.user.network.ports(device_id=web.id)).id
    fip = client("floating", "ip", "create", "rig-external", "--port", port)
    floating = str(fip["floating_ip_address"])
    until("the Internet reaches web", lambda: _name(cloud, floating) == "web")
    until("and sees the floating IP", lambda: web.seen_as() == floating)
    until("Neutron calls it active", lambda: cloud.floating_status(fip["id"]) == "ACTIVE")
    assert db.seen_as() == snat
    hairpin = db.asks(floating)
    assert hairpin is not None
    assert hairpin["name"].startswith("web")
    with cloud.internet_connects(floating) as connection:
        client("floating", "ip", "unset", "--port", fip["id"])
        until("web is hidden again", lambda: web.seen_as() == snat)
        assert cloud.internet_asks(floating) is None
        until("Neutron calls it down", lambda: cloud.floating_status(fip["id"]) == "DOWN")
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    client("floating", "ip", "set", "--port", port, fip["id"])
    until("the Internet reaches web again", lambda: _name(cloud, floating) == "web")

    print("a port of a floating IP, for a host that has none of its own")
    door = client("floating", "ip", "create", "rig-external")
    inside = next(cloud.user.network.ports(device_id=db.id)).id
    outer = str(door["floating_ip_address"])
    forward = ("floating", "ip", "port", "forwarding")
    forwarding = client(
        *forward, "create", door["id"], "--port", inside, "--internal-ip-address", db.address,
        "--internal-protocol-port", "80", "--external-protocol-port", "8080", "--protocol", "tcp",
    )["id"]  # fmt: skip
    until("the Internet reaches db by its port", lambda: _name(cloud, f"{outer}:8080") == "db")
    until("Neutron calls that active", lambda: cloud.floating_status(door["id"]) == "ACTIVE")
    assert cloud.internet_asks(outer) is None
    assert db.seen_as() == snat
    with db.serves(8000):
        until("db has another door", lambda: web.asks(f"{db.address}:8000"))
        client(*forward, "set", door["id"], forwarding, "--internal-protocol-port", "8000")
        until("the Internet is led to that", lambda: _name(cloud, f"{outer}:8080") == "db-8000")
        with cloud.internet_connects(outer, 8080) as connection:
            client(*forward, "delete", door["id"], forwarding)
            until("and to none any more", lambda: cloud.internet_asks(f"{outer}:8080") is None)
            until("Neutron calls it down", lambda: cloud.floating_status(door["id"]) == "DOWN")
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(1)
    client("floating", "ip", "delete", door["id"])

    print("a floating IP with a limit, and a helper for FTP")
    assert _answered(web) == 100
    client("network", "qos", "policy", "create", "rig-slow", cloud="admin")
    limit = ("--type", "bandwidth-limit", "--max-kbps", "1", "--max-burst-kbits", "1", "--egress")
    client("network", "qos", "rule", "create", *limit, "rig-slow", cloud="admin")
    client("floating", "ip", "set", "--qos-policy", "rig-slow", fip["id"], cloud="admin")
    until("half of what web sends at once is dropped", lambda: _answered(web) < 50)
    helper = client("network", "l3", "conntrack", "helper", "create", "r1", "--helper", "ftp", "--protocol", "tcp",
                    "--port", "21")["id"]  # fmt: skip
    until("the appliance helps", lambda: "ftp" in cloud.hypervisor.run(first, "nft", "list", "ruleset").stdout)
    assert cloud.shows("r1") == ("ACTIVE", "")
    one, several = cloud.readings(r1, first)
    assert one.is_one
    assert not several.is_one
    assert rate_limits(one)
    assert rate_limits(several) == rate_limits(one)
    assert several.conntrack_helpers == one.conntrack_helpers == [{"protocol": "tcp", "port": 21, "helper": "ftp"}]
    assert several.floating_ips
    assert {fip["id"] for fip in several.floating_ips} == {fip["id"] for fip in one.floating_ips}
    client("network", "l3", "conntrack", "helper", "delete", "r1", helper)
    client("floating", "ip", "unset", "--qos-policy", fip["id"], cloud="admin")
    client("network", "qos", "policy", "delete", "rig-slow", cloud="admin")
    until("and nothing is dropped any more", lambda: _answered(web) == 100)

    print("a router that translates nothing")
    client("router", "set", "r1", "--external-gateway", "rig-external", "--disable-snat", cloud="admin")
    until("the Internet, which learns of net1 by BGP, sees db itself", lambda: db.seen_as() == db.address)
    assert web.seen_as() == floating
    client("router", "set", "r1", "--external-gateway", "rig-external", "--enable-snat", cloud="admin")
    until("and r1 again", lambda: db.seen_as() == snat)

    print("extra routes, both ways of setting them; the second is not announced by Neutron")
    for address in ("192.0.2.1/32", "198.51.100.1/32"):
        db.run("ip", "address", "add", address, "dev", "lo")
    client("router", "set", "r1", "--route", f"destination=192.0.2.0/24,gateway={db.address}")
    until("web reaches what is behind db", lambda: web.pings("192.0.2.1"))
    client("router", "add", "route", "r1", "--route", f"destination=198.51.100.0/24,gateway={db.address}")
    until("by the silent route as well", lambda: web.pings("198.51.100.1"))
    assert cloud.shows("r1") == ("ACTIVE", "")

    print("a shared network, by port")
    shared = client("network", "create", "rig-shared", "--share", cloud="admin")["id"]
    client(
        "subnet", "create", "shared4", "--network", "rig-shared", "--subnet-range", "10.9.0.0/24", "--gateway",
        "10.9.0.254", "--host-route", "destination=10.1.0.0/24,gateway=10.9.0.1", cloud="admin",
    )  # fmt: skip
    tenant = ("--project", "rig-tenant", "--fixed-ip", "subnet=shared4,ip-address=10.9.0.1")
    client("port", "create", "leg", "--network", "rig-shared", *tenant, cloud="admin")
    client("router", "add", "port", "r1", "leg")
    (guest,) = cloud.boot({"guest": shared})
    until("the guest has its metadata", lambda: f"instance {guest.id}" in cloud.console(guest))
    until("the guest and web see each other", lambda: guest.pings(web.address) and web.pings(guest.address))
    client("router", "remove", "port", "r1", "leg")
    until("and no more", lambda: not guest.pings(web.address))
    assert not web.pings(guest.address)

    print("IPv6")
    gateway = client(
        "subnet", "create", "six", "--network", "net1", "--ip-version", "6", "--subnet-range", "2001:db8:1::/64",
        "--ipv6-ra-mode", "slaac", "--ipv6-address-mode", "slaac",
    )["gateway_ip"]  # fmt: skip
    client("router", "add", "subnet", "r1", "six")
    until("web has an address by router advertisement", lambda: "2001:db8:1:" in web.run("ip", "-6", "address"))
    until("web reaches its router", lambda: web.pings(gateway))
    until("web reaches db", lambda: web.pings(_six(db)))
    until(
        "and the Internet, which learnt of it by BGP",
        lambda: (web.asks(f"[{INTERNET[1]}]") or {}).get("you") == _six(web),
    )
    until("r1 is active, and its ports are", lambda: _statuses(cloud, r1) == {"ACTIVE"})
    client("router", "remove", "subnet", "r1", "six")
    until("the router is no more", lambda: not web.pings(gateway))
    assert web.asks(f"[{INTERNET[1]}]") is None

    print("admin state down and up keeps the instance")
    client("router", "set", "r1", "--disable")
    until("r1 forwards nothing", lambda: cloud.internet_asks(floating) is None and web.seen_as() is None)
    until("Neutron calls its floating IP down", lambda: cloud.floating_status(fip["id"]) == "DOWN")
    client("router", "set", "r1", "--enable")
    until("r1 forwards", lambda: _name(cloud, floating) == "web")
    until("Neutron calls it active", lambda: cloud.floating_status(fip["id"]) == "ACTIVE")
    assert cloud.server_of(r1) == first

    print("an appliance is rebooted through Nova, and goes on by itself")
    cloud.admin.compute.reboot_server(first, "HARD")
    until("the appliance boots again", lambda: cloud.hypervisor.console(first).count("boots as appliance") == 2)
    until("packets flow again", lambda: _name(cloud, floating) == "web" and web.seen_as() == floating)
    assert web.pings("192.0.2.1")
    assert cloud.resource(r1)["instances"][0]["server_id"] == first

    print("an appliance dies, and is replaced")
    cloud.hypervisor.kill(first)
    until("Neutron says so", lambda: _statuses(cloud, r1, fip["id"]) == {"ALLOCATING", "DOWN"})
    second = until("another instance is configured", lambda: (now := cloud.server_of(r1)) != first and now)
    until("packets flow again", lambda: _name(cloud, floating) == "web" and web.seen_as() == floating)
    assert db.seen_as() == snat
    assert web.pings("198.51.100.1")
    until("Neutron calls r1 active again", lambda: cloud.shows("r1") == ("ACTIVE", ""))
    until("and its floating IP and ports", lambda: _statuses(cloud, r1, fip["id"]) == {"ACTIVE"})

    print("a router deleted while the workers do not run; packets of others go on")
    workers = cloud.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    client("server", "delete", "--wait", "far")
    client("router", "remove", "subnet", "r2", "sub2")
    client("router", "delete", "r2")
    assert _name(cloud, floating) == "web"
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until("r2's instance is gone", lambda: len(cloud.servers()) == 1)
    until("with its ports", lambda: not any(r2 in mark for mark in cloud.own_ports()))
    until("r1 is still there", lambda: cloud.server_of(r1) == second)

    print("a router deleted, and another made, while nothing of Astara runs; packets of others go on")
    cloud.stop(orchestrator)
    client("router", "create", "r3")
    client("router", "add", "subnet", "r3", "sub2")
    client("router", "set", "r1", "--no-route")
    assert _name(cloud, floating) == "web"
    client("floating", "ip", "delete", fip["id"])
    until("the agent list shows the services dead", lambda: not cloud.services_alive())
    cloud.start_orchestrator()
    (near,) = cloud.boot({"near": net2})
    until("r3 serves a host", lambda: f"instance {near.id}" in cloud.console(near))
    until("r1 caught up", lambda: web.seen_as() == snat)
    assert not web.pings("192.0.2.1")
    assert cloud.internet_asks(floating) is None
    assert cloud.server_of(r1) == second
    until("the agent list shows the services again", lambda: cloud.services_alive() == ALL_SERVICES)

    print("delete everything")
    client("server", "delete", "--wait", "web", "db", "near", "guest")
    client("router", "unset", "r1", "--external-gateway")
    client("router", "remove", "subnet", "r1", "sub1")
    client("router", "remove", "subnet", "r3", "sub2")
    client("router", "delete", "r1", "r3")
    until("no server is left", lambda: not cloud.servers())
    until("no port is left", lambda: not cloud.own_ports())
    assert cloud.hypervisor.machines() == []
    until("Astara knows of nothing any more", lambda: cloud.known() == [])
    client("network", "delete", "net1", "net2")
    client("network", "delete", "rig-shared", cloud="admin")


def _name(cloud: RealCloud, address: str) -> str | None:
    """The host that answers to the Internet at an address."""
    answer = cloud.internet_asks(address)
    return answer["name"].partition(".")[0] if answer else None


def _statuses(cloud: RealCloud, router: str, *floating_ips: str) -> set[str]:
    """What Neutron shows of a router, its ports, and floating IPs."""
    network = cloud.admin.network
    ports = {port.status for port in network.ports(device_id=router)}
    return {str(network.get_router(router).status), *ports, *map(cloud.floating_status, floating_ips)}


def _answered(host: Host) -> int:
    """How many of 100 pings, 140 kB sent at once, the Internet answers a host."""
    text = host.run("ping", "-q", "-c", "100", "-i", "0.002", "-s", "1400", "-W", "1", INTERNET[0])
    return int(text.partition(" received")[0].rsplit(" ", 1)[-1]) if text else 0


def _six(host: Host) -> str:
    """A host's own IPv6 address in the tenant's subnet."""
    words = host.run("ip", "-6", "-oneline", "address", "show", "scope", "global").split()
    return next((word.partition("/")[0] for word in words if word.startswith("2001:db8:1:")), "::")
