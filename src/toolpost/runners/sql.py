"""SqlDatabase: a database that statements of models may be run on, by its URL and under a SqlPolicy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.security.sql import Relation, SqlPolicy, TableName
from toolpost.security.sql_names import fold, folded

MAX_LISTED: Final = 500
"""The most tables that one answer lists."""
_DRIVERS: Final = {
    "sqlite": ("sql_sqlite:SqliteDatabase", ""),
    "postgresql": ("sql_postgresql:PostgreSqlDatabase", "postgres"),
    "postgres": ("sql_postgresql:PostgreSqlDatabase", "postgres"),
}


class _Database(Protocol):
    @property
    def dialect(self) -> str: ...
    async def query(self, sql: str, params: Any, max_rows: int, timeout_s: float) -> dict[str, Any]: ...
    async def relations(self, schema: str | None, timeout_s: float) -> list[Relation]: ...
    async def column_types(
        self, relations: Sequence[Relation], timeout_s: float
    ) -> dict[TableName, list[dict[str, Any]]]: ...
    async def describe(self, table: TableName, timeout_s: float) -> dict[str, Any]: ...
    def close(self) -> None: ...


class SqlDatabase:
    """Runs what the policy allows, and tells of what the policy shows.

    url is sqlite:///relative/path, sqlite:////absolute/path or postgresql://user:password@host/database. Nothing is
    opened before it is needed. Usable from any event loop. Raises ConfigurationError for a URL that is not one.
    """

    def __init__(self, url: str, policy: SqlPolicy | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.policy = policy or SqlPolicy()
        self._database = _database(url, self.policy, clock)

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgres"."""
        return self._database.dialect

    def __repr__(self) -> str:
        return f"SqlDatabase({self.dialect})"

    async def query(
        self, sql: str, params: Any = None, *, max_rows: int | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Run one statement: {"columns", "rows", "row_count", "truncated", "truncated_by"}; writes, "rows_affected".

        params is a list or an object of values to bind. max_rows and timeout_s may only be less than the policy's.
        Raises SecurityError for what the policy refuses, InputValidationError for params that do not fit, and
        RemoteToolError for what the database says.
        """
        rows = self.policy.max_rows if max_rows is None else max(0, min(max_rows, self.policy.max_rows))
        return await self._database.query(sql, params, rows, self._limit(timeout_s))

    async def schema_info(self, schema: str | None = None, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The tables and views that may be queried, with the columns that may be read."""
        relations = await self._database.relations(schema, self._limit(timeout_s))
        shown = relations[:MAX_LISTED]
        columns = await self._database.column_types(shown, self._limit(timeout_s))
        tables = [
            {
                "schema": one.name.schema,
                "name": one.name.name,
                "kind": one.kind,
                "columns": [{key: column[key] for key in ("name", "type", "nullable")} for column in columns[one.name]],
            }
            for one in shown
            if columns[one.name]
        ]
        truncated = len(relations) > len(shown)
        return {"dialect": self.dialect, "tables": tables, "count": len(tables), "truncated": truncated}

    async def table_info(self, table: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """One table or view: columns, primary_key, foreign_keys, indexes, row_estimate. "orders" or "sales.orders"."""
        schema, dot, name = table.rpartition(".")
        parts = [fold(folded(part, True, self.dialect), self.dialect) for part in ([schema] if dot else [])]
        known = TableName(parts[0] if parts else None, fold(folded(name, True, self.dialect), self.dialect))
        return await self._database.describe(known, self._limit(timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _limit(self, timeout_s: float | None) -> float:
        return self.policy.timeout_s if timeout_s is None else max(0.001, min(timeout_s, self.policy.timeout_s))


def _database(url: str, policy: SqlPolicy, clock: Clock) -> _Database:
    scheme = url.partition("://")[0].lower() if isinstance(url, str) and "://" in url else ""
    if scheme not in _DRIVERS:
        known = "sqlite:///file.db, sqlite:////absolute/file.db and postgresql://user:password@host/database"
        raise ConfigurationError(f"the SQL tools know {known}, but not {scheme or 'what is no URL'}://")
    place, extra = _DRIVERS[scheme]
    module, _, name = place.partition(":")
    try:
        import_module("toolpost.security.sql_tree")  # so that a missing sqlglot is told here, not at the first call
        made = getattr(import_module(f"toolpost.runners.{module}"), name)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"{scheme}:// needs the package {missing.name}; install toolpost[{extra}]"
        ) from missing
    database: _Database = made(_path(url), policy, clock) if scheme == "sqlite" else made(url, policy)
    return database


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or not path or path == ":memory:" or parts.query or parts.fragment or "\0" in path:
        raise ConfigurationError(
            "a SQLite URL is sqlite:///file.db (relative) or sqlite:////absolute/file.db, without anything else; "
            "a database in memory would be empty"
        )
    return Path(os.path.abspath(path))
