"""SqliteRecords: Records in one file, shared by any number of processes of a machine; one commit for a whole batch."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, InputValidationError, StoreUnavailableError
from toolpost.stores import (
    Pending,
    public_url,
    sqlite_claims,
    sqlite_documents,
    sqlite_history,
    sqlite_mail,
    sqlite_tasks,
)
from toolpost.stores.migrations import ensure, migrate_sqlite, sqlite_version
from toolpost.stores.pending import Batcher
from toolpost.stores.sql import TIDIES, TIDY_S, SqlRecords

OLDEST = (3, 35, 0)
"""The first SQLite with RETURNING."""

BUSY_S = 5.0
"""How long a batch waits for another process that is writing."""

MAX_BATCH = 64
"""Operations of one commit. Half of a hundred callers' operations are written while the loop answers the other half;
with all of them in one batch the two take turns, which is a fifth slower, and the slowest calls are slower by far."""

WRITES: dict[str, Any] = {
    "put_outbox": sqlite_mail.put_outbox,
    "submit": sqlite_tasks.submit,
    "record_tasks": sqlite_history.record_tasks,
    "finish": sqlite_claims.finish,
    "finish_task": sqlite_tasks.finish_task,
    "release": sqlite_claims.release,
    "renew": sqlite_claims.renew,
    "renew_tasks": sqlite_tasks.renew_tasks,
    "cancel_task": sqlite_tasks.cancel_task,
    "bury": sqlite_mail.bury,
    "redrive": sqlite_mail.redrive,
    "forget": sqlite_claims.forget,
    "sent": sqlite_mail.sent,
    "defer_outbox": sqlite_mail.defer_outbox,
    "claim": sqlite_claims.claim,
    "claim_task": sqlite_tasks.claim_task,
    "claim_tasks": sqlite_tasks.claim_tasks,
    "take_outbox": sqlite_mail.take_outbox,
    "put_document": sqlite_documents.put_document,
    "drop_document": sqlite_documents.drop_document,
    "append_audit": sqlite_documents.append_audit,
    "rotate_audit": sqlite_documents.rotate_audit,
    "sweep": sqlite_tasks.sweep,
    "drop_tasks": sqlite_history.drop_tasks,
    "sweep_claims": sqlite_claims.sweep_claims,
    "sweep_documents": sqlite_documents.sweep_documents,
}
"""What is done for each kind of operation, in the order of a batch: ends before beginnings, so that a claim meets what
was finished beside it."""

READS: dict[str, Any] = {
    "lookup": sqlite_claims.lookup,
    "unsettled": sqlite_claims.unsettled,
    "task": sqlite_tasks.task,
    "tasks": sqlite_history.tasks,
    "count_tasks": sqlite_history.count_tasks,
    "crowd": sqlite_history.crowd,
    "dead": sqlite_mail.dead,
    "count_outbox": sqlite_mail.count_outbox,
    "document": sqlite_documents.document,
    "documents": sqlite_documents.documents,
    "audit_rows": sqlite_documents.audit_rows,
    "audit_head": sqlite_documents.audit_head,
    "ping": sqlite_tasks.ping,
}
_ALL = WRITES | READS

# The row or the value is at fault, not the database.
_AT_FAULT = (
    UnicodeError,
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
_KEPT: list[sqlite3.Connection] = []
"""Connections of a parent process: closing one here could take the parent's write-ahead log away."""


class SqliteRecords(SqlRecords):
    """Records in the file of sqlite:///relative/path or sqlite:////absolute/path (?migrate=never to change no schema).

    A write is answered once it is synced to disk. Leases and lifetimes run by the machine's wall clock, which all
    processes that share the file see alike.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise ConfigurationError(
                f"sqlite:// needs SQLite {'.'.join(map(str, OLDEST))}, and this Python has {sqlite3.sqlite_version}"
            )
        self.path, self._may_migrate = _read(url)
        self.url = public_url(url)
        self._clock = clock
        self._tidy_at = clock.monotonic() + TIDY_S
        self._connection: sqlite3.Connection | None = None
        self._batcher = Batcher(
            f"sqlite {self.path}",
            self._flush,
            interrupt=self._interrupt,
            forked=self._leave,
            max_batch=MAX_BATCH,
            timeout_s=BUSY_S * 2,
            clock=clock,
        )

    def migrate(self) -> list[str]:
        """Move the schema to this code's; what was applied, as "1 name". Raises ConfigurationError for a newer one."""
        try:
            connection = self._open()
            try:
                return migrate_sqlite(connection, self.path)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self._outage(error) from error

    def schema_version(self) -> int:
        """The number of the schema in the file, 0 for none."""
        try:
            connection = self._open()
            try:
                return sqlite_version(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self._outage(error) from error

    def close(self) -> None:
        self._batcher.close()
        self._drop()

    # The batch.

    def _flush(self, batch: list[Pending[Any]]) -> None:
        try:
            connection = self._connection or self._connect()
        except ConfigurationError as error:
            for pending in batch:
                pending.error = error
            return
        try:
            self._together(connection, batch)
        except sqlite3.Error as error:
            if not isinstance(error, _AT_FAULT):
                self._drop()
                raise self._outage(error) from error
            self._one_by_one(batch)
        except Exception:
            self._one_by_one(batch)
        self._tidy([pending for pending in batch if pending.op[0] in TIDIES])

    def _together(self, connection: sqlite3.Connection, batch: list[Pending[Any]]) -> None:
        """All operations in one transaction: one sync to disk."""
        groups: dict[str, list[Pending[Any]]] = {}
        for pending in batch:
            kind = pending.op[0]
            group = groups.get(kind)
            if group is None:
                group = groups[kind] = []
            group.append(pending)
        connection.execute("begin" if READS.keys() >= groups.keys() else "begin immediate")
        try:
            now = self._clock.now()
            if len(groups) == 1:
                [(kind, group)] = groups.items()
                _ALL[kind](connection, group, now)
            else:
                for kind, act in _ALL.items():
                    if kind in groups:
                        act(connection, groups[kind], now)
            connection.execute("commit")
        except BaseException:
            self._roll_back(connection)
            raise

    def _one_by_one(self, batch: list[Pending[Any]]) -> None:
        """Again, because one of them cannot be done: only that one fails."""
        connection = self._connection or self._connect()
        try:
            connection.execute("begin immediate")
            now = self._clock.now()
            for pending in batch:
                pending.value = None
                connection.execute("savepoint one")
                try:
                    _ALL[pending.op[0]](connection, [pending], now)
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and not isinstance(error, _AT_FAULT):
                        raise
                    connection.execute("rollback to one")
                    pending.error = _fault(error, pending.op[0])
                connection.execute("release one")
            connection.execute("commit")
        except sqlite3.Error as error:
            self._drop()
            for pending in batch:
                pending.error = None
            raise self._outage(error) from error

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("rollback")
            except sqlite3.Error:
                self._drop()

    # The connection.

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(OSError):  # it is there, or cannot be made: then SQLite says what is wrong
            # For its owner alone, as it holds arguments and results; SQLite gives its log files the same mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = self._open()
            try:
                if ensure(sqlite_version(connection), self.path, may_migrate=self._may_migrate):
                    migrate_sqlite(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._outage(error) from error
        self._connection = connection
        return connection

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
            connection.interrupt()

    def _outage(self, error: BaseException) -> StoreUnavailableError:
        return StoreUnavailableError(f"the records in {self.path} cannot be reached: {error}")


def _prepare(connection: sqlite3.Connection) -> None:
    """Set what holds for a connection; the file itself is switched to write-ahead logging once."""
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = on")
    connection.execute("pragma cache_size = -16000")
    connection.execute("pragma wal_autocheckpoint = 4000")
    for patience in range(100, -1, -1):  # SQLite does not wait for a lock by itself here
        try:
            if connection.execute("pragma journal_mode").fetchone()[0] != "wal":
                connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if not patience or error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            threading.Event().wait(0.02)


def _read(url: str) -> tuple[str, bool]:
    """The path in a URL, and whether the schema may be moved."""
    rest, _, query = url.partition("://")[2].partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    migrate = options.pop("migrate", "auto")
    if options or migrate not in ("auto", "never"):
        raise ConfigurationError(f"{public_url(url)}: after ? only migrate=never or migrate=auto may stand")
    path = unquote(rest.removeprefix("/"))
    if not rest.startswith("/") or path in ("", ":memory:"):
        raise ConfigurationError(
            f"records in SQLite need a file: sqlite:///relative/path or sqlite:////absolute/path, "
            f"got {public_url(url)!r}; for records in memory say memory://"
        )
    if not Path(path).absolute().parent.is_dir():
        hint = "" if path.startswith("/") else f" (an absolute path has four slashes: sqlite:////{path})"
        raise ConfigurationError(f"the folder {Path(path).absolute().parent} does not exist; make it first{hint}")
    return path, migrate == "auto"


def _fault(error: Exception, kind: str) -> Exception:
    if isinstance(error, InputValidationError | ConfigurationError):
        return error
    if isinstance(error, _AT_FAULT):
        fault = InputValidationError(f"{kind}: the database cannot keep this row: {error}")
        fault.__cause__ = error
        return fault
    unavailable = StoreUnavailableError(f"{kind} failed: {type(error).__name__}: {error}")
    unavailable.__cause__ = error
    return unavailable
