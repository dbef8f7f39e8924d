"""What two users would do: each tenant gets a network, a subnet, and a router with a gateway and an interface."""

from dataclasses import dataclass

from lab.layout import TENANTS, Layout
from lab.settings import connect

EXTERNAL_NETWORK = "public"
NAME = "private"


@dataclass(frozen=True)
class TenantRouter:
    """A tenant's router."""

    tenant: str
    router_id: str
    name: str


def make(layout: Layout) -> list[TenantRouter]:
    """Make what is missing of it, as each tenant's own user; answers with the routers."""
    return [_make(layout, tenant, index) for index, tenant in enumerate(TENANTS, start=1)]


def _make(layout: Layout, tenant: str, index: int) -> TenantRouter:
    with connect(layout, tenant) as cloud:
        api = cloud.network
        network = api.find_network(NAME, project_id=cloud.current_project_id) or api.create_network(name=NAME)
        subnet = next(api.subnets(network_id=network.id), None) or api.create_subnet(
            network_id=network.id, name=NAME, ip_version=4, cidr=f"10.{index}.0.0/24"
        )
        name = f"{tenant}-router"
        router = api.find_router(name)
        if router is None:
            external = api.find_network(EXTERNAL_NETWORK, ignore_missing=False)
            router = api.create_router(name=name, external_gateway_info={"network_id": external.id})
            api.add_interface_to_router(router, subnet_id=subnet.id)
        return TenantRouter(tenant, router.id, name)
