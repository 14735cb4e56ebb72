"""HttpResponse: what ctx.http gives back, complete and unpacked; loads no package of HTTP."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from toolpost.calls.errors import RemoteToolError
from toolpost.runners import http_answers

PUBLIC_HEADERS: Final = frozenset(
    "age cache-control content-disposition content-language content-length content-type date etag expires "
    "last-modified link location retry-after vary x-request-id".split()
)
PUBLIC_PREFIXES: Final = ("ratelimit", "x-ratelimit-")


class Headers(Mapping[str, str]):
    """An answer's header fields by name, in any case; fields that came several times are joined by commas."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = tuple((name.lower(), value) for name, value in pairs)
        self._joined: dict[str, str] = {}
        for name, value in self._pairs:
            self._joined[name] = f"{self._joined[name]}, {value}" if name in self._joined else value

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._joined

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def all(self, name: str) -> list[str]:
        """Each value of a field, for those that cannot be joined, such as Set-Cookie."""
        return [value for other, value in self._pairs if other == name.lower()]

    def public(self) -> dict[str, str]:
        """Those that are no credentials, of which results may tell."""
        return {
            name: value
            for name, value in self._joined.items()
            if name in PUBLIC_HEADERS or name.startswith(PUBLIC_PREFIXES)
        }

    def __repr__(self) -> str:
        return f"Headers({', '.join(self._joined)})"


class Hop(NamedTuple):
    """A redirect that was followed: the status of the answer, and the URL that gave it."""

    status_code: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """An answer, whatever its status. url is what answered in the end, history how it was come to."""

    status_code: int
    reason: str
    headers: Headers
    content: bytes = field(repr=False)
    url: str
    method: str
    elapsed_s: float
    history: tuple[Hop, ...] = ()
    _tls: ssl.SSLObject | None = field(default=None, repr=False)
    _shown: str = field(default="", repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status_code < 400

    @property
    def text(self) -> str:
        """The body as text in the charset it names, or UTF-8; bytes that are none become U+FFFD."""
        return self.content.decode(http_answers.charset(self.headers) or "utf-8", errors="replace")

    def json(self) -> Any:
        """The body parsed as JSON. Raises RemoteToolError for what is none."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            raise RemoteToolError(f"{self._shown} answered what is no JSON: {error}", kind="tool_error") from error

    @property
    def body(self) -> Any:
        """The body as a JSON value: parsed where it says so, text, None, or {"base64", "content_type"}."""
        return http_answers.value(self.headers, self.content)

    def raise_for_status(self) -> HttpResponse:
        """Raise RemoteToolError for a status of 400 or more, of the kind that retries and breakers go by."""
        if self.ok:
            return self
        raise http_answers.refusal(self._shown, self.status_code, self.reason, self.headers, self.content, time.time)

    @property
    def tls_expires_at(self) -> float | None:
        """When the certificate of the server ends, in seconds since 1970; None without TLS."""
        certificate = None if self._tls is None else self._tls.getpeercert()
        ends = (certificate or {}).get("notAfter")
        return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None
