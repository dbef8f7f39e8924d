"""What stands beside the release in a test's namespace: the simulated cloud, RabbitMQ and MariaDB, in pods.

The appliances' management network is routed as docs/kubernetes.md has it: the node has a route to it, which ends at the
cloud's pod, where the appliances are; pods leave with the node's address, so answers come back by the node.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from node_running import ADDRESS, PODS, Json, Node, until

CLOUD = "cloud"
MANAGEMENT = "10.64.0.0/16"
KEYSTONE, NEUTRON, NOVA, GLANCE, METADATA, LAB = range(35000, 35006)
TENANTS = ("red", "blue", "green", "yellow", "white", "black")
METADATA_SECRET = "lab-metadata-secret"
AMQP = "amqp://lab:lab@rabbitmq:5672//"
_SECURITY = {"runAsUser": 42424, "runAsGroup": 42424, "fsGroup": 42424}


def manifests(images: Mapping[str, str], namespace: str) -> list[Json]:
    """The pods and their Services."""
    return [
        *_pod("rabbitmq", images["rabbitmq"], {"amqp": 5672}, folders=("/var/lib/rabbitmq", "/var/log/rabbitmq")),
        *_pod("mariadb", images["mariadb"], {"mysql": 3306}, folders=("/var/lib/mysql",)),
        *_pod(
            CLOUD,
            images["lab"],
            {
                "identity": KEYSTONE, "network": NEUTRON, "compute": NOVA, "image": GLANCE, "metadata": METADATA,
                "lab": LAB,
            },
            command=[
                "python", "-m", "lab.cloud", "--host", "0.0.0.0",
                "--advertise", f"{CLOUD}.{namespace}.svc.cluster.local", "--management-cidr", MANAGEMENT,
                "--amqp-url", AMQP, *(f"--tenant={name}" for name in TENANTS),
            ],
            init={
                "name": "addresses", "image": images["lab"], "imagePullPolicy": "Never",
                "command": ["python", "-m", "lab.cloud.addresses", MANAGEMENT],
                "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
            },
        ),
    ]  # fmt: skip


def _pod(
    name: str, image: str, ports: Mapping[str, int], *, folders: tuple[str, ...] = (), command: list[str] | None = None,
    init: Json | None = None,
) -> list[Json]:  # fmt: skip
    labels = {"application": name}
    container: Json = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "readinessProbe": {"tcpSocket": {"port": next(iter(ports.values()))}, "periodSeconds": 1},
        "volumeMounts": [{"name": f"folder{n}", "mountPath": path} for n, path in enumerate(folders)],
        **({"command": command} if command else {}),
    }
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 2,
        "securityContext": _SECURITY,
        "initContainers": [init] if init else [],
        "containers": [container],
        "volumes": [{"name": f"folder{n}", "emptyDir": {}} for n in range(len(folders))],
    }
    listed = [{"name": port, "port": number, "protocol": "TCP"} for port, number in ports.items()]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": listed},
        },
    ]  # fmt: skip


@dataclass
class Cloud:
    """The simulated cloud, spoken to from outside as an administrator and as the tenant `red`."""

    node: Node
    address: str
    """Its pod's."""

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._tokens: dict[str, str] = {}

    def call(self, port: int, method: str, path: str, body: Json | None = None, *, user: str = "admin") -> Json:
        """The JSON of one call's answer; requests' HTTPError when it is refused."""
        headers = {} if port in (LAB, KEYSTONE) else {"X-Auth-Token": self._token(user)}
        return self._ask(port, method, path, body, headers)[0]

    def neutron(self, method: str, path: str, body: Json | None = None, *, user: str = "admin") -> Json:
        """A call to Neutron below /v2.0."""
        return self.call(NEUTRON, method, f"/v2.0{path}", body, user=user)

    def servers(self) -> list[Json]:
        """Every server that Nova has."""
        found: list[Json] = self.call(NOVA, "GET", "/v2.1/servers/detail?all_tenants=1")["servers"]
        return found

    def _token(self, user: str) -> str:
        if user not in self._tokens:
            identity = {"methods": ["password"], "password": {"user": {
                "name": user, "domain": {"id": "default"}, "password": "lab"}}}  # fmt: skip
            scope = {"project": {"name": user, "domain": {"id": "default"}}}
            body = {"auth": {"identity": identity, "scope": scope}}
            self._tokens[user] = self._ask(KEYSTONE, "POST", "/v3/auth/tokens", body, {})[1]["X-Subject-Token"]
        return self._tokens[user]

    def _ask(
        self, port: int, method: str, path: str, body: Json | None, headers: Mapping[str, str]
    ) -> tuple[Json, Mapping[str, Any]]:
        with self.node.network():
            answer = self._session.request(
                method, f"http://{self.address}:{port}{path}", json=body, headers=headers, timeout=30
            )
        answer.raise_for_status()
        return (answer.json() if answer.content else {}), answer.headers


def install(node: Node, images: Mapping[str, str], namespace: str) -> Cloud:
    """Start them and wait until they are ready; the namespace is there already."""
    node.apply(namespace, manifests(images, namespace))
    node.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s", seconds=130)
    (pod,) = node.get("pods", "-n", namespace, "-l", f"application={CLOUD}")
    address = str(pod["status"]["podIP"])
    node.run("ip", "route", "replace", MANAGEMENT, "via", address)
    node.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", PODS, "-d", MANAGEMENT, "-j", "MASQUERADE")
    cloud = Cloud(node, address)
    until(lambda: cloud.call(LAB, "GET", "/lab/health"), 20, "the cloud answers")
    return cloud


def make_flavor(cloud: Cloud) -> str:
    """The id of a router flavor: routers that have it are Astara's."""
    flavor = {"flavor": {"name": "astara", "service_type": "L3_ROUTER_NAT", "enabled": True}}
    return str(cloud.neutron("POST", "/flavors", flavor)["flavor"]["id"])


def make_network(cloud: Cloud, tenant: str, number: int) -> Json:
    """A subnet of a tenant's, on a network of its own."""
    name = f"{tenant}-{number}"
    network = cloud.neutron("POST", "/networks", {"network": {"name": name}}, user=tenant)["network"]["id"]
    body = {"subnet": {"network_id": network, "cidr": f"10.20.{number}.0/24", "ip_version": 4, "name": name}}
    made: Json = cloud.neutron("POST", "/subnets", body, user=tenant)["subnet"]
    return made


def make_router(cloud: Cloud, tenant: str, flavor: str) -> str:
    """The id of a router of a tenant's, with a gateway and one network."""
    external = cloud.neutron("GET", "/networks?router:external=True")["networks"][0]["id"]
    body = {"router": {"name": tenant, "flavor_id": flavor, "external_gateway_info": {"network_id": external}}}
    router = str(cloud.neutron("POST", "/routers", body, user=tenant)["router"]["id"])
    add_network(cloud, tenant, router, 0)
    return router


def add_network(cloud: Cloud, tenant: str, router: str, number: int) -> None:
    """Give a router one more network."""
    subnet = make_network(cloud, tenant, number)["id"]
    cloud.neutron("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet}, user=tenant)


def make_instance(cloud: Cloud, tenant: str) -> Json:
    """A server on the tenant's first network: `id` and `address`."""
    (network,) = cloud.neutron("GET", f"/networks?name={tenant}-0", user=tenant)["networks"]
    (image,) = cloud.call(GLANCE, "GET", "/v2/images?name=tiny")["images"]
    flavors = cloud.call(NOVA, "GET", "/v2.1/flavors", user=tenant)["flavors"]
    flavor = next(one["id"] for one in flavors if one["name"] == "tiny")
    asked = {"name": "host", "imageRef": image["id"], "flavorRef": flavor, "networks": [{"uuid": network["id"]}]}
    server = cloud.call(NOVA, "POST", "/v2.1/servers", {"server": asked}, user=tenant)["server"]["id"]

    def plugged() -> list[Json]:
        found: list[Json] = cloud.neutron("GET", f"/ports?device_id={server}")["ports"]
        return found

    return {"id": server, "address": until(plugged, 20, "the instance is plugged")[0]["fixed_ips"][0]["ip_address"]}


ORCHESTRATOR = ADDRESS
"""Where appliances reach the metadata service: the node, at a port of its own."""
