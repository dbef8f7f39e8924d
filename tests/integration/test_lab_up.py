"""`make up` as somebody sees it: two routers come up, the services answer, what is killed returns, nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab import packages, processes
from lab.layout import MARK, Layout, Ports
from lab.watch import resources

SERVICES = ("scheduler", "notifier", "health", "worker-1", "worker-2", "rpcapi", "metadata")


def lab(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, MARK: str(home), "COLUMNS": "200"}
    command = (sys.executable, "-m", "lab", *words)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Layout, str]]:
    layout = Layout(tmp_path_factory.mktemp("lab") / "home")
    broker = "rabbitmq" if packages.has_rabbitmq() else "embedded"
    up = lab(layout.home, "up", "--broker", broker, "--servers", "processes")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield layout, up.stdout
    finally:
        lab(layout.home, "down")


def until(question) -> None:
    while not question():
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_two_tenants_routers_come_up_and_the_terminal_says_what_to_try(running: tuple[Layout, str]):
    layout, said = running
    api = layout.read_plan().api_url
    assert [entry["state"] for entry in resources(api).values()] == ["configured", "configured"]
    assert "Both routers are configured" in said
    for hint in ("/poll/", "/workers/debug/", "/router/rebuild/", "grpcurl", "OS_CLIENT_CONFIG_FILE", "worker-1.log"):
        assert hint in said


def test_every_service_answers_health_checks(running: tuple[Layout, str]):
    ports = running[0].read_plan().ports
    for service in SERVICES:
        with grpc.insecure_channel(f"127.0.0.1:{ports.grpc(service)}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert (service, answer.status) == (service, health_pb2.HealthCheckResponse.SERVING)


def test_every_service_is_known_to_live(running: tuple[Layout, str]):
    api = running[0].read_plan().api_url

    def living() -> list[str]:
        with urlopen(f"{api}/v1/services") as answer:
            found = [entry for entry in json.load(answer)["services"] if entry["alive"]]
        return sorted(one["host"] if one["service"] == "worker" else one["service"] for one in found)

    until(lambda: living() == sorted(SERVICES))


def test_a_rebuild_ends_in_another_instance(running: tuple[Layout, str]):
    api = running[0].read_plan().api_url
    router_id, before = next(iter(resources(api).items()))
    with urlopen(Request(f"{api}/router/rebuild/{router_id}", method="PUT")) as answer:
        operation = json.load(answer)["operation_id"]

    def finished() -> bool:
        with urlopen(f"{api}/v1/operations/{operation}") as answer:
            return json.load(answer)["state"] == "succeeded"

    until(finished)
    after = resources(api)[router_id]
    assert after["state"] == "configured"
    assert after["instances"][0]["server_id"] != before["instances"][0]["server_id"]


@pytest.mark.parametrize("name", [*SERVICES, "orchestrator"])
def test_what_is_killed_comes_back(running: tuple[Layout, str], name):
    layout = running[0]
    file = layout.run / f"{name}.pid"
    until(file.exists)
    before = file.read_text()
    os.kill(int(before), signal.SIGKILL)
    until(lambda: file.exists() and file.read_text() not in ("", before))
    api = layout.read_plan().api_url
    until(lambda: [entry["state"] for entry in resources(api).values()] == ["configured"] * 2)


@pytest.mark.timeout(300)
def test_up_again_changes_nothing_and_down_leaves_nothing(running: tuple[Layout, str]):
    layout = running[0]
    plan = layout.read_plan()
    again = lab(layout.home, "up")
    assert (again.returncode, "up already" in again.stdout) == (0, True), again.stdout + again.stderr
    assert len(resources(plan.api_url)) == 2
    down = lab(layout.home, "down")
    assert (down.returncode, down.stdout) == (0, "The lab is down.\n")
    assert not layout.home.exists()
    assert processes.marked(layout) == []
    assert Ports(plan.offset).all_free()
    assert lab(layout.home, "down").stdout == "There was no lab.\n"
