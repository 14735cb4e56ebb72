"""SqlPolicy: what a statement that a model wrote may do; the text that is executed is rendered anew, never its own."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.errors import ConfigurationError, InputValidationError
from toolpost.security.sql_names import (
    HOME,
    WRITES,
    Dialect,
    Names,
    Relation,
    Relations,
    TableName,
    Write,
    check_column_entry,
    check_table_entry,
    refusal,
    table_name,
)

if TYPE_CHECKING:
    from toolpost.security.sql_scope import Judge
    from toolpost.security.sql_tree import Parsed

__all__ = ["Checked", "Dialect", "Relation", "Relations", "SqlPolicy", "TableName", "bind"]

MAX_TEXT: Final = 100_000
"""How many characters one bound text may have."""
_FUNCTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A statement that may be executed.

    text is what to execute. parameters says for each number in turn ($1 or :p1 in text) what to bind: a place in a
    list, from 1 on, or a name. tables are those that it touches, as the database knows them; columns are as written.
    kind is "select", "insert", "update" or "delete". derived are the names that WITH queries and subqueries have.
    """

    text: str
    parameters: tuple[int | str, ...] = ()
    tables: tuple[TableName, ...] = ()
    columns: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    kind: str = "select"
    derived: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlPolicy:
    """What statements may do: read only, of the tables and columns allowed, with functions that only compute.

    tables: the tables that may be used, or table -> its columns that may be (None: all). None means every table but the
    database's own, which have to be named. "orders" means the table of the default schema, "sales.orders" another's.
    A view that is named may show what it shows; another one only what may be read anyway.
    deny_tables and deny_columns take away from that: "salaries", "hr.*", "users.password", "*.password".
    writes: table -> "insert", "update" or "delete" that may be done to it, at most max_changes rows a statement.
    functions: names of further functions. search_path: PostgreSQL's schemas whose functions, types and operators may
    be used beside the built-in ones. recursive allows WITH RECURSIVE.
    max_rows, max_bytes and timeout_s bound what a statement gives and takes; max_chars and max_depth its text.
    """

    tables: Mapping[str, Collection[str] | None] | Collection[str] | None = None
    deny_tables: Collection[str] = ()
    deny_columns: Collection[str] = ()
    writes: Mapping[str, Collection[Write]] = field(default_factory=dict)
    functions: Collection[str] = ()
    search_path: Sequence[str] = ()
    recursive: bool = False
    max_rows: int = 1_000
    max_bytes: int = 1_000_000
    max_changes: int = 100
    timeout_s: float = 10.0
    max_chars: int = 20_000
    max_depth: int = 30

    def __post_init__(self) -> None:
        for name in ("tables", "deny_tables", "deny_columns", "functions", "search_path"):
            if isinstance(getattr(self, name), str):
                raise ConfigurationError(f"{name} is a list; write [{getattr(self, name)!r}]")
        tables = self.tables
        if tables is not None:
            if not isinstance(tables, Mapping):
                tables = dict.fromkeys(tables)
            for entry, columns in tables.items():
                check_table_entry("tables", entry)
                if isinstance(columns, str):
                    raise ConfigurationError(f"tables: the columns of {entry!r} are a list; write [{columns!r}]")
            frozen = {entry: None if columns is None else tuple(columns) for entry, columns in tables.items()}
            object.__setattr__(self, "tables", MappingProxyType(frozen))
        for entry in self.deny_tables:
            check_table_entry("deny_tables", entry, star=True)
        for entry in self.deny_columns:
            check_column_entry(entry)
        for entry, kinds in self.writes.items():
            check_table_entry("writes", entry)
            if isinstance(kinds, str) or not set(kinds) <= set(WRITES):
                raise ConfigurationError(f"writes: {entry!r} takes a list of {', '.join(WRITES)}, got {kinds!r}")
        for name in (*self.functions, *self.search_path):
            if not isinstance(name, str) or not _FUNCTION.match(name):
                raise ConfigurationError(f"functions and search_path hold plain names, got {name!r:.80}")
        for name in ("max_rows", "max_bytes", "max_changes", "max_chars", "max_depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} must be a whole number, 1 or more, got {value!r}")
        if self.max_depth > 60:
            raise ConfigurationError(f"max_depth must be at most 60, which parsers stand, got {self.max_depth}")
        if not isinstance(self.timeout_s, (int, float)) or not 0 < self.timeout_s < math.inf:
            raise ConfigurationError(f"timeout_s must be seconds, more than 0, got {self.timeout_s!r}")
        for name in ("deny_tables", "deny_columns", "functions", "search_path"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "writes", MappingProxyType({k: tuple(v) for k, v in self.writes.items()}))

    def check(
        self,
        sql: str,
        dialect: str,
        *,
        relations: Relations | None = None,
        homes: Sequence[str] = (),
    ) -> Checked:
        """What to execute for a statement of "sqlite" or "postgres". Raises SecurityError with the rule it breaks.

        relations is what the database says of the tables; without it, nothing is known of views, and names of columns
        are judged as if every table had them. homes are the schemas of tables that are named without one.
        """
        return self.read(sql, dialect).check(relations=relations, homes=homes)

    def read(self, sql: str, dialect: str) -> Draft:
        """The statement before it is judged: which tables to ask the database about. Raises SecurityError."""
        if dialect not in HOME:
            raise ConfigurationError(f"dialect {dialect!r} is not one of {', '.join(HOME)}")
        self._check_size(sql)
        from toolpost.security.sql_tree import read

        return Draft(self, read(sql, dialect, max_depth=self.max_depth, writes=bool(self.writes)))

    def may_use(self, table: TableName, dialect: str, *, homes: Sequence[str] = ()) -> bool:
        """Whether a table may be used at all."""
        return self.names(dialect).allows(table, tuple(homes) or (HOME[dialect],))

    def may_read(self, table: TableName, column: str, dialect: str, *, homes: Sequence[str] = ()) -> bool:
        """Whether a column of a table may be read."""
        names, home = self.names(dialect), tuple(homes) or (HOME[dialect],)
        return names.allows(table, home) and names.allows_column(table, column, home)

    def may_show(self, relation: Relation, dialect: str, *, homes: Sequence[str] = ()) -> bool:
        """Whether a table or view may be used, given what it leads to."""
        names, home = self.names(dialect), tuple(homes) or (HOME[dialect],)
        if not names.allows(relation.name, home) or relation.kind == "virtual table":
            return False
        if names.named(relation.name, home):
            return True
        if relation.kind in ("foreign table", "shadow table") or relation.remote:
            return False
        return all(
            names.allows(read.table, home)
            and (read.column is None or names.allows_column(read.table, read.column, home))
            for read in relation.reads
        )

    def may_write(self, table: TableName, kind: str, dialect: str, *, homes: Sequence[str] = ()) -> bool:
        """Whether rows of a table may be inserted, updated or deleted."""
        home = tuple(homes) or (HOME[dialect],)
        for entry, kinds in self.writes.items():
            name = table_name(entry, dialect)
            same = name == table or (name.name == table.name and name.schema is None and table.schema in (None, *home))
            same = same or (name.name == table.name and table.schema is None and name.schema in home)
            if same and kind in kinds:
                return True
        return False

    def names(self, dialect: str) -> Names:
        """The entries about tables and columns, as a dialect compares them."""
        tables = tuple(self.tables.items()) if isinstance(self.tables, Mapping) else None
        return _names(tables, tuple(self.deny_tables), tuple(self.deny_columns), dialect)

    def _check_size(self, sql: str) -> None:
        if not isinstance(sql, str) or not sql.strip():
            raise refusal("sql.statements", "it holds no statement", "send one SELECT")
        if len(sql) > self.max_chars:
            raise refusal("sql.size", f"it has over {self.max_chars} characters", "shorten it, or bind long values")
        if "\0" in sql:
            raise refusal("sql.literal", "it holds a NUL", "leave it out")
        if not sql.isascii() and any("\ud800" <= letter <= "\udfff" for letter in sql):
            raise refusal("sql.literal", "it holds half a character", "send whole characters")


class Draft:
    """A statement that was read and has yet to be judged. It is judged once."""

    def __init__(self, policy: SqlPolicy, parsed: Parsed) -> None:
        self._policy, self._parsed = policy, parsed

    @property
    def tables(self) -> tuple[TableName, ...]:
        """The tables that it names, as it names them."""
        return self._judge(self._parsed.tree, None, ()).tables()

    def check(self, *, relations: Relations | None = None, homes: Sequence[str] = ()) -> Checked:
        """What to execute, as SqlPolicy.check gives it."""
        from toolpost.security.sql_tree import settle
        from toolpost.security.sql_words import judge_words

        policy, parsed, scopes = self._policy, self._parsed, []

        def judge(tree: Any) -> None:
            scopes.append(self._judge(tree, relations, homes).judge())

        text = settle(parsed, judge)
        called = judge_words(
            text,
            parsed.dialect,
            writes=parsed.writes,
            recursive=policy.recursive,
            functions=[name.lower() for name in policy.functions],
        )
        return Checked(
            text=text,
            parameters=parsed.parameters,
            tables=tuple(dict.fromkeys(scopes[-1].tables.values())),
            columns=tuple(sorted(scopes[-1].columns)),
            functions=tuple(sorted(called)),
            kind=scopes[-1].kind,
            derived=frozenset(scopes[-1].derived),
        )

    def _judge(self, tree: Any, relations: Relations | None, homes: Sequence[str]) -> Judge:
        from toolpost.security.sql_scope import Judge

        policy, dialect = self._policy, self._parsed.dialect
        return Judge(
            tree,
            dialect,
            policy.names(dialect),
            relations=relations,
            homes=homes,
            recursive=policy.recursive,
            writable=lambda table, kind: policy.may_write(table, kind, dialect, homes=homes),
        )


@lru_cache(maxsize=256)
def _names(tables: Any, deny_tables: tuple[str, ...], deny_columns: tuple[str, ...], dialect: str) -> Names:
    return Names(None if tables is None else dict(tables), deny_tables, deny_columns, dialect)


def bind(checked: Checked, params: Any) -> list[Any]:
    """The values for each number of a checked statement, in turn. Raises InputValidationError when they do not fit.

    params is a list for parameters without names, an object for those with names, None for none.
    """
    wanted = checked.parameters
    values = [] if params is None else params
    if not isinstance(values, (list, tuple, dict)):
        raise _params("must be a list or an object of values to bind", "a list or an object", type(params).__name__)
    if wanted and isinstance(wanted[0], str):
        if not isinstance(values, dict):
            names = ", ".join(str(name) for name in wanted[:20])
            raise _params(f"must be an object with {names}, as the query names its parameters", names, "a list")
        missing = [name for name in wanted if name not in values]
        extra = [name for name in values if name not in wanted]
        if missing or extra:
            said = [f"lacks {str(missing[0])[:60]!r}"] if missing else []
            said += [f"has {str(extra[0])[:60]!r}, which the query does not"] if extra else []
            raise _params(" and ".join(said), ", ".join(map(str, wanted[:20])), f"{len(values)} values")
        found = [values[name] for name in wanted]
    else:
        if isinstance(values, dict):
            if values or wanted:
                raise _params("must be a list, as the query's parameters have no names", "a list", "an object")
            values = []
        if len(values) != len(wanted):
            must = f"must have {len(wanted)} values, one for each parameter of the query, got {len(values)}"
            raise _params(must, f"{len(wanted)} values", f"{len(values)} values")
        found = list(values)
    for value in _scalars(found):
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise _params(f"holds a text over {MAX_TEXT} characters", "shorter texts", f"{len(value)} characters")
    return found


def _scalars(values: Sequence[Any]) -> Iterator[Any]:
    stack = list(values)
    for _ in range(100_000):
        if not stack:
            return
        value = stack.pop()
        if isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            stack += value
        else:
            yield value
    raise _params("holds over 100000 values", "fewer values", "more")


def _params(must: str, expected: str, got: str) -> InputValidationError:
    problem = {"path": "/params", "loc": ("params",), "parameter": "params", "type": "value", "msg": f"'params' {must}"}
    return InputValidationError(problems=[problem | {"expected": expected, "got": got}])
