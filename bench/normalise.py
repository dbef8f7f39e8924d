"""CPU time to normalise one notification, decoding counted: every recording of the corpus that becomes an event."""

import json
import sys
import time
from pathlib import Path

from bench.measure import Figure
from services.notifier.normalise import Normaliser

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "neutron-notifications.jsonl"
ROUNDS = 20


def main() -> None:
    """Seven runs over the corpus, CPU time of this process."""
    if not CORPUS.exists():
        sys.exit(f"{CORPUS} is missing: the recordings lie beside the checkout")
    normaliser = Normaliser("bench", lambda _name: None)
    bodies = [json.loads(line)["body"].encode() for line in CORPUS.read_text().splitlines()]
    bodies = [body for body in bodies if normaliser.events(body)]
    values = []
    for _ in range(7):
        started = time.process_time()
        for _ in range(ROUNDS):
            for body in bodies:
                normaliser.events(body)
        values.append((time.process_time() - started) / ROUNDS / len(bodies) * 1e6)
    note = "CPU time, with decoding, which the original's figure leaves out"
    Figure("normalise_notification", "us", values, "", 10, note).write()


if __name__ == "__main__":
    main()
