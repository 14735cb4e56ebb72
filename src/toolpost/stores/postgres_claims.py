"""What PostgreSQL does for claims, one function for each kind of operation of a batch.

Each statement is a transaction of its own that locks its rows in the order of their keys: so no two processes wait for
each other, and a process that is frozen between two statements holds no lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import ClaimAsk, Pending
from toolpost.stores.postgres_mail import OUTBOX, OUTBOX_VALUES, message_values
from toolpost.stores.postgres_sql import NOW, OPEN, Connection, Pendings, columns
from toolpost.stores.sql import CLAIM_ROWS
from toolpost.stores.standing import ClaimRow, refused, settles, shown, standing

UNSWEPT_S = 10.0
"""How long a claim stays after its end. A statement that drew its fence before the row went cannot insert it after: it
would have been cancelled by then. So fences grow for a key, also across the end of its row."""

ROUNDS = 5
"""How often a claim is tried that others keep taking and leaving at the same moment."""


_MAY_TAKE = f"""
    c.state = 'free' or (c.state in ('done', 'failed') and c.expires_at <= {NOW})
    or (coalesce(excluded.fingerprint = c.fingerprint, true) and (
        (%(rerun_failed)s and c.state = 'failed')
        or (%(take_over)s and (c.state = 'unknown' or (c.state = 'claimed' and c.lease_until <= {NOW})))))
"""

_CLAIM = f"""
    insert into toolpost_claims as c
        (key, fingerprint, state, fence, owner, tool, tenant, taken_over, lease_until, began_at)
    select key, fingerprint, 'claimed', nextval('toolpost_fences'), owner, tool, tenant, false, {NOW} + lease_s, {NOW}
    from unnest(%(keys)s::text[], %(fingerprints)s::text[], %(owners)s::text[], %(tools)s::text[], %(tenants)s::text[],
        %(leases)s::double precision[]) as a (key, fingerprint, owner, tool, tenant, lease_s)
    order by key collate "C"
    on conflict (key) do update set
        fingerprint = case when c.state in ('claimed', 'unknown') then coalesce(excluded.fingerprint, c.fingerprint)
            else excluded.fingerprint end,
        taken_over = c.state in ('claimed', 'unknown'), state = 'claimed', fence = nextval('toolpost_fences'),
        owner = excluded.owner, tool = excluded.tool, tenant = excluded.tenant, lease_until = excluded.lease_until,
        began_at = {NOW}, expires_at = null, result = null
    where {_MAY_TAKE}
    returning key, fingerprint, state, fence, owner, tool, tenant, taken_over, lease_until, began_at, null, null
"""


def claim(connection: Connection, pendings: Pendings) -> None:
    waiting = pendings
    for _ in range(ROUNDS):
        first: dict[str, Pending[Any]] = {}
        for pending in waiting:
            first.setdefault(pending.op[1].key, pending)
        kinds = sorted(first.values(), key=_kind_of_ask)
        for _, group in groupby(kinds, key=_kind_of_ask):
            _insert_claims(connection, list(group))
        waiting = [pending for pending in waiting if pending.value is OPEN]
        if not waiting:
            return
        rows = _rows(connection, [pending.op[1].key for pending in waiting])
        for pending in waiting:
            ask: ClaimAsk = pending.op[1]
            if ask.key in rows:
                refusal = refused(rows[ask.key][0], ask, rows[ask.key][1])
                if refusal is not None:
                    pending.value = refusal
        waiting = [pending for pending in waiting if pending.value is OPEN]
    for pending in waiting:
        pending.error = StoreUnavailableError(f"the claim {pending.op[1].key[:80]!r} changes hands too fast to be had")


def _kind_of_ask(pending: Pending[Any]) -> tuple[bool, bool]:
    return pending.op[1].take_over, pending.op[1].rerun_failed


def _insert_claims(connection: Connection, pendings: Pendings) -> None:
    keys, fingerprints, owners, leases, _, _, _, tools, tenants = zip(*(p.op[1] for p in pendings), strict=True)
    take_over, rerun_failed = _kind_of_ask(pendings[0])
    rows = connection.execute(
        _CLAIM,
        {
            "keys": list(keys),
            "fingerprints": list(fingerprints),
            "owners": list(owners),
            "tools": list(tools),
            "tenants": list(tenants),
            "leases": list(map(float, leases)),
            "take_over": take_over,
            "rerun_failed": rerun_failed,
        },
    ).fetchall()
    granted = {row[0]: ClaimRow._make(row) for row in rows}
    for pending in pendings:
        row = granted.get(pending.op[1].key)
        if row is not None:
            pending.value = shown(row, "granted", row.lease_until - pending.op[1].lease_s)


def _rows(connection: Connection, keys: Sequence[str]) -> dict[str, tuple[ClaimRow, float]]:
    """Rows by key, each with the database's time."""
    text = f"{CLAIM_ROWS.replace(' from ', f', {NOW} from ')} where key = any(%s)"
    found = connection.execute(text, (list(keys),)).fetchall()
    return {row[0]: (ClaimRow._make(row[:-1]), row[-1]) for row in found}


def renew(connection: Connection, pendings: Pendings) -> None:
    held = [(key, fence, float(pending.op[2])) for pending in pendings for key, fence in pending.op[1]]
    text = f"""
        with asked as (
            select * from unnest(%s::text[], %s::bigint[], %s::double precision[]) as a (key, fence, lease_s)
        ), held as (
            select c.key, a.lease_s from toolpost_claims c join asked a on a.key = c.key and a.fence = c.fence
            where c.state = 'claimed' order by c.key for update of c
        )
        update toolpost_claims c set lease_until = {NOW} + h.lease_s from held h where c.key = h.key
        returning c.key, c.fence
    """
    renewed = set(connection.execute(text, columns(held, 3)).fetchall())
    for pending in pendings:
        pending.value = [(key, fence) in renewed for key, fence in pending.op[1]]


_FINISH = f"""
    with asked as (
        select * from unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::double precision[])
            as a (key, fence, state, result, ttl_s)
    ), held as (
        select c.key, a.state, a.result, a.ttl_s
        from toolpost_claims c join asked a on a.key = c.key and a.fence = c.fence
        where c.state = 'claimed' or (c.state = 'unknown' and a.state <> 'unknown')
        order by c.key for update of c
    ), written as (
        update toolpost_claims c set state = h.state, result = h.result,
            expires_at = case when h.state <> 'unknown' then {NOW} + h.ttl_s end
        from held h where c.key = h.key returning c.key
    )
"""
_TELL = f", told as (insert into {OUTBOX} select {OUTBOX_VALUES} join written w on w.key = o.belongs_to)"
_ANSWER = "select key from written"


def finish(connection: Connection, pendings: Pendings) -> None:
    waiting = pendings
    while waiting:  # of two for one key, an old holder's perhaps, each has its turn
        waiting = _write_ends(connection, waiting)
        if waiting:
            waiting = _answer_unwritten(connection, waiting)


def _write_ends(connection: Connection, pendings: Pendings) -> Pendings:
    """Write the first finish of each key in one statement; those that were not written."""
    first: dict[str, Pending[Any]] = {}
    for pending in pendings:
        first.setdefault(pending.op[1], pending)
    asked = [(key, fence, state, result, float(ttl_s)) for _, key, fence, state, result, ttl_s, _ in
             (pending.op for pending in first.values())]  # fmt: skip
    told = [message_values(key, message) for key, pending in first.items() for message in pending.op[6]]
    text, values = f"{_FINISH} {_ANSWER}", columns(asked, 5)
    if told:
        text, values = f"{_FINISH} {_TELL} {_ANSWER}", [*values, *columns(told, 7)]
    written = {row[0] for row in connection.execute(text, values).fetchall()}
    rest = []
    for pending in pendings:
        if pending.op[1] in written and first[pending.op[1]] is pending:
            pending.value = True
        else:
            rest.append(pending)
    return rest


def _answer_unwritten(connection: Connection, pendings: Pendings) -> Pendings:
    """Say of each how its claim stands to it; those that are still to be written."""
    text = "select key, fence, state, result from toolpost_claims where key = any(%s)"
    rows = {row[0]: row for row in connection.execute(text, ([p.op[1] for p in pendings],)).fetchall()}
    unwritten = []
    for pending in pendings:
        _, key, fence, state, result, _, _ = pending.op
        had = rows.get(key)
        answer = False if had is None else settles(had[1], had[2], had[3], fence, state, result)
        if answer is None:
            unwritten.append(pending)
        else:
            pending.value = answer
    return unwritten


def release(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        with asked as (select * from unnest(%s::text[], %s::bigint[]) as a (key, fence)), held as (
            select c.key from toolpost_claims c join asked a on a.key = c.key and a.fence = c.fence
            where c.state in ('claimed', 'unknown') order by c.key for update of c
        )
        update toolpost_claims c set state = 'free', expires_at = {NOW} from held h where c.key = h.key
        returning c.key, c.fence
    """
    _once(pendings, connection.execute(text, columns([p.op[1:] for p in pendings], 2)).fetchall())


def _once(pendings: Pendings, done: Sequence[tuple[Any, ...]]) -> None:
    """True for the first that asked for what was done, False for the others."""
    left = set(done)
    for pending in pendings:
        pending.value = pending.op[1:] in left
        left.discard(pending.op[1:])


def lookup(connection: Connection, pendings: Pendings) -> None:
    rows = _rows(connection, [pending.op[1] for pending in pendings])
    for pending in pendings:
        row, now = rows.get(pending.op[1], (None, 0.0))
        state = None if row is None else standing(row, now)
        pending.value = None if row is None or state is None else shown(row, state, now)


def forget(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        with held as (
            select c.key from toolpost_claims c where c.key = any(%s) and (
                c.state = 'unknown' or (c.state = 'claimed' and c.lease_until <= {NOW})
                or (c.state in ('done', 'failed') and c.expires_at > {NOW}))
            order by c.key for update of c
        )
        update toolpost_claims c set state = 'free', expires_at = {NOW} from held h where c.key = h.key returning c.key
    """
    _once(pendings, connection.execute(text, ([pending.op[1] for pending in pendings],)).fetchall())


def unsettled(connection: Connection, pendings: Pendings) -> None:
    text = f"""
        {CLAIM_ROWS} where state in ('claimed', 'unknown') and (state = 'unknown' or lease_until <= {NOW})
        order by began_at, key limit %s
    """
    for pending in pendings:
        rows = connection.execute(text, (pending.op[1],)).fetchall()
        pending.value = [shown(ClaimRow._make(row), "unknown", 0.0) for row in rows]


def sweep_claims(connection: Connection, pendings: Pendings) -> None:
    for pending in pendings:
        pending.value = dropped(connection, pending.op[1])


def dropped(connection: Connection, limit: int) -> int:
    """Drop claims whose time is over; how many."""
    text = f"""
        with over as (
            select key from toolpost_claims
            where state in ('done', 'failed', 'free') and expires_at <= {NOW} - {UNSWEPT_S}
            limit %s for update skip locked
        )
        delete from toolpost_claims c using over o where c.key = o.key
    """
    return connection.execute(text, (limit,)).rowcount
