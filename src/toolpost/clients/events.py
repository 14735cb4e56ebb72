"""Streams of server-sent events (HTML, 9.2), read as they come and taken up again where they broke off."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import orjson

from toolpost.calls.errors import RemoteToolError, ToolTimeoutError
from toolpost.clients.answers import CallEvent, raise_for
from toolpost.clients.exchange import (
    LONGEST_PAUSE_S,
    Answer,
    Give,
    LostError,
    Patience,
    Plan,
    Read,
    Request,
    Sleep,
    exchange,
    gone,
)

SILENT_S: Final = 45.0
"""The gateway says something every 15 seconds: what is silent for so long is lost."""
LONGEST_EVENT: Final = 256 << 20


class EventReader:
    """Bytes of a stream in, events out, whatever the pieces are in which the bytes come."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._size = 0
        self._data: list[bytes] = []
        self._kind = "message"
        self._id: str | None = None
        self.last_id: str | None = None
        """The id of the last event that was had whole."""
        self.retry_s: float | None = None

    def feed(self, data: bytes) -> list[CallEvent]:
        """The events that these bytes complete."""
        found: list[CallEvent] = []
        within = b"\n" not in data and b"\r" not in data and not self._rest.endswith(b"\r")
        self._rest += data
        if len(self._rest) + self._size > LONGEST_EVENT:
            raise RemoteToolError(f"an event of the gateway is larger than {LONGEST_EVENT} bytes")
        if within:
            return found  # of the same line still, in however many pieces it comes
        text = bytes(self._rest)
        ends_open = text.endswith(b"\r")  # perhaps the first half of a line's end
        lines = (text[:-1] if ends_open else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(lines.pop() + (b"\r" if ends_open else b""))
        for line in lines:
            event = self._line(line)
            if event is not None:
                found.append(event)
        return found

    def drop(self) -> None:
        """Forget what is half read: the stream broke off, and begins anew."""
        self._rest, self._data, self._size = bytearray(), [], 0
        self._kind, self._id = "message", self.last_id

    def _line(self, line: bytes) -> CallEvent | None:
        if not line:
            return self._end()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"id" and value.decode("latin-1").isprintable() and value.isascii():
            self._id = value.decode()  # it goes back in a header
        elif name == b"retry" and value.isdigit():
            self.retry_s = min(float(value) / 1000, LONGEST_PAUSE_S)
        return None

    def _end(self) -> CallEvent | None:
        data, kind = b"\n".join(self._data), self._kind
        self._data, self._size, self._kind = [], 0, "message"
        self.last_id = self._id
        if not data:
            return None
        try:
            told = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise RemoteToolError(f"the gateway sent an event {kind!r:.40} that is no JSON") from None
        return CallEvent(kind=kind, data=told if isinstance(told, dict) else {"value": told}, id=self.last_id)


def following(
    first: Request, patience: Patience, *, call_id: str | None = None, after: str | None = None, resumes: bool = True
) -> Plan[None]:
    """Give the events of a stream to its result. first opens it; what breaks off is opened again after the last event.

    call_id: the call that is followed, once it is known; without resumes what breaks off is lost. The first time it is
    opened again at once, then after the pause that the gateway asked for. Raises RemoteToolError when it breaks off
    more often than patience allows without an event between.
    """
    reader, request, failed = EventReader(), first, 0
    reader.last_id = after
    reader.drop()
    while True:
        try:
            answer: Answer = yield from exchange(request, patience, opens=True)
            raise_for(answer)
        except (RemoteToolError, ToolTimeoutError):
            failed += 1
            if request is first or failed > patience.retries:
                raise
            yield Sleep(patience.pause(failed) if reader.retry_s is None else reader.retry_s)
            continue
        if answer.status == 204:
            return  # it has ended, and whoever asks has had the result
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise RemoteToolError(f"the gateway answered {answer.status} and no stream of events")
        lost: LostError | None = None
        try:
            while (data := (yield Read())) is not None:
                for event in reader.feed(data):
                    failed = 0
                    call_id = call_id or str(event.data.get("call_id") or "") or None
                    yield Give(event)
                    if event.kind == "result":
                        return
        except LostError as error:
            lost = error
        lost = lost or LostError("the stream ended before the call did", sent=True)
        failed += 1
        if not resumes or failed > patience.retries:
            raise gone(lost) from lost
        yield Sleep(patience.pause(failed) if failed == 1 or reader.retry_s is None else reader.retry_s)
        reader.drop()
        request = first if call_id is None else events_of(call_id, reader.last_id)


def events_of(call_id: str, after: str | None) -> Request:
    """The request for a call's events after one of them."""
    headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
    if after is not None:
        headers["last-event-id"] = after
    path = f"/v1/calls/{quote(call_id, safe='')}/events"
    return Request(method="GET", path=path, headers=headers, timeout_s=SILENT_S, safe=True)


__all__ = ["SILENT_S", "EventReader", "events_of", "following"]
