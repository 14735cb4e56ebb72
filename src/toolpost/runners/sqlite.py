"""SQLite: one statement a call, with bound parameters, in a worker thread that the deadline interrupts."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from toolpost.calls.errors import RemoteToolError
from toolpost.runners.db import MAX_BYTES, Rows, outcome_of, setting, sql_of
from toolpost.runners.threads import Threads

_KINDS = {
    "SQLITE_BUSY": "transient",
    "SQLITE_LOCKED": "transient",
    "SQLITE_FULL": "unavailable",
    "SQLITE_IOERR": "unavailable",
    "SQLITE_CANTOPEN": "unavailable",
    "SQLITE_CORRUPT": "tool_error",
    "SQLITE_NOTADB": "tool_error",
}
_OF_THE_PROCESS = frozenset({"temp_store_directory", "data_store_directory", "soft_heap_limit", "hard_heap_limit"})


class SqliteStrategy:
    """Runs {"query", "params"} on the file of the spec's database_path, each statement in a transaction of its own.

    A file is opened for each call. ":memory:" is one database for each spec, as long as the strategy lives.
    Statements cannot reach other files (ATTACH), nor load extensions, nor leave a transaction open.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._in_memory: dict[str, tuple[sqlite3.Connection, threading.Lock]] = {}
        self._lock = threading.Lock()

    async def execute_operation(self, args: dict[str, Any], spec: Any, timeout: float | None = None) -> Any:
        """{"operation", "rows", "row_count", "status"}, or "rows_affected" for what gives no rows."""
        query, params = sql_of(args)
        statement = _Statement(query, params)
        wait_s = setting(spec, "timeout", 5.0)
        wait_s = wait_s if timeout is None else min(wait_s, timeout)
        try:
            return await self._threads.run(lambda: self._run(statement, spec, wait_s))
        except asyncio.CancelledError:
            statement.interrupt()
            raise

    def _run(self, statement: _Statement, spec: Any, wait_s: float) -> Any:
        with self._connection(spec, wait_s) as connection:
            return statement.run(connection)

    @contextlib.contextmanager
    def _connection(self, spec: Any, wait_s: float) -> Iterator[sqlite3.Connection]:
        path = setting(spec, "database_path", ":memory:")
        if path != ":memory:":
            with contextlib.closing(_connect(path, wait_s)) as connection:
                yield connection
            return
        with self._lock:
            kept = self._in_memory.get(spec.id)
            if kept is None:
                kept = self._in_memory[spec.id] = (_connect(path, wait_s), threading.Lock())
        connection, lock = kept
        if not lock.acquire(timeout=wait_s):
            raise RemoteToolError(f"sqlite: {path} is busy", kind="transient", outcome="not_run")
        try:
            yield connection
        finally:
            lock.release()

    def close(self) -> None:
        """Drop the databases in memory."""
        with self._lock:
            kept, self._in_memory = list(self._in_memory.values()), {}
        for connection, lock in kept:
            connection.interrupt()
            with lock:
                connection.close()


class _Statement:
    """One statement, and the connection it runs on, so that another thread can interrupt it."""

    def __init__(self, query: str, params: list[Any] | dict[str, Any] | None) -> None:
        self._query, self._params = query, params or ()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._stopped = False

    def run(self, connection: sqlite3.Connection) -> Any:
        with self._lock:
            if self._stopped:
                raise RemoteToolError("sqlite: the call was given up", kind="timeout", outcome="not_run")
            self._connection = connection
        try:
            found = Rows()
            with contextlib.closing(connection.execute(self._query, self._params)) as cursor:
                columns = None if cursor.description is None else [column[0] for column in cursor.description]
                for row in cursor if columns is not None else ():
                    found.take(row)
                affected = cursor.rowcount
            if connection.in_transaction:
                raise RemoteToolError("sqlite: a transaction cannot be begun: each call is one", kind="caller")
            return outcome_of(self._query, columns, found.rows, affected)
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise _told(error) from error
        finally:
            with self._lock:
                self._connection = None
            if connection.in_transaction:
                connection.rollback()

    def interrupt(self) -> None:
        """Have it end early: it is rolled back."""
        with self._lock:
            self._stopped = True
            if self._connection is not None:
                self._connection.interrupt()


def _allowed(action: int, name: str | None, *rest: object) -> int:
    """Whether a statement may do that: not what holds for all databases of the process."""
    everywhere = action == sqlite3.SQLITE_PRAGMA and (name or "").lower() in _OF_THE_PROCESS
    return sqlite3.SQLITE_DENY if everywhere else sqlite3.SQLITE_OK


def _connect(path: str, wait_s: float) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        connection.set_authorizer(_allowed)
    except sqlite3.Error as error:
        told = _told(error)
        told.outcome = "not_run"
        raise told from error
    return connection


def _told(error: Exception) -> RemoteToolError:
    """The typed error of what the driver says. A statement that is wrong is the caller's own mistake."""
    name = str(getattr(error, "sqlite_errorname", ""))
    kind = next((kind for begins, kind in _KINDS.items() if name.startswith(begins)), "caller")
    details = {"sqlite_error": name} if name else {}
    return RemoteToolError(f"sqlite: {error}"[:500], kind=kind, details=details)
