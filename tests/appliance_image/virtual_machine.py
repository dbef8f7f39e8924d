"""An appliance in a virtual machine: the built image under QEMU, told by a config drive with the worker's own words.

It stands where `lab.appliance_machine.Machine` stands, on the same wires, and has the disk, the interfaces and the
config drive that Nova would give it. What is run in it goes through ssh over management, with the operators' key.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import config_drive
from authority import Authority

from lab.appliance_machine import ADDRESS, INSTANCE, MANAGEMENT_MAC, ORCHESTRATOR, RESOURCE, Machine
from lab.wires import Fabric
from services.common import marks
from services.worker import bootdata
from services.worker.certificates import Certificates
from services.worker.settings import ApplianceSettings, RouterSettings

SECRET = "a-secret-of-the-tests"
MARK = marks.ServerMark("test", RESOURCE, 0, INSTANCE, tls=True)
TOKEN = marks.appliance_token(SECRET, MARK.deployment, MARK.resource_id, MARK.slot, MARK.boot_id)
NAME = "astara-appliance"
# A /dev/kvm whose processor has no virtualization, as there is in some small machines, is slower than none.
_KVM = os.access("/dev/kvm", os.R_OK) and {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
BOOT_SECONDS = 90.0 if _KVM else 900.0
_ACCELERATOR = "kvm" if _KVM else "tcg"
_MEGABYTES = 512


class VirtualMachine(Machine):
    """A server of an image; `root` (a folder) keeps its disk."""

    def __init__(self, fabric: Fabric, root: Path, image: Path, authority: Authority) -> None:
        super().__init__(fabric, root)
        root.mkdir(parents=True)
        self._disk, self._drive, self._control = root / "disk.qcow2", root / "config.iso", root / "control"
        self._connect_seconds = 20.0
        self.key = root / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(self.key))
        backed = ("-b", str(image), "-F", "qcow2", str(self._disk), "3G")
        _run("qemu-img", "create", "-q", "-f", "qcow2", *backed)
        cert, key = authority.issue("worker")
        appliance_cert, appliance_key = authority.issue(NAME)
        settings = ApplianceSettings(
            SECRET, tls_ca=str(authority.ca), tls_cert=cert, tls_key=key,
            tls_appliance_cert=appliance_cert, tls_appliance_key=appliance_key, tls_appliance_name=NAME,
        )  # fmt: skip
        self.certificates = Certificates(settings)
        self._write_drive(settings)

    def _write_drive(self, settings: ApplianceSettings) -> None:
        router = RouterSettings(
            "image", "flavor", "network", orchestrator_addresses=(ORCHESTRATOR,),
            ssh_public_key=self.key.with_suffix(".pub").read_text().strip(),
        )  # fmt: skip
        management = {"mac_address": MANAGEMENT_MAC, "cidrs": [f"{ADDRESS}/64"], "mtu": 1500, "gateway": None}
        data = bootdata.user_data(MARK, "t1", management, router, settings, self.certificates.boot_files())
        # What Nova would have the system set up; the appliance must not.
        wrong = {"ip_address": "fdca:3ba5:a17a:acda::bad", "netmask": "ffff:ffff:ffff:ffff::"}
        network = {
            "links": [{"id": "tap0", "type": "ovs", "ethernet_mac_address": MANAGEMENT_MAC, "mtu": 1500}],
            "networks": [{"id": "network0", "link": "tap0", "type": "ipv6"} | wrong],
            "services": [],
        }
        server = {"uuid": secrets.token_hex(16), "name": MARK.name(), "hostname": MARK.name(), "meta": MARK.metadata()}
        config_drive.write(
            self._drive, self.root / "drive", server=server, network=network,
            user_data=base64.b64decode(data).decode(),
        )  # fmt: skip

    # Wires

    def _wire(self, network: str, mac: str, mtu: int) -> None:
        tap = f"t{secrets.token_hex(5)}"
        self.fabric.switch.ip("tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr")
        self.fabric.switch.ip("link", "set", tap, "mtu", str(mtu), "master", network, "up")
        self.plugged[network] = (mac, mtu, tap, tap)

    async def attach(self, network: str) -> str:
        """Plug an interface into the running machine, as Nova does. Answers with its MAC."""
        mac = self.plug(network)
        _, _, tap, _ = self.plugged[network]
        await asyncio.to_thread(
            self._say,
            {"execute": "netdev_add",
             "arguments": {"type": "tap", "id": tap, "ifname": tap, "script": "no", "downscript": "no"}},
            {"execute": "device_add",
             "arguments": {"driver": "virtio-net-pci", "id": f"nic-{tap}", "netdev": tap, "mac": mac}},
        )  # fmt: skip
        return mac

    def _say(self, *commands: dict[str, Any]) -> None:
        """Tell QEMU something. An AssertionError has what it objects."""
        with socket.socket(socket.AF_UNIX) as control, contextlib.closing(control.makefile("rb")) as answers:
            control.settimeout(10)
            control.connect(str(self._control))
            answers.readline()
            for command in ({"execute": "qmp_capabilities"}, *commands):
                control.sendall(json.dumps(command).encode())
                while "return" not in (answer := json.loads(answers.readline())):
                    assert "error" not in answer, f"{command}: {answer['error']}"

    # Life

    def start(self, **_boot: Any) -> None:
        """Switch it on. It does not answer yet when this returns."""
        interfaces = []
        for mac, _, tap, _ in self.plugged.values():
            interfaces += ["-netdev", f"tap,id={tap},ifname={tap},script=no,downscript=no"]
            interfaces += ["-device", f"virtio-net-pci,id=nic-{tap},netdev={tap},mac={mac}"]
        self._control.unlink(missing_ok=True)
        with (self.root / "qemu.log").open("ab") as log:
            self.process = self.fabric.switch.start(
                *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "pc", "-accel", _ACCELERATOR),
                *("-cpu", "max", "-smp", "1", "-m", str(_MEGABYTES), "-device", "virtio-rng-pci"),
                *("-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"),
                *("-qmp", f"unix:{self._control},server=on,wait=off"),
                *("-drive", f"file={self._disk},format=qcow2,if=virtio,cache=unsafe"),
                *("-drive", f"file={self._drive},format=raw,if=ide,media=cdrom,readonly=on"),
                *interfaces,
                stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def console(self) -> Path:
        """What the serial console has shown."""
        return self.root / "console"

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Pull its plug, or with SIGTERM have QEMU end."""
        super().stop(number)

    async def reboot(self) -> None:
        """Pull its plug, and switch it on again."""
        self.stop()
        self.start()
        await self.answers()

    async def answers(self, seconds: float = BOOT_SECONDS) -> dict[str, Any]:
        """Its status, as soon as it answers."""
        # A machine that comes up hears nothing for a while, and the next try must not wait for that; one that runs, and
        # is emulated, may stop for seconds when an interface is plugged in.
        self._connect_seconds = 1.0
        try:
            return await super().answers(seconds)
        finally:
            self._connect_seconds = 20.0

    def log(self) -> str:
        """What the console has shown, and QEMU said."""
        return "".join(
            file.read_text(errors="replace") for file in (self.root / "qemu.log", self.console) if file.exists()
        )

    # Its API

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """One call from the orchestrator, over TLS with the worker's certificate, in a connection of its own."""
        headers = {"Authorization": f"Bearer {TOKEN}"} | more.pop("headers", {})
        secure = {"ssl": self.certificates.context(), "server_hostname": NAME} | more.pop("secure", {})
        url = f"{more.pop('scheme', 'https')}://[{ADDRESS}]:5000{path}"
        connector = aiohttp.TCPConnector(socket_factory=self._socket, force_close=True)
        timeout = aiohttp.ClientTimeout(total=30, sock_connect=self._connect_seconds)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, url, headers=headers, **secure, **more) as answer,
        ):
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type.endswith("json") else body.decode()

    # Look

    def ssh(self, *argv: str, user: str = "astara", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Log in over management with the operators' key, or with other `options`, and run a program as that user."""
        given = options or ("-i", str(self.key), "-o", "BatchMode=yes")
        known = f"UserKnownHostsFile={self.root / 'known_hosts'}"
        return self.orchestrator.run(
            *("ssh", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=accept-new", "-o", known, *given),
            *(f"{user}@{ADDRESS}", shlex.join(argv)), check=False, timeout=60,
        )  # fmt: skip

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program in the machine, as its root; answers with what it printed, also when `check` is off."""
        done = self.ssh("sudo", "-n", *argv)
        assert not check or done.returncode == 0, f"{shlex.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def read(self, file: str) -> str:
        """The content of a file in the machine."""
        return self.run("cat", file)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
