"""Which tables and columns a statement may name: the policy's entries, what the database says, and how both compare."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from toolpost.calls.errors import ConfigurationError, SecurityError

Dialect = Literal["sqlite", "postgres"]
Write = Literal["insert", "update", "delete"]

WRITES: Final[tuple[Write, ...]] = ("insert", "update", "delete")
HOME: Final[dict[str, str]] = {"sqlite": "main", "postgres": "public"}
"""The schema of a table that is named without one, where nobody knows better."""

_SYSTEM_SCHEMAS: Final = re.compile(r"pg_|information_schema\Z|temp\Z")
_SYSTEM_TABLES: Final = {
    "sqlite": re.compile(r"sqlite_|pragma_|dbstat\Z|bytecode\Z|tables_used\Z"),
    "postgres": re.compile(r"pg_"),
}
_LARGEST_NAME: Final = 63
"""PostgreSQL cuts longer names, so that they would mean another thing."""


def refusal(rule: str, why: str, way_out: str, *, subject: str | None = None) -> SecurityError:
    """The error for a statement that the policy refuses. rule is a stable id; subject the name that it is about."""
    details = {"parameter": "query", "rule": rule, "role": "sql", "kind": "sql"}
    if subject is not None:
        details["subject"] = subject[:200]
    return SecurityError(f"query: {why}; {way_out} (rule {rule})", details=details)


class TableName(NamedTuple):
    """A table's name as the database compares it; schema None where the statement gives none."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


class Read(NamedTuple):
    """What a view reads: a table, or one column of it."""

    table: TableName
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """What the database says of a table that a statement names.

    kind is "table", "view", "materialized view", "foreign table", "virtual table", which runs code of its own, or
    "shadow table", which holds what a virtual one shows. reads is what a view, or a table with children,
    leads to, however many steps away; foreign tables among it are named in remote. children are tables whose rows are
    a table's own as well.
    """

    name: TableName
    kind: str = "table"
    columns: tuple[str, ...] = ()
    reads: frozenset[Read] = frozenset()
    remote: frozenset[TableName] = frozenset()
    children: frozenset[TableName] = frozenset()


Relations = Mapping[TableName, Relation]
"""A table as the statement names it -> what it is. One that is not in it does not exist."""


def fold(name: str, dialect: str) -> str:
    """A name as the database compares it: SQLite ignores the case of ASCII letters, PostgreSQL folds before."""
    return _lower(name) if dialect == "sqlite" else name


def _lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def folded(name: str, quoted: bool, dialect: str) -> str:
    """A name of a statement in the spelling that is executed. Raises SecurityError for one that has no sure meaning."""
    if not name or "\0" in name or (dialect == "postgres" and len(name.encode("utf-8", "replace")) > _LARGEST_NAME):
        raise refusal(
            "sql.name", f"a name is empty, too long or holds a NUL: {name[:80]!r}", "use the table's own name"
        )
    if any(letter < " " or letter == "\x7f" for letter in name) or name != name.encode("utf-8", "replace").decode():
        raise refusal("sql.name", f"a name holds characters that cannot be shown: {name[:80]!r}", "use plain names")
    return name if quoted or dialect == "sqlite" else _lower(name)


class Names:
    """A policy's entries about tables and columns, for one dialect."""

    def __init__(
        self,
        tables: Mapping[str, Collection[str] | None] | None,
        deny_tables: Collection[str],
        deny_columns: Collection[str],
        dialect: str,
    ) -> None:
        self._dialect = dialect
        self._allowed: dict[TableName, frozenset[str] | None] | None = None
        if tables is not None:
            self._allowed = {
                table_name(entry, dialect): None if columns is None else frozenset(fold(c, dialect) for c in columns)
                for entry, columns in tables.items()
            }
        self._denied = {_lower_name(table_name(entry, dialect)) for entry in deny_tables}
        self._denied_columns = [_column_entry(entry) for entry in deny_columns]

    def named(self, table: TableName, homes: Collection[str]) -> bool:
        """Whether the policy allows the table by its own name, rather than because it denies it not."""
        return self._entry(table, homes) is not None

    def allows(self, table: TableName, homes: Collection[str]) -> bool:
        """Whether the table may be touched. homes are the schemas of what an entry names without one."""
        lower = _lower_name(table)
        if lower in self._denied or TableName(None, lower.name) in self._denied:
            return False
        if TableName(lower.schema, "*") in self._denied:
            return False
        if self._entry(table, homes) is not None:
            return True
        return self._allowed is None and not self.is_system(table)

    def is_system(self, table: TableName) -> bool:
        """Whether it belongs to the database itself: a catalogue, statistics, temporary tables."""
        if table.schema is not None and _SYSTEM_SCHEMAS.match(_lower(table.schema)):
            return True
        return _SYSTEM_TABLES[self._dialect].match(_lower(table.name)) is not None

    def allows_column(self, table: TableName, column: str, homes: Collection[str]) -> bool:
        """Whether that column of an allowed table may be touched."""
        lower = _lower(column)
        for schema, name, denied in self._denied_columns:
            if denied in (lower, "*") and self._is_about(table, schema, name):
                return False
        entry = self._entry(table, homes)
        return entry is None or entry[0] is None or fold(column, self._dialect) in entry[0]

    def has_column_rules(self, table: TableName, homes: Collection[str]) -> bool:
        """Whether anything is said of that table's columns."""
        entry = self._entry(table, homes)
        if entry is not None and entry[0] is not None:
            return True
        return any(self._is_about(table, schema, name) for schema, name, _ in self._denied_columns)

    @staticmethod
    def _is_about(table: TableName, schema: str | None, name: str) -> bool:
        same = schema is None or table.schema is None or schema == _lower(table.schema)
        return same and name in (_lower(table.name), "*")

    def _entry(self, table: TableName, homes: Collection[str]) -> tuple[frozenset[str] | None] | None:
        if self._allowed is None:
            return None
        for name in (table, *self._same(table, homes)):
            if name in self._allowed:
                return (self._allowed[name],)
        return None

    @staticmethod
    def _same(table: TableName, homes: Collection[str]) -> list[TableName]:
        """Other entries that mean this table."""
        if table.schema is None:
            return [TableName(home, table.name) for home in homes]
        return [TableName(None, table.name)] if table.schema in homes else []


def table_name(entry: str, dialect: str) -> TableName:
    """The table that an entry of a policy names: "orders" or "sales.orders"."""
    schema, dot, name = entry.rpartition(".")
    return TableName(fold(schema, dialect) if dot else None, fold(name, dialect))


def check_table_entry(where: str, entry: object, *, star: bool = False) -> None:
    """Refuse what is no entry for a table. Raises ConfigurationError."""
    if not isinstance(entry, str) or entry.count(".") > 1 or not all(entry.split(".")) or "\0" in entry:
        raise ConfigurationError(f"{where}: {entry!r:.120} names no table; write 'orders' or 'sales.orders'")
    if "*" in entry and not (star and entry.endswith(".*") and entry.count("*") == 1):
        raise ConfigurationError(f"{where}: {entry!r:.120} has a '*', which stands only in deny_tables, as 'schema.*'")


def _column_entry(entry: str) -> tuple[str | None, str, str]:
    *schema, table, column = _lower(entry).split(".")
    return (schema[0] if schema else None, table, column)


def check_column_entry(entry: object) -> None:
    """Refuse what is no entry for a column. Raises ConfigurationError."""
    if not isinstance(entry, str) or entry.count(".") not in (1, 2) or not all(entry.split(".")) or "\0" in entry:
        raise ConfigurationError(
            f"deny_columns: {entry!r:.120} names no column; write 'users.password', or '*.password' for every table"
        )


def _lower_name(table: TableName) -> TableName:
    return TableName(None if table.schema is None else _lower(table.schema), _lower(table.name))


def too_many_changes(most: int) -> SecurityError:
    """The refusal of a write that was rolled back."""
    return refusal("sql.changes", f"it would change over {most} rows, and was undone", "change fewer rows")


def no_table(table: TableName) -> SecurityError:
    """The refusal of a table that is not there, or not for the caller."""
    return refusal(
        "sql.table",
        f"the table {str(table)[:80]!r} is not among those that may be used",
        "SQL.SchemaInfo lists the tables there are",
        subject=str(table),
    )
