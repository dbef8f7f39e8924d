"""What every bench shares: repeat, take the median and the spread, write one JSON file a figure."""

import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: values of several runs, in one unit. `baseline` is the line of the original's measurements."""

    name: str
    unit: str
    values: Sequence[float]
    aim: str = ""
    baseline: int | None = None
    note: str = ""

    def write(self) -> None:
        """Write results/<name>.json and show the figure."""
        RESULTS.mkdir(exist_ok=True)
        entry = {
            "name": self.name,
            "value": _short(statistics.median(self.values)),
            "unit": self.unit,
            "spread": [_short(min(self.values)), _short(max(self.values))],
            "runs": len(self.values),
            "aim": self.aim,
            "baseline_line": self.baseline,
            "note": self.note,
            "command": f"python -m {_module()}",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps(entry, indent=2) + "\n")
        print(f"{self.name}: {entry['value']} {self.unit} {entry['spread']} (aim: {self.aim or 'none'})", flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
