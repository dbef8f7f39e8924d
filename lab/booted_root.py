"""Debian 12 with the appliance installed in it as its README says, for `lab.booted` to boot. Root only.

It is two layers of an overlay file system, both in a cache of the user's: Debian with the packages that the README
names, and above it what the README's other commands made of this checkout. A layer's name has a hash of what an
appliance is made from, so one that is found is as one that would be made now; it has the name only when it is complete.
What the same distribution brings besides, the orchestrator and the lab, does not run there and does not count.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
README = CHECKOUT / "appliance" / "packaging" / "README.md"
RELEASE = "bookworm"

_DEBIAN = ("systemd", "systemd-sysv")
"""What a machine has before anybody installs an appliance, beyond Debian's minimum."""

_SOURCES = ("pyproject.toml", "setup.py", "constraints.txt", "appliance")
_BESIDES = ("README.md", "LICENSE", "protos", "services", "lab")
_FORMAT = "1"
_UNUSED_SECONDS = 3600.0
_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class RootError(Exception):
    """The root cannot be made; the text has the last words of the program that failed."""


def layers(cache: Path | None = None) -> list[Path]:
    """The layers of the root, uppermost first, made where they are missing (two minutes, and the network).

    `cache` is the folder that keeps them, by default `astara/booted` in the user's cache. Raises `RootError`.
    """
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astara" / "booted"
    cache.mkdir(parents=True, exist_ok=True)
    commands = readme_commands()
    sources = _debian_sources()
    packages = sorted({*_DEBIAN, *_named_packages(commands)})
    debian = _hash([_FORMAT, RELEASE, *sources, *packages])
    installed = _hash([debian, *commands, *_source_hashes()])
    with _locked(cache):
        base = _layer(cache, f"debian-{debian}", lambda place: _bootstrap(place, sources, packages))
        top = _layer(cache, f"installed-{installed}", lambda place: _install(place, base, commands))
        _forget_unused(cache, {base.parent, top.parent})
    return [top, base]


def readme_commands() -> list[str]:
    """What the README has an operator type, a line each."""
    block = README.read_text(encoding="utf-8").split("```console\n", 1)[1].split("```", 1)[0]
    return [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]


def _named_packages(commands: Sequence[str]) -> list[str]:
    typed = [shlex.split(command) for command in commands if command.startswith("apt-get install ")]
    return [word for words in typed for word in words[2:] if not word.startswith("-")]


def _debian_sources() -> list[str]:
    """Where this machine's apt has Debian from, for our release."""
    with Path("/etc/os-release").open(encoding="utf-8") as lines:
        named = dict(line.rstrip().split("=", 1) for line in lines if "=" in line)
    own = named.get("VERSION_CODENAME", "").strip('"')
    words = "$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)"
    found = set()
    for line in _run("apt-get", "indextargets", "--format", words, "Identifier: Packages").splitlines():
        match line.split():
            case ["Debian", release, "main", place] if release.partition("-")[0] == own:
                found.add(f"deb {place} {RELEASE}{release.removeprefix(own)} main")
    if not found:
        raise RootError("apt has no lists of Debian here: `apt-get update` fetches them")
    return sorted(found)


def _source_hashes() -> Iterator[str]:
    for name in _SOURCES:
        path = CHECKOUT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{file.relative_to(CHECKOUT)} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _hash(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _layer(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The layer's tree, made by `make` in the folder that it is given when there is none."""
    place = cache / name
    if not place.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
        try:
            make(unfinished)
            unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    os.utime(place)
    return place / "tree"


def _forget_unused(cache: Path, needed: set[Path]) -> None:
    """Remove what no boot of the last hour began with; a layer takes some hundred megabytes."""
    before = time.time() - _UNUSED_SECONDS
    for place in cache.iterdir():
        prefix = place.name.partition("-")[0]
        if prefix in ("debian", "installed", "unfinished") and place not in needed and place.stat().st_mtime < before:
            shutil.rmtree(place)


def _bootstrap(place: Path, sources: Sequence[str], packages: Sequence[str]) -> None:
    (place / "sources.list").write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    _run(
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", "--quiet"),
        # Kept for the README's own apt-get, which nobody is there to answer.
        *("--aptopt=APT::Get::Assume-Yes true", f"--include={','.join(packages)}"),
        *(RELEASE, str(place / "tree"), str(place / "sources.list")),
    )


def _install(place: Path, base: Path, commands: Sequence[str]) -> None:
    """Run the commands in a root above `base`, in a copy of this checkout."""
    tree, work, desk = place / "tree", place / "work", place / "desk"
    for folder in (tree, work, desk):
        folder.mkdir()
    # The tree's own permissions become those of the root directory.
    tree.chmod(0o755)
    for name in (*_SOURCES, *_BESIDES):
        source, target = CHECKOUT / name, desk / "checkout" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(source, target)
    environment = {name: os.environ[name] for name in (*_PIP, *_PROXIES) if name in os.environ}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
    # systemctl cannot always see for itself that it runs in no booted system.
    environment |= {"SYSTEMD_OFFLINE": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    if _AUTHORITIES.exists():
        shutil.copyfile(_AUTHORITIES, desk / "authorities.crt")
        environment["PIP_CERT"] = "/mnt/authorities.crt"
    _run(
        *("unshare", "--mount", sys.executable, "-m", "lab.booted_init", "install"),
        *(str(base), str(tree), str(work), str(desk), *commands),
        environment=environment,
    )
    shutil.rmtree(desk)


def _run(*argv: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=CHECKOUT, env=environment
    )
    if done.returncode != 0:
        raise RootError(f"{' '.join(argv[:3])} … ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
