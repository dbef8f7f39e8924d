"""What Astara relies on about Neutron's ports and lists, on the simulated and on the real cloud."""

import pytest
from openstack.exceptions import BadRequestException, ConflictException, ForbiddenException, NotFoundException

MAC = "fa:5a:7e:00:00:01"


def kind(error):
    return error.value.response.json()["NeutronError"]["type"]


def address(port):
    return port.fixed_ips[0]["ip_address"]


def test_a_mac_address_belongs_to_one_port_of_a_network(service, made):
    network = made.network(service)
    made.port(service, network, mac_address=MAC)
    with pytest.raises(ConflictException) as refused:
        service.network.create_port(network_id=network.id, mac_address=MAC.upper())
    assert kind(refused) == "MacAddressInUse"
    assert [port.mac_address for port in service.network.ports(network_id=network.id)] == [MAC]


def test_a_mac_address_may_be_used_on_two_networks_and_again_after_a_delete(service, made):
    first, second = made.network(service), made.network(service)
    port = made.port(service, first, mac_address=MAC)
    assert made.port(service, second, mac_address=MAC).mac_address == MAC
    service.network.delete_port(port, ignore_missing=False)
    assert made.port(service, first, mac_address=MAC).mac_address == MAC


def test_a_bulk_create_makes_every_port_or_none(service, made):
    network = made.network(service)
    taken = made.port(service, network, mac_address=MAC)
    ports = [{"network_id": network.id, "mac_address": f"fa:5a:7e:00:00:0{n}"} for n in (2, 3, 1)]
    with pytest.raises(ConflictException) as refused:
        list(service.network.create_ports(ports))
    assert kind(refused) == "MacAddressInUse"
    assert [port.id for port in service.network.ports(network_id=network.id)] == [taken.id]

    fresh = list(service.network.create_ports(ports[:2]))
    for port in fresh:
        made.gone(service.network.delete_port, port.id, ignore_missing=False)
    assert [port.mac_address for port in fresh] == ["fa:5a:7e:00:00:02", "fa:5a:7e:00:00:03"]


def test_a_failed_bulk_create_gives_its_addresses_back(service, made):
    network = made.network(service)
    made.port(service, network, mac_address=MAC)
    wanted = {"network_id": network.id, "fixed_ips": [{"ip_address": "10.61.0.77"}]}
    with pytest.raises(ConflictException):
        list(service.network.create_ports([wanted, {"network_id": network.id, "mac_address": MAC}]))
    assert address(made.port(service, network, fixed_ips=[{"ip_address": "10.61.0.77"}])) == "10.61.0.77"


def test_an_address_belongs_to_one_port(service, made):
    network = made.network(service)
    port = made.port(service, network)
    with pytest.raises(ConflictException) as refused:
        service.network.create_port(network_id=network.id, fixed_ips=[{"ip_address": address(port)}])
    assert kind(refused) == "IpAddressAlreadyAllocated"


def test_an_address_outside_of_every_subnet_is_refused(service, made):
    network = made.network(service)
    with pytest.raises(BadRequestException) as refused:
        service.network.create_port(network_id=network.id, fixed_ips=[{"ip_address": "192.0.2.1"}])
    assert kind(refused) == "InvalidIpForNetwork"


def test_a_port_without_addresses_can_be_made(service, made):
    network = made.network(service)
    assert made.port(service, network, fixed_ips=[]).fixed_ips == []


def test_a_port_gives_itself_a_slaac_address_that_follows_from_its_mac(service, made):
    network = made.network(service)
    subnet = made.subnet(service, network, "fd00:61::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    port = made.port(service, network, mac_address=MAC)
    addresses = {one["subnet_id"]: one["ip_address"] for one in port.fixed_ips}
    assert addresses[subnet.id] == "fd00:61::f85a:7eff:fe00:1"
    assert len(addresses) == 2


def test_a_slaac_subnet_that_comes_later_reaches_the_ports_that_are_there(service, made):
    network = made.network(service)
    port = made.port(service, network, mac_address=MAC)
    made.subnet(service, network, "fd00:61::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    addresses = {one["ip_address"] for one in service.network.get_port(port).fixed_ips}
    assert "fd00:61::f85a:7eff:fe00:1" in addresses


def test_the_addresses_of_a_port_are_exchanged_as_a_whole(service, made):
    network = made.network(service)
    port = made.port(service, network, fixed_ips=[{"ip_address": "10.61.0.40"}])
    wanted = [{"ip_address": "10.61.0.40"}, {"ip_address": "10.61.0.41"}]
    after = service.network.update_port(port, fixed_ips=wanted)
    assert {one["ip_address"] for one in after.fixed_ips} == {"10.61.0.40", "10.61.0.41"}
    after = service.network.update_port(port, fixed_ips=[{"ip_address": "10.61.0.41"}])
    assert address(after) == "10.61.0.41"
    assert address(made.port(service, network, fixed_ips=[{"ip_address": "10.61.0.40"}])) == "10.61.0.40"


def test_a_port_keeps_its_description_and_is_found_by_it(service, made):
    network = made.network(service)
    mark = f"astara:contract:{network.id}:0:mgt"
    port = made.port(service, network, description=mark, name="astara-mgt")
    made.port(service, network)
    assert [one.id for one in service.network.ports(description=mark)] == [port.id]
    assert [one.id for one in service.network.ports(name="astara-mgt", network_id=network.id)] == [port.id]


def test_a_filter_with_several_values_finds_each(service, made):
    network = made.network(service)
    ports = [made.port(service, network) for _ in range(3)]
    found = service.network.get("/ports", params=[("id", ports[0].id), ("id", ports[2].id)]).json()["ports"]
    assert {one["id"] for one in found} == {ports[0].id, ports[2].id}
    macs = [("mac_address", ports[1].mac_address), ("mac_address", ports[2].mac_address), ("network_id", network.id)]
    found = service.network.get("/ports", params=macs).json()["ports"]
    assert {one["id"] for one in found} == {ports[1].id, ports[2].id}


def test_ports_are_found_by_address_and_subnet(service, made):
    network = made.network(service)
    ports = [made.port(service, network) for _ in range(3)]
    found = service.network.get("/ports", params=[("fixed_ips", f"ip_address={address(ports[1])}")]).json()["ports"]
    assert ports[1].id in {one["id"] for one in found}
    both = [("fixed_ips", f"ip_address={address(port)}") for port in ports[:2]]
    subnet = ("fixed_ips", f"subnet_id={ports[0].fixed_ips[0]['subnet_id']}")
    found = service.network.get("/ports", params=[*both, subnet]).json()["ports"]
    assert {one["id"] for one in found} == {ports[0].id, ports[1].id}


def test_ports_are_found_by_boolean_and_by_empty_value(service, made):
    network = made.network(service)
    port = made.port(service, network, is_admin_state_up=False)
    made.port(service, network)
    down = service.network.get("/ports", params={"network_id": network.id, "admin_state_up": "False"}).json()["ports"]
    assert [one["id"] for one in down] == [port.id]
    free = service.network.get("/ports", params={"network_id": network.id, "device_id": ""}).json()["ports"]
    assert len(free) == 2


def test_a_filter_that_is_no_attribute_is_refused(service):
    answer = service.network.get("/ports", params={"nonsense": "1"})
    assert answer.status_code == 400


def test_only_the_asked_fields_are_answered(service, made):
    network = made.network(service)
    port = made.port(service, network)
    params = [("network_id", network.id), ("fields", "id"), ("fields", "mac_address")]
    assert service.network.get("/ports", params=params).json()["ports"] == [
        {"id": port.id, "mac_address": port.mac_address}
    ]
    one = service.network.get(f"/ports/{port.id}", params={"fields": "device_id"}).json()
    assert one == {"port": {"device_id": ""}}


def test_a_list_comes_in_pages_that_link_to_the_next(service, made):
    network = made.network(service)
    ids = {made.port(service, network).id for _ in range(5)}
    url, pages = f"/ports?network_id={network.id}&limit=2&fields=id", []
    while url:
        body = service.network.get(url).json()
        pages.append([one["id"] for one in body["ports"]])
        following = [link["href"] for link in body.get("ports_links", []) if link["rel"] == "next"]
        url = following[0] if following and body["ports"] else None
    flat = [one for page in pages for one in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert set(flat) == ids
    assert flat == sorted(flat)
    assert {port.id for port in service.network.ports(network_id=network.id, limit=2)} == ids


def test_a_page_starts_after_its_marker_and_sorts_as_asked(service, made):
    network = made.network(service)
    for name in ("b", "c", "a"):
        made.port(service, network, name=name)
    params = {"network_id": network.id, "sort_key": "name", "sort_dir": "desc"}
    found = service.network.get("/ports", params=params).json()["ports"]
    assert [one["name"] for one in found] == ["c", "b", "a"]
    params |= {"marker": found[0]["id"], "limit": "1"}
    assert [one["name"] for one in service.network.get("/ports", params=params).json()["ports"]] == ["b"]


def test_neutron_refuses_to_list_what_changed_since_a_time(service):
    """`changed_since` is no attribute, and Neutron validates filters unless its operator forbids that."""
    for plural in ("ports", "routers", "networks", "subnets", "floatingips"):
        answer = service.network.get(f"/{plural}", params={"changed_since": "2026-01-01T00:00:00"})
        assert (answer.status_code, "changed_since" in answer.text) == (400, True)


def test_some_attributes_are_no_filters(service):
    refused = {
        "ports": ("port_security_enabled", "allowed_address_pairs", "binding:profile", "binding:vif_type"),
        "subnets": ("dns_nameservers", "host_routes", "allocation_pools"),
        "networks": ("subnets", "port_security_enabled"),
        "floatingips": ("subnet_id", "port_details"),
    }
    for plural, attributes in refused.items():
        for attribute in attributes:
            assert service.network.get(f"/{plural}", params={attribute: "x"}).status_code == 400
    allowed = {
        "ports": ("device_owner", "binding:host_id", "status", "security_groups", "revision_number", "tags"),
        "subnets": ("gateway_ip", "enable_dhcp", "ip_version", "network_id", "router:external", "shared"),
        "networks": ("mtu", "provider:network_type", "status", "shared", "description"),
        "floatingips": ("status", "port_id", "router_id", "fixed_ip_address", "floating_network_id"),
    }
    for plural, attributes in allowed.items():
        for attribute in attributes:
            assert service.network.get(f"/{plural}", params={attribute: "1", "limit": "1"}).status_code == 200


def test_neutron_does_not_sort_by_time_or_revision(service):
    for key in ("updated_at", "created_at", "revision_number"):
        assert service.network.get("/routers", params={"sort_key": key}).status_code == 400


def test_a_list_can_be_cut_to_what_tells_a_change(service, made):
    network = made.network(service)
    port = made.port(service, network)
    params = [("network_id", network.id), *(("fields", name) for name in ("id", "revision_number", "updated_at"))]
    before = service.network.get("/ports", params=params).json()["ports"]
    assert before == [{"id": port.id, "revision_number": port.revision_number, "updated_at": port.updated_at}]
    service.network.update_port(port.id, name="changed")
    assert service.network.get("/ports", params=params).json()["ports"] != before


def test_a_port_keeps_the_addresses_that_it_gives_itself(service, made):
    network = made.network(service)
    made.subnet(service, network, "fd00:61::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    bare = made.port(service, network, mac_address=MAC, fixed_ips=[])
    assert [one["ip_address"] for one in bare.fixed_ips] == ["fd00:61::f85a:7eff:fe00:1"]
    port = made.port(service, network, fixed_ips=[{"ip_address": "10.61.0.50"}])
    before = {one["ip_address"] for one in port.fixed_ips} - {"10.61.0.50"}
    after = service.network.update_port(port.id, fixed_ips=[{"ip_address": "10.61.0.51"}])
    assert {one["ip_address"] for one in after.fixed_ips} == before | {"10.61.0.51"}
    moved = service.network.update_port(port.id, mac_address="fa:5a:7e:00:00:02")
    assert {one["ip_address"] for one in moved.fixed_ips} == {"10.61.0.51", "fd00:61::f85a:7eff:fe00:2"}


def test_a_change_counts_the_revision_and_a_read_does_not(service, made):
    network = made.network(service)
    port = made.port(service, network)
    before = port.revision_number
    after = service.network.update_port(port.id, description="changed").revision_number
    assert after > before
    assert service.network.get_port(port.id).revision_number == after


def test_what_is_not_there_answers_404(service, made):
    network = made.network(service)
    port = made.port(service, network)
    service.network.delete_port(port, ignore_missing=False)
    with pytest.raises(NotFoundException) as missing:
        service.network.get_port(port)
    assert kind(missing) == "PortNotFound"
    with pytest.raises(NotFoundException):
        service.network.delete_port(port, ignore_missing=False)
    answer = service.network.put(f"/ports/{port.id}", json={"port": {"name": "x"}})
    assert answer.status_code == 404


def test_an_attribute_that_does_not_exist_is_refused(service, made):
    network = made.network(service)
    answer = service.network.post("/ports", json={"port": {"network_id": network.id, "nonsense": 1}})
    assert answer.status_code == 400


def test_a_member_sees_the_ports_of_its_project_and_its_networks(service, tenant, neighbour, made):
    network = made.network(tenant)
    own = made.port(tenant, network)
    ours = made.port(service, network, mac_address=MAC)
    assert {port.id for port in tenant.network.ports(network_id=network.id)} == {own.id, ours.id}
    assert list(neighbour.network.ports(network_id=network.id)) == []
    with pytest.raises(NotFoundException):
        neighbour.network.get_port(own)


def test_a_member_sees_no_binding(service, tenant, made):
    network = made.network(tenant)
    port = made.port(tenant, network)
    assert "binding:host_id" not in tenant.network.get(f"/ports/{port.id}").json()["port"]
    assert "binding:host_id" in service.network.get(f"/ports/{port.id}").json()["port"]


def test_a_member_may_not_choose_a_mac_address_on_a_foreign_network(service, tenant, made):
    network = made.network(service, is_shared=True)
    with pytest.raises(ForbiddenException):
        tenant.network.create_port(network_id=network.id, mac_address=MAC)


def test_security_groups_come_with_port_security(service, made):
    network = made.network(service)
    assert len(made.port(service, network).security_group_ids) == 1
    bare = made.port(service, network, is_port_security_enabled=False)
    assert bare.security_group_ids == []
    assert bare.is_port_security_enabled is False
