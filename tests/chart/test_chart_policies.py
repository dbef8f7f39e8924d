"""NetworkPolicies allow the arrows of docs/kubernetes.md, and nothing else.

The tables say who may call whom; the policies are computed to such tables by the rules of Kubernetes: what a policy
selects may do only what some policy allows, and a rule without peers, or without ports, allows all of them.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from chart_rendering import Json, Rendering
from chart_values import CASES, MINIMAL, SERVICES, at, merged

Arrow = tuple[str, str, str]
"""Who, whom, on which port."""

_MANAGEMENT = "ipBlock 10.9.0.0/16"
_MONITORING = "monitoring"
_DNS = "kube-system k8s-app=kube-dns"


def _openstack(application: str) -> str:
    return f"openstack application={application}"


def _expected_out(extra: set[Arrow] = frozenset()) -> set[Arrow]:  # type: ignore[assignment] # nothing more
    arrows = {(service, _DNS, port) for service in SERVICES for port in ("UDP/53", "TCP/53")}
    arrows |= {(service, "scheduler", "TCP/44251") for service in SERVICES}
    for service in ("health", "worker", "metadata"):
        arrows |= {(service, _openstack("keystone"), "TCP/5000"), (service, _openstack("neutron"), "TCP/9696")}
    for service in ("health", "worker"):
        arrows.add((service, _openstack("nova"), "TCP/8774"))
    return (
        arrows
        | extra
        | {
            ("notifier", _openstack("rabbitmq"), "TCP/5672"),
            ("scheduler", _openstack("mariadb"), "TCP/3306"),
            ("worker", _openstack("glance"), "TCP/9292"),
            ("worker", _MANAGEMENT, "TCP/5000"),
            ("metadata", _openstack("nova"), "TCP/8775"),
        }
    )


def _expected_in(extra: set[Arrow] = frozenset()) -> set[Arrow]:  # type: ignore[assignment] # nothing more
    arrows = {(_MONITORING, service, "TCP/9100") for service in SERVICES}
    arrows |= {(service, "scheduler", "TCP/44251") for service in SERVICES}
    return arrows | extra | {(_MANAGEMENT, "metadata", "TCP/9697")}


def _peer(peer: Json) -> str:
    """A peer as the tables above have it."""
    if "ipBlock" in peer:
        assert peer.keys() == {"ipBlock"}
        return f"ipBlock {peer['ipBlock']['cidr']}"
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", "")
    labels = dict(peer.get("podSelector", {}).get("matchLabels", {}))
    if not namespace and labels.get("app.kubernetes.io/component"):
        assert labels["app.kubernetes.io/name"] == "astara"
        assert labels["app.kubernetes.io/instance"] == "astara"
        return str(labels["app.kubernetes.io/component"])
    words = [namespace, *(f"{key}={value}" for key, value in labels.items())]
    return " ".join(word for word in words if word) or "everybody"


def _arrows(rendering: Rendering, way: str, *, tests: bool = False) -> set[Arrow]:
    """What policies allow, `egress` or `ingress`; those of `helm test`, or the others."""
    found: set[Arrow] = set()
    for policy in rendering.of("NetworkPolicy").values():
        if ("helm.sh/hook" in policy["metadata"].get("annotations", {})) != tests:
            continue
        labels = policy["spec"]["podSelector"]["matchLabels"]
        own = labels.get("app.kubernetes.io/component") or labels["app.kubernetes.io/name"]
        for rule in policy["spec"].get(way) or []:
            peers = [_peer(one) for one in rule.get("to" if way == "egress" else "from") or [{}]]
            ports = [
                f"{one['protocol']}/{one['port']}" for one in rule.get("ports") or [{"protocol": "any", "port": ""}]
            ]
            for peer in peers:
                for port in ports:
                    found.add((own, peer, port) if way == "egress" else (peer, own, port))
    return found


@pytest.mark.parametrize("case", [case for case in CASES if case != "no-network-policy"])
def test_everything_is_denied_in_both_directions_by_default(rendered: Callable[..., Rendering], case: str) -> None:
    rendering = rendered(case)
    deny = rendering.one("NetworkPolicy", "astara-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    selected = deny["podSelector"]["matchLabels"].items()
    for deployment in rendering.of("Deployment").values():
        assert selected <= deployment["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("case", [case for case in CASES if case != "no-network-policy"])
def test_no_rule_is_open(rendered: Callable[..., Rendering], case: str) -> None:
    for policy in rendered(case).of("NetworkPolicy").values():
        for way, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(way) or []:
                assert rule[side], policy["metadata"]["name"]
                assert rule["ports"], policy["metadata"]["name"]
                assert all(peer for peer in rule[side])


@pytest.mark.parametrize("case", ["minimal", "openstack-helm", "tls-disabled", "existing-secrets"])
def test_the_arrows_are_allowed_and_nothing_else(rendered: Callable[..., Rendering], case: str) -> None:
    assert _arrows(rendered(case), "egress") == _expected_out()
    assert _arrows(rendered(case), "ingress") == _expected_in()


def test_what_runs_outside_is_allowed_by_its_addresses(rendered: Callable[..., Rendering]) -> None:
    found = {arrow for arrow in _arrows(rendered("outside"), "egress") if arrow[1].startswith("ipBlock")}
    both = {(service, "ipBlock 198.51.100.5/32", port) for service in ("health", "worker", "metadata")
            for port in ("TCP/5000", "TCP/9696")}  # fmt: skip
    assert found == both | {
        ("health", "ipBlock 198.51.100.6/32", "TCP/8774"),
        ("worker", "ipBlock 198.51.100.6/32", "TCP/8774"),
        ("worker", "ipBlock 198.51.100.7/32", "TCP/9292"),
        ("worker", _MANAGEMENT, "TCP/5000"),
        ("metadata", "ipBlock 2001:db8::8/128", "TCP/8775"),
        ("scheduler", "ipBlock 2001:db8::9/128", "TCP/3306"),
        ("notifier", "ipBlock 198.51.100.10/32", "TCP/5672"),
        ("notifier", "ipBlock 198.51.100.11/32", "TCP/5672"),
    }


def test_options_add_their_arrows_only(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("everything")
    out = (_expected_out() - {("worker", _MANAGEMENT, "TCP/5000")}) | {
        ("worker", _MANAGEMENT, "TCP/5001"),
        ("scheduler", "ipBlock 192.0.2.1/32", "TCP/6443"),
    }
    assert _arrows(rendering, "egress") == out
    assert _arrows(rendering, "ingress") == _expected_in(
        {("edge", "rpcapi", "TCP/44250"), ("ipBlock 198.51.100.0/24", "metadata", "TCP/9697")}
    )


def test_the_workers_policy_follows_the_port_that_they_call(render_values: Callable[[Any], Rendering]) -> None:
    rendering = render_values(merged(MINIMAL, at("worker.conf.appliance.port", 6000)))
    assert ("worker", _MANAGEMENT, "TCP/6000") in _arrows(rendering, "egress")


def test_a_database_in_a_file_is_called_by_nobody(rendered: Callable[..., Rendering]) -> None:
    assert not [arrow for arrow in _arrows(rendered("sqlite"), "egress") if "3306" in arrow[2]]


def test_the_api_server_is_called_only_where_a_lease_elects(rendered: Callable[..., Rendering]) -> None:
    def callers(case: str) -> set[str]:
        return {who for who, _, port in _arrows(rendered(case), "egress") if port == "TCP/6443"}

    assert callers("election-by-lease") == {"scheduler"}
    assert callers("minimal") == set()


def test_both_sides_of_every_inner_arrow_are_allowed(rendered: Callable[..., Rendering]) -> None:
    inner = set(SERVICES)
    for case in CASES:
        out = {arrow for arrow in _arrows(rendered(case), "egress") if arrow[1] in inner}
        into = {arrow for arrow in _arrows(rendered(case), "ingress") if arrow[0] in inner}
        assert out == into


def test_helm_tests_arrows_come_and_go_with_the_test(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("minimal")
    inner = {("astara-test", "rpcapi", "TCP/44250"), ("astara-test", "scheduler", "TCP/44260")}
    dns = {("astara-test", _DNS, "UDP/53"), ("astara-test", _DNS, "TCP/53")}
    assert _arrows(rendering, "egress", tests=True) == inner | dns
    named = {(who.rpartition("=")[2], whom, port) for who, whom, port in _arrows(rendering, "ingress", tests=True)}
    assert named == inner
    hooks: list[Any] = [
        one["metadata"]["annotations"] for one in rendering.documents if "test" in one["metadata"]["name"]
    ]
    assert {one["helm.sh/hook"] for one in hooks} == {"test"}
    assert {one["helm.sh/hook-delete-policy"] for one in hooks} == {"before-hook-creation,hook-succeeded"}


def test_policies_and_the_test_can_be_left_out(rendered: Callable[..., Rendering]) -> None:
    assert not rendered("no-network-policy").of("NetworkPolicy")
    assert rendered("no-network-policy").of("Pod")
    assert not rendered("no-test").of("Pod")
    assert "test" not in json.dumps([one["metadata"]["name"] for one in rendered("no-test").documents])
