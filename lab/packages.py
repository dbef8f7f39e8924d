"""RabbitMQ from the distribution: installed when we may and it is missing, never started as the machine's service."""

import os
import shutil
import subprocess
from pathlib import Path

_SERVER = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/sbin/rabbitmq-server")
_POLICY = Path("/usr/sbin/policy-rc.d")


def has_rabbitmq() -> bool:
    """Whether a RabbitMQ server is installed."""
    return any(Path(path).exists() for path in _SERVER)


def ensure_rabbitmq() -> bool:
    """Install RabbitMQ where it is missing and we are root on a system with apt; answers whether it is there."""
    if has_rabbitmq():
        return True
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        return False
    print("installing rabbitmq-server from the distribution …", flush=True)
    # The package would start a broker of its own on 5672; a policy that says no keeps it from that.
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        _POLICY.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", "rabbitmq-server")):
            done = subprocess.run((apt, *command), env=environment, stdout=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                print(f"apt-get {command[0]} failed; going on without RabbitMQ", flush=True)
                return False
    finally:
        if ours:
            _POLICY.unlink()
    return has_rabbitmq()
