"""Machines out of namespaces, between real bridges: they boot, get what a network offers, and leave nothing behind."""

import http.server
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.hypervisor.errors import HypervisorError, UnknownMachineError
from lab.hypervisor.hypervisor import Hypervisor, bridge_name
from lab.hypervisor.machine import Machine, Port
from lab.hypervisor.userdata import BOOT_FILE, File
from lab.wires import Fabric, Namespace

NET = "0b5c1c1e-6a2f-4f57-9d3b-000000000001"
OTHER_NET = "c7d1a0f2-6a2f-4f57-9d3b-000000000002"
WEB = Port("port-web", NET, "fa:16:3e:00:00:11", 1450)
DB = Port("port-db", NET, "fa:16:3e:00:00:12", 1450)


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Hypervisor]:
    made = Hypervisor(tmp_path / "hypervisor")
    yield made
    made.close()


@dataclass
class Router:
    """What a network offers: DHCP, router advertisements, metadata. Made of what Debian has, without our code."""

    namespace: Namespace
    hypervisor: Hypervisor

    def offer(self, *options: str) -> None:
        self.namespace.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-ping", "--interface=eth0",
            "--bind-interfaces", "--dhcp-leasefile=/dev/null", "--pid-file=", "--no-resolv",
            "--dhcp-authoritative", *options,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture
def router(hypervisor: Hypervisor) -> Iterator[Router]:
    fabric = Fabric(hypervisor.prefix, found=True)
    fabric.bridge(bridge_name(NET), 9000)
    with fabric.machine("router") as namespace:
        namespace.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
                      "net.ipv6.conf.all.forwarding=1")  # fmt: skip
        fabric.plug(bridge_name(NET), namespace, "eth0", mtu=1450)
        namespace.ip("link", "set", "eth0", "up")
        namespace.ip("address", "add", "10.1.0.1/24", "dev", "eth0")
        namespace.ip("address", "add", "2001:db8:1::1/64", "dev", "eth0")
        yield Router(namespace, hypervisor)


class _Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/openstack/latest/meta_data.json": json.dumps({"uuid": "u-1", "hostname": "web.novalocal"}),
            "/latest/meta-data/instance-id": "i-00000001",
        }
        answer = answers.get(self.path)
        self.send_response(200 if answer else 404)
        self.end_headers()
        self.wfile.write((answer or "").encode())

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def metadata(router: Router) -> Iterator[None]:
    router.namespace.ip("address", "add", "169.254.169.254/32", "dev", "lo")
    server = http.server.ThreadingHTTPServer(("", 0), _Metadata, bind_and_activate=False)
    server.socket.close()
    server.socket = router.namespace.socket()
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.server_address = ("169.254.169.254", 80)
    server.socket.bind(server.server_address)
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def until(true: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def said(hypervisor: Hypervisor, machine_id: str, pattern: str) -> None:
    """Returns when a machine has written a line like this on its console."""
    deadline = time.monotonic() + 90.0
    while not re.search(pattern, hypervisor.console(machine_id)):
        assert time.monotonic() < deadline, f"no {pattern!r} in:\n{hypervisor.console(machine_id)}"
        time.sleep(0.05)


def devices(hypervisor: Hypervisor, machine_id: str) -> dict[str, tuple[str, int]]:
    """MAC and MTU of the machine's interfaces by their names."""
    links = json.loads(hypervisor.run(machine_id, "ip", "-json", "link").stdout)
    return {link["ifname"]: (link["address"], link["mtu"]) for link in links if link["ifname"] != "lo"}


def command_lines() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def test_a_host_gets_address_route_name_server_and_mtu_by_dhcp(hypervisor: Hypervisor, router: Router):
    router.offer(
        "--dhcp-range=10.1.0.10,10.1.0.20", f"--dhcp-host={WEB.mac},10.1.0.15", "--dhcp-option=6,10.1.0.1",
        "--dhcp-option=26,1400", "--dhcp-option=121,0.0.0.0/0,10.1.0.1,192.0.2.0/24,10.1.0.9",
    )  # fmt: skip
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    said(hypervisor, "web", r"eth0 fa:16:3e:00:00:11 has 10\.1\.0\.15/24")
    until(lambda: router.namespace.run("ping", "-c1", "-W1", "10.1.0.15", check=False).returncode == 0)
    assert devices(hypervisor, "web") == {"eth0": (WEB.mac, 1400)}
    until(lambda: "192.0.2.0/24 via 10.1.0.9" in hypervisor.run("web", "ip", "route").stdout)
    assert "default via 10.1.0.1" in hypervisor.run("web", "ip", "route").stdout
    until(lambda: "nameserver 10.1.0.1" in hypervisor.run("web", "cat", "/etc/resolv.conf").stdout)
    assert "10.1.0.1" not in Path("/etc/resolv.conf").read_text()


@pytest.mark.usefixtures("metadata")
def test_a_host_is_named_by_its_metadata_and_answers_with_whom_it_sees(hypervisor: Hypervisor, router: Router):
    router.offer(f"--dhcp-host={WEB.mac},10.1.0.15", "--dhcp-range=10.1.0.10,10.1.0.20")
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    said(hypervisor, "web", r"metadata from http://169\.254\.169\.254 .* instance u-1 \(i-00000001\)")
    answer = router.namespace.run("curl", "-s", "http://10.1.0.15/").stdout
    assert json.loads(answer) == {"name": "web.novalocal", "you": "10.1.0.1", "me": "10.1.0.15"}
    assert hypervisor.run("web", "hostname").stdout.strip() == "web.novalocal"
    assert socket.gethostname() != "web.novalocal"


def test_a_host_has_an_address_by_router_advertisement(hypervisor: Hypervisor, router: Router):
    router.offer("--enable-ra", "--dhcp-range=2001:db8:1::,ra-only", "--ra-param=eth0,4")
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    said(hypervisor, "web", r"eth0 \S+ has 2001:db8:1:0:f816:3eff:fe00:11/64")
    until(lambda: router.namespace.run("ping", "-c1", "-W1", "2001:db8:1:0:f816:3eff:fe00:11").returncode == 0)
    until(lambda: "default via fe80::" in hypervisor.run("web", "ip", "-6", "route").stdout)


def test_a_host_asks_dhcp_for_the_address_that_an_advertisement_leaves_to_it(hypervisor: Hypervisor, router: Router):
    router.offer(
        "--enable-ra", "--dhcp-range=2001:db8:1::50,2001:db8:1::50", "--dhcp-option=option6:dns-server,[2001:db8:1::1]"
    )
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    said(hypervisor, "web", r"dhcp eth0: 2001:db8:1::50/128")
    until(lambda: "nameserver 2001:db8:1::1" in hypervisor.run("web", "cat", "/etc/resolv.conf").stdout)


def test_a_host_takes_only_options_from_dhcp_where_the_advertisement_says_so(hypervisor: Hypervisor, router: Router):
    router.offer(
        "--enable-ra", "--dhcp-range=2001:db8:1::,ra-stateless", "--dhcp-option=option6:dns-server,[2001:db8:1::1]"
    )
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    said(hypervisor, "web", r"has 2001:db8:1:0:f816:3eff:fe00:11/64")
    until(lambda: "nameserver 2001:db8:1::1" in hypervisor.run("web", "cat", "/etc/resolv.conf").stdout)


def test_ports_come_and_go_while_the_machine_runs(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    more = Port("port-2", OTHER_NET, "fa:16:3e:00:00:21", 1300)
    hypervisor.attach("web", more)
    hypervisor.attach("web", more)
    assert devices(hypervisor, "web") == {"eth0": (WEB.mac, 1450), "eth1": (more.mac, 1300)}
    hypervisor.detach("web", WEB.id)
    hypervisor.detach("web", WEB.id)
    assert devices(hypervisor, "web") == {"eth1": (more.mac, 1300)}
    # As a kernel names them: the place is free again.
    hypervisor.attach("web", DB)
    assert devices(hypervisor, "web") == {"eth1": (more.mac, 1300), "eth0": (DB.mac, 1450)}
    bridges = Fabric(hypervisor.prefix, found=True).switch.ip("link", "show", "type", "bridge")
    assert bridge_name(NET) in bridges
    hypervisor.destroy("web")
    assert Fabric(hypervisor.prefix, found=True).switch.ip("link", "show", "type", "bridge") == ""


def test_machines_on_one_network_see_each_other_and_nobody_elses(hypervisor: Hypervisor):
    for name, port in (("web", WEB), ("db", DB), ("spy", Port("port-spy", OTHER_NET, "fa:16:3e:00:00:31"))):
        hypervisor.boot(Machine(name, name, ports=(port,)))
        said(hypervisor, name, "boots")
    address = "fe80::f816:3eff:fe00:12%eth0"
    until(lambda: hypervisor.run("web", "ping", "-c1", "-W1", address).returncode == 0)
    assert hypervisor.run("spy", "ping", "-c1", "-W1", address).returncode != 0


def test_a_reboot_keeps_the_disk_and_empties_what_lives_in_memory(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web", files=(File("/etc/motd", "hello\n", 0o640),), ports=(WEB,)))
    for path in ("/etc/astara/kept", "/var/lib/astara/kept", "/run/astara/gone", "/etc/gone"):
        assert hypervisor.run("web", "touch", path).returncode == 0
    before = hypervisor.machine("web").process
    hypervisor.reboot("web")
    assert hypervisor.machine("web").process != before
    assert devices(hypervisor, "web") == {"eth0": (WEB.mac, 1450)}
    found = hypervisor.run("web", "ls", "/etc/astara", "/var/lib/astara", "/run/astara").stdout.split()
    assert (found.count("kept"), "gone" in found) == (2, False)
    assert hypervisor.run("web", "stat", "-c", "%a", "/etc/motd").stdout == "640\n"
    assert not Path("/etc/astara/kept").exists()


def test_the_files_of_a_machine_stay_in_the_machine(hypervisor: Hypervisor, tmp_path: Path):
    outside = tmp_path / "outside"
    files = (File("/etc/astara/../astara/told", "x"), File(str(outside), "x"), File("/etc/../tmp/told", "x"))
    hypervisor.boot(Machine("web", "web", files=files))
    assert hypervisor.run("web", "cat", "/etc/astara/told").stdout == "x"
    assert not outside.exists()
    assert not Path("/tmp/told").exists()  # noqa: S108
    assert hypervisor.console("web").count("is not written") == 2


def test_an_appliance_runs_the_agent_on_its_management_address(hypervisor: Hypervisor):
    hypervisor.reach(NET, ["fdca:3ba5:a17a:acfe::1/64"])
    port = Port("port-mgt", NET, "fa:00:00:00:00:01")
    boot = {
        "version": 1, "deployment": "test", "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "management": {"mac": port.mac, "addresses": ["fdca:3ba5:a17a:acfe::5/64"]},
        "orchestrator": {"addresses": ["fdca:3ba5:a17a:acfe::1"]},
    }  # fmt: skip
    files = (File(BOOT_FILE, json.dumps(boot), 0o600),)
    hypervisor.boot(Machine("router", "astara-router", files=files, ports=(port,)))
    assert hypervisor.machine("router").kind == "appliance"

    def asked() -> str:
        ask = ("curl", "-sg", "--noproxy", "*", "--max-time", "2", "http://[fdca:3ba5:a17a:acfe::5]:5000/v1/status")
        return subprocess.run(ask, capture_output=True, text=True, check=False).stdout

    until(asked)
    assert json.loads(asked())["instance"] == boot["instance"]
    hypervisor.reboot("router")
    until(asked)
    hypervisor.kill("router")
    assert asked() == ""


def test_a_machine_outlives_the_hypervisor_and_the_next_one_goes_on_with_it(tmp_path: Path):
    root = tmp_path / "hypervisor"
    booting = (
        "import sys; from pathlib import Path; from lab.hypervisor.hypervisor import Hypervisor;"
        "from lab.hypervisor.machine import Machine, Port;"
        f"Hypervisor(Path(sys.argv[1])).boot(Machine('web', 'web', ports=(Port('p', {NET!r}, '{WEB.mac}'),)))"
    )
    subprocess.run([sys.executable, "-c", booting, str(root)], check=True)
    hypervisor = Hypervisor(root)
    try:
        assert [(one.id, one.state) for one in hypervisor.machines()] == [("web", "running")]
        hypervisor.attach("web", DB)
        assert set(devices(hypervisor, "web")) == {"eth0", "eth1"}
        hypervisor.kill("web")
        assert hypervisor.machine("web").state == "crashed"
    finally:
        hypervisor.close()


def test_a_dead_machine_forwards_nothing_and_starts_again(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    namespace = Path("/run/netns") / f"{hypervisor.prefix}-web"
    assert namespace.exists()
    hypervisor.kill("web")
    assert not namespace.exists()
    with pytest.raises(HypervisorError):
        hypervisor.run("web", "true")
    hypervisor.power("web", on=True)
    assert devices(hypervisor, "web") == {"eth0": (WEB.mac, 1450)}
    hypervisor.power("web", on=False)
    assert (hypervisor.machine("web").state, namespace.exists()) == ("off", False)
    # What is plugged while it is off is there when it boots.
    hypervisor.attach("web", DB)
    hypervisor.power("web", on=True)
    assert {mac for mac, _ in devices(hypervisor, "web").values()} == {WEB.mac, DB.mac}


def test_a_machine_whose_first_process_dies_is_dead(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web", ports=(WEB,)))
    process = hypervisor.machine("web").process
    assert process is not None
    process.signal(signal.SIGKILL)
    namespace = Path("/run/netns") / f"{hypervisor.prefix}-web"
    until(lambda: not namespace.exists())
    assert hypervisor.machine("web").state == "crashed"
    hypervisor.reboot("web", hard=True)
    assert devices(hypervisor, "web") == {"eth0": (WEB.mac, 1450)}


def test_what_runs_in_a_machine_dies_with_it(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web"))
    hypervisor.run("web", "setsid", "--fork", "sh", "-c", "exec sleep 60123 >&- 2>&-")
    until(lambda: "sleep 60123" in hypervisor.run("web", "ps", "ax").stdout)
    hypervisor.destroy("web")
    until(lambda: not any(line.startswith("sleep 60123") for line in command_lines()))


def test_a_program_that_ends_is_started_again(hypervisor: Hypervisor):
    hypervisor.boot(Machine("web", "web"))
    find = ("pgrep", "-f", "lab.hypervisor.host")
    until(lambda: hypervisor.run("web", *find).stdout)
    before = hypervisor.run("web", *find).stdout
    hypervisor.run("web", "pkill", "-9", "-f", "lab.hypervisor.host")
    until(lambda: hypervisor.run("web", *find).stdout not in ("", before))
    said(hypervisor, "web", "ended with -9; it is started again")


def test_nothing_is_left_behind(tmp_path: Path):
    root = tmp_path / "hypervisor"
    hypervisor = Hypervisor(root)

    def made() -> set[str]:
        names = {path.name for path in Path("/run/netns").iterdir()} | set(dict(socket.if_nameindex()).values())
        return {name for name in names if hypervisor.prefix[-6:] in name}

    hypervisor.reach(NET, ["fdca:3ba5:a17a:acff::1/64"])
    hypervisor.outside(OTHER_NET, ["172.24.4.1/24", "2001:db8::2/64"])
    for name, port in (("web", WEB), ("db", DB)):
        hypervisor.boot(Machine(name, name, ports=(port,)))
    assert len(made()) == 6
    hypervisor.close()
    assert made() == set()
    assert not root.exists()
    assert not any(str(root) in line for line in command_lines())


def test_the_internet_answers_behind_an_external_network(hypervisor: Hypervisor):
    hypervisor.outside(NET, ["172.24.4.1/24", "2001:db8::2/64"])
    fabric = Fabric(hypervisor.prefix, found=True)
    with fabric.machine("customer") as customer:
        fabric.plug(bridge_name(NET), customer, "eth0")
        customer.ip("link", "set", "eth0", "up")
        customer.ip("address", "add", "172.24.4.9/24", "dev", "eth0")
        customer.ip("address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
        for gateway in ("172.24.4.1", "2001:db8::2"):
            customer.ip("route", "add", "default", "via", gateway)
        for address, own in (("203.0.113.80", "172.24.4.9"), ("[2001:db8:ffff::80]", "2001:db8::9")):
            ask = ("curl", "-sg", "--max-time", "2", f"http://{address}/")
            until(lambda ask=ask: customer.run(*ask, check=False).returncode == 0)
            answer = json.loads(customer.run(*ask).stdout)
            assert (answer["name"], answer["you"]) == ("internet", own)


def test_the_outside_learns_by_bgp_what_is_behind_a_router(hypervisor: Hypervisor, tmp_path: Path):
    hypervisor.outside(NET, ["172.24.4.1/24"])
    hypervisor.outside(NET, ["172.24.4.1/24", "2001:db8::2/64"])
    fabric = Fabric(hypervisor.prefix, found=True)
    with fabric.machine("customer") as customer:
        fabric.plug(bridge_name(NET), customer, "eth0")
        customer.ip("link", "set", "eth0", "up")
        customer.ip("address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
        customer.ip("address", "add", "2001:db8:7::1/64", "dev", "lo")
        customer.ip("route", "add", "default", "via", "2001:db8::2")
        ask = ("curl", "-sg", "--max-time", "2", "--interface", "2001:db8:7::1", "http://[2001:db8:ffff::80]/")
        assert customer.run(*ask, check=False).returncode != 0
        (tmp_path / "bird.conf").write_text("""
            router id 172.24.4.9;
            protocol device { }
            protocol static mine { ipv6; route 2001:db8:7::/64 via "eth0"; }
            protocol bgp upstream {
              local 2001:db8::9 as 64512; neighbor 2001:db8::2 as 64512; direct; connect delay time 1;
              ipv6 { import none; export where proto = "mine"; next hop self; };
            }
        """)
        customer.run("bird", "-c", str(tmp_path / "bird.conf"), "-s", str(tmp_path / "bird.ctl"))
        until(lambda: customer.run(*ask, check=False).returncode == 0)
        assert json.loads(customer.run(*ask).stdout)["you"] == "2001:db8:7::1"


def test_machines_that_are_not_there_or_cannot_be(hypervisor: Hypervisor):
    for verb in (hypervisor.reboot, hypervisor.kill, hypervisor.console):
        with pytest.raises(UnknownMachineError):
            verb("nobody")
    hypervisor.destroy("nobody")
    with pytest.raises(HypervisorError, match="cannot be a machine's id"):
        hypervisor.boot(Machine("../../etc", "x"))
    hypervisor.boot(Machine("web", "web"))
    with pytest.raises(HypervisorError, match="there already"):
        hypervisor.boot(Machine("web", "web"))
