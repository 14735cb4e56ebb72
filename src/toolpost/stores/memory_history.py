"""What Records in memory show of tasks: a task with how it stands, as a row, and whether a list has it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from toolpost.stores import Finish, Task, TaskRow, TaskState


@dataclass(slots=True)
class Entry:
    """A task with how it stands. due_at, lease_until, deadline_at and born_at are monotonic."""

    task: Task
    seq: int
    created_at: float
    updated_at: float
    born_at: float
    due_at: float | None
    deadline_at: float | None
    state: TaskState = "queued"
    fence: int = 0
    attempt: int = 0
    lost: int = 0
    owner: str | None = None
    lease_until: float = 0.0
    started_at: float | None = None
    cancel_at: float | None = None
    result: Finish | None = None
    finished_at: float | None = None

    def wall(self, moment: float | None) -> float | None:
        """A monotonic moment as wall time."""
        return None if moment is None else self.created_at + moment - self.born_at

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_at is not None and self.deadline_at <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tasks a list has; None wants any."""

    states: Collection[str] | None
    tool: str | None
    tenant: str | None
    user_id: str | None
    session_id: str | None
    since: float | None
    until: float | None
    after: str | None

    def has(self, entry: Entry) -> bool:
        """Whether the list has this one."""
        task = entry.task
        return (
            (self.after is None or task.task_id < self.after)
            and (self.states is None or entry.state in self.states)
            and (self.tool is None or task.tool == self.tool)
            and (self.tenant is None or task.tenant == self.tenant)
            and (self.user_id is None or (task.user_id or "") == self.user_id)
            and (self.session_id is None or task.session_id == self.session_id)
            and (self.since is None or entry.created_at >= self.since)
            and (self.until is None or entry.created_at < self.until)
        )


def row_of(entry: Entry) -> TaskRow:
    """A task as people see it."""
    task, result = entry.task, entry.result
    row = TaskRow(
        task_id=task.task_id,
        tool=task.tool,
        tenant=task.tenant,
        state=entry.state,
        attempt=entry.attempt,
        max_attempts=task.max_attempts,
        fence=entry.fence,
        owner=entry.owner,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        due_at=entry.wall(entry.due_at),
        arguments=task.arguments,
        arguments_blob=task.blob,
        version=task.version,
        user_id=task.user_id,
        session_id=task.session_id,
        idempotency_key=task.idempotency_key,
        priority=task.priority,
        deadline_at=entry.wall(entry.deadline_at),
        cancel_at=entry.cancel_at,
        started_at=entry.started_at,
        reply_to=task.reply_to,
        trace=task.trace,
        extra=dict(task.extra),
    )
    if result is None:
        return row
    return replace(
        row,
        status=result.state,
        value=result.value,
        blob=result.blob,
        error_code=result.error_code,
        error=result.error,
        source=result.source,
        elapsed_ms=result.elapsed_ms,
        report=result.report,
        finished_at=entry.finished_at,
    )
