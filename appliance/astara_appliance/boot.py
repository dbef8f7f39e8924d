"""What the orchestrator told this appliance when it booted it: /etc/astara/appliance.json.

The facts are fixed for one life of the instance. Fields that this agent does not know are ignored, because a younger
orchestrator may boot an older image; what the agent needs is checked before it listens anywhere.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .fields import Address, InterfaceAddress, Mac, Mtu, Port, Tenant, Uuid

Addresses = Annotated[list[InterfaceAddress], Field(min_length=1, max_length=16)]


class BootError(Exception):
    """The boot file is missing, is not JSON, or lacks a fact; the message names which."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Management(_Facts):
    """The interface on which the orchestrator reaches this appliance; it is always `ge0`."""

    mac: Mac
    addresses: Addresses
    mtu: Mtu = 1500
    gateway: Address | None = None


class Orchestrator(_Facts):
    """Where the metadata service and the operator's API answer."""

    addresses: Annotated[list[Address], Field(max_length=16)] = []
    metadata_port: Port = 9697
    api_port: Port = 44250


class BootData(_Facts):
    """The document of docs/contracts.md, "What an appliance is told at boot"."""

    version: Literal[1]
    deployment: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,16}$")]
    resource_id: Uuid
    resource_kind: Literal["router", "loadbalancer", "load_balancer"] = "router"
    slot: Annotated[int, Field(ge=0, le=255)] = 0
    tenant_id: Tenant | None = None
    instance: Uuid
    management: Management
    orchestrator: Orchestrator = Orchestrator()
    api_port: Port = 5000
    probes: Annotated[list[Address], Field(max_length=16)] = []
    """Addresses that are pinged, besides the default gateways, to tell whether the upstream answers."""
    token: Annotated[str | None, Field(pattern=r"^[\x21-\x7e]{0,512}$", repr=False)] = None

    @field_validator("token")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """The management addresses without their prefix lengths."""
        return tuple(str(ipaddress.ip_interface(address).ip) for address in self.management.addresses)


def read_boot_file(path: Path) -> BootData:
    """The facts in `path`; raises `BootError` when they cannot be had."""
    try:
        return BootData.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BootError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        # Messages only: the input holds the token.
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise BootError(f"{path} is not a boot file: {wrong}") from None
