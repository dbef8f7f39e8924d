"""Images as operators build them, each built once, and containers as a pod runs them."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from containers import Containers

from lab import packages

CLUSTER_IMAGES = Path(__file__).parents[1] / "kubernetes" / "cluster_images.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cluster_images", CLUSTER_IMAGES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster_images() -> ModuleType:
    """The module that makes a test cluster's images; with it the programs that it needs."""
    assert os.geteuid() == 0, "images are built and run by root here"
    assert packages.ensure_image_programs() == []
    return _load()


@pytest.fixture(scope="session")
def containers(cluster_images: ModuleType) -> Iterator[Containers]:
    """Builds images and runs containers, none of which outlives the tests."""
    made = Containers(cluster_images)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def made(containers: Containers, make_images: subprocess.CompletedProcess[str]) -> Containers:
    """Containers, once `make images` has built what they run."""
    assert make_images.returncode == 0, make_images.stdout + make_images.stderr
    return containers


@pytest.fixture(scope="session")
def make_images(containers: Containers) -> subprocess.CompletedProcess[str]:
    """What `make images` said, with everything given that an operator may give."""
    return containers.make_images()
