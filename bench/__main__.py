"""`python -m bench` runs every bench and writes the table in docs/bench.md; `python -m bench table` only the table."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.measure import RESULTS

BENCHES = (
    "calls",
    "memory",
    "normalise",
    "shards",
    "events",
    "broker",
    "poll",
    "routers",
    "instant",
    "appliance",
    "snapshot",
)
PAGE = Path(__file__).parents[1] / "docs" / "bench.md"

# The original's figures, line by line, as the comparison quotes them.
ORIGINAL = {
    1: "2,250/s (1 worker x 4 threads, no database)",
    3: "p50 27 ms, p99 109 ms (no database)",
    4: "119 to 279/s (instant cloud)",
    5: "8.9/s (2 x 4 threads)",
    7: "60 calls, 2 pushes",
    8: "57 kB",
    9: "7.0 s (2 x 4 threads)",
    10: "7 us (without decoding)",
    12: "4.7 s / 3.8 s, 84 / 69 processes (3 networks, first / unchanged)",
    13: "11.1 s / 11.3 s, 224 / 181 processes (10 networks)",
    14: "721 s, 4,084 processes / did not finish",
    11: "max/mean 1.09 / 1.23 / 1.62, moved 24 % / 9.7 % / 1.2 % (3 / 10 / 100 hosts)",
}

HEADER = """# Measured

`make bench` runs `bench/` and writes `bench/results/*.json` and this table. Every figure was measured on two cores of a
shared machine with everything that takes part on the same two cores; the spread is the least and the greatest of the
runs. The original is the last release of the system that Astara takes over from (2016), measured on the same kind of
machine.

| figure | Astara (median) | spread | aim | the original | command | date |
|---|---|---|---|---|---|---|
"""


def table() -> None:
    """Write the page from the results that are there."""
    entries: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    entries.sort(key=lambda entry: (entry["baseline_line"] or 99, entry["name"]))
    rows = []
    for entry in entries:
        name = entry["name"].replace("_", " ") + (f" ({entry['note']})" if entry["note"] else "")
        original = ORIGINAL.get(entry["baseline_line"], "")
        low, high = entry["spread"]
        rows.append(
            f"| {name} | {entry['value']:g} {entry['unit']} | {low:g} to {high:g} | {entry['aim']} | {original} "
            f"| `{entry['command']}` | {entry['date']} |"
        )
    PAGE.write_text(HEADER + "\n".join(rows) + "\n")


def main() -> None:
    """Run all, or only write the table."""
    failed = []
    if "table" not in sys.argv[1:]:
        for name in BENCHES:
            print(f"-- {name}", flush=True)
            if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode != 0:
                failed.append(name)
    table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
