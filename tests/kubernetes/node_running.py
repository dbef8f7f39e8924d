"""A node of Kubernetes: API server, kubelet, kube-proxy and containerd in a network namespace of their own.

Its pods run the images of `cluster_images.py`. The namespace has one name on the whole machine, so there is one node at
a time: whoever comes second waits. What a run left behind that was killed is taken away by the next one. Needs root,
Debian's etcd-server, containerd, runc, containernetworking-plugins, iptables, nftables and conntrack, and the cluster
rig beside this checkout.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from chart_clients import Clients
from chart_clients import ensure as ensure_clients
from cluster_images import RIG, Store
from pyroute2 import netns

Json = dict[str, Any]

ADDRESS = "10.200.0.1"
"""The node's, as the rig chooses it."""
PODS = "10.210.0.0/24"
_NAMESPACE = "kubelab"
_LOCK = Path("/run/astara-kubelab.lock")
_UP_SECONDS = 240


class NodeError(Exception):
    """Something about the cluster does not work; the text is what the program that failed said."""


class Node:
    """A cluster that is up. Commands run in its network namespace, as its administrator."""

    def __init__(self, state: Path, clients: Clients) -> None:
        self.state = state
        self.clients = clients
        self.environment = {
            **os.environ,
            "PATH": f"{clients.home / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "KUBECONFIG": str(state / "pki/admin.kubeconfig"),
            "HOME": str(state),
        }

    def run(self, *command: str, given: str = "", seconds: float = 120) -> str:
        """What a program wrote on standard output; NodeError when it fails or takes longer than `seconds`."""
        done = self.attempt(*command, given=given, seconds=seconds)
        if done.returncode:
            raise NodeError(f"{' '.join(command)} answered {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def attempt(self, *command: str, given: str = "", seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """As `run`, for commands that may fail."""
        try:
            return subprocess.run(
                _inside(command), env=self.environment, input=given, capture_output=True, text=True, timeout=seconds,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"{' '.join(command)} did not end within {seconds:g} s") from error

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A program that goes on; whoever starts it ends it."""
        return subprocess.Popen(
            _inside(command), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kubectl(self, *arguments: str, given: str = "", seconds: float = 120) -> str:
        """kubectl's output; NodeError when it fails."""
        return self.run("kubectl", *arguments, given=given, seconds=seconds)

    def get(self, *arguments: str) -> list[Json]:
        """Objects: `get("pods", "-n", "openstack")`."""
        found: list[Json] = json.loads(self.kubectl("get", *arguments, "-o", "json"))["items"]
        return found

    def apply(self, namespace: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make objects, or change them."""
        self.kubectl("-n", namespace, "apply", "-f", "-", given=yaml.safe_dump_all(documents))

    def make_namespace(self, name: str) -> None:
        """Make a namespace, with the label that API servers give since 1.21."""
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, f"kubernetes.io/metadata.name={name}")

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile are the node's: pods and Services are reached by their addresses."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            netns.setns(_NAMESPACE, flags=0)
            yield
        finally:
            netns.setns(own)
            os.close(own)


@contextlib.contextmanager
def running(store: Store, archive: Path) -> Iterator[Node]:
    """A node with the images of `archive`; nothing of it is left afterwards."""
    state = store.home / "cluster"
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _take_down(state)
        programs = _unpack(store)
        node = Node(state, ensure_clients())
        try:
            _script(node.environment, "kube-cluster-up.sh", str(programs), str(state), str(archive))
            node.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=30s")
            yield node
        finally:
            _take_down(state)


def until(reached: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until the answer is true, and give it; TimeoutError when it does not become so."""
    deadline = time.monotonic() + seconds
    while not (answer := reached()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s: {what}")
        time.sleep(0.5)
    return answer


def _inside(command: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{_NAMESPACE}", *command]


def _unpack(store: Store) -> Path:
    archive = next(RIG.glob("kubernetes-*.tar.xz"))
    folder = store.home / archive.name.removesuffix(".tar.xz")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        subprocess.run(("tar", "-xf", str(archive), "-C", str(partial)), check=True, timeout=120)
        partial.rename(folder)
    return next(folder.rglob("kubelet")).parent


def _script(environment: Mapping[str, str], name: str, *arguments: str) -> None:
    # Daemons inherit the script's output: a file, since a pipe would stay open as long as they live.
    state = Path(arguments[1] if name == "kube-cluster-up.sh" else arguments[0])
    state.mkdir(parents=True, exist_ok=True)
    log = state / "rig.log"
    with log.open("a") as output:
        done = subprocess.run(
            (str(RIG / name), *arguments), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            timeout=_UP_SECONDS, check=False,
        )  # fmt: skip
    if done.returncode:
        raise NodeError(f"{name} answered {done.returncode}:\n{log.read_text()[-3000:]}")


def _take_down(state: Path) -> None:
    if not state.exists():
        return
    _script(dict(os.environ), "kube-cluster-down.sh", str(state))
    shutil.rmtree(state)
