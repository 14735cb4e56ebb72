"""Any bytes as a statement: refused in bounded time, or a normal form that touches only what the policy allows."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable

from toolpost import ConfigurationError, InputValidationError, SecurityError, SqlPolicy
from toolpost.runners.sql_authorizer import HOMES, Authorizer
from toolpost.security.sql import Checked, Relation, TableName, bind
from toolpost.security.sql_words import judge_words

POLICY = SqlPolicy(
    tables={"items": None, "people": ("id", "name"), "orders": None},
    deny_tables=["secrets"],
    max_chars=4_000,
)
WRITING = SqlPolicy(tables=["items"], writes={"items": ["insert", "update", "delete"]}, recursive=True, max_chars=4_000)
SLOW_S = 1.0
SCHEMA = """
    CREATE TABLE items (id integer PRIMARY KEY, name text);
    CREATE TABLE orders (id integer PRIMARY KEY, person integer, total real);
    CREATE TABLE people (id integer PRIMARY KEY, name text, password text);
    CREATE TABLE secrets (id integer PRIMARY KEY, value text);
    INSERT INTO secrets VALUES (1, 'CANARY');
    INSERT INTO people VALUES (1, 'Ann', 'CANARY');
"""
RELATIONS = {
    TableName(schema, name): Relation(name=TableName("main", name), columns=columns)
    for name, columns in {
        "items": ("id", "name"),
        "orders": ("id", "person", "total"),
        "people": ("id", "name", "password"),
        "secrets": ("id", "value"),
    }.items()
    for schema in (None, "main")
}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _checked(text: str, dialect: str, policy: SqlPolicy, **known: object) -> Checked | None:
    """What is accepted; None for what is refused as it should be."""
    refused: dict[str, object] = {}
    begun = time.thread_time()
    try:
        return policy.check(text, dialect, **known)  # type: ignore[arg-type]
    except SecurityError as error:
        refused = error.details
    finally:
        took_s = time.thread_time() - begun
        assert took_s < SLOW_S, f"{took_s:.1f} s for {text[:80]!r}"
    assert str(refused["rule"]).startswith("sql."), refused
    assert refused["parameter"] == "query"
    return None


def _is_stable(checked: Checked, dialect: str, policy: SqlPolicy, **known: object) -> None:
    """What was accepted is accepted again as it is, and means the same."""
    again = _checked(checked.text, dialect, policy, **known)
    assert again is not None, f"the normal form is refused: {checked.text!r}"
    assert again.text == checked.text
    assert (again.tables, again.columns, again.functions) == (checked.tables, checked.columns, checked.functions)
    judge_words(checked.text, dialect, writes=bool(policy.writes), recursive=policy.recursive)


def postgres(data: bytes) -> None:
    """The policy alone, for PostgreSQL."""
    checked = _checked(_text(data), "postgres", POLICY)
    if checked is not None:
        _is_stable(checked, "postgres", POLICY)
        assert {table.name for table in checked.tables} <= {"items", "people", "orders"}


def sqlite(data: bytes) -> None:
    """The policy, and what SQLite itself says that the accepted text touches."""
    known = {"relations": RELATIONS, "homes": HOMES}
    for policy in (POLICY, WRITING):
        checked = _checked(_text(data), "sqlite", policy, **known)
        if checked is not None:
            _is_stable(checked, "sqlite", policy, **known)
            _touches_only(checked, policy)


def _touches_only(checked: Checked, policy: SqlPolicy) -> None:
    guard = Authorizer(policy)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        for function in {"json_each", "json_tree"} & set(checked.functions):
            connection.execute(f"SELECT 1 FROM {function}('[]') LIMIT 0").close()
        ends = time.perf_counter() + 0.5
        connection.set_progress_handler(lambda: time.perf_counter() > ends, 1_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        connection.set_authorizer(guard)
        values = {f"p{number}": None for number in range(1, len(checked.parameters) + 1)}
        with contextlib.suppress(sqlite3.Error):
            shown = connection.execute(checked.text, values).fetchmany(50)
            assert "CANARY" not in str(shown), checked.text
        assert guard.refused is None, f"{checked.text!r}: {guard.refused}"


def params(data: bytes) -> None:
    """Any text as a bound value comes back as it is, or is refused."""
    checked = _checked("SELECT :x AS a", "sqlite", POLICY)
    assert checked is not None
    try:
        values = bind(checked, {"x": _text(data)})
    except (InputValidationError, ConfigurationError):
        return
    with contextlib.closing(sqlite3.connect(":memory:")) as connection, contextlib.suppress(UnicodeEncodeError):
        assert connection.execute(checked.text, {"p1": values[0]}).fetchone() == (values[0],)


TARGETS: dict[str, Callable[[bytes], None]] = {"sql_postgres": postgres, "sql_sqlite": sqlite, "sql_params": params}
_STATEMENTS = [
    b"SELECT id, name FROM items WHERE id = 1 AND name LIKE 'a%' ORDER BY id DESC LIMIT 5 OFFSET 1",
    b"WITH a AS (SELECT id FROM items), b(x) AS (SELECT max(id) FROM a) SELECT x, :n FROM b",
    b"SELECT p.name, count(*) n FROM people p LEFT JOIN orders o ON o.person = p.id GROUP BY 1 HAVING count(*) > 1",
    b"SELECT CASE WHEN id > 1 THEN 'x''y' ELSE NULL END, CAST(id AS text), id::text FROM items",
    b"SELECT * FROM (SELECT id FROM items UNION ALL SELECT id FROM orders) AS u(a) WHERE a IN (1, 2)",
    b'SELECT "id", [name], `id` FROM "items" AS "i t" -- comment\n',
    b"SELECT rank() OVER (PARTITION BY id ORDER BY name ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM items",
    b"SELECT j.value FROM items, json_each(name) AS j WHERE j.key = 1",
    b"SELECT strftime('%Y', name), date('now', '-1 day'), instr(name, 'a'), printf('%05d', id), name -> 'a' FROM items",
    b"SELECT name->>'$.a', json_extract(name, '$.b[0]') FROM items",
    b"SELECT extract(year from now()), date_trunc('month', now()), interval '1 day', x #>> '{a,b}' FROM items",
    b"SELECT generate_series(1, 10), array[1,2], x[1:2], a @> b, $1, E'a' FROM items",
    b"INSERT INTO items (id, name) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id",
    b"UPDATE items SET name = 'b' WHERE id = ? RETURNING name",
    b"DELETE FROM items WHERE id = 1",
    b"WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT n FROM r",
    b"SELECT value FROM secrets",
    b"SELECT password FROM people",
    b"SELECT 1; DROP TABLE items",
]
SEEDS: dict[str, list[bytes]] = {
    "sql_postgres": _STATEMENTS,
    "sql_sqlite": _STATEMENTS,
    "sql_params": [b"'", b"a\x00b", b"\xff", "é".encode()],
}
