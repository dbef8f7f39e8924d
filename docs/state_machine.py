"""Writes docs/state-machine.md and its picture from the table that the worker runs: `python docs/state_machine.py`.

The picture is drawn by Graphviz (`dot`). A test holds the page against the table, so it cannot lag behind.
"""

import hashlib
import subprocess
from pathlib import Path

from services.worker.states import State, arrows

DOCS = Path(__file__).parent
PAGE, PICTURE = DOCS / "state-machine.md", DOCS / "images" / "state-machine.svg"

DOES = {
    State.CALC_ACTION: "merge the inbox: delete over rebuild over create over update over read over poll",
    State.ALIVE: "ask the appliance, compare its digest; without an answer, ask Nova too",
    State.CREATE_VM: "find or create the ports, boot through Nova, count attempts",
    State.CHECK_BOOT: "look whether it answers; between looks nothing waits",
    State.CONFIGURE_VM: "read Neutron, build the configuration, push it when its digest differs",
    State.REPLUG_VM: "attach and detach ports through Nova until the appliance sees them",
    State.STOP_VM: "delete the instance, and the ports when the resource is gone",
    State.REBUILD_VM: "the same on an operator's command, then boot",
    State.CLEAR_ERROR: "forget the failed attempts and go on at once",
    State.STATS: "read the traffic counters",
    State.EXIT: "forget the resource",
}


def fingerprint() -> str:
    """Changes when the table does; the picture carries it."""
    return hashlib.sha256(repr([(a.value, label, b.value) for a, label, b in arrows()]).encode()).hexdigest()[:16]


def page() -> str:
    """The page's text."""
    lines = [
        "# The state machine of a resource",
        "",
        "Generated from `services/worker/states.py`, the one table that the worker runs. A state does its work and",
        "leaves the instance in a state; the first line that fits it and the action says what follows. Waiting holds",
        "no thread: a step may say when to come back, and the machine then goes on from CalcAction with the same wish.",
        "",
        "![The states and what leads from one to another](images/state-machine.svg)",
        "",
        "| state | does | in this case | leads to |",
        "|---|---|---|---|",
    ]
    last = None
    for state, label, target in arrows():
        first = state is not last
        lines.append(
            f"| {f'**{state.value}**' if first else ''} | {DOES[state] if first else ''} | {label} | {target.value} |"
        )
        last = state
    lines.append(f"| **{State.EXIT.value}** | {DOES[State.EXIT]} | | |")
    return "\n".join(lines) + "\n"


def dot() -> str:
    """The picture for Graphviz."""
    lines = [
        "digraph machine {",
        f'  graph [rankdir=TB, fontname="Helvetica", nodesep=0.5, ranksep=0.6, comment="{fingerprint()}"];',
        '  node [shape=box, style="rounded,filled", fillcolor="#eef3f7", color="#51708a", fontname="Helvetica"];',
        '  edge [fontname="Helvetica", fontsize=9, color="#51708a"];',
    ]
    merged: dict[tuple[str, str], list[str]] = {}
    for state, label, target in arrows():
        merged.setdefault((state.value, target.value), []).append(label)
    for (state_name, target_name), labels in merged.items():
        text = "; ".join(labels).replace(", ", ",\\n")
        lines.append(f'  {state_name} -> {target_name} [label="{text}"];')
    return "\n".join([*lines, "}"]) + "\n"


def main() -> None:
    """Write both files."""
    PAGE.write_text(page())
    svg = subprocess.run(["/usr/bin/dot", "-Tsvg"], input=dot(), capture_output=True, text=True, check=True).stdout
    PICTURE.write_text(svg.replace("<svg ", f"<!-- table {fingerprint()} -->\n<svg ", 1))


if __name__ == "__main__":
    main()
