"""What Neutron's own repairs make of routers of Astara's, and what the operator's default flavor does."""

from ovn_clouds import FLAVOR, Site

_PUT_BACK = "Creating the port "


def test_what_neutrons_repairs_bring_back_is_gone_when_they_have_ended(site: Site) -> None:
    _network, subnet = site.network()
    router = site.router(ours=True)
    site.plug(router, subnet_id=subnet)
    ports = set(site.ports_of(router))
    site.neutron.age()

    log = site.neutron.maintain().splitlines()
    assert ports <= {line.partition(_PUT_BACK)[2].split()[0] for line in log if _PUT_BACK in line}
    assert not [line for line in log if "Fixing resource" in line and site.ours & set(line.split())]
    assert not ports & set(site.switch_ports())
    assert not site.ours & site.neutron.told_to_ovn()
    site.remove_router(router)


def test_a_plain_router_is_astaras_where_the_operator_names_a_default_flavor(site: Site) -> None:
    plain = site.router(ours=False)
    with site.neutron.another(default_flavor=FLAVOR) as neutron:
        made = neutron.create("router", name="plain")
    assert made["flavor_id"] == site.flavor
    assert site.logical_router(made["id"]) is None
    assert site.logical_router(plain) is not None
    for router in (made["id"], plain):
        site.remove_router(router)
