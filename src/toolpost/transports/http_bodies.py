"""Bodies of requests: read within bounds of size and time, and as JSON that says one thing only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import orjson

from toolpost.calls.resumed import resumed
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.wire_json import parse_json

T = TypeVar("T")
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]

BODY_S: Final = 30.0
"""Seconds that a body may take to arrive, so that nobody holds a place by sending slowly."""
_DEEP: Final = 200
_DOUBTFUL: Final = -(1 << 40)


class ClientLeftError(Exception):
    """The caller closed the connection: nobody waits for an answer any more."""


async def until_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What work gives; it is cancelled when the caller goes, which raises ClientLeftError.

    The body must have been read. What ends without suspending pays nothing for being watched.
    """
    try:
        parked = work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    task = asyncio.current_task()
    left = over = False

    def leave(watcher: asyncio.Task[None]) -> None:
        nonlocal left
        if task is not None and not over and not watcher.cancelled() and watcher.exception() is None:
            left = True
            task.cancel()

    watcher = asyncio.ensure_future(_gone(receive))
    watcher.add_done_callback(leave)
    try:
        result: T = await resumed(work, parked)
    except asyncio.CancelledError:
        if left and task is not None and not task.uncancel():
            raise ClientLeftError from None
        raise
    finally:
        over = True
        watcher.cancel()
    if left and task is not None:  # it ended all the same
        task.uncancel()
    return result


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def declared_length(fields: Mapping[bytes, bytes]) -> int | None:
    """The Content-Length of a request, None where it has none. Raises HttpRefusal (400)."""
    given = fields.get(b"content-length")
    if given is None:
        return None if b"transfer-encoding" in fields else 0
    given = given.strip(b" \t")  # httptools 0.7 leaves blanks that are no part of a value
    if not given.isdigit() or len(given) > 18:
        raise HttpRefusal(400, "invalid_header", "Content-Length must be a whole number of bytes", closes=True)
    return int(given)


def bounded(receive: Receive, declared: int | None, limit: int) -> Receive:
    """receive for handlers that read the body themselves: it raises as read_body does."""
    size, complete = 0, declared == 0
    until: float | None = None

    async def receiving() -> Any:
        nonlocal size, complete, until
        if complete:
            return await receive()
        if declared is not None and declared > limit:
            raise too_large(limit)
        if until is None:
            until = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise too_slow() from None
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > limit:
                raise too_large(limit)
        return message

    return receiving


async def read_body(receive: Receive, declared: int | None, limit: int) -> bytes:
    """A whole body of at most limit bytes. Raises HttpRefusal (413, 408) and ClientLeftError.

    declared is its Content-Length, None where it comes in chunks.
    """
    if declared is not None and declared > limit:
        raise too_large(limit)
    first: Any = receive()
    try:
        parked = first.send(None)
    except StopIteration as done:
        message = done.value
    except AttributeError:  # a server whose receive gives another kind of awaitable
        return await _read_slowly(first, receive, limit)
    else:
        return await _read_slowly(resumed(first, parked), receive, limit)
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    return await _read_slowly(None, receive, limit, message)


async def _read_slowly(first: Any, receive: Receive, limit: int, message: Message | None = None) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            if message is None:
                message = await first
            while True:
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
                message = await receive()
    except TimeoutError:
        raise too_slow() from None


def too_slow() -> HttpRefusal:
    """The refusal of a body that does not arrive."""
    return HttpRefusal(408, "body_timeout", f"the body did not arrive within {BODY_S:g} seconds", closes=True)


def too_large(limit: int) -> HttpRefusal:
    """The refusal of a body of more bytes than the setting max_body_size has."""
    detail = f"the body is larger than the {limit} bytes that are read here (max_body_size)"
    return HttpRefusal(413, "body_too_large", detail, closes=True)


def read_json(body: bytes) -> Any:
    """The value of a JSON body, read strictly: as parse_json does it, and quickly where nothing is doubtful.

    Raises InputValidationError with the place. orjson takes the last of two equal keys and makes floats of numbers
    beyond 64 bits, so what it read is taken only where neither can have happened.
    """
    if b"\\u003" not in body:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return parse_json(body)  # which says what is wrong, and takes a byte order mark
        # Each key has a colon, and so has nothing outside strings: where the keys and the colons within strings
        # that are there add up to all colons, no key was dropped. \u003a, a colon that is none here, is excluded above.
        if _colons(value, _DEEP) == body.count(b":"):
            return value
    return parse_json(body)


def _colons(value: Any, levels: int) -> int:
    """Keys, and colons in text; -1 or less in sum for a number that may have lost digits, and for more levels."""
    kind = value.__class__
    if kind is str:
        return value.count(":")  # type: ignore[no-any-return]
    if kind is dict:
        if not levels:
            return _DOUBTFUL
        total = len(value)
        for key, item in value.items():
            if ":" in key:
                total += key.count(":")
            if item.__class__ is not int:
                total += _colons(item, levels - 1)
        return total
    if kind is list:
        if not levels:
            return _DOUBTFUL
        total = 0
        for item in value:
            if item.__class__ is not int:
                total += _colons(item, levels - 1)
        return total
    if kind is float and not -9.3e18 < value < 9.2e18:
        return _DOUBTFUL
    return 0


__all__ = [
    "BODY_S",
    "ClientLeftError",
    "bounded",
    "declared_length",
    "read_body",
    "read_json",
    "too_large",
    "until_gone",
]
