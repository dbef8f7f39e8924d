"""Marks by which Astara knows its own objects in Neutron and Nova (docs/contracts.md), and what is derived from them.

Only objects that carry this deployment's mark are ever changed or removed. Everything here is a pure function: two
workers, or one worker twice, always find the same names, MAC addresses and tokens.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

SHARDS = 1024

MANAGEMENT = "mgt"
SERVICE = "svc"

META_DEPLOYMENT = "astara_deployment"
META_RESOURCE = "astara_resource"
META_SLOT = "astara_slot"
META_BOOT = "astara_boot"
META_OPERATION = "astara_operation"
META_TLS = "astara_tls"

_PREFIX = "astara"
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SLOT = re.compile(r"[0-9]{1,4}")


def shard_of(tenant_id: str) -> int:
    """The shard, 0 to 1023, of a tenant; work.proto fixes the function, so any implementation finds the same."""
    return int.from_bytes(hashlib.sha256(tenant_id.encode()).digest()[:4], "big") % SHARDS


@dataclass(frozen=True, slots=True)
class PortMark:
    """What a port's description says: whose it is and what it is for."""

    deployment: str
    resource_id: str
    slot: int
    role: str

    def description(self) -> str:
        """The text for the port's description."""
        return f"{_PREFIX}:{self.deployment}:{self.resource_id}:{self.slot}:{self.role}"

    def name(self) -> str:
        """The port's name, for people."""
        return f"{_PREFIX}-{self.role}-{self.resource_id}-{self.slot}"

    @classmethod
    def parse(cls, description: str | None) -> "PortMark | None":
        """Read a description; None when it is not a mark of any Astara deployment."""
        parts = (description or "").split(":")
        if len(parts) != 5 or parts[0] != _PREFIX or parts[4] not in (MANAGEMENT, SERVICE):
            return None
        # Where the plugin is not, any tenant writes any description: nothing in one may be an error.
        if not _SLOT.fullmatch(parts[3]):
            return None
        return cls(parts[1], parts[2], int(parts[3]), parts[4])


@dataclass(frozen=True, slots=True)
class ServerMark:
    """What a server's metadata says: whose instance it is, of which boot, by which command."""

    deployment: str
    resource_id: str
    slot: int
    boot_id: str
    operation_id: str = ""
    tls: bool = False
    """Whether it was given certificates at boot, and so speaks TLS."""

    def metadata(self) -> dict[str, str]:
        """Metadata for Nova. HA_Enabled=False keeps Masakari from evacuating what we replace ourselves."""
        return {
            META_DEPLOYMENT: self.deployment,
            META_RESOURCE: self.resource_id,
            META_SLOT: str(self.slot),
            META_BOOT: self.boot_id,
            META_OPERATION: self.operation_id,
            "HA_Enabled": "False",
            **({META_TLS: "1"} if self.tls else {}),
        }

    def name(self) -> str:
        """The server's name."""
        return server_name(self.resource_id, self.slot)

    @classmethod
    def parse(cls, metadata: dict[str, str] | None) -> "ServerMark | None":
        """Read a server's metadata; None when it is not a mark of any Astara deployment."""
        facts = metadata or {}
        deployment, resource = facts.get(META_DEPLOYMENT), facts.get(META_RESOURCE)
        slot = facts.get(META_SLOT, "0")
        if not deployment or not resource or not _SLOT.fullmatch(slot):
            return None
        return cls(
            deployment, resource, int(slot), facts.get(META_BOOT, ""), facts.get(META_OPERATION, ""), META_TLS in facts
        )


def is_safe_id(text: str) -> bool:
    """Whether a text may stand for an object's id: it goes into URLs that are called with an admin's rights.

    OpenStack's ids are UUIDs, or 32 hex digits; nothing wider than letters, digits, `_` and `-` is let in.
    """
    return _SAFE_ID.fullmatch(text) is not None


def server_name(resource_id: str, slot: int) -> str:
    """The name of the server that is a router's instance in a slot."""
    return f"{_PREFIX}-router-{resource_id}-{slot}"


def derive_mac(deployment: str, resource_id: str, slot: int, network_id: str, salt: int = 0) -> str:
    """The MAC address of an instance's port on a network.

    Neutron keeps MACs unique on a network: creating a port with this address is compare-and-set. The address is locally
    administered, unicast, with 40 derived bits. `salt` grows only when a port that is not ours holds the address.
    """
    digest = hashlib.sha256(f"{deployment}|{resource_id}|{slot}|{network_id}|{salt}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in b"\xfa" + digest[:5])


def appliance_token(secret: str, deployment: str, resource_id: str, slot: int, boot_id: str) -> str:
    """The token that an appliance and the orchestrator show each other: HMAC-SHA256 in hex."""
    facts = f"{deployment}|{resource_id}|{slot}|{boot_id}"
    return hmac.new(secret.encode(), facts.encode(), hashlib.sha256).hexdigest()
