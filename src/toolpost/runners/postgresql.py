"""PostgreSQL: one statement a call, with bound parameters, over a few connections for each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from toolpost.calls.errors import (
    ConfigurationError,
    InputValidationError,
    RemoteToolError,
    SecurityError,
    ToolTimeoutError,
)
from toolpost.runners.clients import PerLoop
from toolpost.runners.db import Rows, outcome_of, setting, sql_of
from toolpost.runners.threads import Threads

CONNECT_S: Final = 10.0
_READS: Final = re.compile(r"\s*(select|table|values)\b", re.IGNORECASE)
_INTO: Final = re.compile(r"\binto\b", re.IGNORECASE)
_KINDS: Final = {
    "40001": "transient",
    "40P01": "transient",
    "55P03": "transient",
    "57014": "timeout",
    "57P": "unavailable",
    "53": "unavailable",
    "58": "unavailable",
    "08": "network",
    "28": "tool_error",
    "3D": "tool_error",
    "XX": "tool_error",
}
"""SQLSTATE, whole or its beginning (PostgreSQL, appendix A) -> kind. All others are the caller's own."""


class PostgreSqlStrategy:
    """Runs {"query", "params"} with %s or %(name)s as places, each statement in a transaction of its own.

    Objects and lists among params are bound as JSON. What a statement leaves behind in its session (settings, roles,
    locks, temporary tables) is discarded before another call gets the connection.
    """

    def __init__(self, threads: Threads) -> None:
        self._pools: PerLoop[_Pools] = PerLoop(_Pools)

    async def execute_operation(self, args: dict[str, Any], spec: Any, timeout: float | None = None) -> Any:
        """{"operation", "rows", "row_count", "status"}, or "rows_affected" for what gives no rows."""
        query, params = sql_of(args)
        pools = self._pools.here() or await self._pools.get()
        where = _where(spec)
        pool = pools.get(where)
        if pool is None:
            pool = pools[where] = _Pool(dict(zip(where[::2], where[1::2], strict=True)), setting(spec, "pool_size", 10))
        async with pool.connection(timeout) as connection:
            return await _run(connection, query, params)

    def close(self) -> None:
        """Close all connections, each by its own loop."""
        self._pools.close()


async def _run(connection: psycopg.AsyncConnection[Any], query: str, params: list[Any] | dict[str, Any] | None) -> Any:
    try:
        async with connection.cursor() as cursor:
            # Without parameters only the binary format keeps the server to a single statement.
            bound = _bound(params) if params else None
            binary = None if bound else True
            if _only_reads(query):  # row by row, so that too many never fill the memory
                found = Rows()
                rows: Any = cursor.stream(query, bound, binary=binary)
                async with contextlib.aclosing(rows):
                    async for row in rows:
                        found.take(row)
                return outcome_of(query, [column.name for column in cursor.description or ()], found.rows, 0)
            await cursor.execute(query, bound, binary=binary)
            if connection.info.transaction_status != TransactionStatus.IDLE:
                raise RemoteToolError("postgresql: a transaction cannot be begun: each call is one", kind="caller")
            columns = None if cursor.description is None else [column.name for column in cursor.description]
            found = Rows()
            if columns is not None:
                async for row in cursor:
                    found.take(row)
            return outcome_of(query, columns, found.rows, cursor.rowcount)
    except psycopg.Error as error:
        raise _told(error) from error


def _only_reads(query: str) -> bool:
    """Whether a statement gives rows for certain. SELECT INTO, and most that begin otherwise, may give none."""
    return _READS.match(query) is not None and _INTO.search(query) is None


def _bound(params: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
    def one(value: Any) -> Any:
        return Jsonb(value) if isinstance(value, dict) or (isinstance(value, list) and _is_nested(value)) else value

    return {k: one(v) for k, v in params.items()} if isinstance(params, dict) else [one(v) for v in params]


def _is_nested(values: list[Any]) -> bool:
    return any(isinstance(value, (dict, list)) for value in values)


class _Pool:
    """At most size connections of one event loop to one database; they are opened when needed and kept."""

    def __init__(self, where: dict[str, str], size: int) -> None:
        self._where = where
        self._places = asyncio.Semaphore(size)
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    @asynccontextmanager
    async def connection(self, timeout_s: float | None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """One for this task alone. One that is broken, or was left in the middle of something, is not kept."""
        async with self._places:
            connection = await self._take(timeout_s)
            clean = False
            try:
                try:
                    yield connection
                    clean = True
                except (RemoteToolError, SecurityError, InputValidationError):
                    clean = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
                    raise
                finally:
                    if clean:
                        with contextlib.suppress(psycopg.Error):
                            await connection.execute("DISCARD ALL")
                            self._idle.append(connection)
                            connection = None  # type: ignore[assignment]
            finally:
                if connection is not None:
                    await connection.close()

    async def _take(self, timeout_s: float | None) -> psycopg.AsyncConnection[Any]:
        while self._idle:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            await connection.close()
        limit_s = CONNECT_S if timeout_s is None else min(CONNECT_S, timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                connection = await psycopg.AsyncConnection.connect(
                    **self._where,  # type: ignore[arg-type]
                    autocommit=True,
                    prepare_threshold=None,
                )
        except TimeoutError as error:
            late = ToolTimeoutError(f"postgresql: no connection within {limit_s:g} s")
            late.outcome = "not_run"
            raise late from error
        except psycopg.Error as error:
            if error.sqlstate is None and not isinstance(error, psycopg.OperationalError):
                # Which is about the settings, and quotes them, passwords too.
                raise ConfigurationError(
                    "postgresql: the settings of the spec name no database that can be connected to; check its "
                    "connection_string, or host, port and ssl_mode"
                ) from None
            told = _told(error, "network")
            told.outcome = "not_run"
            raise told from error
        return connection

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class _Pools(dict[tuple[str, ...], _Pool]):
    """The pools of one event loop, by what to connect with."""

    async def __aenter__(self) -> _Pools:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for pool in self.values():
            await pool.close()


def _has_news(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether an idle connection is gone, or has something to read: the server's farewell, most likely."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _where(spec: Any) -> tuple[str, ...]:
    """What to connect with, as names and values in turn."""
    given = setting(spec, "connection_string")
    if given is not None:
        return ("conninfo", given)
    names = {"host": "host", "port": "port", "database": "dbname", "username": "user", "password": "password"}
    names["ssl_mode"] = "sslmode"
    found = {ours: setting(spec, theirs) for theirs, ours in names.items()}
    return tuple(
        part if isinstance(part, str) else str(part) for pair in found.items() if pair[1] is not None for part in pair
    )


def _told(error: psycopg.Error, unknown: str | None = None) -> RemoteToolError:
    """The typed error of what the server or the driver says, without settings."""
    state = error.sqlstate
    if state is not None:
        kind = next((kind for begins, kind in _KINDS.items() if state.startswith(begins)), "caller")
        said = error.diag.message_primary or type(error).__name__
        return RemoteToolError(f"postgresql: {said} ({state})"[:500], kind=kind, details={"sqlstate": state})
    lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    if lost:
        said = "the database could not be connected to" if unknown else "the connection was lost"
        return RemoteToolError(f"postgresql: {said}", kind="network", outcome="unknown")
    return RemoteToolError(f"postgresql: {error}"[:500], kind=unknown or "caller")
