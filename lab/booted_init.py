"""What runs as root in namespaces of its own for `lab.booted`: it installs in a root, or becomes the root's PID 1.

The root is an overlay of folders; all that is mounted here is gone with the mount namespace. The system that is booted
sees its own processes, network, cgroups, host name and devices; of the kernel's settings it can write the network's
alone, and it may not load modules or set the clock.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWCGROUP = 0x02000000
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_NEVER = "-sys_module,-sys_rawio,-sys_time,-syslog"
_SAFE = "nosuid,noexec,nodev"


def main() -> int:
    """`install …` or `boot …`, as below."""
    if sys.argv[1] == "install":
        return _install(*(Path(word) for word in sys.argv[2:6]), commands=sys.argv[6:])
    layers, upper, work, cgroup, facts, ready = sys.argv[2:8]
    _boot(layers, Path(upper), Path(work), Path(cgroup), Path(facts), int(ready))
    return 1


def _install(lower: Path, upper: Path, work: Path, desk: Path, *, commands: Sequence[str]) -> int:
    """Run commands, as an operator types them, in the checkout on `desk`; what they change is kept in `upper`."""
    root = desk / "root"
    root.mkdir()
    _overlay(root, str(lower), upper, work)
    _mount("--bind", str(desk), str(root / "mnt"))
    _mount("-t", "proc", "-o", _SAFE, "proc", str(root / "proc"))
    resolver = root / "run" / "resolv.conf"
    _mount("-t", "tmpfs", "-o", "mode=0755", "run", str(root / "run"))
    shutil.copyfile("/etc/resolv.conf", resolver)
    (root / "etc" / "resolv.conf").touch()
    _mount("--bind", str(resolver), str(root / "etc" / "resolv.conf"))
    os.chroot(root)
    os.chdir("/mnt/checkout")
    for command in commands:
        print(f"# {command}", flush=True)
        done = subprocess.run(("/bin/sh", "-ec", command), check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


def _boot(layers: str, upper: Path, work: Path, cgroup: Path, facts: Path, ready: int) -> None:
    """Become PID 1 of the system in `upper` above `layers` (joined by colons), in a cgroup that is its whole tree.

    `facts` is copied to where cloud-init writes what the orchestrator says. `ready` is a descriptor that gets the
    process id as it is outside.
    """
    outside = Path("/proc/self").readlink()
    (cgroup / "cgroup.procs").write_text("0", encoding="ascii")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), "no cgroup namespace")
    root = Path("/mnt")
    _overlay(root, layers, upper, work)
    _mount("-t", "proc", "-o", _SAFE, "proc", str(root / "proc"))
    _mount("-t", "sysfs", "-o", f"ro,{_SAFE}", "sysfs", str(root / "sys"))
    _mount("-t", "cgroup2", "-o", _SAFE, "cgroup2", str(root / "sys/fs/cgroup"))
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid,nodev", "run", str(root / "run"))
    settings = root / "proc/sys"
    _mount("--bind", str(settings), str(settings))
    _mount("--bind", str(settings / "net"), str(settings / "net"))
    _mount("-o", "remount,bind,ro", str(settings))
    _make_devices(root / "dev")
    shutil.copyfile(facts, root / "etc/astara/appliance.json")
    (root / "etc/astara/appliance.json").chmod(0o600)
    os.write(ready, f"{outside}\n".encode())
    os.close(ready)
    os.chdir(root)
    # The old root ends up on top of the new one, and is taken away.
    subprocess.run(("pivot_root", ".", "."), check=True)
    subprocess.run(("umount", "--lazy", "."), check=True)
    os.chdir("/")
    words = ("setpriv", "--bounding-set", _NEVER, "/lib/systemd/systemd")
    os.execvpe(words[0], words, {"container": "astara-lab", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606 - no shell is wanted


def _make_devices(folder: Path) -> None:
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid", "dev", str(folder))
    for name in _DEVICES:
        (folder / name).touch()
        _mount("--bind", f"/dev/{name}", str(folder / name))
    for name, kind, options in (("pts", "devpts", "newinstance,ptmxmode=0666,gid=5"), ("shm", "tmpfs", "mode=1777")):
        (folder / name).mkdir()
        _mount("-t", kind, "-o", options, name, str(folder / name))
    (folder / "ptmx").symlink_to("pts/ptmx")
    (folder / "fd").symlink_to("/proc/self/fd")


def _overlay(root: Path, layers: str, upper: Path, work: Path) -> None:
    _mount("-t", "overlay", "-o", f"lowerdir={layers},upperdir={upper},workdir={work}", "overlay", str(root))


def _mount(*words: str) -> None:
    subprocess.run(("mount", *words), check=True)


if __name__ == "__main__":
    sys.exit(main())
