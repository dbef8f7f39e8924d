"""The application: routes, gate, problem documents, and the OpenAPI description of exactly these.

Nothing is loaded from elsewhere: `/docs` is one page made here from the description, without scripts.
"""

import asyncio
import html
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from services.common.process import version
from services.rpcapi import commands, problems, queries, stream, telemetry
from services.rpcapi.gate import PUBLIC, Gate
from services.rpcapi.scheduler import Scheduler
from services.rpcapi.settings import RpcapiSettings
from services.rpcapi.stream import Streams

_DESCRIPTION = (
    "Commands and queries for operators of Astara. Every path is also answered with a trailing slash. "
    "Errors are RFC 9457 problem documents. 503 means that something is not known yet: try again after Retry-After."
)
_PROBLEMS = {
    "400": "The body is no JSON in UTF-8",
    "404": "It does not exist",
    "408": "The body did not arrive in time",
    "409": "It is in debug mode, or in another state that does not allow this",
    "413": "The body is too large",
    "422": "A field is wrong; `errors` names each",
    "429": "Too many requests",
    "502": "The scheduler failed",
    "503": "Not known yet, or the scheduler does not answer",
    "504": "The scheduler did not answer in time",
}
_NO_QUESTION = frozenset({"/healthz", "/metrics", "/readyz"})
_PAGE_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#eee;padding:.1rem .3rem}table{border-collapse:collapse}"
    "td{padding:.2rem 1rem .2rem 0;vertical-align:top}"
)


def build(settings: RpcapiSettings, scheduler: Scheduler, token: str | None, stop: asyncio.Event) -> FastAPI:
    """The application. `token` None leaves it open; `stop` ends the live streams."""
    app = FastAPI(
        title="Astara",
        version=version(),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.scheduler = scheduler
    app.state.streams = Streams(settings.max_streams, stop)
    problems.install(app)
    for module in (commands, queries, stream, telemetry):
        app.include_router(module.router)

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> str:
        return _page(app.openapi())

    # Measured stands outside, so that what the gate refuses is counted too.
    app.add_middleware(Gate, settings=settings, token=token)
    app.add_middleware(telemetry.Measured)
    app.openapi = _described(app, secured=token is not None)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, *, secured: bool) -> Callable[[], dict[str, Any]]:
    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _add_problems(schema)
            _without_null(schema)
            if secured:
                _add_security(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    return describe


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _add_problems(schema: dict[str, Any]) -> None:
    components = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    definition = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.update(definition.pop("$defs"))
    components["Problem"] = definition
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, _method, operation in _operations(schema):
        for status, words in _PROBLEMS.items():
            if path not in _NO_QUESTION or status in {"413", "429", "503"}:
                operation["responses"][status] = {"description": words, "content": content}


def _without_null(schema: dict[str, Any]) -> None:
    # A parameter is left out, not null: paths, queries and headers have no word for null.
    for _path, _method, operation in _operations(schema):
        for parameter in operation.get("parameters", ()):
            choices = parameter["schema"].pop("anyOf", ())
            for choice in choices:
                if choice != {"type": "null"}:
                    parameter["schema"].update(choice)


def _add_security(schema: dict[str, Any]) -> None:
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, _method, operation in _operations(schema):
        if path not in PUBLIC:
            operation["security"] = [{"token": []}]
            operation["responses"]["401"] = {
                "description": "The token is missing or wrong",
                "content": operation["responses"]["429"]["content"],
            }


def _page(schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{method.upper()}&nbsp;{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation.get('description', ''))}</td></tr>"
        for path, method, operation in _operations(schema)
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Astara's API</title><style>{_PAGE_STYLE}</style>"
        f"<h1>Astara {html.escape(schema['info']['version'])}</h1><p>{html.escape(schema['info']['description'])}</p>"
        f"<table>{rows}</table><p>The whole description: <a href=/openapi.json>/openapi.json</a></p></html>"
    )
