"""What is asked, by whom and until when."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def new_id() -> str:
    """A time-ordered unique id: a UUID of version 7 (RFC 9562, section 5.7)."""
    ms = f"{time.time_ns() // 1_000_000:012x}"
    try:
        rand = _random.pop()
    except IndexError:
        many = os.urandom(10 * _AT_ONCE).hex()
        _random.extend(many[at : at + 20] for at in range(20, 20 * _AT_ONCE, 20))
        rand = many[:20]
    return f"{ms[:8]}-{ms[8:]}-7{rand[:3]}-{_VARIANT[rand[3]]}{rand[4:7]}-{rand[7:19]}"


_AT_ONCE = 256
"""Random parts are asked of the system so many at once: a system call costs more than all the rest of an id."""
_random: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)  # or parent and child would give the same ids

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The first digit of the fourth group: two bits that say which layout it is, and two random ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. A door that authenticates makes it; in process it comes from code. scopes say what may be done."""

    user_id: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


ANONYMOUS = Caller()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One request to run a tool.

    arguments maps parameter names to JSON values as they came. timestamp is wall time in seconds.
    version asks for one version of the tool, None for the newest. deadline_s counts from arrival.
    strict says that the caller was shown a strict-mode schema, where null stands for an absent optional argument.
    malformed, set by a decoder, says why the arguments could not be read: the call then ends in InputValidationError.
    answers are those to the questions of an InputRequiredError, by their keys; None where nothing was asked.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]
    user_id: str | None = None
    session_id: str | None = None
    timestamp: float = field(default_factory=time.time)
    tenant: str | None = None
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    task_id: str | None = None
    version: str | None = None
    idempotency_key: str | None = None
    deadline_s: float | None = None
    trace: str | None = None
    reply_to: str | None = None
    strict: bool = False
    malformed: str | None = None
    answers: Mapping[str, Any] | None = None

    @property
    def caller(self) -> Caller:
        """The caller named by this call's own fields."""
        if self.user_id is None and self.tenant is None and self.session_id is None and not (self.scopes or self.roles):
            return ANONYMOUS
        return Caller(
            user_id=self.user_id,
            tenant=self.tenant,
            session_id=self.session_id,
            scopes=self.scopes,
            roles=self.roles,
        )


def create_tool_call(
    tool_name: str,
    arguments: Mapping[str, Any],
    call_id: str | None = None,
    user_id: str | None = None,
    **more: Any,
) -> ToolCall:
    """A ToolCall with a fresh id unless one is given; more takes any other field of ToolCall, scopes as a list too."""
    for name in more.keys() & {"scopes", "roles"}:
        if isinstance(more[name], (list, tuple, set)):
            more[name] = frozenset(more[name])
    return ToolCall(id=call_id or new_id(), name=tool_name, arguments=arguments, user_id=user_id, **more)
