"""What SQLite does for the history of tasks: it records, lists, counts and drops them."""

from __future__ import annotations

import sqlite3
from typing import Any

from toolpost.stores.sql_tasks import (
    CROWD,
    RESULT_COLUMNS,
    TASK_LIST,
    count_text,
    counted,
    recorded_columns,
    result_values,
    task_row,
)
from toolpost.stores.sqlite_sql import Pendings, insert, json_of
from toolpost.stores.sqlite_tasks import AMONG


def record_tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    ids = json_of([task.task_id for pending in pendings for task, _ in pending.op[1]])
    found = connection.execute(f"select task_id from toolpost_tasks where task_id {AMONG}", (ids,))
    known = {row[0] for row in found}
    shapes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    results = []
    for pending in pendings:
        pending.value = []
        for task, finish in pending.op[1]:
            names, values = recorded_columns(task, finish, now)
            new = task.task_id not in known
            pending.value.append(new)
            if new:
                known.add(task.task_id)
                shapes.setdefault(names, []).append((*values, now))
                results.append((*result_values(task.task_id, finish, finish.state, 0), now))
    for names, rows in shapes.items():
        insert(connection, "toolpost_tasks", (*names, "updated_at"), rows)
    insert(connection, "toolpost_results", RESULT_COLUMNS, results)


def tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        wanted = pending.op[1]
        where, values = wanted.where("?")
        text = f"{TASK_LIST} {where} order by t.task_id desc limit ?"
        pending.value = [task_row(row) for row in connection.execute(text, (*values, wanted.limit))]


def count_tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    known: dict[str, list[tuple[str, int]]] = {}  # many ask the same at the same time
    for pending in pendings:
        text = count_text(pending.op[1])
        if text not in known:
            known[text] = connection.execute(text).fetchall()
        pending.value = counted(pending.op[1], known[text])


def crowd(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        pending.value = connection.execute(f"{CROWD} ?", (pending.op[1],)).fetchall()


def drop_tasks(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = """
        delete from toolpost_tasks where task_id in (
            select task_id from toolpost_results where finished_at < ? order by finished_at limit ?)
    """
    for pending in pendings:
        _, ended_s, limit = pending.op
        pending.value = connection.execute(text, (now - ended_s, limit)).rowcount
