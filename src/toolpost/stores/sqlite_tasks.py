"""What SQLite does for tasks, one function for each kind of operation of a batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from toolpost.stores import TERMINAL, Finish, Outgoing, Task, TaskRow
from toolpost.stores.sql import OUTGOING_COLUMNS, outgoing_values
from toolpost.stores.sql_tasks import (
    IN_TURN,
    OPEN_STATES,
    RESULT_COLUMNS,
    TASK_ROWS,
    WORK_COLUMNS,
    columns_of,
    result_values,
    task_row,
    work_of,
)
from toolpost.stores.sqlite_claims import dropped, settle
from toolpost.stores.sqlite_documents import dropped_documents
from toolpost.stores.sqlite_sql import Pendings, insert, json_of
from toolpost.stores.standing import MAX_LOST, farewell, legible, place_of, repeated

AMONG = "in (select value from json_each(?))"
_ATTEMPT_COLUMNS = ("task_id", "fence", "n", "owner", "started_at", "ended_at", "outcome", "error_code", "usage")


def submit(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    shapes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for pending in pendings:
        names, values = columns_of(pending.op[1], now)
        rows = shapes.get(names)
        if rows is None:
            rows = shapes[names] = []
        rows.append((*values, now))
    before = connection.total_changes
    [(last,)] = connection.execute("select coalesce(max(seq), 0) from toolpost_tasks").fetchall()
    for names, rows in shapes.items():
        insert(connection, "toolpost_tasks", (*names, "created_at"), rows, tail="on conflict do nothing")
    if connection.total_changes - before == len(pendings):
        for pending in pendings:
            pending.value = True
        return
    # Some were there. No row since `last` is anybody else's, and of two with one id the first wrote it.
    found = connection.execute("select task_id from toolpost_tasks where seq > ?", (last,))
    written = {row[0] for row in found}
    for pending in pendings:
        task_id = pending.op[1].task_id
        pending.value = task_id in written
        written.discard(task_id)


def claim_tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    _promote(connection, now)
    for pending in pendings:
        _, owner, limit, lease_s, tools = pending.op
        only: str = ""
        values: tuple[Any, ...] = ()
        if tools is not None:
            only, values = f"and (t.tool {AMONG} or t.deadline_at <= ?)", (json_of(tools), now)
        abandoned = f"""
            select t.seq, t.priority from toolpost_tasks t
            where t.state = 'running' and t.lease_until <= ? and t.lost < {MAX_LOST - 1} {only}
            order by t.priority desc, t.seq limit ?
        """
        ready = f"""
            select t.seq, t.priority from toolpost_tasks t
            where t.state = 'queued' and t.due_at is null {only} and {IN_TURN}
            order by t.priority desc, t.seq limit ?
        """
        found = connection.execute(abandoned, (now, *values, limit)).fetchall()
        found += connection.execute(ready, (*values, limit)).fetchall()
        found.sort(key=lambda row: (-row[1], row[0]))
        pending.value = _take(connection, [row[0] for row in found[:limit]], owner, lease_s, now)


def _promote(connection: sqlite3.Connection, now: float) -> None:
    """Queue what was waiting and is due."""
    connection.execute(
        "update toolpost_tasks set state = 'queued', due_at = null "
        "where due_at is not null and due_at <= ? and state in ('queued', 'waiting')",
        (now,),
    )


def _take(connection: sqlite3.Connection, seqs: Sequence[int], owner: str, lease_s: float, now: float) -> list[Any]:
    chosen = json_of(seqs)
    connection.execute(
        f"""
        insert into toolpost_attempts (task_id, fence, n, owner, started_at, ended_at, outcome)
        select task_id, fence, attempt, owner, started_at, ?, 'lost' from toolpost_tasks
        where seq {AMONG} and state = 'running'
        """,
        (now, chosen),
    )
    connection.execute(
        f"""
        update toolpost_tasks set lost = lost + (state = 'running'), state = 'running', fence = fence + 1,
            attempt = attempt + 1, owner = ?, lease_until = ?, started_at = ?, updated_at = ?
        where seq {AMONG}
        """,
        (owner, now + lease_s, now, now, chosen),
    )
    text = f"select t.seq, {WORK_COLUMNS} from toolpost_tasks t where t.seq {AMONG}"
    works = {row[0]: work_of(row[1:], now) for row in connection.execute(text, (chosen,))}
    return [works[seq] for seq in seqs]


def claim_task(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, task, owner, lease_s = pending.op
        _write(connection, task, now)
    _promote(connection, now)
    free = f"t.state = 'queued' and t.due_at is null and {IN_TURN}"
    abandoned = f"t.state = 'running' and t.lease_until <= ? and t.lost < {MAX_LOST - 1}"
    for pending in pendings:
        _, task, owner, lease_s = pending.op
        text = f"select t.seq from toolpost_tasks t where t.task_id = ? and ({free} or {abandoned})"
        found = connection.execute(text, (task.task_id, now)).fetchone()
        if found is not None:
            [pending.value] = _take(connection, [found[0]], owner, lease_s, now)
        else:
            pending.value = _task_rows(connection, [task.task_id])[task.task_id]


def _write(connection: sqlite3.Connection, task: Task, now: float) -> bool:
    names, values = columns_of(task, now)
    tail = "on conflict do nothing returning task_id"
    return bool(insert(connection, "toolpost_tasks", (*names, "created_at"), [(*values, now)], tail=tail))


def renew_tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = """
        update toolpost_tasks set lease_until = ? where task_id = ? and fence = ? and owner = ? and state = 'running'
        returning cancel_at is not null
    """
    for pending in pendings:
        _, owner, held, lease_s = pending.op
        pending.value = []
        for task_id, fence in held:
            rows = connection.execute(text, (now + lease_s, task_id, fence, owner)).fetchall()
            pending.value.append("lost" if not rows else "cancel" if rows[0][0] else "held")


def finish_task(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = f"""
        select t.task_id, t.fence, t.state, t.cancel_at is not null, t.attempt, t.owner, t.started_at,
            r.status, r.value, r.blob, r.report
        from toolpost_tasks t left join toolpost_results r on r.task_id = t.task_id where t.task_id {AMONG}
    """
    ids = json_of([pending.op[1].task_id for pending in pendings])
    rows = {row[0]: row for row in connection.execute(text, (ids,))}
    updates, results, attempts, claims, messages = [], [], [], [], []
    fenced: list[tuple[str, int]] = []
    dead: list[Finish] = []
    for pending in pendings:
        finish: Finish = pending.op[1]
        row = rows.get(finish.task_id)
        place = place_of(finish, row is not None and bool(row[3]))
        if row is None:
            pending.value = False
            continue
        _, fence, state, _, attempt, owner, started_at, *known = row
        if state != "running" or fence != finish.fence:
            pending.value = repeated(finish, fence, state, *known)
            if not pending.value:
                fenced.append((finish.task_id, finish.fence))
            continue
        pending.value = True
        code = legible(finish.error_code)
        attempts.append(
            (finish.task_id, fence, attempt, owner, started_at, now, legible(finish.outcome), code, finish.usage)
        )
        due_at = now + finish.due_in_s if place in ("queued", "waiting") and finish.due_in_s > 0 else None
        given_back = finish.state == "queued"
        updates.append((place, due_at, given_back, now, finish.task_id))
        if place in TERMINAL:
            results.append((*result_values(finish.task_id, finish, place, finish.fence), now))
            rows[finish.task_id] = (*row[:2], place, *row[3:7], place, finish.value, finish.blob, finish.report)
        else:
            rows[finish.task_id] = (*row[:2], place, *row[3:])
        if place == "dead":
            dead.append(finish)
        if finish.claim is not None:
            key, claim_fence, outcome, ttl_s = finish.claim
            claims.append((key, claim_fence, outcome, finish.value, ttl_s))
        if finish.outbox:
            messages += [outgoing_values(message, now) for message in finish.outbox]
    connection.executemany(
        "update toolpost_tasks set state = ?, due_at = ?, attempt = attempt - ?, owner = null, lease_until = null, "
        "updated_at = ? where task_id = ?",
        updates,
    )
    insert(connection, "toolpost_results", RESULT_COLUMNS, results)
    insert(connection, "toolpost_attempts", _ATTEMPT_COLUMNS, attempts)
    insert(connection, "toolpost_outbox", OUTGOING_COLUMNS, messages)
    if claims:
        settle(connection, claims, now)
    for finish in dead:
        reason = legible(finish.error_code or finish.outcome)
        _bury_task(connection, finish.task_id, str(reason), legible(finish.error) or "", now)
    connection.executemany(
        "update toolpost_attempts set outcome = 'fenced' where task_id = ? and fence = ? and outcome = 'lost'", fenced
    )


def _bury_task(connection: sqlite3.Connection, task_id: str, reason: str, error: str, now: float) -> None:
    """Keep a dead task's arguments as a letter; a record that was buried before stays the letter it is."""
    connection.execute(
        """
        insert into toolpost_dead_letters
            (task_id, src_topic, src_partition, src_offset, reason, error, payload, first_at, last_at)
        select task_id, src_topic, src_partition, src_offset, ?, ?, arguments, ?, ? from toolpost_tasks
        where task_id = ?
        on conflict do update set tries = tries + 1, last_at = excluded.last_at
        """,
        (reason, error, now, now, task_id),
    )


def _end(connection: sqlite3.Connection, task_ids: Sequence[str], state: str, code: str, now: float) -> None:
    """End tasks whose end the store decides, and tell whoever asked for them."""
    chosen = json_of(task_ids)
    rows = connection.execute(
        f"select task_id, fence, tool, reply_to from toolpost_tasks where task_id {AMONG}", (chosen,)
    ).fetchall()
    connection.execute(
        f"""
        update toolpost_tasks set state = ?, due_at = null, owner = null, lease_until = null, updated_at = ?
        where task_id {AMONG}
        """,
        (state, now, chosen),
    )
    results = [
        (task_id, fence, state, None, None, code, None, "store", 0.0, None, now) for task_id, fence, _, _ in rows
    ]
    insert(connection, "toolpost_results", RESULT_COLUMNS, results)
    told = [farewell(task_id, tool, state, reply_to) for task_id, _, tool, reply_to in rows]
    messages: list[Outgoing] = [message for message in told if message is not None]
    insert(connection, "toolpost_outbox", OUTGOING_COLUMNS, [outgoing_values(m, now) for m in messages])


def cancel_task(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        task_id = pending.op[1]
        row = connection.execute("select state from toolpost_tasks where task_id = ?", (task_id,)).fetchone()
        state = row[0] if row is not None else ""
        if state == "running":
            connection.execute(
                "update toolpost_tasks set cancel_at = coalesce(cancel_at, ?) where task_id = ?", (now, task_id)
            )
            state = "told"
        elif state in ("queued", "waiting"):
            _end(connection, [task_id], "cancelled", "cancelled", now)
            state = "cancelled"
        pending.value = state


def task(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    rows = _task_rows(connection, [pending.op[1] for pending in pendings])
    for pending in pendings:
        pending.value = rows.get(pending.op[1])


def _task_rows(connection: sqlite3.Connection, task_ids: Sequence[str]) -> dict[str, TaskRow]:
    found = connection.execute(f"{TASK_ROWS} where t.task_id {AMONG}", (json_of(task_ids),))
    return {row[0]: task_row(row) for row in found}


def sweep(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        limit = pending.op[1]
        rows = connection.execute(
            "select task_id from toolpost_tasks where state = 'running' and lease_until <= ? and lost >= ? limit ?",
            (now, MAX_LOST - 1, limit),
        ).fetchall()
        doomed = [row[0] for row in rows]
        if doomed:
            _take_off(connection, doomed, now)
        claims, documents = dropped(connection, limit, now), dropped_documents(connection, limit, now)
        pending.value = {"claims": claims, "dead": len(doomed), "documents": documents}


def _take_off(connection: sqlite3.Connection, task_ids: Sequence[str], now: float) -> None:
    """Make dead what lost its holders too often."""
    chosen = json_of(task_ids)
    connection.execute(
        f"""
        insert into toolpost_attempts (task_id, fence, n, owner, started_at, ended_at, outcome)
        select task_id, fence, attempt, owner, started_at, ?, 'lost' from toolpost_tasks where task_id {AMONG}
        """,
        (now, chosen),
    )
    connection.execute(f"update toolpost_tasks set lost = lost + 1 where task_id {AMONG}", (chosen,))
    _end(connection, task_ids, "dead", "lost", now)
    for task_id in task_ids:
        _bury_task(connection, task_id, "lost", "", now)


def ping(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    connection.execute(f"select 1 from toolpost_tasks where state in ({OPEN_STATES}) limit 1").fetchone()
