"""The WebSocket at /v1/stream: one connection over which a client makes, cancels and follows many calls.

Messages are JSON objects with a type. From the client: call, cancel, follow, unfollow, ping. To it: call (its id),
event, result, cancelled, unfollowed, error (a problem), pong. ref is the client's own name for a call, given back with
all that is said of it. Calls end with the connection, but for those made with respond_async.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.websockets import WebSocketDisconnect

from toolpost.calls.call import Caller, new_id
from toolpost.calls.errors import NotFoundError, OverloadedError, ToolExecutionError, UnauthorizedError
from toolpost.transports.http_auth import OPEN, Entrance, fields_of
from toolpost.transports.http_bodies import read_json
from toolpost.transports.http_calling import Asking, call_of
from toolpost.transports.http_options import accept_of, checked_body
from toolpost.transports.http_problems import HttpRefusal, error_answer, refusal_answer
from toolpost.transports.http_routes import SocketRoute
from toolpost.transports.http_sse import streams_of
from toolpost.transports.http_streams import RunningCall, followed, said_by

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from toolpost.transports.http_routes import Door
    from toolpost.worker.feed import CallEvent

PROTOCOL: Final = "toolpost.v1"
"""The subprotocol, which clients may name, and browsers have to that send a token as another one."""
MAX_OPEN: Final = 64
"""Most calls that one connection runs and follows at a time."""
MAX_REF: Final = 256

RESTART, TOO_BIG, UNSUPPORTED, POLICY = 1012, 1009, 1003, 1008
"""Close codes (RFC 6455, section 7.4, and IANA's registry)."""


class _GoneError(Exception):
    """The client is not there any more."""


class _UnknownError(Exception):
    """What a client came with is not good any more."""

    def __init__(self, why: UnauthorizedError) -> None:
        super().__init__(why.message)
        self.why = why


@dataclass(slots=True)
class _Open:
    """Something that is told of. attached: a call that ends with the connection."""

    call_id: str
    ref: str | None
    attached: bool
    task: asyncio.Task[None] | None = None


async def converse(socket: WebSocket, door: Door, caller: Caller) -> None:
    """Talk with a client until it leaves or the process ends."""
    offered = socket.scope.get("subprotocols") or ()
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    talk = Conversation(socket, door, caller)
    streams = streams_of(door)
    try:
        streams.check_room()
    except OverloadedError as error:
        await socket.close(1013, error.message)
        return
    with streams.having(talk):
        await talk.run()


class Conversation:
    """One connection. What it says goes out one message after the other, and waits for a client that is slow."""

    def __init__(self, socket: WebSocket, door: Door, caller: Caller) -> None:
        self._socket, self._door, self._caller = socket, door, caller
        self._fields: Mapping[bytes, bytes] = {
            name: value
            for name, value in socket.scope["headers"]
            if name not in (b"idempotency-key", b"traceparent", b"prefer", b"accept")
        }
        self._open: dict[str, _Open] = {}
        self._said = asyncio.Lock()
        self._gone = False
        self._closing: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup
        self._takes: Mapping[str, Callable[[dict[str, Any], str | None], Awaitable[None]]] = {
            "call": self._call,
            "cancel": self._cancel,
            "follow": self._follow,
            "unfollow": self._unfollow,
            "ping": self._ping,
        }

    def beat(self) -> None:
        """Nothing: the server sends pings of its own."""

    def drain(self) -> None:
        """Close as soon as no call ends with the connection."""
        if self._gone or self._closing is not None:
            return
        if not any(one.attached for one in self._open.values()):
            self._closing = self._group.create_task(self._close(RESTART, "the server restarts"))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            try:
                while await self._hear():
                    pass
            except (_GoneError, WebSocketDisconnect):
                pass
            finally:
                self._gone = True
                for one in list(self._open.values()):
                    if one.task is not None:
                        one.task.cancel()

    async def _hear(self) -> bool:
        """Take one message; whether another may come."""
        heard = await self._socket.receive()
        if heard["type"] == "websocket.disconnect":
            return False
        text = heard.get("text")
        if text is None:
            await self._close(UNSUPPORTED, "messages are JSON as text")
            return False
        if len(text) > self._door.executor.config.max_body_size:
            await self._close(TOO_BIG, "the message is larger than max_body_size")
            return False
        ref: Any = None
        try:
            message = read_json(text.encode("utf-8", "surrogatepass"))
            if not isinstance(message, dict):
                raise HttpRefusal.at("", 'a message is an object such as {"type": "ping"}')
            ref = message.pop("ref", None)
            if ref is not None and not (isinstance(ref, str) and 0 < len(ref) <= MAX_REF):
                ref = None
                raise HttpRefusal.at("/ref", f"ref must be a string of 1 to {MAX_REF} characters")
            kind = message.pop("type", None)
            take = self._takes.get(kind) if isinstance(kind, str) else None
            await self._ask_again()
            if take is None:
                raise HttpRefusal.at("/type", f"type must be one of {', '.join(self._takes)}, got {kind!r:.40}")
            await take(message, ref)
        except _UnknownError as error:
            await self._complain(error.why, ref)
            await self._close(POLICY, "the key or token is no longer good")
            return False
        except (HttpRefusal, ToolExecutionError) as error:
            await self._complain(error, ref)
        return True

    async def _ask_again(self) -> None:
        """Who the client is, as keys are revoked and tokens end while a connection stays. Raises _UnknownError."""
        entrance: Entrance = self._door.state["entrance"]
        try:
            self._caller = await entrance.caller(fields_of(self._socket.scope)) or OPEN
        except UnauthorizedError as error:
            raise _UnknownError(error) from None

    # -- what clients ask for -----------------------------------------------------------------------------------------

    async def _call(self, message: dict[str, Any], ref: str | None) -> None:
        name, respond_async = message.pop("tool", None), message.pop("respond_async", False)
        if not isinstance(name, str) or not name:
            raise HttpRefusal.at("/tool", "tool must be the name of a tool")
        if not isinstance(respond_async, bool):
            raise HttpRefusal.at("/respond_async", "respond_async must be true or false")
        anybody = self._caller is OPEN
        members = checked_body(message, authenticated=not anybody, accepts=respond_async)
        asking = Asking(
            fields=self._fields, body=b"", caller=None if anybody else self._caller, receive=self._socket.receive
        )
        call = call_of(name, members, asking)
        self._check_room(ref)
        if respond_async:
            how = accept_of(members, time.time())
            report = await self._door.service.calls.accept(call, how)
            await self._say({"type": "call", "ref": ref, "call_id": report.call_id})
            self._begin(report.call_id, ref, followed(self._door, self._caller, report.call_id, None))
            return
        running = RunningCall(self._door, self._caller, call, members.get("explain", False))
        await self._say({"type": "call", "ref": ref, "call_id": call.id})
        self._begin(call.id, ref, running.events(), running.cancel)

    async def _cancel(self, message: dict[str, Any], ref: str | None) -> None:
        call_id = self._which(message, ref)
        report = await self._door.service.calls.cancel(call_id, self._caller)
        if report is None:
            raise NotFoundError(f"there is no call {call_id!r:.80}")
        await self._say({"type": "cancelled", "ref": ref, "call_id": call_id, "state": report.state})

    async def _follow(self, message: dict[str, Any], ref: str | None) -> None:
        call_id, after = message.pop("call_id", None), message.pop("after", None)
        if not isinstance(call_id, str) or not call_id:
            raise HttpRefusal.at("/call_id", "call_id must be the id of a call")
        if after is not None and not isinstance(after, str):
            raise HttpRefusal.at("/after", "after must be the id of an event")
        _refuse_others(message)
        self._check_room(ref)
        if await self._door.service.calls.show(call_id, self._caller) is None:
            raise NotFoundError(f"there is no call {call_id!r:.80}")
        await self._say({"type": "call", "ref": ref, "call_id": call_id})
        self._begin(call_id, ref, followed(self._door, self._caller, call_id, after))

    async def _unfollow(self, message: dict[str, Any], ref: str | None) -> None:
        call_id = self._which(message, ref)
        found = [one for one in self._open.values() if not one.attached and ref in (None, one.ref)]
        for one in found:
            if one.call_id == call_id and one.task is not None:
                one.task.cancel()
        await self._say({"type": "unfollowed", "ref": ref, "call_id": call_id})

    async def _ping(self, message: dict[str, Any], ref: str | None) -> None:
        _refuse_others(message)
        await self._say({"type": "pong", "ref": ref})

    # -- inside -------------------------------------------------------------------------------------------------------

    def _which(self, message: dict[str, Any], ref: str | None) -> str:
        """The id of the call that a message is about, by call_id or by ref."""
        call_id = message.pop("call_id", None)
        _refuse_others(message)
        if isinstance(call_id, str) and call_id:
            return call_id
        found = None if ref is None else next((one for one in self._open.values() if one.ref == ref), None)
        if call_id is not None or found is None:
            raise HttpRefusal.at("/call_id", "name the call: call_id, or the ref of one that is open here")
        return found.call_id

    def _check_room(self, ref: str | None) -> None:
        if len(self._open) >= MAX_OPEN:
            raise OverloadedError(f"this connection has {MAX_OPEN} calls open already; wait for one of them to end")
        if ref is not None and any(one.ref == ref for one in self._open.values()):
            raise HttpRefusal(409, "conflict", f"the ref {ref!r:.80} is that of another call which is open")

    def _begin(
        self,
        call_id: str,
        ref: str | None,
        events: AsyncIterator[CallEvent],
        cancel: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        key = new_id()
        one = self._open[key] = _Open(call_id, ref, cancel is not None)
        one.task = self._group.create_task(self._tell(key, one, events, cancel))

    async def _tell(
        self,
        key: str,
        one: _Open,
        events: AsyncIterator[CallEvent],
        cancel: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        try:
            async with aclosing(events) as each:  # type: ignore[type-var]
                async for event in each:
                    if event.kind == "result":
                        del self._open[key]  # so that its ref can be taken again by whoever reads this
                    await self._say(_told(event, one))
        except _GoneError:
            pass
        except ToolExecutionError as error:
            with suppress(_GoneError):
                await self._complain(error, one.ref)
        finally:
            self._open.pop(key, None)
            if cancel is not None:
                await cancel()

    async def _complain(self, error: HttpRefusal | ToolExecutionError, ref: str | None) -> None:
        base_url = self._door.base_url
        made = (
            refusal_answer(error, base_url, new_id())
            if isinstance(error, HttpRefusal)
            else error_answer(error, base_url, new_id())
        )
        await self._say({"type": "error", "ref": ref, "problem": orjson.Fragment(made.body)})

    async def _say(self, message: dict[str, Any]) -> None:
        if message.get("ref", "") is None:
            del message["ref"]
        async with self._said:
            if self._gone:
                raise _GoneError
            try:
                await self._socket.send_text(orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS).decode())
            except (WebSocketDisconnect, RuntimeError):
                self._gone = True
                raise _GoneError from None

    async def _close(self, code: int, reason: str) -> None:
        async with self._said:
            if self._gone:
                return
            self._gone = True
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.close(code, reason)


def _told(event: CallEvent, one: _Open) -> dict[str, Any]:
    if event.kind == "result":
        return {"type": "result", "ref": one.ref, "call_id": one.call_id, "id": event.id, "report": event.data}
    about = {"type": "event", "ref": one.ref, "call_id": one.call_id, "id": event.id, "event": event.kind}
    return {**about, "data": said_by(event)}


def _refuse_others(message: dict[str, Any]) -> None:
    for name in message:
        raise HttpRefusal.at(f"/{name[:60]}", f"there is no member {name[:60]!r} of this message")


SOCKETS: Final = (SocketRoute(path="/v1/stream", handler=converse),)

__all__ = ["MAX_OPEN", "PROTOCOL", "SOCKETS", "Conversation", "converse"]
