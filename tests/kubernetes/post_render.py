"""Rewrites what a Kubernetes of 1.20 does not know; helm calls this between its templates and the API server.

The chart is for 1.28 and later and says nothing that is older. Three things are put into the words of 1.20:

- PodDisruptionBudgets are policy/v1beta1, without `unhealthyPodEvictionPolicy`;
- spreads over nodes have no `matchLabelKeys`;
- a `grpc:` probe becomes an HTTP one. A second container in the pod asks the same health service the same question and
  answers 200 or 503.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

BRIDGE_PORT = 44261
_BRIDGE = (Path(__file__).parent / "probe_bridge.py").read_text(encoding="utf-8")
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def rewritten(document: Json) -> Json:
    """One manifest as 1.20 takes it."""
    if document["kind"] == "PodDisruptionBudget":
        document["apiVersion"] = "policy/v1beta1"
        del document["spec"]["unhealthyPodEvictionPolicy"]
    if document["kind"] == "Deployment":
        pod = document["spec"]["template"]["spec"]
        for constraint in pod["topologySpreadConstraints"]:
            del constraint["matchLabelKeys"]
        _bridge_probes(pod)
    return document


def _bridge_probes(pod: Json) -> None:
    (container,) = pod["containers"]
    for name in _PROBES:
        asked = container[name].pop("grpc")
        container[name]["httpGet"] = {"port": BRIDGE_PORT, "path": f"/{asked['service']}"}
    pod["containers"].append(
        {
            "name": "probe-bridge",
            "image": container["image"],
            "imagePullPolicy": container["imagePullPolicy"],
            "command": ["python", "-c", _BRIDGE, str(asked["port"]), str(BRIDGE_PORT)],
            "securityContext": container["securityContext"],
        }
    )


def main() -> None:
    """Standard input to standard output."""
    documents = [rewritten(one) for one in yaml.load_all(sys.stdin, Loader=yaml.CSafeLoader) if one]
    yaml.dump_all(documents, sys.stdout, Dumper=yaml.CSafeDumper, sort_keys=False)


if __name__ == "__main__":
    main()
