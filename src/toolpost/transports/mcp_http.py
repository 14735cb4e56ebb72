"""The MCP door over streamable HTTP: who may come, then the quick way for plain calls, then the SDK for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import ToolExecutionError, UnauthorizedError
from toolpost.transports.http_auth import Entrance, Fields, Hosts, Origins
from toolpost.transports.http_bodies import ClientLeftError, bounded, declared_length, read_body
from toolpost.transports.http_problems import Answer, HttpRefusal
from toolpost.transports.mcp_auth import (
    METADATA_PATHS,
    base_url_of,
    resource_metadata,
    routes_of,
    step_up,
    unauthorized,
)
from toolpost.transports.mcp_client import CALLER
from toolpost.transports.serve_log import TOLD, note

if TYPE_CHECKING:
    from toolpost.transports.http_routes import Door
    from toolpost.transports.mcp_fast import Fast
    from toolpost.transports.mcp_server import McpServer

logger = logging.getLogger("toolpost")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")
_REFUSED: Final = "toolpost.refused"
"""The key of a scope under which it stands why the quick way did not let a caller in."""
LOOK_S: Final = 0.25
"""How often it is looked whether the process drains."""
RETRY_MS: Final = 100
"""After how many milliseconds a client whose stream was let go is asked to come back."""


def mcp_app(door: Door) -> McpApp:
    """The ASGI application at /mcp. It is also one by itself, with its lifespan and its well-known documents."""
    return McpApp(door)


class McpApp:
    """Serves both eras at one path. An application that it is mounted in enters running()."""

    def __init__(self, door: Door) -> None:
        self._door, self._executor = door, door.executor
        config = door.executor.config
        around = door.state.get("entrance")
        self._entrance = around or Entrance(door.executor, config.serve_host)
        self._guarded = around is not None  # by the gateway, which has looked at Host and Origin
        self._hosts, self._origins = Hosts(self._entrance, config.serve_host), Origins(door.executor)
        self.server: McpServer | None = None
        self._fast: Fast | None = None
        self._manager: Any = None
        self._starting: asyncio.Lock | None = None
        self._entered = False
        self._host: asyncio.Task[None] | None = None
        self._stopped: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while it is open; sessions end with it. Without the SDK all requests are answered with what to do."""
        self._entered = True
        if find_spec("mcp") is None:
            yield
            return
        from toolpost.transports.mcp_fast import Fast
        from toolpost.transports.mcp_server import McpServer

        server = McpServer(self._door.service, self._configured)
        manager = self._new_manager(server)
        server.open()
        draining = asyncio.create_task(self._let_go(server, manager))
        try:
            async with manager.run():
                self.server, self._fast, self._manager = server, Fast(server, sessionless=manager.stateless), manager
                yield
        finally:
            draining.cancel()
            self.server = self._fast = self._manager = None
            server.close()

    async def _let_go(self, server: McpServer, manager: Any) -> None:
        """End the streams on which clients only listen once the process drains, which would wait for them."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._door.service.draining:
                server.listening.close()
                for session in list(manager._server_instances.values()):  # the SDK has no public way to them
                    session.close_standalone_sse_stream()

    # -- one request --------------------------------------------------------------------------------------------------

    async def quick(self, scope: Scope, fields: Fields, receive: Receive) -> tuple[Answer | None, Receive]:
        """The answer to a plain call, for a gateway that has looked at Host and Origin; else None, and what reads on.

        Raises HttpRefusal for a body that is not read, and ClientLeftError.
        """
        fast, length, most = self._fast, declared_length(fields), self._executor.config.max_body_size
        if fast is None or not fast.may_be_plain(fields, scope["headers"]):
            return None, bounded(receive, length, most)
        try:
            scope[CALLER] = caller = await self._entrance.caller(fields)
        except (HttpRefusal, ToolExecutionError) as refusal:
            scope[_REFUSED] = refusal
            return None, bounded(receive, length, most)
        if caller is not None and TOLD in scope:
            note(scope, user=caller.user_id, tenant=caller.tenant)
        body = await read_body(receive, length, most)
        answer = await fast.answered(scope, fields, body, receive)
        return answer, receive if answer is not None else _again(body, receive)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Blanks around a value are no part of it (RFC 9110, section 5.5), but httptools 0.7 leaves those behind it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        fields: dict[bytes, bytes] = dict(scope["headers"])
        try:
            if not self._guarded:
                self._hosts.check(fields.get(b"host"))
                self._origins.check(fields.get(b"origin"), fields.get(b"host"))
            if scope["path"] in METADATA_PATHS:
                return await self._metadata(send, self._base_url(scope, fields))
            tried = CALLER in scope  # the quick way, which left it to the SDK
            caller = scope[CALLER] if tried else await self._caller(scope, fields)
        except HttpRefusal as refusal:
            return await _answer(send, refusal.status, _told(refusal.code, refusal.detail))
        except UnauthorizedError as error:
            self._executor.audit_refusal("(mcp)", error)
            header, told = unauthorized(self._executor, error, self._base_url(scope, fields))
            return await _answer(send, 401, told, (b"www-authenticate", header.encode()))
        except ToolExecutionError as error:
            return await _answer(send, error.status, _told(error.code, error.message))
        await self._start()
        if self._fast is None:
            if find_spec("mcp") is None:
                said = "this gateway has no MCP server: install toolpost[mcp]"
                return await _answer(send, 501, _told("not_supported", said))
            return await _answer(send, 503, _told("overloaded", "this process does not serve MCP now"))
        if scope["method"] == "POST":
            body, again = await _read(receive, self._executor.config.max_body_size)
            if body is None:
                return await _answer(send, 413, _told("too_large", "the body has more bytes than max_body_size"))
            if not tried and self._fast.may_be_plain(fields, scope["headers"]):
                try:
                    answer = await self._fast.answered(scope, fields, body, receive)
                except ClientLeftError:
                    return None
                if answer is not None:
                    return await _answer(send, answer.status, answer.body)
            receive = again
            if self._executor.config.jwt_issuer is not None:
                tool = self._fast.tool_called(body)
                refused = step_up(self._executor, caller, tool, self._base_url(scope, fields))
                if refused is not None:
                    return await _answer(send, refused[0], refused[2], (b"www-authenticate", refused[1].encode()))
        if caller is not None:
            scope["user"] = _user(caller)
        await self._manager.handle_request(scope, receive, send)
        return None

    async def _caller(self, scope: Scope, fields: Fields) -> Caller | None:
        if _REFUSED in scope:
            raise scope[_REFUSED]
        scope[CALLER] = caller = await self._entrance.caller(fields)
        if caller is not None:
            note(scope, user=caller.user_id, tenant=caller.tenant)
        return caller

    @property
    def _configured(self) -> str:
        return self._door.base_url or str(self._executor.config.public_url or "")

    def _base_url(self, scope: Scope, fields: dict[bytes, bytes]) -> str:
        return base_url_of(self._configured, scope.get("scheme", "http"), fields.get(b"host"))

    async def _metadata(self, send: Send, base_url: str) -> None:
        told = resource_metadata(self._executor, base_url)
        if told is None:
            return await _answer(send, 404, _told("not_found", "no issuer of tokens is set"))
        return await _answer(send, 200, orjson.dumps(told), (b"access-control-allow-origin", b"*"))

    # -- life ---------------------------------------------------------------------------------------------------------

    def _new_manager(self, server: McpServer) -> Any:
        from toolpost.transports.mcp_replay import session_manager

        config = self._executor.config
        return session_manager(
            server.server,
            retry_interval=RETRY_MS,
            stateless=config.serve_workers > 1,  # a session lives in one process; the next request may reach another
            max_request_body_size=config.max_body_size,
        )

    async def _start(self) -> None:
        """Start without a lifespan: what is mounted in an application that tells of none serves all the same."""
        if self._entered:
            return
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._host is None:
                ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._stopped = asyncio.Event()
                self._host = asyncio.create_task(self._hosted(ready, self._stopped))
                await ready

    async def _hosted(self, ready: asyncio.Future[None], stopped: asyncio.Event) -> None:
        async with self.running():
            ready.set_result(None)
            await stopped.wait()

    async def stop(self) -> None:
        """End what began without a lifespan."""
        if self._host is not None and self._stopped is not None:
            self._stopped.set()
            await self._host
            self._host = None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _read(receive: Receive, most: int) -> tuple[bytes | None, Receive]:
    """The whole body, None for one that is too large; and what gives it once more, then goes on as before."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and message.get("more_body", False):
        parts, size = [body], len(body)
        while size <= most:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        body = b"".join(parts)
    if len(body) > most:
        return None, receive
    return body, _again(body, receive, None if message["type"] == "http.request" else message)


def _again(body: bytes, receive: Receive, instead: Message | None = None) -> Receive:
    """What gives a whole body once more, or what came instead of one, and then goes on as before."""
    first: Message | None = instead or {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal first
        if first is not None:
            given, first = first, None
            return given
        return await receive()

    return replay


def _user(caller: Caller) -> Any:
    """The caller as the SDK binds sessions to: another caller's request finds no session of this one."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    who = f"{caller.tenant or ''}/{caller.user_id or ''}"
    return AuthenticatedUser(AccessToken(token="-", client_id=who, scopes=[], subject=who))


def _told(error: str, message: str) -> bytes:
    return orjson.dumps({"error": error, "error_description": message})


async def _answer(send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


__all__ = ["McpApp", "mcp_app", "routes_of"]
