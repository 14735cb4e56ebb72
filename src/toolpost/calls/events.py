"""What is told about a call while and after it runs. Observers receive these; they can never change a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolpost.calls.errors import ToolExecutionError


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A call was taken up. at is wall time in seconds."""

    call_id: str
    tool: str
    version: str
    at: float
    user_id: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """One attempt of the body failed; attempt counts from 1."""

    call_id: str
    tool: str
    attempt: int
    error: ToolExecutionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """The body told how far it is: value of total (None when unknown), and a sentence."""

    call_id: str
    tool: str
    value: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The body wrote a log line; level is a name of the logging module."""

    call_id: str
    tool: str
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """A call ended. status is ok, rejected or failed; elapsed_s counts from arrival; error is None when ok."""

    call_id: str
    tool: str
    version: str
    status: str
    elapsed_s: float
    source: str = "run"
    attempts: int = 0
    error: ToolExecutionError | None = None
    user_id: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalChanged:
    """A person was asked to approve a call, decided, or a grant was used. at is wall time in seconds.

    what is asked, approved, denied, edited, reserved, consumed or given back; by, who decided; call_id, which call
    asked or used it.
    """

    approval_id: str
    tool: str
    version: str
    what: str
    at: float
    by: str | None = None
    reason: str | None = None
    call_id: str = ""
    user_id: str | None = None
    tenant: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """The body said that the caller's connection need not be held: whoever can come back for the result."""

    call_id: str
    tool: str


Event = CallStarted | AttemptFailed | Progressed | Logged | Detached | CallFinished | ApprovalChanged
Observer = Callable[[Event], None]
