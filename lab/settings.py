"""The settings file with which the orchestrator runs against the simulated cloud: what an operator would write."""

import configparser
from typing import Any

from openstack.config import OpenStackConfig
from openstack.connection import Connection

from lab.layout import Layout, Plan

IMAGE = "astara"
FLAVOR = "m1.astara"
MANAGEMENT_NETWORK = "astara-mgmt"

# Whoever kills a machine wants to see it replaced soon.
_IMPATIENT_HEALTH = {"poll_interval": "5"}
_IMPATIENT_WORKER = {"alive_timeout": "1", "alive_retry_interval": "0.5", "dead_after": "5"}


def connect(layout: Layout, account: str) -> Any:
    """A connection of one of the lab's accounts: admin, astara, or a tenant's user."""
    clouds = OpenStackConfig(config_files=[str(layout.clouds)], load_envvars=False)
    return Connection(config=clouds.get_one(cloud=account))


def write(layout: Layout, plan: Plan) -> None:
    """Look up the cloud's ids and write the file."""
    with connect(layout, "astara") as cloud:
        image = cloud.image.find_image(IMAGE, ignore_missing=False).id
        network = cloud.network.find_network(MANAGEMENT_NETWORK, ignore_missing=False).id
    sections = _sections(layout, plan, image, network)
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_dict(sections)
    layout.config.touch(mode=0o600)
    with layout.config.open("w", encoding="utf-8") as file:
        file.write("# Written by `make up`; `make down` removes it.\n")
        ini.write(file)


def _sections(layout: Layout, plan: Plan, image: str, network: str) -> dict[str, dict[str, str]]:
    ports = plan.ports

    def listen(service: str) -> str:
        return f"127.0.0.1:{ports.grpc(service)}"

    return {
        "DEFAULT": {"deployment": "lab", "host": "lab", "log_level": "info", "log_format": "json"},
        "grpc": {"scheduler": listen("scheduler")},
        "openstack": {
            "auth_type": "password",
            "auth_url": plan.auth_url,
            "username": "astara",
            "password": "lab",
            "project_name": "service",
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
        "scheduler": {"listen": listen("scheduler"), "database": f"sqlite:///{layout.database}"},
        "notifier": {"listen": listen("notifier"), "broker": plan.amqp_url},
        "health": {"listen": listen("health")} | (_IMPATIENT_HEALTH if plan.namespaces else {}),
        "claim": {"claim": "all"},
        "worker": {"listen": listen("worker-1")},
        "router": {
            "image_id": image,
            "flavor": FLAVOR,
            "management_network_id": network,
            "orchestrator_addresses": plan.orchestrator_address,
            "metadata_port": str(ports.metadata),
            "boot_look_interval": "0.25",
        },
        "appliance": {"secret": plan.appliance_secret} | (_IMPATIENT_WORKER if plan.namespaces else {}),
        "metadata": {
            "listen": plan.orchestrator_address,
            "port": str(ports.metadata),
            "grpc_listen": listen("metadata"),
            "nova_metadata_url": f"http://127.0.0.1:{ports.cloud + 4}",
            "shared_secret": plan.metadata_secret,
        },
        "rpcapi": {"port": str(ports.api), "grpc_listen": listen("rpcapi"), "auth": "none"},
    }
