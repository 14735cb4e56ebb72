"""Keys of the cache: by whom and with what a tool is called, in this process and in a store that many share."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Callable, Hashable
from typing import Any

import orjson

from toolpost.calls.definition import ToolDefinition
from toolpost.pipeline.invocation import Invocation

OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_TAG = secrets.token_hex(8)
_SHARED_TAG = b"\x00python\x00"  # JSON text holds no raw NUL, so that nothing else can look like it
SHARED = "cache:"
"""What the keys of shared entries begin with."""


def prefix_of(tool: ToolDefinition) -> str:
    """What a tool's keys begin with in this process."""
    return f"{tool.name}@{tool.version}:{tool.digest}:{tool.serial}"


def arguments_of(inv: Invocation) -> bytes | None:
    """Arguments in their one form; None where they have none: not JSON, NaN, a number too large."""
    try:
        arguments = orjson.dumps(inv.arguments, tagged, OPTIONS)
    except (TypeError, ValueError):
        return None
    return None if arguments.find(b"null") >= 0 and has_nan(inv.arguments) else arguments


def shared_key(tool: ToolDefinition, per: str) -> Callable[[Invocation, bytes], str] | None:
    """Makes keys that mean the same in every process; None for a tool whose results mean something only in this one.

    They are digests of parts that each begin with their length, so that no two lists of parts look the same.
    """
    if tool.identity is None:
        return None
    scope_of, start = SCOPES[per], f"{SHARED}{tool.name}:"
    fixed = digest_of(tool.name, tool.version, tool.digest, tool.identity, per)
    tag = _TAG.encode()

    def key(inv: Invocation, arguments: bytes) -> str:
        scope = scope_of(inv)
        parts = scope if isinstance(scope, tuple) else (scope,)
        return start + digest_of(fixed, *parts, arguments.replace(tag, _SHARED_TAG))

    return key


def digest_of(*parts: str | bytes | None) -> str:
    """A digest in which None, "" and every way to cut text into parts differ."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            digest.update(b"-")
            continue
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def _of_task(inv: Invocation) -> Hashable:
    caller = inv.caller
    return (caller.tenant, caller.user_id, inv.task_id)


SCOPES: dict[str, Callable[[Invocation], Any]] = {
    "task": _of_task,
    "user": lambda inv: (inv.caller.tenant, inv.caller.user_id),
    "tenant": lambda inv: inv.caller.tenant,
    "global": lambda inv: None,
}


def tagged(value: Any) -> Any:
    """A date or time in a form that no text or list can have: the key must not take one for the other."""
    if isinstance(value, (datetime.date, datetime.time)):
        return {_TAG: [type(value).__name__, value.isoformat()]}
    raise TypeError(f"{type(value).__name__} has no canonical form")


def has_nan(value: Any) -> bool:
    """Whether a float without JSON form is in it: orjson writes those as null, which must not be taken for None."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, dict):
        return any(has_nan(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(has_nan(v) for v in value)
