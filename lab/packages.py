"""Programs from the distribution: installed when we may and they are missing, never started as its services."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SERVER = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/sbin/rabbitmq-server")
_POLICY = Path("/usr/sbin/policy-rc.d")
_PROGRAMS = {
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "bird": "bird2",
    "dhclient": "isc-dhcp-client",
    "ping": "iputils-ping",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "curl": "curl",
}
"""Programs that run in machines made of namespaces, and Debian's packages of them."""

_TEST_PROGRAMS = {
    "jq": "jq",
    "mmdebstrap": "mmdebstrap",
    "mariadbd": "mariadb-server",
    "ovn-northd": "ovn-central",
    "shellcheck": "shellcheck",
}
"""What tests need besides."""

_IMAGE_PROGRAMS = {name: name for name in ("buildah", "catatonit", "debootstrap", "podman", "runc")}
"""What builds images, and runs them."""

_VIRTUAL_PROGRAMS = {
    "genisoimage": "genisoimage",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
}
"""What a virtual machine needs, and who logs into it."""

_CLUSTER_PROGRAMS = {
    "conntrack": "conntrack",
    "containerd": "containerd",
    "curl": "curl",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "jq": "jq",
    "nft": "nftables",
    "openssl": "openssl",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""What a Kubernetes of one node runs."""


def has_rabbitmq() -> bool:
    """Whether a RabbitMQ server is installed."""
    return any(Path(path).exists() for path in _SERVER)


def ensure_rabbitmq() -> bool:
    """Install RabbitMQ where it is missing and we are root on a system with apt; answers whether it is there."""
    if not has_rabbitmq():
        _install("RabbitMQ", ["rabbitmq-server"])
    return has_rabbitmq()


def ensure_machine_programs() -> list[str]:
    """Install what machines made of namespaces need, as above; answers with the packages that are still missing."""
    return _ensure("what machines need", _PROGRAMS)


def ensure_test_programs() -> list[str]:
    """Install what tests need, machines' programs among it, as above; answers with what is still missing."""
    return _ensure("what tests need", _PROGRAMS | _TEST_PROGRAMS)


def ensure_image_programs() -> list[str]:
    """Install what builds and runs images, as above; answers with what is still missing."""
    return _ensure("what images need", _IMAGE_PROGRAMS)


def ensure_virtual_programs() -> list[str]:
    """Install what virtual machines need, as above; answers with what is still missing."""
    return _ensure("what virtual machines need", _VIRTUAL_PROGRAMS)


def ensure_cluster_programs() -> list[str]:
    """Install what a node of Kubernetes runs, as above; answers with what is still missing."""
    return _ensure("what a cluster needs", _CLUSTER_PROGRAMS)


def _ensure(what: str, programs: Mapping[str, str]) -> list[str]:
    if missing := _missing(programs):
        _install(what, missing)
    return _missing(programs)


def _missing(programs: Mapping[str, str]) -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for program, package in programs.items() if shutil.which(program, path=path) is None})


def _install(what: str, packages: list[str]) -> None:
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        return
    print(f"installing {' '.join(packages)} from the distribution …", flush=True)
    # The packages would start services of their own; a policy that says no keeps them from that.
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        _POLICY.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", *packages)):
            done = subprocess.run((apt, *command), env=environment, stdout=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                print(f"apt-get {command[0]} failed; going on without {what}", flush=True)
                return
    finally:
        if ours:
            _POLICY.unlink()
