"""Who may do what of Astara's: rules of Neutron's policy, all of them built on `rule:astara_orchestrator`.

An operator narrows that one rule to the service user in Neutron's `policy.yaml`; see docs/neutron.md.
"""

from typing import Any

from oslo_policy import policy

ORCHESTRATOR = "astara_orchestrator"
GET_SNAPSHOT = "get_astara_router_snapshot"
UPDATE_STATUS = "update_astara_router_status"
UPDATE_SERVICES = "update_astara_services"
CREATE_PORT = "create_astara_port"
CHANGE_PORT = "change_astara_port"

_BY_ORCHESTRATOR = f"rule:{ORCHESTRATOR}"
_RULES: list[policy.RuleDefault] = [
    policy.RuleDefault(
        ORCHESTRATOR,
        "rule:admin_only",
        description="The user that Astara's services have in Keystone; for example user_id:<id>",
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        GET_SNAPSHOT,
        _BY_ORCHESTRATOR,
        description="Read everything that routers' configurations are made of, of all projects",
        operations=[
            {"method": "GET", "path": "/astara-router-snapshots"},
            {"method": "GET", "path": "/astara-router-snapshots/{router_id}"},
        ],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        UPDATE_STATUS,
        _BY_ORCHESTRATOR,
        description="Set the status of a router, its floating IPs and its ports",
        operations=[{"method": "PUT", "path": "/astara-router-statuses/{router_id}"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        "get_router:status_reason",
        "@",
        description="See why a router has its status, where the router itself may be seen",
        operations=[{"method": "GET", "path": "/routers"}, {"method": "GET", "path": "/routers/{id}"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        UPDATE_SERVICES,
        _BY_ORCHESTRATOR,
        description="Say which services of Astara are alive",
        operations=[{"method": "PUT", "path": "/astara-services/{deployment}"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        CREATE_PORT,
        _BY_ORCHESTRATOR,
        description="Give a port a description that marks it as Astara's",
        operations=[{"method": "POST", "path": "/ports"}, {"method": "PUT", "path": "/ports/{id}"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        CHANGE_PORT,
        f"{_BY_ORCHESTRATOR} or rule:admin_only or rule:service_api",
        description="Change or delete a port of Astara that belongs to another project, as Nova does to plug it in",
        operations=[{"method": "PUT", "path": "/ports/{id}"}, {"method": "DELETE", "path": "/ports/{id}"}],
        scope_types=["project"],
    ),
]


def list_rules() -> list[policy.RuleDefault]:
    """For Neutron and for oslo.policy's generators of samples."""
    return _RULES


def allows(context: Any, action: str, target: dict[str, Any] | None = None) -> bool:
    """Whether the caller may do one of the actions above."""
    from neutron import policy as engine  # noqa: PLC0415 - which loads this module as a list of rules

    allowed: bool = engine.check(context, action, target or {})
    return allowed
