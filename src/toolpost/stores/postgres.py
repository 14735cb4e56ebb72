"""PostgresRecords: Records in PostgreSQL, shared by any number of machines; one statement for all callers of a kind."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, InputValidationError, StoreUnavailableError
from toolpost.stores import (
    Pending,
    postgres_claims,
    postgres_documents,
    postgres_history,
    postgres_mail,
    postgres_tasks,
    public_url,
)
from toolpost.stores.migrations import ensure, migrate_postgres, postgres_version
from toolpost.stores.pending import Batcher, answer_all
from toolpost.stores.postgres_sql import OPEN, Connection
from toolpost.stores.sql import TIDIES, TIDY_S, SqlRecords

TIMEOUT_S = 5.0
"""A batch that takes longer has its connection broken: the server may be frozen."""

LOCK_MS = 500
HURRY_MS = 100
"""How long a statement waits for a row, and for the rest of a batch in which one has waited so long in vain: or else
the ever smaller groups in which that row is searched take longer than a batch may."""

RETRIES = 4
"""How often a statement is tried again that PostgreSQL itself rolled back, as after a deadlock."""

# What holds for each session. lock_timeout: whoever holds a row so long is stuck; statement_timeout is below
# postgres_claims.UNSWEPT_S, which counts on it.
_SETTINGS = {
    "lock_timeout": f"{LOCK_MS}ms",
    "statement_timeout": "4s",
    "idle_in_transaction_session_timeout": "5s",
}
_CONNECT = {
    "application_name": "toolpost",
    "client_encoding": "utf8",
    "connect_timeout": "3",
    "tcp_user_timeout": "5000",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}

KINDS: dict[str, Any] = {
    "put_outbox": postgres_mail.put_outbox,
    "submit": postgres_tasks.submit,
    "record_tasks": postgres_history.record_tasks,
    "finish": postgres_claims.finish,
    "finish_task": postgres_tasks.finish_task,
    "release": postgres_claims.release,
    "renew": postgres_claims.renew,
    "renew_tasks": postgres_tasks.renew_tasks,
    "cancel_task": postgres_tasks.cancel_task,
    "bury": postgres_mail.bury,
    "redrive": postgres_mail.redrive,
    "forget": postgres_claims.forget,
    "sent": postgres_mail.sent,
    "defer_outbox": postgres_mail.defer_outbox,
    "claim": postgres_claims.claim,
    "claim_task": postgres_tasks.claim_task,
    "claim_tasks": postgres_tasks.claim_tasks,
    "take_outbox": postgres_mail.take_outbox,
    "put_document": postgres_documents.put_document,
    "drop_document": postgres_documents.drop_document,
    "append_audit": postgres_documents.append_audit,
    "rotate_audit": postgres_documents.rotate_audit,
    "sweep": postgres_tasks.sweep,
    "drop_tasks": postgres_history.drop_tasks,
    "sweep_claims": postgres_claims.sweep_claims,
    "sweep_documents": postgres_documents.sweep_documents,
    "lookup": postgres_claims.lookup,
    "unsettled": postgres_claims.unsettled,
    "task": postgres_tasks.task,
    "tasks": postgres_history.tasks,
    "count_tasks": postgres_history.count_tasks,
    "crowd": postgres_history.crowd,
    "dead": postgres_mail.dead,
    "count_outbox": postgres_mail.count_outbox,
    "document": postgres_documents.document,
    "documents": postgres_documents.documents,
    "audit_rows": postgres_documents.audit_rows,
    "audit_head": postgres_documents.audit_head,
    "ping": postgres_tasks.ping,
}
"""What is done for each kind of operation, in the order of a batch: ends before beginnings, reads last."""

_UNREACHABLE = ("08", "25", "28", "3D", "42", "53", "57", "58", "F0", "XX")
"""Classes of SQLSTATE that say the database cannot serve now: connection, read-only, login, privileges or missing
tables, resources, shutdown or statement timeout, system, configuration, internal."""

# The row or the value is at fault, not the database.
_AT_FAULT = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, ValueError, TypeError, OverflowError)

_KEPT: list[Connection] = []
"""Connections of a parent process: closing one here would say goodbye on the parent's socket."""


class PostgresRecords(SqlRecords):
    """Records in the database of postgresql://user:password@host:port/name.

    Options after ? are libpq's (sslmode=verify-full) besides migrate=never. Time is the database's clock. One
    connection a process; statements of one kind that are asked for meanwhile become one statement, which is its own
    transaction. Through a pooler of connections it needs session mode.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.url = public_url(url)
        self._conninfo, self._may_migrate = _read(url)
        self._clock = clock
        self._tidy_at = clock.monotonic() + TIDY_S
        self._connection: Connection | None = None
        self._hurried = False
        self._batcher = Batcher(
            self.url,
            self._flush,
            interrupt=self._interrupt,
            forked=self._leave,
            timeout_s=TIMEOUT_S,
            clock=clock,
        )

    def migrate(self) -> list[str]:
        """Move the schema to this code's; what was applied, as "1 name". Raises ConfigurationError for a newer one."""
        try:
            with psycopg.connect(autocommit=True, **self._conninfo) as connection:
                _prepare(connection)
                return migrate_postgres(connection, self.url, patience_s=60.0)
        except psycopg.Error as error:
            raise self._outage(error) from error

    def schema_version(self) -> int:
        """The number of the schema in the database, 0 for none."""
        try:
            with psycopg.connect(autocommit=True, **self._conninfo) as connection, _bounded(connection, TIMEOUT_S):
                _prepare(connection)
                return postgres_version(connection)
        except psycopg.Error as error:
            raise self._outage(error) from error

    def close(self) -> None:
        self._batcher.close()
        self._drop()

    # The batch.

    def _flush(self, batch: list[Pending[Any]]) -> None:
        try:
            connection = self._live() or self._connect()
        except ConfigurationError as error:
            for pending in batch:
                pending.error = error
            return
        groups: dict[str, list[Pending[Any]]] = {}
        for pending in batch:
            pending.value = OPEN
            groups.setdefault(pending.op[0], []).append(pending)
        try:
            for kind in KINDS if len(groups) > 1 else groups:
                if kind in groups:
                    self._act(connection, kind, groups[kind])
            if self._hurried:
                self._wait_for_rows(connection, LOCK_MS)
        except StoreUnavailableError:  # what was done before is committed
            answer_all([pending for pending in batch if pending.value is not OPEN or pending.error is not None])
            raise
        self._tidy([pending for kind in TIDIES for pending in groups.get(kind, ())])

    def _act(self, connection: Connection, kind: str, group: list[Pending[Any]]) -> None:
        """Do a group together; halves of it, and halves of those, where one of them cannot be done."""
        error: Exception | None = None
        for _ in range(1 + RETRIES):
            try:
                KINDS[kind](connection, group)
                return
            except Exception as raised:
                error = raised
                self._raise_if_unreachable(connection, raised)
            group = [pending for pending in group if pending.value is OPEN and pending.error is None]
            if not group:
                return
            if not _again(error):
                break
        assert error is not None
        if len(group) == 1:
            group[0].error = _fault(error, kind)
            return
        if isinstance(error, psycopg.errors.LockNotAvailable) and not self._hurried:
            self._wait_for_rows(connection, HURRY_MS)
        middle = len(group) // 2
        self._act(connection, kind, group[:middle])
        self._act(connection, kind, group[middle:])

    def _wait_for_rows(self, connection: Connection, longest_ms: int) -> None:
        try:
            connection.execute(f"set lock_timeout = {longest_ms}")
        except psycopg.Error as error:
            self._drop()
            raise self._outage(error) from error
        self._hurried = longest_ms != LOCK_MS

    def _raise_if_unreachable(self, connection: Connection, error: Exception) -> None:
        if not isinstance(error, psycopg.Error):
            return
        state = error.sqlstate
        if state is None and isinstance(error, psycopg.DataError | psycopg.ProgrammingError):
            return  # the client refused the value
        if connection.closed or state is None or state.startswith(_UNREACHABLE):
            self._drop()
            raise self._outage(error) from error

    # The connection.

    def _connect(self) -> Connection:
        try:
            connection: Connection = psycopg.connect(autocommit=True, **self._conninfo)
            self._connection, self._hurried = connection, False  # from here on it can be interrupted
            _prepare(connection)
            if ensure(postgres_version(connection), self.url, may_migrate=self._may_migrate):
                migrate_postgres(connection, self.url, patience_s=TIMEOUT_S / 2)
        except psycopg.Error as error:
            self._drop()
            raise self._outage(error) from error
        except BaseException:
            self._drop()
            raise
        return connection

    def _live(self) -> Connection | None:
        """The connection, unless the server has ended it meanwhile: then nothing was lost on it."""
        connection = self._connection
        if connection is None:
            return None
        try:
            poll = select.poll()
            poll.register(connection.pgconn.socket, select.POLLIN)
            for _ in range(3):  # a farewell, then the end of the stream
                if poll.poll(0):
                    connection.pgconn.consume_input()
        except (psycopg.Error, OSError):
            self._drop()
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _leave(self) -> None:
        if self._connection is not None:
            _KEPT.append(self._connection)
            self._connection = None

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            _cut(connection)

    def _outage(self, error: BaseException) -> StoreUnavailableError:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return StoreUnavailableError(f"the records at {self.url} cannot be reached: {why}")


def _cut(connection: Connection) -> None:
    """Shut the connection's socket, which wakes whoever waits for a frozen server."""
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as shared:
            shared.shutdown(socket.SHUT_RDWR)


@contextmanager
def _bounded(connection: Connection, longest_s: float) -> Iterator[None]:
    """Cut the connection if this takes longer."""
    over = threading.Event()

    def watch_it() -> None:
        if not over.wait(longest_s):
            _cut(connection)

    watch = threading.Thread(target=watch_it, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _prepare(connection: Connection) -> None:
    """Set what holds for a session."""
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items())
    connection.execute(f"select {settings}")
    # An acknowledged write is on disk, whatever the server's default is.
    on = "select set_config('synchronous_commit', 'on', false)"
    connection.execute(f"{on} where current_setting('synchronous_commit') = 'off'")


def _again(error: Exception) -> bool:
    """Whether the same statement may do now: the database rolled it back, or another took a turn first."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(("40", "23505"))


def _read(url: str) -> tuple[dict[str, Any], bool]:
    """What libpq is given, and whether the schema may be moved."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _no_url(url) from None
    if parts.fragment or "@" in parts.netloc.rpartition("@")[0] + parts.path:
        raise _no_url(url)  # libpq would take the rest of the password for a host or a database, and say so
    options = parse_qsl(parts.query, keep_blank_values=True)
    migrate = dict(options).get("migrate", "auto")
    if migrate not in ("auto", "never"):
        raise ConfigurationError(f"{public_url(url)}: migrate must be auto or never")
    query = urlencode([(name, value) for name, value in options if name != "migrate"])
    try:
        given = conninfo_to_dict(urlunsplit(parts._replace(query=query)))
    except psycopg.Error:  # what it says may be part of a password
        raise _no_url(url) from None
    return {**_CONNECT, **given}, migrate == "auto"


def _no_url(url: str) -> ConfigurationError:
    return ConfigurationError(
        f"{public_url(url)} is no URL of a PostgreSQL database; write postgresql://user:password@host:port/name, "
        "special characters of the password percent-encoded"
    )


def _fault(error: Exception, kind: str) -> Exception:
    """What an operation that alone cannot be done is told."""
    if isinstance(error, InputValidationError | ConfigurationError):
        return error
    state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
    fault: Exception
    if isinstance(error, psycopg.errors.LockNotAvailable):
        fault = StoreUnavailableError(f"{kind}: another session holds the row and does not let go")
    elif isinstance(error, _AT_FAULT) or state.startswith(("54", "P0")):
        fault = InputValidationError(f"{kind}: the database cannot keep this row: {str(error).splitlines()[0]}")
    else:
        fault = StoreUnavailableError(f"{kind} failed: {type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault
