"""`python -m lab.cloud`: the simulated cloud as a process of its own, until SIGINT or SIGTERM."""

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

import uvloop
from astara_appliance.host import ApplianceHost

from lab.hypervisor.hypervisor import Hypervisor

from .clouds import write_clouds
from .hypervisor import AppliancesInProcess, NoHypervisor
from .namespaces import NamespaceHypervisor
from .options import CloudOptions
from .server import SimulatedCloud


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m lab.cloud", description="A simulated OpenStack.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument(
        "--advertise", default="", metavar="NAME",
        help="host name in the URLs that the cloud tells its clients (default: the address)",
    )  # fmt: skip
    parser.add_argument(
        "--port-base", type=int, default=35000,
        help="first of six ports: keystone, neutron, nova, glance, metadata, lab (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--amqp-url", default=os.environ.get("ASTARA_LAB_AMQP_URL"),
        help="broker for notifications (default $ASTARA_LAB_AMQP_URL); without it none are sent",
    )  # fmt: skip
    parser.add_argument("--clouds", type=Path, help="write a clouds.yaml to this file")
    parser.add_argument("--tenant", action="append", default=[], help="make a project with a member of that name")
    parser.add_argument("--password", default="lab", help="password of all accounts (default %(default)s)")
    parser.add_argument(
        "--metadata-secret", default=os.environ.get("ASTARA_LAB_METADATA_SECRET", "lab-metadata-secret"),
        help="shared secret of the metadata API (default $ASTARA_LAB_METADATA_SECRET)",
    )  # fmt: skip
    parser.add_argument(
        "--management-cidr", default="127.64.0.0/16",
        help="management addresses of appliances; two clouds on one machine need different ones (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--boot-delay", type=float, default=1.0, help="seconds from boot to ACTIVE (default 1)")
    parser.add_argument("--delete-delay", type=float, default=0.2, help="seconds that a delete takes (default 0.2)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every call (default 0)")
    parser.add_argument("--plugin", action="store_true", help="Neutron has Astara's own plugin")
    parser.add_argument("--segments", action="store_true", help="Neutron has segments: ports need no addresses")
    inside = parser.add_mutually_exclusive_group()
    inside.add_argument("--no-appliances", action="store_true", help="servers have no inside")
    inside.add_argument(
        "--hypervisor", type=Path, metavar="FOLDER",
        help="servers are machines made of namespaces, which live in this folder (needs root); default: appliances "
        "are agents in this process, and other servers have no inside",
    )  # fmt: skip
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> None:
    latency = dict.fromkeys(("keystone", "neutron", "nova", "glance"), arguments.latency)
    options = CloudOptions(
        host=arguments.host, advertise=arguments.advertise, port_base=arguments.port_base, password=arguments.password,
        amqp_url=arguments.amqp_url, metadata_secret=arguments.metadata_secret, boot_delay=arguments.boot_delay,
        delete_delay=arguments.delete_delay, latency=latency, segments=arguments.segments,
        plugin=arguments.plugin,
        management_cidr=arguments.management_cidr,
    )  # fmt: skip
    hypervisor = _hypervisor(arguments)
    cloud = SimulatedCloud(options, hypervisor or NoHypervisor())
    management = cloud.seed()
    if isinstance(hypervisor, NamespaceHypervisor):
        await hypervisor.open(cloud.network, management, options.management_cidr)
    for name in arguments.tenant:
        cloud.tenant(name)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await cloud.start()
    if arguments.clouds is not None:
        write_clouds(arguments.clouds, cloud.auth_url, options.password, arguments.tenant)
    print(f"simulated cloud at {cloud.auth_url}, faults and calls at {cloud.urls['lab']}/lab", flush=True)
    await stopping.wait()
    await cloud.stop()
    if hypervisor is not None:
        await hypervisor.close()


def _hypervisor(arguments: argparse.Namespace) -> AppliancesInProcess | NamespaceHypervisor | None:
    if arguments.no_appliances:
        return None
    if arguments.hypervisor is not None:
        return NamespaceHypervisor(Hypervisor(arguments.hypervisor))
    return AppliancesInProcess(ApplianceHost(metadata=True))


if __name__ == "__main__":
    main()
