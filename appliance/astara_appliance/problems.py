"""Errors as RFC 9457 problem documents: the one place where an exception becomes an answer."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import ClientPayloadError, web

from .appliance import CommitFailed, StaleEpoch
from .backend import BackendError
from .validation import InvalidConfiguration, MalformedJson

_log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An answer that says what was wrong. `extra` are further members of the document."""

    def __init__(
        self, status: int, title: str, detail: str, extra: Mapping[str, Any] | None = None, headers: Any = None
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail
        self.extra = extra or {}
        self.headers = headers

    def response(self) -> web.Response:
        """The answer."""
        document = {"title": self.title, "status": self.status, "detail": self.detail, **self.extra}
        return web.Response(
            status=self.status,
            body=json.dumps(document).encode(),
            content_type="application/problem+json",
            headers=self.headers,
        )


def problem_of(error: Exception) -> Problem:
    """What to answer for `error`. What nobody expected is logged here, and told without its details."""
    match error:
        case Problem():
            return error
        case StaleEpoch():
            detail = "A newer owner has configured this appliance; this push was not looked at."
            return Problem(409, "Epoch is lower than the highest seen", detail, {"epoch": str(error.highest)})
        case MalformedJson():
            return Problem(400, "The body is not JSON", str(error))
        case InvalidConfiguration():
            errors = [{"field": wrong.field, "message": wrong.message} for wrong in error.errors]
            detail = f"{len(errors)} fields are wrong; nothing was changed."
            return Problem(422, "The configuration is not valid", detail, {"errors": errors})
        case CommitFailed():
            outcome = "the former configuration runs again" if error.restored else "the state of services is unknown"
            detail = f"{error.service}: {error}; {outcome}."
            return Problem(500, f"The service {error.service} failed", detail, {"service": error.service})
        case BackendError():
            return Problem(500, "The machine does not answer as it should", f"{error}.")
        case web.HTTPRequestEntityTooLarge():
            return Problem(413, "The body is too large", error.text or "")
        case web.RequestPayloadError() | ClientPayloadError():
            return Problem(400, "The body is broken", "It is not what its Content-Encoding or its length says.")
        case web.HTTPException():
            allow = error.headers.get("Allow")
            return Problem(error.status, error.reason, "", headers={"Allow": allow} if allow else None)
        case OSError():
            _log.error("the state cannot be kept: %s", error)
            return Problem(500, "The state cannot be kept", f"{error.strerror}; the push may be in effect.")
    _log.error("unexpected error", exc_info=error)
    return Problem(500, "Internal error", "The agent's log has the details.")
