"""What PostgreSQL does for the outbox and for dead letters, one function for each kind of operation of a batch."""

from __future__ import annotations

from typing import Any

from toolpost.stores.postgres_sql import NOW, Connection, Pendings, columns
from toolpost.stores.sql import LETTERS, letter_of, outgoing_of, outgoing_values
from toolpost.stores.sql_tasks import COPIED
from toolpost.stores.standing import legible

OUTBOX = "toolpost_outbox (kind, dest, key, body, headers, due_at, created_at)"


OUTBOX_VALUES = f"""
    o.kind, o.dest, o.key, o.body, o.headers, {NOW} + o.due_in_s, {NOW}
    from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[], %s::double precision[])
        as o (belongs_to, kind, dest, key, body, headers, due_in_s)
"""


def message_values(belongs_to: str, message: Any) -> tuple[Any, ...]:
    """A message as a row of OUTBOX_VALUES, which leaves if what it belongs to was written."""
    kind, dest, key, body, headers, due_in_s, _ = outgoing_values(message, 0.0)
    return (belongs_to, kind, dest, key, body, headers, float(due_in_s))


def put_outbox(connection: Connection, pendings: Pendings) -> None:
    told = [message_values("", message) for pending in pendings for message in pending.op[1]]
    connection.execute(f"insert into {OUTBOX} select {OUTBOX_VALUES}", columns(told, 7))
    for pending in pendings:
        pending.value = None


def take_outbox(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        with due as (
            select id from toolpost_outbox
            where due_at <= {NOW} and (%(kinds)s::text[] is null or kind = any(%(kinds)s::text[]))
            order by due_at, id limit %(limit)s for update skip locked
        )
        update toolpost_outbox o set due_at = {NOW} + %(lease_s)s, tries = o.tries + 1
        from due d where o.id = d.id returning o.id, o.kind, o.dest, o.key, o.body, o.headers, o.tries
    """
    for pending in pendings:
        _, limit, lease_s, kinds = pending.op
        rows = connection.execute(text, {"limit": limit, "lease_s": float(lease_s), "kinds": kinds}).fetchall()
        pending.value = [outgoing_of(row) for row in sorted(rows)]


def count_outbox(connection: Connection, pendings: Pendings) -> None:
    text = "select count(*) from toolpost_outbox where %(kinds)s::text[] is null or kind = any(%(kinds)s::text[])"
    for pending in pendings:
        [(pending.value,)] = connection.execute(text, {"kinds": pending.op[1]}).fetchall()


def sent(connection: Connection, pendings: Pendings) -> None:
    numbers = [number for pending in pendings for number in pending.op[1]]
    _outbox(connection, "delete from toolpost_outbox o using held h where o.id = h.id", numbers)
    for pending in pendings:
        pending.value = None


def defer_outbox(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        text = f"update toolpost_outbox o set due_at = {NOW} + %s from held h where o.id = h.id"
        _outbox(connection, text, pending.op[1], float(pending.op[2]))
        pending.value = None


def _outbox(connection: Connection, act: str, numbers: list[int], *values: float) -> None:
    held = "with held as (select id from toolpost_outbox where id = any(%s::bigint[]) order by id for update)"
    connection.execute(f"{held} {act}", (numbers, *values))


def bury(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        insert into toolpost_dead_letters as d
            (reason, payload, src_topic, src_partition, src_offset, task_id, error, first_at, last_at)
        values (%s, %s, %s, %s, %s, %s, %s, {NOW}, {NOW})
        on conflict (src_topic, src_partition, src_offset)
        do update set tries = d.tries + 1, last_at = excluded.last_at returning id
    """
    for pending in pendings:
        _, reason, payload, src, task_id, error = pending.op
        place = src or (None, None, None)
        values = (legible(reason), payload, *place, task_id, legible(error))
        pending.value = connection.execute(text, values).fetchall()[0][0]


def dead(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        _, limit, after = pending.op
        where, values = ("", ()) if after is None else ("where id < %s", (after,))
        rows = connection.execute(f"{LETTERS} {where} order by id desc limit %s", (*values, limit)).fetchall()
        pending.value = [letter_of(row) for row in rows]


def redrive(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        with letter as (
            select id, task_id from toolpost_dead_letters where id = %s and redriven_at is null for update
        ), made as (
            insert into toolpost_tasks (task_id, {COPIED}, created_at)
            select %s, {", ".join(f"t.{name}" for name in COPIED.split(", "))}, {NOW}
            from toolpost_tasks t join letter l on l.task_id = t.task_id where t.state = 'dead'
            on conflict do nothing returning task_id
        )
        update toolpost_dead_letters d set redriven_at = {NOW}, redriven_as = m.task_id
        from letter l, made m where d.id = l.id returning d.id
    """
    for pending in pendings:
        pending.value = bool(connection.execute(text, pending.op[1:]).fetchall())
