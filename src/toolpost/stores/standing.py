"""How claims and tasks stand and what may become of them: the rules that every Records keeps, as pure functions.

A store reads a row, asks here, and writes; where a database decides by itself, its statement says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from toolpost.calls.errors import InputValidationError
from toolpost.stores import TERMINAL, Claim, ClaimAsk, ClaimState, Document, Finish, Outgoing, TaskState

OPEN = ("queued", "waiting", "running")
"""The states of a task that is not over."""

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "": frozenset({"queued", "running", *TERMINAL}),
    "queued": frozenset({"running", "cancelled"}),
    "waiting": frozenset({"queued", "running", "cancelled"}),
    "running": frozenset({"running", "queued", "waiting", *TERMINAL}),
    **{state: frozenset() for state in sorted(TERMINAL)},
}
"""State of a task -> what it may become; "" is a task that is not there, and a recorded one is over at once. running to
running is another holder."""

MAX_LOST = 3
"""A task whose holder vanished so often is dead: it may well be what kills them."""

FAREWELL = "farewell"
"""The kind of messages by which a store tells that it ended a task itself."""

PLACES = TERMINAL | {"waiting", "queued"}
"""What finish_task() may make of a running task."""


class ClaimRow(NamedTuple):
    """A claim as a row. state: claimed, done, failed, unknown, or free (given back, not yet swept)."""

    key: str
    fingerprint: str | None
    state: str
    fence: int
    owner: str
    tool: str
    tenant: str
    taken_over: bool
    lease_until: float
    began_at: float
    expires_at: float | None
    result: bytes | None


CLAIM_COLUMNS = ", ".join(ClaimRow._fields)


def standing(row: ClaimRow, now: float) -> ClaimState | None:
    """What a row means now: None when it stands for nothing any more."""
    state = row.state
    if state == "claimed":
        return "in_flight" if row.lease_until > now else "unknown"
    if state == "unknown":
        return "unknown"
    if state == "free" or (row.expires_at is not None and row.expires_at <= now):
        return None
    return "done" if state == "done" else "failed"


def shown(row: ClaimRow, state: ClaimState, now: float) -> Claim:
    """A row as its readers see it."""
    left_s = row.lease_until - now if state in ("in_flight", "granted") else 0.0
    result = None if state == "mismatch" else row.result
    return Claim(
        state, row.fence, bool(row.taken_over), result, left_s, row.began_at, row.owner, row.key, row.tool, row.tenant
    )


def refused(row: ClaimRow, ask: ClaimAsk, now: float) -> Claim | None:
    """Why an ask is not granted, by the row that is there; None when it is to be granted."""
    state = standing(row, now)
    if state is None:
        return None
    if ask.fingerprint is not None and row.fingerprint is not None and ask.fingerprint != row.fingerprint:
        return shown(row, "mismatch", now)
    if (state == "unknown" and ask.take_over) or (state == "failed" and ask.rerun_failed):
        return None
    return shown(row, state, now)


def granted(row: ClaimRow | None, ask: ClaimAsk, fence: int, now: float, wall: float) -> ClaimRow:
    """The row of a claim that is granted. now and wall differ where leases run by a monotonic clock."""
    key, fingerprint, owner, lease_s, _, _, _, tool, tenant = ask
    taken_over = row is not None and standing(row, now) == "unknown"
    if taken_over and fingerprint is None and row is not None:
        fingerprint = row.fingerprint
    return ClaimRow(
        key, fingerprint, "claimed", fence, owner, tool, tenant, taken_over, now + lease_s, wall, None, None
    )


def settles(
    had_fence: int, had_state: str, had_result: Any, fence: int, state: str, result: bytes | None
) -> bool | None:
    """Whether a finish is to be written: None for yes; else its answer, True when it was written before."""
    if had_fence != fence:
        return False
    if had_state == "claimed" or (had_state == "unknown" and state != "unknown"):
        return None
    return had_state == state and had_result == result


def place_of(finish: Finish, cancelled: bool) -> TaskState:
    """The state that a finish leaves: what was cancelled meanwhile is not tried again, and what is due is queued."""
    if finish.state not in PLACES:
        raise InputValidationError(f"a task cannot end as {finish.state!r}; it ends as one of {', '.join(PLACES)}")
    if finish.state in ("waiting", "queued"):
        if cancelled:
            return "cancelled"
        return finish.state if finish.due_in_s > 0 else "queued"
    return finish.state


def repeated(finish: Finish, fence: int, state: str, status: str | None, value: Any, blob: Any, report: Any) -> bool:
    """Whether a finish that changes nothing is one that was written before (its answer was lost, perhaps)."""
    if fence != finish.fence:
        return False
    if finish.state in ("waiting", "queued") and state in ("waiting", "queued"):
        return True
    same = state == finish.state or (finish.state in ("waiting", "queued") and state == "cancelled")
    return same and (state, value, blob, report) == (status, finish.value, finish.blob, finish.report)


def recorded(finish: Finish) -> None:
    """Refuse to record a task that is not over."""
    if finish.state not in TERMINAL:
        raise InputValidationError(
            f"a task is recorded once it is over, as one of {', '.join(sorted(TERMINAL))}, got {finish.state!r}"
        )


def farewell(task_id: str, tool: str, state: str, reply_to: str | None) -> Outgoing | None:
    """What tells of a task that the store itself ended; None where nobody is to be told.

    Whoever sends makes of it what the asker is told. Its body is JSON: task_id, tool, and status, how it ended.
    """
    if reply_to is None:
        return None
    return Outgoing(FAREWELL, reply_to, task_id, orjson.dumps({"task_id": task_id, "tool": tool, "status": state}))


def checked(**texts: str | None) -> None:
    """Refuse texts that a database cannot keep: with NUL or half a surrogate pair."""
    for name, text in texts.items():
        if text is not None and ("\0" in text or not (text.isascii() or _encodes(text))):
            raise InputValidationError(f"{name} must be text without NUL and lone surrogates, got {text[:80]!r}")


def checked_document(document: Document) -> None:
    """Refuse a document that a database cannot keep."""
    checked(
        kind=document.kind,
        key=document.key,
        tenant=document.tenant,
        user_id=document.user_id,
        state=document.state,
    )


def legible(text: str | None) -> str | None:
    """A text for people in a form that every database keeps."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
