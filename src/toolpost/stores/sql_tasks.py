"""What both SQL stores share about tasks: statement texts, and rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple

import orjson

from toolpost.stores import TERMINAL, Finish, Task, TaskRow, Work
from toolpost.stores.standing import OPEN, checked, legible, recorded


def listed(states: Sequence[str]) -> str:
    """States as SQL: 'queued', 'running'."""
    return ", ".join(f"'{state}'" for state in states)


OPEN_STATES = listed(OPEN)
TERMINAL_STATES = listed(sorted(TERMINAL))
UNWELL_STATES = listed(sorted(TERMINAL - {"succeeded"}))

_TASK_FIELDS = {
    "task_id": "t.task_id",
    "tool": "t.tool",
    "tenant": "t.tenant",
    "state": "t.state",
    "attempt": "t.attempt",
    "max_attempts": "t.max_attempts",
    "fence": "t.fence",
    "owner": "t.owner",
    "created_at": "t.created_at",
    "updated_at": "coalesce(t.updated_at, t.created_at)",
    "due_at": "t.due_at",
    "status": "r.status",
    "value": "r.value",
    "blob": "r.blob",
    "error_code": "r.error_code",
    "error": "r.error",
    "source": "r.source",
    "elapsed_ms": "r.elapsed_ms",
    "finished_at": "r.finished_at",
    "report": "r.report",
    "arguments": "t.arguments",
    "arguments_blob": "t.blob",
    "version": "t.version",
    "user_id": "t.user_id",
    "session_id": "t.session_id",
    "idempotency_key": "t.idempotency_key",
    "priority": "t.priority",
    "deadline_at": "t.deadline_at",
    "cancel_at": "t.cancel_at",
    "started_at": "t.started_at",
    "reply_to": "t.reply_to",
    "trace": "t.trace",
    "extra": "t.extra",
}
_FROM = "from toolpost_tasks t left join toolpost_results r on r.task_id = t.task_id"
TASK_ROWS = f"select {', '.join(_TASK_FIELDS.values())} {_FROM}"
_LISTED = {**_TASK_FIELDS, "arguments": "null"}
TASK_LIST = f"select {', '.join(_LISTED.values())} {_FROM}"
"""TASK_ROWS without arguments."""

RESULT_COLUMNS = (
    "task_id", "fence", "status", "value", "blob", "error_code", "error", "source", "elapsed_ms", "report",
    "finished_at",
)  # fmt: skip


class Wanted(NamedTuple):
    """Which tasks a list has; None wants any."""

    state: tuple[str, ...] | None
    tool: str | None
    tenant: str | None
    user_id: str | None
    session_id: str | None
    since: float | None
    until: float | None
    after: str | None
    limit: int

    def where(self, mark: str) -> tuple[str, list[Any]]:
        """The condition with its marks, and what they stand for."""
        terms = [] if self.state is None else [among_states(self.state)]
        if self.user_id == "":
            terms.append("(t.user_id is null or t.user_id = '')")
        asked = {
            f"t.tool = {mark}": self.tool,
            f"t.tenant = {mark}": self.tenant,
            f"t.user_id = {mark}": self.user_id or None,
            f"t.session_id = {mark}": self.session_id,
            f"t.created_at >= {mark}": self.since,
            f"t.created_at < {mark}": self.until,
            f"t.task_id < {mark}": self.after,
        }
        given = {term: value for term, value in asked.items() if value is not None}
        terms += given
        return (f"where {' and '.join(terms)}" if terms else ""), list(given.values())


_OPEN_ONES = {
    "queued": (
        "state = 'queued' and due_at is null",
        "due_at is not null and state in ('queued', 'waiting') and state = 'queued'",
    ),
    "waiting": ("due_at is not null and state in ('queued', 'waiting') and state = 'waiting'",),
    "running": ("state = 'running'",),
}
"""How the indexes of those who take tasks have them."""


def among_states(states: Sequence[str]) -> str:
    """The condition of being in one of these states, in the words of the indexes that have them."""
    known = [state for state in (*OPEN, *sorted(TERMINAL)) if state in states]
    if not known:
        return "1 = 0"
    if all(state in _OPEN_ONES for state in known):
        parts = [f"select seq from toolpost_tasks where {part}" for state in known for part in _OPEN_ONES[state]]
        return f"t.seq in ({' union all '.join(parts)})"
    term = f"t.state in ({listed(known)})"
    return term if {"succeeded", *OPEN} & set(known) else f"{term} and t.state in ({UNWELL_STATES})"


def count_text(states: Sequence[str]) -> str:
    """The statement that counts tasks by state; a state may have several rows. Those that are open are never visited.

    Doors ask for that again and again, and where many wait a look at each of them takes far longer.
    """
    known = [state for state in OPEN if state in states]
    parts = [
        f"select '{state}' as state, count(*) from toolpost_tasks where {part}"
        for state in known
        for part in _OPEN_ONES[state]
    ]
    over = [state for state in states if state not in OPEN]
    if over or not parts:
        parts.append(f"select t.state, count(*) from toolpost_tasks t where {among_states(over)} group by t.state")
    return " union all ".join(parts)


def counted(states: Sequence[str], rows: Sequence[tuple[str, int]]) -> dict[str, int]:
    """What count_text gave, by state."""
    counts = dict.fromkeys(states, 0)
    for state, number in rows:
        counts[state] += number
    return counts


CROWD = f"""
    select t.tenant, coalesce(t.user_id, '') as who, count(*) as many from toolpost_tasks t
    where {among_states(("queued", "waiting"))} group by 1, 2 order by many desc, 1, 2 limit
"""
"""Whose tasks are queued or waiting."""


def states_of(state: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One state or several as several."""
    return (state,) if isinstance(state, str) else None if state is None else tuple(state)


COPIED = (
    "tool, arguments, blob, version, tenant, user_id, session_id, idempotency_key, order_key, priority, "
    "max_attempts, reply_to, trace, extra"
)
"""What a redriven task takes over from the dead one."""

WORK_COLUMNS = """
    t.task_id, t.tool, t.arguments, t.blob, t.version, t.tenant, t.user_id, t.session_id, t.idempotency_key,
    t.order_key, t.priority, t.max_attempts, t.deadline_at, t.src_topic, t.src_partition, t.src_offset, t.reply_to,
    t.trace, t.extra, t.fence, t.attempt, t.lost, t.created_at, t.cancel_at
"""

IN_TURN = f"""
    (t.order_key is null or not exists (
        select 1 from toolpost_tasks o
        where o.order_key = t.order_key and o.state in ({OPEN_STATES}) and o.seq <> t.seq
            and (o.seq < t.seq or o.state = 'running')))
"""
"""Whether it is a task's turn: none of its order_key is older and not over, or running."""

TASK_TYPES = {
    "task_id": "text",
    "tool": "text",
    "arguments": "bytea",
    "blob": "text",
    "version": "text",
    "tenant": "text",
    "user_id": "text",
    "session_id": "text",
    "idempotency_key": "text",
    "order_key": "text",
    "priority": "bigint",
    "max_attempts": "bigint",
    "due_at": "double precision",
    "deadline_at": "double precision",
    "src_topic": "text",
    "src_partition": "bigint",
    "src_offset": "bigint",
    "reply_to": "text",
    "trace": "text",
    "extra": "text",
    "state": "text",
    "attempt": "bigint",
    "created_at": "double precision",
    "started_at": "double precision",
}
"""The columns that a new task may fill; the last ones only when it is recorded."""

_PLAIN = ("task_id", "tool", "arguments")


def columns_of(task: Task, now: float) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The columns that differ from their defaults, and their values.

    Most tasks fill few columns, and what is not bound costs nothing: binding all of them halves the rate of inserts.
    due_at and deadline_at are now plus what the task says; a store with its own clock passes 0 and adds that itself.
    """
    task_id, tool = task.task_id, task.tool
    if "\0" in task_id or "\0" in tool:
        checked(task_id=task_id, tool=tool)
    if _rare(task) == _NOTHING_RARE:
        return _PLAIN, (task_id, tool, task.arguments)
    names = list(_PLAIN)
    values: list[Any] = [task_id, tool, task.arguments]
    for name in _RARE_TEXTS:
        text = getattr(task, name)
        if text:
            if "\0" in text:
                checked(**{name: text})
            names.append(name)
            values.append(text)
        elif text is not None and name != "tenant":
            names.append(name)
            values.append(text)
    if task.priority:
        names.append("priority")
        values.append(task.priority)
    if task.max_attempts != 1:
        names.append("max_attempts")
        values.append(task.max_attempts)
    if task.due_in_s > 0:
        names.append("due_at")
        values.append(now + task.due_in_s)
    if task.deadline_in_s is not None:
        names.append("deadline_at")
        values.append(now + task.deadline_in_s)
    if task.src is not None:
        checked(src=task.src[0])
        names += ("src_topic", "src_partition", "src_offset")
        values += task.src
    if task.extra:
        names.append("extra")
        values.append(orjson.dumps(dict(task.extra)).decode())
    return tuple(names), tuple(values)


_RARE_TEXTS = (
    "blob",
    "version",
    "tenant",
    "user_id",
    "session_id",
    "idempotency_key",
    "order_key",
    "reply_to",
    "trace",
)
_RARE = (*_RARE_TEXTS, "priority", "max_attempts", "due_in_s", "deadline_in_s", "src", "extra")
_rare = attrgetter(*_RARE)
_NOTHING_RARE = _rare(Task(task_id="", tool=""))


def work_of(row: Sequence[Any], now: float) -> Work:
    """A row of WORK_COLUMNS."""
    (task_id, tool, arguments, blob, version, tenant, user_id, session_id, idempotency_key, order_key, priority) = row[
        :11
    ]
    max_attempts, deadline_at, src_topic, src_partition, src_offset, reply_to, trace, extra = row[11:19]
    fence, attempt, lost, created_at, cancel_at = row[19:24]
    task = Task(
        task_id=task_id,
        tool=tool,
        arguments=bytes(arguments),
        blob=blob,
        version=version,
        tenant=tenant,
        user_id=user_id,
        session_id=session_id,
        idempotency_key=idempotency_key,
        order_key=order_key,
        priority=priority,
        max_attempts=max_attempts,
        deadline_in_s=None if deadline_at is None else deadline_at - now,
        src=None if src_topic is None else (src_topic, src_partition, src_offset),
        reply_to=reply_to,
        trace=trace,
        extra={} if extra is None else orjson.loads(extra),
    )
    return Work(
        task=task,
        fence=fence,
        attempt=attempt,
        lost=lost,
        age_s=max(0.0, now - created_at),
        cancel=cancel_at is not None,
    )


def task_row(row: Sequence[Any]) -> TaskRow:
    """A row of TASK_ROWS, or of TASK_LIST."""
    fields = dict(zip(_TASK_FIELDS, row, strict=True))
    fields["arguments"] = fields["arguments"] or b""
    fields["extra"] = {} if fields["extra"] is None else orjson.loads(fields["extra"])
    return TaskRow(**fields)


def recorded_columns(task: Task, finish: Finish, now: float) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """columns_of a task that was run without a queue."""
    recorded(finish)
    names, values = columns_of(replace(task, due_in_s=0.0) if task.due_in_s else task, now)
    began = now - max(0.0, finish.elapsed_ms) / 1000.0
    return (*names, "state", "attempt", "created_at", "started_at"), (*values, finish.state, 1, began, began)


def result_values(task_id: str, finish: Finish, status: str, fence: int) -> tuple[Any, ...]:
    """A result as values of RESULT_COLUMNS, but for the moment."""
    code, error, source = legible(finish.error_code), legible(finish.error), legible(finish.source)
    elapsed_ms = float(finish.elapsed_ms)
    return (task_id, fence, status, finish.value, finish.blob, code, error, source, elapsed_ms, finish.report)
