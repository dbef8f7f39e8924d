"""What Astara relies on about port forwardings, on the simulated and on the real cloud.

A cloud without the service plugin `port_forwarding` shows no floating IP with forwardings; where it has the plugin,
these are its ways.
"""

import pytest
from openstack.exceptions import BadRequestException, ConflictException, NotFoundException


@pytest.fixture
def shared(tenant, made, clouds):
    """A floating IP that no port has, a port behind a router, and the router; None where nothing can be forwarded."""
    if not any(one.alias == "floating-ip-port-forwarding" for one in clouds.admin.network.extensions()):
        return None
    network, router = made.network(tenant), made.router(tenant)
    tenant.network.update_router(router, external_gateway_info={"network_id": clouds.external.id})
    (subnet_id,) = tenant.network.get_network(network).subnet_ids
    tenant.network.add_interface_to_router(router, subnet_id=subnet_id)
    port = made.port(tenant, network)
    floating = tenant.network.create_ip(floating_network_id=clouds.external.id)
    made.gone(tenant.network.delete_ip, floating.id, ignore_missing=False)
    return floating, port, router


def forward(tenant, made, floating, port, **attributes):
    body = {"protocol": "tcp", "internal_port_id": port.id, **attributes}
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
    if shared is None:
        return
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
    if shared is None:
        return
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


def test_each_change_counts_a_revision_of_the_floating_ip(tenant, made, clouds, shared):
    if shared is None:
        return
    floating, port, router = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    before = listed(clouds.service, router)[0]["revision_number"]
    path = f"/floatingips/{floating.id}/port_forwardings/{forwarding['id']}"
    answer = tenant.network.put(path, json={"port_forwarding": {"internal_port": 81}})
    assert answer.status_code == 200, answer.text
    (one,) = listed(clouds.service, router)
    assert one["revision_number"] > before
    assert one["port_forwardings"][0]["internal_port"] == 81


def test_ports_are_forwarded_once_and_a_floating_ip_that_forwards_takes_no_port(tenant, made, shared):
    if shared is None:
        return
    floating, port, _ = shared
    forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    with pytest.raises(BadRequestException):
        forward(tenant, made, floating, port, internal_port=81, external_port=8080)
    with pytest.raises(ConflictException):
        tenant.network.update_ip(floating, port_id=port.id)


def test_forwardings_go_with_their_port(tenant, made, clouds, shared):
    if shared is None:
        return
    floating, port, router = shared
    forwarding = forward(tenant, made, floating, port, internal_port=80, external_port=8080)
    tenant.network.delete_port(port, ignore_missing=False)
    assert listed(clouds.service, router) == []
    with pytest.raises(NotFoundException):
        tenant.network.get_floating_ip_port_forwarding(floating.id, forwarding["id"])
