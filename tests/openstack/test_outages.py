"""Neutron, Nova, RabbitMQ and MariaDB are killed under a user's routers, one after the other: nothing is rebuilt, no
packet is lost to it, and what changed meanwhile or afterwards comes to be."""

import time

from rig_cloud import Host, RealCloud

from lab import rig

_LONGER_THAN_ALL_LOOKS = 25.0  # seconds; appliances are dead after 5 without answer, listings come every 5 and 20


def test_nothing_is_rebuilt_while_a_part_of_the_cloud_is_away_and_all_converges_after(real_cloud: RealCloud) -> None:
    cloud, client, until = real_cloud, real_cloud.client, real_cloud.until
    cloud.start_orchestrator()
    until("the operator API answers", lambda: cloud.api("/v1/workers"))
    net = client("network", "create", "net1")["id"]
    client("subnet", "create", "sub1", "--network", "net1", "--subnet-range", "10.1.0.0/24")
    router = client("router", "create", "r1")["id"]
    client("router", "set", "r1", "--external-gateway", "rig-external")
    client("router", "add", "subnet", "r1", "sub1")
    (web,) = cloud.boot({"web": net})
    server = until("r1 is configured", lambda: cloud.server_of(router))
    port = next(cloud.user.network.ports(device_id=web.id)).id
    outer = str(client("floating", "ip", "create", "rig-external", "--port", port)["floating_ip_address"])
    until("the Internet reaches web", lambda: cloud.internet_asks(outer))

    for turn, part in enumerate(rig.PARTS):
        print(f"\n{part} is killed, while a router is made and another goes")
        new = _make_router(cloud, turn)
        if turn:
            _delete_router(cloud, turn - 1)
        rig.take_away(part)
        if part == "nova":
            print("a network is attached to r1 meanwhile")
            client("network", "create", "net2")
            client("subnet", "create", "sub2", "--network", "net2", "--subnet-range", "10.2.0.0/24")
            client("router", "add", "subnet", "r1", "sub2")
        lost = _lost(cloud, web, outer)
        assert lost == 0, f"{lost} requests were not answered while {part} was away"
        print(f"{part} comes back")
        rig.bring_back()
        prefix = f"192.0.{turn}.0/24"
        web.run("ip", "address", "add", f"192.0.{turn}.1/32", "dev", "lo")
        until(
            "a user's change is accepted",
            lambda prefix=prefix: cloud.try_client(
                "router", "add", "route", "r1", "--route", f"destination={prefix},gateway={web.address}"
            ),
        )
        until("and comes to be", lambda turn=turn: cloud.has_route(server, f"192.0.{turn}.1", web.address), 180.0)
        if part == "nova":
            until("r1 is on its other network", lambda: "10.2.0.1/24" in cloud.addresses(server), 180.0)
        until("the router that was being made serves", lambda new=new: cloud.server_of(new), 240.0)
        until("the one that was going is gone", lambda: len(cloud.servers()) == 2, 240.0)
        until("Neutron calls the new one active", lambda turn=turn: cloud.shows(f"new{turn}") == ("ACTIVE", ""))
        assert cloud.server_of(router) == server
        assert cloud.internet_asks(outer)
    _delete_router(cloud, turn)
    assert cloud.hypervisor.console(server).count("boots as appliance") == 1
    until("Neutron shows it", lambda: cloud.shows("r1") == ("ACTIVE", ""))

    client("router", "set", "r1", "--no-route")
    client("router", "remove", "subnet", "r1", "sub2")
    cloud.remove_all(web)
    client("network", "delete", "net2")
    until("Astara knows of nothing any more", lambda: cloud.known() == [])


def _make_router(cloud: RealCloud, turn: int) -> str:
    """Make a router on a network of its own; answers with its id, before it is served."""
    client = cloud.client
    client("network", "create", f"new{turn}")
    client("subnet", "create", f"new{turn}", "--network", f"new{turn}", "--subnet-range", "10.3.0.0/24")
    router = str(client("router", "create", f"new{turn}")["id"])
    client("router", "add", "subnet", f"new{turn}", f"new{turn}")
    return router


def _delete_router(cloud: RealCloud, turn: int) -> None:
    cloud.client("router", "remove", "subnet", f"new{turn}", f"new{turn}")
    cloud.client("router", "delete", f"new{turn}")
    # Its instance is on the network until it goes; Neutron takes the port along.
    cloud.client("network", "delete", f"new{turn}")


def _lost(cloud: RealCloud, web: Host, outer: str) -> int:
    """For longer than anything of ours looks: how many requests through the router failed."""
    lost, ends = 0, time.monotonic() + _LONGER_THAN_ALL_LOOKS
    while time.monotonic() < ends:
        lost += cloud.internet_asks(outer) is None
        lost += web.asks() is None
        time.sleep(0.5)
    return lost
