"""What OVN's northbound database holds for a router of OVN's own, and for one of Astara's beside it."""

import pytest
from ovn_clouds import Site

_TOO_LATE = "StandardAttributeIDNotFound"


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(site: Site):
    """Neither in Neutron's log, nor is there anything of ours for Neutron's maintenance to look after.

    Neutron logs an error of its own when OVN tells it of a port of one of OVN's routers that it has deleted by then.
    """
    site.neutron.errors()
    yield
    errors = [one for one in site.neutron.errors() if _TOO_LATE not in one or any(our in one for our in site.ours)]
    assert errors == []
    assert not site.ours & site.neutron.told_to_ovn()


def test_a_router_of_ovns_own_is_in_the_northbound_database(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=False)
    port = site.plug(router, subnet_id=subnet)
    instance = site.address(network)
    floating = site.floating_ip(port_id=instance["id"])
    hop = instance["fixed_ips"][0]["ip_address"]
    site.neutron.update("router", router, routes=[{"destination": "192.0.2.0/24", "nexthop": hop}])

    assert site.logical_router(router) is not None
    assert {row["name"] for row in site.ovn.rows("Logical_Router_Port")} >= {
        f"lrp-{one}" for one in site.ports_of(router)
    }
    assert site.switch_ports()[port]["type"] == "router"
    kinds = {row["type"] for row in site.ovn.rows("NAT", f"external_ip={floating['floating_ip_address']}")}
    assert kinds == {"dnat_and_snat"}
    routes = {row["ip_prefix"]: row["nexthop"] for row in site.ovn.rows("Logical_Router_Static_Route")}
    assert routes["192.0.2.0/24"] == hop
    assert "0.0.0.0/0" in routes

    site.neutron.update("router", router, routes=[])
    site.neutron.delete("floatingip", floating["id"])
    site.remove_router(router)
    assert site.logical_router(router) is None


def test_the_life_of_a_router_of_astara_changes_nothing_that_ovn_forwards(site: Site) -> None:
    network, subnet = site.network()
    theirs = site.router(ours=False)
    site.plug(theirs, subnet_id=subnet)
    instance = site.address(network)
    routing, ports = site.routing(), set(site.switch_ports())

    ours = site.router(ours=True)
    own_network, own_subnet = site.network()
    site.plug(ours, subnet_id=own_subnet)
    shared = site.address(network)
    site.plug(ours, port_id=shared["id"])
    guest = site.address(own_network)
    floating = site.floating_ip(port_id=guest["id"])
    site.neutron.update(
        "router", ours, routes=[{"destination": "192.0.2.0/24", "nexthop": instance["fixed_ips"][0]["ip_address"]}]
    )

    assert floating["router_id"] == ours
    assert len(site.ports_of(ours)) == 3
    assert site.routing() == routing
    assert not set(site.ports_of(ours)) & set(site.switch_ports())

    site.neutron.update("router", ours, routes=[])
    site.neutron.delete("floatingip", floating["id"])
    site.remove_router(ours)
    site.neutron.delete("port", guest["id"])
    site.neutron.delete("network", own_network)
    assert site.routing() == routing
    assert set(site.switch_ports()) == ports


def test_gateways_of_astaras_routers_never_stay_in_the_external_network(site: Site) -> None:
    router = site.router(ours=True, external_gateway_info=None)
    assert site.ports_of(router) == []
    site.neutron.update("router", router, external_gateway_info={"network_id": site.external})
    site.change_gateways(router, "add", "203.0.113.201", "203.0.113.202")
    assert len(site.ports_of(router)) == 3
    assert not set(site.ports_of(router)) & set(site.switch_ports())

    site.change_gateways(router, "remove", "203.0.113.201")
    site.change_gateways(router, "add", "203.0.113.203")
    assert len(site.ports_of(router)) == 3
    assert not set(site.ports_of(router)) & set(site.switch_ports())

    site.neutron.update("router", router, external_gateway_info={})
    site.remove_router(router)


def test_ports_of_astaras_routers_can_be_changed_like_others(site: Site) -> None:
    _network, subnet = site.network()
    router = site.router(ours=True)
    port = site.plug(router, subnet_id=subnet)
    for key in (port, *site.ports_of(router)):
        assert site.neutron.update("port", key, name="uplink", description="of the operator")["name"] == "uplink"
    site.neutron.update("network", site.external, mtu=1400)
    assert not set(site.ports_of(router)) & set(site.switch_ports())
    site.remove_router(router)


def test_an_interface_with_a_second_ipv6_subnet_stays_out_of_ovn(site: Site) -> None:
    six = {"ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    network, first = site.network(cidr="2001:db8:1::/64", **six)
    second = site.neutron.create("subnet", network_id=network, cidr="2001:db8:2::/64", **six)["id"]
    router = site.router(ours=True)
    port = site.plug(router, subnet_id=first)
    assert site.plug(router, subnet_id=second) == port
    assert port not in site.switch_ports()
    site.unplug(router, subnet_id=first)
    assert port not in site.switch_ports()
    site.remove_router(router)


def test_a_port_forwarding_of_astaras_router_is_no_load_balancer(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=True)
    site.plug(router, subnet_id=subnet)
    floating = site.floating_ip()["id"]
    path = site.forward(floating, site.address(network))
    site.neutron.put(path, {"port_forwarding": {"internal_port": 81}})
    assert site.ovn.rows("Load_Balancer") == []
    site.neutron.delete_path(path)
    site.neutron.delete("floatingip", floating)
    site.remove_router(router)


def test_a_port_forwarding_of_ovns_own_router_still_is_one(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=False)
    site.plug(router, subnet_id=subnet)
    floating = site.floating_ip()["id"]
    path = site.forward(floating, site.address(network))
    assert [row["name"] for row in site.ovn.rows("Load_Balancer")] == [f"pf-floatingip-{floating}-tcp"]
    site.neutron.delete_path(path)
    assert site.ovn.rows("Load_Balancer") == []
    site.neutron.delete("floatingip", floating)
    site.remove_router(router)


def test_a_floating_ip_moves_between_routers_of_both_kinds(site: Site) -> None:
    routers, instances = {}, {}
    for ours in (False, True):
        network, subnet = site.network()
        routers[ours] = site.router(ours=ours)
        site.plug(routers[ours], subnet_id=subnet)
        instances[ours] = site.address(network)["id"]
    floating = site.floating_ip(port_id=instances[False])
    row = f"external_ip={floating['floating_ip_address']}"
    assert len(site.ovn.rows("NAT", row)) == 1

    moved = site.neutron.update("floatingip", floating["id"], port_id=instances[True])
    assert moved["router_id"] == routers[True]
    assert site.ovn.rows("NAT", row) == []
    assert site.neutron.get(f"/floatingips/{floating['id']}")["floatingip"]["status"] == "DOWN"

    site.neutron.update("floatingip", floating["id"], port_id=instances[False])
    assert len(site.ovn.rows("NAT", row)) == 1
    site.neutron.delete("floatingip", floating["id"])
    for router in routers.values():
        site.remove_router(router)
