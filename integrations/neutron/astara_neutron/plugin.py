"""The service plugin `astara`: what the orchestrator talks to in Neutron. It is loaded beside any L3 plugin.

It is made of parts that know nothing of each other; each part is a module with a class that is made once, when Neutron
loads the plugin.
"""

from typing import ClassVar

from neutron_lib.services import base

from . import options  # noqa: F401 - registers them


class AstaraPlugin(base.ServicePluginBase):
    """Extensions and callbacks for the orchestrator."""

    supported_extension_aliases: ClassVar[list[str]] = []

    @classmethod
    def get_plugin_type(cls) -> str:
        """Name under which Neutron's directory knows this plugin."""
        return "ASTARA"

    def get_plugin_description(self) -> str:
        """For the list of plugins."""
        return "What the orchestrator of service VMs needs from Neutron"
