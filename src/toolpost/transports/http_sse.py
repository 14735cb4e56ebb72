"""EventStream: a response of server-sent events, written in the server's own task; and Streams, all that are open.

What a stream says is WHATWG's (HTML, 9.2): id:, event:, data:, retry:, and comments that keep the connection alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from starlette.responses import Response

from toolpost.calls.errors import OverloadedError
from toolpost.transports.http_sides import Side

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from toolpost.transports.http_routes import Door
    from toolpost.worker.service import Service

RETRY_MS: Final = 2000
"""How long a client waits before it connects again."""
BEAT_S: Final = 15.0
"""A stream says something at least so often: proxies and clients end what is silent."""
SLOTS: Final = 15
"""Into so many turns the heartbeats of all streams are spread."""
MAX_STREAMS: Final = 10_000
"""Most streams that one process has open."""

HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
_BEAT: Final = b": here\n"
"""Without an empty line: some clients take one for the end of an event, though nothing of one was sent."""


class Open(Protocol):
    """What is told of heartbeats and the end: a stream or a socket."""

    def beat(self) -> None:
        """It is time to say something."""

    def drain(self) -> None:
        """The process ends; whatever may go on elsewhere is to end here."""


class Streams:
    """The open streams of one gateway, with one timer for all. It belongs to one event loop."""

    def __init__(self, service: Service, beat_s: float = BEAT_S, slots: int = SLOTS) -> None:
        self._service = service
        self._each_s = beat_s / slots
        self._slots: list[set[Open]] = [set() for _ in range(slots)]
        self._turn = self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    @property
    def draining(self) -> bool:
        """Whether this process takes no more."""
        return self._service.draining

    def check_room(self) -> None:
        """Raise OverloadedError where too many are open."""
        if len(self) >= MAX_STREAMS:
            raise OverloadedError(f"{MAX_STREAMS} streams are open already; ask for the call instead, or later")

    @contextlib.contextmanager
    def having(self, one: Open) -> Iterator[None]:
        """Keep a stream alive."""
        slot = self._slots[self._next % len(self._slots)]
        self._next += 1
        slot.add(one)
        if self._timer is None:
            self._arm()
        try:
            yield
        finally:
            slot.discard(one)
            if self._timer is not None and not any(self._slots):
                self._timer.cancel()
                self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._each_s, self._tick)

    def _tick(self) -> None:
        self._turn += 1
        for one in list(self._slots[self._turn % len(self._slots)]):
            one.beat()
        if self.draining:
            for slot in self._slots:
                for one in list(slot):
                    one.drain()
        self._arm()


def streams_of(door: Door) -> Streams:
    """The streams of a gateway."""
    streams = door.state.get("streams")
    if streams is None:
        streams = door.state["streams"] = Streams(door.service)
    return streams


def frame(event: str, data: Any, event_id: str | None = None) -> bytes:
    """One event as it is sent; data is JSON, which has no line breaks of its own."""
    said = f"id: {event_id}\nevent: {event}\ndata: " if event_id is not None else f"event: {event}\ndata: "
    return b"%b%b\n\n" % (said.encode(), orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS))


class EventStream(Response):
    """Sends frames as they come, until they end, the reader goes away or the process does.

    gone is awaited when the reader left before the end. stays: the end of the process is no reason to end before what
    is streamed does. A reader that is slow is waited for, with nothing kept for it but what its connection buffers.
    """

    def __init__(
        self,
        streams: Streams,
        frames: AsyncIterator[bytes],
        *,
        gone: Callable[[], Awaitable[object]] | None = None,
        stays: bool = False,
    ) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.raw_headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        self._streams, self._frames = streams, frames
        self._gone, self._stays = gone, stays
        self._woken: asyncio.Future[None] | None = None
        self._beat = self._drained = False

    def beat(self) -> None:
        self._beat = True
        self._wake()

    def drain(self) -> None:
        if not self._stays and not self._drained:
            self._drained = True
            self._wake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = Side(_until_gone(receive), self._wake)
        finished = False
        try:
            with self._streams.having(self):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _write(send, b"retry: %d\n" % RETRY_MS)
                finished = await self._stream(left, send)
        finally:
            left.drop()
            await _closed(self._frames)
            if not finished and self._gone is not None:
                await self._gone()

    async def _stream(self, left: Side[None], send: Send) -> bool:
        """Write what comes; whether all of it was, or at least nobody left."""
        following = Side(anext(self._frames), self._wake)
        try:
            while not left.step():
                try:
                    ready = following.step()
                except StopAsyncIteration:
                    await _write(send, b"", more=False)
                    return True
                if self._drained:
                    await _write(send, b"", more=False)
                    return True
                if ready:
                    await _write(send, following.value)
                    self._beat = False
                    following = Side(anext(self._frames), self._wake)
                elif self._beat:
                    self._beat = False
                    await _write(send, _BEAT)
                else:
                    await self._turn(following)
            return False
        finally:
            await following.cancelled()

    async def _turn(self, following: Side[bytes]) -> None:
        """Wait until something may have happened."""
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        except asyncio.CancelledError as cancelled:
            following.throw(cancelled)  # it may be of a timeout in there
        finally:
            self._woken = None

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


async def _write(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _closed(frames: AsyncIterator[bytes]) -> None:
    close = getattr(frames, "aclose", None)
    if close is not None:
        await close()
