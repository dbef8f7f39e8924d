"""Neutron's list queries: filters, fields, sorting and paging, over rows that indices have narrowed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .store import Row
from .web import CloudError

_TRUE = {"true", "1", "yes", "on"}
_TIMES = ("created_at", "updated_at")
_NOT_SORTABLE = (*_TIMES, "revision_number")
_TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")


@dataclass(slots=True)
class Query:
    """One parsed query string."""

    filters: dict[str, list[str]] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    sort: list[tuple[str, bool]] = field(default_factory=list)
    """Attribute and whether ascending."""
    limit: int | None = None
    marker: str | None = None
    reverse: bool = False
    changed_since: str | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)


def parse(pairs: list[tuple[str, str]], known: Iterable[str], *, strict: bool) -> Query:
    """Read a query string.

    `strict` is Neutron's filter validation, on by default in the real service: CloudError 400 names filters that are no
    attributes, and `changed_since`, which the extension of timestamps understands, is none.
    """
    query = Query(pairs=pairs)
    sort_keys: list[str] = []
    sort_dirs: list[str] = []
    for key, value in pairs:
        if key == "fields":
            query.fields.append(value)
        elif key == "limit":
            query.limit = _limit(value)
        elif key == "marker":
            query.marker = value
        elif key == "page_reverse":
            query.reverse = value.lower() in _TRUE
        elif key == "sort_key":
            sort_keys.append(value)
        elif key == "sort_dir":
            sort_dirs.append(value)
        elif key == "changed_since" and not strict:
            query.changed_since = value.removesuffix("Z") + "Z"
        else:
            query.filters.setdefault("project_id" if key == "tenant_id" else key, []).append(value)
    query.sort = [(key, (sort_dirs[i] if i < len(sort_dirs) else "asc") == "asc") for i, key in enumerate(sort_keys)]
    if unknown := [key for key in sort_keys if key in _NOT_SORTABLE or key not in known]:
        raise CloudError(400, "HTTPBadRequest", f"{unknown} is invalid attribute for sort_keys")
    if unknown := [key for key in query.filters if key in _TIMES or (key not in known and key not in _TAG_FILTERS)]:
        if strict:
            raise CloudError(400, "HTTPBadRequest", f"{unknown} is invalid attribute for filtering")
        for key in unknown:
            del query.filters[key]
    return query


def select(rows: Iterable[Row], query: Query) -> list[Row]:
    """The rows that pass the filters, sorted, on the asked page."""
    found = [row for row in rows if _passes(row, query)]
    if query.limit is None and not query.sort and query.marker is None:
        return found
    found.sort(key=lambda row: str(row["id"]))
    for key, ascending in reversed(query.sort):
        found.sort(key=lambda row, k=key: _sortable(row.get(k)), reverse=not ascending)  # type: ignore[misc]
    if query.reverse:
        found.reverse()
    if query.marker is not None:
        ids = [row["id"] for row in found]
        if query.marker not in ids:
            raise CloudError(400, "BadRequest", f"Marker {query.marker} could not be found")
        found = found[ids.index(query.marker) + 1 :]
    if query.limit is not None:
        found = found[: query.limit]
    if query.reverse:
        found.reverse()
    return found


def links(url: str, page: list[Row], query: Query) -> list[dict[str, str]]:
    """The links to the pages before and after this one; empty when the query asked for no pages."""
    if query.limit is None or not page:
        return []
    rest = [(key, value) for key, value in query.pairs if key not in ("marker", "page_reverse")]
    found = []
    if len(page) >= query.limit or query.reverse:
        found.append({"rel": "next", "href": f"{url}?{urlencode([*rest, ('marker', page[-1]['id'])])}"})
    before = [*rest, ("marker", page[0]["id"]), ("page_reverse", "True")]
    found.append({"rel": "previous", "href": f"{url}?{urlencode(before)}"})
    return found


def _limit(value: str) -> int | None:
    try:
        number = int(value)
    except ValueError as error:
        raise CloudError(400, "BadRequest", f"Bad limit: {value}") from error
    return number if number > 0 else None


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, "") if value is None else (1, str(value) if isinstance(value, dict | list) else value)


def _passes(row: Row, query: Query) -> bool:
    if query.changed_since is not None and row.get("updated_at", "") < query.changed_since:
        return False
    return all(_matches(row, key, values) for key, values in query.filters.items())


def _matches(row: Row, key: str, values: list[str]) -> bool:
    if key == "fixed_ips":
        return _has_address(row["fixed_ips"], values)
    if key in _TAG_FILTERS:
        return _has_tags(set(row.get("tags") or ()), key, ",".join(values).split(","))
    have = row.get(key)
    if isinstance(have, bool):
        return any((value.lower() in _TRUE) is have for value in values)
    if isinstance(have, list):
        return any(value in have for value in values)
    return ("" if have is None else str(have)) in values


def _has_address(fixed_ips: list[dict[str, str]], values: list[str]) -> bool:
    """One address satisfies each of the named keys; several values of a key are alternatives."""
    wanted: dict[str, list[str]] = {}
    for value in values:
        key, _, content = value.partition("=")
        wanted.setdefault(key, []).append(content)
    substrings = wanted.pop("ip_address_substr", [])
    return any(
        all(address.get(key) in contents for key, contents in wanted.items())
        and all(part in address["ip_address"] for part in substrings)
        for address in fixed_ips
    )


def _has_tags(have: set[str], key: str, tags: list[str]) -> bool:
    hits = any(tag in have for tag in tags) if key.endswith("any") else all(tag in have for tag in tags)
    return hits is not key.startswith("not")
