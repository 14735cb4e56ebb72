"""ctx.http: the HTTP client of a call. It reaches what the tool may reach, within the time that the call has."""

from __future__ import annotations

import asyncio
import contextlib
import json as json_text
import re
from collections.abc import Awaitable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urljoin

import orjson

from toolpost.calls.context import ToolContext
from toolpost.calls.errors import ConfigurationError, EgressDeniedError, RemoteToolError
from toolpost.runners.http_request import HEADER_VALUE
from toolpost.runners.http_response import Headers, Hop, HttpResponse
from toolpost.runners.resources import Resources
from toolpost.security.egress import Reach
from toolpost.security.egress_urls import Target, denied

MAX_REDIRECTS: Final = 5
ANSWER_S: Final = 1.0
"""How long a thread waits, beyond its limit, to be told that it has passed."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
OWN_HEADERS: Final = frozenset(
    "connection content-length expect host keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    "trailer transfer-encoding upgrade".split()
)
"""What only the client itself may say: it is about the connection, or decides where a request ends or goes."""
KEPT_HEADERS: Final = frozenset(
    "accept accept-encoding accept-language cache-control content-language content-type if-match if-modified-since "
    "if-none-match if-range if-unmodified-since range user-agent".split()
)
"""What a redirect to another origin is sent of the headers; any other may be a credential, whatever its name."""
_METHOD: Final = re.compile(r"[A-Z]{1,20}\Z")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")


class HttpClient:
    """Sends requests for one call: `response = await ctx.http.get("https://api.example.com/orders")`.

    Every method takes url (whole, http or https), and by name headers, params (added to the query), one of json,
    content (bytes or text) and data (a form), timeout_s, follow_redirects, max_bytes (of the answer, unpacked). An
    answer of any status is an HttpResponse. No cookies are kept, nothing is taken from the environment, no request is
    tried twice.
    Raises EgressDeniedError, RemoteToolError or ToolTimeoutError, and ConfigurationError for wrong use.
    `ctx.http.sync` has the same methods for tools that are not async.
    """

    __slots__ = ("_context", "_reach", "_resources")

    def __init__(self, context: ToolContext, reach: Reach, resources: Resources) -> None:
        self._context = context
        self._reach = reach
        self._resources = resources

    @property
    def sync(self) -> SyncHttpClient:
        """The same for bodies that block: each method gives the response itself."""
        return SyncHttpClient(self)

    def get(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        return self.request("DELETE", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | str | None = None,
        data: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        follow_redirects: bool = False,
        max_bytes: int | None = None,
        read_body: bool = True,
    ) -> Awaitable[HttpResponse]:
        """One request, and up to MAX_REDIRECTS more where its answer leads elsewhere and follow_redirects says so.

        read_body=False gives the answer without its body.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "ctx.http is for async tools; in a tool that is not, call ctx.http.sync, as in ctx.http.sync.get(url)"
            ) from None
        return self._sent(
            _Request.of(method, headers, json, content, data),
            _with(url, params),
            timeout_s,
            MAX_REDIRECTS if follow_redirects else 0,
            self._reach.guard.max_bytes if max_bytes is None else max(0, min(max_bytes, self._reach.guard.max_bytes)),
            read_body,
        )

    async def _sent(
        self, request: _Request, url: str, timeout_s: float | None, redirects: int, max_bytes: int, read_body: bool
    ) -> HttpResponse:
        try:
            from toolpost.runners.http_exchange import LATER_S, exchange, transports
        except ModuleNotFoundError as missing:
            raise ConfigurationError(f"ctx.http needs the package {missing.name}; install toolpost[http]") from missing
        self._context.raise_if_cancelled()
        remaining_s = self._context.remaining_s()
        left_s = _least(timeout_s, None if remaining_s is None else remaining_s + LATER_S)
        target = self._reach.target(url)
        kept = transports(self._resources, self._reach)
        transport = kept.here() or await kept.get()
        clock = asyncio.get_running_loop().time
        begun = clock()
        history: list[Hop] = []
        while True:
            shown = f"{request.method} {target.origin}{target.rest.partition('?')[0]}"
            try:
                answer = await exchange(
                    transport,
                    request.method,
                    target.url,
                    request.headers,
                    request.content,
                    shown=shown,
                    limit_s=None if left_s is None else max(0.0, left_s - (clock() - begun)),
                    max_bytes=max_bytes,
                    reads_body=read_body,
                )
            except RemoteToolError as error:
                if history and error.outcome == "not_run":
                    error.outcome = "ran"  # what was redirected had been sent
                raise
            headers = Headers(answer.headers)
            if not redirects or answer.status not in REDIRECTS or "location" not in headers:
                return HttpResponse(
                    status_code=answer.status,
                    reason=answer.reason,
                    headers=headers,
                    content=answer.data,
                    url=target.url,
                    method=request.method,
                    elapsed_s=clock() - begun,
                    history=tuple(history),
                    _tls=answer.tls,
                    _shown=shown,
                )
            history.append(Hop(answer.status, target.url))
            if len(history) > redirects:
                raise RemoteToolError(f"{shown} was redirected more than {redirects} times", kind="tool_error")
            there = self._led(target, headers["location"])
            request = request.redirected(answer.status, target, there)
            target = there

    def _led(self, here: Target, location: str) -> Target:
        """Where a redirect leads, checked as if the caller had asked for it. Something was sent before, so it says."""
        try:
            there = self._reach.target(_joined(here, location))
        except EgressDeniedError as error:
            error.outcome = "ran"
            raise
        if here.scheme == "https" and there.scheme == "http":
            raise denied(
                "downgrade",
                f"{here.host!r} redirects from https to http, which anybody on the way could read",
                host=there.host,
                port=there.port,
                outcome="ran",
            )
        return there


class SyncHttpClient:
    """HttpClient for bodies that block: the same methods and options, each giving the response itself."""

    __slots__ = ("_client",)

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def get(self, url: str, **options: Any) -> HttpResponse:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> HttpResponse:
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> HttpResponse:
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Any) -> HttpResponse:
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> HttpResponse:
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> HttpResponse:
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> HttpResponse:
        return self.request("DELETE", url, **options)

    def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        """HttpClient.request, run in a loop of the executor's own while this thread waits."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError("ctx.http.sync would block the event loop; write await ctx.http.get(url)")
        client = self._client
        limit_s = _least(options.get("timeout_s"), client._context.remaining_s())

        async def sent() -> HttpResponse:
            return await client.request(method, url, **options)

        response: HttpResponse = client._resources.loop.run(
            lambda left_s: sent(), None if limit_s is None else limit_s + ANSWER_S, clock=client._resources.clock
        )
        return response


class _Request(NamedTuple):
    """A request but for where it goes."""

    method: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None

    @classmethod
    def of(
        cls,
        method: str,
        headers: Mapping[str, str] | None,
        json: Any,
        content: bytes | str | None,
        data: Mapping[str, Any] | None,
    ) -> _Request:
        """Raises RemoteToolError (kind "caller", not run) for what no request can hold."""
        verb = method.upper() if isinstance(method, str) else ""
        if not _METHOD.match(verb) or verb in ("CONNECT", "TRACE"):
            raise _unsendable(f"{method!r:.40} is no method of a request")
        if sum(given is not None for given in (json, content, data)) > 1:
            raise ConfigurationError("give one of json, content and data")
        pairs = []
        for name, value in (headers or {}).items():
            if not isinstance(name, str) or not _HEADER_NAME.match(name) or name.lower() in OWN_HEADERS:
                raise _unsendable(f"header {name!r:.100} cannot be set")
            if not isinstance(value, str) or not HEADER_VALUE.match(value):
                raise _unsendable(f"header {name!r:.100} must be Latin text of one line, without spaces around it")
            pairs.append((name, value))
        given = {name.lower() for name, _ in pairs}
        kind, body = _body(json, content, data)
        if kind is not None and "content-type" not in given:
            pairs.append(("Content-Type", kind))
        if "accept-encoding" not in given:
            pairs.append(("Accept-Encoding", "gzip, deflate"))
        return cls(verb, tuple(pairs), body)

    def redirected(self, status: int, here: Target, there: Target) -> _Request:
        """The request that follows a redirect (RFC 9110, section 15.4)."""
        method, content, headers = self.method, self.content, self.headers
        if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
            method, content = "GET", None
            headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
        secured = (here.host, here.scheme, there.scheme) == (there.host, "http", "https")
        upgraded = secured and (here.port, there.port) == (80, 443)
        if here[:3] != there[:3] and not upgraded:
            headers = tuple(pair for pair in headers if pair[0].lower() in KEPT_HEADERS)
        return _Request(method, headers, content)


def _body(json: Any, content: bytes | str | None, data: Mapping[str, Any] | None) -> tuple[str | None, bytes | None]:
    """The Content-Type and the bytes."""
    if json is not None:
        try:
            return "application/json", orjson.dumps(json)
        except (TypeError, ValueError) as error:
            raise _unsendable(f"json must be a JSON value: {error}") from error
    if data is not None:
        return "application/x-www-form-urlencoded", urlencode(dict(data), doseq=True).encode("ascii")
    if isinstance(content, str):
        try:
            return "text/plain; charset=utf-8", content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _unsendable("content holds text that UTF-8 cannot") from error
    return None, content


def _with(url: str, params: Mapping[str, Any] | None) -> str:
    if not params or not isinstance(url, str):
        return url
    pairs = {name: _plain(value) for name, value in params.items() if value is not None}
    address = url.partition("#")[0]
    return f"{address}{'&' if '?' in address else '?'}{urlencode(pairs, doseq=True)}"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, bytes)) else json_text.dumps(value)


def _joined(here: Target, location: str) -> str:
    """A Location, which may be relative (RFC 3986, section 5), as a whole URL; what it holds is checked afterwards."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")  # what is not ASCII came as bytes
    try:
        return location if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", location) else urljoin(here.url, location)
    except ValueError:
        raise denied("url", f"{here.host!r} redirects to what is no URL", host=here.host, port=here.port) from None


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _unsendable(why: str) -> RemoteToolError:
    return RemoteToolError(f"this request cannot be sent: {why}", kind="caller", outcome="not_run")
