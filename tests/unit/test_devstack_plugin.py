"""DevStack's plugin, with stand-ins for DevStack's functions and for the cloud (tests/devstack)."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.common import settings
from services.common.claim import ClaimSettings
from services.common.openstack import OpenStackSettings
from services.metadata.settings import MetadataSettings
from services.notifier.settings import NotifierSettings
from services.rpcapi.settings import RpcapiSettings
from services.scheduler.settings import SchedulerSettings
from services.worker.settings import ApplianceSettings, RouterSettings

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "devstack"
STUBS = ROOT / "tests/devstack"
IMAGE = {"ASTARA_APPLIANCE_IMAGE_URL": "https://images.example.org/appliance.qcow2"}
OVS = {"Q_AGENT": "openvswitch"}


class DevStack:
    """One machine: runs phases of the plugin in bash, as stack.sh would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.neutron_conf = folder / "neutron.conf"
        self.nova_conf = folder / "nova.conf"
        self.orchestrator = folder / "etc/orchestrator.ini"
        self.calls = folder / "calls"
        for name in ("state", "files", "bin"):
            (folder / name).mkdir()
        for file in (self.neutron_conf, self.nova_conf, self.calls):
            file.touch()
        self._program("openstack", f'exec {sys.executable} {STUBS}/openstack.py "$@"')
        for name in ("neutron-db-manage", "pip"):
            self._program(name, f'echo {name} "$@" >>"$CALLS"')
        self.builder('echo image >"$5"')
        self._environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "STUBS": str(STUBS),
            "PYTHON": sys.executable, "CALLS": str(self.calls), "STATE": str(folder / "state"),
            "DEST": str(folder / "dest"), "DATA_DIR": str(folder), "FILES": str(folder / "files"),
            "ASTARA_DIR": str(ROOT), "ASTARA_VENV": str(folder), "ASTARA_CONF_DIR": str(folder / "etc"),
            "ENABLED_SERVICES": "astara,nova,n-api", "STACK_USER": "stack", "NEUTRON_CONF": str(self.neutron_conf),
            "NEUTRON_BIN_DIR": str(folder / "bin"), "Q_PLUGIN_CONF_FILE": "etc/neutron/plugins/ml2/ml2_conf.ini",
            "NOVA_CONF": str(self.nova_conf), "NOVA_CONF_DIR": str(folder), "SERVICE_HOST": "2001:db8::5",
            "KEYSTONE_SERVICE_URI": "http://127.0.0.1/identity", "SERVICE_PASSWORD": "se$cret-of-user",
            "SERVICE_PROJECT_NAME": "service", "REGION_NAME": "RegionOne", "RABBIT_PASSWORD": "ra$bbit",
            "DATABASE_PASSWORD": "database",
        }  # fmt: skip

    def run(self, *phase: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """One phase, such as `stack install`, in a shell that ends at the first failure and traces itself."""
        script = "set -e; for one in override-defaults settings; do source $PLUGIN/$one; done; set -x; "
        done = subprocess.run(
            ["bash", "-c", f"source $STUBS/functions.bash; {script} source $PLUGIN/plugin.sh {' '.join(phase)}"],
            env={**self._environment, "PLUGIN": str(PLUGIN), **variables},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def stack(self, **variables: str) -> str:
        """All phases of stack.sh; answers with what was shown."""
        phases = (["stack", name] for name in ("pre-install", "install", "post-config", "extra", "test-config"))
        return "".join(done.stdout + done.stderr for done in (self.run(*phase, **variables) for phase in phases))

    def said(self, beginning: str) -> list[str]:
        """The calls that begin so."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(beginning)]

    def builder(self, line: str) -> None:
        """What stands for diskimage-builder does this, and notes how it was called."""
        note = 'echo "disk-image-create $ELEMENTS_PATH $*" >>"$CALLS"'
        self._program("disk-image-create", f"{note}\n{line}")

    def _program(self, name: str, line: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)


@pytest.fixture
def devstack(tmp_path: Path) -> DevStack:
    return DevStack(tmp_path)


def shellcheck(*words: str | Path) -> str:
    """What it finds."""
    program = shutil.which("shellcheck")
    assert program is not None, "apt-get install shellcheck"
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False).stdout


def test_the_scripts_are_clean() -> None:
    files = [PLUGIN / name for name in ("plugin.sh", "lib/astara", "settings", "override-defaults")]
    assert shellcheck("-x", "-P", "SCRIPTDIR", "-s", "bash", *files, STUBS / "functions.bash") == ""


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "No image of the appliance is named: set ASTARA_APPLIANCE_IMAGE_URL"),
        ({**IMAGE, "BUILD_ASTARA_APPLIANCE_IMAGE": "True"}, "choose one"),
        ({**IMAGE, "ASTARA_APPLIANCE_REPO": "https://git.example.org/a"}, "is for BUILD_ASTARA_APPLIANCE_IMAGE=True"),
        (
            {**IMAGE, "ASTARA_APPLIANCE_DIR": "/opt/appliance"},
            "ASTARA_APPLIANCE_DIR is for BUILD_ASTARA_APPLIANCE_IMAGE",
        ),
        ({**IMAGE, "ENABLED_SERVICES": "astara"}, "it needs Nova"),
    ],
)
def test_what_cannot_work_ends_the_run_before_anything_is_installed(
    devstack: DevStack, variables: dict[str, str], sentence: str
) -> None:
    done = devstack.run("stack", "pre-install", check=False, **variables)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_without_the_service_the_plugin_does_nothing(devstack: DevStack) -> None:
    devstack.stack(ENABLED_SERVICES="nova")
    assert not [line for line in devstack.calls.read_text().splitlines() if "able_service" not in line]


def test_agents_that_appliances_replace_are_disabled(devstack: DevStack) -> None:
    devstack.run("stack", "pre-install", **IMAGE)
    assert {"q-l3", "q-dhcp", "q-meta"} <= set(devstack.said("disable_service")[0].split())
    assert devstack.said("enable_service") == ["enable_service astara"]


@pytest.mark.parametrize(
    ("variables", "plugin"),
    [
        (OVS, "astara-router,astara-port-forwarding,astara-conntrack-helper,astara-ndp-proxy"),
        ({}, ""),
        ({"Q_AGENT": "ovn"}, ""),
    ],
)
def test_the_l3_plugin_is_astaras_unless_ovn_has_its_own(
    devstack: DevStack, variables: dict[str, str], plugin: str
) -> None:
    script = "source $PLUGIN/override-defaults; echo $ML2_L3_PLUGIN"
    environment = {"PATH": os.environ["PATH"], "PLUGIN": str(PLUGIN), **variables}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == plugin


def test_ml2_keeps_names(devstack: DevStack) -> None:
    devstack.run("stack", "install", **IMAGE)
    assert devstack.said("neutron_ml2_extension_driver_add") == ["neutron_ml2_extension_driver_add dns"]


def test_neutron_gets_the_provider_with_ovn_only(devstack: DevStack) -> None:
    devstack.run("stack", "post-config", **IMAGE)
    text = devstack.neutron_conf.read_text()
    assert "service_provider = L3_ROUTER_NAT:astara:astara_neutron.provider.AstaraRouterProvider" in text
    assert "driver = messagingv2" in text
    devstack.neutron_conf.write_text("")
    devstack.run("stack", "post-config", **IMAGE, **OVS)
    assert "service_provider" not in devstack.neutron_conf.read_text()
    assert devstack.said("neutron-db-manage")[0].endswith("--subproject astara-neutron upgrade heads")


def test_the_settings_are_what_the_services_read(devstack: DevStack) -> None:
    (devstack.folder / ".ssh").mkdir()
    (devstack.folder / ".ssh/id_rsa.pub").write_text("ssh-rsa AAAA= me@here\n")
    shown = devstack.stack(**IMAGE)
    classes = [
        ClaimSettings, OpenStackSettings, NotifierSettings, SchedulerSettings, RouterSettings, ApplianceSettings,
        MetadataSettings, RpcapiSettings,
    ]  # fmt: skip
    read = settings.load("test", ["--config-file", str(devstack.orchestrator)], classes)
    assert read[ClaimSettings].claim == "provider"
    assert read[NotifierSettings].broker == "amqp://stackrabbit:ra$bbit@127.0.0.1:5672/"
    assert read[RouterSettings].ssh_public_key == "ssh-rsa AAAA= me@here"
    assert read[RouterSettings].orchestrator_addresses == ("fdca:3ba5:a17a:acda::1",)
    assert read[MetadataSettings].nova_metadata_url == "http://[2001:db8::5]:8775"
    assert read[MetadataSettings].listen == ("fdca:3ba5:a17a:acda::1",)
    assert read[RpcapiSettings].auth == "token"
    assert read[RouterSettings].image_id
    assert read[RouterSettings].management_network_id

    # What signs and what checks have the same secret, which nobody else may read, and no trace shows.
    secret = read[MetadataSettings].shared_secret
    assert f"metadata_proxy_shared_secret = {secret}" in devstack.nova_conf.read_text()
    for file in (
        devstack.orchestrator,
        *devstack.orchestrator.parent.glob("*secret"),
        Path(read[RpcapiSettings].token_file),
    ):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in shown
    assert "se$cret-of-user" not in shown


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("ssh-rsa AAAA= me@here\nssh-rsa BBBB= you@there\n", "ssh-rsa AAAA= me@here", "has more than one key"),
        ("# ours\n\n  ssh-ed25519 A$A\\A me\r\n\n# theirs\n", r"ssh-ed25519 A$A\A me", ""),
        ("ssh-rsa AAAA=", "ssh-rsa AAAA=", ""),
        ("\n# none\n", "", "There is no key in"),
    ],
)
def test_the_first_key_of_a_file_is_who_may_log_in(devstack: DevStack, text: str, key: str, said: str) -> None:
    file = devstack.folder / "keys"
    file.write_text(text)
    shown = devstack.stack(**IMAGE, ASTARA_APPLIANCE_SSH_PUBLIC_KEY=str(file))
    read = settings.load("test", ["--config-file", str(devstack.orchestrator)], [RouterSettings])
    assert read[RouterSettings].ssh_public_key == key
    sentences = [line for line in shown.splitlines() if line.startswith((f"{file} has", f"There is no key in {file}"))]
    assert [said in line for line in sentences] == [True] * bool(said)


def test_with_ovs_every_router_is_astaras(devstack: DevStack) -> None:
    devstack.stack(**IMAGE, **OVS)
    assert "claim = all" in devstack.orchestrator.read_text()
    assert not devstack.said("openstack --os-cloud devstack-admin network flavor")


def test_the_orchestrator_is_on_the_management_network(devstack: DevStack) -> None:
    devstack.stack(**IMAGE)
    created = [line for line in devstack.said("openstack") if " create " in line]
    assert any("subnet create" in line and "--subnet-range fdca:3ba5:a17a:acda::/64" in line for line in created)
    assert any("port create" in line and "ip-address=fdca:3ba5:a17a:acda::1" in line for line in created)
    assert devstack.said("sudo ip address replace fdca:3ba5:a17a:acda::1/64 dev astara-mgt")
    assert devstack.said("run_process astara")[0].endswith(f"--config-file {devstack.orchestrator} --workers 1")


def test_stacking_again_makes_nothing_twice(devstack: DevStack) -> None:
    devstack.stack(**IMAGE)
    before = devstack.orchestrator.read_text()
    devstack.run("unstack")
    devstack.calls.write_text("")
    devstack.stack(**IMAGE)
    assert not [line for line in devstack.said("openstack") if " create " in line]
    assert devstack.said("curl") == []
    assert devstack.orchestrator.read_text() == before


def test_a_default_router_flavor_is_named_when_it_exists(devstack: DevStack) -> None:
    devstack.stack(**IMAGE, ASTARA_DEFAULT_ROUTER_FLAVOR="True")
    assert "default_flavor = astara" in devstack.neutron_conf.read_text()
    calls = devstack.calls.read_text().splitlines()
    made = next(at for at, line in enumerate(calls) if "network flavor add profile" in line)
    restarts = [at for at, line in enumerate(calls) if "systemctl restart devstack@neutron-api" in line]
    assert restarts
    assert made < restarts[0]


def test_an_image_that_cannot_be_downloaded_ends_the_run(devstack: DevStack) -> None:
    done = devstack.run("stack", "extra", check=False, ASTARA_APPLIANCE_IMAGE_URL="https://images.example.org/missing")
    assert done.returncode == 1
    assert "https://images.example.org/missing cannot be downloaded" in done.stderr
    assert list((devstack.folder / "files").iterdir()) == []


def test_an_image_is_built_from_the_elements_of_a_checkout(devstack: DevStack) -> None:
    elements = devstack.folder / "source/appliance/elements"
    build = {"BUILD_ASTARA_APPLIANCE_IMAGE": "True", "ASTARA_APPLIANCE_DIR": str(devstack.folder / "source")}
    done = devstack.run("stack", "install", check=False, **build)
    assert done.returncode == 1
    assert "has no appliance/elements" in done.stderr
    elements.mkdir(parents=True)
    devstack.stack(**build)
    assert f"pip install -q -r {elements}/requirements.txt" in devstack.said("pip")
    image, log = devstack.folder / "files/astara-appliance.qcow2", devstack.folder / "files/astara-appliance.log"
    words = f"{elements} -n --logfile {log} -o {image} block-device-mbr astara-appliance"
    assert devstack.said("disk-image-create") == [f"disk-image-create {words}"]
    assert [line for line in devstack.said("openstack") if "image create" in line and f"--file {image}" in line]


@pytest.mark.parametrize("builder", ["exit 3", "exit 0"])
def test_an_image_that_cannot_be_built_ends_the_run_with_the_place_of_its_log(devstack: DevStack, builder: str) -> None:
    devstack.builder(builder)
    # What an earlier run left does not count.
    (devstack.folder / "files/astara-appliance.qcow2").write_text("old")
    done = devstack.run("stack", "extra", check=False, BUILD_ASTARA_APPLIANCE_IMAGE="True")
    assert done.returncode == 1
    assert f"see {devstack.folder}/files/astara-appliance.log" in done.stderr
    assert not [line for line in devstack.said("openstack") if "image create" in line]


def test_the_elements_of_this_checkout_are_whole() -> None:
    element = ROOT / "appliance/elements/astara-appliance"
    scripts = [path for path in element.glob("*.d/*") if path.parent.name != "environment.d"]
    assert scripts
    # diskimage-builder leaves out what cannot be executed, and says nothing.
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    scripts += (ROOT / "appliance").glob("*.sh")
    scripts += (ROOT / "appliance/packaging").glob("*.sh")
    assert shellcheck(*scripts) == ""
    assert shellcheck("-s", "bash", *element.glob("environment.d/*")) == ""


def test_sources_of_the_appliance_are_cloned_where_a_repository_is_named(devstack: DevStack) -> None:
    (devstack.folder / "dest/astara-appliance/appliance/elements").mkdir(parents=True)
    build = {"BUILD_ASTARA_APPLIANCE_IMAGE": "True", "ASTARA_APPLIANCE_REPO": "https://git.example.org/appliance"}
    devstack.run("stack", "install", **build, ASTARA_APPLIANCE_BRANCH="stable")
    target = devstack.folder / "dest/astara-appliance"
    assert devstack.said("git_clone") == [f"git_clone https://git.example.org/appliance {target} stable"]


def test_cleaning_takes_settings_and_secrets_away(devstack: DevStack) -> None:
    devstack.stack(**IMAGE)
    devstack.run("unstack")
    devstack.run("clean")
    assert devstack.said("stop_process astara")
    assert devstack.said(f"sudo rm -rf {devstack.folder}/etc")
