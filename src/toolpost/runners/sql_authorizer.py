"""What SQLite may do for a statement under a SqlPolicy, asked by SQLite itself for every table, column and function."""

from __future__ import annotations

import sqlite3
from typing import Final

from toolpost.calls.errors import SecurityError
from toolpost.security.sql import SqlPolicy, TableName
from toolpost.security.sql_names import fold, refusal
from toolpost.security.sql_words import FUNCTIONS

HOMES: Final = ("main",)
"""The one schema of a file."""
_CHANGES: Final = {
    sqlite3.SQLITE_INSERT: "insert",
    sqlite3.SQLITE_UPDATE: "update",
    sqlite3.SQLITE_DELETE: "delete",
}
_OPERATORS: Final = frozenset(("->", "->>", "current_date", "current_time", "current_timestamp"))
"""Signs and words that SQLite takes for functions."""
TABLE_FUNCTIONS: Final = frozenset(("json_each", "json_tree"))
"""Functions that give tables, which SQLite takes for tables without a file."""


class Authorizer:
    """What SQLite asks before it compiles a statement. Everything that the policy does not allow is refused.

    views are those that the statement may read through, behind the tables that they read. refused says why the last
    refusal was made.
    """

    def __init__(
        self, policy: SqlPolicy, views: frozenset[str] = frozenset(), behind: frozenset[str] = frozenset()
    ) -> None:
        self._policy, self._views, self._behind = policy, views, behind
        self._functions = FUNCTIONS["sqlite"] | _OPERATORS | {name.lower() for name in policy.functions}
        self.refused: SecurityError | None = None

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, inner: str | None
    ) -> int:
        if self._allows(action, first or "", second or "", schema or "main", inner):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _allows(self, action: int, first: str, second: str, schema: str, inner: str | None) -> bool:
        through_view = inner is not None and fold(inner, "sqlite") in self._views
        if action == sqlite3.SQLITE_SELECT:
            return True
        if action == sqlite3.SQLITE_RECURSIVE:
            return self._policy.recursive or through_view or self._refuse("sql.recursive", "a recursive query", first)
        if action == sqlite3.SQLITE_FUNCTION:
            known = second.lower() in self._functions
            return known or self._refuse("sql.function", "the function", second)
        table = TableName(fold(schema, "sqlite"), fold(first, "sqlite"))
        if action == sqlite3.SQLITE_READ:
            if through_view and schema == "main":
                return True
            if first.lower() in TABLE_FUNCTIONS:
                return True
            if second:
                allowed = self._policy.may_read(table, second, "sqlite", homes=HOMES)
            else:  # that there are rows, as count(*) has it; SQLite does not say for which view it asks
                allowed = table.name in self._behind or self._policy.may_use(table, "sqlite", homes=HOMES)
            return allowed or self._refuse("sql.column", "reading", f"{first}.{second}")
        kind = _CHANGES.get(action)
        writable = kind is not None and inner is None and self._policy.may_write(table, kind, "sqlite", homes=HOMES)
        if writable and (kind != "update" or self._policy.may_read(table, second, "sqlite", homes=HOMES)):
            return True
        return self._refuse("sql.write" if kind else "sql.statement", kind or "that", first or second)

    def _refuse(self, rule: str, what: str, name: str) -> bool:
        self.refused = refusal(
            rule, f"the database may not do this: {what} {name[:80]!r}", "leave it out", subject=name
        )
        return False
