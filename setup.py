"""Generates the Python modules of protos/ into gen/ before setuptools packs them; they are built, never committed."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "gen"


def generate() -> None:
    """Run protoc over protos/ and make packages of what it wrote."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    GENERATED.mkdir(exist_ok=True)
    subprocess.run(  # noqa: S603
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTOS}",
            f"--python_out={GENERATED}",
            f"--grpc_python_out={GENERATED}",
            f"--mypy_out={GENERATED}",
            f"--mypy_grpc_out={GENERATED}",
            *sources,
        ],
        check=True,
        cwd=PROTOS,
    )
    folders = sorted(
        {Path(source).parent for source in sources} | {Path("astara")} | {Path(s).parent.parent for s in sources}
    )
    for folder in folders:
        (GENERATED / folder / "__init__.py").touch()


if __name__ == "__main__":
    generate()
    setup()
