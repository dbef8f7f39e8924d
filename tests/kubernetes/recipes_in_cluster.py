"""The part of docs/grpcurl.md that is about Kubernetes, done as it stands there: with this cluster's names."""

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from chart_release import NAMESPACE
from cluster_images import ROOT
from node_running import Node, NodeError

GRPCURL = ROOT / ".venv/bin/grpcurl"
_PAGE = ROOT / "docs" / "grpcurl.md"
_SECTION = re.compile(r"^## In Kubernetes$(.*?)^## ", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """Commands and manifests of the section."""

    def __init__(self, node: Node, folder: Path, names: Mapping[str, str]) -> None:
        """`names`: what stands in this cluster for names of the page; `folder`: where its files are written."""
        text = _PAGE.read_text(encoding="utf-8")
        (section,) = _SECTION.findall(text)
        for shown, real in names.items():
            if shown not in section:
                raise ValueError(f"{_PAGE.name} does not speak of {shown}")
            section = section.replace(shown, real)
        blocks: list[tuple[str, str]] = _FENCE.findall(section)
        self._node = node
        self._folder = folder
        self.commands = [
            line.removeprefix("$ ") for kind, block in blocks if kind == "console" for line in block.splitlines()
        ]
        (manifest,) = (block for kind, block in blocks if kind == "yaml")
        self.pod: dict[str, Any] = yaml.safe_load(manifest)
        (self.options,) = re.findall(r'^\$ WITH="(.*)"$', text, re.MULTILINE)

    def take_certificates(self) -> None:
        """The commands that write certificates into files."""
        wanted = [one for one in self.commands if one.startswith("umask") or ".crt" in one or ".key" in one]
        self._node.run("sh", "-ec", f"cd {self._folder}\n" + "\n".join(wanted))

    @contextlib.contextmanager
    def forwards(self) -> Iterator[None]:
        """The commands that forward ports, all at once."""
        with contextlib.ExitStack() as stack:
            for command in self.commands:
                if " port-forward " in command:
                    process = self._node.start(*command.split())
                    stack.callback(_end, process)
                    assert process.stdout is not None
                    if not (said := process.stdout.readline()).startswith("Forwarding from"):
                        raise NodeError(f"{command}: {said}{process.stdout.read()}")
            yield

    def grpcurl(self, *arguments: str) -> str:
        """What a grpcurl on the operator's machine answers, with the certificates that were taken."""
        options = " ".join(self.options.split()).replace("ca.crt", f"{self._folder}/ca.crt")
        options = re.sub(r" (tls\.\w+)", rf" {self._folder}/\1", options)
        return self._node.run(str(GRPCURL), *options.split(), *arguments)

    @contextlib.contextmanager
    def debug_pod(self, image: str) -> Iterator[str]:
        """The page's pod, with an image of this cluster that gets grpcurl from the node; answers with its name."""
        (container,) = self.pod["spec"]["containers"]
        container |= {"image": image, "imagePullPolicy": "Never"}
        container["volumeMounts"].append({"name": "tool", "mountPath": "/tool", "readOnly": True})
        self.pod["spec"]["volumes"].append({"name": "tool", "hostPath": {"path": str(GRPCURL.parent)}})
        self._node.apply(NAMESPACE, [self.pod])
        name = str(self.pod["metadata"]["name"])
        try:
            self._node.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")
            yield name
        finally:
            self._node.kubectl("-n", NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate()
