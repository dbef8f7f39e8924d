# ruff: noqa: INP001 - programs of the builds, no package
"""Says what goes into one image, and puts it there; the Dockerfiles call this while they build.

An image holds what its program imports and nothing else: the modules of ours that are upstream of the program in the
graph of imports, the third-party distributions that pyproject.toml names for it with all that those need, and neither
tests nor tools. Nothing is listed by hand but what no import shows: see `IMAGES`.
"""

import argparse
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Image:
    """What an image is made for."""

    programs: tuple[str, ...]
    """Modules that are run."""
    packages: tuple[str, ...]
    """Packages of ours in which those and their imports are looked for."""
    extras: tuple[str, ...]
    """Optional dependencies of pyproject.toml."""
    loaded_by_path: str | None = None
    """A package that is read as files, so that no import leads to it."""


def _service(name: str, loaded_by_path: str | None = None) -> Image:
    packages = ("astara", "services.common", f"services.{name}")
    return Image((f"services.{name}.__main__",), packages, (name,), loaded_by_path)


IMAGES = {
    "health": _service("health"),
    "metadata": _service("metadata"),
    "notifier": _service("notifier"),
    "rpcapi": _service("rpcapi"),
    # alembic finds migrations by their path.
    "scheduler": _service("scheduler", "services.scheduler.migrations"),
    "worker": _service("worker"),
    "lab": Image(("lab.cloud.__main__", "lab.cloud.addresses"), ("astara_appliance", "lab"), ("notifier", "appliance")),
}

UNUSED = ("setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""pbr asks for setuptools, which it wants for building alone; here nothing is built."""

OWN = "/opt/astara/own"
"""Where our modules are, beside the virtual environment's: a layer of their own, so that an upgrade is a small one."""

NOT_RUN = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h")
"""Files beside modules that only compilers and checkers read."""


def requirements(image: Image) -> list[str]:
    """The third-party requirements of an image, as pyproject.toml has them."""
    project = _project()
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *(one for extra in image.extras for one in extras[extra])})


def modules(image: Image) -> set[str]:
    """The modules of ours that an image holds: what its programs import, directly or not, and what holds that."""
    import grimp  # noqa: PLC0415 - only the stage that builds has it

    graph = grimp.build_graph(*image.packages, cache_dir=None, exclude_type_checking_imports=True)
    roots = set(image.programs)
    if image.loaded_by_path:
        roots |= {image.loaded_by_path, *graph.find_descendants(image.loaded_by_path)}
    if missing := roots - graph.modules:
        raise SystemExit(f"no such modules: {', '.join(sorted(missing))}")
    found = roots.union(*(graph.find_upstream_modules(root) for root in roots))
    parents = {name.rsplit(".", level)[0] for name in found for level in range(1, name.count(".") + 1)}
    return found | (parents & graph.modules)


def write_tree(image: Image, target: Path) -> None:
    """Write a source tree from which a wheel with the image's modules can be built."""
    packages: set[str] = set()
    for name in sorted(modules(image)):
        file = _file(name)
        copy = target / name.replace(".", "/")
        copy = copy / file.name if file.name == "__init__.py" else copy.with_suffix(".py")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        packages.add(".".join(copy.parent.relative_to(target).parts))
    project = _project()
    (target / "pyproject.toml").write_text(
        "[build-system]\n"
        'requires = ["setuptools"]\n'
        'build-backend = "setuptools.build_meta"\n'
        "[project]\n"
        f'name = "{project["name"]}"\n'
        f'version = "{project["version"]}"\n'
        f"dependencies = {requirements(image)}\n"
        "[tool.setuptools]\n"
        f"packages = {sorted(packages)}\n",
        encoding="utf-8",
    )


def finish(venv: Path) -> None:
    """Lead a virtual environment to our modules, and remove what no service runs: tests, tools, sources, papers."""
    (library,) = (venv / "lib").glob("python3*")
    site = library / "site-packages"
    (site / "astara.pth").write_text(f"{OWN}\n", encoding="ascii")
    for path in (venv / "include", venv / "share", *_useless(site), *_commands(venv)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _useless(site: Path) -> Iterator[Path]:
    for name in UNUSED:
        yield site / name
        yield from site.glob(f"{name}-*.dist-info")
    yield from [path for path in site.rglob("tests") if path.is_dir()]
    for pattern in NOT_RUN:
        yield from list(site.rglob(pattern))
    # Only what lies beside all packages: licences lie in folders.
    yield from (path for path in site.iterdir() if path.suffix in (".md", ".rst", ".txt"))


def _commands(venv: Path) -> Iterator[Path]:
    yield from (path for path in (venv / "bin").iterdir() if not path.name.startswith("python"))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _file(module: str) -> Path:
    """Where the source of a module is: packages of ours lie in several folders, which are on the path of imports."""
    part = Path(module.replace(".", "/"))
    for folder in map(Path, sys.path):
        for file in (folder / part / "__init__.py", folder / part.with_suffix(".py")):
            if file.is_file():
                return file
    raise SystemExit(f"the source of {module} is not on the path of imports")


def main() -> None:
    """Run one verb."""
    parser = argparse.ArgumentParser(prog="assemble.py", description="What goes into one image.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("requirements", help="print the third-party requirements of an image")
    listing.add_argument("image", choices=sorted(IMAGES))
    writing = verbs.add_parser("tree", help="write a source tree with the modules of an image")
    writing.add_argument("image", choices=sorted(IMAGES))
    writing.add_argument("target", type=Path)
    finishing = verbs.add_parser("finish", help="make a virtual environment fit for an image")
    finishing.add_argument("venv", type=Path)
    arguments = parser.parse_args()
    match arguments.verb:
        case "requirements":
            sys.stdout.write("\n".join(requirements(IMAGES[arguments.image])) + "\n")
        case "tree":
            write_tree(IMAGES[arguments.image], arguments.target)
        case "finish":
            finish(arguments.venv)


if __name__ == "__main__":
    main()
