"""Writes the clouds.yaml with which openstacksdk and the openstack client find the simulated cloud."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ACCOUNTS = (("admin", "admin"), ("astara", "service"))


def cloud_entry(auth_url: str, user: str, project: str, password: str) -> dict[str, Any]:
    """One cloud of a clouds.yaml."""
    return {
        "auth": {
            "auth_url": auth_url, "username": user, "password": password, "project_name": project,
            "user_domain_id": "default", "project_domain_id": "default",
        },
        "region_name": "RegionOne",
        "identity_api_version": 3,
    }  # fmt: skip


def write_clouds(path: Path, auth_url: str, password: str, tenants: Iterable[str] = ()) -> None:
    """Write `path` with the clouds `admin`, `astara` and one for each tenant (user and project of that name)."""
    accounts = [*ACCOUNTS, *((name, name) for name in tenants)]
    clouds = {user: cloud_entry(auth_url, user, project, password) for user, project in accounts}
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump({"clouds": clouds}))
