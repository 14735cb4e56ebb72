"""One exchange over HTTP: a request through the egress guard, its answer within limits of time and size."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import httpx

from toolpost.calls.errors import RemoteToolError, ToolTimeoutError
from toolpost.runners import http_answers
from toolpost.runners.clients import PerLoop
from toolpost.runners.http_request import READS
from toolpost.runners.resources import Resources
from toolpost.security.egress import EgressGuard, Reach
from toolpost.security.egress_transport import GuardedTransport, guarded_transport

CONNECT_S: Final = 10.0
"""How long a connection may take at most, however much time the call has."""
MOST_S: Final = 3600.0
"""How long an exchange may take at most, when its call has no deadline: a server may trickle for ever."""
LATER_S: Final = 0.25
"""How much later than its call an exchange ends of itself: the call's deadline, which says more, comes first."""
MAX_HEADERS: Final = 256
"""Fields of an answer's header; their bytes are bounded by h11, to some 100 KiB."""
DEFAULT_HEADERS: Final = ((b"Accept", b"*/*"), (b"User-Agent", b"toolpost"))

_ALONE: Final = EgressGuard()

Headers = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """What came back. data is the body, unpacked; tls the connection's, where it has one."""

    status: int
    reason: str
    headers: Sequence[tuple[str, str]]
    data: bytes
    tls: ssl.SSLObject | None


def guard_of(resources: Resources) -> EgressGuard:
    """The guard of the executor; one that lets only public addresses be reached where there is no executor."""
    guard = None if resources.guards is None else resources.guards.egress
    return guard if guard is not None else _ALONE


def transports(resources: Resources, reach: Reach) -> PerLoop[GuardedTransport]:
    """The connections of those who may reach just this, for each event loop."""
    return resources.clients.the(("http", reach), lambda: PerLoop(partial(guarded_transport, reach)))


async def exchange(
    transport: httpx.AsyncBaseTransport,
    method: str,
    url: str,
    headers: Headers,
    content: bytes | None,
    *,
    shown: str,
    limit_s: float | None,
    max_bytes: int,
    reads_body: bool = True,
) -> Answer:
    """Send one request and read its answer, whatever its status. shown stands for the request in messages.

    Raises EgressDeniedError, RemoteToolError and ToolTimeoutError; where no connection was had, nothing was sent.
    """
    limit_s = MOST_S if limit_s is None else min(limit_s, MOST_S)
    connect_s = min(CONNECT_S, limit_s)
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    given = {name.lower() for name, _ in pairs}
    pairs += [pair for pair in DEFAULT_HEADERS if pair[0].lower() not in given]
    if method == "HEAD" and b"connection" not in given:
        pairs.append((b"Connection", b"close"))  # many a server sends a body all the same: the next one's answer
    timeouts = {"connect": connect_s, "read": limit_s, "write": limit_s, "pool": limit_s}
    try:
        # By the transport: a client would log the whole address, and unpack an answer before its size is known.
        request = httpx.Request(method, url, headers=pairs, content=content, extensions={"timeout": timeouts})
        async with asyncio.timeout(limit_s):
            return await _answered(transport, request, shown, max_bytes, reads_body)
    except httpx.HTTPError as error:
        raise of_transport(shown, method, error) from error
    except httpx.InvalidURL as error:
        raise RemoteToolError(f"{shown} is no address: {error}", kind="caller", outcome="not_run") from error
    except ToolTimeoutError:
        raise
    except TimeoutError as error:
        raise _late(shown, method, f"not within {limit_s:g} s") from error


async def _answered(
    transport: httpx.AsyncBaseTransport, request: httpx.Request, shown: str, max_bytes: int, reads_body: bool
) -> Answer:
    response = await transport.handle_async_request(request)
    async with contextlib.aclosing(response):
        if len(response.headers.raw) > MAX_HEADERS:
            raise RemoteToolError(f"{shown} answered with more than {MAX_HEADERS} headers", kind="tool_error")
        tls = _tls_of(response) if request.url.scheme == "https" else None
        data = b""
        if reads_body:
            encoding = response.headers.get("Content-Encoding", "")
            data = await http_answers.read(shown, response.aiter_raw(), encoding, max_bytes)
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        return Answer(response.status_code, response.reason_phrase, pairs, data, tls)


def _tls_of(response: httpx.Response) -> ssl.SSLObject | None:
    stream: Any = response.extensions.get("network_stream")
    found: ssl.SSLObject | None = None if stream is None else stream.get_extra_info("ssl_object")
    return found


def of_transport(shown: str, method: str, error: httpx.HTTPError) -> RemoteToolError | ToolTimeoutError:
    """What went wrong on the way. Where no connection was had, nothing was sent."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):  # whose text may hold a header's value
        return RemoteToolError(f"{shown} is no request that can be sent ({type(error).__name__})", kind="caller")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
        kind = "tool_error" if http_answers.is_untrusted(error) else "network"
        return RemoteToolError(f"{shown} could not be connected to ({said:.300})", kind=kind, outcome="not_run")
    if isinstance(error, httpx.TimeoutException):
        return _late(shown, method, f"{said:.300}")
    kind = "tool_error" if isinstance(error, httpx.DecodingError) else "network"
    return RemoteToolError(
        f"the connection to {shown} failed ({said:.300})",
        kind=kind,
        outcome="ran" if method in READS else "unknown",
    )


def _late(shown: str, method: str, said: str) -> ToolTimeoutError:
    late = ToolTimeoutError(f"{shown} gave no answer in time ({said})")
    late.outcome = "stopped" if method in READS else "unknown"
    return late
