"""What Astara relies on about routers, gateways, floating IPs and routes, on the simulated and on the real cloud."""

import pytest
from openstack.exceptions import BadRequestException, ConflictException, NotFoundException


def kind(error):
    return error.value.response.json()["NeutronError"]["type"]


def subnet_of(cloud, network):
    return next(cloud.network.subnets(network_id=network.id))


def revision(cloud, router):
    return cloud.network.get_router(router).revision_number


def test_a_router_starts_active_and_empty(tenant, made):
    router = made.router(tenant)
    assert (router.status, router.is_admin_state_up, router.routes) == ("ACTIVE", True, [])
    assert router.external_gateway_info is None
    assert tenant.network.update_router(router, is_admin_state_up=False).is_admin_state_up is False


def test_a_gateway_gets_addresses_of_the_external_network(tenant, service, made, clouds):
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    gateway = router.external_gateway_info
    assert gateway["network_id"] == clouds.external.id
    assert gateway["enable_snat"] is True
    ports = list(service.network.ports(device_id=router.id))
    assert [(port.device_owner, port.project_id) for port in ports] == [("network:router_gateway", "")]
    assert sorted(one["ip_address"] for one in ports[0].fixed_ips) == sorted(
        one["ip_address"] for one in gateway["external_fixed_ips"]
    )
    assert list(tenant.network.ports(device_id=router.id)) == []


def test_a_gateway_is_cleared_and_its_port_goes(tenant, service, made, clouds):
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    after = tenant.network.update_router(router, external_gateway_info={})
    assert after.external_gateway_info is None
    assert list(service.network.ports(device_id=router.id)) == []


def test_a_gateway_on_an_internal_network_is_refused(tenant, made):
    network = made.network(tenant)
    with pytest.raises(BadRequestException):
        made.router(tenant, external_gateway_info={"network_id": network.id})


def test_an_interface_by_subnet_has_the_gateway_address(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    subnet = subnet_of(tenant, network)
    answer = tenant.network.add_interface_to_router(router, subnet=subnet.id)
    assert (answer["id"], answer["subnet_ids"]) == (router.id, [subnet.id])
    raw = tenant.network.get(f"/ports?device_id={router.id}").json()["ports"]
    assert [(port["device_owner"], port["network_id"]) for port in raw] == [("network:router_interface", network.id)]
    assert raw[0]["fixed_ips"] == [{"subnet_id": subnet.id, "ip_address": "10.61.0.1"}]
    assert raw[0]["project_id"] == tenant.current_project_id


def test_interfaces_come_and_go_by_port(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    port = made.port(tenant, network)
    body = tenant.network.put(f"/routers/{router.id}/add_router_interface", json={"port_id": port.id}).json()
    assert (body["id"], body["port_id"], body["network_id"]) == (router.id, port.id, network.id)
    assert body["subnet_ids"] == [port.fixed_ips[0]["subnet_id"]]
    again = tenant.network.put(f"/routers/{router.id}/add_router_interface", json={"port_id": port.id})
    assert (again.status_code, again.json()["NeutronError"]["type"]) == (409, "PortInUse")
    tenant.network.remove_interface_from_router(router, port=port.id)
    with pytest.raises(NotFoundException):
        tenant.network.get_port(port)


def test_a_subnet_without_gateway_serves_no_interface(tenant, made):
    network, router = made.network(tenant, cidr=None), made.router(tenant)
    subnet = made.subnet(tenant, network, "10.61.0.0/24", gateway_ip=None)
    with pytest.raises(BadRequestException):
        tenant.network.add_interface_to_router(router, subnet=subnet.id)


def test_a_second_interface_on_the_same_subnet_is_refused(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    subnet = subnet_of(tenant, network)
    tenant.network.add_interface_to_router(router, subnet=subnet.id)
    answer = tenant.network.put(f"/routers/{router.id}/add_router_interface", json={"subnet_id": subnet.id})
    assert answer.status_code in (400, 409)


def test_removing_an_interface_that_is_not_there_answers_404(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    subnet = subnet_of(tenant, network)
    answer = tenant.network.put(f"/routers/{router.id}/remove_router_interface", json={"subnet_id": subnet.id})
    assert answer.status_code == 404
    assert answer.json()["NeutronError"]["type"] == "RouterInterfaceNotFoundForSubnet"


def test_two_ipv6_subnets_of_a_network_share_an_interface_port(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    subnets = [subnet_of(tenant, network)]
    subnets += [made.subnet(tenant, network, f"fd00:6{n}::/64") for n in (1, 2)]
    for subnet in subnets:
        tenant.network.add_interface_to_router(router, subnet=subnet.id)
    ports = list(tenant.network.ports(device_id=router.id))
    assert sorted(len(port.fixed_ips) for port in ports) == [1, 2]
    tenant.network.remove_interface_from_router(router, subnet=subnets[1].id)
    ports = list(tenant.network.ports(device_id=router.id))
    assert sorted(len(port.fixed_ips) for port in ports) == [1, 1]


def test_a_router_in_use_is_not_deleted(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    with pytest.raises(ConflictException) as refused:
        tenant.network.delete_router(router, ignore_missing=False)
    assert kind(refused) == "RouterInUse"


def test_ports_of_routers_are_not_deleted_directly(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    port = next(tenant.network.ports(device_id=router.id))
    with pytest.raises(ConflictException) as refused:
        tenant.network.delete_port(port, ignore_missing=False)
    assert kind(refused) == "ServicePortInUse"


def test_a_deleted_router_answers_404_and_takes_its_gateway_along(tenant, service, made, clouds):
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    tenant.network.delete_router(router, ignore_missing=False)
    with pytest.raises(NotFoundException) as missing:
        service.network.get_router(router)
    assert kind(missing) == "RouterNotFound"
    assert list(service.network.ports(device_id=router.id)) == []


def test_routes_are_exchanged_by_put_and_merged_by_extraroutes(tenant, made):
    network, router = made.network(tenant), made.router(tenant)
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    one = {"destination": "192.0.2.0/24", "nexthop": "10.61.0.7"}
    two = {"destination": "198.51.100.0/24", "nexthop": "10.61.0.8"}
    assert tenant.network.update_router(router, routes=[one]).routes == [one]
    before = revision(tenant, router)
    after = tenant.network.add_extra_routes_to_router(router, {"router": {"routes": [two]}})
    assert sorted(route["nexthop"] for route in after.routes) == ["10.61.0.7", "10.61.0.8"]
    after = tenant.network.remove_extra_routes_from_router(router, {"router": {"routes": [one]}})
    assert after.routes == [two]
    assert revision(tenant, router) > before


def test_a_route_to_nowhere_is_refused(tenant, made):
    router = made.router(tenant)
    with pytest.raises(BadRequestException) as refused:
        tenant.network.update_router(router, routes=[{"destination": "192.0.2.0/24", "nexthop": "10.99.0.1"}])
    assert kind(refused) == "InvalidRoutes"


def test_the_revision_moves_with_interfaces_and_gateway(tenant, made, clouds):
    network, router = made.network(tenant), made.router(tenant)
    revisions = [revision(tenant, router)]
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    revisions.append(revision(tenant, router))
    tenant.network.update_router(router, external_gateway_info={"network_id": clouds.external.id})
    revisions.append(revision(tenant, router))
    tenant.network.remove_interface_from_router(router, subnet=subnet_of(tenant, network).id)
    revisions.append(revision(tenant, router))
    tenant.network.update_router(router, external_gateway_info={})
    revisions.append(revision(tenant, router))
    assert revisions == sorted(set(revisions))


def test_the_revision_ignores_floating_ips_and_subnets(tenant, made, clouds):
    network = made.network(tenant)
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    subnet = subnet_of(tenant, network)
    tenant.network.add_interface_to_router(router, subnet=subnet.id)
    port = made.port(tenant, network)
    before = revision(tenant, router)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id, port_id=port.id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    tenant.network.update_subnet(subnet, dns_nameservers=["192.0.2.53"])
    assert revision(tenant, router) == before


def test_a_floating_ip_finds_its_router_and_loses_it(tenant, made, clouds):
    network = made.network(tenant)
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    port = made.port(tenant, network)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    assert (floating.port_id, floating.router_id, floating.fixed_ip_address) == (None, None, None)
    linked = tenant.network.update_ip(floating, port_id=port.id)
    assert (linked.router_id, linked.fixed_ip_address) == (router.id, port.fixed_ips[0]["ip_address"])
    assert [one.id for one in tenant.network.ips(router_id=router.id)] == [floating.id]
    free = tenant.network.update_ip(floating, port_id=None)
    assert (free.port_id, free.router_id, free.fixed_ip_address) == (None, None, None)


def test_a_floating_ip_needs_a_router_on_the_way(tenant, made, clouds):
    port = made.port(tenant, made.network(tenant))
    with pytest.raises(NotFoundException) as refused:
        tenant.network.create_ip(floating_network_id=clouds.external.id, port_id=port.id)
    assert kind(refused) == "ExternalGatewayForFloatingIPNotFound"


def test_a_floating_ip_is_freed_when_its_port_goes(tenant, made, clouds):
    network = made.network(tenant)
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    tenant.network.add_interface_to_router(router, subnet=subnet_of(tenant, network).id)
    port = made.port(tenant, network)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id, port_id=port.id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    tenant.network.delete_port(port, ignore_missing=False)
    after = tenant.network.get_ip(floating)
    assert (after.port_id, after.router_id) == (None, None)


def test_floating_ips_hold_their_interface_and_gateway(tenant, made, clouds):
    network = made.network(tenant)
    router = made.router(tenant, external_gateway_info={"network_id": clouds.external.id})
    subnet = subnet_of(tenant, network)
    tenant.network.add_interface_to_router(router, subnet=subnet.id)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id, port_id=made.port(tenant, network).id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    answer = tenant.network.put(f"/routers/{router.id}/remove_router_interface", json={"subnet_id": subnet.id})
    assert (answer.status_code, answer.json()["NeutronError"]["type"]) == (409, "RouterInterfaceInUseByFloatingIP")
    answer = tenant.network.put(f"/routers/{router.id}", json={"router": {"external_gateway_info": {}}})
    assert (answer.status_code, answer.json()["NeutronError"]["type"]) == (
        409,
        "RouterExternalGatewayInUseByFloatingIp",
    )


def test_a_member_sees_only_its_own_routers(tenant, neighbour, service, made):
    router = made.router(tenant)
    assert router.id in {one.id for one in tenant.network.routers()}
    assert router.id not in {one.id for one in neighbour.network.routers()}
    assert router.id in {one.id for one in service.network.routers()}
    own = {one.id for one in service.network.routers(project_id=tenant.current_project_id)}
    assert own == {router.id}
    with pytest.raises(NotFoundException):
        neighbour.network.get_router(router)


def test_routers_are_not_found_by_flavor_or_status(service):
    for attribute in ("flavor_id", "status"):
        assert service.network.get("/routers", params={attribute: "x"}).status_code == 400


def test_a_flavor_that_does_not_exist_is_refused(tenant):
    body = {"router": {"flavor_id": "11111111-1111-4111-8111-111111111111"}}
    answer = tenant.network.post("/routers", json=body)
    assert (answer.status_code, answer.json()["NeutronError"]["type"]) == (404, "FlavorNotFound")


def test_a_shared_network_is_attached_by_port_only(service, tenant, made):
    network = made.network(service, is_shared=True)
    router = made.router(tenant)
    subnet = subnet_of(tenant, network)
    answer = tenant.network.put(f"/routers/{router.id}/add_router_interface", json={"subnet_id": subnet.id})
    assert (answer.status_code, answer.json()["NeutronError"]["type"]) == (400, "BadRequest")
    port = made.port(tenant, network)
    tenant.network.add_interface_to_router(router, port=port.id)
    assert tenant.network.get_port(port.id).device_owner == "network:router_interface"
