"""Reading one router from a real Neutron: by the snapshot of `astara-neutron`, and by what every Neutron offers.

Root, and the OpenStack rig beside this checkout. Neutron's API has two processes there; the clock runs from the
question to the reading that the worker goes on with.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import openstack
from openstack.connection import Connection

from bench.measure import Figure, quantile
from lab import rig
from services.worker.cloud import Cloud
from services.worker.neutron import SNAPSHOT, Neutron
from services.worker.settings import WorkerSettings

ROUTERS, PORTS, READINGS, RUNS = 50, 20, 30, 5
_NAME = "bench-snapshot"


@contextmanager
def _routers(admin: Connection) -> Iterator[str]:
    """Routers with one network each, the first with more ports; its id."""
    network = admin.network
    _clear(admin)
    first = ""
    try:
        for number in range(ROUTERS):
            net = network.create_network(name=_NAME)
            subnet = network.create_subnet(network_id=net.id, cidr=f"10.{number}.0.0/24", ip_version=4)
            router = network.create_router(name=_NAME)
            network.add_interface_to_router(router, subnet_id=subnet.id)
            if not first:
                first = router.id
                for _ in range(PORTS):
                    network.create_port(network_id=net.id)
        yield first
    finally:
        _clear(admin)


def _clear(admin: Connection) -> None:
    network = admin.network
    for router in list(network.routers(name=_NAME)):
        for port in list(network.ports(device_id=router.id)):
            network.remove_interface_from_router(router, port_id=port.id)
        network.delete_router(router)
    for net in list(network.networks(name=_NAME)):
        for port in list(network.ports(network_id=net.id)):
            network.delete_port(port)
        network.delete_network(net)


async def _readings(neutron: Neutron, router: str) -> list[float]:
    taken = []
    for _ in range(READINGS):
        started = time.perf_counter()
        await neutron.read_router(router, None)
        taken.append((time.perf_counter() - started) * 1000)
    return taken


async def _measure(admin: Connection, router: str) -> None:
    cloud = Cloud(admin, WorkerSettings())
    neutron = Neutron(cloud.neutron, "bench")
    try:
        await neutron.load_extensions()
        with_snapshot = [quantile(await _readings(neutron, router), 0.5) for _ in range(RUNS)]
        neutron.extensions -= {SNAPSHOT}
        without = [quantile(await _readings(neutron, router), 0.5) for _ in range(RUNS)]
    finally:
        cloud.close()
    Figure("reading_by_snapshot", "ms", with_snapshot, note=f"real Neutron; {PORTS} ports, 1 call").write()
    Figure("reading_without_snapshot", "ms", without, note=f"real Neutron; {PORTS} ports, 6 calls").write()
    pages = []
    for _ in range(RUNS):
        started = time.perf_counter()
        answer = admin.network.get(f"/astara-router-snapshots?limit={ROUTERS}")
        pages.append((time.perf_counter() - started) * 1000)
        assert len(answer.json()["router_snapshots"]) == ROUTERS, answer.text[:500]
    Figure("page_of_snapshots", "ms", pages, note=f"real Neutron; {ROUTERS} routers in full").write()


@contextmanager
def _orchestrator(admin: Connection) -> Iterator[Connection]:
    """The administrator, with the role that the plugin's policy asks for."""
    identity = admin.identity
    role = identity.find_role(rig.ORCHESTRATOR) or identity.create_role(name=rig.ORCHESTRATOR)
    project, user = admin.session.get_project_id(), admin.session.get_user_id()
    identity.assign_project_role_to_user(project, user, role)
    try:
        with openstack.connect(cloud="rig") as connection:
            yield connection
    finally:
        identity.unassign_project_role_from_user(project, user, role)


def main() -> None:
    """Measure on the rig's control plane."""
    with rig.control_plane() as (admin, _), _orchestrator(admin) as connection, _routers(connection) as router:
        asyncio.run(_measure(connection, router))


if __name__ == "__main__":
    main()
