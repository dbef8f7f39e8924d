"""What a hypervisor says no with."""


class HypervisorError(Exception):
    """A verb cannot be done; the text says why."""


class UnknownMachineError(HypervisorError):
    """There is no such machine."""
