"""Makes the chart's README.md from values.yaml: `python helm/readme.py`; with `--check` says whether it is current.

A comment that begins with `# -- ` opens a section, comments below it are the section's text. A comment at the end of a
line belongs to the key of that line. A key without comment is described by its parent's, or by its own keys.
"""

# ruff: noqa: INP001 - a script beside the chart, no package

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "astara"
README = CHART / "README.md"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_]+):(?P<rest>.*)")
_COMMENT = re.compile(r"(?:^|\s{2})# (?P<text>.*)$")
_WIDEST_DEFAULT = 60


@dataclass
class Value:
    """One line of values.yaml that has a key."""

    path: tuple[str, ...]
    text: str
    """What the comment at its end says; may be empty."""


@dataclass
class Section:
    """What stands between two titles."""

    title: str
    prose: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


def read(text: str) -> list[Section]:
    """The sections of a values file. The prose before the first title is not among them."""
    sections: list[Section] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.startswith("# -- "):
            sections.append(Section(line.removeprefix("# -- ")))
        elif line.startswith("# ") and sections:
            sections[-1].prose.append(line.removeprefix("# "))
        elif match := _KEY.match(line):
            indent = len(match["indent"])
            above = [entry for entry in above if entry[0] < indent]
            above.append((indent, match["key"]))
            comment = _COMMENT.search(match["rest"])
            path = tuple(key for _, key in above)
            sections[-1].values.append(Value(path, comment["text"] if comment else ""))
    return sections


def undocumented(sections: list[Section], values: dict[str, Any]) -> list[str]:
    """The values that neither have a comment, nor a parent that has one, nor keys of their own on further lines."""
    lines = [value for section in sections for value in section.values]
    told = {value.path for value in lines if value.text}
    parents = {value.path[:depth] for value in lines for depth in range(1, len(value.path))}
    spoken = told | parents
    paths = [value.path for value in lines]
    silent = [".".join(path) for path in paths if path not in spoken and not _said(path, told)]
    return silent + [key for key in values if (key,) not in {value.path for value in lines}]


def _said(path: tuple[str, ...], told: set[tuple[str, ...]]) -> bool:
    return any(path[:depth] in told for depth in range(1, len(path)))


def render(text: str, chart: dict[str, Any]) -> str:
    """The README of a chart with this values file."""
    values = yaml.safe_load(text)
    lines = [
        f"# {chart['name']}",
        "",
        f"{chart['description']}. Version {chart['version']}, for Kubernetes {chart['annotations']['kubernetes']}.",
        "",
        "How to install, upgrade and look: [docs/kubernetes.md](../../docs/kubernetes.md).",
        "",
        "```console",
        "$ helm install astara helm/astara -n openstack -f my-values.yaml --wait",
        "$ helm test astara -n openstack",
        "```",
        "",
        "What must be set: `conf.claim`, `conf.router`, the credentials in `endpoints` (or Secrets that hold them, in",
        "`secrets`), `managementCIDRs`, and the address of `metadata.service`. What contradicts itself is refused with",
        "a sentence. This file is made from `values.yaml` by `python helm/readme.py`.",
        "",
    ]
    for section in read(text):
        lines += [f"## {section.title}", "", *map(_escape, section.prose), *([""] if section.prose else [])]
        lines += ["| value | default | |", "|---|---|---|"]
        shown = {value.path for value in section.values}
        for value in section.values:
            if any(path[: len(value.path)] == value.path and path != value.path for path in shown):
                default = ""
            else:
                default = _default(values, value.path)
            if default or value.text:
                lines.append(f"| `{'.'.join(value.path)}` | {default} | {_escape(value.text)} |")
        lines.append("")
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _default(values: Any, path: tuple[str, ...]) -> str:
    for key in path:
        values = values[key]
    text = json.dumps(values, ensure_ascii=False)
    return f"`{text}`" if len(text) <= _WIDEST_DEFAULT else "see `values.yaml`"


def current() -> str:
    """What README.md should be."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    return render((CHART / "values.yaml").read_text(encoding="utf-8"), chart)


def main(arguments: list[str]) -> int:
    """Write README.md, or compare with it; answers with the exit code."""
    if arguments == ["--check"]:
        if README.read_text(encoding="utf-8") == current():
            return 0
        sys.stderr.write("README.md of the chart is not what values.yaml says: run python helm/readme.py\n")
        return 1
    README.write_text(current(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
