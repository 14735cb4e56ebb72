"""The SQL tools over a real SQLite file and a real PostgreSQL database."""

import asyncio
import contextlib
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolpost import ConfigurationError, ExecutorConfig, SqlDatabase, SqlPolicy, ToolResult, create_tool_call
from toolpost.runners.sql_authorizer import Authorizer
from toolpost.testing import executor_for
from toolpost.toolbox import sql_tools, standard_tools

Run = Callable[..., ToolResult]

SCHEMA = """
    CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL, password text);
    CREATE TABLE orders (id integer PRIMARY KEY, user_id integer REFERENCES users (id), total numeric(10, 2));
    CREATE INDEX orders_by_user ON orders (user_id);
    CREATE TABLE secrets (id integer PRIMARY KEY, value text);
    CREATE VIEW names AS SELECT id, name FROM users;
    CREATE VIEW leak AS SELECT value FROM secrets;
    CREATE VIEW leak_again AS SELECT value FROM leak;
    INSERT INTO users VALUES (1, 'Ann', 'p1'), (2, 'Bob', 'p2');
    INSERT INTO orders VALUES (1, 1, 9.90), (2, 2, 20), (3, 2, 5.05);
    INSERT INTO secrets VALUES (1, 'CANARY');
"""
POLICY = SqlPolicy(deny_tables=["secrets"], deny_columns=["users.password"])


def sqlite_url(folder: Path) -> str:
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection:
        connection.executescript(SCHEMA)
    return f"sqlite:///{folder}/shop.db"


def postgres_with_schema(url: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    return postgres_with_schema(request.getfixturevalue("postgres_url"))


@contextlib.contextmanager
def tools(url: str, policy: SqlPolicy = POLICY, **settings: Any) -> Iterator[Run]:
    with executor_for(sql_tools(url, policy), **settings) as executor:
        yield lambda tool, **arguments: executor.execute_sync(create_tool_call(tool, arguments))


@pytest.fixture
def run(url: str) -> Iterator[Run]:
    with tools(url) as call:
        yield call


# -- SQL.Query ---------------------------------------------------------------------------------------------------------


def test_a_query_gives_its_rows_as_objects_with_the_columns_in_order(run):
    result = run("SQL.Query", query="SELECT id, name FROM users ORDER BY id")

    assert result.data["rows"] == [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]
    assert [column["name"] for column in result.data["columns"]] == ["id", "name"]
    assert {column["type"] for column in result.data["columns"]} <= {"integer", "int4", "text"}
    assert (result.data["row_count"], result.data["truncated"], result.data["truncated_by"]) == (2, False, None)


def test_named_parameters_are_bound(run):
    hostile = "x' OR '1'='1"

    found = run("SQL.Query", query="SELECT id FROM users WHERE name = :name", params={"name": "Bob"})
    none = run("SQL.Query", query="SELECT id FROM users WHERE name = :name", params={"name": hostile})

    assert found.data["rows"] == [{"id": 2}]
    assert none.data["rows"] == []


def test_parameters_without_names_are_bound_in_order(url, run):
    query = "SELECT {} AS a, {} AS b".format(*(("?", "?") if url.startswith("sqlite") else ("$1::text", "$2::text")))

    assert run("SQL.Query", query=query, params=["x", "y"]).data["rows"] == [{"a": "x", "b": "y"}]


def test_columns_of_the_same_name_get_numbers(run):
    result = run(
        "SQL.Query", query="SELECT o.id, u.id, u.id AS id_2 FROM orders o JOIN users u ON u.id = o.user_id LIMIT 1"
    )

    assert list(result.data["rows"][0]) == ["id", "id_2", "id_2_2"]


def test_more_rows_than_asked_for_are_said_to_be_there(run):
    result = run("SQL.Query", query="SELECT id FROM orders", max_rows=2)
    exact = run("SQL.Query", query="SELECT id FROM orders", max_rows=3)

    assert (result.data["row_count"], result.data["truncated"], result.data["truncated_by"]) == (2, True, "rows")
    assert (exact.data["row_count"], exact.data["truncated"]) == (3, False)


def test_the_policys_rows_are_the_most(url):
    with tools(url, SqlPolicy(max_rows=2)) as run:
        result = run("SQL.Query", query="SELECT id FROM orders")
        refused = run("SQL.Query", query="SELECT id FROM orders", max_rows=3)

    assert result.data["row_count"] == 2
    assert refused.failure.code == "invalid_input"


def test_an_answer_ends_before_it_holds_too_many_bytes(url):
    with tools(url, SqlPolicy(max_bytes=120)) as run:
        result = run("SQL.Query", query="SELECT name AS a_name_of_some_length FROM users, orders")

    assert result.data["truncated_by"] == "bytes"
    assert 0 < result.data["row_count"] < 6


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("SELECT value FROM secrets", "sql.table"),
        ("SELECT value FROM leak", "sql.view"),
        ("SELECT value FROM leak_again", "sql.view"),
        ("SELECT password FROM users", "sql.column"),
        ("SELECT * FROM users", "sql.star"),
        ("DELETE FROM orders", "sql.statement"),
        ("SELECT nothing FROM nowhere", "sql.no-table"),
    ],
)
def test_what_the_policy_refuses_is_told_with_its_rule(run, query, rule):
    result = run("SQL.Query", query=query)

    assert result.failure.code == "screened"
    assert result.failure.details["rule"] == rule


def test_what_the_database_says_of_a_mistake_reaches_the_model(run):
    result = run("SQL.Query", query="SELECT nothing FROM orders")

    assert result.failure.code == "upstream_failed"
    assert "nothing" in result.error
    assert not result.failure.retryable


@pytest.mark.parametrize(
    ("params", "says"),
    [({}, "lacks 'n'"), ([1], "must be an object"), ({"n": "\ud800"}, "Unicode")],
)
def test_params_that_do_not_fit_are_refused(run, params, says):
    result = run("SQL.Query", query="SELECT id FROM users WHERE name = :n", params=params)

    assert result.failure.code == "invalid_input"
    assert says in result.error


MANY = [f"o{number}" for number in range(30)]
ENDLESS = (  # Three rows to the power of 30. The condition is on all tables, so that no few of them settle it first.
    f"SELECT count(*) FROM {', '.join(f'orders AS {name}' for name in MANY)} "
    f"WHERE {' + '.join(f'{name}.id' for name in MANY)} = 0"
)


def test_a_query_that_takes_too_long_is_stopped(url):
    with tools(url, SqlPolicy(timeout_s=0.5)) as run:
        begun = time.monotonic()
        result = run("SQL.Query", query=ENDLESS)

    assert time.monotonic() - begun < 5
    assert result.failure.code == "upstream_failed"
    assert "stopped after 0.5 s" in result.error or "statement timeout" in result.error


def test_a_cancelled_query_does_not_run_on(url):
    async def cancel_soon() -> float:
        database = SqlDatabase(url, SqlPolicy(timeout_s=30))
        task = asyncio.create_task(database.query(ENDLESS))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        database.close()
        return time.monotonic() - begun

    assert asyncio.run(cancel_soon()) < 10
    assert url.startswith("sqlite") or running(url) == []


def running(url: str) -> list[str]:
    """The statements that the server still runs for others, after it had a moment to end them."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(100):
            rows = connection.execute(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND pg_sleep(0.1) IS NOT NULL"
            ).fetchall()
            if not rows:
                return []
    return [query for (query,) in rows]


# -- values ------------------------------------------------------------------------------------------------------------


def test_sqlite_values_are_json_that_loses_nothing(tmp_path):
    url = sqlite_url(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE v (a, b, c, d)")
        connection.execute("INSERT INTO v VALUES (?, ?, ?, ?)", (b"\x00\xff", 2**60, 1.5, None))
        connection.commit()

    with tools(url) as run:
        result = run("SQL.Query", query="SELECT a, b, c, d, 9e999 AS e FROM v")

    assert result.data["rows"] == [{"a": {"base64": "AP8="}, "b": str(2**60), "c": 1.5, "d": None, "e": "Infinity"}]
    assert [column["type"] for column in result.data["columns"]] == ["blob", "integer", "real", "null", "real"]


def test_postgresql_values_are_json_that_loses_nothing(postgres_url):
    query = """
        SELECT 1.10::numeric AS n, 9007199254740993::bigint AS i, 'NaN'::float8 AS f, true AS b,
               '2024-01-02'::date AS d, '2024-01-02 03:04:05.5'::timestamp AS t,
               '2024-01-02 03:04:05+00'::timestamptz AT TIME ZONE 'UTC' AS z, 'infinity'::timestamp AS never,
               interval '14 months' AS v, array[1, 2] AS a, '{"x": [1.5]}'::jsonb AS j, NULL::int AS nothing
    """
    with tools(postgres_url) as run:
        result = run("SQL.Query", query=query)

    assert result.data["rows"] == [
        {
            "n": "1.10",
            "i": "9007199254740993",
            "f": "NaN",
            "b": True,
            "d": "2024-01-02",
            "t": "2024-01-02T03:04:05.5",
            "z": "2024-01-02T03:04:05",
            "never": "infinity",
            "v": "P1Y2M",
            "a": [1, 2],
            "j": {"x": [1.5]},
            "nothing": None,
        }
    ]
    assert [c["type"] for c in result.data["columns"]][:4] == ["numeric", "int8", "float8", "bool"]


def grown(name: str) -> str:
    """A query for a value of four million characters."""
    many, more = "a" * 2000, "b" * 2000
    return f"SELECT replace('{many}', 'a', '{more}') AS {name}"


def test_a_row_that_is_too_large_never_leaves_postgresql(postgres_url):
    with tools(postgres_url, SqlPolicy()) as run:
        result = run("SQL.Query", query=grown("x"))

    assert "a row has more bytes than one answer may" in result.error


def test_a_value_that_is_too_large_is_not_made_by_sqlite(tmp_path):
    with tools(sqlite_url(tmp_path), SqlPolicy()) as run:
        result = run("SQL.Query", query=grown("x"))

    assert "too big" in result.error


def test_a_query_that_doubles_at_every_step_does_not_reach_the_database(run):
    doubled = "SELECT 'x' AS x"
    for _ in range(23):
        doubled = f"SELECT x || x AS x FROM ({doubled}) AS d"

    result = run("SQL.Query", query=doubled)

    assert result.failure.details["rule"] == "sql.size"


# -- SQL.TableInfo and SQL.SchemaInfo ----------------------------------------------------------------------------------


def test_the_schema_lists_what_may_be_queried_and_nothing_else(run):
    result = run("SQL.SchemaInfo")

    shown = {table["name"]: [column["name"] for column in table["columns"]] for table in result.data["tables"]}
    assert shown == {"names": ["id", "name"], "orders": ["id", "user_id", "total"], "users": ["id", "name"]}


COLUMNS = {
    "users": ["id", "name", "password"],
    "orders": ["id", "total"],
    "secrets": ["id", "value"],
    "names": ["id", "name"],
    "leak": ["value"],
    "leak_again": ["value"],
}


@pytest.mark.parametrize(
    "policy",
    [
        POLICY,
        SqlPolicy(),
        SqlPolicy(tables=["orders"]),
        SqlPolicy(tables={"users": ["name"], "leak": None}),
        SqlPolicy(tables=["names", "leak_again"]),
        SqlPolicy(deny_tables=["users"], deny_columns=["*.value"]),
    ],
)
def test_what_is_listed_can_be_queried_and_what_is_not_cannot(url, policy):
    with tools(url, policy) as run:
        listed = {t["name"]: [c["name"] for c in t["columns"]] for t in run("SQL.SchemaInfo").data["tables"]}
        for table in ("users", "orders", "secrets", "names", "leak", "leak_again"):
            told = run("SQL.TableInfo", table=table)
            assert [c["name"] for c in told.data["columns"]] == listed[table] if table in listed else not told.success
            for column in COLUMNS[table]:
                result = run("SQL.Query", query=f"SELECT t.{column} FROM {table} AS t")
                assert result.success == (column in listed.get(table, ())), (table, column, result.error)


def test_a_table_is_described_with_its_keys_and_indexes(url, run):
    result = run("SQL.TableInfo", table="orders").data

    schema = "main" if url.startswith("sqlite") else "public"
    assert (result["schema"], result["name"], result["kind"]) == (schema, "orders", "table")
    assert [(c["name"], c["nullable"], c["primary_key"]) for c in result["columns"]] == [
        ("id", False, True),
        ("user_id", True, False),
        ("total", True, False),
    ]
    assert result["columns"][2]["type"].replace(" ", "") == "numeric(10,2)"
    assert result["primary_key"] == ["id"]
    assert result["foreign_keys"] == [
        {"columns": ["user_id"], "references": {"schema": schema, "table": "users", "columns": ["id"]}}
    ]
    assert {"name": "orders_by_user", "columns": ["user_id"], "unique": False} in result["indexes"]


def test_keys_that_lead_to_what_may_not_be_seen_are_left_out(url):
    with tools(url, SqlPolicy(tables={"orders": ["id", "total"]})) as run:
        result = run("SQL.TableInfo", table="orders").data

    assert [column["name"] for column in result["columns"]] == ["id", "total"]
    assert result["foreign_keys"] == []
    assert all("user_id" not in index["columns"] for index in result["indexes"])


def test_a_table_that_is_hidden_looks_like_one_that_is_not_there(run):
    hidden = run("SQL.TableInfo", table="secrets")
    missing = run("SQL.TableInfo", table="nowhere")

    assert hidden.failure.code == missing.failure.code == "screened"
    assert hidden.error.replace("secrets", "x") == missing.error.replace("nowhere", "x")


# -- writes ------------------------------------------------------------------------------------------------------------

WRITES = SqlPolicy(tables=["orders"], writes={"orders": ["insert", "update"]}, max_changes=2)


def count(url: str, where: str) -> int:
    with tools(url, SqlPolicy()) as run:
        return int(run("SQL.Query", query=f"SELECT count(*) AS n FROM orders WHERE {where}").data["rows"][0]["n"])


def test_a_write_that_is_allowed_is_kept(url):
    with tools(url, WRITES) as run:
        result = run("SQL.Query", query="INSERT INTO orders (id, total) VALUES (:id, 7)", params={"id": 9})

    assert result.data["rows_affected"] == 1
    assert count(url, "id = 9") == 1


def test_a_write_gives_what_it_returns(url):
    with tools(url, WRITES) as run:
        result = run("SQL.Query", query="UPDATE orders SET total = 1 WHERE id = 1 RETURNING id, user_id")

    assert result.data["rows"] == [{"id": 1, "user_id": 1}]


def test_a_write_that_changes_too_much_is_undone(url):
    with tools(url, WRITES) as run:
        result = run("SQL.Query", query="UPDATE orders SET total = 0 WHERE id > 0")

    assert result.failure.details["rule"] == "sql.changes"
    assert count(url, "total = 0") == 0


def test_a_write_that_gives_back_too_much_is_undone(url):
    with tools(url, WRITES) as run:
        result = run("SQL.Query", query="UPDATE orders SET total = 0 WHERE id > 0 RETURNING id")

    assert result.failure.details["rule"] == "sql.changes"
    assert count(url, "total = 0") == 0


def test_a_write_that_gives_back_fewer_rows_than_it_changes_is_kept_whole(url):
    policy = SqlPolicy(tables=["orders"], writes={"orders": ["update"]}, max_changes=3)
    with tools(url, policy) as run:
        query = "WITH w AS (SELECT 1 AS n) UPDATE orders SET total = 0 WHERE id >= (SELECT n FROM w) RETURNING id, id"
        result = run("SQL.Query", query=query, max_rows=1)

    assert (result.data["rows_affected"], result.data["truncated_by"]) == (3, "rows")
    assert list(result.data["rows"][0]) == ["id", "id_2"]
    assert count(url, "total = 0") == 3


def test_a_write_that_is_not_allowed_is_refused(url):
    with tools(url, WRITES) as run:
        result = run("SQL.Query", query="DELETE FROM orders WHERE id = 1")

    assert result.failure.details["rule"] == "sql.write"
    assert count(url, "id = 1") == 1


# -- the database's own guard ------------------------------------------------------------------------------------------


class Believing(SqlPolicy):
    """A policy that believes everything, to see what is refused behind it."""

    def read(self, sql: str, dialect: str) -> Any:
        class Draft:
            tables = ()

            def check(self, **known: Any) -> Any:
                from toolpost.security.sql import Checked

                return Checked(text=sql)

        return Draft()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "SELECT value FROM secrets",
        "SELECT password FROM users",
        "SELECT value FROM leak",
        "SELECT load_extension('x')",
        "SELECT randomblob(10)",
        "SELECT name FROM sqlite_master",
        "SELECT * FROM pragma_database_list",
        "PRAGMA query_only = OFF",
        "ATTACH ':memory:' AS other",
        "CREATE TEMP TABLE x (a)",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r LIMIT 5",
        "BEGIN",
        "VACUUM",
    ],
)
def test_sqlite_itself_refuses_what_the_policy_does_not_allow(tmp_path, sql):
    policy = Believing(deny_tables=["secrets"], deny_columns=["users.password"])

    with tools(sqlite_url(tmp_path), policy, enable_security_checks=False) as run:
        result = run("SQL.Query", query=sql)

    assert not result.success
    assert result.failure.code in ("screened", "upstream_failed")


def test_sqlite_is_opened_to_read_only_even_without_the_authorizer(tmp_path, monkeypatch):
    monkeypatch.setattr(Authorizer, "__call__", lambda *_: sqlite3.SQLITE_OK)

    with tools(sqlite_url(tmp_path), Believing()) as run:
        result = run("SQL.Query", query="DELETE FROM orders")

    assert "readonly" in result.error


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "CREATE TABLE x (a int)",
        "SELECT 1; DELETE FROM orders",
        "SELECT nextval('public.s')",
        "COMMIT; DELETE FROM orders",
    ],
)
def test_postgresql_itself_refuses_what_would_change_something(postgres_url, sql):
    import psycopg

    url = postgres_with_schema(postgres_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE s")

    with tools(url, Believing(), enable_security_checks=False) as run:
        result = run("SQL.Query", query=sql)

    assert result.failure.code == "upstream_failed"
    assert count(url, "true") == 3


def test_postgresql_ends_a_statement_whose_client_is_gone_and_one_that_takes_too_long(postgres_url):
    query = "SELECT current_setting('statement_timeout') AS t, current_setting('client_connection_check_interval') AS c"

    with tools(postgres_url, Believing(timeout_s=7), enable_security_checks=False) as run:
        result = run("SQL.Query", query=query)

    assert result.data["rows"] == [{"t": "7s", "c": "1s"}]


def test_functions_that_others_made_cannot_be_reached_on_postgresql(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION public.lower(int) RETURNS text AS 'SELECT ''intruder''::text' LANGUAGE sql")

    with tools(postgres_url) as run:
        result = run("SQL.Query", query="SELECT lower(5)")

    assert not result.success
    assert "intruder" not in str(result.error)


def test_functions_of_a_schema_that_the_policy_names_can_be_called(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION public.double_it(int) RETURNS int AS 'SELECT $1 * 2' LANGUAGE sql")

    with tools(postgres_url, SqlPolicy(functions=["double_it"], search_path=["public"])) as run:
        result = run("SQL.Query", query="SELECT double_it(4) AS n")
    with tools(postgres_url, SqlPolicy(functions=["double_it"])) as run:
        unreachable = run("SQL.Query", query="SELECT double_it(4) AS n")

    assert result.data["rows"] == [{"n": 8}]
    assert not unreachable.success


def test_sqlite_reads_json_by_its_own_signs_and_tables(tmp_path):
    query = """SELECT '{"a": [1, 2]}' ->> '$.a[1]' AS second, j.value FROM json_each('[7]') AS j"""

    with tools(sqlite_url(tmp_path)) as run:
        result = run("SQL.Query", query=query)

    assert result.data["rows"] == [{"second": 2, "value": 7}]


def test_the_time_can_be_asked_for(run):
    result = run("SQL.Query", query="SELECT current_date AS d, current_timestamp AS t")

    assert result.data["rows"][0]["d"] == result.data["rows"][0]["t"][:10]


def test_a_foreign_table_is_not_reached_unless_it_is_named(postgres_url):
    import psycopg

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            try:
                connection.execute("CREATE EXTENSION postgres_fdw")
            except psycopg.Error:
                pytest.skip("PostgreSQL was installed without postgres_fdw")
            port = listener.getsockname()[1]
            connection.execute(
                f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}')"
            )
            connection.execute("CREATE USER MAPPING FOR CURRENT_USER SERVER far")
            connection.execute("CREATE FOREIGN TABLE beyond (a int) SERVER far")
            connection.execute("CREATE VIEW veil AS SELECT a FROM beyond")
        with tools(postgres_url) as run:
            results = [run("SQL.Query", query=f"SELECT a FROM {name}") for name in ("beyond", "veil")]

        assert [result.failure.details["rule"] for result in results] == ["sql.remote", "sql.remote"]
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_view_of_the_servers_own_tables_has_to_be_named(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE VIEW others AS SELECT query FROM pg_stat_activity")
        connection.execute("CREATE VIEW roles AS SELECT rolname FROM pg_authid")

    with tools(postgres_url) as run:
        results = [run("SQL.Query", query=f"SELECT * FROM {name}") for name in ("others", "roles")]
        listed = run("SQL.SchemaInfo").data["tables"]
    with tools(postgres_url, SqlPolicy(tables=["roles"])) as run:
        named = run("SQL.Query", query="SELECT * FROM roles")

    assert [result.failure.details["rule"] for result in results] == ["sql.view", "sql.view"]
    assert listed == []
    assert named.success


def test_a_parent_is_not_read_when_a_child_is_denied(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE parent (a int)")
        connection.execute("CREATE TABLE child () INHERITS (parent)")

    with tools(postgres_url, SqlPolicy(deny_tables=["child"])) as run:
        result = run("SQL.Query", query="SELECT a FROM parent")

    assert result.failure.details["rule"] == "sql.view"


# -- setting up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:canary@h/d", "mysql"),
        ("shop.db", "no URL"),
        ("sqlite://", "a SQLite URL is"),
        ("sqlite:///:memory:", "would be empty"),
        ("sqlite:///a.db?mode=rwc", "without anything else"),
    ],
)
def test_a_url_that_is_not_known_is_refused_without_its_password(url, says):
    with pytest.raises(ConfigurationError, match=says) as raised:
        sql_tools(url)

    assert "canary" not in str(raised.value)


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with tools(f"sqlite:///{tmp_path}/missing.db") as run:
        result = run("SQL.SchemaInfo")

    assert "unable to open" in result.error
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_of_the_folder_where_the_tools_were_made(tmp_path, monkeypatch):
    sqlite_url(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = sql_tools("sqlite:///shop.db", POLICY)
    monkeypatch.chdir("/")

    with executor_for(made) as executor:
        result = executor.execute_sync(create_tool_call("SQL.SchemaInfo", {}))

    assert result.data["count"] == 3


def test_the_standard_tools_have_those_of_sql_once_there_is_a_database(tmp_path):
    url = sqlite_url(tmp_path)

    with_database = {tool.name for tool in standard_tools(ExecutorConfig(database_url=url))}
    without = {tool.name for tool in standard_tools(ExecutorConfig())}

    assert with_database - without == {"SQL.Query", "SQL.TableInfo", "SQL.SchemaInfo"}


def test_tools_that_write_do_not_say_that_they_only_read(tmp_path):
    url = sqlite_url(tmp_path)

    assert [tool.hints.read_only for tool in sql_tools(url)] == [True, True, True]
    assert [tool.hints.read_only for tool in sql_tools(url, WRITES)] == [False, True, True]


def test_innocent_sql_passes_the_screening_of_its_role(run):
    result = run("SQL.Query", query="SELECT name FROM users WHERE name <> 'x' OR 1 = 1 ORDER BY name -- all of them")

    assert result.data["row_count"] == 2
