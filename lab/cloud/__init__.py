"""A simulated OpenStack, which openstacksdk, the openstack client and Astara talk to as if it were one."""

from .clouds import write_clouds
from .faults import Fault
from .hypervisor import AppliancesInProcess, Hypervisor, NoHypervisor
from .notifications import Message
from .options import SERVICES, CloudOptions
from .server import SimulatedCloud
from .store import Row
from .web import Context

__all__ = [
    "SERVICES",
    "AppliancesInProcess",
    "CloudOptions",
    "Context",
    "Fault",
    "Hypervisor",
    "Message",
    "NoHypervisor",
    "Row",
    "SimulatedCloud",
    "write_clouds",
]
