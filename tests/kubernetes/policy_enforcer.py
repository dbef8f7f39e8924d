"""Enforces NetworkPolicies on the node, as operators' networks do and the node's bridge does not.

Rules of nftables are made anew whenever a pod or a policy changes. What a policy may say here is what the chart says:
peers by labels or by address, ports by number; anything else is an error, so that nothing seems enforced that is not.
A pod's traffic with the node itself counts as well, but for what the node begins: kubelets reach their own pods.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import requests
from node_running import ADDRESS, Json, Node

_EVERY_SECONDS = 0.3
_TABLE = "networkpolicies"


@contextlib.contextmanager
def enforcing(node: Node) -> Iterator[None]:
    """Policies hold meanwhile; afterwards everything is allowed again."""
    stopping = threading.Event()
    trouble: list[Exception] = []
    thread = threading.Thread(target=_run, args=(node, stopping, trouble), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        node.run("nft", f"add table ip {_TABLE}; delete table ip {_TABLE}")
    if trouble:
        raise trouble[0]


def _run(node: Node, stopping: threading.Event, trouble: list[Exception]) -> None:
    session = requests.Session()
    session.trust_env = False
    pki = node.state / "pki"
    session.cert, session.verify = (str(pki / "admin.crt"), str(pki / "admin.key")), str(pki / "ca.crt")

    def objects(path: str) -> list[Json]:
        with node.network():
            answer = session.get(f"https://{ADDRESS}:6443{path}", timeout=10)
        answer.raise_for_status()
        found: list[Json] = answer.json()["items"]
        return found

    present = ""
    try:
        while not stopping.wait(_EVERY_SECONDS):
            wanted = rules(
                objects("/api/v1/pods"),
                objects("/apis/networking.k8s.io/v1/networkpolicies"),
                {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in objects("/api/v1/namespaces")},
            )
            if wanted != present:
                node.run("nft", "-f", "-", given=wanted)
                present = wanted
    except Exception as error:
        trouble.append(error)


def rules(pods: Iterable[Json], policies: Iterable[Json], namespaces: Mapping[str, Mapping[str, str]]) -> str:
    """nftables' text for these objects; ValueError for what is not understood. Namespaces are given by their labels."""
    standing = [one for one in pods if one["status"].get("podIP") and not one["spec"].get("hostNetwork")]
    chains, jumps, into_node = [], [], []
    listed = list(policies)
    for pod in sorted(standing, key=lambda one: str(one["status"]["podIP"])):
        address = pod["status"]["podIP"]
        for kind, way, own in (("Egress", "to", "saddr"), ("Ingress", "from", "daddr")):
            holding = [one for one in listed if kind in one["spec"]["policyTypes"] and _selects(one, pod)]
            if not holding:
                continue
            name = f"{kind.lower()}_{address.replace('.', '_')}"
            allowed = sorted(
                {line for one in holding for line in _allowed(one, kind.lower(), way, standing, namespaces)}
            )
            chains.append(f"chain {name} {{ {' '.join(f'{line} return;' for line in allowed)} counter drop; }}")
            jumps.append(f"ip {own} {address} jump {name};")
            if kind == "Egress":
                into_node.append(jumps[-1])
    known = "ct state established,related accept;"
    return "\n".join(
        (
            f"add table ip {_TABLE}; delete table ip {_TABLE}",
            f"table ip {_TABLE} {{",
            *chains,
            f"chain forward {{ type filter hook forward priority -5; {known} {' '.join(jumps)} }}",
            f"chain input {{ type filter hook input priority -5; {known} {' '.join(into_node)} }}",
            "}\n",
        )
    )


def _allowed(
    policy: Json, kind: str, way: str, pods: list[Json], namespaces: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    far = "daddr" if way == "to" else "saddr"
    for rule in policy["spec"].get(kind) or ():
        peers = rule.get(way)
        hosts = (
            [""]
            if not peers
            else [
                f"ip {far} {address}"
                for peer in peers
                for address in _addresses(peer, policy["metadata"]["namespace"], pods, namespaces)
            ]
        )
        ports = [f"{one['protocol'].lower()} dport {int(one['port'])}" for one in rule.get("ports") or ()] or [""]
        yield from (f"{host} {port}".strip() for host in hosts for port in ports)


def _addresses(peer: Json, own: str, pods: list[Json], namespaces: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    if unknown := peer.keys() - {"ipBlock", "podSelector", "namespaceSelector"}:
        raise ValueError(f"a peer says {unknown}")
    if block := peer.get("ipBlock"):
        if block.keys() - {"cidr"}:
            raise ValueError(f"an ipBlock says {block.keys() - {'cidr'}}")
        if ":" not in block["cidr"]:
            yield block["cidr"]
        return
    for pod in pods:
        namespace = pod["metadata"]["namespace"]
        there = (
            _matches(peer["namespaceSelector"], namespaces[namespace])
            if "namespaceSelector" in peer
            else namespace == own
        )
        if there and _matches(peer.get("podSelector", {}), pod["metadata"].get("labels", {})):
            yield pod["status"]["podIP"]


def _selects(policy: Json, pod: Json) -> bool:
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and _matches(policy["spec"]["podSelector"], pod["metadata"].get("labels", {}))


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if unknown := selector.keys() - {"matchLabels"}:
        raise ValueError(f"a selector says {unknown}")
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
