"""What SQLite does for the outbox and for dead letters, one function for each kind of operation of a batch."""

from __future__ import annotations

import sqlite3

from toolpost.stores.sql import LETTERS, OUTGOING_COLUMNS, letter_of, outgoing_of, outgoing_values
from toolpost.stores.sql_tasks import COPIED
from toolpost.stores.sqlite_sql import Pendings, insert, json_of
from toolpost.stores.standing import checked, legible


def put_outbox(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    rows = [outgoing_values(message, now) for pending in pendings for message in pending.op[1]]
    insert(connection, "toolpost_outbox", OUTGOING_COLUMNS, rows)


def take_outbox(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, limit, lease_s, kinds = pending.op
        only, values = (
            ("", ()) if kinds is None else ("and kind in (select value from json_each(?))", (json_of(kinds),))
        )
        text = f"""
            select id, kind, dest, key, body, headers, tries + 1 from toolpost_outbox
            where due_at <= ? {only} order by due_at, id limit ?
        """
        rows = connection.execute(text, (now, *values, limit)).fetchall()
        connection.execute(
            "update toolpost_outbox set due_at = ?, tries = tries + 1 where id in (select value from json_each(?))",
            (now + lease_s, json_of([row[0] for row in rows])),
        )
        pending.value = [outgoing_of(row) for row in rows]


def count_outbox(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        kinds = pending.op[1]
        only = "" if kinds is None else "where kind in (select value from json_each(?))"
        values = () if kinds is None else (json_of(kinds),)
        [(pending.value,)] = connection.execute(f"select count(*) from toolpost_outbox {only}", values).fetchall()


def sent(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    numbers = [(number,) for pending in pendings for number in pending.op[1]]
    connection.executemany("delete from toolpost_outbox where id = ?", numbers)


def defer_outbox(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    dues = [(now + pending.op[2], number) for pending in pendings for number in pending.op[1]]
    connection.executemany("update toolpost_outbox set due_at = ? where id = ?", dues)


def bury(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = """
        insert into toolpost_dead_letters
            (reason, payload, src_topic, src_partition, src_offset, task_id, error, first_at, last_at)
        values (?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict do update set tries = tries + 1, last_at = excluded.last_at returning id
    """
    for pending in pendings:
        _, reason, payload, src, task_id, error = pending.op
        checked(task_id=task_id, src=src and src[0])
        place = src or (None, None, None)
        values = (legible(reason), payload, *place, task_id, legible(error), now, now)
        [(pending.value,)] = connection.execute(text, values).fetchall()


def dead(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, limit, after = pending.op
        where, values = ("", ()) if after is None else ("where id < ?", (after,))
        rows = connection.execute(f"{LETTERS} {where} order by id desc limit ?", (*values, limit)).fetchall()
        pending.value = [letter_of(row) for row in rows]


def redrive(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = f"""
        insert into toolpost_tasks (task_id, {COPIED}, created_at)
        select ?, {", ".join(f"t.{name}" for name in COPIED.split(", "))}, ? from toolpost_tasks t
        join toolpost_dead_letters d on d.task_id = t.task_id
        where d.id = ? and d.redriven_at is null and t.state = 'dead' on conflict do nothing
    """
    for pending in pendings:
        _, letter_id, task_id = pending.op
        checked(task_id=task_id)
        pending.value = connection.execute(text, (task_id, now, letter_id)).rowcount == 1
        if pending.value:
            connection.execute(
                "update toolpost_dead_letters set redriven_at = ?, redriven_as = ? where id = ?",
                (now, task_id, letter_id),
            )
