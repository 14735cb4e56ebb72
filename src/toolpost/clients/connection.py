"""Connections: do what operations ask for, with httpx, for callers that block and for callers that await."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, Final, TypeVar

try:
    import httpx
except ImportError as error:
    raise ImportError("toolpost.clients needs the httpx package; install toolpost[client]") from error

from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ConfigurationError, RemoteToolError
from toolpost.clients.exchange import Answer, Give, LostError, Open, Plan, Read, Request, Send, Sleep

T = TypeVar("T")
Key = str | Callable[[], str | Awaitable[str]] | None
"""An API key or token, or what gives one; it is asked for each request, so that it may change."""

CONNECT_S: Final = 10.0
NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
MAX_BODY: Final = 256 << 20
"""Most bytes of an answer that is read whole; files and streams are not."""


class Connection:
    """Drives operations with a blocking httpx client; may be used from several threads."""

    def __init__(self, base_url: str, key: Key, http: httpx.Client | None) -> None:
        self._url, self._key = checked_url(base_url), key
        self._owned = http is None
        self.http = http or httpx.Client(trust_env=False)

    def run(self, plan: Plan[T]) -> T:
        """What an operation returns."""
        steps = self.items(plan)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    def items(self, plan: Plan[T]) -> Generator[Any, None, T]:
        """What an operation gives, as it comes."""
        opened: list[tuple[httpx.Response, Any]] = []
        reply: Any = None
        lost: LostError | None = None
        try:
            while True:
                effect = plan.send(reply) if lost is None else plan.throw(lost)
                reply = lost = None
                if isinstance(effect, Give):
                    yield effect.item
                elif isinstance(effect, Sleep):
                    SYSTEM_CLOCK.pause(effect.seconds)
                else:
                    try:
                        reply = self._exchanged(effect, opened)
                    except httpx.RequestError as error:
                        lost = lost_of(error)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            plan.close()
            _close(opened)

    def _exchanged(self, effect: Send | Open | Read, opened: list[tuple[httpx.Response, Any]]) -> Any:
        if isinstance(effect, Read):
            return next(opened[0][1], None)
        _close(opened)
        key = self._key() if callable(self._key) else self._key
        if inspect.isawaitable(key):
            getattr(key, "close", lambda: None)()
            raise ConfigurationError("key gives an awaitable; use AsyncClient, or a function that is not async")
        request = made(self.http, self._url, effect.request, key)
        response = self.http.send(request, stream=True, follow_redirects=False)
        opened.append((response, response.iter_bytes()))
        if isinstance(effect, Open) and response.is_success:
            return answer_of(response, b"")
        body = Body()
        for data in opened[0][1]:
            body.add(data)
        _close(opened)
        return answer_of(response, bytes(body.data))

    def close(self) -> None:
        """Close the connections, unless the httpx client was handed in."""
        if self._owned:
            self.http.close()


class AsyncConnection:
    """As Connection, for the tasks of one event loop."""

    def __init__(self, base_url: str, key: Key, http: httpx.AsyncClient | None) -> None:
        self._url, self._key = checked_url(base_url), key
        self._owned = http is None
        self.http = http or httpx.AsyncClient(trust_env=False)

    async def run(self, plan: Plan[T]) -> T:
        """What an operation returns."""
        returned: list[T] = []
        async for _ in self.items(plan, returned):
            pass
        return returned[0]

    async def items(self, plan: Plan[T], returned: list[T] | None = None) -> AsyncGenerator[Any, None]:
        """What an operation gives, as it comes; what it returns is put into returned."""
        opened: list[tuple[httpx.Response, Any]] = []
        reply: Any = None
        lost: LostError | None = None
        try:
            while True:
                try:
                    effect = plan.send(reply) if lost is None else plan.throw(lost)
                except StopIteration as done:
                    if returned is not None:
                        returned.append(done.value)
                    return
                reply = lost = None
                if isinstance(effect, Give):
                    yield effect.item
                elif isinstance(effect, Sleep):
                    await asyncio.sleep(effect.seconds)
                else:
                    try:
                        reply = await self._exchanged(effect, opened)
                    except httpx.RequestError as error:
                        lost = lost_of(error)
        finally:
            plan.close()
            await _aclose(opened)

    async def _exchanged(self, effect: Send | Open | Read, opened: list[tuple[httpx.Response, Any]]) -> Any:
        if isinstance(effect, Read):
            return await anext(opened[0][1], None)
        await _aclose(opened)
        key = self._key() if callable(self._key) else self._key
        if inspect.isawaitable(key):
            key = await key
        request = made(self.http, self._url, effect.request, key)
        response = await self.http.send(request, stream=True, follow_redirects=False)
        opened.append((response, response.aiter_bytes()))
        if isinstance(effect, Open) and response.is_success:
            return answer_of(response, b"")
        body = Body()
        async for data in opened[0][1]:
            body.add(data)
        await _aclose(opened)
        return answer_of(response, bytes(body.data))

    async def close(self) -> None:
        """Close the connections, unless the httpx client was handed in."""
        if self._owned:
            await self.http.aclose()


class Body:
    """The body of an answer as it comes in."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, data: bytes) -> None:
        """Take its next bytes. Raises RemoteToolError when they become too many."""
        self.data += data
        if len(self.data) > MAX_BODY:
            raise RemoteToolError(f"the gateway's answer is larger than {MAX_BODY} bytes", outcome="unknown")


def checked_url(base_url: str) -> str:
    """A gateway's URL without a slash at its end. Raises ConfigurationError."""
    try:
        parts = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"base_url must be the URL of a gateway, got {base_url!r:.200}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigurationError(f"base_url must be an http:// or https:// URL, got {base_url!r:.200}")
    return str(parts).rstrip("/")


def made(http: httpx.Client | httpx.AsyncClient, url: str, request: Request, key: Any) -> httpx.Request:
    """A request as httpx sends it. Raises ConfigurationError for a key that no header can hold, without telling it."""
    headers = dict(request.headers)
    if key:
        headers["authorization"] = f"Bearer {key}"
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            what = "key" if name == "authorization" else name
            raise ConfigurationError(f"{what} has characters that no HTTP header can hold, such as a newline")
    return http.build_request(
        request.method,
        url + request.path,
        headers=headers,
        content=request.content,
        timeout=httpx.Timeout(request.timeout_s, connect=min(CONNECT_S, request.timeout_s)),
    )


def answer_of(response: httpx.Response, body: bytes) -> Answer:
    """An answer, from httpx's."""
    return Answer(status=response.status_code, headers=dict(response.headers), body=body)


def lost_of(error: httpx.RequestError) -> LostError:
    """What a failed exchange tells: whether anything was sent, and whether the server was merely silent."""
    why = str(error) or type(error).__name__
    return LostError(why, sent=not isinstance(error, NEVER_SENT), silent=isinstance(error, httpx.ReadTimeout))


def _close(opened: list[tuple[httpx.Response, Any]]) -> None:
    while opened:
        with suppress(httpx.RequestError):
            opened.pop()[0].close()


async def _aclose(opened: list[tuple[httpx.Response, Any]]) -> None:
    while opened:
        with suppress(httpx.RequestError):
            await opened.pop()[0].aclose()


__all__ = ["AsyncConnection", "Connection", "Key"]
