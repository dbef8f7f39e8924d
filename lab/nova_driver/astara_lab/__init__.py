"""Nova's driver for the machines of Astara's lab: `compute_driver = astara_lab.NamespaceDriver`."""

from .driver import NamespaceDriver

__all__ = ["NamespaceDriver"]
