"""The simulation's messages against those of a real control plane.

`notification_shapes.json` holds, for each event type, the keys of every payload that Neutron 29 and Nova 34 were
recorded to send, apart for administrators and members, and the keys of the envelopes around them.
"""

import json
from pathlib import Path

import pytest

SHAPES = json.loads((Path(__file__).parent / "notification_shapes.json").read_text())
NESTED = ("external_gateway_info", "port_details")


class Recording:
    """What the simulation sent since the last look."""

    def __init__(self, cloud):
        self.messages = []
        cloud.notifications.listeners.append(self.messages.append)

    def take(self, exchange="neutron"):
        taken = [message.content for message in self.messages if message.exchange == exchange]
        self.messages.clear()
        return taken

    def events(self):
        return [content["event_type"] for content in self.take()]


def shape(value, prefix=""):
    keys = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{prefix}.{key}" if prefix else key
            keys.add(path)
            if not prefix or key in NESTED:
                keys |= shape(inner, path)
    elif isinstance(value, list) and prefix == "ports":
        keys |= shape(value[0], prefix)
    return keys


@pytest.fixture
def scene(simulation, connect):
    """A simulation with a tenant, whose calls are recorded."""
    simulation.tenant("blue")
    blue, admin = connect(simulation, "blue", "blue"), connect(simulation)
    yield simulation, blue, admin, Recording(simulation)
    blue.close()
    admin.close()


def life(simulation, blue, admin, until):
    """A tenant's life, as the recorded one."""
    external = admin.network.find_network("public")
    net, anet = blue.network, admin.network
    shared = anet.create_network(name="flat", is_router_external=True)
    sub = anet.create_subnet(network_id=shared.id, ip_version=4, cidr="203.0.113.0/24", is_dhcp_enabled=False)
    anet.delete_subnet(sub)
    anet.delete_network(shared)
    network = net.create_network(name="net1")
    four = net.create_subnet(network_id=network.id, ip_version=4, cidr="10.1.0.0/24")
    six = net.create_subnet(
        network_id=network.id, ip_version=6, cidr="fd00:1::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac"
    )
    net.update_network(network.id, name="renamed")
    net.update_subnet(four.id, dns_nameservers=["192.0.2.53"])
    group = net.create_security_group(name="sg")
    rule = net.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol="tcp", port_range_min=80
    )
    net.update_security_group(group.id, description="web")
    net.delete_security_group_rule(rule)
    net.delete_security_group(group)
    router = net.create_router(name="r1")
    net.update_router(router.id, external_gateway_info={"network_id": external.id})
    for subnet in (four, six):
        net.add_interface_to_router(router.id, subnet=subnet.id)
    net.put(f"/routers/{router.id}/tags", json={"tags": ["blue"]})
    port = net.create_port(network_id=network.id, name="p1")
    net.update_port(port.id, name="renamed")
    for one in net.create_ports([{"network_id": network.id}, {"network_id": network.id}]):
        anet.update_port(one.id, binding_host_id="lab-host")
        net.delete_port(one.id)
    image, flavor = blue.image.find_image("tiny"), blue.compute.find_flavor("tiny")
    server = blue.compute.create_server(
        name="vm", image_id=image.id, flavor_id=flavor.id, networks=[{"uuid": network.id}, {"port": port.id}]
    )
    until(lambda: blue.compute.get_server(server.id), lambda seen: seen.status == "ACTIVE")
    floating = net.create_ip(floating_network_id=external.id)
    forwardings = f"/floatingips/{floating.id}/port_forwardings"
    inside = {"internal_port_id": port.id, "internal_ip_address": port.fixed_ips[0]["ip_address"]}
    forwarding = {"protocol": "tcp", "internal_port": 80, "external_port": 8080} | inside
    made = net.post(forwardings, json={"port_forwarding": forwarding}).json()["port_forwarding"]
    net.put(f"{forwardings}/{made['id']}", json={"port_forwarding": {"internal_port": 81}})
    net.delete(f"{forwardings}/{made['id']}")
    net.update_ip(floating.id, port_id=port.id)
    net.update_ip(floating.id, port_id=None)
    net.delete_ip(floating.id)
    linked = net.create_ip(floating_network_id=external.id, port_id=port.id)
    blue.compute.reboot_server(server.id, "SOFT")
    until(lambda: blue.compute.get_server(server.id), lambda seen: seen.status == "ACTIVE")
    blue.compute.delete_server(server.id)
    until(lambda: list(blue.compute.servers()), lambda seen: not seen)
    net.delete_ip(linked.id)
    for subnet in (four, six):
        net.remove_interface_from_router(router.id, subnet=subnet.id)
    net.delete_router(router.id)
    bare = net.create_router(name="r2")
    net.delete_router(bare.id)
    net.delete_port(port.id)
    net.delete_subnet(six.id)
    net.delete_network(network.id)
    admins = anet.create_port(network_id=simulation.network.networks.table.find("name", "astara-mgmt")[0]["id"])
    anet.delete_port(admins.id)


def test_every_message_has_the_keys_of_a_recorded_one(scene, until):
    simulation, blue, admin, recording = scene
    life(simulation, blue, admin, until)
    messages = [(message.exchange, message.content) for message in recording.messages if message.kind == "topic"]
    known = SHAPES["payloads"]
    compared = set()
    wrong = []
    for exchange, content in messages:
        assert sorted(set(content) - {"payload"}) in SHAPES["envelopes"][exchange]
        event = content["event_type"]
        if event not in known:
            assert event.endswith(".start"), event
            continue
        who = "admin" if content["_context_is_admin"] else "member"
        recorded = known[event].get(who) or next(iter(known[event].values()))
        have = shape(content["payload"]) if exchange == "neutron" else set(content["payload"])
        if not any(have == set(one) for one in recorded):
            wrong.append((event, who, sorted(have ^ set(recorded[0]))))
        compared.add(event)
    assert wrong == []
    assert set(known) - compared == set()


def test_casts_have_the_keys_of_the_recorded_ones(scene):
    _, blue, _, recording = scene
    router = blue.network.create_router()
    blue.network.delete_router(router.id)
    casts = recording.take("l3_agent_fanout")
    assert [(cast["method"], cast["args"]) for cast in casts] == [("router_deleted", {"router_id": router.id})]
    assert sorted(casts[0]) == SHAPES["cast"]


def test_silent_calls_are_silent(scene):
    _, blue, _, recording = scene
    external = blue.network.find_network("public")
    network = blue.network.create_network()
    subnet = blue.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.1.0.0/24")
    router = blue.network.create_router()
    recording.take()
    blue.network.update_router(router.id, external_gateway_info={"network_id": external.id})
    assert recording.events() == ["router.update.start", "router.update.end"]
    blue.network.add_interface_to_router(router.id, subnet=subnet.id)
    assert recording.events() == ["router.interface.create"]
    routes = [{"destination": "192.0.2.0/24", "nexthop": "10.1.0.9"}]
    blue.network.add_extra_routes_to_router(router.id, {"router": {"routes": routes}})
    blue.network.remove_extra_routes_from_router(router.id, {"router": {"routes": routes}})
    assert recording.events() == []
    port = blue.network.create_port(network_id=network.id)
    floating = blue.network.create_ip(floating_network_id=external.id, port_id=port.id)
    assert recording.events() == [f"{kind}.create.{end}" for kind in ("port", "floatingip") for end in ("start", "end")]
    blue.network.delete_port(port.id)
    assert recording.events() == ["port.delete.start", "port.delete.end"]
    assert blue.network.get_ip(floating.id).port_id is None
    refused = blue.network.delete(f"/routers/{router.id}")
    assert (refused.status_code, recording.events()) == (409, ["router.delete.start"])
    blue.network.remove_interface_from_router(router.id, subnet=subnet.id)
    recording.take()
    blue.network.delete_network(network.id)
    assert recording.events() == ["network.delete.start", "network.delete.end"]


def test_a_bulk_create_is_one_message(scene):
    _, blue, _, recording = scene
    network = blue.network.create_network()
    recording.take()
    list(blue.network.create_ports([{"network_id": network.id}, {"network_id": network.id}]))
    start, end = recording.take()
    assert [len(message["payload"]["ports"]) for message in (start, end)] == [2, 2]


def test_nova_binds_ports_as_the_service_user(scene, until):
    _, blue, _, recording = scene
    network = blue.network.create_network()
    blue.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.1.0.0/24")
    port = blue.network.create_port(network_id=network.id)
    image, flavor = blue.image.find_image("tiny"), blue.compute.find_flavor("tiny")
    recording.take()
    server = blue.compute.create_server(name="vm", image_id=image.id, flavor_id=flavor.id, networks=[{"port": port.id}])
    until(lambda: blue.compute.get_server(server.id), lambda seen: seen.status == "ACTIVE")
    messages = recording.take()
    assert [message["event_type"] for message in messages] == ["port.update.start", "port.update.end"]
    for message in messages:
        assert (message["_context_project_name"], message["_context_user_name"]) == ("service", "neutron")
    end = messages[1]["payload"]["port"]
    assert (end["device_id"], end["status"], end["project_id"]) == (server.id, "DOWN", port.project_id)
    assert blue.network.get_port(port.id).status == "ACTIVE"
