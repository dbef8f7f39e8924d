"""The conntrack helpers that users want of a router (`l3-conntrack-helper`), as far as an appliance can be told.

Whether the appliance's kernel has a helper is for the appliance to say.
"""

import re
from collections.abc import Iterable

from .cloud import Json

# What a name in the Linux kernel may be, and the transport protocols that it helps.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_PROTOCOLS = ("tcp", "udp")
_MOST = 256


def sorted_out(helpers: Iterable[Json]) -> tuple[list[Json], list[Json]]:
    """What an appliance is told, and what of `helpers` (Neutron's objects) it cannot be: a port has one helper."""
    told: dict[tuple[str, int], Json] = {}
    left = []
    for one in sorted(helpers, key=lambda one: (one["protocol"], int(one["port"]), one["helper"])):
        item = {"protocol": one["protocol"], "port": int(one["port"]), "helper": one["helper"]}
        key = (item["protocol"], item["port"])
        is_possible = item["protocol"] in _PROTOCOLS and _NAME.fullmatch(item["helper"]) and len(told) < _MOST
        if is_possible and key not in told:
            told[key] = item
        else:
            left.append(item)
    return list(told.values()), left
