"""The life of a release in a real cluster, in the order in which an operator lives it: each test goes on where the one
before it ended.

From the second half on health is switched off and the scheduler asks for no inventory, so that nothing but events
leads workers to what changed: an event that is lost stays lost, and is seen.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cluster_images
import neighbours
import node_running
import pytest
import requests
from astara_appliance.host import SOURCE_HEADER
from chart_release import NAMESPACE, RELEASE, SERVICES, Release, values
from chart_values import merged
from neighbours import Cloud
from node_running import Json, Node, until
from policy_enforcer import enforcing
from recipes_in_cluster import Page
from storm import Storm

from lab import packages

EVENTS_ALONE = {"health": {"replicas": 0}, "conf": {"scheduler": {"inventory": "optional"}}}
HEALTH_AGAIN = {"health": {"replicas": 2}, "conf": {"scheduler": {"inventory": "required"}}}
FORWARDER_PORT = 9602
"""Where an appliance of the simulated cloud plays the request of an instance on its first network."""


_CLOUD = {"keystone", "neutron", "nova"}
ARROWS = {
    "notifier": {"broker", "scheduler"},
    "health": {"scheduler", *_CLOUD},
    "scheduler": {"database", "kubernetes", "scheduler"},
    "worker": {"scheduler", "appliance", "glance", *_CLOUD},
    "rpcapi": {"scheduler"},
    "metadata": {"scheduler", "keystone", "neutron", "nova metadata"},
}
"""Whom each service reaches: the table of docs/kubernetes.md."""
_REACHED = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as pool:
    answers = pool.map(lambda one: reached(*one), targets.values())
print(json.dumps([name for name, answer in zip(targets, answers) if answer]))
"""


@dataclass
class Life:
    """What the tests hand on to each other."""

    node: Node
    cloud: Cloud
    release: Release
    flavor: str
    before: set[str]
    """Every object that was there before the release."""
    routers: dict[str, str] = field(default_factory=dict)
    """Ids by tenant."""
    networks: int = 1
    """Of each router."""

    def servers(self) -> set[str]:
        """The ids of all servers that are appliances."""
        return {one["id"] for one in self.cloud.servers() if one["name"].startswith("astara-")}

    def kubectl(self, *arguments: str, seconds: float = 120) -> str:
        """kubectl in the release's namespace."""
        return self.node.kubectl("-n", NAMESPACE, *arguments, seconds=seconds)

    def management_address(self, tenant: str) -> str:
        """Of the appliance of a tenant's router."""
        found = self.release.api(f"resources/{self.routers[tenant]}")["resource"]
        return str(found["instances"][0]["management_addresses"][0])

    def until_configured(self) -> None:
        """All routers are there, and configured."""
        self.release.until_configured(set(self.routers.values()))

    def change_all(self) -> None:
        """One more network for each router: its appliance gets it, and is the one that it was."""
        servers = self.servers()
        for tenant, router in self.routers.items():
            neighbours.add_network(self.cloud, tenant, router, self.networks)
        self.networks += 1
        until(lambda: self.attached() == {self.networks}, 90, "all appliances have the new network")
        self.until_configured()
        assert self.servers() == servers

    def attached(self) -> set[int]:
        """How many internal networks the routers' appliances have; 0 among them while one of them is not known."""
        found = {one["resource_id"]: one["attachments"] for one in self.release.api("resources")["resources"]}
        ours = (found.get(router, ()) for router in self.routers.values())
        return {sum(one["role"] == "internal" for one in attachments) for attachments in ours}

    def restarts(self) -> dict[str, int]:
        """Pods of the release whose containers ended and were started again."""
        found = self.node.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}")
        counts = {
            one["metadata"]["name"]: sum(each["restartCount"] for each in one["status"].get("containerStatuses", ()))
            for one in found
        }
        return {name: count for name, count in counts.items() if count}

    def schema(self) -> str:
        """The revision of the database's schema."""
        query = (
            "mariadb",
            "-h127.0.0.1",
            "-uastara",
            "-pastara",
            "-Ne",
            "SELECT version_num FROM alembic_version",
            "astara",
        )
        return self.kubectl("exec", "mariadb", "--", *query).strip()

    def leader(self) -> str:
        """The pod of the scheduler that holds the Lease."""
        (lease,) = self.node.get("leases", "-n", NAMESPACE)
        return str(lease["spec"]["holderIdentity"]).partition("_")[0]

    def image(self, service: str) -> str:
        """The image of a service's pods."""
        return str(self.release.pods(service)[0]["spec"]["containers"][0]["image"])

    def images(self) -> set[str]:
        """The tags of the images that the services' pods run."""
        found = [pod for service in SERVICES for pod in self.release.pods(service)]
        return {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in found}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A cluster that enforces policies, with a cloud, RabbitMQ and MariaDB; nothing of ours is in it but Secrets."""
    assert packages.ensure_image_programs() == []
    assert packages.ensure_cluster_programs() == []
    store = cluster_images.Store()
    made = cluster_images.ensure(store, aliases=("next",))
    with node_running.running(store, made.archive) as node:
        node.make_namespace(NAMESPACE)
        cloud = neighbours.install(node, made.names, NAMESPACE)
        flavor = neighbours.make_flavor(cloud)
        token = secrets.token_hex(16)
        wanted = values(made, cloud, flavor, token=token)
        release = Release(node, tmp_path_factory.mktemp("release"), wanted, token)
        release.make_secrets()
        with enforcing(node):
            yield Life(node, cloud, release, flavor, everything(node))


def everything(node: Node) -> set[str]:
    """Every object of the cluster, but for events."""
    kinds = node.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
    return set(node.kubectl("get", wanted, "--all-namespaces", "-o", "name", "--ignore-not-found").split())


def test_an_installed_release_brings_routers_up(life: Life) -> None:
    life.release.install()
    life.routers = {tenant: neighbours.make_router(life.cloud, tenant, life.flavor) for tenant in neighbours.TENANTS}
    life.until_configured()
    assert len(life.servers()) == len(life.routers)
    assert re.search(r"Phase: +Succeeded", life.release.test())


def test_an_instance_gets_its_metadata_through_its_router_and_the_release(life: Life) -> None:
    instance = neighbours.make_instance(life.cloud, "red")
    url = f"http://{life.management_address('red')}:{FORWARDER_PORT}/openstack/latest/meta_data.json"

    def answer() -> Json:
        try:
            with life.node.network():
                said = requests.get(url, headers={SOURCE_HEADER: instance["address"]}, timeout=10)
        except requests.ConnectionError:
            return {}
        found: Json = said.json() if said.ok else {}
        return found

    assert until(answer, 30, "metadata is answered")["uuid"] == instance["id"]


def test_service_accounts_may_do_what_they_need_and_nothing_else(life: Life) -> None:
    def allowed(service: str) -> list[list[str]]:
        account = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-{service}"
        table = life.kubectl("auth", "can-i", "--list", "--no-headers", account).splitlines()
        return sorted(line.split() for line in table if not line.startswith(" "))

    anybody = allowed("nobody")
    for service in SERVICES:
        more = [one for one in allowed(service) if one not in anybody]
        if service != "scheduler":
            assert more == []
            continue
        assert more == [
            ["leases.coordination.k8s.io", "[]", "[]", "[create]"],
            ["leases.coordination.k8s.io", "[]", f"[{RELEASE}-scheduler]", "[get", "update]"],
        ]
    # And that is enough: one of them leads by it.
    assert life.leader() in {one["metadata"]["name"] for one in life.release.pods("scheduler")}


def test_only_the_scheduler_has_a_token(life: Life) -> None:
    for service in SERVICES:
        pod = life.release.pods(service)[0]["metadata"]["name"]
        look = (
            "kubectl",
            "-n",
            NAMESPACE,
            "exec",
            pod,
            "-c",
            service,
            "--",
            "ls",
            "/run/secrets/kubernetes.io/serviceaccount",
        )
        assert (life.node.attempt(*look).returncode == 0) is (service == "scheduler")


def test_every_service_reaches_what_the_picture_shows_and_nothing_else(life: Life) -> None:
    targets = {
        "broker": ("rabbitmq", 5672),
        "database": ("mariadb", 3306),
        "keystone": (neighbours.CLOUD, neighbours.KEYSTONE),
        "neutron": (neighbours.CLOUD, neighbours.NEUTRON),
        "nova": (neighbours.CLOUD, neighbours.NOVA),
        "glance": (neighbours.CLOUD, neighbours.GLANCE),
        "nova metadata": (neighbours.CLOUD, neighbours.METADATA),
        "the lab": (neighbours.CLOUD, neighbours.LAB),
        "kubernetes": (node_running.ADDRESS, 6443),
        "kubelet": (node_running.ADDRESS, 10250),
        "appliance": (life.management_address("red"), 5000),
        "scheduler": (life.release.pods("scheduler")[0]["status"]["podIP"], 44251),
        "scheduler's probes": (life.release.pods("scheduler")[0]["status"]["podIP"], 44260),
        "rpcapi": (f"{RELEASE}-rpcapi", 44250),
        "metadata": (f"{RELEASE}-metadata", 9697),
        "a worker": (life.release.pods("worker")[0]["status"]["podIP"], 44254),
        "a worker's numbers": (life.release.pods("worker")[1]["status"]["podIP"], 9100),
    }
    for service in SERVICES:
        pod = life.release.pods(service)[-1]["metadata"]["name"]
        look = ("exec", pod, "-c", service, "--", "python", "-c", _REACHED, json.dumps(targets))
        assert set(json.loads(life.kubectl(*look))) == ARROWS[service], service


def test_the_recipes_for_a_cluster_work_in_it(life: Life, tmp_path: Path) -> None:
    leader = life.leader()
    (standby,) = {one["metadata"]["name"] for one in life.release.pods("scheduler")} - {leader}
    worker = life.release.pods("worker")[0]["metadata"]["name"]
    names = {
        "astara-scheduler-6f9c7d-abcde": leader,
        "astara-scheduler-6f9c7d-fghij": standby,
        "astara-worker-5d8b9c-klmno": worker,
    }
    page = Page(life.node, tmp_path, names)
    page.take_certificates()
    leads = ("-d", '{"service": "astara.scheduler.v1.WorkService"}')
    health = "grpc.health.v1.Health/Check"
    with page.forwards():
        assert "astara.scheduler.v1.QueryService" in page.grpcurl("127.0.0.1:44251", "list").split()
        assert "grpc.channelz.v1.Channelz" in page.grpcurl("127.0.0.1:44254", "list").split()
        assert '"SERVING"' in page.grpcurl(*leads, "127.0.0.1:44251", health)
        assert '"NOT_SERVING"' in page.grpcurl(*leads, "127.0.0.1:44351", health)
    address = next(
        one["status"]["podIP"] for one in life.release.pods("scheduler") if one["metadata"]["name"] == leader
    )
    with page.debug_pod(life.image("health")) as pod:
        command = ("/tool/grpcurl", *page.options.split(), "-d", json.dumps({"resource_id": life.routers["blue"]}))
        asked = (f"{address}:44251", "astara.scheduler.v1.QueryService/GetResource")
        assert '"name": "blue"' in life.kubectl("exec", pod, "--", *command, *asked)


@pytest.mark.parametrize("options", [(), ("--grace-period=0", "--force")], ids=["deleted", "killed"])
def test_a_lost_worker_s_routers_are_cared_for_by_others(life: Life, options: tuple[str, ...]) -> None:
    owner = {one["resource_id"]: one["worker"] for one in life.release.api("resources")["resources"]}
    lost = owner[life.routers["red"]]
    life.kubectl("delete", "pod", lost, "--wait=false", *options)
    life.change_all()
    now = {one["worker"] for one in life.release.api("resources")["resources"]}
    assert lost not in now
    life.kubectl("rollout", "status", f"deployment/{RELEASE}-worker", "--timeout=90s")


def test_a_lost_leader_is_replaced(life: Life) -> None:
    life.kubectl("delete", "pod", life.leader(), "--wait=false", "--grace-period=0", "--force")
    life.change_all()
    life.kubectl("rollout", "status", f"deployment/{RELEASE}-scheduler", "--timeout=90s")


def test_a_rolling_update_loses_no_event(life: Life) -> None:
    life.release.upgrade(EVENTS_ALONE)
    with Storm(life.cloud) as storm:
        for service in ("worker", "notifier", "scheduler"):
            life.kubectl("rollout", "restart", f"deployment/{RELEASE}-{service}")
            life.kubectl("rollout", "status", f"deployment/{RELEASE}-{service}", "--timeout=240s", seconds=250)
        life.change_all()
        lost = storm.rest()
    print(f"{len(storm.made)} events in {storm.seconds:.0f} s, {len(lost)} lost")
    assert not lost


def test_an_upgrade_and_a_rollback_over_a_migration_lose_no_event(life: Life) -> None:
    present = life.images()
    schema = life.schema()
    with Storm(life.cloud) as storm:
        life.release.upgrade({"images": {"tag": "next"}})
        until(lambda: life.images() == {"next"}, 90, "every pod is of the later version")
        assert life.schema() == "9001" != schema
        life.change_all()
        life.release.rollback()
        until(lambda: life.images() == present, 90, "every pod is of the version before")
        assert life.schema() == "9001"
        life.change_all()
        lost = storm.rest()
    print(f"{len(storm.made)} events in {storm.seconds:.0f} s, {len(lost)} lost")
    assert not lost
    assert "bears it" in life.kubectl("logs", f"deployment/{RELEASE}-scheduler", "-c", "scheduler")


def test_what_was_uninstalled_is_installed_again_by_helm_4_and_finds_its_appliances(life: Life) -> None:
    servers = life.servers()
    life.release.uninstall()
    life.release.helm = "helm"
    life.release.values = merged(life.release.values, HEALTH_AGAIN)
    life.release.install()
    life.until_configured()
    assert life.servers() == servers


def test_no_container_had_to_be_started_again(life: Life) -> None:
    assert life.restarts() == {}


def test_uninstalling_leaves_appliances_and_nothing_else(life: Life) -> None:
    servers = life.servers()
    life.release.uninstall()
    left = [everything(life.node) - life.before]
    with contextlib.suppress(TimeoutError):
        # Kubelets of this version forget a pod up to a minute after its containers have ended.
        until(lambda: left.append(everything(life.node) - life.before) or not left[-1], 180, "nothing is left")
    assert left[-1] == set()
    assert life.servers() == servers
