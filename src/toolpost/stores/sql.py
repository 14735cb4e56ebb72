"""What both SQL stores share: the contract as operations of a batch, statement texts, and rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

import orjson

from toolpost.calls.clock import Clock
from toolpost.stores import (
    TERMINAL,
    Claim,
    ClaimAsk,
    Finish,
    Outgoing,
    Pending,
    Task,
    TaskRow,
    Work,
)
from toolpost.stores.sql_documents import SqlDocuments
from toolpost.stores.standing import CLAIM_COLUMNS, OPEN, checked


def listed(states: Sequence[str]) -> str:
    """States as SQL: 'queued', 'running'."""
    return ", ".join(f"'{state}'" for state in states)


OPEN_STATES = listed(OPEN)
TERMINAL_STATES = listed(sorted(TERMINAL))

CLAIM_ROWS = f"select {CLAIM_COLUMNS} from toolpost_claims"

TASK_ROWS = """
    select t.task_id, t.tool, t.tenant, t.state, t.attempt, t.max_attempts, t.fence, t.owner, t.created_at,
        coalesce(t.updated_at, t.created_at), t.due_at, r.status, r.value, r.blob, r.error_code, r.error, r.source,
        r.elapsed_ms, r.finished_at
    from toolpost_tasks t left join toolpost_results r on r.task_id = t.task_id
"""
_TASK_FIELDS = (
    "task_id tool tenant state attempt max_attempts fence owner created_at updated_at due_at "
    "status value blob error_code error source elapsed_ms finished_at"
).split()

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

LETTER_FIELDS = (
    "id task_id src_topic src_partition src_offset reason error payload tries first_at last_at redriven_at redriven_as"
).split()
LETTERS = f"select {', '.join(LETTER_FIELDS)} from toolpost_dead_letters"

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
}
"""The columns that a new task may fill."""

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
    """A row of TASK_ROWS."""
    return TaskRow(**dict(zip(_TASK_FIELDS, row, strict=True)))


def letter_of(row: Sequence[Any]) -> dict[str, Any]:
    """A row of LETTERS."""
    letter = dict(zip(LETTER_FIELDS, row, strict=True))
    src = (letter.pop("src_topic"), letter.pop("src_partition"), letter.pop("src_offset"))
    return letter | {"src": None if src[0] is None else src, "payload": bytes(letter["payload"])}


OUTGOING_COLUMNS = ("kind", "dest", "key", "body", "headers", "due_at", "created_at")


def outgoing_values(message: Outgoing, now: float) -> tuple[Any, ...]:
    """A message as values of OUTGOING_COLUMNS."""
    kind, dest, key, body, headers, due_in_s = message
    checked(kind=kind, dest=dest, key=key)
    text = orjson.dumps(dict(headers)).decode() if headers else None
    return (kind, dest, key, body, text, now + due_in_s, now)


def outgoing_of(row: Sequence[Any]) -> tuple[int, Outgoing, int]:
    """A row of id, kind, dest, key, body, headers, tries."""
    number, kind, dest, key, body, headers, tries = row
    return number, Outgoing(kind, dest, key, bytes(body), {} if headers is None else orjson.loads(headers)), tries


TIDY_S = 60.0
TIDY_ROWS = 1000
TIDIES = ("sweep_claims", "sweep_documents")


class SqlRecords(SqlDocuments):
    """The Records contract as operations of a Batcher: each is a tuple of its kind and what it was given.

    Operations that are asked for without waiting in between may be done in any order.
    """

    local = False
    durable = True
    url: str
    _clock: Clock
    _tidy_at: float

    def _tidy(self, swept: Sequence[Pending[Any]]) -> None:
        """Have what expired dropped now and then, so that a store which nobody sweeps does not grow for ever.

        swept: what the batch just done had of that. Where there may be more of them it goes on at once, a batch of
        others in between.
        """
        now = self._clock.monotonic()
        if any(pending.value == TIDY_ROWS for pending in swept):
            self._tidy_at = now
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            for kind in TIDIES:
                self._batcher.submit((kind, TIDY_ROWS))

    @property
    def batches(self) -> int:
        """How many batches there were: one round trip or commit each, however many callers shared it."""
        return self._batcher.batches

    def claim(self, ask: ClaimAsk, /) -> Pending[Claim]:
        return self._batcher.submit(("claim", ask))

    def renew(self, held: Sequence[tuple[str, int]], lease_s: float, /) -> Pending[list[bool]]:
        return self._batcher.submit(("renew", tuple(held), lease_s))

    def finish(
        self,
        key: str,
        fence: int,
        state: Literal["done", "failed", "unknown"],
        result: bytes | None,
        ttl_s: float,
        outbox: Sequence[Outgoing] = (),
        /,
    ) -> Pending[bool]:
        return self._batcher.submit(("finish", key, fence, state, result, ttl_s, tuple(outbox)))

    def release(self, key: str, fence: int, /) -> Pending[bool]:
        return self._batcher.submit(("release", key, fence))

    def lookup(self, key: str, /) -> Pending[Claim | None]:
        return self._batcher.submit(("lookup", key))

    def forget(self, key: str, /) -> Pending[bool]:
        return self._batcher.submit(("forget", key))

    def unsettled(self, limit: int = 100, /) -> Pending[list[Claim]]:
        return self._batcher.submit(("unsettled", limit))

    def submit(self, task: Task, /) -> Pending[bool]:
        return self._batcher.submit(("submit", task))

    def claim_tasks(
        self, owner: str, limit: int, lease_s: float, tools: Sequence[str] | None = None, /
    ) -> Pending[list[Work]]:
        return self._batcher.submit(("claim_tasks", owner, limit, lease_s, None if tools is None else list(tools)))

    def claim_task(self, task: Task, owner: str, lease_s: float, /) -> Pending[Work | TaskRow]:
        return self._batcher.submit(("claim_task", task, owner, lease_s))

    def renew_tasks(self, owner: str, held: Sequence[tuple[str, int]], lease_s: float, /) -> Pending[list[str]]:
        return self._batcher.submit(("renew_tasks", owner, tuple(held), lease_s))

    def finish_task(self, finish: Finish, /) -> Pending[bool]:
        return self._batcher.submit(("finish_task", finish))

    def cancel_task(self, task_id: str, /) -> Pending[str]:
        return self._batcher.submit(("cancel_task", task_id))

    def task(self, task_id: str, /) -> Pending[TaskRow | None]:
        return self._batcher.submit(("task", task_id))

    def tasks(
        self,
        *,
        state: str | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Pending[list[TaskRow]]:
        return self._batcher.submit(("tasks", state, tool, tenant, after, limit))

    def put_outbox(self, messages: Sequence[Outgoing], /) -> Pending[None]:
        return self._batcher.submit(("put_outbox", tuple(messages)))

    def take_outbox(
        self, limit: int, lease_s: float, kinds: Sequence[str] | None = None, /
    ) -> Pending[list[tuple[int, Outgoing, int]]]:
        return self._batcher.submit(("take_outbox", limit, lease_s, None if kinds is None else list(kinds)))

    def sent(self, ids: Sequence[int], /) -> Pending[None]:
        return self._batcher.submit(("sent", list(ids)))

    def defer_outbox(self, ids: Sequence[int], due_in_s: float, /) -> Pending[None]:
        return self._batcher.submit(("defer_outbox", list(ids), due_in_s))

    def bury(
        self,
        *,
        reason: str,
        payload: bytes,
        src: tuple[str, int, int] | None = None,
        task_id: str | None = None,
        error: str = "",
    ) -> Pending[int]:
        return self._batcher.submit(("bury", reason, payload, src, task_id, error))

    def dead(self, limit: int = 100, after: int | None = None, /) -> Pending[list[dict[str, Any]]]:
        return self._batcher.submit(("dead", limit, after))

    def redrive(self, letter_id: int, task_id: str, /) -> Pending[bool]:
        return self._batcher.submit(("redrive", letter_id, task_id))

    def sweep(self, limit: int = 1000, /) -> Pending[dict[str, int]]:
        return self._batcher.submit(("sweep", limit))

    def ping(self) -> Pending[None]:
        return self._batcher.submit(("ping",))
