"""One connection of a program to the sandbox's proxy: requests that are read strictly, checked, and made anew.

Nothing of a request's bytes is passed on as it is: its head is parsed, and another is written by another parser's
rules, so that no two readers can differ about where a request ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

import h11
import httpcore
import httpx

from toolpost.calls.errors import EgressDeniedError, SecretUnavailableError
from toolpost.calls.references import references_in
from toolpost.runners.http_request import HEADER_VALUE
from toolpost.runners.sandbox_allowed import Allowed, Credentials, Entry, Tally
from toolpost.runners.sandbox_echoes import Echoes, masked
from toolpost.runners.sandbox_proxy import HEAD_BYTES
from toolpost.security.egress import Reach
from toolpost.security.egress_transport import guarded_tunnel
from toolpost.security.egress_urls import Target, denied

logger = logging.getLogger("toolpost.egress")

Reveal = Callable[[Collection[str]], Awaitable[Mapping[str, str]]]
"""The values of references. Raises SecretUnavailableError."""
Forget = Callable[[Collection[str]], None]
"""Have references asked for anew: their values were refused."""

PIECE: Final = 65_536
CONNECT_S: Final = 15.0
IDLE_S: Final = 60.0
"""How long a connection may be silent."""
EXCHANGE_S: Final = 600.0
"""How long one request with its answer, or one tunnel, may take."""
ANEW_S: Final = 5.0
"""How long a reference is not asked for anew again: a program can have a host refuse it as often as it likes."""
MOST_LOGGED: Final = 100
"""Refusals and failures of one program that are logged, each; the others are only counted."""
LINGER_S: Final = 5.0
"""How long a tunnel stays for what is still to come when the program has sent its last."""
_HOP: Final = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade http2-settings expect host content-length".split()
)
"""Headers about one connection, or about where a request ends or goes: the proxy writes its own."""
_IN_PARTS: Final = frozenset({"range", "if-range", "accept-encoding", "accept-charset", "a-im"})
"""With them a program would have a credential told in parts, packed, or in other letters."""
_UNSHOWN: Final = re.compile(rb"[^ -~]")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


class Way(NamedTuple):
    """What all connections of a proxy have in common."""

    allowed: Allowed
    reach: Reach
    transport: httpx.AsyncBaseTransport
    reveal: Reveal
    forget: Forget
    forgotten: dict[str, float]
    """When references were last asked for anew, by the loop's time."""


class _RefusedError(Exception):
    """A request that is not sent; status and text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _GoneError(Exception):
    """Who asked is there no more, or is silent for too long."""


class Exchange:
    """Answers one connection until it ends."""

    def __init__(self, way: Way, tally: Tally, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._way, self._tally = way, tally
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._moved = 0

    async def run(self) -> None:
        """Until either side is done. Raises nothing but CancelledError."""
        try:
            while await self._one():
                self._h11.start_next_cycle()
        except (_GoneError, ConnectionError, TimeoutError, h11.LocalProtocolError, httpx.TransportError):
            self._cut()
        except Exception:
            logger.exception("a connection of a sandbox failed")
            self._cut()
        finally:
            self._writer.close()

    def _warn(self, text: str, *values: object) -> None:
        self._tally.logged += 1
        if self._tally.logged <= MOST_LOGGED:
            logger.warning(text, *values)
        elif self._tally.logged == MOST_LOGGED + 1:
            logger.warning("a sandbox has had %d requests refused or fail; more are not logged", MOST_LOGGED)

    def _cut(self) -> None:
        """End the connection by a reset: an answer that was cut must not look whole, not even to HTTP/1.0."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _one(self) -> bool:
        """One request. Whether another may follow."""
        try:
            event = await self._next()
            if not isinstance(event, h11.Request):
                return False
            async with asyncio.timeout(EXCHANGE_S):
                if event.method == b"CONNECT":
                    await self._tunnel(event)
                    return False
                await self._forward(event)
        except h11.RemoteProtocolError as error:
            self._tally.deny(None)
            await self._say(400, f"this is no request: {error}")
            return False
        except EgressDeniedError as error:
            self._tally.deny(error)
            self._warn("a sandbox was refused a request: %s", error.message)
            await self._say(403, error.message)
            return False
        except _RefusedError as refused:
            await self._say(refused.status, refused.text)
            return False
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    # -- the program's side -------------------------------------------------------------------------------------------

    async def _next(self) -> Any:
        """The next event of the program's. Raises _GoneError when it is silent for too long."""
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                async with asyncio.timeout(IDLE_S):
                    self._h11.receive_data(await self._reader.read(PIECE))
            except TimeoutError:
                raise _GoneError from None

    async def _send(self, event: Any) -> None:
        data = self._h11.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(IDLE_S):
                await self._writer.drain()

    async def _say(self, status: int, text: str) -> None:
        """An answer of the proxy's own, after which the connection ends. None where another has begun."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise _GoneError
        body = f"toolpost: {text}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        # Many programs show the reason, and nothing else of a refusal.
        reason = _UNSHOWN.sub(b"?", text.encode("ascii", "replace"))[:300]
        await self._send(h11.Response(status_code=status, headers=headers, reason=reason))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        with contextlib.suppress(TimeoutError, ConnectionError):
            self._writer.write_eof()  # and read what still comes, so that the answer is not lost to a reset
            async with asyncio.timeout(1.0):
                while await self._reader.read(PIECE):
                    pass

    async def _body(self) -> AsyncIterator[bytes]:
        """The body of the program's request, as it comes."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                self._tally.sent += len(event.data)
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise _GoneError

    # -- plain requests -----------------------------------------------------------------------------------------------

    async def _forward(self, asked: h11.Request) -> None:
        way = self._way
        target, entry = way.allowed.plain(_ascii(asked.target))
        method = _ascii(asked.method)
        if method.upper() in ("TRACE", "TRACK"):
            raise denied("method", f"{method} has a server say back what it was sent, so it is not passed on")
        if method.upper() == "CONNECT":  # which it becomes on its way out
            raise denied("method", "CONNECT is written in capitals, and takes a host and a port")
        way.reach.admit(target.scheme, target.host, target.port)
        credentials = await self._credentials(target, entry)
        headers = _headers_of(asked, target, credentials)
        logger.info("a sandbox sends %s to %s", method, target.origin)
        request = httpx.Request(
            method,
            target.url,
            headers=headers,
            stream=_Body(self._body()) if _has_body(headers) else httpx.ByteStream(b""),
            extensions={"timeout": {"connect": CONNECT_S, "pool": CONNECT_S, "read": IDLE_S, "write": IDLE_S}},
        )
        try:
            with self._counted(target):
                answer = await way.transport.handle_async_request(request)
        except httpx.TimeoutException:
            raise _RefusedError(504, f"{target.host} did not answer in time") from None
        except httpx.TransportError as error:
            self._warn("a sandbox could not reach %s: %s", target.origin, error)
            raise _RefusedError(502, f"{target.host} cannot be reached, or does not speak HTTP") from None
        try:
            await self._answer(answer, credentials)
        finally:
            await answer.aclose()
        if answer.status_code == 401 and entry.headers:
            self._forget({one for text in entry.headers.values() for one in references_in(text)})
        if not _has_body(headers):
            await self._next()  # EndOfMessage, which a request without a body has, too

    def _forget(self, references: Collection[str]) -> None:
        now_s = asyncio.get_running_loop().time()
        when = self._way.forgotten
        anew = [one for one in references if now_s - when.get(one, -ANEW_S) >= ANEW_S]
        when.update(dict.fromkeys(anew, now_s))
        if anew:
            self._way.forget(anew)

    @contextlib.contextmanager
    def _counted(self, target: Target) -> Iterator[None]:
        """Count as allowed what the guard does not refuse at the last moment, for where the name leads."""
        try:
            yield
        except EgressDeniedError:
            raise
        except BaseException:
            self._tally.allow(target.host, target.port)
            raise
        self._tally.allow(target.host, target.port)

    async def _credentials(self, target: Target, entry: Entry) -> Credentials | None:
        if not entry.headers:
            return None
        references = {one for text in entry.headers.values() for one in references_in(text)}
        try:
            values = await self._way.reveal(references) if references else {}
        except SecretUnavailableError as error:
            self._warn("a sandbox's request to %s was not sent: %s", target.origin, error.message)
            raise _RefusedError(502, f"the credentials for {target.host} cannot be had, so nothing was sent") from None
        credentials = Credentials(entry.headers, values)
        for _, value in credentials.headers():
            if not HEADER_VALUE.match(value):
                raise _RefusedError(502, f"the credentials for {target.host} are no text of one line")
        return credentials

    async def _answer(self, answer: httpx.Response, credentials: Credentials | None) -> None:
        finder = None if credentials is None else credentials.finder
        packed = answer.headers.get("content-encoding", "identity").strip().lower() not in ("identity", "")
        if answer.status_code == 101 or (finder is not None and packed):
            why = "the protocol was changed" if answer.status_code == 101 else "it was packed, though not asked to be"
            raise _RefusedError(502, f"the answer cannot be handed on: {why}")
        headers = []
        named = _named_by_connection(answer.headers.raw)
        in_chunks = any(name.lower() == b"transfer-encoding" for name, _ in answer.headers.raw)
        for raw_name, raw_value in answer.headers.raw:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            lower = name.lower()
            if lower == "content-length" and not in_chunks:
                headers.append((raw_name, raw_value))
                continue
            if lower in _HOP or lower in named:
                continue
            if lower == "location" and credentials is not None:
                value = self._way.allowed.led(value)
            if finder is not None:
                if finder.shows(name):
                    continue
                value = masked(finder, value)
            headers.append((raw_name, value.encode("latin-1", "replace")))
        await self._send(h11.Response(status_code=answer.status_code, headers=headers))
        echoes = None if finder is None or credentials is None else Echoes(finder, credentials.longest)
        async for part in answer.stream:  # type: ignore[union-attr]
            await self._hand_on(part if echoes is None else echoes.feed(part))
        if echoes is not None:
            await self._hand_on(echoes.end())
        await self._send(h11.EndOfMessage())

    async def _hand_on(self, data: bytes) -> None:
        if data:
            self._tally.received += len(data)
            await self._send(h11.Data(data=data))

    # -- tunnels ------------------------------------------------------------------------------------------------------

    async def _tunnel(self, asked: h11.Request) -> None:
        way = self._way
        if _has_body(asked.headers):
            raise h11.RemoteProtocolError("CONNECT has no body")
        target = way.allowed.tunnel(_ascii(asked.target))
        way.reach.admit("https", target.host, target.port)
        try:
            with self._counted(target):
                stream = await guarded_tunnel(way.reach, target.host, target.port, timeout_s=CONNECT_S)
        except httpx.TimeoutException:
            raise _RefusedError(504, f"{target.host} did not answer in time") from None
        except httpx.TransportError as error:
            self._warn("a sandbox could not reach %s: %s", target.origin, error)
            raise _RefusedError(502, f"{target.host} cannot be reached") from None
        logger.info("a sandbox has a tunnel to %s:%d", target.host, target.port)
        try:
            await self._send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            await self._next()  # EndOfMessage
            whole = await self._pumped(stream, self._h11.trailing_data[0])
        finally:
            await stream.aclose()
        if not whole:
            self._cut()

    async def _pumped(self, stream: httpcore.AsyncNetworkStream, first: bytes) -> bool:
        """Carry bytes both ways until the host has said its last, or nothing moves any more; whether it has."""
        out = asyncio.create_task(self._carry_out(stream, first))
        back = asyncio.create_task(self._carry_back(stream))
        try:
            moved = -1
            while not back.done() and moved != self._moved:
                moved = self._moved
                await asyncio.wait({out, back}, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
                if out.done() and not back.done():
                    await asyncio.wait({back}, timeout=LINGER_S)
                    break
            return back.done() and back.exception() is None
        finally:
            for one in (out, back):
                one.cancel()
            await asyncio.gather(out, back, return_exceptions=True)

    async def _carry_out(self, stream: httpcore.AsyncNetworkStream, data: bytes) -> None:
        while True:
            if data:
                await stream.write(data, IDLE_S)
                self._tally.sent += len(data)
                self._moved += len(data)
            data = await self._reader.read(PIECE)
            if not data:
                return

    async def _carry_back(self, stream: httpcore.AsyncNetworkStream) -> None:
        while data := await stream.read(PIECE):
            self._tally.received += len(data)
            self._moved += len(data)
            self._writer.write(data)
            await self._writer.drain()


class _Body(httpx.AsyncByteStream):
    """A request's body for httpx."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


def _headers_of(asked: h11.Request, target: Target, credentials: Credentials | None) -> list[tuple[bytes, bytes]]:
    """The headers of the request that goes on. Raises h11.RemoteProtocolError for a body of two lengths."""
    own = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in asked.headers.raw_items()]
    lengths = [value for name, value in own if name.lower() == "content-length"]
    chunked = any(name.lower() == "transfer-encoding" for name, _ in own)
    if chunked and (lengths or asked.http_version != b"1.1"):
        raise h11.RemoteProtocolError("a body has a length, or is in chunks (of HTTP/1.1), and not both")
    named = _named_by_connection(asked.headers)
    made = [("Host", target.netloc)]
    for name, value in own:
        lower = name.lower()
        if lower in _HOP or lower in named:
            continue
        if credentials is not None and (lower in _IN_PARTS or credentials.replaces(name)):
            continue
        made.append((name, value))
    if chunked:
        made.append(("Transfer-Encoding", "chunked"))
    elif lengths:
        made.append(("Content-Length", lengths[0]))
    if credentials is not None:
        made.append(("Accept-Encoding", "identity"))
        made += credentials.headers()
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in made]


def _has_body(headers: Any) -> bool:
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _named_by_connection(headers: Any) -> frozenset[str]:
    """The headers that are about this connection only, because Connection names them (RFC 9110, section 7.6.1)."""
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"connection"]
    return frozenset(one.strip().lower() for value in values for one in value.split(",") if _TOKEN.match(one.strip()))


def _ascii(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise h11.RemoteProtocolError("a target must be ASCII") from None


__all__ = ["Exchange", "Forget", "Reveal", "Way"]
