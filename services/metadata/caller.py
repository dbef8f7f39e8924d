"""Who asks: the facts that an appliance sends, and the token that proves them (docs/contracts.md).

The token proves deployment, resource, slot and instance, and nothing else: network and source address are claims, which
`service` checks against what the scheduler and Neutron know.
"""

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.common import marks
from services.metadata.errors import ForbiddenError, MalformedError

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_SLOT = re.compile(r"[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated appliance, and for whom it asks."""

    resource_id: str
    slot: int
    instance_id: str
    network_id: str
    source: str
    """Address of the instance, in its canonical spelling."""


def authenticate(headers: Mapping[str, str], deployment: str, secret: str) -> Caller:
    """The caller that the headers name and prove. MalformedError or ForbiddenError, neither with the token in it."""
    resource_id = _fact(headers, "X-Astara-Resource", _ID)
    slot = _fact(headers, "X-Astara-Slot", _SLOT)
    instance_id = _fact(headers, "X-Astara-Instance", _ID)
    network_id = _fact(headers, "X-Astara-Network", _ID)
    scheme, _, shown = headers.get("Authorization", "").partition(" ")
    if headers.get("X-Astara-Deployment") != deployment or scheme.lower() != "bearer":
        raise ForbiddenError(f"resource {resource_id}: no token, or one of another deployment")
    token = marks.appliance_token(secret, deployment, resource_id, int(slot), instance_id)
    # As bytes: compare_digest refuses text that is not ASCII, and a header may hold any byte.
    if not hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode()):
        raise ForbiddenError(f"resource {resource_id}: wrong token for slot {slot}, instance {instance_id}")
    try:
        source = str(ipaddress.ip_address(headers.get("X-Forwarded-For", "")))
    except ValueError:
        raise MalformedError(f"resource {resource_id}: X-Forwarded-For is not one address") from None
    return Caller(resource_id, int(slot), instance_id, network_id, source)


def _fact(headers: Mapping[str, str], name: str, form: re.Pattern[str]) -> str:
    value = headers.get(name, "")
    if not form.fullmatch(value):
        raise MalformedError(f"{name} is missing or malformed")
    return value
