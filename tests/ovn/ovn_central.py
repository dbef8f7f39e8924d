"""The control plane of OVN from Debian's package, on Unix sockets in a folder of its own: two databases and northd."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

MISSING = "OVN is not installed here: apt-get install ovn-central"
_SCHEMAS = Path("/usr/share/ovn")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 30.0


def installed() -> bool:
    """Whether Debian's packages are there."""
    return all(shutil.which(name, path=_PATH) for name in ("ovn-northd", "ovsdb-server", "ovsdb-tool"))


class OvnCentral:
    """Databases `nb` and `sb`, kept equal by ovn-northd. There is no hypervisor: packets are traced, not sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.northbound = f"unix:{folder}/nb.sock"
        self.southbound = f"unix:{folder}/sb.sock"

    def start(self) -> None:
        """Returns when both databases answer and northd has looked at them."""
        for name in ("nb", "sb"):
            database, schema = self._folder / f"{name}.db", _SCHEMAS / f"ovn-{name}.ovsschema"
            self._run("ovsdb-tool", "create", str(database), str(schema))
            self._launch(name, "ovsdb-server", f"--remote=punix:{self._folder}/{name}.sock", str(database))
        for name in ("nb", "sb"):
            _wait(f"the database {name}", (self._folder / f"{name}.sock").exists)
        self._launch("northd", "ovn-northd", f"--ovnnb-db={self.northbound}", f"--ovnsb-db={self.southbound}")
        self._run("ovn-nbctl", f"--db={self.northbound}", "init")
        self.settle()

    def stop(self) -> None:
        """Ends what was started."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            process.wait(_SECONDS)

    def add_chassis(self, name: str, physical_network: str) -> None:
        """A hypervisor, as its ovn-controller would announce it: a gateway with a bridge to `physical_network`."""
        self.southbound_run("chassis-add", name, "geneve", "127.0.0.1")
        for key, value in (
            ("ovn-bridge-mappings", f"{physical_network}:br-ex"),
            ("ovn-cms-options", "enable-chassis-as-gw"),
        ):
            self.southbound_run("set", "Chassis", name, f"other_config:{key}={value}")
        self.southbound_run("set", "Chassis", name, f"hostname={name}")

    def rows(self, table: str, *conditions: str) -> list[dict[str, Any]]:
        """Rows of the northbound database; maps and sets as Python's."""
        text = self._run("ovn-nbctl", f"--db={self.northbound}", "--format=json", "find", table, *conditions)
        found = json.loads(text)
        return [
            {name: _plain(value) for name, value in zip(found["headings"], row, strict=True)} for row in found["data"]
        ]

    def settle(self) -> None:
        """Returns when the southbound database follows from the northbound one."""
        self._run("ovn-nbctl", f"--db={self.northbound}", f"--timeout={int(_SECONDS)}", "--wait=sb", "sync")

    def southbound_run(self, *arguments: str) -> str:
        """ovn-sbctl."""
        return self._run("ovn-sbctl", f"--db={self.southbound}", *arguments)

    def trace(self, switch: str, flow: str) -> str:
        """What becomes of a packet that enters a logical switch: ovn-trace's summary."""
        self.settle()
        return self._run("ovn-trace", f"--db={self.southbound}", "--minimal", switch, flow)

    def _launch(self, name: str, program: str, *arguments: str) -> None:
        command = [
            shutil.which(program, path=_PATH) or program, f"--pidfile={self._folder}/{name}.pid",
            f"--unixctl={self._folder}/{name}.ctl", "-vconsole:warn", "-vsyslog:off", *arguments,
        ]  # fmt: skip
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _run(self, program: str, *arguments: str) -> str:
        command = (shutil.which(program, path=_PATH) or program, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr}")
        return done.stdout


def _plain(value: Any) -> Any:
    """OVSDB's JSON (RFC 7047, section 5.1) as lists, dicts and scalars."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "map":
        return {_plain(key): _plain(one) for key, one in content}
    return [_plain(one) for one in content] if kind == "set" else content


def _wait(what: str, ready: Any) -> None:
    deadline = time.monotonic() + _SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)
