"""The mark on Neutron's ports that are Astara's own: `astara:<deployment>:<resource>:<slot>:<role>` as description.

The same grammar as everywhere in Astara (docs/contracts.md). Pure functions.
"""

import re
from dataclasses import dataclass

MANAGEMENT = "mgt"
SERVICE = "svc"
PREFIX = "astara:"

_SLOT = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class PortMark:
    """What a port's description says: whose it is (`resource_id`, a router) and what it is for (`role`)."""

    deployment: str
    resource_id: str
    slot: int
    role: str


def parse(description: str | None) -> PortMark | None:
    """Read a description; None when it is not a mark."""
    parts = (description or "").split(":")
    if (
        len(parts) != 5
        or parts[0] != "astara"
        or parts[4] not in (MANAGEMENT, SERVICE)
        or not _SLOT.fullmatch(parts[3])
    ):
        return None
    return PortMark(parts[1], parts[2], int(parts[3]), parts[4])
