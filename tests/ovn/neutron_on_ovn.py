"""Neutron's API with ML2/OVN in processes of its own: no keystone, no agents, a private MariaDB and OVN."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from ovn_central import OvnCentral

from lab.ports import free_port

_BIN = Path(sys.executable).parent
_ERROR = " ERROR "
_START_SECONDS = 120.0
_CALL_SECONDS = 60.0
_MAINTAINED = "OVN maintenance task check_for_inconsistencies finished"
PHYSICAL_NETWORK = "physnet1"
PROVIDER = "astara"
PROJECT = "operator"
_OWNED = ("network", "subnet", "port", "router", "floatingip")


class RefusedError(Exception):
    """Neutron answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Neutron:
    """One API process, its REST API as admin, and Neutron's tools against the same databases."""

    def __init__(self, folder: Path, database: str, ovn: OvnCentral, default_flavor: str = "") -> None:
        self._folder = folder
        self._database = database
        self._ovn = ovn
        self.log = folder / "neutron.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v2.0"
        self._session = requests.Session()
        self._session.trust_env = False
        (folder / "lock").mkdir()
        shutil.copy(_BIN.parent / "etc/neutron/api-paste.ini", folder)
        (folder / "neutron.conf").write_text(_configuration(folder, f"api-{self.port}", database, ovn))
        (folder / "astara.conf").write_text(f"[astara]\ndefault_flavor = {default_flavor}\n")
        self._engine = sa.create_engine(database, poolclass=sa.NullPool)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The API answers from the beginning to the end of the block."""
        script = str(Path(__file__).with_name("serve_neutron.py"))
        with (self._folder / "output").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, script, str(self.port)],
                env=self._environment, stdout=subprocess.PIPE, stderr=output, text=True,
            )  # fmt: skip
        try:
            assert process.stdout is not None
            if not any(line.startswith("ready") for line in process.stdout):
                raise RuntimeError((self._folder / "output").read_text()[-3000:] + self.log.read_text()[-3000:])
            yield
        finally:
            # Neutron's own handler of SIGTERM leaves the ending to its web server.
            process.kill()
            process.wait(_START_SECONDS)

    @contextlib.contextmanager
    def another(self, default_flavor: str) -> Iterator["Neutron"]:
        """A second API of the same cloud, which gives routers a flavor."""
        with tempfile.TemporaryDirectory(prefix="astara-neutron-") as folder:
            made = Neutron(Path(folder), self._database, self._ovn, default_flavor)
            with made.running():
                yield made

    def make_tables(self) -> None:
        """Neutron's schema and the plugin's."""
        self.tool("neutron-db-manage", "upgrade", "heads")

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of Neutron's commands with this configuration; answers with its output."""
        done = subprocess.run(
            [str(_BIN / name), *self._files, *arguments],
            env=self._environment, capture_output=True, text=True, timeout=_START_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        return done.stdout + done.stderr

    def maintain(self) -> str:
        """Run Neutron's maintenance worker once: it compares all with OVN and repairs, then looks for inconsistencies.

        Answers with its log.
        """
        log = self._folder / "maintenance.log"
        log.write_text("")
        repair = self._folder / "repair.conf"
        repair.write_text("[ovn]\nneutron_sync_mode = repair\n")
        process = subprocess.Popen(
            [
                str(_BIN / "neutron-ovn-maintenance-worker"), *self._files,
                f"--config-file={repair}", f"--log-file={log}", "--debug",
            ],
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + _START_SECONDS
            while _MAINTAINED not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(log.read_text()[-3000:])
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait(_START_SECONDS)
        return log.read_text()

    def age(self) -> None:
        """Make everything old enough for Neutron's maintenance, which leaves alone what was made a minute ago."""
        with self._engine.begin() as connection:
            connection.execute(sa.text("UPDATE standardattributes SET created_at = created_at - INTERVAL 1 DAY"))

    def told_to_ovn(self) -> set[str]:
        """Ids of what Neutron believes to be in OVN: maintenance looks after these alone."""
        with self._engine.connect() as connection:
            return {row[0] for row in connection.execute(sa.text("SELECT resource_uuid FROM ovn_revision_numbers"))}

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def create(self, kind: str, **attributes: Any) -> dict[str, Any]:
        """POST; `kind` is the singular, such as `network`."""
        owner = {"project_id": PROJECT} if kind in _OWNED else {}
        made: dict[str, Any] = self._call("POST", f"/{plural(kind)}", {kind: owner | attributes})[kind]
        return made

    def update(self, kind: str, key: str, **attributes: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._call("PUT", f"/{plural(kind)}/{key}", {kind: attributes})[kind]
        return made

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PUT", path, body)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def delete(self, kind: str, key: str) -> None:
        self._call("DELETE", f"/{plural(kind)}/{key}")

    def delete_path(self, path: str) -> None:
        self._call("DELETE", path)

    def errors(self) -> list[str]:
        """Errors in Neutron's log since the last call, each with its traceback."""
        text = self.log.read_text()
        self.log.write_text("")
        lines = (line for line in text.splitlines() if _ERROR in line)
        # All lines of a record begin with its time and process.
        return ["\n".join(record) for _, record in itertools.groupby(lines, lambda line: line.partition(_ERROR)[0])]

    @property
    def _files(self) -> list[str]:
        return [f"--config-file={self._folder / name}" for name in ("neutron.conf", "astara.conf")]

    @property
    def _environment(self) -> dict[str, str]:
        files = {"OS_NEUTRON_CONFIG_DIR": str(self._folder), "OS_NEUTRON_CONFIG_FILES": "neutron.conf;astara.conf"}
        return {**os.environ, **files, "ASGI_WORKERS": "1", "TMPDIR": str(self._folder)}

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._session.request(method, self.url + path, json=body, timeout=_CALL_SECONDS)
        if answer.status_code >= 400:
            raise RefusedError(answer.status_code, answer.text)
        return answer.json() if answer.content else None


def plural(kind: str) -> str:
    """Neutron's path of a kind of resource."""
    return kind.replace("_", "-").replace("policy", "policie") + "s"


def _configuration(folder: Path, host: str, database: str, ovn: OvnCentral) -> str:
    return f"""
[DEFAULT]
host = {host}
state_path = {folder}
log_file = {folder}/neutron.log
use_stderr = false
auth_strategy = noauth
api_paste_config = {folder}/api-paste.ini
transport_url = fake://
core_plugin = ml2
service_plugins = ovn-router,flavors,port_forwarding,segments,qos,astara
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
rpc_workers = 0
[oslo_messaging_notifications]
driver = noop
[oslo_concurrency]
lock_path = {folder}/lock
[database]
connection = {database}
[quotas]
quota_network = -1
quota_subnet = -1
quota_port = -1
quota_router = -1
quota_floatingip = -1
[service_providers]
service_provider = L3_ROUTER_NAT:{PROVIDER}:astara_neutron.provider.AstaraRouterProvider
[ml2]
type_drivers = local,flat,geneve
project_network_types = geneve
mechanism_drivers = ovn
extension_drivers = port_security,qos
[ml2_type_flat]
flat_networks = *
[ml2_type_geneve]
vni_ranges = 1:9999
max_header_size = 38
[ovn]
ovn_nb_connection = {ovn.northbound}
ovn_sb_connection = {ovn.southbound}
ovn_metadata_enabled = true
neutron_sync_mode = log
"""
