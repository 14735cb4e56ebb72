"""The gateway: one ASGI application for HTTP, WebSockets and MCP, with a short way for the calls of tools."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.errors import UnauthorizedError
from toolpost.transports.http_answers import Answers, Sent, unanswered
from toolpost.transports.http_auth import OPEN, Entrance, Fields, Hosts, Origins, fields_of, session_of
from toolpost.transports.http_bodies import ClientLeftError, bounded, declared_length, read_body, read_json
from toolpost.transports.http_calling import Asking, call_plainly, call_tool, is_plain
from toolpost.transports.http_matching import Paths
from toolpost.transports.http_problems import Answer, HttpRefusal
from toolpost.transports.http_routes import Door, Route, SocketRoute
from toolpost.transports.mcp_auth import METADATA_PATHS, PATH
from toolpost.transports.serve_log import TOLD, note

if TYPE_CHECKING:
    from toolpost.worker.service import Service

logger = logging.getLogger("toolpost")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MODULES: Final = (
    "http_calls",
    "http_tools",
    "http_health",
    "http_problem_pages",
    "http_artifacts",
    "http_hooks",
    "http_streams",
    "http_socket",
    "http_approvals",
    "http_oauth",
    "http_callback",
    "http_openapi",
    "http_page",
)
"""Modules of this room whose ROUTES (or routes_of a door) and SOCKETS the gateway answers."""
_BEFORE, _BEHIND = "/v1/tools/", "/calls"
_CALL_ROUTE: Final = "/v1/tools/{name}/calls"
_TRICKS: Final = (b"%2f", b"%5c", b"%00")


def build_app(service: Service, *, base_url: str = "", listens_on: str | None = None) -> Gateway:
    """The gateway over a service: what a server such as Uvicorn runs.

    base_url: how callers reach it, for links; without it links are paths. listens_on: the address on which the server
    listens (serve_host where it is not said); with authentication "auto" callers need a key unless it is one of this
    machine only. Whoever runs the server starts and stops the service, and enters gateway.running(), or leaves both to
    the server's lifespan events.
    """
    return Gateway(service, base_url.rstrip("/"), listens_on or service.executor.config.serve_host)


class Gateway:
    """An ASGI application. routes and sockets: all that it answers, as the OpenAPI document tells it."""

    def __init__(self, service: Service, base_url: str, listens_on: str) -> None:
        self.door = Door(service=service, executor=service.executor, base_url=base_url)
        self._entrance = self.door.state["entrance"] = Entrance(service.executor, listens_on)
        self._hosts = Hosts(self._entrance, listens_on)
        self._origins = Origins(service.executor)
        self.routes, self.sockets = _found(self.door)
        self.door.state["routes"] = self.routes
        self._paths = Paths(self.routes)
        self._socket_paths = Paths(self.sockets)
        self._answers = Answers(self.door)
        self._mcp: Any = None
        self._mcp_paths: frozenset[str] = frozenset()
        if find_spec("mcp") is not None:  # the extra
            from toolpost.transports.mcp_http import mcp_app

            self._mcp = mcp_app(self.door)
            self._mcp_paths = frozenset({PATH, *METADATA_PATHS})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        """For as long as the gateway answers: what its parts need beside requests."""
        async with AsyncExitStack() as stack:
            if self._mcp is not None:
                await stack.enter_async_context(self._mcp.running())
            yield self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Sent(scope, receive, send)
        try:
            fields = sent.fields = fields_of(scope)
            self._hosts.check(fields.get(b"host"))
            if b"origin" in fields:
                sent.allowed_origin = self._origins.check(fields[b"origin"], fields.get(b"host"))
            path = scope["path"]
            if scope["method"] == "POST" and path.startswith(_BEFORE) and path.endswith(_BEHIND):
                name = path[len(_BEFORE) : -len(_BEHIND)]
                if name and "/" not in name:
                    found: Answer | Response = await self._call(name, scope, receive, sent)
                    if isinstance(found, Answer):
                        await self._answers.send(sent, found)
                    else:
                        await self._answers.respond(sent, found)
                    return
            await self._routed(path, scope, receive, sent)
        except Exception as error:
            await self._failed(error, sent)

    async def _call(self, name: str, scope: Scope, receive: Receive, sent: Sent) -> Answer | Response:
        """POST /v1/tools/{name}/calls, which is what nearly all requests are, without a framework's ways."""
        fields = sent.fields
        if b"%" in scope.get("raw_path", b""):
            _refuse_tricks(scope)
        if scope["query_string"]:
            raise HttpRefusal(400, "invalid_query", "this path has no parameters; the body has them")
        if TOLD in scope:
            note(scope, route=_CALL_ROUTE, tool=name[:200])
        sent.about, sent.route = name, _CALL_ROUTE
        caller = await self._entrance.caller(fields)
        length = declared_length(fields)
        if length != 0 and (fields.get(b"content-type") != b"application/json" or b"content-encoding" in fields):
            _check_type(fields, ("application/json",))
        if caller is not None and TOLD in scope:
            note(scope, user=caller.user_id, tenant=caller.tenant)
        body = await read_body(receive, length, self.door.executor.config.max_body_size)
        sent.body_read = True
        members: Any = read_json(body) if body else None
        if is_plain(fields, members):
            return await call_plainly(self.door, name, members["arguments"], caller, receive)
        return await call_tool(self.door, name, Asking(fields=fields, body=body, caller=caller, receive=receive))

    async def _routed(self, path: str, scope: Scope, receive: Receive, sent: Sent) -> None:
        """Everything else, by its route."""
        if b"%" in scope.get("raw_path", b""):
            _refuse_tricks(scope)
        if path in self._mcp_paths:
            note(scope, route="/mcp")
            sent.route = "/mcp"
            if scope["method"] == "OPTIONS" and sent.is_preflight:
                await self._answers.send(sent, self._answers.preflight(sent, ["GET", "POST", "DELETE"]))
                return
            if path == PATH and scope["method"] == "POST":
                answer, reading = await self._mcp.quick(scope, sent.fields, receive)
                if answer is not None:
                    sent.body_read = True
                    await self._answers.send(sent, answer)
                    return
            else:
                limit = self.door.executor.config.max_body_size
                reading = bounded(receive, declared_length(sent.fields), limit)
            await self._mcp(scope, reading, self._answers.through(sent))
            return
        there, params = self._paths.find(path)
        if there is None:
            raise HttpRefusal(404, "not_found", f"there is nothing at {path[:200]!r}")
        template = next(iter(there.values())).path
        note(scope, route=template)
        sent.about, sent.route = f"{scope['method'][:10]} {template}", template
        methods = sorted({*there, "OPTIONS", *(["HEAD"] if "GET" in there else [])})
        if scope["method"] == "OPTIONS":
            answer = self._answers.preflight(sent, methods) if sent.is_preflight else _options(methods)
            await self._answers.send(sent, answer)
            return
        route = there.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            raise HttpRefusal(
                405,
                "method_not_allowed",
                f"{template} takes {', '.join(methods)}, not {scope['method'][:20]!r}",
                headers=[("allow", ", ".join(methods))],
            )
        caller = ANONYMOUS if route.public else await self._caller(scope, sent.fields)
        length = declared_length(sent.fields)
        if length != 0:
            _check_type(sent.fields, route.media_types)
        scope["path_params"] = params
        limit = self.door.executor.config.max_body_size
        request = Request(scope, sent.reading(bounded(receive, length, limit)))
        found: Any = await route.handler(request, self.door, caller)
        if isinstance(found, Answer):
            await self._answers.send(sent, found)
        else:
            await self._answers.respond(sent, found)

    async def _caller(self, scope: Scope, fields: Fields) -> Caller:
        caller = await self._entrance.caller(fields)
        if caller is None:
            session_of(fields)  # which is checked even where it says nothing
            return OPEN
        note(scope, user=caller.user_id, tenant=caller.tenant)
        return caller

    async def _failed(self, error: Exception, sent: Sent) -> None:
        """Answer with what went wrong, if it still can be."""
        if isinstance(error, (ClientLeftError, ClientDisconnect)):
            note(sent.scope, code="client_left")
            await unanswered(sent)
            return
        if sent.started:
            logger.error("an answer broke off: %s", sent.about or sent.scope.get("path", "")[:100], exc_info=error)
            raise error
        if isinstance(error, UnauthorizedError) and sent.about and not sent.body_read:
            self.door.executor.audit_refusal(sent.about, error, call_id=sent.request_id, caller=ANONYMOUS)
        await self._answers.failed(sent, error)

    # -- WebSockets ---------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Sent(scope, receive, send)
        try:
            fields = sent.fields = fields_of(scope)
            self._hosts.check(fields.get(b"host"))
            if b"origin" in fields:
                self._origins.check(fields[b"origin"], fields.get(b"host"))
            there, params = self._socket_paths.find(scope["path"])
            if there is None:
                raise HttpRefusal(404, "not_found", f"there is no WebSocket at {scope['path'][:200]!r}")
            route: SocketRoute = there[""]
            note(scope, route=route.path)
            sent.about = f"WEBSOCKET {route.path}"
            fields = scope["toolpost.fields"] = with_token(scope, fields)  # for who asks again whether it is still good
            caller = ANONYMOUS if route.public else await self._caller(scope, fields)
            scope["path_params"] = params
        except Exception as error:
            if isinstance(error, UnauthorizedError) and sent.about:
                self.door.executor.audit_refusal(sent.about, error, call_id=sent.request_id, caller=ANONYMOUS)
            await self._answers.refuse_socket(sent, error)
            return
        await route.handler(WebSocket(scope, receive, send), self.door, caller)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        service = self.door.service
        async with AsyncExitStack() as stack:
            await receive()
            try:
                await stack.enter_async_context(service)
                await stack.enter_async_context(self.running())
            except Exception as error:
                logger.exception("the gateway cannot start")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


BEARER: Final = "toolpost.bearer."
"""Begins a subprotocol that carries a key or token: browsers cannot set the headers of a WebSocket."""


def with_token(scope: Scope, fields: Fields) -> Fields:
    """A WebSocket's fields with the token that stands among its subprotocols, if none stands in a header."""
    found = [one.removeprefix(BEARER) for one in scope.get("subprotocols") or () if one.startswith(BEARER)]
    if len(found) != 1 or Entrance.comes_with(fields):
        return fields
    return {**fields, b"authorization": b"Bearer " + found[0].encode("latin-1", "replace")}


def _found(door: Door) -> tuple[list[Route], list[SocketRoute]]:
    routes: list[Route] = []
    sockets: list[SocketRoute] = []
    for name in MODULES:
        if find_spec(f"toolpost.transports.{name}") is not None:
            module = import_module(f"toolpost.transports.{name}")
            routes += module.routes_of(door) if hasattr(module, "routes_of") else getattr(module, "ROUTES", [])
            sockets += getattr(module, "SOCKETS", [])
    return routes, sockets


def _options(methods: list[str]) -> Answer:
    return Answer(204, b"", [(b"allow", ", ".join(methods).encode())])


def _refuse_tricks(scope: Scope) -> None:
    """Refuse a path that hides separators: what stands in front of us may have read it otherwise."""
    raw = scope["raw_path"].lower()
    if any(trick in raw for trick in _TRICKS) and "/artifacts/" not in scope["path"]:
        raise HttpRefusal(404, "not_found", "there is nothing at a path with encoded separators")


def _check_type(fields: Fields, allowed: tuple[str, ...]) -> None:
    """Raise HttpRefusal (415) unless a body is of an allowed type, in UTF-8 and without compression."""
    given = fields.get(b"content-type", b"").decode("latin-1")
    media_type, _, parameters = given.partition(";")
    charset = parameters.strip().lower().replace(" ", "").replace('"', "")
    if media_type.strip().lower() not in allowed or charset not in ("", "charset=utf-8", "charset=utf8"):
        raise HttpRefusal(
            415,
            "unsupported_media_type",
            f"the body must come with Content-Type: {' or '.join(allowed)}, got {given[:80]!r}",
            headers=[("accept", ", ".join(allowed)), ("accept-post", ", ".join(allowed))],
        )
    if fields.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        raise HttpRefusal(
            415, "unsupported_media_type", "the body must not be compressed", headers=[("accept-encoding", "identity")]
        )


__all__ = ["BEARER", "Gateway", "build_app", "with_token"]
