"""Every recorded message of Neutron, Nova and Octavia, and what it becomes: compared with a file that people read.

After a wanted change, `python tests/unit/test_notifier_golden.py` writes the file anew; its diff belongs to the review.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from services.notifier.normalise import Normaliser
from services.notifier.table import CASTS, NOTIFICATIONS, Ignored

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
OWN = Path(__file__).parents[1] / "data"
"""What Neutron sends with `astara-neutron`, recorded on a real OpenStack."""
GOLDEN = OWN / "notifier_golden.json"


def recordings() -> list[tuple[str, bytes]]:
    """File and body of each recorded message."""
    files = sorted(CORPUS.glob("*.jsonl"))
    if not files:
        pytest.fail(f"the recordings of OpenStack's messages are not there: {CORPUS}", pytrace=False)
    files += sorted(OWN.glob("*.jsonl"))
    return [(path.name, json.loads(line)["body"].encode()) for path in files for line in path.read_text().splitlines()]


def name_of(body: bytes) -> str:
    message = json.loads(json.loads(body)["oslo.message"])
    return message.get("event_type") or f"cast {message['method']}"


def outcome() -> dict[str, Any]:
    """For each type: how often it was recorded, and its events, or why it is ignored."""
    unknown: list[str] = []
    normaliser = Normaliser("astara", unknown.append)
    by_type: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for _, body in recordings():
        events = [MessageToDict(event, preserving_proto_field_name=True) for event in normaliser.events(body)]
        by_type[name_of(body)].append(events)
    assert unknown == [], "the table must name every recorded type"
    result: dict[str, Any] = {}
    for name, messages in sorted(by_type.items()):
        rule = CASTS[name.removeprefix("cast ")] if name.startswith("cast ") else NOTIFICATIONS[name]
        if isinstance(rule, Ignored):
            assert not any(messages)
            result[name] = {"recorded": len(messages), "ignored": rule.reason}
        else:
            result[name] = {"recorded": len(messages), "events": messages}
    return result


def test_every_recording_becomes_what_the_golden_file_says() -> None:
    assert outcome() == json.loads(GOLDEN.read_text())


def test_no_recorded_secret_gets_into_an_event() -> None:
    text = GOLDEN.read_text()
    assert "rig-psk" not in text
    assert any(b"rig-psk" in body for _, body in recordings())


def test_parsing_only_what_is_needed_changes_nothing() -> None:
    # Text is parsed as a whole, bytes only where the type is not ignored.
    normaliser = Normaliser("astara", lambda _: None)
    for _, body in recordings():
        assert normaliser.events(body) == normaliser.events(body.decode())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(outcome(), indent=1, sort_keys=True) + "\n")
