"""What statements reach by other names than the policy's, on a real SQLite file and a real PostgreSQL database."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolpost import SqlPolicy, ToolResult, create_tool_call
from toolpost.runners.sql_authorizer import Authorizer
from toolpost.security.sql import Checked
from toolpost.testing import executor_for
from toolpost.toolbox import sql_tools

Run = Callable[..., ToolResult]
CANARY = "CANARY"


@contextlib.contextmanager
def tools(url: str, policy: SqlPolicy) -> Iterator[Run]:
    with executor_for(sql_tools(url, policy), enable_security_checks=False) as executor:
        yield lambda tool, **arguments: executor.execute_sync(create_tool_call(tool, arguments))


def sqlite_url(folder: Path, script: str) -> str:
    with contextlib.closing(sqlite3.connect(folder / "data.db")) as connection:
        connection.executescript(script)
    return f"sqlite:///{folder}/data.db"


def make(url: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def test_a_function_cannot_be_called_as_if_it_were_a_column(postgres_url, tmp_path):
    statements = [
        "SELECT f.pg_read_file FROM unnest(array['PG_VERSION']) AS f",
        "SELECT unnest.pg_read_file FROM unnest(array['PG_VERSION'])",
        "SELECT pg_read_file.pg_read_file FROM json_array_elements_text('[\"PG_VERSION\"]') AS pg_read_file",
        "SELECT pg_read_file.pg_read_file FROM unnest(array['PG_VERSION']) AS pg_read_file(x)",
        "SELECT f.current_setting FROM lower('data_directory') AS f",
        "SELECT f.pg_sleep FROM generate_series(1, 1) AS f",
    ]

    with tools(postgres_url, SqlPolicy()) as run:
        rules = [run("SQL.Query", query=statement).failure.details["rule"] for statement in statements]

    assert rules == ["sql.no-column"] * len(statements)


@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT f.f AS a FROM unnest(array['x']) AS f", {"a": "x"}),
        ("SELECT f.a, f.n FROM unnest(array['x']) WITH ORDINALITY AS f(a, n)", {"a": "x", "n": 1}),
        ('SELECT e.key, e.value FROM jsonb_each_text(\'{"k": "v"}\') AS e', {"key": "k", "value": "v"}),
        ("SELECT e.value FROM jsonb_array_elements('[7]') AS e", {"value": 7}),
    ],
)
def test_the_columns_of_functions_can_be_named(postgres_url, sql, row):
    with tools(postgres_url, SqlPolicy()) as run:
        assert run("SQL.Query", query=sql).data["rows"] == [row]


def test_a_view_of_whole_rows_shows_what_their_columns_hold(postgres_url):
    make(
        postgres_url,
        "CREATE TABLE users (id int, password text)",
        "CREATE VIEW rows AS SELECT u::text AS t FROM users AS u",
        "CREATE VIEW numbers AS SELECT count(*) AS n FROM users",
        f"INSERT INTO users VALUES (1, '{CANARY}')",
    )

    with tools(postgres_url, SqlPolicy(deny_columns=["users.password"])) as run:
        hidden = run("SQL.Query", query="SELECT t FROM rows")
        shown = run("SQL.Query", query="SELECT n FROM numbers")
        listed = {table["name"] for table in run("SQL.SchemaInfo").data["tables"]}

    assert hidden.failure.details["rule"] == "sql.view"
    assert shown.data["rows"] == [{"n": 1}]
    assert listed == {"users", "numbers"}


def test_columns_denied_of_a_child_are_read_neither_of_its_parent_nor_by_a_view_of_it(postgres_url):
    make(
        postgres_url,
        "CREATE TABLE parent (id int, password text)",
        "CREATE TABLE child () INHERITS (parent)",
        "CREATE TABLE grandchild () INHERITS (child)",
        "CREATE VIEW peeping AS SELECT password FROM parent",
        "CREATE VIEW harmless AS SELECT id FROM parent",
        f"INSERT INTO grandchild VALUES (1, '{CANARY}')",
    )

    with tools(postgres_url, SqlPolicy(deny_columns=["grandchild.password"])) as run:
        rules = [
            run("SQL.Query", query=query).failure.details["rule"]
            for query in ("SELECT password FROM parent", "SELECT * FROM parent", "SELECT p FROM parent AS p")
        ]
        view = run("SQL.Query", query="SELECT password FROM peeping")
        rows = [run("SQL.Query", query=f"SELECT id FROM {name}").data["rows"] for name in ("parent", "harmless")]
        listed = {t["name"]: [c["name"] for c in t["columns"]] for t in run("SQL.SchemaInfo").data["tables"]}
        told = [column["name"] for column in run("SQL.TableInfo", table="parent").data["columns"]]

    assert rules == ["sql.column", "sql.star", "sql.column"]
    assert view.failure.details["rule"] == "sql.view"
    assert rows == [[{"id": 1}], [{"id": 1}]]
    assert listed == {"parent": ["id"], "child": ["id"], "grandchild": ["id"], "harmless": ["id"]}
    assert told == ["id"]


def test_a_row_that_a_write_gives_back_is_no_larger_than_an_answer_may_be(postgres_url):
    make(postgres_url, "CREATE TABLE t (id int, a text)", "INSERT INTO t VALUES (1, repeat('x', 5000000))")
    policy = SqlPolicy(writes={"t": ["update"]})

    with tools(postgres_url, policy) as run:
        result = run("SQL.Query", query="UPDATE t SET id = 2 WHERE id = 1 RETURNING a")
        after = run("SQL.Query", query="SELECT id FROM t")

    assert "a row has more bytes than one answer may" in result.error
    assert after.data["rows"] == [{"id": 1}]


class Believing(SqlPolicy):
    """A policy that takes any text for a delete, to see what the server refuses behind it."""

    def read(self, sql: str, dialect: str) -> Any:
        class Draft:
            tables = ()

            def check(self, **known: Any) -> Checked:
                return Checked(text=sql, kind="delete")

        return Draft()


def test_a_write_without_parameters_is_one_statement_for_the_server_too(postgres_url, monkeypatch):
    monkeypatch.setattr("toolpost.runners.sql_postgresql.tokens_of", lambda text: ())
    make(postgres_url, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")

    with tools(postgres_url, Believing(writes={"t": ["delete"]})) as run:
        both = run("SQL.Query", query="DELETE FROM public.t WHERE id = 1; DELETE FROM public.t")
        one = run("SQL.Query", query="DELETE FROM public.t WHERE id = 1")

    assert "multiple commands" in both.error
    assert one.data["rows_affected"] == 1


def test_times_before_our_era_are_iso_8601_too(postgres_url):
    query = (
        "SELECT '0044-03-15 BC'::date AS d, '0044-03-15 12:00 BC'::timestamp AS t, '0001-01-01 BC'::date AS z, "
        "'0044-03-15 12:00+00 BC'::timestamptz AS o"
    )

    with tools(postgres_url, SqlPolicy()) as run:
        result = run("SQL.Query", query=query)

    row = result.data["rows"][0]
    assert (row["d"], row["t"], row["z"]) == ("-0043-03-15", "-0043-03-15T12:00:00", "0000-01-01")
    assert row["o"].startswith("-0043-03-")
    assert row["o"][-6] in "+-"


# -- SQLite ------------------------------------------------------------------------------------------------------------


def test_what_a_denied_virtual_table_keeps_cannot_be_read_beside_it(tmp_path):
    try:
        url = sqlite_url(
            tmp_path, f"CREATE VIRTUAL TABLE notes USING fts5(body); INSERT INTO notes VALUES ('{CANARY}')"
        )
    except sqlite3.OperationalError:
        pytest.skip("SQLite was built without FTS5")

    for policy in (SqlPolicy(deny_tables=["notes"]), SqlPolicy(deny_columns=["notes.body"]), SqlPolicy()):
        with tools(url, policy) as run:
            beside = run("SQL.Query", query="SELECT c0 FROM notes_content")
            itself = run("SQL.Query", query="SELECT rowid FROM notes")
            listed = run("SQL.SchemaInfo").data["tables"]
        assert beside.failure.details["rule"] == "sql.view"
        assert itself.failure.details["rule"] in ("sql.table", "sql.column")
        assert listed == []
    with tools(url, SqlPolicy(tables=["notes_content"])) as run:
        assert run("SQL.Query", query="SELECT c0 FROM notes_content").data["rows"] == [{"c0": CANARY}]
        assert [table["name"] for table in run("SQL.SchemaInfo").data["tables"]] == ["notes_content"]


def test_the_number_of_rows_is_not_told_where_it_is_a_columns_value_that_may_not_be_read(tmp_path):
    url = sqlite_url(
        tmp_path,
        """
        CREATE TABLE numbered (id integer PRIMARY KEY, a); INSERT INTO numbered VALUES (987654, 1);
        CREATE TABLE odd (rowid integer, a); INSERT INTO odd VALUES (987654, 1);
        CREATE TABLE plain (a); INSERT INTO plain VALUES (1), (2);
        """,
    )

    with tools(url, SqlPolicy(deny_columns=["numbered.id"])) as run:
        told = {name: run("SQL.TableInfo", table=name).data["row_estimate"] for name in ("numbered", "odd", "plain")}

    assert told == {"numbered": None, "odd": None, "plain": 2}


def test_a_broken_view_that_is_denied_looks_like_one_that_is_not_there(tmp_path):
    url = sqlite_url(tmp_path, f"CREATE VIEW hidden AS SELECT a FROM {CANARY}")

    with tools(url, SqlPolicy(deny_tables=["hidden", "nowhere"])) as run:
        for tool, asked in (("SQL.TableInfo", "table"), ("SQL.Query", "query")):
            there, missing = (
                run(tool, **{asked: name if asked == "table" else f"SELECT a FROM {name}"})
                for name in ("hidden", "nowhere")
            )
            assert there.error.replace("hidden", "x") == missing.error.replace("nowhere", "x")
            assert there.failure.details["rule"] == "sql.table"


def test_sqlite_itself_refuses_to_change_a_column_that_may_not_be_touched():
    policy: Any = SqlPolicy(deny_columns=["t.password"], writes={"t": ["update"]})
    guard = Authorizer(policy)

    assert guard(sqlite3.SQLITE_UPDATE, "t", "name", "main", None) == sqlite3.SQLITE_OK
    assert guard(sqlite3.SQLITE_UPDATE, "t", "password", "main", None) == sqlite3.SQLITE_DENY
