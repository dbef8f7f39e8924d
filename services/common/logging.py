"""Logging: structlog, one line an event, JSON for machines and text on a terminal; secrets never pass.

Values under a key that sounds like a secret are replaced before rendering, whoever logs them; the standard library's
loggers (kombu, keystoneauth, aiohttp) go through the same chain.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from services.common.settings import CommonSettings

_SECRET = re.compile(r"(psk|passw|secret|token|authorization|private|credential|user_data)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w+://[^:/@\s]+):[^@/\s]+@")


def redact(value: Any) -> Any:
    """A copy of `value` in which every secret is `***`: by key in mappings, and passwords in URLs in texts."""
    if isinstance(value, Mapping):
        return {key: "***" if _SECRET.search(str(key)) and inner else redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    if isinstance(value, str):
        return _URL_PASSWORD.sub(r"\1:***@", value)
    return value


def _redact_event(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    cleaned: MutableMapping[str, Any] = redact(event)
    if "exc_info" in event:
        cleaned["exc_info"] = event["exc_info"]
    return cleaned


def setup(service: str, settings: CommonSettings) -> None:
    """Send everything to standard error in the wanted format. Called once, before anything else runs."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = getattr(logging, settings.log_level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact_event,
    ]
    final: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        ),
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def get(name: str) -> Any:
    """The logger of a module; call with its `__name__`."""
    return structlog.get_logger(name)
