"""`python -m services.health --config-file FILE`."""

import sys

from services.common import openstack, process

from .service import SETTINGS, main

if __name__ == "__main__":
    sys.exit(process.run("health", SETTINGS, main, extra=openstack.register))
