"""The agent's REST API (docs/contracts.md, "Appliance API"; section 1.3.2 of the functional description).

Every path answers with and without its trailing slash; errors are problem documents. The handlers serve whichever
appliance `find` names for a request, so that one application can serve thousands (`host`); `create_app` makes the
usual one, which serves a single appliance.
"""

import hmac
import json
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

from aiohttp import web

from .appliance import Appliance, Clock
from .backend import Backend, Link, RecordingBackend
from .boot import BootData
from .epoch import Epoch, parse_epoch
from .firewall_text import firewall_text
from .problems import Problem, problem_of
from .store import FileStore, MemoryStore

MAX_BODY = 8 * 2**20
"""Bytes of a pushed configuration; ten thousand floating IPs or allocations take about two million."""

MAX_DIGEST = 256
"""Characters of X-Astara-Digest."""

Find = Callable[[web.Request], Appliance]
Handler = Callable[[web.Request, Appliance], Awaitable[web.Response]]

APPLIANCE: web.AppKey[Appliance] = web.AppKey("appliance", Appliance)


def version() -> str:
    """The installed version of Astara; "unknown" when the agent runs from bare files."""
    try:
        return metadata.version("astara")
    except metadata.PackageNotFoundError:
        return "unknown"


def create_app(
    boot: BootData, state_dir: Path | None, backend: Backend | None = None, clock: Clock = time.monotonic
) -> web.Application:
    """The application that serves the appliance of `boot`.

    `state_dir` keeps what must survive a restart (None: nothing does), `backend` is the machine (None: a recording one
    with the management interface plugged). The appliance itself is at `APPLIANCE`, started with the application.
    """
    store = MemoryStore() if state_dir is None else FileStore(state_dir)
    if backend is None:
        backend = RecordingBackend([Link(boot.management.mac, boot.management.mtu)])
    appliance = Appliance(boot, store, backend, clock, version())
    app = application(lambda _request: appliance)
    app[APPLIANCE] = appliance

    async def start(_app: web.Application) -> None:
        await appliance.start()

    app.on_startup.append(start)
    return app


def application(find: Find) -> web.Application:
    """An application that serves the appliance that `find` names; `find` may raise `Problem`."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[answer_problems])
    for method, path, handler, is_open in _ROUTES:
        answer = _bind(find, handler, is_open)
        for form in (path, f"{path}/"):
            app.router.add_route(method, form, answer)
            if method == "GET":
                app.router.add_route("HEAD", form, answer)
    return app


@web.middleware
async def answer_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem document."""
    try:
        return await handler(request)
    except Exception as error:
        return problem_of(error).response()


def _bind(find: Find, handler: Handler, is_open: bool) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        appliance = find(request)
        if not is_open:
            _authorize(request, appliance.boot.token)
        return await handler(request, appliance)

    return answer


def _authorize(request: web.Request, token: str | None) -> None:
    if token is None:
        return
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    # As bytes: compare_digest refuses text that is not ASCII, and headers may hold any byte.
    known = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
    if scheme.lower() != "bearer" or not known:
        raise Problem(
            401,
            "The token is missing or wrong",
            "All calls but GET /v1/status need the appliance's bearer token.",
            headers={"WWW-Authenticate": 'Bearer realm="astara-appliance"'},
        )


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


async def _status(_request: web.Request, appliance: Appliance) -> web.Response:
    return _json(appliance.status())


async def _firewall_rules(_request: web.Request, appliance: Appliance) -> web.Response:
    return web.Response(text=firewall_text(appliance.state("firewall")))


async def _labels(_request: web.Request, appliance: Appliance) -> web.Response:
    return _json(json.dumps({"labels": await appliance.labels()}).encode())


async def _reset_labels(_request: web.Request, appliance: Appliance) -> web.Response:
    return _json(json.dumps({"labels": await appliance.reset_labels()}).encode())


async def _interfaces(_request: web.Request, appliance: Appliance) -> web.Response:
    return _json(json.dumps({"interfaces": appliance.interfaces()}).encode())


async def _interface(request: web.Request, appliance: Appliance) -> web.Response:
    ifname = request.match_info["ifname"]
    for interface in appliance.interfaces():
        if interface["ifname"] == ifname:
            return _json(json.dumps({"interface": interface}).encode())
    raise Problem(404, "There is no such interface", "GET /v1/system/interfaces names those that are plugged.")


async def _configuration(_request: web.Request, appliance: Appliance) -> web.Response:
    return _json(b'{"configuration":%s}' % appliance.configuration)


async def _configure(request: web.Request, appliance: Appliance) -> web.Response:
    digest = request.headers.get("X-Astara-Digest")
    if digest is not None and not (0 < len(digest) <= MAX_DIGEST and digest.isascii() and digest.isprintable()):
        raise Problem(400, "X-Astara-Digest is not valid", f"1 to {MAX_DIGEST} printable characters are expected.")
    if (request.content_length or 0) > MAX_BODY:
        raise Problem(413, "The body is too large", f"At most {MAX_BODY} bytes are read.")
    epoch = _epoch(request.headers.get("X-Astara-Epoch"))
    pushed = await appliance.push(await request.read(), digest, epoch)
    facts = {
        "changed": pushed.changed,
        "digest": pushed.digest,
        "epoch": None if pushed.epoch is None else str(pushed.epoch),
        "undone": pushed.undone,
    }
    told = json.dumps(facts).encode()
    if _wants_little(request):
        # Ten thousand floating IPs are two megabytes that the orchestrator knows already.
        answer = _json(told)
        answer.headers["Preference-Applied"] = "return=minimal"
        return answer
    return _json(b'{"configuration":%s,%s' % (pushed.configuration, told[1:]))


def _wants_little(request: web.Request) -> bool:
    """Whether the caller asks for an answer without what it has sent (RFC 7240, section 4.2)."""
    preferences = ",".join(request.headers.getall("Prefer", ())).split(",")
    return any(one.partition(";")[0].strip().lower() == "return=minimal" for one in preferences)


def _epoch(header: str | None) -> Epoch | None:
    if header is None:
        return None
    try:
        return parse_epoch(header)
    except ValueError as error:
        raise Problem(400, "X-Astara-Epoch is not valid", f"{error}.") from None


_ROUTES: tuple[tuple[str, str, Handler, bool], ...] = (
    ("GET", "/v1/status", _status, True),
    ("GET", "/v1/firewall/rules", _firewall_rules, False),
    ("GET", "/v1/firewall/labels", _labels, False),
    ("POST", "/v1/firewall/labels/resetcounters", _reset_labels, False),
    ("GET", "/v1/system/interface/{ifname}", _interface, False),
    ("GET", "/v1/system/interfaces", _interfaces, False),
    ("GET", "/v1/system/config", _configuration, False),
    ("PUT", "/v1/system/config", _configure, False),
)
