"""Options of section [astara] in Neutron's configuration. Registered when this module is imported."""

from typing import Any

from oslo_config import cfg

GROUP = "astara"

AUTO, APPLIANCE, NEUTRON = "auto", "appliance", "neutron"

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "default_flavor",
        default="",
        help="Router flavor (name or id) that a router gets that is created without one; empty: none",
    ),
    cfg.ListOpt(
        "availability_zones",
        default=[],
        help="Nova's availability zones that routers may ask for, with the service plugin astara-router",
    ),
    cfg.StrOpt(
        "dhcp",
        default=AUTO,
        choices=[AUTO, APPLIANCE, NEUTRON],
        help="Who serves DHCP on subnets that have it enabled; auto: appliances, unless ML2/OVN does",
    ),
    cfg.IntOpt(
        "change_margin",
        default=60,
        min=0,
        max=300,
        help="Seconds for which a change is listed again and again: no transaction may take longer, "
        "and servers' clocks may not differ by more",
    ),
    cfg.IntOpt("keep_changes", default=86_400, min=600, help="Seconds after which a change is forgotten"),
    cfg.IntOpt(
        "forget_services_after",
        default=86_400,
        min=60,
        help="Seconds after which a service of Astara that is not reported any more leaves the list of agents",
    ),
]

cfg.CONF.register_opts(OPTIONS, GROUP)


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo.config's sample generator."""
    return [(GROUP, OPTIONS)]
