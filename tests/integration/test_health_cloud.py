"""health between a simulated OpenStack and a scripted scheduler: what it finds out, and what it does not believe."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from astara.event.v1 import event_pb2 as pb
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import ingest_pb2
from openstack.connection import Connection
from scripted_ingest import ScriptedIngest

from lab.cloud import CloudOptions, Fault, SimulatedCloud
from services.common import openstack
from services.common.marks import PortMark, ServerMark, server_name
from services.common.settings import CommonSettings, SettingsError, load
from services.health.service import SETTINGS, main


class Tenant:
    """A tenant's user; each call runs beside the event loop in which the cloud answers."""

    def __init__(self, cloud: SimulatedCloud, user: str, project: str) -> None:
        self._connection = Connection(
            auth={
                "auth_url": cloud.auth_url,
                "username": user,
                "password": "lab",
                "project_name": project,
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
            region_name="RegionOne",
        )

    async def call(self, method: str, path: str, body: Any = None, proxy: str = "network") -> Any:
        def blocking() -> Any:
            response = getattr(self._connection, proxy).request(path, method, json=body)
            response.raise_for_status()
            return response.json() if response.content else {}

        return await asyncio.to_thread(blocking)

    async def network(self, cidr: str) -> tuple[str, str]:
        """A network with a subnet."""
        network = (await self.call("POST", "/networks", {"network": {"name": "n"}}))["network"]["id"]
        body = {"network_id": network, "ip_version": 4, "cidr": cidr}
        subnet = (await self.call("POST", "/subnets", {"subnet": body}))["subnet"]["id"]
        return network, subnet

    async def router(self, **attributes: Any) -> str:
        found: str = (await self.call("POST", "/routers", {"router": {"name": "r", **attributes}}))["router"]["id"]
        return found

    async def attach(self, router: str, subnet: str) -> None:
        await self.call("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet})


NEUTRONS = {
    "filters validated": CloudOptions(),
    "changed_since": CloudOptions(filter_validation=False),
    "plugin": CloudOptions(plugin=True),
}


@pytest.fixture(params=NEUTRONS)
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedCloud]:
    """Neutron as it is by default, when it tells what changed since a time, and with Astara's plugin."""
    one = SimulatedCloud(NEUTRONS[request.param])
    one.seed()
    one.tenant("demo")
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def tenant(cloud: SimulatedCloud) -> Tenant:
    return Tenant(cloud, "demo", "demo")


@pytest.fixture
async def service(cloud: SimulatedCloud) -> Tenant:
    return Tenant(cloud, "astara", "service")


Start = Callable[..., Awaitable[None]]


@pytest.fixture
async def start(tmp_path: Path, cloud: SimulatedCloud, ingest: ScriptedIngest) -> AsyncIterator[Start]:
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def begin(claim: str = "claim = all", **more: Any) -> None:
        options = {
            "listen": "127.0.0.1:0", "full_interval": 300, "changed_interval": 0.2, "poll_interval": 0, "page_size": 3,
            **more,
        }  # fmt: skip
        file = tmp_path / "health.ini"
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        file.write_text(
            f"[grpc]\nscheduler = {ingest.address}\n[claim]\n{claim}\n[health]\n{lines}\n"
            f"[openstack]\nauth_url = {cloud.auth_url}\nusername = astara\npassword = lab\nproject_name = service\n"
            "user_domain_id = default\nproject_domain_id = default\n"
        )
        classes = (CommonSettings, *SETTINGS)
        settings = load("astara-health", ["--config-file", str(file)], classes, extra=openstack.register)
        tasks.append(asyncio.create_task(main(settings, stop)))

    yield begin
    stop.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)


def full(ingest: ScriptedIngest) -> list[list[ingest_pb2.InventoryRequest]]:
    """The full listings that were received as a whole."""
    listings: dict[int, list[ingest_pb2.InventoryRequest]] = {}
    for part in ingest.inventory:
        if part.full:
            listings.setdefault(part.generation, []).append(part)
    return [parts for parts in listings.values() if parts[0].begin and parts[-1].end]


def resources(parts: list[ingest_pb2.InventoryRequest]) -> dict[str, ingest_pb2.InventoryResource]:
    return {one.resource_id: one for part in parts for one in part.resources}


async def first(ingest: ScriptedIngest) -> list[ingest_pb2.InventoryRequest]:
    await ingest.until(lambda: bool(full(ingest)))
    return full(ingest)[0]


async def test_everything_is_listed_page_by_page_with_its_attachments(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    external = (await tenant.call("GET", "/networks?router:external=true"))["networks"][0]["id"]
    routers = [await tenant.router(external_gateway_info={"network_id": external}) for _ in range(7)]
    network, subnet = await tenant.network("10.0.0.0/24")
    await tenant.attach(routers[0], subnet)
    await start()
    found = resources(await first(ingest))
    assert set(found) == set(routers)
    roles = {(one.network_id, one.role): list(one.subnet_ids) for one in found[routers[0]].attachments}
    assert roles[network, resource_pb2.ATTACHMENT_ROLE_INTERNAL] == [subnet]
    assert (external, resource_pb2.ATTACHMENT_ROLE_GATEWAY) in roles
    assert found[routers[0]].tenant_id
    assert found[routers[0]].fingerprint != found[routers[1]].fingerprint


async def test_what_changed_moves_the_fingerprint_without_a_notification(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    router = await tenant.router()
    _network, subnet = await tenant.network("10.0.0.0/24")
    await tenant.attach(router, subnet)
    await start()
    before = resources(await first(ingest))[router].fingerprint

    def moved(than: str) -> ingest_pb2.InventoryResource | None:
        last = [one for part in ingest.inventory for one in part.resources if one.resource_id == router][-1]
        return last if last.fingerprint != than else None

    await tenant.call("PUT", f"/subnets/{subnet}", {"subnet": {"dns_nameservers": ["192.0.2.1"]}})
    await ingest.until(lambda: moved(before) is not None)
    after = moved(before)
    assert after is not None
    await tenant.call("PUT", f"/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    await ingest.until(lambda: (one := moved(after.fingerprint)) is not None and not one.attachments)


async def test_a_new_router_is_told_and_so_are_ports_on_its_networks(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    await start(full_interval=0.3)
    await first(ingest)
    router = await tenant.router()
    network, subnet = await tenant.network("10.0.0.0/24")
    await tenant.attach(router, subnet)
    await ingest.until(
        lambda: any(
            one.resource_id == router and one.attachments for part in ingest.inventory for one in part.resources
        )
    )
    await tenant.call("POST", "/ports", {"port": {"network_id": network}})
    # With the plugin the router's own change may come before it, in an event of its own.
    await ingest.until(lambda: any(one.subject.network_id == network for one in ingest.events))
    event = next(one for one in ingest.events if one.subject.network_id == network)
    assert event.kind == pb.EVENT_KIND_UPDATE
    assert event.subject.scope == pb.ATTACHMENT_SCOPE_INTERNAL


async def test_a_scheduler_that_wants_everything_gets_it(start: Start, ingest: ScriptedIngest) -> None:
    await start()
    await first(ingest)
    ingest.list_now.set()
    await ingest.until(lambda: len(full(ingest)) == 2)


async def test_who_is_not_listened_to_lists_nothing(
    start: Start, cloud: SimulatedCloud, ingest: ScriptedIngest
) -> None:
    ingest.listening = False
    await start()
    await ingest.until(lambda: ingest.streams > 0)
    ingest.listening = True
    ingest.list_now.set()
    await first(ingest)
    assert len(full(ingest)) == 1


async def test_a_failed_or_suspiciously_short_listing_is_not_told_as_everything(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    router = await tenant.router()
    await start(full_interval=0.2)
    await first(ingest)
    empty = Fault("empty", service="neutron", path="routers", times=2)
    cloud.faults.active.append(empty)
    broken = Fault("error", service="neutron", path="subnets", times=3)
    cloud.faults.active.append(broken)
    told = len(full(ingest))
    await ingest.until(lambda: len(full(ingest)) > told + 2)
    assert (empty.hits, broken.hits) == (2, 3)
    assert all(set(resources(parts)) == {router} for parts in full(ingest))


async def test_routers_that_are_gone_for_good_are_believed_gone(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    router = await tenant.router()
    await start(full_interval=0.2)
    await first(ingest)
    await tenant.call("DELETE", f"/routers/{router}")
    await ingest.until(lambda: not resources(full(ingest)[-1]))


async def test_only_routers_of_the_claimed_flavor_are_told(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    ours, other = await tenant.router(), await tenant.router()
    cloud.network.routers.table.get(ours)["flavor_id"] = "flavor-1"
    await start("claim = flavor\nflavor_id = flavor-1")
    assert set(resources(await first(ingest))) == {ours}
    assert other != ours


async def test_servers_and_ports_that_nobody_needs_are_found(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, service: Tenant, ingest: ScriptedIngest
) -> None:
    router = await tenant.router()
    management = (await service.call("GET", "/networks?name=astara-mgmt"))["networks"][0]["id"]
    image = (await service.call("GET", "/images?name=astara", proxy="image"))["images"][0]["id"]
    flavor = (await service.call("GET", "/flavors", proxy="compute"))["flavors"][0]["id"]

    async def boot(resource: str, *, bound: bool) -> str:
        marked = PortMark("astara", resource, 0, "mgt").description() if bound else ""
        port = (await service.call("POST", "/ports", {"port": {"network_id": management, "description": marked}}))[
            "port"
        ]
        body = {
            "name": server_name(resource, 0), "imageRef": image, "flavorRef": flavor,
            "networks": [{"port": port["id"]}],
            "metadata": ServerMark("astara", resource, 0, "boot").metadata(),
        }  # fmt: skip
        found: str = (await service.call("POST", "/servers", {"server": body}, proxy="compute"))["server"]["id"]
        return found

    current, surplus, orphan = (
        await boot(router, bound=True), await boot(router, bound=False), await boot("gone", bound=True)
    )  # fmt: skip
    stray = {"network_id": management, "description": PortMark("astara", "gone", 1, "svc").description()}
    port = (await service.call("POST", "/ports", {"port": stray}))["port"]["id"]
    foreign = {"network_id": management, "description": PortMark("other", "gone", 1, "svc").description()}
    await service.call("POST", "/ports", {"port": foreign})
    # What any tenant may write: a number to some, and to others none.
    await service.call("POST", "/ports", {"port": foreign | {"description": "astara:astara:gone:²:svc"}})
    await start()
    found = {one.server_id or one.port_id: one.finding for part in await first(ingest) for one in part.instances}
    assert found == {
        current: ingest_pb2.INSTANCE_FINDING_CURRENT,
        surplus: ingest_pb2.INSTANCE_FINDING_SURPLUS,
        orphan: ingest_pb2.INSTANCE_FINDING_ORPHAN,
        port: ingest_pb2.INSTANCE_FINDING_ORPHAN,
    }


async def test_each_resource_is_polled_once_a_period_and_the_poll_expires_with_it(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    routers = {await tenant.router() for _ in range(5)}
    await start(poll_interval=0.5)
    await ingest.until(lambda: len(ingest.events) >= 10)
    polls = ingest.events[:10]
    assert {one.subject.resource_id for one in polls[:5]} == routers
    assert {one.subject.resource_id for one in polls[5:]} == routers
    for one in polls:
        assert (one.kind, one.priority) == (pb.EVENT_KIND_POLL, pb.PRIORITY_RESYNC)
        assert one.expires_at.ToMilliseconds() - one.occurred_at.ToMilliseconds() == 500


def test_a_start_without_a_claim_is_refused_with_the_three_choices(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[claim\] claim must be set \(one of: all, flavor, provider\)"):
        load("astara-health", [], (CommonSettings, *SETTINGS), extra=openstack.register)


def routers_told(ingest: ScriptedIngest) -> list[str]:
    return [one.subject.resource_id for one in ingest.events if one.source == "health.changes"]


@pytest.mark.parametrize("cloud", ["plugin"], indirect=True)
async def test_with_the_plugin_a_look_costs_one_call_and_misses_no_port(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    router, other = await tenant.router(), await tenant.router()
    network, subnet = await tenant.network("10.0.0.0/24")
    await tenant.attach(router, subnet)
    port = (await tenant.call("POST", "/ports", {"port": {"network_id": network}}))["port"]["id"]
    await start()
    await first(ingest)
    cloud.calls.reset()
    await tenant.call("DELETE", f"/ports/{port}")
    await ingest.until(lambda: router in routers_told(ingest))
    assert other not in routers_told(ingest)
    lists = {path for (service, method, path) in cloud.calls.counts if (service, method) == ("neutron", "GET")}
    assert lists == {"/v2.0/astara-router-snapshots"}


@pytest.mark.parametrize("status", [403, 410])
@pytest.mark.parametrize("cloud", ["plugin"], indirect=True)
async def test_when_neutron_does_not_know_the_revision_or_tells_nobody_everything_is_compared(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, ingest: ScriptedIngest, status: int
) -> None:
    router = await tenant.router()
    await start()
    await first(ingest)
    fault = cloud.faults.add(Fault("error", "neutron", "GET", "/astara-router-snapshots", status=status, user="astara"))
    await tenant.call("PUT", f"/routers/{router}", {"router": {"name": "renamed"}})
    await ingest.until(lambda: renamed(ingest))
    assert fault.hits


def renamed(ingest: ScriptedIngest) -> bool:
    return any(one.name == "renamed" for part in ingest.inventory for one in part.resources)


@pytest.mark.parametrize("cloud", ["plugin"], indirect=True)
async def test_a_change_is_found_though_the_answer_that_names_it_is_broken(
    start: Start, cloud: SimulatedCloud, tenant: Tenant, ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await tenant.router()
    await start()
    await first(ingest)
    made, asked = cloud.network.astara.snapshot, []

    def without_networks(row: Any, instance: str | None) -> Any:
        whole = made(row, instance)
        if row["name"] == "renamed":
            asked.append(row)
            # A listing compares a router first, and shows it then.
            if len(asked) % 2 == 0:
                del whole["networks"]
        return whole

    monkeypatch.setattr(cloud.network.astara, "snapshot", without_networks)
    await tenant.call("PUT", f"/routers/{router}", {"router": {"name": "renamed"}})
    await ingest.until(lambda: renamed(ingest))
    assert len(asked) >= 2


@pytest.mark.parametrize("cloud", ["plugin"], indirect=True)
async def test_a_router_that_neutron_says_was_deleted_is_told_once_without_a_notification(
    start: Start, tenant: Tenant, ingest: ScriptedIngest
) -> None:
    router, other = await tenant.router(), await tenant.router()
    await start()
    await first(ingest)
    await tenant.call("DELETE", f"/routers/{router}")
    await ingest.until(lambda: router in routers_told(ingest))
    # One more look, at least, has listed it since.
    await tenant.call("PUT", f"/routers/{other}", {"router": {"name": "renamed"}})
    await ingest.until(lambda: renamed(ingest))
    told = [one for one in ingest.events if one.subject.resource_id == router]
    assert [(one.kind, one.source) for one in told] == [(pb.EVENT_KIND_DELETE, "health.changes")]


@pytest.mark.parametrize("cloud", ["plugin"], indirect=True)
async def test_routers_that_neutron_said_were_deleted_make_no_listing_suspicious(
    start: Start, tenant: Tenant, ingest: ScriptedIngest, capfd: pytest.CaptureFixture[str]
) -> None:
    routers = [await tenant.router() for _ in range(4)]
    await start()
    await first(ingest)
    for router in routers[1:]:
        await tenant.call("DELETE", f"/routers/{router}")
    await ingest.until(lambda: set(routers_told(ingest)) >= set(routers[1:]))
    ingest.list_now.set()
    await ingest.until(lambda: list(resources(full(ingest)[-1])) == routers[:1])
    assert "not believed" not in "".join(capfd.readouterr())
