"""The control plane of ../shared/openstack-rig, with our Nova driver: its servers are machines made of namespaces.

Its Neutron is one of three: with `astara-neutron`, which then is the router plugin; with its provider beside Neutron's
own router plugin and an L3 agent; or with the latter two and nothing of ours. A control plane that runs already with
what is wanted is used as it is and stays up; otherwise it is brought up, and taken down at the end. What the rig
remembers of its options is put back. There is one rig on a machine: a second user of it, from any checkout, is refused.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openstack
from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

from .hypervisor.hypervisor import Hypervisor

ROOT = Path(__file__).resolve().parents[1]
RIG = ROOT.parent / "shared" / "openstack-rig"
STATE = Path(os.environ.get("RIG_STATE", "/tmp/openstack-rig"))  # noqa: S108 - the rig's own default
OURS = STATE / "astara-lab"
CLOUDS = STATE / "clouds.yaml"
_OPTIONS = STATE / "options"
_NOVA, _NEUTRON = OURS / "nova.conf", OURS / "neutron.conf"
_DRIVER = "compute_driver = astara_lab.NamespaceDriver"


@dataclass(frozen=True, slots=True)
class Neutron:
    """A Neutron to bring up: its configuration, who may act as the orchestrator, and how one that runs is known."""

    configuration: str
    has: frozenset[str]
    """Aliases of extensions."""
    lacks: frozenset[str]
    l3_agent: bool = False
    """Whether an L3 agent reports itself, to which Neutron gives routers; it does nothing with them."""


ORCHESTRATOR = "astara-orchestrator"
"""The role that the plugin's policy asks for, on the Neutrons that have it: an admin alone is not enough."""
_POLICY = OURS / "neutron-policy.yaml"
_OF_ALL = f"[oslo_policy]\npolicy_file = {_POLICY}\n"
_SOON_DEAD = "agent_down_time = 45\n"  # seconds; the stand-in for L2 agents reports every 20

PLAIN = Neutron(
    "[DEFAULT]\nservice_plugins = router,port_forwarding\n",
    frozenset({"router", "floating-ip-port-forwarding", "l3_agent_scheduler"}),
    frozenset({"astara-router-snapshot"}),
)
"""Neutron's own router plugin, as any cloud has it."""
WITH_PLUGIN = Neutron(
    "[DEFAULT]\nservice_plugins = "
    "astara,astara-router,astara-port-forwarding,astara-conntrack-helper,astara-ndp-proxy,qos\n"
    f"{_SOON_DEAD}{_OF_ALL}[ml2]\nextension_drivers = port_security,qos,dns\n",
    frozenset(
        {"astara-router-snapshot", "astara-router-status", "dns-integration", "floating-ip-port-forwarding", "qos-fip"}
    ),
    frozenset({"l3_agent_scheduler"}),
)
"""`astara-neutron`, with no L3 agent anywhere."""
BESIDE_AGENTS = Neutron(
    f"[DEFAULT]\nservice_plugins = astara,router,port_forwarding\n{_SOON_DEAD}{_OF_ALL}"
    "[service_providers]\n"
    "service_provider = L3_ROUTER_NAT:astara:astara_neutron.provider.AstaraRouterProvider\n"
    "[astara]\ndefault_flavor = astara\n",
    frozenset({"router", "floating-ip-port-forwarding", "l3_agent_scheduler", "astara-router-snapshot"}),
    frozenset(),
    l3_agent=True,
)
"""Routers of Astara's flavors, which users get who name none, beside those of Neutron's own router plugin."""

PARTS = {
    "neutron": ("neutron-api", "neutron-rpc", "neutron-periodic"),
    "nova": ("nova-api", "nova-metadata", "nova-conductor", "nova-scheduler", "nova-compute"),
    "rabbitmq": ("rabbitmq",),
    "mariadb": ("mysql",),
}
"""What can be taken away, and the processes that it is made of, by the rig's names."""


class RigError(Exception):
    """There is no rig, somebody else uses it, or its hypervisor does not start."""


@contextlib.contextmanager
def control_plane(neutron: Neutron = WITH_PLUGIN) -> Iterator[tuple[Connection, Hypervisor]]:
    """An admin's connection to a control plane that answers, and the hypervisor on which its Nova boots.

    Needs root. RigError when it cannot be had; CalledProcessError when it does not come up.
    """
    if not (RIG / "up").exists():
        msg = f"{RIG} is missing: a real OpenStack control plane is needed beside this checkout"
        raise RigError(msg)
    OURS.mkdir(parents=True, exist_ok=True)
    _NOVA.write_text(f"[DEFAULT]\n{_DRIVER}\n[astara_lab]\nsocket = {OURS}/hypervisor/socket\n")
    with _alone(), _hypervisor() as hypervisor, _up(neutron):
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(CLOUDS)
        with openstack.connect(cloud="rig") as connection:
            yield connection, hypervisor


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with (OURS / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"somebody else uses the control plane in {STATE}"
            raise RigError(msg) from None
        yield


@contextlib.contextmanager
def _hypervisor() -> Iterator[Hypervisor]:
    """A hypervisor without machines, which answers Nova."""
    root = OURS / "hypervisor"
    hypervisor = Hypervisor(root)
    hypervisor.clear()
    with (OURS / "hypervisor.log").open("ab") as log:
        serving = subprocess.Popen(
            [sys.executable, "-m", "lab.hypervisor", "--root", str(root), "serve"],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        if "questions at" not in serving.stdout.readline():  # type: ignore[union-attr]
            raise RigError((OURS / "hypervisor.log").read_text()[-2000:])
        yield hypervisor
    finally:
        serving.terminate()
        serving.wait()
        serving.stdout.close()  # type: ignore[union-attr]
        hypervisor.close()


def take_away(part: str) -> None:
    """Kill the processes of one of `PARTS`, as a crash of their machine would."""
    for name in PARTS[part]:
        file = STATE / "run" / f"{name}.pid"
        pid = int(file.read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            # Each has a session of its own, with its workers in it.
            os.killpg(pid, signal.SIGKILL)
    for name in PARTS[part]:
        _ended(STATE / "run" / f"{name}.pid")


def bring_back(neutron: Neutron = WITH_PLUGIN) -> None:
    """Start what is missing. CalledProcessError when it does not come up."""
    subprocess.run([str(RIG / "up")], env=_environment(neutron), check=True, timeout=600)


def _ended(file: Path) -> None:
    pid = int(file.read_text().split()[0])
    for _ in range(200):
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            file.unlink()
            return
        time.sleep(0.05)
    raise RigError(f"{file.stem} does not end")


def _environment(neutron: Neutron) -> dict[str, str]:
    return {
        **os.environ, "RIG_STATE": str(STATE),
        "RIG_EXTRA_PIP": f"{ROOT / 'lab' / 'nova_driver'} -e {ROOT / 'integrations' / 'neutron'}",
        "RIG_NOVA_EXTRA_CONF": str(_NOVA), "RIG_NEUTRON_EXTRA_CONF": str(_NEUTRON),
        "RIG_L3_AGENT": str(int(neutron.l3_agent)),
    }  # fmt: skip


@contextlib.contextmanager
def _up(neutron: Neutron) -> Iterator[None]:
    remembered = _OPTIONS.read_bytes() if _OPTIONS.exists() else None
    if remembered is not None and str(_NEUTRON).encode() in remembered and _runs(neutron):
        yield
        return
    _NEUTRON.write_text(neutron.configuration)
    _POLICY.write_text(f'"astara_orchestrator": "role:{ORCHESTRATOR}"\n')
    environment = _environment(neutron)
    # What runs without the driver would keep running without it.
    subprocess.run([str(RIG / "down")], env=environment, check=True, timeout=300)
    subprocess.run([str(RIG / "up")], env=environment, check=True, timeout=1200)
    try:
        yield
    finally:
        subprocess.run([str(RIG / "down")], env=environment, check=False, timeout=300)
        if remembered is None:
            _OPTIONS.unlink(missing_ok=True)
        else:
            _OPTIONS.write_bytes(remembered)


def _runs(neutron: Neutron) -> bool:
    if not CLOUDS.exists() or not _NEUTRON.exists() or _NEUTRON.read_text() != neutron.configuration:
        return False
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(CLOUDS)
    try:
        with openstack.connect(cloud="rig") as connection:
            aliases = {extension.alias for extension in connection.network.extensions()}
            return neutron.has <= aliases and not neutron.lacks & aliases
    except (SDKException, ClientException, OSError):
        return False
