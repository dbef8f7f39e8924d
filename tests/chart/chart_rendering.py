"""Renders the chart with a real helm and reads the manifests as an API server would."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

CHART = Path(__file__).parents[2] / "helm" / "astara"
NAMESPACE = "openstack"
RELEASE = "astara"


class RefusedError(Exception):
    """helm did not render; the text is what it said."""


class _NoDuplicates(yaml.CSafeLoader):
    """YAML as an API server in strict mode reads it: a key that stands twice in a map is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice in one map", node.start_mark)
        return found


@dataclass(frozen=True)
class Rendering:
    """The manifests of a release."""

    documents: tuple[Json, ...]

    def of(self, kind: str) -> dict[str, Json]:
        """All of a kind, by name."""
        return {one["metadata"]["name"]: one for one in self.documents if one["kind"] == kind}

    def one(self, kind: str, name: str) -> Json:
        """One by kind and name."""
        return self.of(kind)[name]

    def pods(self) -> Iterator[tuple[str, Json]]:
        """Name and pod spec of everything that runs: the services' pods and the test's."""
        for name, deployment in self.of("Deployment").items():
            yield name, deployment["spec"]["template"]["spec"]
        for name, pod in self.of("Pod").items():
            yield name, pod["spec"]

    def configuration(self, service: str) -> str:
        """A service's ini file."""
        text: str = self.one("ConfigMap", f"astara-{service}")["data"]["astara.conf"]
        return text

    def environment(self, service: str) -> dict[str, str]:
        """A service's environment as its pod would have it, of Secrets that the chart makes."""
        found = {}
        for entry in self.container(service)["env"]:
            if "value" in entry:
                found[entry["name"]] = entry["value"]
                continue
            reference = entry["valueFrom"]["secretKeyRef"]
            found[entry["name"]] = self.one("Secret", reference["name"])["stringData"][reference["key"]]
        return found

    def container(self, service: str) -> Json:
        """A service's container."""
        (container,) = self.one("Deployment", f"astara-{service}")["spec"]["template"]["spec"]["containers"]
        found: Json = container
        return found


def run_helm(helm: Path, *arguments: str, values: Json | None = None) -> str:
    """Run helm without any cluster; answers with its output. Raises RefusedError with what it said."""
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": os.devnull, "HELM_NO_PLUGINS": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        (helm, *arguments, *(() if values is None else ("--values", "-"))),
        input=json.dumps(values),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout


def render(helm: Path, values: Json, *, release: str = RELEASE) -> Rendering:
    """What `helm install` would send."""
    text = run_helm(helm, "template", release, str(CHART), "--namespace", NAMESPACE, values=values)
    return Rendering(tuple(one for one in yaml.load_all(text, Loader=_NoDuplicates) if one))
