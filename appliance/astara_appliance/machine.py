"""What the kernel says of this machine's network interfaces, from sysfs (sysfs-class-net)."""

from pathlib import Path

from .backend import Link

_ETHERNET = 1


def links(directory: Path = Path("/sys/class/net")) -> list[Link]:
    """The Ethernet interfaces in the order in which they were plugged, each MAC once.

    Interfaces that vanish while they are looked at are left out.
    """
    found: dict[str, tuple[int, Link]] = {}
    for entry in directory.iterdir():
        try:
            kind, index, mtu = (int((entry / name).read_text()) for name in ("type", "ifindex", "mtu"))
            mac = (entry / "address").read_text().strip().lower()
        except (OSError, ValueError):
            continue
        # A VLAN has the MAC of the interface that it lies on, and a higher index.
        if kind == _ETHERNET and (mac not in found or index < found[mac][0]):
            found[mac] = (index, Link(mac, mtu))
    return [link for _, link in sorted(found.values(), key=lambda item: item[0])]
