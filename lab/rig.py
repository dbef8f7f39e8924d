"""The control plane of ../shared/openstack-rig, with our Nova driver: its servers are machines made of namespaces.

It has the service plugins that Astara makes use of, which the rig has not by itself. A control plane that runs already
with them and with the driver is used as it is and stays up; otherwise it is brought up, and taken down at the end. What
the rig remembers of its options is put back. There is one rig on a machine: a second user of it, from any checkout, is
refused.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
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
_PLUGINS = "service_plugins = router,port_forwarding"
_EXTENSIONS = {"router", "floating-ip-port-forwarding"}
"""What a control plane that has the plugins answers with, of which one that was brought up earlier may have fewer."""


class RigError(Exception):
    """There is no rig, somebody else uses it, or its hypervisor does not start."""


@contextlib.contextmanager
def control_plane() -> Iterator[tuple[Connection, Hypervisor]]:
    """An admin's connection to a control plane that answers, and the hypervisor on which its Nova boots.

    Needs root. RigError when it cannot be had; CalledProcessError when it does not come up.
    """
    if not (RIG / "up").exists():
        msg = f"{RIG} is missing: a real OpenStack control plane is needed beside this checkout"
        raise RigError(msg)
    OURS.mkdir(parents=True, exist_ok=True)
    _NOVA.write_text(f"[DEFAULT]\n{_DRIVER}\n[astara_lab]\nsocket = {OURS}/hypervisor/socket\n")
    _NEUTRON.write_text(f"[DEFAULT]\n{_PLUGINS}\n")
    with _alone(), _hypervisor() as hypervisor, _up():
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


@contextlib.contextmanager
def _up() -> Iterator[None]:
    remembered = _OPTIONS.read_bytes() if _OPTIONS.exists() else None
    if remembered is not None and str(_NEUTRON).encode() in remembered and _answers():
        yield
        return
    environment = {
        **os.environ, "RIG_STATE": str(STATE), "RIG_EXTRA_PIP": str(ROOT / "lab" / "nova_driver"),
        "RIG_NOVA_EXTRA_CONF": str(_NOVA), "RIG_NEUTRON_EXTRA_CONF": str(_NEUTRON),
    }  # fmt: skip
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


def _answers() -> bool:
    if not CLOUDS.exists():
        return False
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(CLOUDS)
    try:
        with openstack.connect(cloud="rig") as connection:
            return {extension.alias for extension in connection.network.extensions()} >= _EXTENSIONS
    except (SDKException, ClientException, OSError):
        return False
