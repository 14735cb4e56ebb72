"""SQLite under a SqlPolicy: opened to read only, with an authorizer that knows the policy, limits, and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import InputValidationError, RemoteToolError
from toolpost.runners.db import argument_error
from toolpost.runners.sql_authorizer import HOMES, TABLE_FUNCTIONS, Authorizer
from toolpost.runners.sql_values import Table
from toolpost.runners.sqlite import _told
from toolpost.runners.threads import Threads
from toolpost.security.sql import Checked, Draft, Relation, SqlPolicy, TableName, bind
from toolpost.security.sql_names import Read, fold, no_table, refusal, too_many_changes

T = TypeVar("T")

MIN_LENGTH: Final = 1_000_000
"""The longest value that statements may make, unless answers may be larger. Some functions take its square."""
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 400,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_STEPS: Final = 1_000
"""How many instructions run between two looks at the deadline."""
_SCHEMA: Final = ("sqlite_master", "sqlite_schema")


class SqliteDatabase:
    """One file. It is opened for each call, and by this class alone: no other file, no extension, no setting."""

    dialect: Final = "sqlite"

    def __init__(self, path: Path, policy: SqlPolicy, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path, self._policy, self._clock = path, policy, clock
        self._threads = Threads(4, name="toolpost-sql")

    async def query(self, sql: str, params: Any, max_rows: int, timeout_s: float) -> dict[str, Any]:
        """Run one statement that the policy allows."""
        draft = self._policy.read(sql, "sqlite")
        return await self._in_thread(lambda session: session.query(draft, params, max_rows), timeout_s)

    async def relations(self, schema: str | None, timeout_s: float) -> list[Relation]:
        """All tables and views of the file that may be used, by name."""
        if schema not in (None, "main"):
            return []
        return await self._in_thread(lambda session: session.relations(), timeout_s)

    async def describe(self, table: TableName, timeout_s: float) -> dict[str, Any]:
        """A table that may be used: its columns, keys and indexes."""
        return await self._in_thread(lambda session: session.describe(table), timeout_s)

    async def column_types(
        self, relations: Sequence[Relation], timeout_s: float
    ) -> dict[TableName, list[dict[str, Any]]]:
        """The columns of these tables that may be read."""
        return await self._in_thread(
            lambda session: {one.name: session.columns(one.name) for one in relations}, timeout_s
        )

    def close(self) -> None:
        """Take no more calls."""
        self._threads.close()

    async def _in_thread(self, work: Callable[[_Session], T], timeout_s: float) -> T:
        session = _Session(self._path, self._policy, self._clock, timeout_s)
        try:
            return await self._threads.run(lambda: session.run(work))
        except asyncio.CancelledError:
            session.stop()
            raise


class _Session:
    """One connection, for one call."""

    def __init__(self, path: Path, policy: SqlPolicy, clock: Clock, timeout_s: float) -> None:
        self._path, self._policy, self._clock, self._timeout_s = path, policy, clock, timeout_s
        self._ends = clock.stopwatch() + timeout_s
        self._stopped = False
        self._bytes = 0
        self._connection: sqlite3.Connection = None  # type: ignore[assignment]  # run() opens it
        self._lock = threading.Lock()

    def run(self, work: Callable[[_Session], T]) -> T:
        """What work gives, on a connection that is closed afterwards."""
        if self._is_over():
            raise self._late("not_run")
        try:
            with contextlib.closing(self._open()) as connection:
                with self._lock:
                    self._connection = connection
                try:
                    return work(self)
                finally:
                    with self._lock:
                        self._connection = None  # type: ignore[assignment]
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise self._late("stopped") from None
            raise _told(error) from error
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise _told(error) from error

    def stop(self) -> None:
        """End early."""
        self._stopped = True
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

    def _is_over(self) -> bool:
        return self._stopped or self._clock.stopwatch() >= self._ends

    def _late(self, outcome: Any) -> RemoteToolError:
        way_out = "ask for less, or for fewer rows at once"
        return RemoteToolError(
            f"sqlite: the query was stopped after {self._timeout_s:g} s; {way_out}", kind="timeout", outcome=outcome
        )

    def _open(self) -> sqlite3.Connection:
        mode = "rw" if self._policy.writes else "ro"
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode={mode}",
                uri=True,
                timeout=min(5.0, self._timeout_s),
                isolation_level=None,
                check_same_thread=False,
                cached_statements=0,
            )
        except sqlite3.Error as error:
            told = _told(error)
            told.outcome = "not_run"
            raise told from error
        try:
            for limit, value in _LIMITS.items():
                connection.setlimit(limit, value)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self._policy.max_bytes, MIN_LENGTH))
            connection.execute("PRAGMA trusted_schema = OFF")
            if not self._policy.writes:
                connection.execute("PRAGMA query_only = ON")
            connection.text_factory = self._text
            connection.set_progress_handler(self._is_over, _STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _text(self, data: bytes) -> str:
        """A value as text. Many large ones in one row would be in memory before the row could be measured."""
        self._bytes += len(data)
        if self._bytes > 2 * max(self._policy.max_bytes, MIN_LENGTH):
            raise _TooMuch
        return data.decode("utf-8", "replace")

    # -- statements ------------------------------------------------------------------------------------------------

    def query(self, draft: Draft, params: Any, max_rows: int) -> dict[str, Any]:
        """Judge a statement, run it under the authorizer, and give its rows, or how many it changed."""
        found = self._look_up(draft.tables)
        checked = draft.check(relations=found, homes=HOMES)
        values = {f"p{number}": _bound(value) for number, value in enumerate(bind(checked, params), 1)}
        views, behind = self._views_behind(found.values())
        if views & checked.derived:
            raise refusal("sql.table", "a WITH query is named as a view is", "name it otherwise")
        if checked.functions:
            self._prepare_functions(checked)
        guard = Authorizer(self._policy, views, behind)
        self._bytes = 0
        if checked.kind == "select":
            with self._guarded(guard):
                return self._rows(checked, values, max_rows)
        return self._change(checked, values, guard, max_rows)

    def _prepare_functions(self, checked: Checked) -> None:
        """Let SQLite make up the tables behind functions now: it declares them as if it changed its schema."""
        for function in TABLE_FUNCTIONS & set(checked.functions):
            self._connection.execute(f"SELECT 1 FROM {function}('[]') LIMIT 0").close()

    def _change(self, checked: Checked, values: dict[str, Any], guard: Authorizer, max_rows: int) -> dict[str, Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            before = self._connection.total_changes
            with self._guarded(guard):
                answer = self._rows(checked, values, max_rows)
            changed = self._connection.total_changes - before
            if changed > self._policy.max_changes:
                raise too_many_changes(self._policy.max_changes)
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.set_progress_handler(None, 0)
                self._connection.execute("ROLLBACK")
        return {**answer, "rows_affected": changed}

    def _rows(self, checked: Checked, values: dict[str, Any], max_rows: int) -> dict[str, Any]:
        table, kinds = Table(max_rows, self._policy.max_bytes), ["null"]
        try:
            with contextlib.closing(self._connection.execute(checked.text, values)) as cursor:
                table.name([column[0] for column in cursor.description or ()])
                kinds = ["null"] * len(table.columns)
                while True:
                    try:
                        row = cursor.fetchone()
                    except _TooMuch:
                        table.truncated = "bytes"
                        break
                    if row is None or not table.take(row):
                        break
                    for at, value in enumerate(row):
                        if kinds[at] == "null":
                            kinds[at] = _KINDS[type(value)]
        except OverflowError:
            raise _params_error("holds a number over 64 bits; give it as text") from None
        return table.answer(kinds)

    @contextlib.contextmanager
    def _guarded(self, guard: Authorizer) -> Iterator[None]:
        self._connection.set_authorizer(guard)
        try:
            yield
        except sqlite3.DatabaseError as error:
            if guard.refused is not None and getattr(error, "sqlite_errorname", "") in ("SQLITE_AUTH", "SQLITE_ERROR"):
                raise guard.refused from None
            raise
        finally:
            self._connection.set_authorizer(None)

    # -- what there is ---------------------------------------------------------------------------------------------

    def _look_up(self, tables: Sequence[TableName]) -> dict[TableName, Relation]:
        found = {
            name: self._relation(name.name)
            for name in tables
            if name.schema in (None, "main") and self._policy.may_use(name, "sqlite", homes=HOMES)
        }
        return {name: relation for name, relation in found.items() if relation is not None}

    def _relation(self, name: str) -> Relation | None:
        if name in _SCHEMA:
            return Relation(name=TableName("main", name), columns=("type", "name", "tbl_name", "rootpage", "sql"))
        row = self._connection.execute(
            "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE", (name,)
        ).fetchone()
        if row is None:
            return None
        columns = [c[0] for c in self._connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main')", (row[0],))]
        reads = frozenset(self._reads(row[0])[0]) if row[1] == "view" else frozenset[Read]()
        known = TableName("main", fold(row[0], "sqlite"))
        kind = f"{row[1]} table" if row[1] in ("virtual", "shadow") else row[1]
        return Relation(name=known, kind=kind, columns=tuple(columns), reads=reads)

    def _reads(self, view: str) -> tuple[set[Read], set[str]]:
        """What a view reads, and the views that it goes through, itself among them."""
        reads: set[Read] = set()
        within: set[str] = set()

        def record(action: int, name: str | None, column: str | None, schema: str | None, inner: str | None) -> int:
            if inner is not None:
                within.add(fold(inner, "sqlite"))
            if action == sqlite3.SQLITE_READ and name is not None and inner is not None:
                reads.add(Read(TableName(schema or "main", fold(name, "sqlite")), column or None))
            return sqlite3.SQLITE_OK

        self._connection.set_authorizer(record)
        try:
            quoted = view.replace('"', '""')
            self._connection.execute(f'SELECT * FROM main."{quoted}" LIMIT 0').close()
        except sqlite3.Error as error:
            told = f"the view {view[:80]!r} cannot be read: {error}"
            raise RemoteToolError(f"sqlite: {told}"[:300], kind="caller") from error
        finally:
            self._connection.set_authorizer(None)
        names = {
            fold(row[0], "sqlite")
            for row in self._connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'view'")
        }
        through = within & names
        return {read for read in reads if read.table.name not in through}, through | {fold(view, "sqlite")}

    def _views_behind(self, relations: Iterable[Relation]) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the views in a statement and of those behind them, and of the tables behind all of them."""
        views: set[str] = set()
        tables: set[str] = set()
        for relation in relations:
            if relation.kind == "view":
                views |= self._reads(relation.name.name)[1]
                tables |= {read.table.name for read in relation.reads}
        return frozenset(views), frozenset(tables)

    def relations(self) -> list[Relation]:
        """The tables and views that may be used, by name."""
        names = self._connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type IN ('table', 'view') ORDER BY name COLLATE NOCASE"
        ).fetchall()
        found = []
        for (name,) in names:
            if not self._policy.may_use(TableName("main", fold(name, "sqlite")), "sqlite", homes=HOMES):
                continue
            with contextlib.suppress(RemoteToolError):  # a view of what is no longer there can be used by nobody
                relation = self._relation(fold(name, "sqlite"))
                if relation is not None and self._policy.may_show(relation, "sqlite", homes=HOMES):
                    found.append(relation)
        return found

    def columns(self, table: TableName) -> list[dict[str, Any]]:
        """The columns of a table that may be read."""
        rows = self._connection.execute(
            "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?, 'main')", (table.name,)
        )
        return [
            {"name": name, "type": kind.lower() or "any", "nullable": not (required or pk), "primary_key": bool(pk)}
            for name, kind, required, pk in rows
            if self._policy.may_read(table, name, "sqlite", homes=HOMES)
        ]

    def describe(self, table: TableName) -> dict[str, Any]:
        """A table: its columns, keys and indexes, as far as they may be seen, and about how many rows it has."""
        relation = self._look_up([table]).get(table)
        if relation is None or not self._policy.may_show(relation, "sqlite", homes=HOMES):
            raise no_table(table)
        name = relation.name
        columns = self.columns(name)
        return {
            "schema": "main",
            "name": name.name,
            "kind": relation.kind,
            "columns": columns,
            "primary_key": self._primary_key(name),
            "foreign_keys": self._foreign_keys(name),
            "indexes": self._indexes(name),
            "row_estimate": self._row_estimate(name) if relation.kind == "table" else None,
        }

    def _primary_key(self, table: TableName) -> list[str]:
        rows = self._connection.execute(
            "SELECT name FROM pragma_table_xinfo(?, 'main') WHERE pk > 0 ORDER BY pk", (table.name,)
        )
        return [name for (name,) in rows if self._policy.may_read(table, name, "sqlite", homes=HOMES)]

    def _foreign_keys(self, table: TableName) -> list[dict[str, Any]]:
        keys: dict[int, dict[str, Any]] = {}
        hidden: set[int] = set()
        rows = self._connection.execute(
            'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?, ?) ORDER BY id, seq', (table.name, "main")
        )
        for number, target, own, other in rows:
            there = TableName("main", fold(target, "sqlite"))
            key = keys.setdefault(
                number, {"columns": [], "references": {"schema": "main", "table": target, "columns": []}}
            )
            key["columns"].append(own)
            if other is not None:
                key["references"]["columns"].append(other)
            seen = self._policy.may_read(table, own, "sqlite", homes=HOMES)
            if not seen or not self._policy.may_read(there, other or "", "sqlite", homes=HOMES):
                hidden.add(number)
        return [key for number, key in keys.items() if number not in hidden]

    def _indexes(self, table: TableName) -> list[dict[str, Any]]:
        found = []
        rows = self._connection.execute('SELECT name, "unique" FROM pragma_index_list(?, ?)', (table.name, "main"))
        for name, unique in rows.fetchall():
            columns = [row[0] for row in self._connection.execute("SELECT name FROM pragma_index_info(?)", (name,))]
            if all(c is not None and self._policy.may_read(table, c, "sqlite", homes=HOMES) for c in columns):
                found.append({"name": name, "columns": columns, "unique": bool(unique)})
        return sorted(found, key=lambda index: str(index["name"]))

    def _row_estimate(self, table: TableName) -> int | None:
        """The largest row id; nothing where that is a column which may not be read, or no row id."""
        rows = self._connection.execute(
            "SELECT name, pk FROM pragma_table_xinfo(?, 'main') WHERE pk > 0 OR name = 'rowid' COLLATE NOCASE",
            (table.name,),
        )
        for name, key in rows.fetchall():
            if not key or not self._policy.may_read(table, name, "sqlite", homes=HOMES):
                return None
        quoted = table.name.replace('"', '""')
        try:
            row = self._connection.execute(f'SELECT max(rowid) FROM main."{quoted}"').fetchone()
        except sqlite3.Error:  # a table without row ids
            return None
        return int(row[0] or 0)


_KINDS: Final = {int: "integer", float: "real", str: "text", bytes: "blob", type(None): "null"}


class _TooMuch(Exception):
    """One answer would hold too many bytes of text."""


def _bound(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        raise _params_error("holds a list or an object, which SQLite cannot bind; give it as JSON text")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _params_error("holds half a character; send whole characters") from None
    return value


def _params_error(must: str) -> InputValidationError:
    return argument_error("params", must, None)
