"""Paged listings from Neutron and Nova, with few fields, on a bounded pool of threads.

A listing is whole or it raises: a page that fails, or that does not hold what was asked for, ends it.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

Row = dict[str, Any]
Filters = list[tuple[str, str]]

# More pages than any cloud has: a server that repeats itself must not keep us for ever.
_MOST_PAGES = 100_000
# Snapshots in one answer, as docs/contracts.md has it.
_MOST_SNAPSHOTS = 500


class ListingError(Exception):
    """A listing that did not succeed. `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, what: str, status: int, detail: str) -> None:
        super().__init__(f"{what}: {status or 'no answer'} {detail}")
        self.status = status


class Lister:
    """Lists Neutron's and Nova's objects as they are in JSON."""

    def __init__(self, connection: Connection, threads: int, page_size: int) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="listing")
        self._page_size = page_size

    def close(self) -> None:
        """Let go of the threads; a call under way ends by its own time-out."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def project_id(self) -> str:
        """The project of our own user. ListingError when Keystone does not let it in."""
        found: str = await self._run("own project", self._connection.session.get_project_id)
        return found

    async def network(self, plural: str, fields: str, filters: Filters | None = None) -> list[Row]:
        """All Neutron objects of a kind that pass the filters; `fields` by blanks. Raises ListingError."""
        return [row async for page in self.network_pages(plural, fields, filters) for row in page]

    async def network_pages(self, plural: str, fields: str, filters: Filters | None = None) -> AsyncIterator[list[Row]]:
        """The same, page by page, for what need not be kept."""
        key = plural.replace("-", "_")
        asked = [*(filters or []), *(("fields", field) for field in fields.split())]
        path = f"/{plural}"
        async for page in self._pages(lambda: self._connection.network, path, key, asked):
            yield page

    async def snapshots(self, since: int | None, fields: str) -> tuple[list[Row], int]:
        """Snapshots of routers that something changed since a revision, and the revision to ask for next.

        Without `since` only the revision is asked for. Raises ListingError: 404 where Neutron lacks the extension
        `astara-router-snapshot`, 410 where it does not know the revision any more.
        """
        path, key = "/astara-router-snapshots", "router_snapshots"
        limit = 1 if since is None else min(self._page_size, _MOST_SNAPSHOTS)
        asked = [("limit", str(limit)), *(("fields", field) for field in fields.split())]
        if since is not None:
            asked.append(("changed_since", str(since)))
        rows: list[Row] = []
        revision: int | None = None
        for _ in range(_MOST_PAGES):
            marker = [("marker", rows[-1]["id"])] if rows else []
            query = asked + marker
            answer = await self._run(f"GET {path}", lambda q=query: self._connection.network.get(path, params=q))
            page, more = _parse(f"GET {path}", answer, key)
            if revision is None:
                revision = _revision(f"GET {path}", answer)
            rows += page
            if since is None or not page or not more:
                break
        return rows, revision or 0

    async def servers(self, name: str) -> list[Row]:
        """Our own project's servers whose names match a regular expression. Raises ListingError."""
        pages = self._pages(lambda: self._connection.compute, "/servers/detail", "servers", [("name", name)])
        return [row async for page in pages for row in page]

    async def _pages(self, proxy: Any, path: str, key: str, asked: Filters) -> AsyncIterator[list[Row]]:
        marker = ""
        for _ in range(_MOST_PAGES):
            parameters = [*asked, ("limit", str(self._page_size))]
            if marker:
                parameters.append(("marker", marker))
            answer = await self._run(f"GET {path}", lambda p=parameters: proxy().get(path, params=p))
            page, more = _parse(f"GET {path}", answer, key)
            if page:
                yield page
            # Servers may have a smaller limit of their own and say by a link that there is more.
            if not page or not (more or len(page) >= self._page_size):
                return
            marker = page[-1]["id"]

    async def _run(self, what: str, call: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except (ClientException, SDKException, OSError) as error:
            raise ListingError(what, int(getattr(error, "http_status", 0) or 0), str(error)) from error


def _revision(what: str, answer: Any) -> int:
    revision = answer.json().get("revision")
    if not isinstance(revision, int):
        raise ListingError(what, answer.status_code, "no revision")
    return revision


def _parse(what: str, answer: Any, key: str) -> tuple[list[Row], bool]:
    if answer.status_code >= 400:
        raise ListingError(what, answer.status_code, answer.text[:300])
    try:
        body = answer.json()
        page = body[key]
        more = any(link.get("rel") == "next" for link in body.get(f"{key}_links") or ())
        if all(isinstance(row["id"], str) for row in page):
            return page, more
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ListingError(what, answer.status_code, f"no list of {key}")
