"""What is in an image is what its service imports, and nothing else."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from containers import Containers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVICES = ("health", "metadata", "notifier", "rpcapi", "scheduler", "worker")


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    """Each service."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def found(made: Containers, service: str) -> dict[str, Any]:
    """What was found in the image after its service ran."""
    answer: dict[str, Any] = made.python(made.image(service), HERE / "executed.py", service)
    return answer


def test_every_module_of_ours_is_executed_when_the_service_runs(found: dict[str, Any], service: str) -> None:
    assert f"/opt/astara/own/services/{service}/__main__.py" in found["executed"]
    # A marker makes a package of a folder; alembic reads the files beside it without executing it.
    never = set(found["present"]) - set(found["executed"])
    assert [
        path for path in never if not path.endswith("/migrations/__init__.py") and "/versions/__init__" not in path
    ] == []


def test_the_service_ran_as_far_as_its_settings_let_it(found: dict[str, Any], service: str) -> None:
    assert found["code"] == (0 if service == "scheduler" else 2)


def test_only_third_party_distributions_that_the_service_needs_are_there(found: dict[str, Any], service: str) -> None:
    installed = {canonicalize_name(name) for name in found["distributions"]}
    assert installed - {"astara"} == _needed(service) - {"setuptools"}
    assert "astara" in installed


def test_no_other_service_no_lab_no_appliance_and_no_tool_can_be_imported(found: dict[str, Any]) -> None:
    assert found["unwanted"] == []


def test_there_are_neither_tests_nor_commands_nor_files_of_other_kinds(found: dict[str, Any]) -> None:
    assert found["tests"] == []
    assert found["strays"] == []
    assert all(re.fullmatch(r"python[\d.]*", command) for command in found["commands"])


def test_nothing_is_writable_for_all_or_runs_with_more_rights_beyond_the_base(made: Containers, service: str) -> None:
    def modes(image: str) -> dict[str, list[str]]:
        answer: dict[str, list[str]] = made.python(
            image, HERE / "modes.py", options=("--user=0", "--cap-add=DAC_READ_SEARCH")
        )
        return answer

    base, own = modes(made.store.base()), modes(made.image(service))
    assert set(own["elevated"]) <= set(base["elevated"])
    assert set(own["writable"]) <= set(base["writable"])


def _needed(service: str) -> set[str]:
    """What pip resolves for a service: requirements of requirements, in the versions that are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"][service])]
    needed: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            needed.add(name)
            for text in metadata.requires(name) or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return needed
