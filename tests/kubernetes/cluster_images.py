"""The images of a test cluster, in one archive: ours, the lab's, RabbitMQ, MariaDB, and the pause image of pods.

An image is tagged with a hash of what it is made from: the files that its Dockerfile copies, the Dockerfile, its base.
What is there under its tag is never built again. Everything lies in one folder, image store included: $ASTARA_IMAGES,
or /var/tmp/astara-images; `remove` takes it away. One process at a time works there, others wait.

`python tests/kubernetes/cluster_images.py` prints the archive's path and the images in it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RIG = ROOT.parent / "shared" / "kubernetes"
SERVICES = ("health", "metadata", "notifier", "rpcapi", "scheduler", "worker")
PAUSE = "localhost/pause:1"
"""The name under which the rig's containerd looks for it."""

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PAUSE_DOCKERFILE = 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause", "-P"]\n'


class ImageError(Exception):
    """An image cannot be made; the text ends with what the program that failed said."""


@dataclass(frozen=True)
class ClusterImages:
    """What a test cluster runs. All of ours have one tag, as a chart wants it."""

    archive: Path
    """For containerd: `ctr images import`."""
    tag: str
    """The hash of all their hashes: the same as long as no source changes."""
    names: Mapping[str, str]
    """Full names by short ones: those of `SERVICES`, `lab`, `rabbitmq`, `mariadb`, `pause`."""
    aliases: Mapping[str, Mapping[str, str]]
    """The services' images once more under other tags: the same, but for a scheduler with one more migration."""


@dataclass(frozen=True)
class _Recipe:
    name: str
    dockerfile: Path
    context: Path

    def key(self, base: str) -> str:
        """A hash of everything from which the image is made."""
        text = self.dockerfile.read_text(encoding="utf-8")
        digest = hashlib.sha256(f"{base}\n{text}".encode())
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
            for source in shlex.split(line)[:-1]:
                for file in _files(self.context / source):
                    digest.update(f"{file.relative_to(self.context)}\n".encode() + file.read_bytes())
        return digest.hexdigest()[:16]


RECIPES = (
    *(_Recipe(f"astara-{name}", ROOT / "services" / name / "Dockerfile", ROOT) for name in SERVICES),
    _Recipe("astara-lab", ROOT / "lab" / "Dockerfile", ROOT),
    *(
        _Recipe(name, ROOT / "tests/kubernetes/images" / name / "Dockerfile", ROOT / "tests/kubernetes/images" / name)
        for name in ("rabbitmq", "mariadb")
    ),
)

_NEXT = _Recipe(
    "astara-scheduler-next", ROOT / "tests/kubernetes/images/next/Dockerfile", ROOT / "tests/kubernetes/images/next"
)
"""The scheduler of the version after this one, made from this one's image."""


class Store:
    """The folder with all images, and the programs that work on it."""

    def __init__(self, home: Path | None = None) -> None:
        """Needs root, podman and buildah, and the cluster rig beside this checkout."""
        self.home = home or Path(os.environ.get("ASTARA_IMAGES", "/var/tmp/astara-images"))  # noqa: S108 - it is kept
        self.home.mkdir(parents=True, exist_ok=True)
        if not (RIG / "make-base-image.sh").exists():
            raise ImageError(f"{RIG} is missing: it makes the base image and runs containers here")
        storage = self.home / "storage.conf"
        graph, run = self.home / "containers/graph", self.home / "containers/run"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{run}"\n')
        self.environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(RIG / "container-conf/containers.conf"),
        }
        self.build_flags = ("--layers", "--isolation=chroot", "-v", f"{_CERTIFICATES}:{_CERTIFICATES}:ro")
        """How `buildah build` works on a machine without cgroups of its own; certificates for its RUN steps alone."""

    def run(self, *command: str, seconds: float = 900) -> str:
        """What a program wrote on standard output; ImageError when it fails or takes longer than `seconds`."""
        done = self.attempt(*command, seconds=seconds)
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise ImageError(f"{shlex.join(command)} answered {done.returncode}:\n{said}")
        return done.stdout

    def attempt(self, *command: str, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        """As `run`, for commands that may fail."""
        try:
            return subprocess.run(
                command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
            )
        except FileNotFoundError as error:
            raise ImageError(f"{command[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"{shlex.join(command)} did not end within {seconds:g} s") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for other processes that work here, and keep them waiting."""
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return self.attempt("podman", "image", "exists", image).returncode == 0

    def base(self) -> str:
        """The base image, which is made when it is missing."""
        script = RIG / "make-base-image.sh"
        image = f"localhost/astara-base:{hashlib.sha256(script.read_bytes()).hexdigest()[:16]}"
        if not self.has(image):
            self.run(str(script), str(self.home / "base"), image)
            shutil.rmtree(self.home / "base")
        return image

    def ensure(self, recipe: _Recipe, base: str) -> str:
        """One image of ours under the tag that says what it is made from."""
        image = f"localhost/{recipe.name}:{recipe.key(base)}"
        if not self.has(image):
            self.run(
                "buildah", "build", *self.build_flags, "--build-arg", f"BASE={base}", "-t", image,
                "-f", str(recipe.dockerfile), str(recipe.context),
            )  # fmt: skip
        return image

    def ensure_pause(self) -> str:
        """The image that holds a pod's namespaces."""
        if not self.has(PAUSE):
            folder = self.home / "pause"
            folder.mkdir(exist_ok=True)
            shutil.copy("/usr/bin/catatonit", folder / "pause")
            (folder / "Dockerfile").write_text(_PAUSE_DOCKERFILE, encoding="ascii")
            self.run("buildah", "build", *self.build_flags, "-t", PAUSE, str(folder))
        return PAUSE


def ensure(store: Store | None = None, *, aliases: Sequence[str] = ()) -> ClusterImages:
    """Make what is missing and write the archive, unless it is there. ImageError.

    `aliases` are further tags of the services' images. A first call takes minutes, one without changes a second.
    """
    store = store or Store()
    with store.alone():
        base = store.base()
        made = {recipe.name: store.ensure(recipe, base) for recipe in RECIPES}
        later = {**made, "astara-scheduler": store.ensure(_NEXT, made["astara-scheduler"])}
        pause = store.ensure_pause()
        tag = hashlib.sha256(" ".join((*later.values(), *aliases)).encode()).hexdigest()[:16]
        named = {_short(name): _tagged(name, tag) for name in made}
        further = {alias: {name: _tagged(f"astara-{name}", alias) for name in SERVICES} for alias in aliases}
        archive = store.home / f"images-{tag}.tar"
        if not archive.exists():
            for name, image in made.items():
                store.run("podman", "tag", image, named[_short(name)])
            for names in further.values():
                for name, image in names.items():
                    store.run("podman", "tag", later[f"astara-{name}"], image)
            wanted = [*named.values(), *(one for names in further.values() for one in names.values())]
            _save(store, archive, [pause, *wanted])
            _forget(store, [*made.values(), *later.values(), *wanted])
        return ClusterImages(archive, tag, {**named, "pause": pause}, further)


def remove(store: Store) -> None:
    """Take away every image and the folder."""
    with store.alone():
        store.run("podman", "system", "reset", "--force")
    shutil.rmtree(store.home)


def _save(store: Store, archive: Path, images: Sequence[str]) -> None:
    for old in store.home.glob("images-*.tar"):
        old.unlink()
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    store.run("podman", "save", "--quiet", "--multi-image-archive", "-o", str(partial), *images)
    partial.rename(archive)


def _forget(store: Store, kept: Sequence[str]) -> None:
    """Remove our images under tags that no source has any longer."""
    ours = {f"localhost/{recipe.name}" for recipe in (*RECIPES, _NEXT)}
    for name in store.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if name.rpartition(":")[0] in ours and name not in kept:
            store.run("podman", "rmi", name)


def _short(name: str) -> str:
    return name.removeprefix("astara-")


def _tagged(name: str, tag: str) -> str:
    return f"localhost/{name}:{tag}"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(found)


if __name__ == "__main__":
    images = ensure(aliases=sys.argv[1:])
    print(images.archive)
    for short, full in images.names.items():
        print(f"{short:10} {full}")
