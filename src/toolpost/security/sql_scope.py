"""Judges what a parsed statement touches: its tables, columns, writes, and arguments that would make it endless."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sqlglot import exp

from toolpost.security.sql_arguments import judge_arguments
from toolpost.security.sql_names import HOME, Names, Relation, Relations, TableName, Write, fold, refusal
from toolpost.security.sql_sources import check_is_query, columns_of
from toolpost.security.sql_weights import Weights
from toolpost.security.sql_words import FUNCTIONS

MAX_TABLES: Final = 32
MAX_COLUMNS: Final = 500
MAX_STARS: Final = 16
_UNKNOWN: Final[Relations] = {}
_OF_WRITES: Final = ("excluded", "old", "new")
"""By what a write may name the rows that it would change, beside the table's own name."""
E = TypeVar("E", bound=exp.Expr)


@dataclass(slots=True)
class Scope:
    """What one statement touches, gathered by judge()."""

    kind: str = "select"
    tables: dict[TableName, TableName] = field(default_factory=dict)
    """Each table as the statement names it -> as it is executed."""
    columns: set[str] = field(default_factory=set)
    derived: set[str] = field(default_factory=set)
    """The names of WITH queries, subqueries and functions that stand as tables."""


class Judge:
    """Holds one statement against a policy's names. relations is what the database says; None where nobody asked it."""

    def __init__(
        self,
        tree: exp.Expr,
        dialect: str,
        names: Names,
        *,
        relations: Relations | None = None,
        homes: Sequence[str] = (),
        recursive: bool = False,
        writable: Callable[[TableName, str], bool] = lambda table, kind: False,
    ) -> None:
        self._tree, self._dialect, self._names = tree, dialect, names
        self._nodes = list(tree.walk())
        self._relations, self._homes = relations, tuple(homes) or (HOME[dialect],)
        self._recursive, self._writable = recursive, writable
        self._real: list[tuple[exp.Table, TableName]] = []
        self._ruled: dict[str, list[TableName]] = {}
        self._aliases: dict[str, list[TableName]] = {}
        self._functions: dict[str, frozenset[str]] = {}
        self.scope = Scope()
        self._derived = self.scope.derived

    def _all(self, *kinds: type[E]) -> list[E]:
        return [node for node in self._nodes if isinstance(node, kinds)]

    def tables(self) -> tuple[TableName, ...]:
        """The tables that the statement names, as it names them. Raises SecurityError for what is no plain name."""
        self._find_tables()
        return tuple(dict.fromkeys(name for _, name in self._real))

    def judge(self) -> Scope:
        """What the statement touches, all of it allowed. Raises SecurityError."""
        self._find_tables()
        for table, name in self._real:
            self._judge_table(table, name)
        self._judge_writes()
        self._judge_columns()
        Weights(self._tree, self._dialect).judge()
        for node in self._all(exp.Func):
            judge_arguments(node, self._dialect)
        for select in self._all(exp.Select):
            stars = sum(1 for one in select.expressions if one.is_star)
            if len(select.expressions) > MAX_COLUMNS or stars > MAX_STARS:
                raise refusal("sql.size", f"a SELECT gives over {MAX_COLUMNS} columns", "ask for less at once")
        return self.scope

    # -- tables ----------------------------------------------------------------------------------------------------

    def _find_tables(self) -> None:
        ctes = {self._fold(cte.alias) for cte in self._all(exp.CTE)}
        for cte in self._all(exp.CTE):
            if not cte.alias:
                raise refusal("sql.table", "a WITH query has no name", "name it")
            self._derived.add(self._fold(cte.alias))
        for recursive in self._all(exp.With):
            if recursive.args.get("recursive") and not self._recursive:
                raise refusal(
                    "sql.recursive", "a recursive query is not allowed", "let SqlPolicy(recursive=True) do so"
                )
        for table in self._all(exp.Table):
            if isinstance(table.this, exp.Func):
                if table.args.get("db") is not None:
                    raise refusal("sql.qualified", "a function is named with a schema", "call it by its plain name")
                self._add_function(table, table.this)
                continue
            if not isinstance(table.this, exp.Identifier):
                raise refusal("sql.table", "a table is named in a way that is not allowed", "name it plainly")
            name = TableName(self._fold(table.db) or None, self._fold(table.name))
            if name.schema is None and name.name in ctes:
                self._check_is_cte(table, name)
                self._derived.add(self._fold(table.alias or table.name))
                continue
            self._real.append((table, name))
        for derived in self._all(exp.Subquery, exp.Lateral, exp.Values, exp.Unnest):
            if isinstance(derived, exp.Unnest) or isinstance(derived.this, exp.Func):
                self._add_function(derived, derived if isinstance(derived, exp.Unnest) else derived.this)
            elif derived.alias:
                check_is_query(derived)
                self._derived.add(self._fold(derived.alias))
        if len(self._real) > MAX_TABLES:
            raise refusal("sql.size", f"it names over {MAX_TABLES} tables", "ask for less at once")

    def _add_function(self, table: exp.Expr, function: exp.Func) -> None:
        """Note a function that stands as a table, and its columns."""
        alias = self._fold(table.alias)
        if alias:
            columns = columns_of(table, function, self._dialect)
            self._derived.add(alias)
            self._functions[alias] = columns & self._functions.get(alias, columns)

    def _check_is_cte(self, table: exp.Table, name: TableName) -> None:
        """Refuse a name that one database reads as the WITH query and another as a table: out of place, or its own."""
        child: exp.Expr = table
        parent = table.parent
        while parent is not None:
            if isinstance(parent, exp.With):
                before = parent.expressions[: parent.expressions.index(child)]
                if any(self._fold(cte.alias) == name.name for cte in before):
                    return
                if self._recursive and parent.args.get("recursive") and self._fold(child.alias) == name.name:
                    return
            else:
                within = parent.args.get("with_")
                beside = [] if within is None or within is child else within.expressions
                if any(self._fold(cte.alias) == name.name for cte in beside):
                    return
            child, parent = parent, parent.parent
        way_out = "name the WITH query otherwise, and refer to it only after it"
        if self._dialect == "sqlite" and not self._recursive:
            way_out += "; a recursive one needs SqlPolicy(recursive=True)"
        raise refusal("sql.table", f"{name.name[:80]!r} stands outside of its WITH query", way_out, subject=name.name)

    def _judge_table(self, table: exp.Table, name: TableName) -> None:
        relation = self._relation(name)
        actual = name if relation is None else relation.name
        if not self._names.allows(actual, self._homes):
            raise self._refused_table(name)
        if relation is not None:
            self._judge_relation(name, relation)
        self.scope.tables[name] = actual
        if self._dialect == "postgres" and relation is not None:
            table.set("db", exp.to_identifier(relation.name.schema, quoted=True))
        children = () if relation is None else relation.children
        for called in {self._fold(table.alias or table.name), self._fold(table.name) if not table.alias else ""}:
            if called:
                self._aliases.setdefault(called, []).extend((actual, *children))
        ruled = [one for one in (actual, *children) if self._names.has_column_rules(one, self._homes)]
        if ruled:
            self._ruled[str(actual)] = [actual, *children]
            alias = table.args.get("alias")
            if alias is not None and alias.args.get("columns"):
                raise refusal(
                    "sql.column",
                    f"columns of {str(name)[:80]!r} are renamed in its alias",
                    "rename them with AS in SELECT",
                )
            if any(str(join.args.get("method") or "").upper() == "NATURAL" for join in self._all(exp.Join)):
                raise refusal("sql.column", "a NATURAL JOIN compares columns that may not be read", "join with ON")

    def _relation(self, name: TableName) -> Relation | None:
        if self._relations is None:
            return None
        relation = self._relations.get(name)
        if relation is None:
            if not self._names.allows(name, self._homes):
                raise self._refused_table(name)
            near = difflib.get_close_matches(name.name, [known.name for known in self._relations], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "SQL.SchemaInfo lists the tables there are"
            raise refusal("sql.no-table", f"there is no table {str(name)[:80]!r}", hint, subject=str(name))
        return relation

    def _refused_table(self, name: TableName) -> Exception:
        return refusal(
            "sql.table",
            f"the table {str(name)[:80]!r} is not among those that may be used",
            "SQL.SchemaInfo lists the tables there are",
            subject=str(name),
        )

    def _judge_relation(self, name: TableName, relation: Relation) -> None:
        """A view that the policy does not name may show only what the policy allows anyway."""
        if relation.kind == "virtual table":
            why = f"{str(name)[:80]!r} is a virtual table, which runs code of its own"
            raise refusal("sql.table", why, "use other tables", subject=str(name))
        if self._names.named(relation.name, self._homes):
            return
        hidden = [read for read in relation.reads if not self.may_read(read.table, read.column)]
        if relation.kind == "foreign table" or relation.remote:
            way_out = f"let SqlPolicy(tables=...) name {relation.name}"
            raise refusal("sql.remote", f"{str(name)[:80]!r} is a table of another server", way_out, subject=str(name))
        if hidden or relation.kind == "shadow table":
            way_out = f"let SqlPolicy(tables=...) name {relation.name} if it may be used"
            raise refusal("sql.view", f"{str(name)[:80]!r} shows what may not be read", way_out, subject=str(name))

    def may_read(self, table: TableName, column: str | None) -> bool:
        """Whether the policy allows a table, and a column of it."""
        allowed = self._names.allows(table, self._homes)
        return allowed and (column is None or self._names.allows_column(table, column, self._homes))

    # -- columns ---------------------------------------------------------------------------------------------------

    def _judge_columns(self) -> None:
        for column in self._all(exp.Column):
            if isinstance(column.this, exp.Star):
                if self._dialect == "postgres" and column.table and not self._is_named(self._fold(column.table)):
                    way_out = "name a table of FROM"
                    raise refusal("sql.no-table", f"there is no table {column.table[:80]!r}", way_out)
                continue
            self.scope.columns.add(f"{column.table}.{column.name}" if column.table else column.name)
            self._judge_column(column.name, column.table)
        for join in self._all(exp.Join):
            for using in join.args.get("using") or ():
                self._judge_column(using.name, "")
        for schema in self._all(exp.Schema):
            for target in schema.expressions:
                self._judge_column(target.name, "")
        for conflict in self._all(exp.OnConflict):
            for key in conflict.args.get("conflict_keys") or ():
                self._judge_column(key.name, "")
        if self._ruled:
            self._judge_stars()

    def _judge_column(self, column: str, qualifier: str) -> None:
        by = self._fold(qualifier)
        if self._dialect == "postgres" and by:
            self._check_is_no_call(by, column)
        tables = self._aliases.get(by)
        if tables is None:
            if by and by in self._derived:
                return
            tables = [table for tables in self._ruled.values() for table in tables]
        for table in tables:
            if self._may_have(table, column) and not self._names.allows_column(table, column, self._homes):
                shown = f"{table}.{column}"[:120]
                other = "" if by else f", or write table.{column[:60]} if another table's is meant"
                raise refusal(
                    "sql.column", f"the column {shown!r} may not be read", f"leave it out{other}", subject=shown
                )
        if not by and self._dialect == "postgres":
            whole = self._aliases.get(self._fold(column), ())
            if any(str(table) in self._ruled for table in whole):
                raise refusal("sql.column", f"{column[:80]!r} is a whole row", "name its columns", subject=column)

    def _check_is_no_call(self, by: str, column: str) -> None:
        """Refuse x.function, which PostgreSQL reads as function(x) where x has no such column.

        Where x is a function that stands as a table, x is a single value, and any function at all takes it. Rows of
        subqueries are taken only by functions that compute.
        """
        for table in self._aliases.get(by, ()):
            self._check_is_column(table, column)
        known = self._functions.get(by)
        if (known is not None and column not in known) or (known is None and not self._is_named(by)):
            raise refusal(
                "sql.no-column",
                f"there is no column {f'{by}.{column}'[:120]!r}",
                "give what stands in FROM a name, and a function's columns too: AS x(a)",
                subject=f"{by}.{column}"[:120],
            )

    def _is_named(self, by: str) -> bool:
        return by in self._aliases or by in self._derived

    def _check_is_column(self, table: TableName, column: str) -> None:
        """Refuse table.function, which PostgreSQL reads as function(table) where there is no such column."""
        known = self._relations is not None
        if (known and not self._may_have(table, column)) or (
            not known and str(table) in self._ruled and column in FUNCTIONS["postgres"]
        ):
            shown = f"{table}.{column}"[:120]
            raise refusal("sql.no-column", f"there is no column {shown!r}", self._columns_of(table), subject=shown)

    def _may_have(self, table: TableName, column: str) -> bool:
        """Whether the table has such a column, as far as is known."""
        if self._relations is None:
            return True
        for relation in self._relations.values():
            if relation.name == table:
                known = {fold(one, self._dialect) for one in relation.columns}
                return fold(column, self._dialect) in known or not known or self._is_hidden_name(column)
        return True

    def _is_hidden_name(self, column: str) -> bool:
        """Names that every table has, besides its columns."""
        if self._dialect == "sqlite":
            return self._fold(column) in ("rowid", "_rowid_", "oid")
        return column in ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")

    def _judge_stars(self) -> None:
        for star in self._all(exp.Star):
            holder = star.parent
            if isinstance(holder, exp.Count):
                continue
            if isinstance(holder, exp.Column) and holder.table:
                tables = self._aliases.get(self._fold(holder.table), [])
            else:
                tables = list(self._sources(star))
            for table in tables:
                if str(table) in self._ruled:
                    raise refusal(
                        "sql.star",
                        f"'*' would read all columns of {str(table)[:80]!r}",
                        self._columns_of(table),
                        subject=str(table),
                    )

    def _columns_of(self, table: TableName, verb: str = "name") -> str:
        for relation in (self._relations or _UNKNOWN).values():
            if relation.name == table:
                named = [c for c in relation.columns if self._names.allows_column(table, c, self._homes)]
                return f"{verb} the columns: " + ", ".join(named[:40])
        return f"{verb} the columns"

    def _sources(self, star: exp.Expr) -> Iterator[TableName]:
        """The real tables in the FROM that a '*' stands for, not those within its subqueries."""
        select = star.find_ancestor(exp.Select, exp.Insert, exp.Update, exp.Delete)
        mine = {id(table): self.scope.tables[name] for table, name in self._real}
        if select is None:
            yield from mine.values()
            return
        stack = [value for key, value in select.args.items() if key in ("from_", "joins", "laterals", "this", "using")]
        while stack:
            part = stack.pop()
            if isinstance(part, list):
                stack += part
            elif isinstance(part, exp.Table) and id(part) in mine:
                yield mine[id(part)]
                stack.append(part.args.get("joins") or [])
            elif isinstance(part, exp.Subquery):
                stack += [part.this, part.args.get("joins") or []]
            elif isinstance(part, exp.Expr) and not isinstance(part, exp.Query):
                stack += list(part.args.values())

    # -- writes ----------------------------------------------------------------------------------------------------

    def _judge_writes(self) -> None:
        targets = list(self._all(exp.Insert, exp.Update, exp.Delete))
        for node in targets:
            kind: Write = (
                "insert" if isinstance(node, exp.Insert) else "update" if isinstance(node, exp.Update) else "delete"
            )
            self._judge_write(node, kind)
            conflict = node.args.get("conflict")
            if conflict is not None and conflict.expressions:
                self._judge_write(node, "update", guarded=True)
        if targets:
            if targets != [self._tree]:
                raise refusal("sql.write", "a write stands within another statement", "send it on its own")
            self.scope.kind = type(self._tree).__name__.lower()

    def _judge_write(self, node: exp.Expr, kind: Write, *, guarded: bool = False) -> None:
        target = node.this.this if isinstance(node.this, exp.Schema) else node.this
        if not isinstance(target, exp.Table):
            raise refusal("sql.write", "what it writes to is no table", "name a table")
        name = next((name for table, name in self._real if table is target), None)
        if name is None:
            raise refusal("sql.write", "what it writes to is no table", "name a table")
        actual = self.scope.tables[name]
        if not self._writable(actual, kind):
            way_out = f"let SqlPolicy(writes={{{str(name)[:80]!r}: [{kind!r}]}}) allow it"
            raise refusal("sql.write", f"{kind} on {str(name)[:80]!r} is not allowed", way_out, subject=str(name))
        for called in _OF_WRITES:
            self._aliases.setdefault(called, []).extend(self._aliases[self._fold(target.alias or target.name)])
        lists = isinstance(node.this, exp.Schema) or node.args.get("default")
        if isinstance(node, exp.Insert) and not lists and str(actual) in self._ruled:
            raise refusal(
                "sql.column", f"not all columns of {str(name)[:80]!r} may be written", self._columns_of(actual, "list")
            )
        if kind != "insert" and not guarded:
            where = node.args.get("where")
            if where is None or where.find(exp.Column) is None:
                raise refusal("sql.where", f"{kind} would change every row", "say which rows with WHERE on a column")

    def _fold(self, name: str) -> str:
        return fold(name, self._dialect)
