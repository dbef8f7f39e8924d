"""`python -m services.notifier --config-file FILE`."""

import sys

from services.common import process

from .service import SETTINGS, main

if __name__ == "__main__":
    sys.exit(process.run("notifier", SETTINGS, main))
