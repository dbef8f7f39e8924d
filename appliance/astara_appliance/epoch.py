"""Epochs: which owner's push counts. Two integers, compared in order; they only grow (architecture, rule 2)."""

import re
from typing import NamedTuple

_FORM = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})", re.ASCII)


class Epoch(NamedTuple):
    """`<term>.<counter>` as in the header X-Astara-Epoch."""

    term: int
    counter: int

    def __str__(self) -> str:
        return f"{self.term}.{self.counter}"


def parse_epoch(text: str) -> Epoch:
    """The epoch that `text` spells; raises ValueError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("an epoch is written <term>.<counter>")
    return Epoch(int(match[1]), int(match[2]))
