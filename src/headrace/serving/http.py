"""The scoring service over HTTP: routes, errors, and the life of the process that serves them."""

from __future__ import annotations

import asyncio
import html
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import perf_counter
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace.core.errors import ConfigError
from headrace.serving.access import ANY, ANYBODY, PUBLIC, Access, Caller
from headrace.serving.calls import Call
from headrace.serving.dead_letters import LetterHandlers
from headrace.serving.erasures import ErasureHandlers
from headrace.serving.handlers import Handlers
from headrace.serving.listener import listen
from headrace.serving.metrics import ServingMetrics
from headrace.serving.openapi import describe
from headrace.serving.replies import Refused, Reply, encode_json, refusal
from headrace.serving.scorer import Scorer
from headrace.serving.service import Service
from headrace.serving.tls import Tls
from headrace.serving.transport import JoinedProtocol, hurry_all

_logger = logging.getLogger("headrace.serving")
_Handler = Callable[[Call], Reply | Awaitable[Reply]]
_HEADERS = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
"""Of each answer: it is of one moment, may be about a person, and is what its type says."""
_PAGE_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)
_TICKS = 10
"""uvicorn's ticks, of 0.1 s each, between two looks at who dawdles."""


class _Disconnected(Exception):
    """The client left before its body was read."""


class Endpoint:
    """One route as an ASGI application: admits the caller, reads the body, calls the handler, answers, and counts.

    `scope` is what a key must be for; a caller who is not admitted is answered before the body is looked at. Whatever
    a handler raises on purpose becomes a 4xx or 503 with the error in JSON.
    """

    def __init__(
        self, route: str, handler: _Handler, metrics: ServingMetrics, max_body: int, access: Access | None, scope: str
    ) -> None:
        self._route = route
        self._handler = handler
        self._metrics = metrics
        self._max_body = max_body
        self._access = access
        self._scope = scope
        names = [name for name in ("{view}", "{group}") if scope == "read" and name in route]
        self._resource = names[0][1:-1] if names else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = perf_counter()
        try:
            caller = ANYBODY if self._access is None else self._admitted(self._access, scope)
            body = await self._body(scope, receive)
            answer = self._handler(Call(scope["path_params"], scope["query_string"], body, caller))
            reply = answer if isinstance(answer, Reply) else await answer
        except _Disconnected:
            return
        except Exception as error:
            known = refusal(error)
            if known is None:
                # A path may hold a key of somebody.
                _logger.exception("%s %s failed", scope["method"], self._route)
                known = Refused(500, "internal error", hint="the service's log says more").reply()
            reply = known
        await _send(send, reply)
        self._metrics.answered(self._route, reply.status, perf_counter() - start)

    def _admitted(self, access: Access, scope: Scope) -> Caller:
        caller = access.admit(scope["headers"], self._scope)
        if caller.reads is not None and self._resource:
            caller.check_read(scope["path_params"][self._resource])
        return caller

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] == "GET":
            return b""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return self._limited(body)
        parts, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                break
        return self._limited(b"".join(parts))

    def _limited(self, body: bytes) -> bytes:
        if len(body) > self._max_body:
            hint = f"send at most {self._max_body} bytes at a time"
            raise Refused(413, "the body is too large", hint=hint)
        return body


def create_app(service: Service) -> Starlette:
    """The ASGI application of a service.

    While it runs it takes over promoted versions, and when it stops it flushes the prediction log; the parts of the
    service stay open.
    """
    metrics = ServingMetrics(service)
    handlers = Handlers(service, metrics)
    document = encode_json(describe(service.project))
    page = _page(service).encode()
    letters, letter = LetterHandlers(service.letters), "/v1/dead_letters/{stream}/{partition}/{offset}"
    erasures = ErasureHandlers(service.erasures)
    table: list[tuple[str, str, str, _Handler]] = [
        ("POST", "/v1/events", "publish", handlers.post_events),
        ("POST", "/v1/events/{stream}", "publish", handlers.post_stream),
        ("POST", "/v1/features/{view}", "read", handlers.post_features),
        ("POST", "/v1/models/{model}/score", "score", handlers.post_score),
        ("GET", "/v1/predictions/{id}", "read", handlers.get_prediction),
        ("POST", "/v1/labels/{model}", "label", handlers.post_labels),
        ("GET", "/v1/records/{group}/{key:path}", "read", handlers.get_record),
        ("PUT", "/v1/records/{group}/{key:path}", "publish", handlers.put_record),
        ("GET", "/v1/dead_letters", "admin", letters.list),
        ("POST", "/v1/dead_letters/replay", "admin", letters.replay),
        ("POST", "/v1/dead_letters/drop", "admin", letters.drop),
        ("GET", letter, "admin", letters.get),
        ("POST", f"{letter}/fix", "admin", letters.fix),
        ("POST", "/v1/erasures", "admin", erasures.post),
        ("GET", "/v1/erasures", "admin", erasures.list),
        ("GET", "/v1/erasures/{id}", "admin", erasures.get),
        ("GET", "/metrics", ANY, handlers.get_metrics),
        ("GET", "/health/live", PUBLIC, handlers.get_live),
        ("GET", "/health/ready", PUBLIC, handlers.get_ready),
        ("GET", "/openapi.json", ANY, lambda call: Reply(document)),
        ("GET", "/", ANY, lambda call: Reply(page, 200, b"text/html; charset=utf-8", _PAGE_HEADERS)),
    ]
    # The routes are tried in turn, so the busiest stand first.
    busy = ("/v1/models/{model}/score", "/v1/features/{view}")
    table.sort(key=lambda row: busy.index(row[1]) if row[1] in busy else len(busy))
    routes = [
        Route(path, Endpoint(path, handler, metrics, service.max_body, service.access, scope), methods=[method])
        for method, path, scope, handler in table
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Each on its own: a model that takes long to load, or hangs, is not to keep a key that was revoked alive.
        watchers = [asyncio.create_task(follow) for follow in _followers(service, handlers, metrics)]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            if service.predictions is not None:
                await asyncio.to_thread(service.predictions.flush)
            if service.notes is not None:
                await asyncio.to_thread(partial(service.notes.flush, everything=True))

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})


def serve(
    service: Service,
    host: str = "127.0.0.1",
    port: int = 8321,
    *,
    listener: socket.socket | None = None,
    on_ready: Callable[[int], None] | None = None,
    tls: Tls | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT: then finish the requests that are under way, flush the prediction log, return.

    `port` 0 takes any free one; `on_ready` is told the port once connections are accepted. A `listener` that listens
    already is used instead of host and port, and closed at the end. With `tls` it speaks HTTPS only. Raises ConfigError
    if the address cannot be listened on.
    """
    listener = listener or listen(host, port)
    with listener, _returning_from_signals():
        _server(service, listener, on_ready, tls).run(sockets=[listener])


@contextmanager
def serving(service: Service, host: str = "127.0.0.1", port: int = 0, *, tls: Tls | None = None) -> Iterator[int]:
    """Serve from a thread of this process while the context lasts; gives the port.

    Leaving it stops the service as SIGTERM would. Raises ConfigError if the address cannot be listened on.
    """
    with listen(host, port) as listener:
        ready = threading.Event()
        server = _server(service, listener, lambda _: ready.set(), tls)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), name="headrace-http", daemon=True)
        thread.start()
        try:
            while not ready.wait(0.05):
                if not thread.is_alive():
                    raise ConfigError(f"the service on {host} did not start; its log says why")
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def _server(
    service: Service, listener: socket.socket, on_ready: Callable[[int], None] | None, tls: Tls | None
) -> _Server:
    secure: dict[str, Any] = {} if tls is None else tls.options()
    config = uvicorn.Config(
        create_app(service),
        access_log=False,
        log_level="error",  # what is warned of is what anybody may send, as often as they like
        server_header=False,
        headers=_HEADERS,
        loop="uvloop",
        http=JoinedProtocol,
        ws="none",
        proxy_headers=False,  # nothing here asks who the client is
        timeout_graceful_shutdown=10,
        **secure,
    )
    return _Server(config, on_ready, listener.getsockname()[1])


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[int], None] | None, port: int) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready(self._port)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            hurry_all(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


@contextmanager
def _returning_from_signals() -> Iterator[None]:
    """Let the server return after a signal; it raises the signal anew when it has stopped, to whoever had it before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stopped(number: int, frame: FrameType | None) -> None:
        """The server has dealt with it."""

    before = {number: signal.signal(number, stopped) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _followers(service: Service, handlers: Handlers, metrics: ServingMetrics) -> Iterator[Coroutine[Any, Any, None]]:
    """What takes over from the catalog while the service runs: versions, keys, erasures; and what tells it."""
    if service.scorers:
        yield _follow_models(service, metrics)
    if service.access is not None:
        yield _repeat("keys", service.access.refresh, service.poll_s)
    if service.notes is not None:
        yield _repeat("log of changes", service.notes.flush, service.poll_s)
    if service.erasures is not None:
        yield _repeat("erasures", handlers.forget_erased, 10 * service.poll_s)


async def _follow_models(service: Service, metrics: ServingMetrics) -> None:
    told: dict[str, str] = {}
    while True:
        for name, scorer in service.scorers.items():
            await _reload(name, scorer, metrics, told)
        await asyncio.sleep(service.poll_s)


async def _repeat(what: str, do: Callable[[], object], poll_s: float) -> None:
    """Do something with the catalog again and again; where it fails the service goes on with what it knows, and says so
    once."""
    told = ""
    loop = asyncio.get_running_loop()
    # A thread of its own: requests may keep those that they share busy.
    thread = ThreadPoolExecutor(1, thread_name_prefix="headrace-catalog")
    try:
        while True:
            try:
                await loop.run_in_executor(thread, do)
                told = ""
            except Exception as error:
                if told != str(error):
                    told = str(error)
                    _logger.error("%s: %s", what, error)
            await asyncio.sleep(poll_s)
    finally:
        await asyncio.to_thread(thread.shutdown)


async def _reload(name: str, scorer: Scorer, metrics: ServingMetrics, told: dict[str, str]) -> None:
    try:
        # Loading takes tens of milliseconds; requests go on being answered by the old version meanwhile.
        if await asyncio.to_thread(scorer.reload):
            metrics.reloaded(name, "swapped")
        told.pop(name, None)
    except Exception as error:
        if told.get(name) != str(error):
            told[name] = str(error)
            metrics.reloaded(name, "refused")
            _logger.error("model %s goes on with its old version: %s", name, error)


async def _send(send: Send, reply: Reply) -> None:
    length = str(len(reply.body)).encode()
    headers = [(b"content-type", reply.content_type), (b"content-length", length), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    what = "no such path" if status == 404 else "this path does not take that method"
    refused = Refused(status, f"{what}: {request.method} {request.url.path}", hint="GET /openapi.json lists them all")
    reply = refused.reply()
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return Response(reply.body, status, headers, media_type="application/json")


def _page(service: Service) -> str:
    def items(names: Any, form: str) -> str:
        return "".join(f"<li><code>{html.escape(form.format(name))}</code></li>" for name in names)

    plan = service.project
    links = "".join(
        f'<li><a href="{path}">{path}</a></li>'
        for path in ("/openapi.json", "/metrics", "/health/live", "/health/ready")
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Headrace</title>"
        "<body style='font:16px/1.5 system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem'>"
        f"<h1>Headrace scoring service</h1><ul>{links}</ul>"
        f"<h2>Models</h2><ul>{items(service.scorers, 'POST /v1/models/{}/score')}</ul>"
        f"<h2>Views</h2><ul>{items(plan.views, 'POST /v1/features/{}')}</ul>"
        f"<h2>Streams</h2><ul>{items(plan.streams, 'POST /v1/events/{}')}</ul></body></html>"
    )
