"""`in_pod.py ACCOUNT COMMAND …`, in a mount namespace: run a command that finds a service account where pods do."""

import os
import subprocess
import sys
from pathlib import Path

_SECRETS = Path("/run/secrets/kubernetes.io")

# Nothing of this is seen outside: `unshare --mount` made mounts private.
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
_SECRETS.mkdir(parents=True)
(_SECRETS / "serviceaccount").symlink_to(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the test's own
