"""What the preflight says in words when the cloud or the settings lack something, and that it says nothing else."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from worker_running import Bench, do, running

from lab.workbench import SECRET
from services.worker.cloud import Cloud
from services.worker.neutron import Neutron
from services.worker.preflight import Preflight
from services.worker.settings import ApplianceSettings, RouterSettings, WorkerSettings

NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as started:
        yield started


async def findings(bench: Bench, user: str = "astara", *, secret: str = SECRET, **router: Any) -> list[str]:
    network = next(row for row in bench.cloud.network.networks.table if row["name"] == "astara-mgmt")
    image = next(row for row in bench.cloud.image.images if row["name"] == "astara")
    settings = replace(RouterSettings(image["id"], "m1.astara", network["id"]), **router)
    project = "service" if user == "astara" else user
    cloud = Cloud(bench.connect(user, project), WorkerSettings())
    try:
        preflight = Preflight(cloud, Neutron(cloud.neutron, "lab"), settings, ApplianceSettings(secret))
        facts, found = await preflight.look()
    finally:
        cloud.close()
    assert (facts is None) == bool(found)
    return found


async def test_a_cloud_that_lacks_nothing_passes(bench: Bench) -> None:
    assert await findings(bench) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"image_id": NOWHERE}, f"[router] image_id: Glance has no image {NOWHERE} that the service user can see"),
        ({"flavor": "huge"}, "[router] flavor: Nova has no flavor 'huge' that the service user can use"),
        (
            {"management_network_id": NOWHERE},
            f"[router] management_network_id: Neutron has no network {NOWHERE} that the service user can see",
        ),
        ({"secret": "short"}, "[appliance] secret has fewer than 16 characters: choose a longer one"),
    ],
)
async def test_a_wrong_setting_is_named(bench: Bench, wrong: dict[str, Any], sentence: str) -> None:
    assert sentence in await findings(bench, **wrong)


async def test_everything_that_is_lacking_is_said_at_once(bench: Bench) -> None:
    found = await findings(bench, secret="short", image_id=NOWHERE, flavor="huge")
    assert len(found) == 3


async def test_an_ordinary_member_is_told_to_be_an_admin(bench: Bench) -> None:
    await bench.tenant_router("one")
    assert any("ordinary member" in one and "role admin" in one for one in await findings(bench, "one"))


async def test_a_user_without_a_role_is_told_so(bench: Bench) -> None:
    bench.fault("lost_role", "neutron")
    found = await findings(bench)
    assert any("may not look at the management network" in one and "role admin" in one for one in found)


async def test_wrong_credentials_are_told_with_the_section_to_check(bench: Bench) -> None:
    account = bench.cloud.identity.users.find("name", "astara")[0]
    account["password"] = "changed"
    bench._connections.clear()
    (found,) = await findings(bench)
    assert "section [openstack]" in found


async def test_small_quotas_are_told_with_the_command_that_raises_them(bench: Bench) -> None:
    admin = await do(lambda: bench.connect("admin", "admin").network)
    project = bench.cloud.identity.projects.find("name", "service")[0]["id"]
    await do(admin.put, f"/quotas/{project}", json={"quota": {"port": 20}})
    (found,) = await findings(bench)
    assert "20 ports" in found
    assert f"openstack quota set --ports -1 {project}" in found


async def test_a_cloud_that_is_away_is_not_mistaken_for_one_that_lacks_something(bench: Bench) -> None:
    bench.fault("error", "nova", status=503)
    found = await findings(bench)
    assert found
    assert all("cannot be checked" in one for one in found)
