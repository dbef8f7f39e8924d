"""Neutrons that keep their own router plugin: with Astara's provider and a default flavor beside L3 agents, and as any
cloud has it, with nothing of Astara's in it."""

import pytest
from rig_cloud import Host, RealCloud

from lab import rig

_DRIVER = "astara_neutron.provider.AstaraRouterProvider"


@pytest.mark.parametrize("neutron", [rig.BESIDE_AGENTS], ids=["beside-agents"], indirect=True)
def test_a_plain_router_is_astaras_by_the_default_flavor_and_agents_keep_theirs(real_cloud: RealCloud) -> None:
    cloud, client, until = real_cloud, real_cloud.client, real_cloud.until
    assert "default_flavor" in cloud.refusal("router", "create", "r1"), "there is no such flavor yet"
    admin = {"cloud": "admin"}
    profile = client("network", "flavor", "profile", "create", "--driver", _DRIVER, "--metainfo", "{}", **admin)["id"]
    flavor = client("network", "flavor", "create", "--service-type", "L3_ROUTER_NAT", "astara", **admin)["id"]
    client("network", "flavor", "add", "profile", flavor, profile, **admin)
    cloud.start_orchestrator()
    until("the operator API answers", lambda: cloud.api("/v1/workers"))

    print("\na router without any option is Astara's")
    made = client("router", "create", "r1")
    assert (made["flavor_id"], made["status"]) == (flavor, "ALLOCATING")
    web, outer = _served(cloud, made["id"])
    until("Neutron calls it active", lambda: cloud.shows("r1") == ("ACTIVE", ""))
    assert cloud.agents_of("r1") == []

    print("one that wants no flavor is the agents'")
    answer = cloud.user.network.post("/routers", json={"router": {"name": "r2", "flavor_id": None}})
    assert answer.status_code == 201, answer.text
    client("network", "create", "net2")
    client("subnet", "create", "sub2", "--network", "net2", "--subnet-range", "10.2.0.0/24")
    client("router", "set", "r2", "--external-gateway", "rig-external")
    client("router", "add", "subnet", "r2", "sub2")
    until("Neutron gives it to an agent", lambda: cloud.agents_of("r2") == ["L3 agent"])

    print("a flavor that is switched off gives no new routers, and those that it has go on")
    client("network", "flavor", "set", "--disable", flavor, **admin)
    assert "disabled" in cloud.refusal("router", "create", "r3")
    assert cloud.internet_asks(outer)
    client("network", "flavor", "set", "--enable", flavor, **admin)
    assert [one["resource_id"] for one in cloud.api("/v1/resources")["resources"]] == [made["id"]]
    assert len(cloud.servers()) == 1

    print("what is left")
    client("router", "remove", "subnet", "r2", "sub2")
    client("router", "delete", "r2")
    client("network", "delete", "net2")
    cloud.remove_all(web)
    client("network", "flavor", "delete", flavor, **admin)
    client("network", "flavor", "profile", "delete", profile, **admin)


@pytest.mark.parametrize("neutron", [rig.PLAIN], ids=["plain"], indirect=True)
def test_without_the_plugin_astara_does_all_but_what_only_neutron_can_tell(real_cloud: RealCloud) -> None:
    cloud, client, until = real_cloud, real_cloud.client, real_cloud.until
    cloud.start_orchestrator()
    until("the operator API answers", lambda: cloud.api("/v1/workers"))
    router = client("router", "create", "r1")["id"]
    web, _ = _served(cloud, router)
    assert "status_reason" not in client("router", "show", "r1")

    print("what Neutron announces to nobody is found by looking")
    client("router", "add", "route", "r1", "--route", f"destination=192.0.2.0/24,gateway={web.address}")
    server = cloud.server_of(router)
    assert server
    until("the route is there", lambda: cloud.has_route(server, "192.0.2.1", web.address))
    client("router", "set", "r1", "--no-route")
    cloud.remove_all(web)


def _served(cloud: RealCloud, router: str) -> tuple[Host, str]:
    """A host behind a router, and its floating IP, at which the Internet has seen it."""
    client, until = cloud.client, cloud.until
    net = client("network", "create", "net1")["id"]
    client("subnet", "create", "sub1", "--network", "net1", "--subnet-range", "10.1.0.0/24")
    client("router", "set", router, "--external-gateway", "rig-external")
    client("router", "add", "subnet", router, "sub1")
    (web,) = cloud.boot({"web": net})
    until("the router is configured", lambda: cloud.server_of(router))
    until("the host has its metadata", lambda: f"instance {web.id}" in cloud.console(web))
    until("it reaches the Internet", web.asks)
    port = next(cloud.user.network.ports(device_id=web.id)).id
    outer = str(client("floating", "ip", "create", "rig-external", "--port", port)["floating_ip_address"])
    until("the Internet reaches it", lambda: cloud.internet_asks(outer))
    return web, outer
