"""What Astara relies on about Neutron's networks and subnets, on the simulated and on the real cloud."""

import pytest
from openstack.exceptions import BadRequestException, ConflictException, ForbiddenException, NotFoundException


def kind(error):
    return error.value.response.json()["NeutronError"]["type"]


def test_a_loopback_subnet_without_dhcp_can_be_the_management_network(service, made):
    network = made.network(service, cidr=None)
    subnet = made.subnet(service, network, "127.64.0.0/16", is_dhcp_enabled=False, gateway_ip=None)
    assert subnet.gateway_ip is None
    assert subnet.allocation_pools == [{"start": "127.64.0.1", "end": "127.64.255.254"}]
    port = made.port(service, network)
    assert port.fixed_ips[0]["ip_address"].startswith("127.64.")


def test_a_loopback_subnet_with_dhcp_is_refused(service, made):
    network = made.network(service, cidr=None)
    with pytest.raises(BadRequestException):
        made.subnet(service, network, "127.64.0.0/16", gateway_ip=None)


def test_the_gateway_is_the_first_address_and_not_in_the_pools(service, made):
    network = made.network(service, cidr=None)
    four = made.subnet(service, network, "10.61.0.0/24")
    six = made.subnet(service, network, "fd00:61::/64")
    assert (four.gateway_ip, four.allocation_pools) == ("10.61.0.1", [{"start": "10.61.0.2", "end": "10.61.0.254"}])
    assert six.allocation_pools[0]["start"] > six.gateway_ip
    assert service.network.get_network(network).subnet_ids in ([four.id, six.id], [six.id, four.id])


def test_subnets_of_a_network_do_not_overlap(service, made):
    network = made.network(service)
    with pytest.raises(BadRequestException):
        made.subnet(service, network, "10.61.0.128/25")


def test_a_subnet_carries_what_dhcp_announces(service, made):
    network = made.network(service, cidr=None)
    routes = [{"destination": "198.51.100.0/24", "nexthop": "10.61.0.9"}]
    subnet = made.subnet(service, network, "10.61.0.0/24", dns_nameservers=["192.0.2.53"], host_routes=routes)
    after = service.network.update_subnet(subnet, is_dhcp_enabled=False, dns_nameservers=[])
    assert (after.is_dhcp_enabled, after.dns_nameservers, after.host_routes) == (False, [], routes)


def test_a_network_counts_the_changes_of_its_subnets(service, made):
    network = made.network(service, cidr=None)
    before = network.revision_number
    made.subnet(service, network, "10.61.0.0/24")
    assert service.network.get_network(network.id).revision_number > before


def test_a_network_in_use_is_not_deleted(service, made):
    network = made.network(service)
    made.port(service, network)
    with pytest.raises(ConflictException) as refused:
        service.network.delete_network(network, ignore_missing=False)
    assert kind(refused) == "NetworkInUse"
    subnet = next(service.network.subnets(network_id=network.id))
    with pytest.raises(ConflictException) as refused:
        service.network.delete_subnet(subnet, ignore_missing=False)
    assert kind(refused) == "SubnetInUse"


def test_a_network_takes_its_subnets_along(service, made):
    network = made.network(service)
    subnet = next(service.network.subnets(network_id=network.id))
    service.network.delete_network(network, ignore_missing=False)
    with pytest.raises(NotFoundException) as missing:
        service.network.get_subnet(subnet.id)
    assert kind(missing) == "SubnetNotFound"


def test_a_member_sees_its_own_and_the_shared_and_external_networks(service, tenant, neighbour, made, clouds):
    own = made.network(tenant)
    shared = made.network(service, is_shared=True)
    seen = {network.id for network in tenant.network.networks()}
    assert {own.id, shared.id, clouds.external.id} <= seen
    assert own.id not in {network.id for network in neighbour.network.networks()}
    with pytest.raises(NotFoundException):
        neighbour.network.get_network(own)
    assert [subnet.network_id for subnet in tenant.network.subnets(network_id=shared.id)] == [shared.id]


def test_external_networks_are_found_by_their_attribute(service, clouds):
    found = {network.id for network in service.network.networks(is_router_external=True)}
    assert clouds.external.id in found
    internal = {network.id for network in service.network.networks(is_router_external=False)}
    assert clouds.external.id not in internal


def test_a_network_tells_its_mtu(service, made):
    network = made.network(service)
    assert network.mtu == 1450
    assert service.network.update_network(network, mtu=1400).mtu == 1400


def test_a_member_may_not_make_external_or_shared_networks(tenant):
    with pytest.raises(ForbiddenException):
        tenant.network.create_network(is_router_external=True)
    with pytest.raises(ForbiddenException):
        tenant.network.create_network(is_shared=True)


def test_a_member_may_not_change_a_shared_network_of_others(service, tenant, made):
    network = made.network(service, is_shared=True)
    with pytest.raises(ForbiddenException):
        tenant.network.update_network(network.id, name="mine")


def test_extensions_say_what_neutron_can_do(service):
    aliases = {extension.alias for extension in service.network.extensions()}
    assert {"router", "external-net", "extraroute-atomic", "quotas", "standard-attr-revisions", "pagination"} <= aliases
    assert {"standard-attr-timestamp", "port-security", "binding", "provider", "security-group"} <= aliases


def test_a_quota_limits_what_a_project_makes(admin, tenant, made):
    network = made.network(tenant)
    made.gone(admin.network.delete_quota, tenant.current_project_id, ignore_missing=False)
    admin.network.update_quota(tenant.current_project_id, ports=1)
    made.port(tenant, network)
    with pytest.raises(ConflictException) as refused:
        tenant.network.create_port(network_id=network.id)
    assert kind(refused) == "OverQuota"
    details = tenant.network.get(f"/quotas/{tenant.current_project_id}/details").json()["quota"]
    assert details["port"] == {"limit": 1, "used": 1, "reserved": 0}
