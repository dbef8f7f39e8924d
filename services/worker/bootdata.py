"""User data for a new instance (docs/contracts.md): cloud-config that carries /etc/astara/appliance.json."""

import base64
import ipaddress
import json
from typing import Any

from services.common import marks

from .cloud import Json
from .settings import ApplianceSettings, RouterSettings

BOOT_FILE = "/etc/astara/appliance.json"


def with_prefixes(port: Json, subnets: dict[str, Json]) -> list[str]:
    """A port's addresses with the prefix lengths of their subnets."""
    return [
        f"{ip['ip_address']}/{ipaddress.ip_network(subnets[ip['subnet_id']]['cidr']).prefixlen}"
        for ip in port["fixed_ips"]
    ]


def user_data(
    mark: marks.ServerMark,
    tenant_id: str,
    management: Json,
    router: RouterSettings,
    appliance: ApplianceSettings,
    more_files: list[Json],
) -> str:
    """Base64 of the cloud-config, as Nova wants it.

    `management` is the port with `cidrs`, `mtu`, `gateway` added; `more_files` are entries of write_files.
    """
    facts = {
        "version": 1,
        "deployment": mark.deployment,
        "resource_id": mark.resource_id,
        "resource_kind": "router",
        "slot": mark.slot,
        "tenant_id": tenant_id,
        "instance": mark.boot_id,
        "management": {
            "mac": management["mac_address"],
            "addresses": management["cidrs"],
            "mtu": management["mtu"],
            "gateway": management["gateway"],
        },
        "orchestrator": {
            "addresses": list(router.orchestrator_addresses),
            "metadata_port": router.metadata_port,
            "api_port": 44250,
        },
        "api_port": appliance.port,
        "token": marks.appliance_token(appliance.secret, mark.deployment, mark.resource_id, mark.slot, mark.boot_id),
    }
    cloud_config: dict[str, Any] = {
        "write_files": [{"path": BOOT_FILE, "permissions": "0600", "content": json.dumps(facts)}, *more_files],
    }
    if router.ssh_public_key:
        cloud_config["users"] = [
            {"name": "astara", "shell": "/bin/bash", "ssh_authorized_keys": [router.ssh_public_key]},
        ]
    # JSON is YAML, and takes a thousandth of the time to write.
    text = "#cloud-config\n" + json.dumps(cloud_config, sort_keys=True) + "\n"
    return base64.b64encode(text.encode()).decode()
