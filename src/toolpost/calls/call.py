"""What is asked, by whom and until when."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def new_id() -> str:
    """A time-ordered unique id: a UUID of version 7 (RFC 9562, section 5.7)."""
    ms = time.time_ns() // 1_000_000
    rand = int.from_bytes(os.urandom(10), "big")
    n = (ms << 80) | (0x7 << 76) | ((rand >> 68) << 64) | (0x2 << 62) | (rand & 0x3FFFFFFFFFFFFFFF)
    h = f"{n:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


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
