"""The access log: one line for each request, written off the loop, that never holds a body, a token or a signature."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import orjson

from toolpost.calls.errors import ConfigurationError

logger = logging.getLogger("toolpost.serve")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOLD = "toolpost.access"
"""Where a request's scope has what its line is to tell beside what the server sees."""

SHOWN = frozenset("after explain format limit since state stream strict tool until wait".split())
"""Parameters of a query whose values are shown; of others only that they were there."""

BATCH_S = 0.1
MAX_WAITING = 20_000
"""Lines that wait to be written; further ones are counted and not kept, so that a slow disk holds nothing up."""

CALL_ID = b"toolpost-call-id"
"""The header of an answer that names the call which it is of."""

_PLAIN = re.compile(r"[\w/.:~-]*", re.ASCII)
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HEADERS = frozenset({b"user-agent", b"traceparent", b"content-length"})


def note(scope: Scope, **facts: str | None) -> None:
    """Have the line of a request tell more: route (its template), user, tenant, call_id, tool, code of an error.

    A door calls it as soon as it knows; where there is no access log it does nothing.
    """
    told = scope.get(TOLD)
    if told is not None:
        told.update(facts)


class Lines:
    """Where lines go: a file, which may be moved away at any time, or a stream that is somebody else's.

    Safe from any thread. A line that cannot be written is lost and counted; the log of the program says so once.
    """

    def __init__(self, where: str | int) -> None:
        """where: a path, or a file descriptor, which is left open."""
        self._path = where if isinstance(where, str) else None
        self._fd = where if isinstance(where, int) else -1
        self._known: tuple[int, int] | None = None
        self.lost = 0
        self._failing = False
        if self._path is not None:
            self._open(self._path)
        self._at_once = _largest_write(self._fd)

    def _open(self, path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, about = fd, os.fstat(fd)
        self._known = about.st_dev, about.st_ino

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines, each with its end."""
        try:
            if self._path is not None:
                self._follow(self._path)
            for block in _blocks(lines, self._at_once):
                _write_all(self._fd, block)
        except OSError as error:
            self.lost += len(lines)
            if not self._failing:
                logger.error("the access log cannot be written (%s); requests are answered all the same", error)
            self._failing = True
        else:
            if self._failing:
                logger.warning("the access log is written again; up to %d lines are lost", self.lost)
            self._failing = False

    def _follow(self, path: str) -> None:
        """Open the file anew where it was moved or removed."""
        try:
            about = os.stat(path)
        except FileNotFoundError:
            self._open(path)
            return
        if (about.st_dev, about.st_ino) != self._known:
            self._open(path)

    def close(self) -> None:
        """Let go of the file."""
        if self._path is not None and self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def _largest_write(fd: int) -> int:
    """Bytes that are written in one piece when several processes write: a pipe takes so many, a file any number."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return 4096
    return 1 << 20


def _blocks(lines: Iterable[bytes], largest: int) -> Iterable[bytes]:
    block: list[bytes] = []
    size = 0
    for line in lines:
        if block and size + len(line) > largest:
            yield b"".join(block)
            block, size = [], 0
        block.append(line)
        size += len(line)
    if block:
        yield b"".join(block)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class AccessLog:
    """Keeps what requests were until a thread of its own writes it. Async methods belong to any loop."""

    def __init__(self, lines: Lines, *, text: bool = False) -> None:
        self._lines = lines
        self._form = _text if text else _json
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._dropped = 0
        self._some = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="toolpost-access-log", daemon=True)
        self._thread.start()

    def wrap(self, app: App) -> App:
        """The same application, whose requests are told of."""

        async def logged(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            began_at, began = time.time(), time.perf_counter()
            told: dict[str, Any] = {}
            scope[TOLD] = told
            taken = given = status = 0
            headers: Any = ()

            async def received() -> Message:
                nonlocal taken
                message = await receive()
                body = message.get("body") or message.get("bytes") or message.get("text")
                if body:
                    taken += len(body)
                return message

            async def sent(message: Message) -> None:
                nonlocal given, headers, status
                kind = message["type"]
                if kind == "http.response.body":
                    given += len(message.get("body", b""))
                elif kind in ("http.response.start", "websocket.http.response.start"):
                    status, headers = message["status"], message.get("headers", ())
                elif kind == "websocket.accept":
                    status = 101
                elif kind == "websocket.send":
                    given += len(message.get("bytes") or message.get("text") or b"")
                elif kind == "websocket.close" and not status:
                    status = 403
                await send(message)

            try:
                await app(scope, received, sent)
            except BaseException:
                status = status or 500
                raise
            finally:
                if not status and "whole" in told:  # it left beside send
                    status, given = 200, told.pop("whole")
                elapsed_ms = (time.perf_counter() - began) * 1000
                self._put((began_at, scope, told, status, elapsed_ms, taken, given, headers))

        return logged

    def _put(self, entry: tuple[Any, ...]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry)
        if not self._some.is_set():
            self._some.set()

    def _work(self) -> None:
        while not self._closed:
            self._some.wait()
            if not self._closed:
                time.sleep(BATCH_S)  # lines of a tenth of a second are written together
            self._some.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting, lines = self._waiting, []
        for _ in range(len(waiting)):
            try:
                lines.append(self._form(waiting.popleft()) + b"\n")
            except Exception:
                logger.exception("a line of the access log could not be made")
        if self._dropped:
            logger.warning("the access log cannot keep up: %d lines are lost", self._dropped)
            self._dropped = 0
        if lines:
            self._lines.write(lines)

    def close(self) -> None:
        """Write what waits, and end."""
        self._closed = True
        self._some.set()
        self._thread.join(5)
        self._write_waiting()
        self._lines.close()


def open_access_log(where: str, form: str, out: int = 1) -> AccessLog | None:
    """The access log of the settings access_log and access_log_format; None where it is "none".

    out: the descriptor of standard output, which may not be 1 any longer. Raises ConfigurationError for a file that
    cannot be opened.
    """
    if where == "none":
        return None
    fd = {"stdout": out, "stderr": 2}.get(where)
    text = form == "text" or (form == "auto" and fd is not None and os.isatty(fd))
    try:
        return AccessLog(Lines(where if fd is None else fd), text=text)
    except OSError as exc:
        raise ConfigurationError(
            f"the access log {where} cannot be written ({exc.strerror}); set access_log to another file, stdout or none"
        ) from exc


def _facts(entry: tuple[Any, ...]) -> dict[str, Any]:
    at, scope, told, status, elapsed_ms, taken, given, answered = entry
    headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
    client = scope.get("client")
    trace = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    facts: dict[str, Any] = {
        "time": datetime.datetime.fromtimestamp(at, datetime.UTC),
        "method": scope.get("method", "WEBSOCKET"),
        "route": told.pop("route", None),
        "path": _path(scope),
        "query": _query(scope.get("query_string", b"")),
        "status": status,
        "duration_ms": round(elapsed_ms, 3),
        "bytes_in": taken,
        "bytes_out": given,
        "trace": trace[1].decode() if trace else None,
        "call_id": next((value.decode("latin-1") for name, value in answered if name == CALL_ID), None),
        "client": client[0] if client else None,
        "user_agent": headers.get(b"user-agent", b"").decode("latin-1")[:200] or None,
        **told,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _path(scope: Scope) -> str:
    """The path as it was asked for, of bounded length."""
    path: str = scope.get("path", "")
    if _PLAIN.fullmatch(path):
        return path[:500]
    return quote(path, safe="/:@!$&'()*+,;=-._~{}", errors="replace")[:500]


def _query(query: bytes) -> str | None:
    """A query whose values are hidden, but for those that cannot be secret."""
    if not query:
        return None
    pairs = (part.partition(b"=") for part in query.split(b"&")[:20] if part)
    return "&".join(f"{name}={_value(name, value)}" for name, value in ((_word(n), v) for n, _, v in pairs))[:500]


def _word(name: bytes) -> str:
    return name.decode() if re.fullmatch(rb"[A-Za-z_.-]{1,20}", name) else "*"


def _value(name: str, value: bytes) -> str:
    return quote(unquote_to_bytes(value), safe="-._~,:")[:80] if name in SHOWN else "*"


def _json(entry: tuple[Any, ...]) -> bytes:
    return orjson.dumps(_facts(entry), default=str, option=orjson.OPT_UTC_Z)


def _text(entry: tuple[Any, ...]) -> bytes:
    facts = _facts(entry)
    at = datetime.datetime.fromtimestamp(entry[0]).strftime("%H:%M:%S")
    query = f"?{facts['query']}" if "query" in facts else ""
    who = "/".join(str(facts[name]) for name in ("tenant", "user") if facts.get(name))
    rest = " ".join(str(part) for part in (facts.get("code"), who, facts.get("call_id")) if part)
    line = f"{at} {facts['method']} {facts['path']}{query} {facts['status']} {facts['duration_ms']:.1f} ms {rest}"
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "?", line.rstrip()).encode("utf-8", "replace")


def descriptor_of(stream: Any) -> int:
    """The descriptor behind a stream, 1 where it has none."""
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1


__all__ = ["AccessLog", "Lines", "note", "open_access_log"]
