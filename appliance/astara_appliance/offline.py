"""Would a configuration be accepted? Judged without a machine: as if every interface that it names were plugged."""

from . import services
from .backend import Link, RecordingBackend
from .boot import BootData, Management
from .interfaces import MANAGEMENT, InterfaceNames
from .models import Configuration
from .validation import InvalidConfiguration

_NOBODY = "00000000-0000-4000-8000-000000000000"
_MAC = "fa:00:00:00:{:02x}:{:02x}"
_ADDRESS = "fdca:3ba5:a17a:acda::ffff/128"


def judge(configuration: Configuration) -> Configuration:
    """The same; `InvalidConfiguration` with every field that services would refuse, beyond what the models do."""
    named = {}
    management = Management(mac=_MAC.format(255, 255), addresses=[_ADDRESS])
    for index, network in enumerate(configuration.networks):
        interface = network.interface
        mac = interface.lladdr or _MAC.format(index // 256, index % 256)
        if network.network_type == "management":
            management = Management(mac=mac, addresses=interface.addresses or [_ADDRESS])
        elif interface.ifname != MANAGEMENT:
            named[mac] = interface.ifname
    boot = BootData(version=1, deployment="check", resource_id=_NOBODY, instance=_NOBODY, management=management)
    backend = RecordingBackend([Link(mac, 1500) for mac in (management.mac, *named)])
    names = InterfaceNames(management.mac, named)
    errors = [error for service in services.create(boot, backend, names) for error in service.validate(configuration)]
    if errors:
        raise InvalidConfiguration(errors)
    return configuration
