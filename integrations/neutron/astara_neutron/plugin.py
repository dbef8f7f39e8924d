"""The service plugin `astara`: what the orchestrator talks to in Neutron. It is loaded beside any L3 plugin.

It is made of parts that know nothing of each other: the log of changes and the feed that follows it, and one module for
each extension.
"""

from typing import ClassVar

import sqlalchemy as sa
from neutron.api import extensions
from neutron_lib import context
from neutron_lib.api.definitions import ip_allocation
from neutron_lib.db import api as db_api
from neutron_lib.services import base

from . import (
    extensions as own_extensions,
)
from . import (
    options,  # noqa: F401 - registers them
)
from .changes import Changes
from .db.models import Change, RouterStatus
from .feed import Feed
from .service_ports import ServicePorts
from .status import StatusReason

extensions.append_api_extensions_path(list(own_extensions.__path__))


class AstaraPlugin(base.ServicePluginBase):
    """Extensions and callbacks for the orchestrator."""

    supported_extension_aliases: ClassVar[list[str]] = [
        "astara-router-snapshot",
        "astara-router-status",
        "astara-services",
        ip_allocation.ALIAS,
    ]

    def __init__(self) -> None:
        """RuntimeError, which keeps Neutron from starting, without the plugin's tables: each router has a row there."""
        super().__init__()
        with db_api.CONTEXT_READER.using(context.get_admin_context()) as session:
            known = sa.inspect(session.connection())
            if missing := [
                one.__tablename__ for one in (Change, RouterStatus) if not known.has_table(one.__tablename__)
            ]:
                message = f"no table {missing[0]}: run neutron-db-manage --subproject astara-neutron upgrade heads"
                raise RuntimeError(message)
        self.feed = Feed()
        self.changes = Changes(self.feed.put)
        self.status_reason = StatusReason()
        self.service_ports = ServicePorts()

    @classmethod
    def get_plugin_type(cls) -> str:
        """Name under which Neutron's directory knows this plugin."""
        return "ASTARA"

    def get_plugin_description(self) -> str:
        """For the list of plugins."""
        return "What the orchestrator of service VMs needs from Neutron"
