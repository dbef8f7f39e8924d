"""The chart's README, its values and the pages about it say the same."""

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from chart_rendering import CHART, run_helm
from chart_values import MINIMAL

ROOT = CHART.parents[1]
VALUES = CHART / "values.yaml"


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_readme", ROOT / "helm" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["chart_readme"] = module
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_what_the_values_say(readme: ModuleType) -> None:
    assert (CHART / "README.md").read_text(encoding="utf-8") == readme.current()


def test_every_value_is_documented(readme: ModuleType) -> None:
    text = VALUES.read_text(encoding="utf-8")
    assert readme.undocumented(readme.read(text), yaml.safe_load(text)) == []


def test_an_undocumented_value_would_be_noticed(readme: ModuleType) -> None:
    text = "# -- Title\na: 1  # said\nb: 2\nc:  # said\n  d: 3\ne:\n  f: 4\n"
    assert readme.undocumented(readme.read(text), yaml.safe_load(text)) == ["b", "e.f"]


def test_values_are_at_most_250_lines() -> None:
    assert len(VALUES.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_chart_has_the_version_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["appVersion"] == project["version"]


def test_the_schema_knows_every_value_and_is_strict() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in part:
            target: Any = schema
            for key in part["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            part = target
        return part

    def compare(values: dict[str, Any], part: dict[str, Any], path: str) -> None:
        part = resolved(part)
        known = part.get("properties")
        if known is None:
            return
        if not path.startswith("endpoints"):
            assert part["additionalProperties"] is not True, path
        for key, value in values.items():
            if part.get("additionalProperties") is False:
                assert key in known, f"{path}.{key}"
            if key in known and isinstance(value, dict):
                compare(value, known[key], f"{path}.{key}".strip("."))

    compare(yaml.safe_load(VALUES.read_text(encoding="utf-8")), schema, "")
    assert schema["additionalProperties"] is False


def test_notes_say_where_to_look(clients: Any) -> None:
    text = run_helm(
        clients.helms["helm"], "install", "astara", str(CHART), "--namespace", "openstack", "--dry-run=client",
        values=MINIMAL,
    )  # fmt: skip
    notes = text.partition("NOTES:")[2]
    for word in ("all routers", "helm -n openstack test astara", "192.0.2.10", "port-forward service/astara-rpcapi"):
        assert word in notes


@pytest.mark.parametrize("page", ["kubernetes.md", "migrate-from-l3-agents.md"])
def test_the_pages_are_in_the_documentation(page: str) -> None:
    assert (ROOT / "docs" / page).is_file()
    assert page in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_values_that_a_page_shows_can_be_installed(clients: Any) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    shown = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert shown
    for number, block in enumerate(shown):
        values = yaml.safe_load(block)
        first = yaml.safe_load(shown[0])
        run_helm(
            clients.helms["helm"], "template", "astara", str(CHART), values=_over(first, values) if number else values
        )


def _over(base: Any, more: Any) -> Any:
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: _over(base.get(key), value) for key, value in more.items()}}
    return more


def test_pages_name_files_that_are_there() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert "images/kubernetes.svg" in page
    assert Path(ROOT / "docs" / "images" / "kubernetes.svg").is_file()
