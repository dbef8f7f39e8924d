"""Machines made of namespaces: servers that boot, move packets, are rebooted and destroyed, on one Linux, no VMs."""
