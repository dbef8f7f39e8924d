"""Runs in an image as root: lists what everybody may write and what runs with another's rights. Prints JSON."""

import json
import os
import stat
from pathlib import Path

MOUNTED = {"proc", "sys", "dev", "tmp", "run", "checks"}
"""What the runtime puts there, by name below the root."""


def main() -> None:
    """Walk the file system."""
    writable, elevated = [], []
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in MOUNTED]
        for name in (*folders, *files):
            path = str(Path(folder, name))
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                continue
            if mode & stat.S_IWOTH:
                writable.append(path)
            if mode & (stat.S_ISUID | stat.S_ISGID):
                elevated.append(path)
    print(json.dumps({"writable": sorted(writable), "elevated": sorted(elevated)}))


if __name__ == "__main__":
    main()
