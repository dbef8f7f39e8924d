"""Options of section [astara] in Neutron's configuration. Registered when this module is imported."""

from typing import Any

from oslo_config import cfg

GROUP = "astara"

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
]

cfg.CONF.register_opts(OPTIONS, GROUP)


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo.config's sample generator."""
    return [(GROUP, OPTIONS)]
