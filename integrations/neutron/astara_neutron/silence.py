"""What stands where Neutron's plugins have their calls to agents."""

from typing import Any


class Nobody:
    """Takes every call and does nothing: there are no agents to hear it."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments, **_named: None
