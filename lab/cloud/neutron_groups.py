"""Security groups and their rules; every project has a group `default`, made without a word when it is first needed."""

from typing import Any, ClassVar

from .neutron_base import Collection
from .store import Row, Table
from .web import NOBODY, Call, CloudError, Context, Reply


class SecurityGroupRules(Collection):
    """`/v2.0/security-group-rules`."""

    name, plural, kind, path = (
        "security_group_rule",
        "security_group_rules",
        "SecurityGroupRule",
        "security-group-rules",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "ethertype": "IPv4", "protocol": None, "port_range_min": None, "port_range_max": None,
        "remote_ip_prefix": None, "remote_group_id": None, "remote_address_group_id": None, "description": "",
    }  # fmt: skip
    required = ("security_group_id", "direction")
    groups: "SecurityGroups"

    def make(self, context: Context, body: Row) -> Row:
        """A new rule of a group."""
        group = self.groups.writable(context, body["security_group_id"])
        for other in self.table.find("security_group_id", group["id"]):
            if all(other[key] == body[key] for key in ("direction", *list(self.defaults)[:-1])):
                raise CloudError(
                    409, "SecurityGroupRuleExists", f"Security group rule already exists. Rule id is {other['id']}."
                )
        return self.add(context, group, body)

    def add(self, context: Context, group: Row, body: Row) -> Row:
        """A rule without any check."""
        whole = {**self.defaults, **body, "security_group_id": group["id"], "project_id": group["project_id"]}
        whole |= {"tenant_id": group["project_id"], "normalized_cidr": whole["remote_ip_prefix"]}
        row = self.keep(context, whole, belongs_to_default_sg=group["name"] == "default")
        self.groups.touch(group)
        return row

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a rule; its group counts the change."""
        super().unmake(context, row)
        group = self.groups.table.get(row["security_group_id"])
        if group is not None:
            self.groups.touch(group)

    def view(self, _context: Context, row: Row) -> Row:
        """Rules have no tags of their own in the API."""
        return {key: value for key, value in row.items() if key != "tags"}


class SecurityGroups(Collection):
    """`/v2.0/security-groups`."""

    name, plural, kind, path = "security_group", "security_groups", "SecurityGroup", "security-groups"
    defaults: ClassVar[dict[str, Any]] = {"name": "", "description": "", "stateful": True}
    extra_filters = frozenset({"shared"})
    rules: SecurityGroupRules
    ports: Any

    def listing(self, call: Call) -> Reply:
        """`GET /v2.0/security-groups`, of which the caller has at least `default`."""
        self.default(call.context.project_id)
        return super().listing(call)

    def make(self, context: Context, body: Row) -> Row:
        """A new group, which lets everything out."""
        row = self.keep(context, body, shared=False)
        for ethertype in ("IPv4", "IPv6"):
            self.rules.add(context, row, {"direction": "egress", "ethertype": ethertype, "description": None})
        row["revision_number"] = 1
        return row

    def default(self, project: str) -> Row:
        """The project's group `default`, made when it is missing."""
        for row in self.table.find("default_of", project):
            return row
        row = self.keep(
            NOBODY,
            {"name": "default", "description": "Default security group", "stateful": True, "project_id": project},
            shared=False, tenant_id=project,
        )  # fmt: skip
        for ethertype in ("IPv4", "IPv6"):
            for direction, group in (("egress", None), ("ingress", row["id"])):
                self.rules.add(
                    NOBODY,
                    row,
                    {"direction": direction, "ethertype": ethertype, "remote_group_id": group, "description": None},
                )
        return row

    def unmake(self, context: Context, row: Row) -> None:
        """Remove a group that no port uses, with its rules."""
        if row["name"] == "default" and not context.is_admin:
            raise CloudError(409, "SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default.")
        if any(row["id"] in port["security_groups"] for port in self.ports.table.find("project_id", row["project_id"])):
            raise CloudError(409, "SecurityGroupInUse", f"Security Group {row['id']} in use.")
        row["security_group_rules"] = self._rules(row)
        for rule in self.rules.table.find("security_group_id", row["id"]):
            self.rules.table.remove(rule["id"])
        self.table.remove(row["id"])

    def view(self, _context: Context, row: Row) -> Row:
        """The group with its rules."""
        return row if "security_group_rules" in row else {**row, "security_group_rules": self._rules(row)}

    def _rules(self, row: Row) -> list[Row]:
        return [{**rule, "standard_attr_id": 1} for rule in self.rules.table.find("security_group_id", row["id"])]


def groups_table() -> Table:
    """The table of security groups."""
    return Table("project_id", "name", default_of=lambda row: (row["project_id"],) if row["name"] == "default" else ())


def rules_table() -> Table:
    """The table of their rules."""
    return Table("project_id", "security_group_id")
