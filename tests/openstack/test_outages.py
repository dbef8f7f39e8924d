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
        print(f"\n{part} is killed")
        lost = _lost(cloud, web, outer, part)
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
        assert cloud.server_of(router) == server
        assert len(cloud.servers()) == 1
        assert cloud.internet_asks(outer)
    assert cloud.hypervisor.console(server).count("boots as appliance") == 1
    until("Neutron shows it", lambda: cloud.admin.network.get_router(router).status == "ACTIVE")

    client("router", "set", "r1", "--no-route")
    cloud.remove_all(web)


def _lost(cloud: RealCloud, web: Host, outer: str, part: str) -> int:
    """Take a part away for longer than anything of ours looks; how many requests through the router failed."""
    rig.take_away(part)
    lost, ends = 0, time.monotonic() + _LONGER_THAN_ALL_LOOKS
    while time.monotonic() < ends:
        lost += cloud.internet_asks(outer) is None
        lost += web.asks() is None
        time.sleep(0.5)
    return lost
