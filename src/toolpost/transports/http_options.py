"""What a body asks for beside the call itself: for whom, under which key, until when, and how it is to be accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from toolpost.transports.http_problems import HttpRefusal, fragment
from toolpost.worker.reports import Accept

MAX_TEXT: Final = 256
MAX_DELAY_S: Final = 366 * 86_400.0
MAX_ATTEMPTS: Final = 100
MAX_PRIORITY: Final = 100
MOST_WRONG: Final = 100
"""So many wrong members of a body are told of; the rest is not looked at."""

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a body. expected says in words what check takes."""

    check: Check
    expected: str


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return check


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return check


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def instant(value: Any) -> float | None:
    """Wall time in seconds: of a number of them, or of an RFC 3339 date and time with an offset; else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if 0 <= value < 253_402_300_800 else None
    if not isinstance(value, str) or len(value) > 40 or "T" not in value.upper():
        return None
    try:
        at = datetime.fromisoformat(value.upper().replace("Z", "+00:00"))
        return at.timestamp() if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


_TEXT: Final = Member(check=_text, expected=f"a string of 1 to {MAX_TEXT} printable characters")

CALL: Final[Mapping[str, Member]] = {
    "arguments": Member(check=lambda value: isinstance(value, dict), expected="an object"),
    "version": _TEXT,
    "deadline_s": Member(check=_seconds, expected="a number of seconds greater than 0"),
    "session_id": _TEXT,
    "task_id": _TEXT,
    "idempotency_key": _TEXT,
    "answers": Member(check=lambda value: isinstance(value, dict), expected="an object"),
    "explain": Member(check=lambda value: isinstance(value, bool), expected="true or false"),
}
"""Members of POST /v1/tools/{name}/calls that every call may have."""

WHOM: Final[Mapping[str, Member]] = {"user_id": _TEXT, "tenant": _TEXT}
"""Members that name the caller, where nobody is asked who they are."""

ACCEPTED: Final[Mapping[str, Member]] = {
    "priority": Member(
        check=_whole(-MAX_PRIORITY, MAX_PRIORITY), expected=f"a whole number from -{MAX_PRIORITY} to 100"
    ),
    "delay_s": Member(check=_number(0, MAX_DELAY_S), expected="a number of seconds from 0 to a year"),
    "run_at": Member(
        check=lambda value: instant(value) is not None,
        expected="a date and time such as '2026-05-01T08:00:00Z', or seconds since 1970",
    ),
    "max_attempts": Member(check=_whole(1, MAX_ATTEMPTS), expected=f"a whole number from 1 to {MAX_ATTEMPTS}"),
    "order_key": _TEXT,
    "callback": Member(
        check=lambda value: isinstance(value, str) and len(value) <= 2048 and value.startswith(("https://", "http://")),
        expected="an https:// URL of at most 2048 characters",
    ),
}
"""Members that say how a call is to be accepted, for requests that prefer respond-async."""

_ALL: Final = {**CALL, **WHOM, **ACCEPTED}


def checked_body(body: Any, *, authenticated: bool, accepts: bool) -> dict[str, Any]:
    """The members of a body. Raises HttpRefusal with every place where something is wrong.

    accepts: whether the request prefers respond-async. A member that is null is as if it were not there.
    """
    if not isinstance(body, dict):
        raise HttpRefusal.at("", f'the body must be an object such as {{"arguments": {{}}}}, got {_kind(body)}')
    if body.__class__ is dict and len(body) == 1 and body.get("arguments").__class__ is dict:
        return body  # what nearly all calls are
    wrong: list[tuple[str, str]] = []
    for name, value in body.items():
        complaint = _complaint(name, value, authenticated=authenticated, accepts=accepts)
        if complaint is not None:
            wrong.append((f"/{_escaped(name)}", complaint))
            if len(wrong) == MOST_WRONG:
                break
    if body.get("delay_s") is not None and body.get("run_at") is not None:
        wrong.append(("/run_at", "give one of delay_s and run_at"))
    if wrong:
        raise refused_places(wrong)
    return {name: value for name, value in body.items() if value is not None}


def refused_places(wrong: list[tuple[str, str]]) -> HttpRefusal:
    """The refusal of places in a body, (JSON Pointer, what is wrong there) each."""
    places = [{"pointer": fragment(pointer), "detail": detail} for pointer, detail in wrong[:MOST_WRONG]]
    return HttpRefusal(400, "invalid_input", "; ".join(detail for _, detail in wrong[:10]), errors=places)


def _complaint(name: str, value: Any, *, authenticated: bool, accepts: bool) -> str | None:
    if name in WHOM and authenticated:
        return f"{name} is that of the key or token; leave it out"
    if name in ACCEPTED and not accepts and value is not None:
        return f"{name} is for calls that are accepted; send the header Prefer: respond-async with it"
    member = _ALL.get(name)
    if member is None:
        return f"there is no member {name[:60]!r}; there are {', '.join(_ALL)}"
    if value is None or member.check(value):
        return None
    return f"{name} must be {member.expected}, got {_shown(value)}"


def accept_of(
    members: Mapping[str, Any], now: float, *, format: str | None = None, provider_id: str | None = None
) -> Accept:
    """How a call is to be accepted, by the checked members of its body; now is wall time in seconds."""
    run_at = instant(members["run_at"]) if "run_at" in members else None
    delay_s = float(members.get("delay_s", 0.0)) if run_at is None else max(0.0, run_at - now)
    if delay_s > MAX_DELAY_S:
        raise HttpRefusal.at("/run_at", "run_at must be within a year from now")
    return Accept(
        priority=members.get("priority", 0),
        delay_s=delay_s,
        max_attempts=members.get("max_attempts", 1),
        order_key=members.get("order_key"),
        callback=members.get("callback"),
        explain=members.get("explain", True),
        format=format,
        provider_id=provider_id,
    )


def split_options(item: Mapping[str, Any], pointer: str, *, accepts: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call in our own form without what no format has (how it is to be accepted, answers), and that, checked."""
    rest, options, wrong = {}, {}, []
    for name, value in item.items():
        if name not in ACCEPTED and name not in ("answers", "explain"):
            rest[name] = value
            continue
        complaint = _complaint(name, value, authenticated=False, accepts=accepts)
        if complaint is not None:
            wrong.append((f"{pointer}/{name}", complaint))
        elif value is not None:
            options[name] = value
    if wrong:
        raise refused_places(wrong)
    return rest, options


def _escaped(name: str) -> str:
    return name[:100].replace("~", "~0").replace("/", "~1")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    for kind, name in ((list, "an array"), (str, "a string"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return "a number"


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else _kind(value)


__all__ = ["ACCEPTED", "CALL", "WHOM", "accept_of", "checked_body", "instant", "refused_places", "split_options"]
