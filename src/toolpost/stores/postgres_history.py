"""What PostgreSQL does for the history of tasks: it records, lists, counts and drops them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from toolpost.stores.postgres_sql import NOW, Connection, Pendings, columns
from toolpost.stores.sql_tasks import (
    CROWD,
    RESULT_COLUMNS,
    TASK_LIST,
    TASK_TYPES,
    count_text,
    counted,
    recorded_columns,
    result_values,
    task_row,
)

Rows = list[tuple[tuple[Any, ...], tuple[Any, ...]]]
"""Tasks and their results, as values."""


def record_tasks(connection: Connection, pendings: Pendings) -> None:
    shapes: dict[tuple[str, ...], Rows] = {}
    seen: set[str] = set()
    for pending in pendings:  # of two with one id in a batch the first is written
        for task, finish in pending.op[1]:
            names, values = recorded_columns(task, finish, 0.0)
            if task.task_id not in seen:
                seen.add(task.task_id)
                result = result_values(task.task_id, finish, finish.state, 0)
                shapes.setdefault(names, []).append((values, result))
    written: set[str] = set()
    with connection.transaction():
        for names in sorted(shapes):
            tasks, results = zip(*shapes[names], strict=True)
            rows = connection.execute(_record_text(names), [*columns(tasks, 0), *columns(results, 0)]).fetchall()
            written |= {row[0] for row in rows}
    for pending in pendings:
        pending.value = []
        for task, _ in pending.op[1]:
            pending.value.append(task.task_id in written)
            written.discard(task.task_id)


_FROM_NOW = ("deadline_at", "created_at", "started_at")


@lru_cache(maxsize=256)
def _record_text(names: tuple[str, ...]) -> str:
    arrays = ", ".join(f"%s::{TASK_TYPES[name]}[]" for name in names)
    values = ", ".join(f"now + {name}" if name in _FROM_NOW else name for name in names)
    results = ", ".join(RESULT_COLUMNS[:-1])
    return f"""
        with rows as materialized (
            select nextval('toolpost_tasks_seq_seq') as seq, {NOW} as now, u.*
            from unnest({arrays}) as u ({", ".join(names)})
        ), written as (
            insert into toolpost_tasks (seq, {", ".join(names)}, updated_at)
            select seq, {values}, now from rows order by task_id collate "C"
            on conflict do nothing returning task_id
        )
        insert into toolpost_results ({results}, finished_at)
        select r.*, {NOW} from unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::text[], %s::text[],
            %s::text[], %s::text[], %s::double precision[], %s::bytea[]) as r ({results})
        join written w on w.task_id = r.task_id returning task_id
    """


def tasks(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        wanted = pending.op[1]
        where, values = wanted.where("%s")
        text = f"{TASK_LIST} {where} order by t.task_id desc limit %s"
        pending.value = [task_row(row) for row in connection.execute(text, (*values, wanted.limit)).fetchall()]


def count_tasks(connection: Connection, pendings: Pendings) -> None:
    known: dict[str, list[tuple[str, int]]] = {}  # many ask the same at the same time
    for pending in pendings:
        text = count_text(pending.op[1])
        if text not in known:
            known[text] = [(row[0], row[1]) for row in connection.execute(text).fetchall()]
        pending.value = counted(pending.op[1], known[text])


def crowd(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        rows = connection.execute(f"{CROWD} %s", (pending.op[1],)).fetchall()
        pending.value = [(row[0], row[1], row[2]) for row in rows]


_DROP = f"""
    with over as materialized (
        select t.task_id from toolpost_results r join toolpost_tasks t on t.task_id = r.task_id
        where r.finished_at < {NOW} - %s order by r.finished_at limit %s for update of t skip locked
    )
    delete from toolpost_tasks t using over o where t.task_id = o.task_id
"""


def drop_tasks(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        _, ended_s, limit = pending.op
        pending.value = connection.execute(_DROP, (float(ended_s), limit)).rowcount
