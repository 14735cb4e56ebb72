"""The transport of httpx that keeps to the egress guard: what it connects to is exactly what was checked."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

try:
    import h11
    import httpcore
    import httpx
except ModuleNotFoundError as missing:  # pragma: no cover
    from toolpost.calls.errors import ConfigurationError

    raise ConfigurationError(f"requests need the package {missing.name}; install toolpost[http]") from missing

from toolpost.security.egress import EgressGuard, Proxy, Reach
from toolpost.security.egress_urls import DEFAULT_PORTS, denied

MAX_CONNECTIONS: Final = 100
MAX_IDLE: Final = 20
IDLE_EXPIRY_S: Final = 30.0
IDLE_S: Final = 60.0
"""How long the body of an answer may pause."""
NEXT_ADDRESS_S: Final = 0.25
"""How long one address may take before the next is tried beside it (RFC 8305, section 5)."""
MAX_ADDRESSES: Final = 8
_ADMITTED: Final = 1024


def guarded_transport(
    reach: EgressGuard | Reach, *, verify: ssl.SSLContext | None = None, most: int | None = MAX_CONNECTIONS
) -> GuardedTransport:
    """A transport that reaches what it may, for one event loop; verify is trust of one's own in place of certifi's.

    most bounds its connections; None is for who bounds its requests himself.
    It follows no redirects, keeps no cookies, takes nothing from the environment. What it may not reach raises
    EgressDeniedError; everything else that can go wrong raises what httpx raises.
    """
    return GuardedTransport(reach.reach() if isinstance(reach, EgressGuard) else reach, verify or trust(), most)


@cache
def trust() -> ssl.SSLContext:
    """Trust in certifi's authorities: reading them takes 20 ms, so once a process."""
    return httpx.create_ssl_context(trust_env=False)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Checks each request before it takes a connection, and each connection before it is made.

    Its connections are its own, so that they were all made under one set of rules.
    """

    def __init__(self, reach: Reach, verify: ssl.SSLContext, most: int | None = MAX_CONNECTIONS) -> None:
        self.reach = reach
        self._proxy = reach.guard.proxy
        self._admitted: set[tuple[bytes, bytes, int | None]] = set()
        proxy = None
        if self._proxy is not None:
            by = self._proxy
            host = f"[{by.host}]" if ":" in by.host else by.host
            auth = (by.user.encode(), by.password.encode()) if by.user or by.password else None
            tls = verify if by.scheme == "https" else None
            proxy = httpcore.Proxy(f"{by.scheme}://{host}:{by.port}", auth=auth, ssl_context=tls)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify,
            proxy=proxy,
            max_connections=most,
            max_keepalive_connections=MAX_IDLE,
            keepalive_expiry=IDLE_EXPIRY_S,
            network_backend=_Network(reach, self._proxy),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. request.extensions["timeout"] holds its limits, as httpx has them."""
        url = request.url
        key = (url.raw_scheme, url.raw_host, url.port)
        if key not in self._admitted:
            self._admit(url)
            if len(self._admitted) >= _ADMITTED:
                self._admitted.clear()
            self._admitted.add(key)
        if url.userinfo:
            raise denied("credentials", "a URL must not hold a user or password; send them in a header")
        if [value for name, value in request.headers.raw if name.lower() == b"host"] != [url.netloc]:
            raise denied("host-header", "the Host header must be the host of the URL; leave it out")
        request.extensions.pop("sni_hostname", None)
        if self._proxy is not None:
            await _look(self.reach, url.raw_host.decode("ascii"), url.port or DEFAULT_PORTS[url.scheme])
        with _as_httpx():
            answer = await self._pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        limits = request.extensions.get("timeout")
        if limits is not None:  # read anew when the body is begun: a server may think long, but not trickle
            limits["read"] = IDLE_S if limits.get("read") is None else min(IDLE_S, limits["read"])
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Stream(answer),
            extensions=answer.extensions,
        )

    def _admit(self, url: httpx.URL) -> None:
        try:
            scheme, host = url.raw_scheme.decode("ascii"), url.raw_host.decode("ascii")
        except UnicodeDecodeError:
            raise denied("host-form", "a host must be ASCII when it is connected to") from None
        if self.reach.admit(scheme, host, url.port or DEFAULT_PORTS.get(scheme, 0)) != host and ":" not in host:
            raise denied("host-form", f"{host!r:.100} is not written as it is connected to")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


async def guarded_tunnel(reach: Reach, host: str, port: int, *, timeout_s: float) -> httpcore.AsyncNetworkStream:
    """A connection for bytes of any kind to a host that reach has admitted; through the proxy, where there is one.

    Raises EgressDeniedError for where the name leads, and what httpx raises for all that can go wrong.
    """
    proxy = reach.guard.proxy
    network = _Network(reach, proxy)
    with _as_httpx():
        if proxy is None:
            return await network.connect_tcp(host, port, timeout_s)
        await _look(reach, host, port)
        stream = await network.connect_tcp(proxy.host, proxy.port, timeout_s)
        try:
            if proxy.scheme == "https":
                stream = await stream.start_tls(trust(), proxy.host, timeout_s)
            async with asyncio.timeout(timeout_s):
                await _ask_for_tunnel(stream, proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except TimeoutError as error:
            await stream.aclose()
            raise httpcore.ConnectTimeout(f"the proxy did not answer within {timeout_s:g} s") from error
        except BaseException:
            await stream.aclose()
            raise
        return stream


async def _ask_for_tunnel(stream: httpcore.AsyncNetworkStream, proxy: Proxy, authority: str) -> None:
    headers = [("Host", authority)]
    if proxy.user or proxy.password:
        both = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {both}"))
    asked = h11.Connection(h11.CLIENT)
    await stream.write(asked.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b"")
    while True:
        try:
            event = asked.next_event()
        except h11.RemoteProtocolError as error:
            raise httpcore.ProxyError(f"the proxy answers with what is no HTTP: {error}") from error
        if event is h11.NEED_DATA:
            asked.receive_data(await stream.read(1))  # what comes behind the head is the tunnel's
        elif isinstance(event, h11.Response) and 200 <= event.status_code < 300:
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise httpcore.ProxyError(f"the proxy refuses a tunnel: {getattr(event, 'status_code', 'it hung up')}")


async def _look(reach: Reach, host: str, port: int) -> None:
    """Check what a name leads to, as far as it can be seen from here; the proxy resolves it for itself."""
    try:
        await reach.addresses(host, port)
    except OSError:
        reach.check_unresolved(host, port)


class _Network(httpcore.AsyncNetworkBackend):
    """Makes connections: resolves and checks a host, and connects to one of the addresses that were checked."""

    def __init__(self, reach: Reach, proxy: Proxy | None) -> None:
        self._reach = reach
        self._proxy = proxy
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                if self._proxy is not None:  # the operator's own; where it leads is checked before
                    if (host, port) != (self._proxy.host, self._proxy.port):
                        raise denied("proxy", "there is a proxy, and this would go around it", host=host, port=port)
                    return await self._plain.connect_tcp(host, port)
                try:
                    addresses = await self._reach.addresses(host, port)
                except OSError as error:
                    raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
                return await self._first(addresses[:MAX_ADDRESSES], port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} could not be connected to within {timeout:g} s") from error

    async def _first(self, addresses: list[str], port: int) -> httpcore.AsyncNetworkStream:
        """The connection that is there first, each attempt beginning a little after the one before it."""
        if len(addresses) == 1:
            return await self._plain.connect_tcp(addresses[0], port)
        race = _Race(self._plain, port)
        try:
            async with asyncio.TaskGroup() as group:
                for address in addresses:
                    race.begin(group, address)
                    if await race.over(NEXT_ADDRESS_S):
                        break
                else:
                    await race.over(None)
                race.stop()
        except BaseException:
            await race.drop()
            raise
        return race.result()

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise denied("scheme", "a socket of this machine is no host")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Race:
    """Attempts to connect to several addresses of one host, of which one wins."""

    def __init__(self, plain: httpcore.AsyncNetworkBackend, port: int) -> None:
        self._plain, self._port = plain, port
        self._attempts: list[asyncio.Task[None]] = []
        self._running = 0
        self._changed = asyncio.Event()
        self._won: httpcore.AsyncNetworkStream | None = None
        self._error: Exception | None = None

    def begin(self, group: asyncio.TaskGroup, address: str) -> None:
        self._running += 1
        self._changed.clear()
        self._attempts.append(group.create_task(self._attempt(address)))

    async def _attempt(self, address: str) -> None:
        try:
            stream = await self._plain.connect_tcp(address, self._port)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            self._error = self._error or error
        else:
            if self._won is None:
                self._won = stream
            else:
                await stream.aclose()
        finally:
            self._running -= 1
            self._changed.set()

    async def over(self, limit_s: float | None) -> bool:
        """Wait until one has won, the last one failed or limit_s passed; whether one has won."""
        try:
            async with asyncio.timeout(limit_s):
                while self._won is None and self._running:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._won is not None

    def stop(self) -> None:
        for attempt in self._attempts:
            attempt.cancel()

    async def drop(self) -> None:
        """Nobody waits for the winner any more."""
        if self._won is not None:
            await self._won.aclose()

    def result(self) -> httpcore.AsyncNetworkStream:
        if self._won is None:
            raise self._error or httpcore.ConnectError("no address could be connected to")
        return self._won


class _Stream(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """httpcore's errors as those of the same names that httpx has."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise _named_alike(error)(str(error)) from error
    except (httpcore.ProxyError, httpcore.UnsupportedProtocol) as error:
        raise _named_alike(error)(str(error)) from error


def _named_alike(error: Exception) -> type[httpx.TransportError]:
    found: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.TransportError)
    return found
