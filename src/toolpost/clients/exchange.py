"""What a client's operations ask for: requests, pauses, parts of answers. Operations are generators that do no I/O.

One operation serves Client and AsyncClient: whoever drives it does what it yields and sends back what came of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import orjson

from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import RemoteToolError, ToolTimeoutError

T = TypeVar("T")

LONGEST_PAUSE_S: Final = 30.0
"""Whoever is asked to wait longer than that before the next try is told instead."""
FIRST_PAUSE_S: Final = 0.1
REFUSED_UNRUN: Final = (None, "not_run")
_NO_ANSWER: Final = (502, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. path begins with a slash; timeout_s is how long the server may be silent.

    safe: sent a second time it does nothing twice, because it only reads or has an idempotency key.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    timeout_s: float = 60.0
    safe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. headers have names in lower case; body is empty while it is still to be read."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and give its Answer. Raises LostError."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """As Send, but the body of an answer of 2xx is left to Read; what was open before is closed."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Give the next bytes of what is open, None at its end. Raises LostError."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give:
    """Hand an item to whoever iterates."""

    item: Any


Effect = Send | Open | Read | Sleep | Give
Plan = Generator[Effect, Any, T]
"""An operation: it yields effects, is sent what came of them, and returns its value."""


class LostError(Exception):
    """No answer came. sent: whether the server may have had the request; silent: whether it said nothing in time."""

    def __init__(self, why: str, *, sent: bool, silent: bool = False) -> None:
        super().__init__(why)
        self.why, self.sent, self.silent = why, sent, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How an exchange is tried again: so many further times, each after a longer pause, or as Retry-After says."""

    retries: int = 2
    pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S

    def pause(self, failed: int) -> float:
        """The pause after so many failures, the last of them just now; it varies, so that many clients spread out."""
        return min(self.longest_pause_s, SYSTEM_CLOCK.jitter(self.pause_s * 2 ** (failed - 1)))


def exchange(
    request: Request, patience: Patience, *, within_s: float | None = None, opens: bool = False
) -> Plan[Answer]:
    """Have a request answered, trying again what is safe: at most patience.retries times, and not after within_s.

    Tried again is what was never sent, what is safe and had no answer (a proxy's 502 or 504 is none), and what the
    gateway refused with 429 or 503 before anything ran; where somebody before it did, what is safe. A keyed call whose
    answer was lost goes on on the server: it is waited for as long as timeout_s.
    Raises RemoteToolError, or ToolTimeoutError where the server was silent.
    """
    began, failed, lost = SYSTEM_CLOCK.monotonic(), 0, False
    while True:
        try:
            answer: Answer = yield Open(request) if opens else Send(request)
        except LostError as error:
            failed += 1
            pause = patience.pause(failed)
            lost = lost or error.sent
            spent = SYSTEM_CLOCK.monotonic() - began + pause
            if failed > patience.retries or (error.sent and not request.safe) or _over(spent, within_s):
                raise gone(error) from error
        else:
            document = problem(answer)
            known = pause_of(answer, document, safe=request.safe)
            if known is None:
                return answer
            spent = SYSTEM_CLOCK.monotonic() - began + known
            lost = lost or answer.status in _NO_ANSWER
            if lost and request.safe and document.get("code") == "in_progress" and spent < request.timeout_s:
                pause = max(known, patience.pause_s)  # it is our own, which goes on
            else:
                failed += 1
                pause = max(known, patience.pause(failed))
                if failed > patience.retries or known > patience.longest_pause_s or _over(spent, within_s):
                    return answer
        yield Sleep(pause)


def pause_of(answer: Answer, document: Mapping[str, Any], *, safe: bool) -> float | None:
    """For how long to wait before a refused request is sent again; None for what would be refused again, or ran.

    A refusal without a code is a proxy's, which may have passed the request on before: only what is safe is sent again.
    """
    busy = answer.status == 409 and document.get("code") == "in_progress"
    refused = answer.status in (429, 503) and document.get("outcome") in REFUSED_UNRUN
    known = isinstance(document.get("code"), str)
    unanswered = answer.status in _NO_ANSWER and not known
    if not (busy or refused or unanswered) or document.get("retryable") is False or not (known or safe):
        return None
    return 0.0 if unanswered else retry_after(answer)


def retry_after(answer: Answer) -> float:
    """Seconds that Retry-After asks for, as a number or a date; 1 where it says nothing that can be read."""
    given = answer.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - SYSTEM_CLOCK.now())
    except (ValueError, OverflowError):
        return 1.0


def problem(answer: Answer) -> dict[str, Any]:
    """The problem document of an answer (RFC 9457); empty where it has none."""
    if answer.status < 400:
        return {}
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def gone(error: LostError) -> Exception:
    """The error for callers of a server that did not answer."""
    if error.silent:
        late = ToolTimeoutError(f"the gateway did not answer in time: {error.why}")
        late.outcome = "unknown"
        return late
    told = RemoteToolError(f"the gateway did not answer: {error.why}", outcome="unknown" if error.sent else "not_run")
    told.retryable = not error.sent
    return told


def _over(spent: float, within_s: float | None) -> bool:
    return within_s is not None and spent > within_s
