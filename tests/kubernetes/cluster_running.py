"""What tests ask of an API server as its administrator, and schedulers that run as its pods would: with a service
account's token in a file, and the API server's address in the environment.
"""

import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from scheduler_running import ROOT, SchedulerProcess

_ADDRESS = "https://127.0.0.1:16443"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
_ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}"
LEASE = "astara-scheduler"
_NUMBERS = itertools.count()

# What docs/install.md and the chart grant, by verb; `create` cannot be narrowed to a name.
GRANTED = {
    "get": {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": ["get"]},
    "update": {
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": ["update"],
    },
    "create": {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
}  # fmt: skip


class Cluster:
    """The API server, spoken to as its administrator."""

    def __init__(self, state: Path) -> None:
        self.pki = state / "pki"
        self._pid = int((state / "kube-apiserver.pid").read_text())
        self._tls = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        self._tls.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call; urllib's HTTPError when it is refused."""
        data = None if body is None else json.dumps(body).encode()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(_ADDRESS + path, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, context=self._tls, timeout=20) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """The API server answers nothing, as when the network to it is cut."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


class Namespace:
    """A namespace of a test's own, with the scheduler's service account in it."""

    def __init__(self, cluster: Cluster, verbs: set[str] | None = None) -> None:
        self.cluster = cluster
        self.name = f"test-{os.getpid()}-{next(_NUMBERS)}"
        cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})
        accounts = f"/api/v1/namespaces/{self.name}/serviceaccounts"
        cluster.call("POST", accounts, {"metadata": {"name": "scheduler"}})
        self.grant(set(GRANTED) if verbs is None else verbs, "POST")
        binding = {
            "metadata": {"name": "scheduler"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "scheduler"},
            "subjects": [{"kind": "ServiceAccount", "name": "scheduler", "namespace": self.name}],
        }
        cluster.call("POST", _ROLES.format(self.name) + "/rolebindings", binding)
        asked = {"spec": {"expirationSeconds": 3600}}
        self.token = cluster.call("POST", f"{accounts}/scheduler/token", asked)["status"]["token"]

    def grant(self, verbs: set[str], method: str = "PUT") -> None:
        """The service account may do this and nothing else."""
        role = {"metadata": {"name": "scheduler"}, "rules": [GRANTED[verb] for verb in sorted(verbs)]}
        path = _ROLES.format(self.name) + "/roles"
        self.cluster.call(method, path if method == "POST" else f"{path}/scheduler", role)

    def lease(self) -> dict[str, Any] | None:
        """The Lease's spec; None when there is none."""
        with contextlib.suppress(urllib.error.HTTPError):
            return self.cluster.call("GET", f"{_LEASES.format(self.name)}/{LEASE}")["spec"]
        return None

    def holder(self) -> str:
        """Who holds the Lease: the host's name, as the tests gave it."""
        return ((self.lease() or {}).get("holderIdentity") or "").partition("_")[0]

    def delete_lease(self) -> None:
        self.cluster.call("DELETE", f"{_LEASES.format(self.name)}/{LEASE}")

    def patch_lease(self, body: dict[str, Any]) -> None:
        self.cluster.call("PATCH", f"{_LEASES.format(self.name)}/{LEASE}", body)


class SchedulerPod(SchedulerProcess):
    """A scheduler in a mount namespace of its own, which finds in it what a pod finds."""

    def __init__(self, folder: Path, namespace: Namespace, host: str, **options: object) -> None:
        super().__init__(folder / host, host, election="kubernetes", **options)
        self.account = folder / host / "serviceaccount"
        self.account.mkdir()
        (self.account / "token").write_text(namespace.token)
        (self.account / "namespace").write_text(namespace.name)
        (self.account / "ca.crt").write_bytes((namespace.cluster.pki / "ca.crt").read_bytes())

    def start(self) -> None:
        inside = Path(__file__).parent / "in_pod.py"
        command = ["unshare", "--mount", sys.executable, str(inside), str(self.account), sys.executable]
        command += ["-m", "services.scheduler", "--config-file", str(self.config)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
        environment |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "16443"}
        with (self.folder / "scheduler.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)

    def said(self) -> str:
        """Everything it wrote to its log."""
        return (self.folder / "scheduler.log").read_text()
