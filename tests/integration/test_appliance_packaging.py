"""What is installed beside the agent."""

import shutil
import subprocess
import sys
from pathlib import Path

INSTALL = Path(__file__).parents[2] / "appliance" / "packaging" / "install.sh"


def test_everything_is_copied_below_the_given_root_and_systemd_accepts_its_unit(tmp_path):
    subprocess.run([INSTALL, tmp_path], check=True)
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {
        "etc/cloud/cloud.cfg.d/99-astara.cfg",
        "etc/modules-load.d/astara.conf",
        "etc/sysctl.d/60-astara.conf",
        "etc/systemd/system/astara-appliance.service",
        "etc/systemd/network/10-astara.link",
        "etc/sysusers.d/astara.conf",
        "etc/tmpfiles.d/astara.conf",
    }
    unit = tmp_path / "etc/systemd/system/astara-appliance.service"
    text = unit.read_text()
    assert "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE\n" in text
    assert "KillMode=process\n" in text
    if shutil.which("systemd-analyze"):
        # Nothing is installed where the unit looks for the agent.
        unit.write_text(text.replace("/opt/astara/bin/astara-appliance", sys.executable))
        subprocess.run(["systemd-analyze", "verify", unit], check=True)
