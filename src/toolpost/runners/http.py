"""Runs an HttpBody: sends one request with httpx, and makes of the answer a result or a typed error."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import ssl
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final

import httpx
import orjson

from toolpost.calls.definition import HttpBody, ToolDefinition
from toolpost.calls.errors import RemoteToolError, ToolTimeoutError
from toolpost.calls.redaction import scrub_message
from toolpost.runners.clients import PerLoop
from toolpost.runners.function import Run, Runs, _left as left_s
from toolpost.runners.http_request import READS, Request, Template
from toolpost.runners.resources import Resources

MAX_ANSWER_BYTES: Final = 10 * 1024 * 1024
CONNECT_S: Final = 10.0
"""How long a connection may take at most, however much time the call has."""
TOLD_CHARS: Final = 1000
"""How much of an answer that is an error its error tells."""
REASON_CHARS: Final = 100
LONGEST_WAIT_S: Final = 1e9
"""A Retry-After beyond it is taken for it: some 31 years, which every platform can still wait."""
DEFAULT_HEADERS: Final = ((b"Accept", b"*/*"), (b"User-Agent", b"toolpost"))
SHOWN_HEADERS: Final = frozenset(
    "age cache-control content-disposition content-language content-length content-type date etag expires "
    "last-modified link location retry-after vary x-request-id".split()
)
"""The headers a result holds, and those that begin as below: none of them is a credential."""
SHOWN_PREFIXES: Final = ("ratelimit", "x-ratelimit-")
_KINDS: Final = {
    408: "timeout",
    425: "transient",
    429: "rate_limit",
    500: "transient",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}


def http_runner(
    tool: ToolDefinition, body: HttpBody, resources: Resources, *, max_bytes: int = MAX_ANSWER_BYTES
) -> Runs:
    """The runner of an HTTP tool. Its result is {"status_code", "headers", "body"}.

    Redirects are not followed, cookies not kept, and neither proxies nor credentials taken from the environment.
    body is parsed JSON, text, None where there is none, or {"base64", "content_type"} for other bytes.
    """
    template = Template(tool, body)
    clients = resources.clients.the("http", lambda: PerLoop(make_transport))
    exchange = partial(_exchange, template, now=resources.clock.now, max_bytes=max_bytes)
    outcome_if_late = "stopped" if template.method in READS else "unknown"
    stopwatch = resources.clock.stopwatch

    async def send(run: Run) -> Any:
        run.attempts += 1
        request = template.fill(run.kwargs, run.effect_key)
        client = clients.here() or await clients.get()
        run.ran, run.on_timeout = True, outcome_if_late  # type: ignore[assignment]
        try:
            return await exchange(client, request, left_s(run, stopwatch))
        except (RemoteToolError, ToolTimeoutError) as error:
            run.ran = error.outcome != "not_run"
            raise

    return send


def make_transport() -> httpx.AsyncBaseTransport:
    """What connects to other hosts, made once for each event loop. A guard of where to wraps it here."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30.0)
    return httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=limits)


@cache
def _tls() -> ssl.SSLContext:
    """Trust in certifi's authorities: reading them takes 20 ms, so once a process."""
    return httpx.create_ssl_context(trust_env=False)


async def _exchange(
    template: Template,
    transport: httpx.AsyncBaseTransport,
    request: Request,
    limit_s: float | None,
    *,
    now: Callable[[], float],
    max_bytes: int,
) -> dict[str, Any]:
    timeout = httpx.Timeout(limit_s, connect=CONNECT_S if limit_s is None else min(CONNECT_S, limit_s))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]
    given = {name.lower() for name, _ in headers}
    headers += [pair for pair in DEFAULT_HEADERS if pair[0].lower() not in given]
    try:
        # By the transport: a client would log the whole address, and unpack an answer before its size is known.
        response = await transport.handle_async_request(
            httpx.Request(
                request.method,
                request.url,
                headers=headers,
                content=request.content,
                extensions={"timeout": timeout.as_dict()},
            )
        )
        async with contextlib.aclosing(response):
            data = await _read(template, response, max_bytes)
    except httpx.HTTPError as error:
        raise _of_transport(template, error) from error
    except httpx.InvalidURL as error:
        raise RemoteToolError(f"{template.shown} is no address: {error}", kind="caller", outcome="not_run") from error
    if response.status_code >= 400:
        raise _refusal(template, response, data, now)
    return {
        "status_code": response.status_code,
        "headers": {name: value for name, value in response.headers.items() if _is_shown(name)},
        "body": _value(response, data),
    }


async def _read(template: Template, response: httpx.Response, max_bytes: int) -> bytes:
    """The answer, unpacked. Never holds more than max_bytes and one piece as it came."""
    parts, size = [], 0
    unpack = _unpacker(response.headers.get("Content-Encoding", ""))
    async for packed in response.aiter_raw():
        if unpack is None:
            raise RemoteToolError(f"{template.shown} answered in an encoding that was not asked for", kind="tool_error")
        try:
            for part in unpack(packed, max_bytes + 1 - size):
                size += len(part)
                if size > max_bytes:
                    raise RemoteToolError(f"{template.shown} answered more than {max_bytes} bytes", kind="tool_error")
                parts.append(part)
        except zlib.error as error:
            raise RemoteToolError(f"{template.shown} answered what cannot be unpacked", kind="tool_error") from error
    return b"".join(parts)


Unpack = Callable[[bytes, int], Iterator[bytes]]


def _unpacker(encoding: str) -> Unpack | None:
    """Unpacks the pieces of an answer, giving at most so many bytes; None for what only ends in a larger answer.

    gzip and deflate are for authors who ask for them in headers of their own.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda packed, most: iter((packed,))
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS if encoding == "deflate" else zlib.MAX_WBITS | 16)
    begun = False

    def unpack(packed: bytes, most: int) -> Iterator[bytes]:
        nonlocal inflater, begun
        try:
            yield inflater.decompress(packed, most)
        except zlib.error:
            if begun or encoding != "deflate":
                raise
            inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)  # without zlib's frame, as some servers send it
            yield inflater.decompress(packed, most)
        begun = True

    return unpack


def _of_transport(template: Template, error: httpx.HTTPError) -> RemoteToolError | ToolTimeoutError:
    """What went wrong on the way. Where no connection was had, nothing was sent."""
    shown = template.shown
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        kind = "tool_error" if isinstance(_cause(error), ssl.SSLCertVerificationError) else "network"
        return RemoteToolError(f"{shown} could not be connected to ({said:.300})", kind=kind, outcome="not_run")
    lasting = "stopped" if template.method in READS else "unknown"
    if isinstance(error, httpx.TimeoutException):
        late = ToolTimeoutError(f"{shown} gave no answer in time ({said:.300})")
        late.outcome = lasting  # type: ignore[assignment]
        return late
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return RemoteToolError(f"{shown} is no request that can be sent ({said:.300})", kind="caller")
    kind = "tool_error" if isinstance(error, httpx.DecodingError) else "network"
    return RemoteToolError(
        f"the connection to {shown} failed ({said:.300})",
        kind=kind,
        outcome="ran" if lasting == "stopped" else "unknown",
    )


def _cause(error: BaseException) -> BaseException:
    """The innermost exception behind this one."""
    while (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return error


def _refusal(template: Template, response: httpx.Response, data: bytes, now: Callable[[], float]) -> RemoteToolError:
    status = response.status_code
    kind = _KINDS.get(status, "caller" if status < 500 else "tool_error")
    details: dict[str, Any] = {}
    if data and (text := _text(response, data)) is not None:
        details["body"] = scrub_message(text[:TOLD_CHARS])
    return RemoteToolError(
        f"{template.shown} answered {status} {scrub_message(response.reason_phrase[:REASON_CHARS])}".rstrip(),
        kind=kind,
        upstream_status=status,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After"), now),
        details=details,
    )


def _retry_after_s(value: str | None, now: Callable[[], float]) -> float | None:
    """Seconds of a Retry-After header, which has them or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), LONGEST_WAIT_S)
    try:
        return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now()), LONGEST_WAIT_S)
    except (ValueError, TypeError, OverflowError):
        return None


def _is_shown(name: str) -> bool:
    name = name.lower()
    return name in SHOWN_HEADERS or name.startswith(SHOWN_PREFIXES)


def _value(response: httpx.Response, data: bytes) -> Any:
    if not data:
        return None
    kind = _media_type(response)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:  # a label is no promise
            pass
    text = _text(response, data)
    return {"base64": base64.b64encode(data).decode(), "content_type": kind} if text is None else text


def _text(response: httpx.Response, data: bytes) -> str | None:
    """An answer as text, None where it is none."""
    kind = _media_type(response)
    if kind.startswith(("image/", "audio/", "video/", "font/")) or kind == "application/octet-stream":
        return None
    try:
        text = data.decode(response.charset_encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return None
    return None if "\0" in text else text


def _media_type(response: httpx.Response) -> str:
    declared: str = response.headers.get("Content-Type", "")
    return declared.partition(";")[0].strip().lower()
