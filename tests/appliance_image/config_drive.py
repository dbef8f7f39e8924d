"""The config drive that Nova gives a server, as an ISO 9660 image that is written by the program that Nova uses."""

import json
import subprocess
from pathlib import Path
from typing import Any


def write(file: Path, folder: Path, *, server: dict[str, Any], network: dict[str, Any], user_data: str) -> None:
    """Write `file`; `folder` is made for its content. `server` is meta_data.json, `network` network_data.json."""
    latest = folder / "openstack" / "latest"
    latest.mkdir(parents=True)
    for name, content in (("meta_data", server), ("network_data", network), ("vendor_data", {})):
        (latest / f"{name}.json").write_text(json.dumps(content))
    (latest / "user_data").write_text(user_data)
    subprocess.run(
        ("genisoimage", "-o", str(file), "-ldots", "-allow-lowercase", "-allow-multidot", "-l", "-quiet", "-J", "-r",
         "-publisher", "OpenStack", "-V", "config-2", str(folder)),
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
