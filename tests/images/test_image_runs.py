"""Images run as a pod runs them: an unknown user, a root that cannot be written, no capability."""

import json
import subprocess
from pathlib import Path

import pytest
from containers import REGISTRY, TAG, Containers

ROOT = Path(__file__).parents[2]
SERVICES = ("health", "metadata", "notifier", "rpcapi", "scheduler", "worker")
MISSING = {
    "health": "[claim] claim must be set",
    "metadata": "[appliance] secret must be set",
    "notifier": "[notifier] broker must be set",
    "rpcapi": "[rpcapi] auth = token wants token_file",
    "scheduler": "[scheduler] database",
    "worker": "[claim] claim must be set",
}
HEALTH = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    request = health_pb2.HealthCheckRequest(service=sys.argv[2])
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60, wait_for_ready=True)
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
"""


def test_make_images_builds_all_and_says_how_large_they_are(
    containers: Containers, make_images: subprocess.CompletedProcess[str]
) -> None:
    assert make_images.returncode == 0, make_images.stdout + make_images.stderr
    table = [line.split() for line in make_images.stdout.splitlines() if line.startswith(f"{REGISTRY}/")]
    assert {line[0]: line[1] for line in table} == {f"{REGISTRY}/astara-{name}": TAG for name in SERVICES}
    assert all(line[-1] in ("MB", "GB") for line in table)


def test_make_images_without_a_builder_says_so() -> None:
    command = ("make", "--no-print-directory", "images", "BUILDER=")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "no builder of images is installed" in done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_what_it_is(made: Containers, service: str) -> None:
    facts = made.inspect(made.image(service))
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in facts["Labels"].items()}
    assert labels["title"] == f"astara-{service}"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == made.store.base()
    assert f'version = "{labels["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert len(labels["revision"]) == 40
    assert "source" not in labels
    assert facts["Config"]["User"] == "42424:42424"
    assert facts["Config"]["Entrypoint"] == ["python", "-m", f"services.{service}"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_prints_its_help(made: Containers, service: str) -> None:
    done = made.run(made.image(service), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config-dir" in done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_refuses_to_start_without_what_it_must_be_told(made: Containers, service: str) -> None:
    done = made.run(made.image(service))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"astara-{service}: {MISSING[service]}")


def test_a_service_is_an_unknown_user_who_can_write_in_tmp_alone(made: Containers) -> None:
    script = 'id -u; id -g; for to in / /opt/astara /var/tmp /run /tmp; do touch $to/x 2>&- && echo "$to"; done; true'
    done = made.run(made.image("worker"), "-c", script, options=("--entrypoint=sh",))
    assert done.stdout.split() == ["42424", "42424", "/tmp"]  # noqa: S108 - the container's


def test_a_scheduler_serves_and_ends_in_order_when_told_to(made: Containers) -> None:
    settings = {
        "OS_SCHEDULER__DATABASE": "sqlite:////tmp/scheduler.db",
        "OS_SCHEDULER__LISTEN": "127.0.0.1:44251",
        "OS_GRPC__HEALTH_LISTEN": "0.0.0.0:44260",
    }
    with made.running(made.image("scheduler"), environment=settings) as container:
        made.until(container, "python", "-c", HEALTH, "127.0.0.1:44260", "")
        made.until(container, "python", "-c", HEALTH, "127.0.0.1:44251", "astara.scheduler.v1.WorkService")
        assert made.terminate(container) == 0
        assert json.loads(made.logs(container).splitlines()[-1])["event"] == "stopped"


def test_dockerfiles_differ_in_the_service_alone() -> None:
    def general(service: str) -> str:
        lines = (ROOT / "services" / service / "Dockerfile").read_text().splitlines()
        kept = [line for line in lines if f"Astara's {service}: " not in line]
        return "\n".join(kept).replace(service, "SERVICE")

    # The name of the library of metadata is that of a service; it is not in these files.
    assert len({general(service) for service in SERVICES}) == 1


@pytest.mark.parametrize("path", [*(f"services/{name}" for name in SERVICES), "lab"])
def test_a_dockerfile_names_no_place_on_the_network(path: str) -> None:
    text = (ROOT / path / "Dockerfile").read_text()
    assert "://" not in text
    assert "index" not in text.replace("--no-index", "")
