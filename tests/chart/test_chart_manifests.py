"""The chart is accepted by both majors of helm and, in every shape, by every Kubernetes that it is written for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_clients import Clients
from chart_rendering import CHART, Rendering, run_helm
from chart_values import CASES, EVERYTHING, at, merged

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
_VALIDATOR = Path(__file__).parent / "chart_schemas.py"


def _without_keys(rendering: Rendering) -> list[dict[str, Any]]:
    """The manifests, with a constant in the place of certificates that were made while rendering."""
    plain = []
    for document in rendering.documents:
        if document.get("type") == "kubernetes.io/tls":
            plain.append({**document, "data": dict.fromkeys(document["data"], "bWFkZQ==")})
        else:
            plain.append(document)
    return plain


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("case", [None, "minimal", "everything", "sqlite", "tls-cert-manager", "openstack-helm"])
def test_lint_finds_nothing(clients: Clients, helm: str, case: str | None) -> None:
    values = CASES[case] if case else None
    assert "0 chart(s) failed" in run_helm(clients.helms[helm], "lint", "--strict", str(CHART), values=values)


@pytest.mark.parametrize("case", CASES)
def test_both_majors_of_helm_render_the_same(rendered: Callable[..., Rendering], case: str) -> None:
    def sort(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(documents, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert sort(_without_keys(rendered(case))) == sort(_without_keys(rendered(case, "helm3")))


def test_every_manifest_is_valid_in_every_version(clients: Clients, rendered: Callable[..., Rendering]) -> None:
    documents: dict[str, dict[str, Any]] = {}
    for case in CASES:
        for helm in clients.helms:
            for document in _without_keys(rendered(case, helm)):
                documents.setdefault(json.dumps(document, sort_keys=True), document)
    assert len(documents) > 100
    asked = json.dumps({"versions": VERSIONS, "documents": list(documents.values())})
    done = subprocess.run(
        (sys.executable, str(_VALIDATOR)),
        input=asked,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(clients.python)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "mistake", [{"spec": {"replicas": "two"}}, {"spec": {"replica": 2}}, {"apiVersion": "apps/v9"}]
)
def test_validation_notices_mistakes(clients: Clients, rendered: Callable[..., Rendering], mistake: Any) -> None:
    good = rendered("minimal").one("Deployment", "astara-worker")
    bad = {**good, **mistake, "spec": {**good["spec"], **mistake.get("spec", {})}}
    done = subprocess.run(
        (sys.executable, str(_VALIDATOR)),
        input=json.dumps({"versions": ["1.37"], "documents": [bad]}),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(clients.python)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 1


def test_names_follow_release_and_overrides(clients: Clients) -> None:
    def name(release: str, **more: str) -> str:
        chart = str(CHART)
        text = run_helm(
            clients.helms["helm"], "template", release, chart, "--show-only", "templates/database.yaml",
            values=CASES["sqlite"] | more,
        )  # fmt: skip
        found: str = yaml.safe_load(text)["metadata"]["name"]
        return found

    assert name("astara") == "astara-database"
    assert name("east") == "east-astara-database"
    assert name("east", fullnameOverride="mine") == "mine-database"
    assert name("e" * 53) == "e" * 40 + "-database"


@pytest.mark.parametrize("name", ["1234", "true", "null"])
def test_names_that_look_like_other_things_stay_names(clients: Clients, name: str) -> None:
    values = merged(EVERYTHING, at("nameOverride", name), at("rpcapi.ingress.host", "*.example.org"))
    text = run_helm(clients.helms["helm"], "template", name, str(CHART), "--namespace", name, values=values)
    for document in yaml.safe_load_all(text):
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == name
        assert isinstance(document["metadata"]["name"], str)
        _no_other_things(document)


def _no_other_things(part: Any, name: str = "") -> None:
    """Labels and names are text, wherever they stand."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if name in ("labels", "matchLabels") or key in ("name", "namespace", "secretName"):
            assert isinstance(value, str), (key, value)
        if isinstance(value, dict | list):
            _no_other_things(value, str(key))


def test_every_object_says_whose_it_is(rendered: Callable[..., Rendering]) -> None:
    for document in rendered("everything").documents:
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "astara", document["metadata"]
        if "helm.sh/hook" not in document["metadata"].get("annotations", {}):
            assert labels["team"] == "network"


def test_every_port_names_its_protocol(rendered: Callable[..., Rendering]) -> None:
    for case in CASES:
        for service in rendered(case).of("Service").values():
            assert all(port["protocol"] == "TCP" for port in service["spec"]["ports"])
        for _, pod in rendered(case).pods():
            assert all(port["protocol"] == "TCP" for c in pod["containers"] for port in c.get("ports", []))
