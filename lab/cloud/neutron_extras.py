"""Metering labels with their rules, and the flavors that routers name."""

from collections.abc import Iterable
from typing import Any, ClassVar

from .neutron_base import Collection, forbidden
from .store import Row, Table
from .web import Context


class Flavors(Collection):
    """`/v2.0/flavors`, everybody's to see and the administrator's to make."""

    name, plural, kind = "flavor", "flavors", "Flavor"
    notifies = False
    defaults: ClassVar[dict[str, Any]] = {
        "name": "", "description": "", "enabled": True, "service_profiles": [],
    }  # fmt: skip
    required = ("service_type",)

    def make(self, context: Context, body: Row) -> Row:
        """A new flavor."""
        if not context.is_admin:
            raise forbidden("create_flavor")
        return super().make(context, body)

    def shared(self, _context: Context, _row: Row) -> bool:
        """Flavors belong to nobody."""
        return True

    def scope(self, _context: Context) -> Iterable[Row]:
        """Flavors are few."""
        return self.table


def flavors_table() -> Table:
    """The table of flavors."""
    return Table("project_id", "name")


class MeteringLabels(Collection):
    """`/v2.0/metering/metering-labels`."""

    name, plural, kind, path = "metering_label", "metering_labels", "MeteringLabel", "metering/metering-labels"
    defaults: ClassVar[dict[str, Any]] = {"name": "", "description": "", "shared": False}
    admin_writes = frozenset({"shared"})
    rules: "MeteringLabelRules"

    def shared(self, _context: Context, row: Row) -> bool:
        """A shared label counts everybody's traffic."""
        return bool(row["shared"])

    def scope(self, _context: Context) -> Iterable[Row]:
        """Labels are few."""
        return self.table

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a label with its rules."""
        for rule in self.rules.table.find("metering_label_id", row["id"]):
            self.rules.table.remove(rule["id"])
        super().unmake(context, row)


class MeteringLabelRules(Collection):
    """`/v2.0/metering/metering-label-rules`."""

    name, plural, kind = "metering_label_rule", "metering_label_rules", "MeteringLabelRule"
    path = "metering/metering-label-rules"
    defaults: ClassVar[dict[str, Any]] = {
        "direction": "ingress", "excluded": False, "remote_ip_prefix": None, "source_ip_prefix": None,
        "destination_ip_prefix": None,
    }  # fmt: skip
    required = ("metering_label_id",)
    labels: MeteringLabels

    def make(self, context: Context, body: Row) -> Row:
        """A new rule of a label."""
        self.labels.writable(context, body["metering_label_id"])
        return super().make(context, body)


def labels_table() -> Table:
    """The table of metering labels."""
    return Table("project_id")


def label_rules_table() -> Table:
    """The table of metering label rules."""
    return Table("project_id", "metering_label_id")
