"""What Astara relies on about port forwardings, on the simulated and on the real cloud.

They are a service plugin of Neutron, `port_forwarding`, which a cloud must have to keep this contract.
"""

import pytest
from openstack.exceptions import BadRequestException, ConflictException, NotFoundException


@pytest.fixture
def shared(tenant, made, clouds):
    """A floating IP that no port has, a port behind a router, and the router."""
    aliases = {one.alias for one in clouds.admin.network.extensions()}
    assert {"floating-ip-port-forwarding", "expose-port-forwarding-in-fip"} <= aliases
    network, router = made.network(tenant), made.router(tenant)
    tenant.network.update_router(router, external_gateway_info={"network_id": clouds.external.id})
    (subnet_id,) = tenant.network.get_network(network).subnet_ids
    tenant.network.add_interface_to_router(router, subnet_id=subnet_id)
    port = made.port(tenant, network)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    return floating, port, router


def forward(tenant, made, floating, port, **attributes):
    address = port.fixed_ips[0]["ip_address"]
    body = {"protocol": "tcp", "internal_port_id": port.id, "internal_ip_address": address, **attributes}
    answer = tenant.network.post(f"/floatingips/{floating.id}/port_forwardings", json={"port_forwarding": body})
    if answer.status_code == 400:
        raise BadRequestException(answer.text)
    if answer.status_code == 409:
        raise ConflictException(answer.text)
    assert answer.status_code == 201, answer.text
    forwarding = answer.json()["port_forwarding"]
    made.gone(tenant.network.delete, f"/floatingips/{floating.id}/port_forwardings/{forwarding['id']}")
    return forwarding


def listed(cloud, router):
    answer = cloud.network.get("/floatingips", params={"router_id": router.id})
    return answer.json()["floatingips"]


def test_a_forwarding_makes_the_floating_ip_its_routers_and_shows_with_it(tenant, made, clouds, shared):
    floating, port, router = shared
    assert listed(clouds.service, router) == []
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    (one,) = listed(clouds.service, router)
    assert (one["id"], one["fixed_ip_address"], one["port_id"]) == (floating.id, None, None)
    assert one["revision_number"] > floating.revision_number
    (shown,) = one["port_forwardings"]
    assert shown == {
        "id": forwarding["id"], "protocol": "tcp", "internal_port_id": port.id, "internal_port": 80,
        "external_port": 8080, "internal_ip_address": port.fixed_ips[0]["ip_address"],
    }  # fmt: skip
    tenant.network.delete(f"/floatingips/{floating.id}/port_forwardings/{forwarding['id']}")
    assert listed(clouds.service, router) == []


def test_a_range_shows_in_full_only_below_its_floating_ip(tenant, made, clouds, shared):
    floating, port, router = shared
    forward(tenant, made, floating, port, internal_port_range="90:95", external_port_range="9090:9095")
    forward(tenant, made, floating, port, internal_port=53, external_port_range="5000:5003", protocol="udp")
    by_protocol = {one["protocol"]: one for one in listed(clouds.service, router)[0]["port_forwardings"]}
    assert "external_port" not in by_protocol["tcp"]
    assert "internal_port" not in by_protocol["tcp"]
    assert "external_port" not in by_protocol["udp"]
    assert by_protocol["udp"]["internal_port"] == 53
    answer = clouds.service.network.get(f"/floatingips/{floating.id}/port_forwardings")
    found = {one["protocol"]: one for one in answer.json()["port_forwardings"]}
    assert (found["tcp"]["internal_port_range"], found["tcp"]["external_port_range"]) == ("90:95", "9090:9095")
    assert (found["udp"]["internal_port_range"], found["udp"]["external_port_range"]) == ("53:53", "5000:5003")


def change(cloud, floating, forwarding, **attributes):
    path = f"/floatingips/{floating.id}/port_forwardings/{forwarding['id']}"
    return cloud.network.put(path, json={"port_forwarding": attributes})


def test_a_change_counts_a_revision_of_the_floating_ip_where_a_packet_would_notice(tenant, made, clouds, shared):
    floating, port, router = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    before = listed(clouds.service, router)[0]["revision_number"]
    for same in ({"internal_port": 80}, {"description": "a door"}):
        assert change(tenant, floating, forwarding, **same).status_code == 200
        assert listed(clouds.service, router)[0]["revision_number"] == before
    answer = change(tenant, floating, forwarding, internal_port=81)
    assert answer.status_code == 200, answer.text
    (one,) = listed(clouds.service, router)
    assert one["revision_number"] > before
    assert one["port_forwardings"][0]["internal_port"] == 81


def test_a_forwarding_leads_elsewhere_and_becomes_a_range(tenant, made, clouds, shared):
    floating, port, router = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    other = made.port(tenant, tenant.network.get_network(port.network_id))
    assert change(tenant, floating, forwarding, internal_port_id=other.id).status_code == 200
    (shown,) = listed(clouds.service, router)[0]["port_forwardings"]
    assert shown["internal_ip_address"] == other.fixed_ips[0]["ip_address"]
    answer = change(tenant, floating, forwarding, internal_port_range="90:91", external_port_range="9090:9091")
    assert answer.status_code == 200, answer.text
    (shown,) = listed(clouds.service, router)[0]["port_forwardings"]
    assert not {"internal_port", "external_port"} & shown.keys()


def test_ports_are_forwarded_once_and_a_floating_ip_that_forwards_takes_no_port(tenant, made, clouds, shared):
    floating, port, router = shared
    forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    for taken in ({"internal_port": 81, "external_port": 8080}, {"internal_port": 80, "external_port": 8081}):
        with pytest.raises(BadRequestException):
            forward(tenant, made, floating, port, **taken)
    forward(tenant, made, floating, port, internal_port=80, external_port=8080, protocol="udp")
    with pytest.raises(ConflictException):
        tenant.network.update_ip(floating, port_id=port.id)
    with pytest.raises(ConflictException):
        tenant.network.delete_ip(floating, ignore_missing=False)
    tenant.network.update_ip(floating, port_id=None)
    assert len(listed(clouds.service, router)[0]["port_forwardings"]) == 2


def test_a_port_with_a_floating_ip_of_its_own_is_led_to_by_no_other(tenant, made, clouds, shared):
    floating, port, _ = shared
    own = tenant.network.create_ip(floating_network_id=clouds.external.id, port_id=port.id)
    made.gone(tenant.network.delete_ip, own.id, ignore_missing=False)
    with pytest.raises(ConflictException):
        forward(tenant, made, floating, port, internal_port=80, external_port=8080)


def test_a_router_that_forwards_keeps_its_gateway_and_its_interface(tenant, made, shared):
    floating, port, router = shared
    forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    with pytest.raises(ConflictException):
        tenant.network.update_router(router, external_gateway_info={})
    with pytest.raises(ConflictException):
        tenant.network.remove_interface_from_router(router, subnet_id=port.fixed_ips[0]["subnet_id"])


def test_strangers_see_no_forwarding_and_make_none(tenant, neighbour, made, shared):
    floating, port, _ = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    path = f"/floatingips/{floating.id}/port_forwardings"
    body = {"protocol": "tcp", "internal_port_id": port.id, "internal_ip_address": port.fixed_ips[0]["ip_address"]}
    body |= {"internal_port": 81, "external_port": 8081}
    assert neighbour.network.get(path).status_code == 404
    assert neighbour.network.delete(f"{path}/{forwarding['id']}").status_code == 404
    assert neighbour.network.post(path, json={"port_forwarding": body}).status_code == 403


def test_forwardings_go_with_their_port(tenant, made, clouds, shared):
    floating, port, router = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    tenant.network.delete_port(port, ignore_missing=False)
    assert listed(clouds.service, router) == []
    with pytest.raises(NotFoundException):
        tenant.network.get_floating_ip_port_forwarding(floating.id, forwarding["id"])


def test_forwardings_go_with_the_address_that_they_lead_to(tenant, made, clouds, shared):
    floating, port, router = shared
    forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    tenant.network.update_port(port, fixed_ips=[{"ip_address": "10.61.0.77"}])
    assert listed(clouds.service, router) == []
