"""A release of the chart in a real cluster: what an operator does with helm and kubectl, and what that leads to."""

import base64
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import neighbours
import requests
from chart_values import merged
from cluster_images import ROOT, ClusterImages
from neighbours import Cloud
from node_running import ADDRESS, Json, Node, until

NAMESPACE = "openstack"
RELEASE = "astara"
CHART = ROOT / "helm" / "astara"
METADATA_PORT = 30697
API_PORT = 30250
SERVICES = ("notifier", "health", "scheduler", "worker", "rpcapi", "metadata")
LIMIT = "240s"

# Two cores carry the cluster, the cloud and thirteen pods.
_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}}


def values(images: ClusterImages, cloud: Cloud, flavor: str, *, token: str) -> Json:
    """What an operator of this cloud writes; Secrets are there by name."""
    networks = cloud.neutron("GET", "/networks?name=astara-mgmt")["networks"]
    glance = cloud.call(neighbours.GLANCE, "GET", "/v2/images?name=astara")["images"]
    host = {"name": neighbours.CLOUD, "hosts": {"default": neighbours.CLOUD}}
    return {
        "images": {"registry": "localhost", "tag": images.tag, "pull_policy": "Never"},
        "conf": {
            "claim": {"claim": "flavor", "flavor_id": flavor},
            "router": {
                "image_id": glance[0]["id"],
                "flavor": "m1.astara",
                "management_network_id": networks[0]["id"],
                "orchestrator_addresses": [neighbours.ORCHESTRATOR],
                "metadata_port": METADATA_PORT,
            },
        },
        "endpoints": {
            "identity": {**host, "port": {"api": {"default": neighbours.KEYSTONE}}},
            "network": {**host, "port": {"api": {"default": neighbours.NEUTRON}}},
            "compute": {**host, "port": {"api": {"default": neighbours.NOVA}}},
            "image": {**host, "port": {"api": {"default": neighbours.GLANCE}}},
            "compute_metadata": {**host, "port": {"metadata": {"default": neighbours.METADATA}}},
        },
        "secrets": {kind: {"astara": f"astara-{kind.replace('_', '-')}"} for kind in _secrets(token)},
        "election": "kubernetes",
        "networkPolicy": {
            "peers": {
                "dns": [{"ipBlock": {"cidr": f"{ADDRESS}/32"}}],
                "kubernetes": [{"ipBlock": {"cidr": f"{ADDRESS}/32"}}],
                "operators": [{"ipBlock": {"cidr": f"{ADDRESS}/32"}}],
            }
        },
        "managementCIDRs": [neighbours.MANAGEMENT],
        "metadata": {"service": {"type": "NodePort", "nodePort": METADATA_PORT}},
        "pod": {"resources": _RESOURCES},
        "worker": {"resources": _RESOURCES},
    }  # fmt: skip


def _secrets(token: str) -> dict[str, dict[str, str]]:
    host = f"{neighbours.CLOUD}.{NAMESPACE}.svc.cluster.local"
    return {
        "identity": {
            "OS_AUTH_URL": f"http://{host}:{neighbours.KEYSTONE}/v3",
            "OS_REGION_NAME": "RegionOne",
            "OS_USERNAME": "astara",
            "OS_PASSWORD": "lab",
            "OS_PROJECT_NAME": "service",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
        },
        "oslo_db": {"DB_CONNECTION": "mysql+pymysql://astara:astara@mariadb:3306/astara?charset=utf8mb4"},
        "oslo_messaging": {"RABBITMQ_CONNECTION": "rabbit://lab:lab@rabbitmq:5672/"},
        "appliance": {"secret": secrets.token_hex(16)},
        "metadata": {"shared_secret": neighbours.METADATA_SECRET},
        "rpcapi": {"token": token},
    }


class Release:
    """The release `astara` in the namespace `openstack`."""

    def __init__(self, node: Node, folder: Path, values: Json, token: str) -> None:
        self.node = node
        self.values = self._former = values
        self.token = token
        self.helm = "helm3"
        """Which major is used; both work on one release."""
        renderer = folder / "post-render"
        renderer.write_text(f"#!/bin/sh\nexec {sys.executable} {ROOT / 'tests/kubernetes/post_render.py'}\n")
        renderer.chmod(0o755)
        # helm 3 takes a program, helm 4 the name of a plugin.
        plugin = folder / "plugins" / "rewrite"
        plugin.mkdir(parents=True)
        (plugin / "plugin.yaml").write_text(
            "apiVersion: v1\ntype: postrenderer/v1\nname: rewrite\nversion: 0.1.0\nruntime: subprocess\n"
            f"runtimeConfig: {{platformCommand: [{{command: {renderer}}}]}}\n"
        )
        self._renderers = {"helm3": str(renderer), "helm": "rewrite"}
        self._folder = folder
        self._session: requests.Session | None = None
        self._address = ""

    def make_secrets(self) -> None:
        """The Secrets that the values name, as an operator makes them."""
        documents = [
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"astara-{kind.replace('_', '-')}"},
                "stringData": data,
            }
            for kind, data in _secrets(self.token).items()
        ]  # fmt: skip
        self.node.apply(NAMESPACE, documents)

    def install(self) -> None:
        """`helm install --wait`."""
        self._session = None
        self._deploy("install")

    def upgrade(self, changes: Json) -> None:
        """`helm upgrade --wait` with these values over the present ones."""
        self._former, self.values = self.values, merged(self.values, changes)
        self._deploy("upgrade")

    def rollback(self) -> None:
        """`helm rollback --wait` to the revision before."""
        self._helm("rollback", RELEASE, "--wait", f"--timeout={LIMIT}")
        self.values = self._former

    def uninstall(self) -> None:
        """`helm uninstall --wait`."""
        self._helm("uninstall", RELEASE, "--wait", f"--timeout={LIMIT}")

    def test(self) -> str:
        """`helm test`: what helm says of it; NodeError when it fails."""
        return self._helm("test", RELEASE, "--timeout=90s")

    def manifest(self) -> str:
        """`helm get manifest`: what was sent."""
        return self._helm("get", "manifest", RELEASE)

    def pods(self, service: str) -> list[Json]:
        """The service's pods that are not on their way out."""
        found = self.node.get("pods", "-n", NAMESPACE, "-l", f"{_COMPONENT}={service}")
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def api(self, path: str) -> Json:
        """One answer of the operators' HTTP API: from the node, through the Service, with its certificate verified."""
        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False
            self._session.headers["Authorization"] = f"Bearer {self.token}"
            self._session.mount("https://", _Named(f"{RELEASE}-rpcapi"))
            (secret,) = self.node.get(
                "secrets", "-n", NAMESPACE, f"--field-selector=metadata.name={RELEASE}-rpcapi-tls"
            )
            authority = self._folder / "ca.crt"
            authority.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
            self._session.verify = str(authority)
            (service,) = self.node.get("services", "-n", NAMESPACE, f"--field-selector=metadata.name={RELEASE}-rpcapi")
            self._address = service["spec"]["clusterIP"]
        session, url = self._session, f"https://{self._address}:44250/v1/{path}"

        def answered() -> requests.Response | None:
            with self.node.network():
                answer = session.get(url, timeout=30)
            return None if answer.status_code == requests.codes.service_unavailable else answer

        answer: requests.Response = until(answered, 30, "a scheduler leads")
        answer.raise_for_status()
        found: Json = answer.json()
        return found

    def states(self) -> dict[str, str]:
        """The state of every router, by its id, as the operators' API says."""
        return {one["resource_id"]: one["state"] for one in self.api("resources")["resources"]}

    def until_configured(self, routers: set[str], seconds: float = 60) -> None:
        """Wait until all these routers are CONFIGURED."""
        wanted = dict.fromkeys(routers, "configured")
        seen: list[dict[str, str]] = []
        try:
            until(
                lambda: seen.append(self.states()) or wanted.items() <= seen[-1].items(),
                seconds,
                "routers are configured",
            )
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {seen[-1]}") from None

    def _deploy(self, verb: str) -> None:
        # This version's schemas are not those of the API server; `post_render.py` has put it right.
        self._helm(
            verb, RELEASE, str(CHART), "--values=-", "--wait", f"--timeout={LIMIT}",
            "--disable-openapi-validation", f"--post-renderer={self._renderers[self.helm]}",
            given=json.dumps(self.values),
        )  # fmt: skip

    def _helm(self, *arguments: str, given: str = "") -> str:
        plugins = "HELM_PLUGINS=" + (str(self._folder / "plugins") if self.helm == "helm" else "/nonexistent")
        return self.node.run(
            "env", plugins, self.helm, *arguments, f"--namespace={NAMESPACE}", given=given, seconds=300
        )  # fmt: skip


class _Named(requests.adapters.HTTPAdapter):
    """HTTPS to an address whose certificate is of a name."""

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Pools know the name."""
        super().init_poolmanager(*arguments, server_hostname=self._name, assert_hostname=self._name, **options)


_COMPONENT = "app.kubernetes.io/component"
