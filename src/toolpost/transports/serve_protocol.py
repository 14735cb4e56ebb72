"""Uvicorn's HTTP/1.1 within bounds: heads of requests have a size and a time, and foreign upgrades are passed over."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from toolpost.transports.http_answers import WHOLE
from toolpost.transports.serve_gathering import Gathering

MAX_HEAD: Final = 64 << 10
"""Most bytes of a request line and its header fields, beyond the piece in which they begin; llhttp keeps any number."""
HEAD_S: Final = 30.0
"""Seconds that they may take to arrive, from the connection or from their first byte."""
_OF_UPGRADES: Final = frozenset({b"upgrade", b"http2-settings"})


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A request whose head came whole in one piece, as nearly all do, costs a comparison more.

    scope[WHOLE] writes an answer at once: see _answer.
    """

    head_s: float = HEAD_S
    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _begun: Any = None
    """The scope of the request whose head is under way."""
    _is_foreign = False
    _own: tuple[Any, bytes] = (None, b"")
    """The server's own fields, and those fields as text: the date changes each second."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Gathering(transport, self.loop)))
        self._late = self.loop.call_later(self.head_s, self._is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)
        scopes: tuple[Any, Any] = (self.scope, getattr(self.cycle, "scope", None))
        for scope in filter(None, scopes):  # which would keep the connection until all garbage is looked for
            scope.pop(WHOLE, None)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if not self._fed(data) or self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.scope is self.scope:  # no head is under way
            if self._late is not None:
                self._in_time()
            return
        if self.scope is self._begun:
            self._head_bytes += 0 if self.scope is None else len(data)
        else:  # with the piece in which it begins came what was before it
            self._in_time()
            self._begun = self.scope
        if self._late is None:
            self._late = self.loop.call_later(self.head_s, self._is_late)
        if self._head_bytes > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large", b"the request's header fields are too large")

    def _fed(self, data: bytes) -> bool:
        """Parse what came; False where the connection is not to be read here any more."""
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._is_foreign:
                    self._to_websocket()
                    return False
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(b"405 Method Not Allowed", b"this is no proxy")
                    return False
                rest = rest[upgrade.args[0] :]
                self._pass_over()
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
                return False
            else:
                return True

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, scope: Any, fields: bytes, body: bytes) -> bool:
        """Write an answer (200) in one piece and be done with the request, which takes two sends of ASGI twice as long.

        fields: "name: value\\r\\n" of each, which are trusted to be well-formed; Content-Length is among them. False,
        and nothing is done, where the connection is not simply to go on: closing, slow, an older HTTP, or begun.
        """
        cycle = self.cycle
        if (
            cycle.scope is not scope
            or cycle.response_started
            or not cycle.keep_alive
            or cycle.disconnected
            or self.flow.write_paused
        ):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        own = self.server_state.default_headers
        if own is not self._own[0]:
            self._own = own, b"".join(b"%b: %b\r\n" % field for field in own)
        self.transport.writelines((b"HTTP/1.1 200 OK\r\n%b%b\r\n" % (self._own[1], fields), body))
        cycle.message_event.set()
        cycle.on_response()
        return True

    # -- upgrades -----------------------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._is_foreign = not self._should_upgrade()
            if self._is_foreign:
                return
        super().on_headers_complete()
        self.scope[WHOLE] = self._answer  # type: ignore[typeddict-unknown-key]
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and not self.parser.should_keep_alive():
            cycle.keep_alive = False  # which Uvicorn knows by itself from 0.54 on; 0.52 sees it when it sends a head

    def on_message_complete(self) -> None:
        if not self._is_foreign:
            super().on_message_complete()

    def _to_websocket(self) -> None:
        self._in_time()
        if self.scope["method"] == "GET":
            self.handle_websocket_upgrade()
        else:  # of which Uvicorn 0.54 makes a connection that is never answered
            self._refuse(b"400 Bad Request", b"a WebSocket is opened with GET")

    def _pass_over(self) -> None:
        """Read a request that offers another protocol (HTTP/2 in the clear, as Java's client and curl do) as any other.

        A server may pass such an offer over (RFC 9110, section 7.8). llhttp believes that it was taken: it leaves the
        request's body for what it would read as the next request.
        """
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [one.strip() for one in value.split(b",")]
                value = b", ".join(one for one in tokens if one.lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES and (value or name != b"connection"):
                head += [name, b": ", value, b"\r\n"]
        self._is_foreign = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as for the first parser
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    # -- bounds -------------------------------------------------------------------------------------------------------

    def _in_time(self) -> None:
        self._head_bytes, self._begun = 0, None
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _is_late(self) -> None:
        self._late = None
        if self._is_answering:  # it is not read on before that one has its answer
            self._late = self.loop.call_later(self.head_s, self._is_late)
        elif self._begun is None:  # nothing was asked
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", b"the request did not arrive in time")

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: bytes, why: bytes) -> None:
        if not self.transport.is_closing():
            about = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(why)
            if not self._is_answering:  # else it would be taken for that answer
                self.transport.write(b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, about, why))
            self.transport.close()


__all__ = ["HEAD_S", "MAX_HEAD", "BoundedProtocol"]
