"""Waits for a machine's end, and takes its namespace away when nobody else has ended it: who crashed is dead.

`keeper ROOT ID READY COMMAND…` runs COMMAND, which ends with the machine. READY is a descriptor that gets the keeper's
own process id first; COMMAND adds that of the machine.
"""

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the command; afterwards bury the machine."""
    root, machine_id, ready = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.write(ready, f"{os.getpid()} ".encode())
    with subprocess.Popen(sys.argv[4:], pass_fds=(ready,)) as running:
        # Who waits for the machine learns by the descriptor's end that it did not start.
        os.close(ready)
        running.wait()
    # Only now, because a keeper waits for most of its life: it should be small.
    from .errors import HypervisorError  # noqa: PLC0415
    from .hypervisor import Hypervisor  # noqa: PLC0415

    try:
        Hypervisor(root, make=False).bury(machine_id)
    except HypervisorError as error:
        print(error, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
