"""One OVN, one database and one Neutron for all tests of this folder; each test makes its own networks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import mariadb_running
import ovn_central
import pytest
from neutron_on_ovn import PHYSICAL_NETWORK, Neutron
from ovn_central import OvnCentral
from ovn_clouds import Site

GATEWAY_CHASSIS = "gateway-1"


@pytest.fixture(scope="session")
def ovn() -> Iterator[OvnCentral]:
    assert ovn_central.installed(), ovn_central.MISSING
    with tempfile.TemporaryDirectory(prefix="astara-ovn-") as folder:
        central = OvnCentral(Path(folder))
        try:
            central.start()
            central.add_chassis(GATEWAY_CHASSIS, PHYSICAL_NETWORK)
            yield central
        finally:
            central.stop()


@pytest.fixture(scope="session")
def neutron(ovn: OvnCentral) -> Iterator[Neutron]:
    assert mariadb_running.installed(), mariadb_running.MISSING
    with (
        tempfile.TemporaryDirectory(prefix="astara-neutron-") as folder,
        mariadb_running.private_mariadb() as mariadb,
    ):
        made = Neutron(Path(folder), mariadb.new_database(), ovn)
        made.make_tables()
        with made.running():
            yield made


@pytest.fixture(scope="session")
def site(neutron: Neutron, ovn: OvnCentral) -> Site:
    """An external network, and the router flavor of Astara."""
    return Site(neutron, ovn)
