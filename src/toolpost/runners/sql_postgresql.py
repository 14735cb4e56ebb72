"""PostgreSQL under a SqlPolicy: a read-only transaction with pinned settings, one statement, rolled back at the end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg.adapt import Loader

from toolpost.calls.errors import ConfigurationError, InputValidationError, RemoteToolError
from toolpost.runners.clients import PerLoop
from toolpost.runners.db import argument_error
from toolpost.runners.postgresql import _bound, _Pool, _Pools, _told
from toolpost.runners.sql_catalog import CHILDREN, COLUMNS, FOREIGN_KEYS, HOMES, INDEXES, LISTED, NAMED, READS, ROWS
from toolpost.runners.sql_values import Table
from toolpost.security.sql import Checked, Relation, SqlPolicy, TableName, bind
from toolpost.security.sql_names import Read, no_table, too_many_changes
from toolpost.security.sql_words import tokens_of

POOL_SIZE: Final = 4
_ROW: Final = '"toolpost row"'
_TOO_LARGE: Final = "bytes are over max_bytes"
_KINDS: Final = {
    "r": "table",
    "p": "table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


class PostgreSqlDatabase:
    """One database, over a few connections for each event loop."""

    dialect: Final = "postgres"

    def __init__(self, url: str, policy: SqlPolicy) -> None:
        self._url, self._policy = url, policy
        self._pools: PerLoop[_Pools] = PerLoop(_Pools)
        self._homes: tuple[str, ...] | None = None

    async def query(self, sql: str, params: Any, max_rows: int, timeout_s: float) -> dict[str, Any]:
        """Run one statement that the policy allows."""
        draft = self._policy.read(sql, "postgres")
        async with self._session(timeout_s, write=bool(self._policy.writes)) as session:
            checked = draft.check(relations=await session.look_up(draft.tables), homes=session.homes)
            values = _values(bind(checked, params))
            if checked.kind == "select":
                return await session.rows(checked, values, max_rows)
            answer = await session.change(checked, values, max_rows)
            await session.commit()
            return answer

    async def relations(self, schema: str | None, timeout_s: float) -> list[Relation]:
        """All tables and views that may be used, by schema and name."""
        async with self._session(timeout_s) as session:
            found = await session.relations_of(await session.fetch(LISTED, [schema]))
        return [one for one in found if self._policy.may_show(one, "postgres", homes=session.homes)]

    async def column_types(
        self, relations: Sequence[Relation], timeout_s: float
    ) -> dict[TableName, list[dict[str, Any]]]:
        """The columns of these tables that may be read."""
        async with self._session(timeout_s) as session:
            return await session.columns(relations)

    async def describe(self, table: TableName, timeout_s: float) -> dict[str, Any]:
        """A table that may be used: its columns, keys and indexes."""
        async with self._session(timeout_s) as session:
            relation = (await session.look_up([table])).get(table)
            if relation is None or not self._policy.may_show(relation, "postgres", homes=session.homes):
                raise no_table(table)
            return await session.describe(relation)

    def close(self) -> None:
        """Close all connections, each by its own loop."""
        self._pools.close()

    @asynccontextmanager
    async def _session(self, timeout_s: float, *, write: bool = False) -> AsyncIterator[_Session]:
        pools = self._pools.here() or await self._pools.get()
        pool = pools.setdefault((self._url,), _Pool({"conninfo": self._url}, POOL_SIZE))
        async with pool.connection(timeout_s) as connection:
            session = _Session(connection, self._policy)
            try:
                await session.begin(timeout_s, write=write)
                session.homes = self._homes or await session.find_homes()
                self._homes = session.homes
                await session.pin()
                yield session
            except psycopg.Error as error:
                raise _explained(error) from error
            finally:
                if not connection.closed:
                    with contextlib.suppress(psycopg.Error):
                        await connection.execute("ROLLBACK")


class _Session:
    """One transaction, for one call."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], policy: SqlPolicy) -> None:
        self._connection, self._policy = connection, policy
        self.homes: tuple[str, ...] = ("public",)

    async def begin(self, timeout_s: float, *, write: bool) -> None:
        """Begin the transaction. What it is set to ends with it."""
        limit_ms = max(1, int(timeout_s * 1000))
        # A cancellation that comes before the statement is lost; the server ends it when it finds nobody there.
        looks = "SET LOCAL client_connection_check_interval = 1000; "
        looks = looks if self._connection.info.server_version >= 140_000 else ""
        await self._connection.execute(
            f"BEGIN TRANSACTION READ {'WRITE' if write else 'ONLY'}; "
            f"{looks}SET LOCAL statement_timeout = {limit_ms}; SET LOCAL lock_timeout = {min(limit_ms, 2000)}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {limit_ms + 5000}; "
            "SET LOCAL standard_conforming_strings = on; SET LOCAL bytea_output = 'hex'; "
            "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'iso_8601'"
        )

    async def find_homes(self) -> tuple[str, ...]:
        """The schemas in which names without one are looked up, before they are pinned."""
        ((schemas,),) = await self.fetch(HOMES, [])
        return tuple(schemas) or ("public",)

    async def pin(self) -> None:
        """Let only built-in functions, types and operators be found, and those of the policy's search_path."""
        path = ", ".join(f'"{schema}"' for schema in ("pg_catalog", *self._policy.search_path, "pg_temp"))
        await self._connection.execute(f"SET LOCAL search_path = {path}")

    async def fetch(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement of our own."""
        async with psycopg.AsyncRawCursor(self._connection) as cursor:
            await cursor.execute(sql, list(values), prepare=False)
            return await cursor.fetchall()

    async def commit(self) -> None:
        """Keep what was changed."""
        await self._connection.execute("COMMIT")

    # -- statements ------------------------------------------------------------------------------------------------

    async def rows(self, checked: Checked, values: list[Any], max_rows: int) -> dict[str, Any]:
        """The rows of a query. A row that is too large fails in the server: here it would be in memory first."""
        text = f"SELECT * FROM ({checked.text}) AS {_ROW} WHERE {self._fits()} LIMIT {max_rows + 1}"
        return (await self._stream(text, values, max_rows))[0]

    def _fits(self) -> str:
        """A condition that fails for a row that is too large. Its size in memory is looked at first, and soon known."""
        size = f"pg_column_size({_ROW}.*)"
        most = self._policy.max_bytes
        return (
            f"CASE WHEN {size} > {4 * most + 10_000} OR octet_length(({_ROW}.*)::text) > {most} "
            f"THEN ({size} || ' {_TOO_LARGE}')::int = 0 ELSE true END"
        )

    async def change(self, checked: Checked, values: list[Any], max_rows: int) -> dict[str, Any]:
        """Run a write. Raises SecurityError, so that it is undone, when it changes too much."""
        if any(token.kind == "word" and token.text.lower() == "returning" for token in tokens_of(checked.text)):
            text = f'WITH "toolpost write" AS ({checked.text}) SELECT * FROM "toolpost write" AS {_ROW} '
            counted = self._policy.max_changes
            answer, changed = await self._stream(f"{text}WHERE {self._fits()}", values, max_rows, counted=counted)
            return {**answer, "rows_affected": changed}
        async with self._cursor() as cursor:
            # Without parameters only the binary format keeps the server to a single statement.
            await cursor.execute(checked.text, values, prepare=False, binary=True)
            changed = cursor.rowcount
        if changed > self._policy.max_changes:
            raise too_many_changes(self._policy.max_changes)
        return {**Table(max_rows, self._policy.max_bytes).answer([]), "rows_affected": changed}

    async def _stream(
        self, text: str, values: list[Any], max_rows: int, *, counted: int | None = None
    ) -> tuple[dict[str, Any], int]:
        """The answer, and how many rows there were. All of them are counted, up to that many; or only those taken."""
        table, seen = Table(max_rows, self._policy.max_bytes), 0
        async with self._cursor() as cursor:
            rows: Any = cursor.stream(text, values)
            async with contextlib.aclosing(rows):
                async for row in rows:
                    if not table.columns and cursor.description:
                        table.name([column.name for column in cursor.description])
                    seen += 1
                    if counted is not None and seen > counted:
                        raise too_many_changes(counted)
                    if table.truncated is None and not table.take(row) and counted is None:
                        break
            if not table.columns:
                table.name([column.name for column in cursor.description or ()])
            kinds = [(column.type_code, column.type_display) for column in cursor.description or ()]
        return table.answer(await self._names(kinds)), seen

    def _cursor(self) -> psycopg.AsyncRawCursor[tuple[Any, ...]]:
        cursor = psycopg.AsyncRawCursor(self._connection)
        for kind in _AS_TEXT:
            cursor.adapters.register_loader(kind, _Text)
        for kind in ("date", "timestamp", "timestamptz"):
            cursor.adapters.register_loader(kind, _Time)
        return cursor

    async def _names(self, kinds: Sequence[tuple[int, str]]) -> list[str]:
        unknown = sorted({oid for oid, shown in kinds if shown.isdigit()})
        known: dict[int, str] = {}
        if unknown:
            sql = "SELECT o::int8, pg_catalog.format_type(o::oid, NULL) FROM pg_catalog.unnest($1::int8[]) AS t(o)"
            known = dict(await self.fetch(sql, [unknown]))
        return [known.get(oid, shown) for oid, shown in kinds]

    # -- what there is ---------------------------------------------------------------------------------------------

    async def look_up(self, tables: Sequence[TableName]) -> dict[TableName, Relation]:
        """What the tables are that a statement names."""
        if not tables:
            return {}
        schemas = {*self.homes, *(table.schema for table in tables if table.schema)}
        rows = await self.fetch(NAMED, [[table.name for table in tables], sorted(schemas)])
        known = {relation.name: relation for relation in await self.relations_of(rows)}
        found = {}
        for table in tables:
            names = [table] if table.schema else [TableName(home, table.name) for home in self.homes]
            relation = next((known[name] for name in names if name in known), None)
            if relation is not None:
                found[table] = found[relation.name] = relation
        return found

    async def relations_of(self, rows: Sequence[tuple[Any, ...]]) -> list[Relation]:
        """Relations of rows of (oid, schema, name, kind, has children, columns)."""
        asking = [row[0] for row in rows if row[3] in "vm" or row[4]]
        reads: dict[int, set[Read]] = {}
        remote: dict[int, set[TableName]] = {}
        for root, schema, name, kind, column in await self.fetch(READS, [asking]) if asking else ():
            reads.setdefault(root, set()).add(Read(TableName(schema, name), column))
            if kind == "f":
                remote.setdefault(root, set()).add(TableName(schema, name))
        parents = [row[0] for row in rows if row[4]]
        children: dict[int, set[TableName]] = {}
        for root, schema, name in await self.fetch(CHILDREN, [parents]) if parents else ():
            children.setdefault(root, set()).add(TableName(schema, name))
        return [
            Relation(
                name=TableName(schema, name),
                kind=_KINDS[kind],
                columns=tuple(columns),
                reads=frozenset(reads.get(oid, ())),
                remote=frozenset(remote.get(oid, ())),
                children=frozenset(children.get(oid, ())),
            )
            for oid, schema, name, kind, _, columns in rows
        ]

    async def columns(self, relations: Sequence[Relation]) -> dict[TableName, list[dict[str, Any]]]:
        """The columns of tables that may be read."""
        known = {relation.name: relation for relation in relations}
        tables = list(known)
        names = [[table.schema for table in tables], [table.name for table in tables]]
        found: dict[TableName, list[dict[str, Any]]] = {table: [] for table in tables}
        for schema, name, column, kind, nullable, primary in await self.fetch(COLUMNS, names) if tables else ():
            table = TableName(schema, name)
            if self._may_show(known[table], column):
                shown = {"name": column, "type": kind, "nullable": nullable, "primary_key": primary}
                found[table].append(shown)
        return found

    async def describe(self, relation: Relation) -> dict[str, Any]:
        """A table: its columns, keys and indexes, as far as they may be seen, and about how many rows it has."""
        table = relation.name
        where = [table.schema, table.name]
        columns = (await self.columns([relation]))[table]
        indexes: list[dict[str, Any]] = []
        primary: list[str] = []
        for name, names, unique, is_primary in await self.fetch(INDEXES, where):
            if names is not None and all(self._may_show(relation, column) for column in names):
                indexes.append({"name": name, "columns": names, "unique": unique})
                primary = names if is_primary else primary
        ((rows,),) = await self.fetch(ROWS, where)
        return {
            "schema": table.schema,
            "name": table.name,
            "kind": relation.kind,
            "columns": columns,
            "primary_key": primary,
            "foreign_keys": [
                {"columns": own, "references": {"schema": schema, "table": name, "columns": others}}
                for own, schema, name, others in await self.fetch(FOREIGN_KEYS, where)
                if all(self._may_show(relation, column) for column in own)
                and all(self._may_read(TableName(schema, name), column) for column in others)
            ],
            "indexes": indexes,
            "row_estimate": int(rows) if rows is not None and rows >= 0 else None,
        }

    def _may_show(self, relation: Relation, column: str) -> bool:
        names = self._policy.names("postgres")
        below = all(names.allows_column(child, column, self.homes) for child in relation.children)
        return below and self._may_read(relation.name, column)

    def _may_read(self, table: TableName, column: str) -> bool:
        return self._policy.may_read(table, column, "postgres", homes=self.homes)


class _Text(Loader):
    """A value as the server writes it: Python's own types would lose months, digits and infinity."""

    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "replace")


class _Time(_Text):
    """A time in ISO 8601, with T between day and hour and whole offsets."""

    def load(self, data: Any) -> str:
        text = super().load(data)
        if text.endswith(" BC"):  # the year before 1 is 0, and those before it have a sign
            year, dash, rest = text.removesuffix(" BC").partition("-")
            text = f"{'-' if year != '0001' else ''}{int(year) - 1:04}{dash}{rest}"
        text = text.replace(" ", "T", 1)
        return f"{text}:00" if len(text) > 3 and text[-3] in "+-" and "T" in text else text


_AS_TEXT: Final = (
    "numeric time timetz interval uuid inet cidr int4range int8range numrange daterange tsrange tstzrange "
    "int4multirange int8multirange nummultirange datemultirange tsmultirange tstzmultirange"
).split()


def _values(values: Sequence[Any]) -> list[Any]:
    for value in values:
        if isinstance(value, str) and ("\0" in value or value != value.encode("utf-8", "replace").decode()):
            raise _not_bound("holds a NUL or half a character, which PostgreSQL's text cannot; leave it out")
    return list(_bound(list(values)))


def _not_bound(must: str) -> InputValidationError:
    return argument_error("params", must, None)


def _explained(error: psycopg.Error) -> Exception:
    if isinstance(error, psycopg.errors.InvalidTextRepresentation) and _TOO_LARGE in str(error):
        way_out = "select fewer or shorter columns"
        return RemoteToolError(f"postgresql: a row has more bytes than one answer may; {way_out}", kind="caller")
    if isinstance(error, psycopg.DataError) and error.sqlstate is None:
        return _not_bound("holds a value that cannot be bound; give it as text")
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return ConfigurationError("postgresql: the statement could not be sent; check DATABASE_URL")
    return _told(error)
