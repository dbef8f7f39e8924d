"""Runs images as a pod would: user, read-only root, no capability, only /tmp writable; no network but loopback."""

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

REGISTRY = "localhost/tested"
TAG = "1.2.3"
_LIKE_A_POD = (
    "--network=none", "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:mode=1777", "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)  # fmt: skip
_PATIENCE = 60.0


class Containers:
    """Images by the names that `make images` gives them, and what runs from them."""

    def __init__(self, cluster_images: ModuleType) -> None:
        self.cluster = cluster_images
        self.services: tuple[str, ...] = cluster_images.SERVICES
        self.store = cluster_images.Store()
        self._running: list[str] = []

    def close(self) -> None:
        """End all containers, and forget the tests' names of images."""
        for name in list(self._running):
            self._remove(name)
        for service in self.services:
            self.store.attempt("podman", "rmi", self.image(service))

    def image(self, service: str) -> str:
        """The name of a service's image."""
        return f"{REGISTRY}/astara-{service}:{TAG}"

    def make_images(self) -> "subprocess.CompletedProcess[str]":
        """`make images`."""
        with self.store.alone():
            done: subprocess.CompletedProcess[str] = self.store.attempt(
                "make", "--no-print-directory", "images", "BUILDER=buildah", f"BASE={self.store.base()}",
                f"REGISTRY={REGISTRY}", f"TAG={TAG}", f"BUILD_FLAGS={shlex.join(self.store.build_flags)}",
            )  # fmt: skip
            return done

    def other_image(self, name: str) -> str:
        """An image of the test cluster, built when it is missing."""
        (recipe,) = (one for one in self.cluster.RECIPES if one.name == name)
        with self.store.alone():
            built: str = self.store.ensure(recipe, self.store.base())
            return built

    def inspect(self, image: str) -> dict[str, Any]:
        """What an image says of itself."""
        (facts,) = json.loads(self.store.run("podman", "image", "inspect", image))
        found: dict[str, Any] = facts
        return found

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """Run a container until it ends."""
        command = ("podman", "run", "--rm", *_LIKE_A_POD, *options, image, *arguments)
        done: subprocess.CompletedProcess[str] = self.store.attempt(*command, seconds=_PATIENCE)
        return done

    def python(self, image: str, script: Path, *arguments: str, options: tuple[str, ...] = ()) -> Any:
        """Run a program of the tests by an image's Python; its last line is the answer, in JSON."""
        given = (f"--volume={script}:/checks/{script.name}:ro", "--entrypoint=python3", *options)
        done = self.run(image, f"/checks/{script.name}", *arguments, options=given)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def running(
        self, image: str, *arguments: str, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> Iterator[str]:
        """Run a container in the background; its name."""
        given = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        name = self.store.run("podman", "run", "--detach", *_LIKE_A_POD, *given, *options, image, *arguments).strip()
        self._running.append(name)
        try:
            yield name
        finally:
            self._remove(name)

    def execute(self, container: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container."""
        done: subprocess.CompletedProcess[str] = self.store.attempt(
            "podman", "exec", container, *command, seconds=_PATIENCE
        )
        return done

    def until(self, container: str, *command: str) -> str:
        """What a command in a container says, once it succeeds; asserts that it does."""
        deadline = time.monotonic() + _PATIENCE
        while (done := self.execute(container, *command)).returncode != 0:
            assert time.monotonic() < deadline, done.stdout + done.stderr + self.logs(container)
            time.sleep(0.2)
        return done.stdout

    def logs(self, container: str) -> str:
        """What a container wrote."""
        done = self.store.attempt("podman", "logs", container)
        return str(done.stdout + done.stderr)

    def terminate(self, container: str) -> int:
        """End a container as a kubelet does; its exit code."""
        self.store.run("podman", "kill", "--signal=TERM", container)
        return int(self.store.run("podman", "wait", container, seconds=_PATIENCE))

    def _remove(self, container: str) -> None:
        self._running.remove(container)
        self.store.attempt("podman", "rm", "--force", "--volumes", "--time=2", container)
