"""What the simulated cloud adds to a real one: faults, counted calls, appliances, an expiry, a broker of choice."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import replace

import aiohttp
import kombu
import pytest
import requests
from keystoneauth1.exceptions import ConnectFailure, Unauthorized
from openstack.exceptions import ForbiddenException

from lab.cloud import AppliancesInProcess, CloudOptions, Fault, SimulatedCloud, write_clouds
from lab.cloud.hypervisor import appliance_boot
from lab.cloud.web import Call


@pytest.fixture
def astara(simulation, connect):
    connection = connect(simulation, "astara", "service")
    yield connection
    connection.close()


def lab(simulation, method, path, **keywords):
    return requests.request(method, f"{simulation.urls['lab']}/lab/{path}", timeout=60, **keywords)


def test_an_error_fault_answers_its_status_as_often_as_it_was_told(simulation, astara):
    fault = {"kind": "error", "service": "neutron", "method": "GET", "path": "/routers", "status": 500, "times": 2}
    assert lab(simulation, "POST", "faults", json=fault).status_code == 201
    assert [astara.network.get("/routers").status_code for _ in range(3)] == [500, 500, 200]
    assert astara.network.get("/ports").status_code == 200
    assert lab(simulation, "GET", "faults").json()[0]["hits"] == 2
    lab(simulation, "DELETE", "faults")
    assert lab(simulation, "GET", "faults").json() == []


def test_single_objects_that_were_read_are_remembered(simulation, astara):
    network = simulation.network.networks.table.find("name", "astara-mgmt")[0]["id"]
    lab(simulation, "DELETE", "calls")
    astara.network.get("/networks")
    assert lab(simulation, "GET", "read").json() == []
    for _ in range(2):
        astara.network.get(f"/networks/{network}")
    assert lab(simulation, "GET", "read").json() == [f"/v2.0/networks/{network}"]


def test_a_fault_that_makes_no_sense_is_refused(simulation):
    for fault in ({}, {"kind": "fire"}, {"kind": "error", "path": "("}, {"kind": "error", "unknown": 1}):
        assert lab(simulation, "POST", "faults", json=fault).status_code == 400


def test_a_lost_call_is_done_and_not_answered(simulation, astara):
    network = simulation.network.networks.table.find("name", "astara-mgmt")[0]
    body = {"port": {"network_id": network["id"], "mac_address": "fa:00:00:00:00:01"}}
    fault = simulation.faults.add(Fault("lost", "neutron", "POST", "/ports", times=1))
    with pytest.raises(ConnectFailure):
        astara.network.post("/ports", json=body, connect_retries=0)
    assert fault.hits == 1
    assert astara.network.post("/ports", json=body).status_code == 409


def test_an_empty_fault_hides_what_a_list_has(simulation, astara):
    assert len(list(astara.network.networks())) == 2
    simulation.faults.add(Fault("empty", "neutron", "GET", "/networks"))
    assert list(astara.network.networks()) == []


def test_a_lost_role_is_told_to_the_service_user_alone(simulation, astara, connect):
    admin = connect(simulation)
    simulation.faults.add(Fault("lost_role", user="astara"))
    with pytest.raises(ForbiddenException):
        list(astara.network.routers())
    with pytest.raises(ForbiddenException):
        list(astara.compute.servers())
    assert list(admin.network.routers()) == []
    admin.close()


def test_a_withdrawn_role_revokes_the_tokens_and_refuses_new_ones(simulation, astara, connect):
    admin = connect(simulation)
    assert list(astara.network.routers()) == []
    identity = admin.identity
    project, user = identity.find_project("service"), identity.find_user("astara")
    identity.unassign_project_role_from_user(project, user, identity.find_role("admin"))
    with pytest.raises(Unauthorized):
        list(astara.network.routers())
    identity.assign_project_role_to_user(project, user, identity.find_role("admin"))
    assert list(astara.network.routers()) == []
    admin.close()


def test_an_expired_token_is_renewed_by_the_sdk(simulation, astara):
    assert list(astara.network.routers()) == []
    simulation.identity.expire_all()
    assert list(astara.network.routers()) == []


def test_calls_are_counted_by_service_method_and_route(simulation, astara):
    list(astara.network.routers())
    lab(simulation, "DELETE", "calls")
    network = next(astara.network.networks())
    astara.network.get_network(network.id)
    counted = lab(simulation, "GET", "calls").json()
    assert counted["total"] == 2
    assert {(call["method"], call["route"], call["count"]) for call in counted["calls"]} == {
        ("GET", "/v2.0/networks", 1),
        ("GET", "/v2.0/networks/{id}", 1),
    }


def test_latency_and_slow_faults_delay_a_call(simulation, astara):
    list(astara.network.routers())
    lab(simulation, "PUT", "latency", json={"neutron": 0.05})
    simulation.faults.add(Fault("slow", "neutron", seconds=0.05))
    before = time.monotonic()
    list(astara.network.routers())
    assert time.monotonic() - before >= 0.1


def test_segments_let_ports_without_addresses_boot():
    cloud = SimulatedCloud(CloudOptions(segments=True))
    cloud.seed()
    context = cloud.identity.context_of("astara", "service")
    network = cloud.network.networks.table.find("name", "astara-mgmt")[0]
    port = cloud.network.ports.build(context, {"network_id": network["id"], "fixed_ips": []})
    assert port["ip_allocation"] == "none"

    async def boot():
        flavor = cloud.compute.flavors.find("name", "m1.astara")[0]
        wanted = {"name": "vm", "flavorRef": flavor["id"], "networks": [{"port": port["id"]}]}
        server = cloud.servers.create(context, wanted)
        await cloud.servers.close()
        return server

    assert asyncio.run(boot())["name"] == "vm"


def test_without_filter_validation_a_list_knows_what_changed_since():
    now = [1_700_000_000.0]
    cloud = SimulatedCloud(CloudOptions(filter_validation=False, clock=lambda: now[0]))
    context = cloud.identity.context_of("admin", "admin")
    routers = cloud.network.routers
    old, new = (routers.make(context, {**routers.defaults, "project_id": context.project_id}) for _ in range(2))
    now[0] += 10
    routers.touch(new)
    query = f"changed_since={new['updated_at']}&unknown=1&fields=id"
    call = Call("GET", "/v2.0/routers", {}, query, b"", "http://cloud", (), context)
    assert routers.listing(call).body == {"routers": [{"id": new["id"]}]}
    assert old["updated_at"] < new["updated_at"]


def test_a_router_names_its_flavor(simulation, astara, connect):
    simulation.tenant("blue")
    flavor = astara.network.create_flavor(name="astara", service_type="L3_ROUTER_NAT")
    blue = connect(simulation, "blue", "blue")
    assert blue.network.find_flavor("astara").id == flavor.id
    assert blue.network.create_router(flavor_id=flavor.id).flavor_id == flavor.id
    blue.close()


def test_a_deployment_of_metering_labels_is_listed(simulation, astara):
    label = astara.network.create_metering_label(name="external")
    rule = astara.network.create_metering_label_rule(
        metering_label_id=label.id, direction="egress", remote_ip_prefix="0.0.0.0/0"
    )
    assert [one.id for one in astara.network.metering_labels()] == [label.id]
    assert [one.id for one in astara.network.metering_label_rules(metering_label_id=label.id)] == [rule.id]
    astara.network.delete_metering_label(label.id, ignore_missing=False)
    assert list(astara.network.metering_label_rules()) == []


def test_the_metadata_api_believes_a_signature_only(simulation, astara, until):
    image, flavor = astara.image.find_image("tiny"), astara.compute.find_flavor("tiny")
    server = astara.compute.create_server(name="vm", image_id=image.id, flavor_id=flavor.id, networks="none")
    until(lambda: astara.compute.get_server(server.id), lambda seen: seen.status == "ACTIVE")
    secret = simulation.options.metadata_secret.encode()
    headers = {
        "X-Instance-ID": server.id,
        "X-Tenant-ID": astara.current_project_id,
        "X-Forwarded-For": "10.0.0.5",
        "X-Instance-ID-Signature": hmac.new(secret, server.id.encode(), hashlib.sha256).hexdigest(),
    }

    def get(path, **changes):
        return requests.get(simulation.urls["metadata"] + path, headers=headers | changes, timeout=60)

    facts = get("/openstack/latest/meta_data.json").json()
    assert (facts["uuid"], facts["name"]) == (server.id, "vm")
    assert get("/latest/meta-data/hostname").text == "vm.novalocal"
    assert "instance-id" in get("/latest/meta-data/").text
    assert get("/latest/meta-data/", **{"X-Instance-ID-Signature": "0" * 64}).status_code == 403
    assert get("/latest/meta-data/", **{"X-Tenant-ID": "other"}).status_code == 404


def test_clouds_yaml_names_every_account(simulation, tmp_path, monkeypatch):
    simulation.tenant("blue")
    path = tmp_path / "clouds.yaml"
    write_clouds(path, simulation.auth_url, simulation.options.password, ["blue"])
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    import openstack

    projects = {}
    for name in ("admin", "astara", "blue"):
        with openstack.connect(cloud=name) as connection:
            projects[name] = connection.current_project.name
    assert projects == {"admin": "admin", "astara": "service", "blue": "blue"}


class Carrier:
    """Notes what it was asked to carry."""

    def __init__(self):
        self.done = []

    async def start(self, boot_json, interfaces):
        self.done.append(("start", boot_json["instance"], [one["mac"] for one in interfaces]))

    async def stop(self, instance_id):
        self.done.append(("stop", instance_id))

    async def plug(self, instance_id, mac, mtu):
        self.done.append(("plug", instance_id, mac, mtu))

    async def unplug(self, instance_id, mac):
        self.done.append(("unplug", instance_id, mac))


def user_data(boot):
    config = {"write_files": [{"path": "/etc/astara/appliance.json", "content": json.dumps(boot)}]}
    return base64.b64encode(f"#cloud-config\n{json.dumps(config)}".encode()).decode()


async def token(http, cloud):
    user = {"name": "astara", "domain": {"id": "default"}, "password": cloud.options.password}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
    }
    async with http.post(f"{cloud.auth_url}/auth/tokens", json={"auth": auth}) as answer:
        return {"X-Auth-Token": answer.headers["X-Subject-Token"]}


async def test_servers_with_an_appliances_user_data_are_carried():
    carrier = Carrier()
    cloud = SimulatedCloud(CloudOptions(), AppliancesInProcess(carrier))
    cloud.seed()
    await cloud.start()
    async with aiohttp.ClientSession() as http:
        http.headers.update(await token(http, cloud))
        network = cloud.network.networks.table.find("name", "astara-mgmt")[0]["id"]
        ports = []
        for _ in range(2):
            body = {"port": {"network_id": network}}
            async with http.post(f"{cloud.urls['neutron']}/v2.0/ports", json=body) as answer:
                ports.append((await answer.json())["port"])
        server = {
            "name": "appliance",
            "flavorRef": cloud.compute.flavors.find("name", "m1.astara")[0]["id"],
            "imageRef": cloud.image.images.find("name", "astara")[0]["id"],
            "networks": [{"port": ports[0]["id"]}],
            "user_data": user_data({"instance": "boot-1"}),
        }
        base = f"{cloud.urls['nova']}/v2.1/servers"
        async with http.post(base, json={"server": server}) as answer:
            server_id = (await answer.json())["server"]["id"]
        interfaces = f"{base}/{server_id}/os-interface"
        await cloud.servers.idle(server_id)
        await http.post(interfaces, json={"interfaceAttachment": {"port_id": ports[1]["id"]}})
        await http.delete(f"{interfaces}/{ports[1]['id']}")
        await http.post(f"{base}/{server_id}/action", json={"reboot": {"type": "SOFT"}})
        await http.delete(f"{base}/{server_id}")
        await cloud.servers.idle(server_id)
    await cloud.stop()
    first, second = (port["mac_address"] for port in ports)
    assert carrier.done == [
        ("start", "boot-1", [first]),
        ("plug", "boot-1", second, 1450),
        ("unplug", "boot-1", second),
        ("stop", "boot-1"),
        ("start", "boot-1", [first]),
        ("stop", "boot-1"),
    ]


def test_other_user_data_is_no_appliance():
    assert appliance_boot(None) is None
    assert appliance_boot("#!/bin/sh\n") is None
    assert appliance_boot("#cloud-config\nwrite_files: [{path: /etc/astara/appliance.json, content: '{'}]") is None


async def test_messages_reach_the_broker_in_order_and_twice_when_told():
    options = CloudOptions(amqp_url="memory://")
    cloud = SimulatedCloud(replace(options, host="127.0.0.1"))
    got = []
    with kombu.Connection("memory://") as connection:
        exchange = kombu.Exchange("neutron", "topic", durable=False)
        queue = kombu.Queue("contract", exchange, routing_key="notifications.info", durable=False)
        queue(connection.channel()).declare()
        cloud.seed()
        await cloud.start()
        tenant = cloud.tenant("blue")
        cloud.notifications.network(tenant, "router.create.start", {"router": {}})
        cloud.notifications.copies = 2
        cloud.notifications.network(tenant, "router.create.end", {"router": {}})
        await cloud.stop()
        bound = queue(connection.channel())
        while (message := bound.get(no_ack=True)) is not None:
            assert message.properties["delivery_mode"] == 2
            assert message.payload["oslo.version"] == "2.0"
            got.append(json.loads(message.payload["oslo.message"])["event_type"])
    assert got == ["router.create.start", "router.create.end", "router.create.end"]
