"""What rows of the audit log say: who asked for what, when, and how it ended; canonical JSON, and no secrets.

Each row has v (the version of this form), kind, at (UTC, RFC 3339 with milliseconds), by and n (who wrote it, and its
number there), and k (the key its link is made with) where there is one. A start and a finish belong together by call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from typing import Any, Final, Literal, NamedTuple

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import Rejected, ToolExecutionError
from toolpost.calls.events import CallFinished
from toolpost.calls.redaction import Redactor, scrub, scrub_message
from toolpost.calls.secret_names import HIDDEN, could_be_secret, secret_name

VERSION: Final = 1
Values = Literal["names", "digests", "redacted"]

MAX_ARGUMENTS: Final = 100
MAX_NAME: Final = 128
MAX_TEXT: Final = 200
MAX_SHOWN: Final = 8192
"""Characters of all values of a row together, in mode redacted."""
MAX_DEPTH: Final = 6
MAX_ITEMS: Final = 50
MAX_SCOPES: Final = 256

STAGES: Final[Mapping[str, str]] = {
    "unknown_tool": "look-up",
    "invalid_input": "validate",
    "screened": "screen",
    "unauthenticated": "authorize",
    "denied": "authorize",
    "authorizer_failed": "authorize",
    "authorization_required": "grant",
    "approval_required": "approve",
    "approval_denied": "approve",
    "definition_drift": "pins",
    "audit_unavailable": "audit",
    "rate_limited": "limit",
    "concurrency_limited": "limit",
    "in_progress": "once",
    "key_mismatch": "once",
    "outcome_unknown": "once",
    "already_done": "once",
    "circuit_open": "breaker",
    "secret_unavailable": "reveal",
    "timeout": "deadline",
    "cancelled": "caller",
}
"""Code of an error -> what refused the call, where the body did not run."""

TOLD: Final = ("rule", "approval_id", "engine", "provider", "host")
"""Of an error's details, what a row says: by which rule, approval, policy engine, provider or host it was decided."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_ROW: Final = orjson.OPT_SORT_KEYS


class Face(NamedTuple):
    """What rows say of a tool, and which of its parameters are marked as secrets."""

    tool: str
    version: str
    definition: str
    marked: frozenset[str] = frozenset()


@lru_cache(maxsize=1)
def program_version() -> str:
    """Which toolpost writes; "" where it is not installed."""
    try:
        return metadata.version("toolpost")
    except metadata.PackageNotFoundError:
        return ""


def instant(now: float) -> str:
    """Wall time as people and programs read it: 2026-11-26T20:15:00.123Z."""
    ms = int(now * 1000.0)
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def canonical(row: Mapping[str, Any]) -> bytes:
    """A row as bytes: keys in order, no spaces. Texts that are no Unicode are mended."""
    try:
        return orjson.dumps(row, option=_ROW)
    except TypeError:
        return orjson.dumps(_mended(row), option=_ROW)


def started(
    now: float,
    call_id: str,
    face: Face,
    caller: Caller,
    task_id: str | None,
    arguments: Any,
    redactor: Redactor,
) -> dict[str, Any]:
    """The row of a call that was taken up; arguments as Arguments.told() gives them."""
    row: dict[str, Any] = {
        "kind": "start",
        "at": instant(now),
        "call": _cut(str(call_id), redactor),
        "tool": face.tool,
        "version": face.version,
        "definition": face.definition,
        "arguments": arguments,
    }
    _add_caller(row, caller.user_id, caller.tenant, caller.session_id, task_id, redactor)
    if caller.scopes:
        row["scopes"] = _names(caller.scopes)
    if caller.roles:
        row["roles"] = _names(caller.roles)
    return row


def finished(now: float, event: CallFinished, redactor: Redactor) -> dict[str, Any]:
    """The row of how a call ended."""
    row: dict[str, Any] = {
        "kind": "finish",
        "at": instant(now),
        "call": _cut(str(event.call_id), redactor),
        "tool": event.tool,
        "version": event.version,
        "status": event.status,
        "attempts": event.attempts,
        "source": event.source,
        "ms": round(event.elapsed_s * 1000.0, 3),
    }
    _add_caller(row, event.user_id, event.tenant, event.session_id, event.task_id, redactor)
    _add_decision(row, event.error, redactor)
    return row


def refused(
    now: float,
    call_id: str,
    tool: str,
    error: ToolExecutionError,
    caller: Caller,
    task_id: str | None,
    redactor: Redactor,
) -> dict[str, Any]:
    """The row of a call that came to no tool; it has no start."""
    row: dict[str, Any] = {
        "kind": "refused",
        "at": instant(now),
        "call": _cut(call_id, redactor),
        "tool": _safe(tool, MAX_NAME, redactor),
        "status": "rejected" if isinstance(error, Rejected) else "failed",
    }
    _add_caller(row, caller.user_id, caller.tenant, caller.session_id, task_id, redactor)
    _add_decision(row, error, redactor)
    return row


def _add_caller(
    row: dict[str, Any],
    user_id: str | None,
    tenant: str | None,
    session_id: str | None,
    task_id: str | None,
    redactor: Redactor,
) -> None:
    if user_id is not None:
        row["user"] = _cut(str(user_id), redactor)
    if tenant is not None:
        row["tenant"] = _cut(str(tenant), redactor)
    if session_id is not None:
        row["session"] = _cut(str(session_id), redactor)
    if task_id is not None:
        row["task"] = _cut(str(task_id), redactor)


def _add_decision(row: dict[str, Any], error: ToolExecutionError | None, redactor: Redactor) -> None:
    if error is None:
        row["decision"], row["outcome"] = "allowed", "ran"
        return
    row["code"], row["outcome"] = error.code, error.outcome
    if isinstance(error, Rejected) or error.outcome == "not_run":
        row["decision"] = "refused"
        row["stage"] = STAGES.get(error.code, "engine")
    else:
        row["decision"] = "allowed"
    for name in TOLD:
        value = error.details.get(name)
        if isinstance(value, str) and value:
            row[name] = _safe(value, MAX_TEXT, redactor)


@lru_cache(maxsize=1024)
def _names(names: frozenset[str]) -> list[str] | str:
    """Scopes or roles in order; of many, a digest of them."""
    listed = sorted(scrub(str(name)) for name in names)
    text = " ".join(listed)
    if len(text) <= MAX_SCOPES:
        return listed
    return f"{len(listed)} in sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


class Arguments:
    """How rows tell of arguments: by their names, by digests besides, or by redacted values.

    Digests are keyed (BLAKE2b, 16 bytes): nobody without the key can try values, as one could with a plain hash of a
    small number or a name. Arguments under a secret's name are hidden in every mode.
    """

    def __init__(self, mode: Values, key: bytes, redactor: Redactor) -> None:
        self._mode, self._key, self._redactor = mode, key, redactor

    def told(self, arguments: Mapping[Any, Any], marked: frozenset[str]) -> Any:
        """What a row says of arguments: a list of names, or an object with a digest or a value for each."""
        if not arguments:
            return [] if self._mode == "names" else {}
        names = list(arguments)
        over = len(names) - MAX_ARGUMENTS
        if over > 0:
            names = names[:MAX_ARGUMENTS]
        if self._mode == "names":
            return [self._name(name) for name in names] + ([f"and {over} more"] if over > 0 else [])
        told: dict[str, Any] = {}
        show: Callable[[Any], Any] = self._digest if self._mode == "digests" else _Shown(self._redactor).show
        for name in names:
            value = arguments[name]
            hide = could_be_secret(value) and (name in marked or secret_name(str(name)))
            told[self._name(name)] = HIDDEN if hide else show(value)
        if over > 0:
            told["..."] = f"and {over} more"
        return told

    def _name(self, name: Any) -> str:
        text = str(name)
        if len(text) < 11 and text.isidentifier() and not self._redactor.active:
            return text
        return _safe(text, MAX_NAME, self._redactor)

    def _digest(self, value: Any) -> str:
        return "mac:" + hashlib.blake2b(_text_of(value), digest_size=16, key=self._key).hexdigest()


def _text_of(value: Any) -> bytes:
    """Bytes for a value, the same for equal JSON values."""
    try:
        return orjson.dumps(value, default=_kind_of, option=_OPTIONS)
    except (TypeError, RecursionError):  # half a surrogate pair, a large integer, a circle, or deeper than orjson goes
        try:
            return json.dumps(value, default=_kind_of, sort_keys=True).encode()
        except (TypeError, ValueError, RecursionError):
            return _kind_of(value).encode()


def _kind_of(value: Any) -> str:
    return f"<{type(value).__name__}>"


class _Shown:
    """Values of one row, cut to what a row may hold, without what looks like a secret or is known to be one."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._left = MAX_SHOWN

    def show(self, value: Any, depth: int = 0) -> Any:
        self._left -= 8
        if self._left <= 0:
            return "..."
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return value if -(2**53) < value < 2**53 else self._text(hex(value) if abs(value) > 2**4000 else str(value))
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if depth == MAX_DEPTH:
            return "..."
        if isinstance(value, Mapping):
            return self._object(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self.show(item, depth + 1) for item, _ in zip(value, range(MAX_ITEMS), strict=False)]
            return items + ([f"and {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else [])
        return _kind_of(value)

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        shown = {}
        for name, _ in zip(value, range(MAX_ITEMS), strict=False):
            item = value[name]
            hide = could_be_secret(item) and secret_name(str(name))
            shown[self._text(str(name))] = HIDDEN if hide else self.show(item, depth + 1)
        if len(value) > MAX_ITEMS:
            shown["..."] = f"and {len(value) - MAX_ITEMS} more"
        return shown

    def _text(self, text: str) -> str:
        # First more than is shown, so that a secret which begins in what is shown is whole, or known by its beginning.
        hidden = self._redactor.text(scrub_message(text[: 4 * MAX_TEXT]), cut=len(text) > 4 * MAX_TEXT)
        kept = hidden[:MAX_TEXT]
        self._left -= len(kept)
        return kept if kept == text else f"{kept}... ({len(text)} characters)" if len(text) > MAX_TEXT else kept


def _safe(text: str, most: int, redactor: Redactor) -> str:
    """A text of others, cut; what looks like a secret, or is known to be one, is hidden before that."""
    return _hidden(scrub_message(text[: 4 * most]), len(text) > 4 * most, redactor)[:most]


def _cut(text: str, redactor: Redactor) -> str:
    """An id, cut; without what looks like a key, as somebody may have one for an id."""
    if _HEX(text) is not None:
        return text
    if len(text) <= MAX_TEXT:
        return _scrubbed(text)
    return _hidden(scrub(text[: 4 * MAX_TEXT]), len(text) > 4 * MAX_TEXT, redactor)[:MAX_TEXT] + "..."


_HEX: Final = re.compile(r"[0-9a-f-]{1,64}").fullmatch
"""Ids of calls are such; none of them looks like a key."""
_scrubbed: Final = lru_cache(maxsize=1024)(scrub)


def _hidden(text: str, cut: bool, redactor: Redactor) -> str:
    return redactor.text(text, cut=cut) if redactor.active else text


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_mended(str(name)): _mended(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return _mended(str(value)[:MAX_TEXT])


def note_fields(fields: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Fields of an event that is no call, fit for a row."""
    shown = _Shown(redactor)
    return {
        name: HIDDEN if secret_name(name) and could_be_secret(value) else shown.show(value)
        for name, value in fields.items()
    }
