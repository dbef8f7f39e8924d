"""What Astara relies on about Nova and Glance, on the simulated and on the real cloud."""

import base64
import uuid

import pytest
from openstack.exceptions import ForbiddenException, NotFoundException

USER_DATA = base64.b64encode(b"#cloud-config\n{}\n").decode()


def boot_refused(cloud, clouds, **attributes):
    body = {"name": "contract", "imageRef": clouds.image.id, "flavorRef": clouds.flavor.id, **attributes}
    return cloud.compute.post("/servers", json={"server": body})


def ids(ports):
    return {port.id for port in ports}


def test_image_and_flavor_are_found_by_name_and_by_id(service, clouds):
    assert service.image.find_image("tiny").id == clouds.image.id
    assert service.image.get_image(clouds.image.id).status == "active"
    assert service.compute.find_flavor("tiny").id == clouds.flavor.id
    assert service.image.find_image("no such image") is None
    assert service.compute.find_flavor("no such flavor") is None


def test_a_server_boots_with_its_ports_and_is_their_device(service, made, clouds, until):
    network = made.network(service)
    ports = [made.port(service, network) for _ in range(2)]
    server = made.server(
        service,
        clouds,
        networks=[{"port": port.id} for port in ports],
        user_data=USER_DATA,
        config_drive=True,
        metadata={"astara_resource": "r1", "HA_Enabled": "False"},
    )
    assert server.metadata == {"astara_resource": "r1", "HA_Enabled": "False"}
    assert server.has_config_drive in (True, "True")
    for port in ports:
        bound = until(
            lambda port=port: service.network.get_port(port), lambda seen: seen.device_owner == "compute:nova"
        )
        assert bound.device_id == server.id
        assert bound.binding_host_id
        assert bound.mac_address == port.mac_address
    assert ids(service.network.ports(device_id=server.id)) == ids(ports)


def test_a_port_of_another_project_fails_the_build(service, tenant, made, clouds, until):
    port = made.port(tenant, made.network(tenant))
    answer = boot_refused(service, clouds, networks=[{"port": port.id}])
    assert answer.status_code == 202
    server_id = answer.json()["server"]["id"]
    made.gone(service.compute.delete_server, server_id, ignore_missing=False)
    server = until(lambda: service.compute.get_server(server_id), lambda seen: seen.status != "BUILD")
    assert (server.status, server.fault["code"]) == ("ERROR", 500)
    assert service.network.get_port(port).device_id == ""


def test_a_port_that_the_caller_does_not_see_is_refused(service, tenant, made, clouds):
    port = made.port(service, made.network(service))
    answer = boot_refused(tenant, clouds, networks=[{"port": port.id}])
    assert (answer.status_code, list(answer.json())) == (400, ["badRequest"])


def test_a_port_of_ours_on_a_foreign_network_is_taken(service, tenant, made, clouds):
    network = made.network(tenant)
    port = made.port(service, network)
    server = made.server(service, clouds, networks=[{"port": port.id}])
    assert service.network.get_port(port).device_id == server.id


def test_a_port_without_addresses_is_refused_at_boot(service, made, clouds):
    port = made.port(service, made.network(service), fixed_ips=[])
    answer = boot_refused(service, clouds, networks=[{"port": port.id}])
    assert answer.status_code == 400


def test_a_port_in_use_is_refused(service, made, clouds):
    port = made.port(service, made.network(service))
    made.server(service, clouds, networks=[{"port": port.id}])
    answer = boot_refused(service, clouds, networks=[{"port": port.id}])
    assert answer.status_code == 409


def test_unknown_ports_flavors_and_images_are_refused(service, clouds, made):
    port = made.port(service, made.network(service))
    nothing = str(uuid.uuid4())
    assert boot_refused(service, clouds, networks=[{"port": nothing}]).status_code == 400
    assert boot_refused(service, clouds, networks=[{"port": port.id}], flavorRef=nothing).status_code == 400
    assert boot_refused(service, clouds, networks=[{"port": port.id}], imageRef=nothing).status_code == 400


def test_deleting_a_server_frees_its_ports_and_keeps_them(service, made, clouds, until):
    port = made.port(service, made.network(service))
    server = made.server(service, clouds, networks=[{"port": port.id}])
    service.compute.delete_server(server, ignore_missing=False)
    until(lambda: list(service.compute.servers(name=server.id)), lambda found: not found)
    free = until(lambda: service.network.get_port(port), lambda seen: seen.device_id == "")
    assert (free.device_owner, free.binding_host_id) == ("", "")

    def gone():
        return service.compute.get(f"/servers/{server.id}").status_code

    assert until(gone, lambda status: status == 404) == 404
    with pytest.raises(NotFoundException):
        service.compute.delete_server(server, ignore_missing=False)


def test_ports_that_nova_made_go_with_the_server(tenant, made, clouds, until):
    network = made.network(tenant)
    server = made.server(tenant, clouds, networks=[{"uuid": network.id}])
    ports = list(tenant.network.ports(device_id=server.id))
    assert [port.network_id for port in ports] == [network.id]
    tenant.compute.delete_server(server)
    until(lambda: list(tenant.network.ports(network_id=network.id)), lambda left: not left)


def test_interfaces_are_attached_listed_and_detached(service, made, clouds, until):
    network = made.network(service)
    first, second = made.port(service, network), made.port(service, network)
    server = made.server(service, clouds, networks=[{"port": first.id}])
    attached = service.compute.create_server_interface(server, port_id=second.id)
    assert (attached.port_id, attached.mac_addr) == (second.id, second.mac_address)
    listed = until(lambda: list(service.compute.server_interfaces(server)), lambda seen: len(seen) == 2)
    assert {one.port_id for one in listed} == {first.id, second.id}
    assert service.network.get_port(second).device_id == server.id
    service.compute.delete_server_interface(second.id, server=server)
    until(lambda: list(service.compute.server_interfaces(server)), lambda seen: len(seen) == 1)
    free = until(lambda: service.network.get_port(second), lambda seen: seen.device_id == "")
    assert free.device_owner == ""


def test_attaching_what_is_attached_or_foreign_is_refused(service, tenant, made, clouds):
    network = made.network(service)
    port = made.port(service, network)
    foreign = made.port(tenant, made.network(tenant))
    server = made.server(service, clouds, networks=[{"port": port.id}])
    for refused, status in ((port.id, 409), (foreign.id, 400), (str(uuid.uuid4()), 404)):
        answer = service.compute.post(
            f"/servers/{server.id}/os-interface", json={"interfaceAttachment": {"port_id": refused}}
        )
        assert answer.status_code == status


def test_a_port_without_addresses_can_be_attached(service, made, clouds, until):
    network = made.network(service)
    port, bare = made.port(service, network), made.port(service, network, fixed_ips=[])
    server = made.server(service, clouds, networks=[{"port": port.id}])
    attached = service.compute.create_server_interface(server, port_id=bare.id)
    assert (attached.port_id, attached.fixed_ips) == (bare.id, [])


def test_detaching_what_is_not_attached_changes_nothing(service, made, clouds):
    network = made.network(service)
    port, other = made.port(service, network), made.port(service, network)
    server = made.server(service, clouds, networks=[{"port": port.id}])
    assert service.compute.delete(f"/servers/{server.id}/os-interface/{other.id}").status_code == 202
    assert [one.port_id for one in service.compute.server_interfaces(server)] == [port.id]


def test_metadata_is_merged_and_removed(service, made, clouds):
    port = made.port(service, made.network(service))
    server = made.server(service, clouds, networks=[{"port": port.id}], metadata={"a": "1"})
    service.compute.set_server_metadata(server, b="2")
    assert service.compute.get_server(server.id).metadata == {"a": "1", "b": "2"}
    service.compute.delete_server_metadata(service.compute.get_server(server.id), ["a"])
    assert service.compute.get_server(server.id).metadata == {"b": "2"}


def test_servers_are_found_by_a_regular_expression_in_the_name(service, made, clouds):
    mark = uuid.uuid4().hex
    port = made.port(service, made.network(service))
    server = made.server(service, clouds, name=f"astara-router-{mark}-0", networks=[{"port": port.id}])
    for pattern in (f"^astara-router-{mark}-[01]$", mark, f"^{server.name}$"):
        assert [one.id for one in service.compute.servers(name=pattern)] == [server.id]
    assert list(service.compute.servers(name=f"^{mark}")) == []


def test_a_member_sees_its_own_servers_and_an_administrator_all(service, tenant, neighbour, made, clouds):
    network = made.network(tenant)
    server = made.server(tenant, clouds, networks=[{"uuid": network.id}])
    assert server.id in ids(tenant.compute.servers())
    assert server.id not in ids(neighbour.compute.servers())
    assert server.id not in ids(service.compute.servers())
    assert server.id in ids(service.compute.servers(all_projects=True))
    assert service.compute.get_server(server.id).project_id == tenant.current_project_id
    with pytest.raises(NotFoundException):
        neighbour.compute.get_server(server.id)
    with pytest.raises(ForbiddenException):
        list(neighbour.compute.servers(all_projects=True))


def test_a_server_reboots_and_is_active_again(service, made, clouds, until):
    port = made.port(service, made.network(service))
    server = made.server(service, clouds, networks=[{"port": port.id}])
    service.compute.reboot_server(server, "SOFT")
    until(lambda: service.compute.get_server(server.id), lambda seen: seen.status == "ACTIVE")
    assert service.network.get_port(port).device_id == server.id


def test_an_unknown_server_answers_404_in_novas_shape(service):
    answer = service.compute.get(f"/servers/{uuid.uuid4()}")
    assert (answer.status_code, list(answer.json())) == (404, ["itemNotFound"])


def test_limits_and_quotas_are_told(service):
    limits = service.compute.get_limits().absolute
    assert limits.instances == -1
    assert limits.instances_used >= 0
    quota = service.compute.get_quota_set(service.current_project_id)
    assert quota.instances == -1


def test_a_quota_of_servers_is_enforced(admin, tenant, made, clouds):
    network = made.network(tenant)
    project = tenant.current_project_id
    admin.compute.put(f"/os-quota-sets/{project}", json={"quota_set": {"instances": 0}})
    made.gone(admin.compute.put, f"/os-quota-sets/{project}", json={"quota_set": {"instances": -1}})
    assert boot_refused(tenant, clouds, networks=[{"uuid": network.id}]).status_code == 403


def test_a_call_without_a_valid_token_answers_401(service):
    for adapter, path in ((service.network, "/ports"), (service.compute, "/servers"), (service.image, "/v2/images")):
        endpoint = service.session.get_endpoint(service_type=adapter.service_type, interface="public").rstrip("/")
        base = endpoint if endpoint.endswith(("v2.1", "v2", "v2.0")) or path.startswith("/v2") else endpoint + "/v2.0"
        answer = service.session.get(
            base + path, authenticated=False, headers={"X-Auth-Token": "nonsense"}, raise_exc=False
        )
        assert answer.status_code == 401


def test_a_user_without_a_role_is_not_let_in(admin, clouds, made):
    project = admin.identity.create_project(name=f"contract-{uuid.uuid4().hex[:6]}", domain_id="default")
    made.gone(admin.identity.delete_project, project)
    user = admin.identity.create_user(name=project.name, password="x", domain_id="default")
    made.gone(admin.identity.delete_user, user)
    scope = {"project": {"id": project.id}}
    who = {"methods": ["password"], "password": {"user": {"id": user.id, "password": "x"}}}
    answer = admin.identity.post("/auth/tokens", json={"auth": {"identity": who, "scope": scope}}, authenticated=False)
    assert answer.status_code == 401
    admin.identity.assign_project_role_to_user(project, user, admin.identity.find_role("member"))
    answer = admin.identity.post("/auth/tokens", json={"auth": {"identity": who, "scope": scope}}, authenticated=False)
    assert answer.status_code == 201
    body = answer.json()["token"]
    assert {role["name"] for role in body["roles"]} >= {"member", "reader"}
    assert {entry["type"] for entry in body["catalog"]} >= {"identity", "network", "compute", "image"}
