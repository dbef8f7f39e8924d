"""Tables of API objects in memory, found by their indexed attributes without a scan.

A row is the JSON object that the API shows to an administrator. Rows are changed through `Table.change` only, so that
an index always agrees with its rows.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

Row = dict[str, Any]
Keys = Callable[[Row], Iterable[Hashable]]


def attribute(name: str) -> Keys:
    """Index a row under the value of one of its attributes."""
    return lambda row: (row.get(name),)


class Table:
    """Rows by id in the order in which they came, with indices."""

    def __init__(self, *attributes: str, **indices: Keys) -> None:
        """`attributes` are indexed by value; `indices` maps further index names to the keys of a row."""
        self._rows: dict[str, Row] = {}
        self._keys: Mapping[str, Keys] = {name: attribute(name) for name in attributes} | indices
        self._index: dict[str, dict[Hashable, dict[str, None]]] = {name: {} for name in self._keys}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._rows

    def get(self, row_id: str | None) -> Row | None:
        """The row, or None."""
        return self._rows.get(row_id) if row_id else None

    def add(self, row: Row) -> Row:
        """Keep a row under its `id`."""
        self._rows[row["id"]] = row
        for name, keys in self._keys.items():
            index = self._index[name]
            for key in keys(row):
                index.setdefault(key, {})[row["id"]] = None
        return row

    def remove(self, row_id: str) -> Row:
        """Forget a row; KeyError when there is none."""
        row = self._rows.pop(row_id)
        for name, keys in self._keys.items():
            for key in keys(row):
                self._drop(name, key, row_id)
        return row

    def change(self, row: Row, changes: Mapping[str, Any]) -> Row:
        """Set attributes of a row in place."""
        before = {name: tuple(keys(row)) for name, keys in self._keys.items()}
        row.update(changes)
        for name, keys in self._keys.items():
            after = tuple(keys(row))
            if after == before[name]:
                continue
            for key in before[name]:
                self._drop(name, key, row["id"])
            for key in after:
                self._index[name].setdefault(key, {})[row["id"]] = None
        return row

    def indexed(self, name: str) -> bool:
        """Whether `find` knows this index."""
        return name in self._index

    def find(self, name: str, *keys: Hashable) -> list[Row]:
        """The rows that have one of the keys in that index, each once."""
        index = self._index[name]
        found: dict[str, None] = {}
        for key in keys:
            found.update(index.get(key, {}))
        return [self._rows[row_id] for row_id in found]

    def count(self, name: str, key: Hashable) -> int:
        """How many rows have the key in that index."""
        return len(self._index[name].get(key, ()))

    def _drop(self, name: str, key: Hashable, row_id: str) -> None:
        rows = self._index[name].get(key)
        if rows is None:
            return
        rows.pop(row_id, None)
        if not rows:
            del self._index[name][key]
