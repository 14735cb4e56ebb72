"""Tasks: accepted calls as rows, from the one who submits them to the one who reads how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolpost.stores.claims import Outgoing

TaskState = Literal["queued", "running", "waiting", "succeeded", "failed", "rejected", "cancelled", "dead"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "rejected", "cancelled", "dead"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One accepted call as a row. arguments are JSON bytes, or blob the digest of such.

    priority: higher first. due_in_s: not before. src: topic, partition, offset it came from, if from a queue.
    """

    task_id: str
    tool: str
    arguments: bytes = b"{}"
    blob: str | None = None
    version: str | None = None
    tenant: str = ""
    user_id: str | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    order_key: str | None = None
    priority: int = 0
    max_attempts: int = 1
    due_in_s: float = 0.0
    deadline_in_s: float | None = None
    src: tuple[str, int, int] | None = None
    reply_to: str | None = None
    trace: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A task that was claimed: run it under this fence. attempt counts from 1; lost: holders that vanished before."""

    task: Task
    fence: int
    attempt: int
    lost: int = 0
    age_s: float = 0.0
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How an attempt ended. state: a terminal one, or waiting (again in due_in_s), or queued (given back).

    value is JSON bytes, or blob a digest. report is bytes of the worker's own making that say more of a terminal end
    (failure, usage, artifacts, explanation); it comes back in TaskRow. claim (key, fence, claim state, seconds to keep
    it) settles an idempotency claim in the same transaction; outbox leaves with it.
    """

    task_id: str
    fence: int
    state: TaskState
    value: bytes | None = None
    blob: str | None = None
    error_code: str | None = None
    error: str | None = None
    outcome: str = "ok"
    source: str = "run"
    elapsed_ms: float = 0.0
    due_in_s: float = 0.0
    usage: bytes | None = None
    report: bytes | None = None
    claim: tuple[str, int, Literal["done", "failed", "unknown"], float] | None = None
    outbox: tuple[Outgoing, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task as people see it. Times are wall time of the store in seconds.

    arguments and extra are what the task was submitted with; a list of tasks leaves arguments out (b"").
    """

    task_id: str
    tool: str
    tenant: str
    state: TaskState
    attempt: int
    max_attempts: int
    fence: int
    owner: str | None
    created_at: float
    updated_at: float
    due_at: float | None
    status: str | None = None
    value: bytes | None = None
    blob: str | None = None
    error_code: str | None = None
    error: str | None = None
    source: str | None = None
    elapsed_ms: float | None = None
    finished_at: float | None = None
    report: bytes | None = None
    arguments: bytes = b""
    arguments_blob: str | None = None
    version: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    deadline_at: float | None = None
    cancel_at: float | None = None
    started_at: float | None = None
    reply_to: str | None = None
    trace: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
