"""What SQLite does for documents and the audit chain, one function for each kind of operation of a batch."""

from __future__ import annotations

import sqlite3

from toolpost.stores.sql_documents import (
    DOCUMENT_COLUMNS,
    DOCUMENTS,
    HEAD,
    audit_row,
    document_of,
    head_of,
    lengthened,
    query,
)
from toolpost.stores.sqlite_sql import Pendings, insert
from toolpost.stores.standing import checked, checked_document

_LIVES = "(expires_at is null or expires_at > ?)"


def put_document(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    read = f"select version, created_at from toolpost_documents where kind = ? and key = ? and {_LIVES}"
    write = f"""
        insert or replace into toolpost_documents ({DOCUMENT_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """
    for pending in pendings:
        _, document, expect = pending.op
        checked_document(document)
        there = connection.execute(read, (document.kind, document.key, now)).fetchone()
        if expect is not None and expect != (there[0] if there else 0):
            pending.value = 0
            continue
        [(version,)] = connection.execute("update toolpost_fences set last = last + 1 returning last").fetchall()
        created_at = there[1] if there else now
        connection.execute(write, document._replace(version=version, created_at=created_at, updated_at=now))
        pending.value = version


def document(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, kind, key = pending.op
        checked(kind=kind, key=key)
        row = connection.execute(f"{DOCUMENTS} where kind = ? and key = ? and {_LIVES}", (kind, key, now)).fetchone()
        pending.value = None if row is None else document_of(row)


def documents(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        _, kind, only, after, limit = pending.op
        checked(kind=kind, after=after, **only)
        where, values = query(kind, only, after, "?")
        text = f"{DOCUMENTS} where {where} and {_LIVES} order by key limit ?"
        pending.value = [document_of(row) for row in connection.execute(text, (*values, now, limit))]


def drop_document(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = f"""
        delete from toolpost_documents where kind = ? and key = ? and (? is null or version = ?) and {_LIVES}
    """
    for pending in pendings:
        _, kind, key, expect = pending.op
        checked(kind=kind, key=key)
        pending.value = connection.execute(text, (kind, key, expect, expect, now)).rowcount > 0


def sweep_documents(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    for pending in pendings:
        pending.value = dropped_documents(connection, pending.op[1], now)


def dropped_documents(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Drop documents whose time is over; how many."""
    text = """
        delete from toolpost_documents
        where rowid in (select rowid from toolpost_documents where expires_at <= ? limit ?)
    """
    return connection.execute(text, (now, limit)).rowcount


def append_audit(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    head = head_of(connection.execute(HEAD).fetchone())
    rows, heads = lengthened(head, pendings)
    if rows:
        insert(connection, "toolpost_audit", ("seq", "body", "hash"), rows)
        connection.execute("update toolpost_audit_head set seq = ?, hash = ?", heads[-1][:2])
    for pending, stands in zip(pendings, heads, strict=True):
        pending.value = stands


def audit_rows(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    text = "select seq, body, hash from toolpost_audit where seq > ? order by seq limit ?"
    for pending in pendings:
        pending.value = [audit_row(row) for row in connection.execute(text, pending.op[1:])]


def audit_head(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    head = head_of(connection.execute(HEAD).fetchone())
    for pending in pendings:
        pending.value = head


def rotate_audit(connection: sqlite3.Connection, pendings: Pendings, now: float) -> None:
    last = "select seq, hash from toolpost_audit where seq <= ? order by seq desc limit 1"
    for pending in pendings:
        found = connection.execute(last, (pending.op[1],)).fetchone()
        if found is None:
            pending.value = 0
            continue
        # The trigger lets only those rows go that the head says are taken away.
        connection.execute("update toolpost_audit_head set start_seq = ?, start_hash = ?", found)
        pending.value = connection.execute("delete from toolpost_audit where seq <= ?", (found[0],)).rowcount
