"""What PostgreSQL does for documents and the audit chain, one function for each kind of operation of a batch."""

from __future__ import annotations

from toolpost.stores.postgres_sql import NOW, Connection, Pendings, columns
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
from toolpost.stores.standing import checked, checked_document

_LIVES = f"(d.expires_at is null or d.expires_at > {NOW})"

_BEGAN = "extract(epoch from statement_timestamp())::double precision"
"""One time for all of a statement, where NOW goes on."""

_INSERT = f"""
    insert into toolpost_documents as d ({DOCUMENT_COLUMNS})
    values (%(kind)s, %(key)s, nextval('toolpost_fences'), %(body)s, %(tenant)s, %(user_id)s, %(state)s,
        {_BEGAN}, {_BEGAN}, %(expires_at)s)
    on conflict (kind, key) do update set version = excluded.version, body = excluded.body, tenant = excluded.tenant,
        user_id = excluded.user_id, state = excluded.state, expires_at = excluded.expires_at,
        updated_at = excluded.updated_at,
        created_at = case when {_LIVES} then d.created_at else excluded.created_at end
"""
_UPDATE = f"""
    update toolpost_documents d set version = nextval('toolpost_fences'), body = %(body)s, tenant = %(tenant)s,
        user_id = %(user_id)s, state = %(state)s, expires_at = %(expires_at)s, updated_at = {NOW}
    where kind = %(kind)s and key = %(key)s and version = %(expect)s and {_LIVES} returning version
"""


def put_document(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        _, document, expect = pending.op
        checked_document(document)
        if expect is None:
            text = f"{_INSERT} returning version"
        else:
            text = f"{_INSERT} where not {_LIVES} returning version" if expect == 0 else _UPDATE
        found = connection.execute(text, {**document._asdict(), "expect": expect}).fetchone()
        pending.value = 0 if found is None else found[0]


def document(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        {DOCUMENTS} d join unnest(%s::text[], %s::text[]) as a (k, n) on d.kind = a.k and d.key = a.n where {_LIVES}
    """
    for pending in pendings:
        checked(kind=pending.op[1], key=pending.op[2])
    rows = connection.execute(text, columns([pending.op[1:] for pending in pendings], 2)).fetchall()
    found = {(one.kind, one.key): one for one in map(document_of, rows)}
    for pending in pendings:
        pending.value = found.get(pending.op[1:])


def documents(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        _, kind, only, after, limit = pending.op
        checked(kind=kind, after=after, **only)
        where, values = query(kind, only, after, "%s")
        rows = connection.execute(
            f"{DOCUMENTS} d where {where} and {_LIVES} order by key limit %s",
            (*values, limit),
        )
        pending.value = [document_of(row) for row in rows.fetchall()]


def drop_document(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        delete from toolpost_documents d
        where kind = %s and key = %s and (%s::bigint is null or version = %s) and {_LIVES}
    """
    for pending in pendings:
        _, kind, key, expect = pending.op
        checked(kind=kind, key=key)
        pending.value = connection.execute(text, (kind, key, expect, expect)).rowcount > 0


def sweep_documents(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        pending.value = dropped_documents(connection, pending.op[1])


def dropped_documents(connection: Connection, limit: int) -> int:
    """Drop documents whose time is over; how many."""
    text = f"""
        with over as (
            select kind, key from toolpost_documents where expires_at <= {NOW} limit %s for update skip locked
        )
        delete from toolpost_documents d using over o where d.kind = o.kind and d.key = o.key
    """
    return connection.execute(text, (limit,)).rowcount


def append_audit(connection: Connection, pendings: Pendings) -> None:
    """Lengthen the chain under the lock of its head's row: so that any number of processes write one chain.

    The hashes are made here and not by the server, which is never told the key. A process that is frozen in between
    is put out by the server after idle_in_transaction_session_timeout.
    """
    write = """
        with added as (
            insert into toolpost_audit (seq, body, hash) select * from unnest(%s::bigint[], %s::bytea[], %s::bytea[])
        )
        update toolpost_audit_head set seq = %s, hash = %s
    """
    with connection.transaction():
        head = head_of(connection.execute(f"{HEAD} for update").fetchone())
        rows, heads = lengthened(head, pendings)
        if rows:
            connection.execute(write, (*columns(rows, 3), *heads[-1][:2]))
    for pending, stands in zip(pendings, heads, strict=True):
        pending.value = stands


def audit_rows(connection: Connection, pendings: Pendings) -> None:
    text = "select seq, body, hash from toolpost_audit where seq > %s order by seq limit %s"
    for pending in pendings:
        rows = connection.execute(text, pending.op[1:], binary=True).fetchall()  # as text bytes take twice the time
        pending.value = [audit_row(row) for row in rows]


def audit_head(connection: Connection, pendings: Pendings) -> None:
    head = head_of(connection.execute(HEAD).fetchone())
    for pending in pendings:
        pending.value = head


def rotate_audit(connection: Connection, pendings: Pendings) -> None:
    last = "select seq, hash from toolpost_audit where seq <= %s order by seq desc limit 1"
    for pending in pendings:
        with connection.transaction():
            connection.execute(f"{HEAD} for update")
            found = connection.execute(last, (pending.op[1],)).fetchone()
            taken = 0
            if found is not None:
                # The trigger lets only those rows go that the head says are taken away.
                connection.execute("update toolpost_audit_head set start_seq = %s, start_hash = %s", found)
                taken = connection.execute("delete from toolpost_audit where seq <= %s", (found[0],)).rowcount
        pending.value = taken
