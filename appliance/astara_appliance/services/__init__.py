"""The network services of an appliance, one file each, all with the same verbs.

`read` what is in effect, `validate` what is asked, `render` the wanted state, `check` whether the machine would take
it, `commit` it, `roll_back` to what was in effect before the last commit. `ALL` is the order in which a push commits;
it rolls back in reverse. The firewall comes first: an address, a route or a daemon that is new is guarded before it is
there.
"""

from ..backend import Backend
from ..boot import BootData
from ..interfaces import InterfaceNames
from .base import Service
from .bgp import Bgp
from .dhcp import Dhcp
from .firewall import Firewall
from .interfaces import Interfaces
from .metadata_proxy import MetadataProxy
from .ra import RouterAdvertisement
from .routes import Routes

ALL: tuple[type[Service], ...] = (Firewall, Interfaces, Routes, Dhcp, RouterAdvertisement, Bgp, MetadataProxy)


def create(boot: BootData, backend: Backend, names: InterfaceNames) -> tuple[Service, ...]:
    """The services of one appliance, in the order in which a push commits them."""
    return tuple(service(boot, backend, names) for service in ALL)
