"""What SQLite does for claims, one function for each kind of operation of a batch.

Each is given the connection, inside a transaction that nobody else writes beside, the pendings and the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from toolpost.stores.sql import CLAIM_ROWS, OUTGOING_COLUMNS, outgoing_values
from toolpost.stores.sqlite_sql import Pendings, insert, json_of
from toolpost.stores.standing import ClaimRow, checked, granted, refused, settles, shown, standing


def claim(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    asks = [pending.op[1] for pending in pendings]
    rows = _rows(connection, [ask[0] for ask in asks])
    fences: Iterator[int] | None = None
    fresh: dict[str, ClaimRow] = {}
    again: dict[str, ClaimRow] = {}
    for pending, ask in zip(pendings, asks, strict=True):
        key = ask[0]
        row = rows.get(key)
        if row is not None:
            pending.value = refused(row, ask, now)
            if pending.value is not None:
                continue
        elif "\0" in key or "\0" in ask.tool or "\0" in ask.tenant or "\0" in ask.owner:
            checked(key=key, tool=ask.tool, tenant=ask.tenant, owner=ask.owner)
        if fences is None:
            fences = _fences(connection, len(pendings))
        new = rows[key] = granted(row, ask, next(fences), now, now)
        (fresh if row is None else again)[key] = new
        pending.value = shown(new, "granted", now)
    # A fresh key that was taken over within this batch is written by the second statement once more.
    insert(connection, "toolpost_claims", _FRESH, [row[: len(_FRESH)] for row in fresh.values()])
    insert(connection, "toolpost_claims", ClaimRow._fields, list(again.values()), verb="insert or replace")


_FRESH = ClaimRow._fields[:10]
"""All columns but the last, which begin as null."""


def _rows(connection: sqlite3.Connection, keys: list[str]) -> dict[str, ClaimRow]:
    found = connection.execute(f"{CLAIM_ROWS} where key in (select value from json_each(?))", (json_of(keys),))
    return {row[0]: ClaimRow._make(row) for row in found}


def _fences(connection: sqlite3.Connection, wanted: int) -> Iterator[int]:
    """Fences that nobody was given before."""
    rows = connection.execute("update toolpost_fences set last = last + ? returning last", (wanted,)).fetchall()
    return count(rows[0][0] - wanted + 1)


def renew(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, held, lease_s = pending.op
        pending.value = [
            connection.execute(
                "update toolpost_claims set lease_until = ? where key = ? and fence = ? and state = 'claimed'",
                (now + lease_s, key, fence),
            ).rowcount
            == 1
            for key, fence in held
        ]


def finish(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    asked = [pending.op[1:6] for pending in pendings]
    answers = settle(connection, asked, now)
    messages: list[tuple[Any, ...]] = []
    for pending, answer in zip(pendings, answers, strict=True):
        pending.value = answer is None or answer
        if answer is None and pending.op[6]:
            messages += [outgoing_values(message, now) for message in pending.op[6]]
    insert(connection, "toolpost_outbox", OUTGOING_COLUMNS, messages)


def settle(
    connection: sqlite3.Connection, asked: Sequence[tuple[str, int, str, bytes | None, float]], now: float
) -> list[bool | None]:
    """Settle claims by (key, fence, state, result, ttl_s): None for each that was written, else the answer."""
    text = "select key, rowid, fence, state, result from toolpost_claims where key in (select value from json_each(?))"
    rows = {row[0]: row for row in connection.execute(text, (json_of([one[0] for one in asked]),))}
    answers: list[bool | None] = []
    writes = []
    for key, fence, state, result, ttl_s in asked:
        row = rows.get(key)
        answer = False if row is None else settles(row[2], row[3], row[4], fence, state, result)
        answers.append(answer)
        if answer is None:
            rowid = rows[key][1]
            rows[key] = (key, rowid, fence, state, result)
            writes.append((state, result, None if state == "unknown" else now + ttl_s, rowid))
    connection.executemany("update toolpost_claims set state = ?, result = ?, expires_at = ? where rowid = ?", writes)
    return answers


def release(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        text = "delete from toolpost_claims where key = ? and fence = ? and state in ('claimed', 'unknown')"
        pending.value = connection.execute(text, pending.op[1:]).rowcount == 1


def lookup(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    rows = _rows(connection, [pending.op[1] for pending in pendings])
    for pending in pendings:
        row = rows.get(pending.op[1])
        state = None if row is None else standing(row, now)
        pending.value = None if row is None or state is None else shown(row, state, now)


def forget(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        row = _rows(connection, [pending.op[1]]).get(pending.op[1])
        pending.value = row is not None and standing(row, now) not in ("in_flight", None)
        if pending.value:
            connection.execute("delete from toolpost_claims where key = ?", pending.op[1:])


def unsettled(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = f"""
        {CLAIM_ROWS} where state in ('claimed', 'unknown') and (state = 'unknown' or lease_until <= ?)
        order by began_at, key limit ?
    """
    for pending in pendings:
        rows = connection.execute(text, (now, pending.op[1])).fetchall()
        pending.value = [shown(ClaimRow._make(row), "unknown", now) for row in rows]


def sweep_claims(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        pending.value = dropped(connection, pending.op[1], now)


def dropped(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Drop done and failed claims whose time is over; how many."""
    text = """
        delete from toolpost_claims where rowid in (
            select rowid from toolpost_claims where state in ('done', 'failed', 'free') and expires_at <= ? limit ?)
    """
    return connection.execute(text, (now, limit)).rowcount
