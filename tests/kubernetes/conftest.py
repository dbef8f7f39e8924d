"""A real API server (../shared/kubernetes) beside a real MariaDB; both for the whole session. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_clients import ensure as ensure_clients
from cluster_running import Cluster
from mariadb_running import MISSING, MariaDb, installed, private_mariadb

from lab import packages

KIT = Path(__file__).resolve().parents[2].parent / "shared" / "kubernetes"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with its etcd, without controllers."""
    if not (KIT / "kube-api-up.sh").exists():
        pytest.fail(f"{KIT} is missing: a real Kubernetes is needed beside this checkout", pytrace=False)
    assert packages.ensure_cluster_programs() == []
    programs, state = tmp_path_factory.mktemp("kubernetes"), tmp_path_factory.mktemp("cluster")
    (archive,) = KIT.glob("kubernetes-*.tar.xz")
    subprocess.run(("tar", "-xf", str(archive), "-C", str(programs), "kube-apiserver"), check=True, timeout=120)
    environment = {**os.environ, "PATH": f"{ensure_clients().home / 'bin'}:{os.environ['PATH']}"}
    command = [str(KIT / "kube-api-up.sh"), str(programs), str(state)]
    try:
        subprocess.run(command, check=True, env=environment, timeout=120, stdout=subprocess.DEVNULL)
        yield Cluster(state)
    finally:
        # A stopped process ends by nothing else.
        for name in ("kube-apiserver", "etcd"):
            if (pid := state / f"{name}.pid").exists():
                subprocess.run(["kill", "-CONT", pid.read_text().strip()], check=False, stderr=subprocess.DEVNULL)
        subprocess.run([str(KIT / "kube-api-down.sh"), str(state)], check=False, timeout=60)
        shutil.rmtree(programs)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    """A server for the whole session; each test has a database of its own on it."""
    if not installed():
        pytest.fail(MISSING, pytrace=False)
    with private_mariadb() as server:
        yield server
