"""The HTTP fields that the gateway reads and writes: structured strings, Prefer, trace context, ETags, links."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

Headers = list[tuple[bytes, bytes]]
"""Fields as ASGI has them: names in lower case."""

MAX_KEY_CHARS: Final = 255
MAX_WAIT_S: Final = 60.0
"""The longest that `Prefer: wait=N` and `?wait=N` hold a request; whoever asks for more is told what was applied."""

_SF_STRING: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"[ \t]*(?:;[\x20-\x7e]*)?')
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_.:~/+=@-]+")
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:/+=@-]{1,128}")
_PREFERENCE: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?[^,]*')


class MalformedHeaderError(ValueError):
    """A field that cannot be read; the message names it, what came (shortened) and what it should be."""


def idempotency_key(value: str) -> str:
    """The key in an Idempotency-Key field (draft-ietf-httpapi-idempotency-key-header-07, section 2.1).

    The draft has a structured-field String (RFC 9651, section 3.3.3): "8e03978e-40d5". Many clients leave the quotes
    out, so a bare key of letters, digits and _.:~/+=@- is taken as it stands. Raises MalformedHeaderError.
    """
    value = value.strip(" \t")
    found = _SF_STRING.fullmatch(value)
    key = re.sub(r'\\(["\\])', r"\1", found[1]) if found else value if _BARE_KEY.fullmatch(value) else None
    if key is None:
        raise MalformedHeaderError(
            'Idempotency-Key must be a quoted string such as "8e03978e-40d5-43e8-bc93-6894a57f9324", '
            f"got {value[:80]!r}"
        )
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise MalformedHeaderError(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters, got {len(key)}")
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefer:
    """What a request prefers (RFC 7240): an answer that the call was accepted, after so many seconds at most."""

    respond_async: bool = False
    wait_s: float | None = None

    @property
    def applied(self) -> str:
        """The Preference-Applied field that answers it."""
        if self.wait_s is None:
            return "respond-async"
        return f"respond-async, wait={min(self.wait_s, MAX_WAIT_S):g}"


def prefer(value: str) -> Prefer:
    """What the Prefer fields of a request, joined by commas, ask for; preferences that are not known are passed over.

    Raises MalformedHeaderError for a wait that is no number of seconds.
    """
    found: dict[str, str] = {}
    for name, given in _PREFERENCE.findall(value):
        found.setdefault(name.lower(), given.strip('"'))  # the first one counts
    wait_s = found.get("wait")
    if wait_s is not None and not re.fullmatch(r"[0-9]{1,9}", wait_s):
        raise MalformedHeaderError(f"Prefer: wait must be a whole number of seconds, got {wait_s[:40]!r}")
    return Prefer(respond_async="respond-async" in found, wait_s=None if wait_s is None else float(wait_s))


def trace_of(traceparent: str | None) -> str | None:
    """The traceparent of a request when it is one (W3C Trace Context, section 3.2); what is not is as if not sent."""
    if traceparent is None or len(traceparent) > 512 or not _TRACEPARENT.fullmatch(traceparent):
        return None
    if traceparent.startswith("00-") and len(traceparent) != 55:
        return None
    return traceparent


def is_tracestate(value: str) -> bool:
    """Whether a tracestate may be given back as it came."""
    return _TRACESTATE.fullmatch(value) is not None


def is_request_id(value: str) -> bool:
    """Whether a request's id may be taken over from the caller, into answers and logs."""
    return _REQUEST_ID.fullmatch(value) is not None


def sf_string(text: str) -> str:
    """A structured-field String (RFC 9651); what it cannot hold becomes '?'."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def retry_after(seconds: float | None) -> str:
    """A Retry-After field: whole seconds, at least one; one where nobody knows."""
    return str(max(1, -int(-(seconds or 1.0) // 1)))


def next_link(path: str, query: Mapping[str, str | Iterable[str]]) -> str:
    """A Link field (RFC 8288) to the next page."""
    pairs = [(k, v) for k, vs in query.items() for v in ([vs] if isinstance(vs, str) else vs)]
    return f'<{path}?{urlencode(pairs)}>; rel="next"'


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether what a caller has is what there is (RFC 9110, section 13.1.2; weak comparison)."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in (one.strip().removeprefix("W/") for one in if_none_match.split(","))


__all__ = [
    "MAX_WAIT_S",
    "Headers",
    "MalformedHeaderError",
    "Prefer",
    "etag_matches",
    "idempotency_key",
    "is_request_id",
    "is_tracestate",
    "next_link",
    "prefer",
    "retry_after",
    "sf_string",
    "trace_of",
]
