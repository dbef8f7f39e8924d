"""What OVN does with packets for an appliance of Astara's: its ports have no address that OVN knows."""

from typing import Any

from ovn_clouds import Site


def _appliance_port(site: Site, network: str) -> dict[str, Any]:
    return site.address(network, port_security_enabled=False, fixed_ips=[])


def _output(port: dict[str, Any]) -> str:
    """As ovn-trace writes it: it shortens names that are UUIDs."""
    return f'output("{port["id"][:6]}")'


def test_a_question_for_the_routers_address_reaches_the_appliance_and_nobody_answers_in_its_place(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=True)
    interface = site.plug(router, subnet_id=subnet)
    address = site.neutron.get(f"/ports/{interface}")["port"]["fixed_ips"][0]["ip_address"]
    instance, appliance = site.address(network), _appliance_port(site, network)
    assert site.switch_ports()[appliance["id"]]["addresses"] == "unknown"

    own = instance["fixed_ips"][0]["ip_address"]
    trace = site.ovn.trace(
        f"neutron-{network}",
        f'inport == "{instance["id"]}" && eth.src == {instance["mac_address"]} && eth.dst == ff:ff:ff:ff:ff:ff'
        f" && arp.op == 1 && arp.sha == {instance['mac_address']} && arp.spa == {own} && arp.tpa == {address}",
    )
    assert _output(appliance) in trace
    assert _output(instance) not in trace
    site.remove_router(router)


def test_packets_for_other_networks_reach_the_appliance_by_its_own_hardware_address(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=True)
    site.plug(router, subnet_id=subnet)
    instance, appliance = site.address(network), _appliance_port(site, network)
    trace = site.ovn.trace(
        f"neutron-{network}",
        f'inport == "{instance["id"]}" && eth.src == {instance["mac_address"]}'
        f" && eth.dst == {appliance['mac_address']} && ip4.src == {instance['fixed_ips'][0]['ip_address']}"
        " && ip4.dst == 198.51.100.7 && ip.ttl == 64 && udp.dst == 53",
    )
    assert _output(appliance) in trace
    site.remove_router(router)


def test_instances_get_their_default_route_from_ovn_where_the_subnet_says_dhcp(site: Site) -> None:
    network, subnet = site.network()
    router = site.router(ours=True)
    site.plug(router, subnet_id=subnet)
    gateway = site.neutron.get(f"/subnets/{subnet}")["subnet"]["gateway_ip"]
    instance = site.address(network)["id"]
    offered = site.ovn.rows("DHCP_Options", f"external_ids:subnet_id={subnet}")[0]
    assert site.switch_ports()[instance]["dhcpv4_options"] == offered["_uuid"]
    assert offered["options"]["router"] == gateway
    # The hardware address of DHCP's answers is not that of the router.
    assert offered["options"]["server_mac"] not in {
        port["mac_address"] for port in site.neutron.get(f"/ports?network_id={network}")["ports"]
    }
    metadata = [row for row in site.switch_ports().values() if row["type"] == "localport"]
    assert any(row["external_ids"]["neutron:network_name"] == f"neutron-{network}" for row in metadata)
    site.remove_router(router)


def test_ovn_offers_nothing_where_the_subnet_says_no_dhcp(site: Site) -> None:
    network, subnet = site.network(enable_dhcp=False)
    router = site.router(ours=True)
    site.plug(router, subnet_id=subnet)
    instance = site.address(network)["id"]
    assert site.switch_ports()[instance]["dhcpv4_options"] == []
    assert site.ovn.rows("DHCP_Options", f"external_ids:subnet_id={subnet}") == []
    metadata = site.neutron.get(f"/ports?network_id={network}&device_owner=network:distributed")["ports"]
    assert [port["fixed_ips"] for port in metadata] == [[]]
    site.remove_router(router)
