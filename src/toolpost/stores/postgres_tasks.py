"""What PostgreSQL does for tasks, one function for each kind of operation of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from toolpost.stores import Finish, Pending, TaskRow, Work
from toolpost.stores.postgres_claims import dropped
from toolpost.stores.postgres_documents import dropped_documents
from toolpost.stores.postgres_mail import OUTBOX, OUTBOX_VALUES, message_values
from toolpost.stores.postgres_sql import NOW, Connection, Pendings, columns
from toolpost.stores.sql_tasks import (
    IN_TURN,
    TASK_ROWS,
    TASK_TYPES,
    TERMINAL_STATES,
    WORK_COLUMNS,
    columns_of,
    task_row,
    work_of,
)
from toolpost.stores.standing import MAX_LOST, checked, farewell, legible, place_of, repeated

_ABANDONED = f"(t.state = 'running' and t.lease_until <= {NOW} and t.lost < {MAX_LOST - 1})"
_READY = f"(t.state = 'queued' and t.due_at is null and {IN_TURN})"


def submit(connection: Connection, pendings: Pendings) -> None:
    shapes: dict[tuple[str, ...], list[tuple[Pending[Any], tuple[Any, ...]]]] = {}
    for pending in pendings:
        names, values = columns_of(pending.op[1], 0.0)
        shapes.setdefault(names, []).append((pending, values))
    for names, members in shapes.items():
        rows = connection.execute(_submit_text(names), columns([values for _, values in members], 0)).fetchall()
        written = {row[0] for row in rows}
        for pending, _ in members:  # of two with one id in a batch the first wrote it
            pending.value = pending.op[1].task_id in written
            written.discard(pending.op[1].task_id)


@lru_cache(maxsize=256)
def _submit_text(names: tuple[str, ...]) -> str:
    """Rows are numbered as they came, and inserted in the order of their ids, as everybody locks them."""
    arrays = ", ".join(f"%s::{TASK_TYPES[name]}[]" for name in names)
    values = ", ".join(f"{NOW} + {name}" if name in ("due_at", "deadline_at") else name for name in names)
    return f"""
        with rows as materialized (
            select nextval('toolpost_tasks_seq_seq') as seq, u.* from unnest({arrays}) as u ({", ".join(names)})
        )
        insert into toolpost_tasks (seq, {", ".join(names)}, created_at)
        select seq, {values}, {NOW} from rows order by task_id collate "C"
        on conflict do nothing returning task_id
    """


_PROMOTE = f"""
    with due as (
        select seq from toolpost_tasks where due_at is not null and due_at <= {NOW} and state in ('queued', 'waiting')
        limit 1000 for update skip locked
    )
    update toolpost_tasks t set state = 'queued', due_at = null from due d where t.seq = d.seq
"""
_LOST = f"""
    insert into toolpost_attempts (task_id, fence, n, owner, started_at, ended_at, outcome)
    select task_id, fence, attempt, owner, started_at, {NOW}, 'lost' from chosen where state = 'running'
    on conflict do nothing
"""
_TAKE = f"""
    lost as ({_LOST})
    update toolpost_tasks t set lost = t.lost + (c.state = 'running')::int, state = 'running', due_at = null,
        fence = t.fence + 1, attempt = t.attempt + 1, owner = %(owner)s, lease_until = {NOW} + %(lease_s)s,
        started_at = {NOW}, updated_at = {NOW}
    from chosen c where t.seq = c.seq returning t.priority, t.seq, {NOW}, {WORK_COLUMNS}
"""
_CHOSEN = "t.seq, t.priority, t.task_id, t.fence, t.attempt, t.owner, t.started_at, t.state"
_AMONG = f"(%(tools)s::text[] is null or t.tool in (select unnest(%(tools)s::text[])) or t.deadline_at <= {NOW})"
"""A subquery is hashed; an array is gone through for each task, and a process may well know hundreds of tools."""
_CLAIM_TASKS = f"""
    with abandoned as (
        select {_CHOSEN} from toolpost_tasks t where {_ABANDONED} and {_AMONG}
        order by t.priority desc, t.seq limit %(limit)s for update of t skip locked
    ), ready as (
        select {_CHOSEN} from toolpost_tasks t where {_READY} and {_AMONG}
        order by t.priority desc, t.seq limit %(limit)s for update of t skip locked
    ), chosen as materialized (
        select * from (select * from abandoned union all select * from ready) as found
        order by priority desc, seq limit %(limit)s
    ), {_TAKE}
"""


def claim_tasks(connection: Connection, pendings: Pendings) -> None:
    connection.execute(_PROMOTE)
    for pending in pendings:
        _, owner, limit, lease_s, tools = pending.op
        values = {"owner": owner, "limit": limit, "lease_s": float(lease_s), "tools": tools}
        rows = connection.execute(_CLAIM_TASKS, values).fetchall()
        rows.sort(key=lambda row: (-row[0], row[1]))
        pending.value = [work_of(row[3:], row[2]) for row in rows]


_CLAIM_TASK = f"""
    with chosen as materialized (
        select {_CHOSEN} from toolpost_tasks t where t.task_id = any(%(ids)s) and ({_READY} or {_ABANDONED})
        order by t.task_id for update of t
    ), {_TAKE}
"""


def claim_task(connection: Connection, pendings: Pendings) -> None:
    first: dict[tuple[str, float], dict[str, Pending[Any]]] = {}
    seen: set[str] = set()
    for pending in pendings:  # of two with one id in a batch the second meets the first
        _, task, owner, lease_s = pending.op
        if task.task_id not in seen:
            seen.add(task.task_id)
            first.setdefault((owner, float(lease_s)), {})[task.task_id] = pending
    taken: dict[str, Work] = {}
    with connection.transaction():
        _write(connection, pendings)
        connection.execute(_PROMOTE)
        for (owner, lease_s), group in first.items():
            values = {"owner": owner, "lease_s": lease_s, "ids": list(group)}
            for row in connection.execute(_CLAIM_TASK, values).fetchall():
                taken[row[3]] = work_of(row[3:], row[2])
        rest = [p.op[1].task_id for p in pendings if p.op[1].task_id not in taken or _first_of(first, p) is not p]
        rows = _task_rows(connection, rest) if rest else {}
    for pending in pendings:
        task_id = pending.op[1].task_id
        if task_id in taken and _first_of(first, pending) is pending:
            pending.value = taken[task_id]
        else:
            pending.value = rows[task_id]


def _first_of(first: dict[tuple[str, float], dict[str, Pending[Any]]], pending: Pending[Any]) -> Pending[Any] | None:
    _, task, owner, lease_s = pending.op
    return first.get((owner, float(lease_s)), {}).get(task.task_id)


def _write(connection: Connection, pendings: Pendings) -> None:
    shapes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for pending in pendings:
        names, values = columns_of(pending.op[1], 0.0)
        shapes.setdefault(names, []).append(values)
    for names in sorted(shapes):
        connection.execute(_submit_text(names), columns(shapes[names], 0))


def renew_tasks(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        with asked as (
            select * from unnest(%s::text[], %s::bigint[], %s::text[], %s::double precision[])
                as a (task_id, fence, owner, lease_s)
        ), held as (
            select t.task_id, a.lease_s from toolpost_tasks t
            join asked a on a.task_id = t.task_id and a.fence = t.fence and a.owner = t.owner
            where t.state = 'running' order by t.task_id for update of t
        )
        update toolpost_tasks t set lease_until = {NOW} + h.lease_s from held h where t.task_id = h.task_id
        returning t.task_id, t.fence, t.owner, t.cancel_at is not null
    """
    asked = [(task_id, fence, p.op[1], float(p.op[3])) for p in pendings for task_id, fence in p.op[2]]
    found = {row[:3]: row[3] for row in connection.execute(text, columns(asked, 4)).fetchall()}
    for pending in pendings:
        owner = pending.op[1]
        cancelled = [found.get((task_id, fence, owner)) for task_id, fence in pending.op[2]]
        pending.value = ["lost" if told is None else "cancel" if told else "held" for told in cancelled]


_FINISH = f"""
    with asked as (
        select * from unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::text[], %s::text[], %s::text[],
            %s::text[], %s::text[], %s::double precision[], %s::double precision[], %s::bytea[],
            %s::bytea[])
            as a (task_id, fence, state, value, blob, error_code, error, outcome, source, elapsed_ms, due_in_s, usage,
                report)
    ), held as materialized (
        select t.attempt, t.owner, t.started_at, t.src_topic, t.src_partition, t.src_offset, a.*,
            case when a.state not in ('queued', 'waiting') then a.state when t.cancel_at is not null then 'cancelled'
                when a.due_in_s > 0 then a.state else 'queued' end as place,
            case when a.state = 'dead' then t.arguments end as payload
        from toolpost_tasks t join asked a on a.task_id = t.task_id and a.fence = t.fence
        where t.state = 'running' order by t.task_id for update of t
    ), written as (
        update toolpost_tasks t set state = h.place, owner = null, lease_until = null, updated_at = {NOW},
            attempt = t.attempt - (h.state = 'queued')::int,
            due_at = case when h.place in ('queued', 'waiting') and h.due_in_s > 0 then {NOW} + h.due_in_s end
        from held h where t.task_id = h.task_id returning t.task_id
    ), results as (
        insert into toolpost_results
            (task_id, fence, status, value, blob, error_code, error, source, elapsed_ms, report, finished_at)
        select task_id, fence, place, value, blob, error_code, error, source, elapsed_ms, report, {NOW}
        from held where place in ({TERMINAL_STATES})
    ), attempts as (
        insert into toolpost_attempts
            (task_id, fence, n, owner, started_at, ended_at, outcome, error_code, usage)
        select task_id, fence, attempt, owner, started_at, {NOW}, outcome, error_code, usage from held
    ), buried as (
        insert into toolpost_dead_letters as d
            (task_id, src_topic, src_partition, src_offset, reason, error, payload, first_at, last_at)
        select task_id, src_topic, src_partition, src_offset, coalesce(error_code, outcome), coalesce(error, ''),
            payload, {NOW}, {NOW}
        from held where place = 'dead'
        on conflict (src_topic, src_partition, src_offset)
        do update set tries = d.tries + 1, last_at = excluded.last_at
    )
"""
_SETTLE = f"""
    , claims as materialized (
        select c.key, s.state, s.ttl_s, h.value
        from unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::double precision[])
            as s (task_id, key, fence, state, ttl_s)
        join held h on h.task_id = s.task_id
        join toolpost_claims c on c.key = s.key and c.fence = s.fence
        where c.state = 'claimed' or (c.state = 'unknown' and s.state <> 'unknown') order by c.key for update of c
    ), settled as (
        update toolpost_claims c set state = s.state, result = s.value,
            expires_at = case when s.state <> 'unknown' then {NOW} + s.ttl_s end
        from claims s where c.key = s.key
    )
"""
_TELL = f", told as (insert into {OUTBOX} select {OUTBOX_VALUES} join written w on w.task_id = o.belongs_to)"


def finish_task(connection: Connection, pendings: Pendings) -> None:
    waiting = pendings
    while waiting:  # of two for one task, an old holder's perhaps, each has its turn
        waiting = _write_ends(connection, waiting)
        if waiting:
            waiting = _answer_unwritten(connection, waiting)


def _write_ends(connection: Connection, pendings: Pendings) -> Pendings:
    """Write the first finish of each task in one statement; those that were not written."""
    first: dict[str, Finish] = {}
    for pending in pendings:
        finish = pending.op[1]
        place_of(finish, False)
        first.setdefault(finish.task_id, finish)
    text, values = _FINISH, columns([_finish_values(finish) for finish in first.values()], 13)
    claims = [(f.task_id, *f.claim[:3], float(f.claim[3])) for f in first.values() if f.claim is not None]
    told = [message_values(finish.task_id, message) for finish in first.values() for message in finish.outbox]
    if claims:
        text, values = text + _SETTLE, [*values, *columns(claims, 5)]
    if told:
        text, values = text + _TELL, [*values, *columns(told, 7)]
    rows = connection.execute(f"{text} select task_id from written", values).fetchall()
    written = {row[0] for row in rows}
    rest = []
    for pending in pendings:
        finish = pending.op[1]
        if finish.task_id in written and first[finish.task_id] is finish:
            pending.value = True
        else:
            rest.append(pending)
    return rest


def _finish_values(finish: Finish) -> tuple[Any, ...]:
    code, error = legible(finish.error_code), legible(finish.error)
    outcome, source = legible(finish.outcome), legible(finish.source)
    elapsed_ms, due_in_s = float(finish.elapsed_ms), float(finish.due_in_s)
    return (
        finish.task_id, finish.fence, finish.state, finish.value, finish.blob, code, error, outcome, source, elapsed_ms,
        due_in_s, finish.usage, finish.report,
    )  # fmt: skip


def _answer_unwritten(connection: Connection, pendings: Pendings) -> Pendings:
    """Recognise what was written before; those that are still to be written. The others' attempts were fenced off."""
    text = """
        select t.task_id, t.fence, t.state, r.status, r.value, r.blob, r.report
        from toolpost_tasks t left join toolpost_results r on r.task_id = t.task_id where t.task_id = any(%s)
    """
    found = connection.execute(text, ([pending.op[1].task_id for pending in pendings],)).fetchall()
    rows = {row[0]: row[1:] for row in found}
    unwritten, fenced = [], []
    for pending in pendings:
        finish, row = pending.op[1], rows.get(pending.op[1].task_id)
        if row is not None and row[:2] == (finish.fence, "running"):
            unwritten.append(pending)
            continue
        pending.value = row is not None and repeated(finish, *row)
        if row is not None and not pending.value:
            fenced.append((finish.task_id, finish.fence))
    if fenced:
        connection.execute(
            """
            update toolpost_attempts t set outcome = 'fenced'
            from unnest(%s::text[], %s::bigint[]) as a (task_id, fence)
            where t.task_id = a.task_id and t.fence = a.fence and t.outcome = 'lost'
            """,
            columns(fenced, 2),
        )
    return unwritten


_END = f"""
    ended as (
        update toolpost_tasks t set state = %(state)s, due_at = null, owner = null, lease_until = null,
            updated_at = {NOW}, lost = t.lost + (h.state = 'running')::int
        from held h where t.task_id = h.task_id returning t.task_id, t.fence, t.tool, t.reply_to
    ), results as (
        insert into toolpost_results (task_id, fence, status, error_code, source, elapsed_ms, finished_at)
        select task_id, fence, %(state)s, %(code)s, 'store', 0.0, {NOW} from ended
    )
"""
_DOOMED = f"""
    with held as materialized (
        select t.* from toolpost_tasks t
        where t.state = 'running' and t.lease_until <= {NOW} and t.lost >= {MAX_LOST - 1}
        limit %(limit)s for update of t skip locked
    ), {_END}, attempts as (
        insert into toolpost_attempts (task_id, fence, n, owner, started_at, ended_at, outcome)
        select task_id, fence, attempt, owner, started_at, {NOW}, 'lost' from held on conflict do nothing
    ), buried as (
        insert into toolpost_dead_letters as d
            (task_id, src_topic, src_partition, src_offset, reason, error, payload, first_at, last_at)
        select task_id, src_topic, src_partition, src_offset, 'lost', '', arguments, {NOW}, {NOW} from held
        on conflict (src_topic, src_partition, src_offset)
        do update set tries = d.tries + 1, last_at = excluded.last_at
    )
    select task_id, tool, reply_to from ended
"""
_CANCEL = f"""
    with held as materialized (
        select t.* from toolpost_tasks t where t.task_id = %(task_id)s and t.state in ('queued', 'waiting')
        for update of t
    ), {_END}
    select task_id, tool, reply_to from ended
"""
_TELL_TO_END = f"""
    update toolpost_tasks set cancel_at = coalesce(cancel_at, {NOW}) where task_id = %s and state = 'running'
    returning state
"""


def cancel_task(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        task_id = pending.op[1]
        checked(task_id=task_id)
        with connection.transaction():
            values = {"task_id": task_id, "state": "cancelled", "code": "cancelled"}
            if _end(connection, _CANCEL, values):
                answer = "cancelled"
            elif connection.execute(_TELL_TO_END, (task_id,)).fetchall():
                answer = "told"
            else:
                rows = connection.execute("select state from toolpost_tasks where task_id = %s", (task_id,)).fetchall()
                answer = rows[0][0] if rows else ""
        pending.value = answer


def _end(connection: Connection, text: str, values: dict[str, Any]) -> int:
    """End tasks whose end the store decides, and tell whoever asked for them; how many."""
    rows = connection.execute(text, values).fetchall()
    told = [farewell(task_id, tool, values["state"], reply_to) for task_id, tool, reply_to in rows]
    messages = [message_values("", message) for message in told if message is not None]
    if messages:
        connection.execute(f"insert into {OUTBOX} select {OUTBOX_VALUES}", columns(messages, 7))
    return len(rows)


def task(connection: Connection, pendings: Pendings) -> None:
    rows = _task_rows(connection, [pending.op[1] for pending in pendings])
    for pending in pendings:
        pending.value = rows.get(pending.op[1])


def _task_rows(connection: Connection, task_ids: Sequence[str]) -> dict[str, TaskRow]:
    found = connection.execute(f"{TASK_ROWS} where t.task_id = any(%s)", (list(task_ids),)).fetchall()
    return {row[0]: task_row(row) for row in found}


def sweep(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        limit = pending.op[1]
        with connection.transaction():
            dead = _end(connection, _DOOMED, {"limit": limit, "state": "dead", "code": "lost"})
        claims, documents = dropped(connection, limit), dropped_documents(connection, limit)
        pending.value = {"claims": claims, "dead": dead, "documents": documents}


def ping(connection: Connection, pendings: Pendings) -> None:
    connection.execute("select 1").fetchall()
    for pending in pendings:
        pending.value = None
