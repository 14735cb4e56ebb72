"""The database runner: SQLite files, a real PostgreSQL server, and strategies of one's own."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.services import Postgres
from toolpost import (
    ConfigurationError,
    DbToolSpec,
    IntegerParameter,
    NotSupportedError,
    RemoteToolError,
    SqliteToolSpec,
    StringParameter,
    ToolExecutor,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.authoring.parameters import ArrayParameter, ObjectParameter
from toolpost.authoring.specs import MySqlToolSpec, PostgreSqlToolSpec
from toolpost.runners.db import MAX_ROWS, DbStrategyFactory
from toolpost.testing import executor_for

SQL = [
    StringParameter(name="query", required=True),
    ArrayParameter(name="params"),
]
NAMED = [StringParameter(name="query", required=True), ObjectParameter(name="params")]


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False) as made:
        yield made


async def call(executor: ToolExecutor, spec: DbToolSpec, /, **args: Any) -> Any:
    if spec.tool_name not in executor.registry.list_tools():
        executor.registry.register_tool(spec.define())
    return await executor.call(spec.tool_name, **args)


async def refused(executor: ToolExecutor, spec: DbToolSpec, /, **args: Any) -> RemoteToolError:
    with pytest.raises(RemoteToolError) as caught:
        await call(executor, spec, **args)
    return caught.value


def sqlite_spec(path: Path | str, parameters: Any = SQL, name: str = "db", **changes: Any) -> SqliteToolSpec:
    return SqliteToolSpec(
        id=name, tool_name=name, description="", parameters=parameters, database_path=str(path), **changes
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL, photo BLOB)")
        connection.execute("INSERT INTO orders VALUES (1, 'tea', 2.5, x'00ff')")
    connection.close()
    return path


# SQLite


async def test_a_select_gives_rows_by_name(executor: ToolExecutor, shop: Path) -> None:
    result = await call(executor, sqlite_spec(shop), query="SELECT * FROM orders WHERE name = ?", params=["tea"])

    row = {"id": 1, "name": "tea", "price": 2.5, "photo": {"base64": "AP8="}}
    assert result == {"operation": "select", "rows": [row], "row_count": 1, "status": "success"}


async def test_a_write_tells_how_many_rows_it_changed_and_lasts(executor: ToolExecutor, shop: Path) -> None:
    spec = sqlite_spec(shop, NAMED)

    result = await call(
        executor,
        spec,
        query="INSERT INTO orders (name, price) VALUES (:name, :price)",
        params={"name": "mug", "price": 9},
    )

    assert result == {"operation": "insert", "rows_affected": 1, "status": "success"}
    with sqlite3.connect(shop) as connection:
        assert connection.execute("SELECT name FROM orders ORDER BY id").fetchall() == [("tea",), ("mug",)]
    connection.close()


async def test_values_are_bound_and_never_read_as_sql(executor: ToolExecutor, shop: Path) -> None:
    spec = sqlite_spec(shop)
    evil = "x'); DROP TABLE orders; --"

    await call(executor, spec, query="INSERT INTO orders (name) VALUES (?)", params=[evil])

    result = await call(executor, spec, query="SELECT name FROM orders WHERE id = 2")
    assert result["rows"] == [{"name": evil}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; DROP TABLE orders",
        "ATTACH DATABASE '{other}' AS other",
        "VACUUM INTO '{other}'",
        "SELECT load_extension('{other}')",
        "BEGIN",
        "SELEKT 1",
        "SELECT * FROM nowhere",
        "INSERT INTO orders (name) VALUES ('tea')",
    ],
)
async def test_what_a_statement_may_not_is_the_callers_error(
    executor: ToolExecutor, shop: Path, tmp_path: Path, query: str
) -> None:
    other = tmp_path / "other.db"

    error = await refused(executor, sqlite_spec(shop), query=query.format(other=other))

    assert (error.kind, error.retryable, error.outcome) == ("caller", False, "ran")
    assert not other.exists()
    assert (await call(executor, sqlite_spec(shop), query="SELECT count(*) AS n FROM orders"))["rows"] == [{"n": 1}]


async def test_too_many_rows_are_refused(executor: ToolExecutor, shop: Path) -> None:
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"

    most = await call(executor, sqlite_spec(shop), query=query.format(MAX_ROWS))
    error = await refused(executor, sqlite_spec(shop), query=query.format(MAX_ROWS + 1))

    assert most["row_count"] == MAX_ROWS
    assert "add a LIMIT" in str(error)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT zeroblob(67108865)",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 80) SELECT zeroblob(1000000) FROM n",
    ],
)
async def test_too_many_bytes_are_refused(executor: ToolExecutor, shop: Path, query: str) -> None:
    error = await refused(executor, sqlite_spec(shop), query=query)

    assert error.kind == "caller"
    assert "bytes" in str(error) or "too big" in str(error)


async def test_a_refused_statement_leaves_nothing_begun(executor: ToolExecutor) -> None:
    spec = sqlite_spec(":memory:")
    await call(executor, spec, query="CREATE TABLE n AS SELECT 1 AS i")
    error = await refused(
        executor,
        spec,
        query="WITH RECURSIVE m(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM m LIMIT 10001) SELECT m.i FROM m, n",
    )

    assert "more than 10000 rows" in str(error)
    assert (await call(executor, spec, query="DROP TABLE n"))["status"] == "success"


@pytest.mark.parametrize("name", ["temp_store_directory", "Data_Store_Directory", "soft_heap_limit", "hard_heap_limit"])
async def test_no_statement_sets_what_holds_for_other_databases_too(
    executor: ToolExecutor, shop: Path, name: str
) -> None:
    error = await refused(executor, sqlite_spec(shop), query=f"PRAGMA {name} = 1")

    assert (error.kind, "not authorized" in str(error)) == ("caller", True)


async def test_a_locked_database_is_a_failure_that_passes(executor: ToolExecutor, shop: Path) -> None:
    holder = sqlite3.connect(shop, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        error = await refused(executor, sqlite_spec(shop, timeout=0.01), query="DELETE FROM orders")
    finally:
        holder.close()

    assert (error.kind, error.retryable) == ("transient", True)
    assert error.details["sqlite_error"] == "SQLITE_BUSY"


async def test_a_file_that_is_no_database_is_nobodys_mistake_to_repeat(executor: ToolExecutor, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, however long it is" * 100)

    broken = await refused(executor, sqlite_spec(tmp_path / "text"), query="SELECT * FROM sqlite_master")
    missing = await refused(executor, sqlite_spec(tmp_path / "no" / "folder", name="missing"), query="SELECT 1")

    assert (broken.kind, broken.retryable) == ("tool_error", False)
    assert (missing.kind, missing.outcome) == ("unavailable", "not_run")


async def test_the_deadline_interrupts_a_statement(executor: ToolExecutor, shop: Path) -> None:
    spec = sqlite_spec(shop, timeout_s=0.2)
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    with pytest.raises(ToolTimeoutError):
        await call(executor, spec, query=forever)

    pool = executor._thread_pool
    async with asyncio.timeout(20):
        while pool.abandoned_now:
            await asyncio.sleep(0)


async def test_a_database_in_memory_lasts_as_long_as_its_executor() -> None:
    spec = sqlite_spec(":memory:")
    with executor_for() as executor:
        await call(executor, spec, query="CREATE TABLE t (n INTEGER)")
        await asyncio.gather(*(call(executor, spec, query="INSERT INTO t VALUES (?)", params=[n]) for n in range(20)))
        assert (await call(executor, spec, query="SELECT sum(n) AS n FROM t"))["rows"] == [{"n": 190}]

    with executor_for() as another:
        assert (await refused(another, spec, query="SELECT * FROM t")).kind == "caller"


def test_a_caller_that_blocks_is_served_too(shop: Path) -> None:
    with executor_for(sqlite_spec(shop).define()) as executor:
        result = executor.execute_sync(create_tool_call("db", {"query": "SELECT name FROM orders"}))

    assert result.data["rows"] == [{"name": "tea"}]


@pytest.mark.parametrize("args", [{"query": " "}, {"query": "SELECT 1", "params": "text"}, {}])
async def test_arguments_that_are_no_statement_are_refused_before_anything_runs(
    executor: ToolExecutor, shop: Path, args: dict[str, Any]
) -> None:
    loose = [StringParameter(name="query"), StringParameter(name="params")]
    executor.registry.register_tool(sqlite_spec(shop, loose).define())

    result = await executor.execute_tool_call(create_tool_call("db", args))

    assert result.failure is not None
    assert (result.status_code, result.failure.outcome) == (400, "not_run")


# PostgreSQL


def pg_spec(url: str, parameters: Any = SQL, **changes: Any) -> PostgreSqlToolSpec:
    parts = urlsplit(url)
    values: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port,
        "database": parts.path.strip("/"),
        "username": parts.username or "postgres",
        "password": parts.password or "none",
    }
    return PostgreSqlToolSpec(id="pg", tool_name="pg", description="", parameters=parameters, **{**values, **changes})


async def test_postgresql_reads_and_writes_with_bound_values(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url)
    evil = "x'); DROP TABLE orders; --"

    made = await call(executor, spec, query="CREATE TABLE orders (id int PRIMARY KEY, name text, more jsonb, b bytea)")
    put = await call(
        executor,
        spec,
        query="INSERT INTO orders VALUES (%s, %s, %s, '\\x00ff'), (2, NULL, NULL, NULL)",
        params=[1, evil, {"a": [1]}],
    )
    got = await call(executor, spec, query="SELECT * FROM orders ORDER BY id LIMIT 1")
    back = await call(
        executor, spec, query="UPDATE orders SET name = 'n' WHERE id = ANY(%s) RETURNING id", params=[[1, 2]]
    )

    assert made == {"operation": "create", "rows_affected": 0, "status": "success"}
    assert put == {"operation": "insert", "rows_affected": 2, "status": "success"}
    assert got["rows"] == [{"id": 1, "name": evil, "more": {"a": [1]}, "b": {"base64": "AP8="}}]
    assert (back["row_count"], back["rows"]) == (2, [{"id": 1}, {"id": 2}])


async def test_postgresql_takes_named_values_and_a_connection_string(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec("postgresql://nobody@nowhere.invalid:1/none", NAMED, connection_string=postgres_url)

    result = await call(executor, spec, query="SELECT %(a)s::int + %(b)s::int AS n, '%%' AS p", params={"a": 1, "b": 2})

    assert result["rows"] == [{"n": 3, "p": "%"}]


@pytest.mark.parametrize(
    ("query", "state"),
    [
        ("SELECT 1; DROP TABLE orders", "42601"),
        ("SELEKT 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("INSERT INTO orders VALUES (1)", "23505"),
        ("SELECT 1 / 0", "22012"),
    ],
)
async def test_postgresql_refuses_what_is_wrong_as_the_callers_error(
    executor: ToolExecutor, postgres_url: str, query: str, state: str
) -> None:
    spec = pg_spec(postgres_url)
    await call(executor, spec, query="CREATE TABLE orders AS SELECT 1 AS id")
    await call(executor, spec, query="ALTER TABLE orders ADD PRIMARY KEY (id)")

    error = await refused(executor, spec, query=query)

    assert (error.kind, error.retryable, error.details["sqlstate"]) == ("caller", False, state)
    assert (await call(executor, spec, query="SELECT count(*) AS n FROM orders"))["rows"] == [{"n": 1}]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT g FROM generate_series(1, 10001) g", None),
        ("SELECT g FROM generate_series(1, %s) g", [10001]),
        ("WITH n AS (SELECT g FROM generate_series(1, 10001) g) SELECT g FROM n", None),
        ("SELECT repeat('x', 1000000) FROM generate_series(1, 80)", None),
    ],
)
async def test_postgresql_refuses_more_than_fits(
    executor: ToolExecutor, postgres_url: str, query: str, params: Any
) -> None:
    spec = pg_spec(postgres_url, pool_size=1)

    error = await refused(executor, spec, query=query, **({} if params is None else {"params": params}))

    assert (error.kind, "gives more than" in str(error)) == ("caller", True)
    assert (await call(executor, spec, query="SELECT 1 AS n"))["rows"] == [{"n": 1}]


async def test_a_large_answer_never_is_in_memory_as_a_whole(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url)
    await call(executor, spec, query="SELECT 1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    await refused(executor, spec, query="SELECT g, repeat('x', 1000) FROM generate_series(1, 400000) g")

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB; all of it are 400,000


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("SELECT 1 AS n WHERE false", {"operation": "select", "rows": [], "row_count": 0, "status": "success"}),
        ("SELECT 1 AS n INTO kept", {"operation": "select", "rows_affected": 1, "status": "success"}),
        ("VALUES (1)", {"operation": "values", "rows": [{"column1": 1}], "row_count": 1, "status": "success"}),
    ],
)
async def test_a_statement_gives_rows_or_how_many_it_changed(
    executor: ToolExecutor, postgres_url: str, query: str, result: Any
) -> None:
    assert await call(executor, pg_spec(postgres_url), query=query) == result


@pytest.mark.parametrize(
    "settings",
    [{"connection_string": "postgres//ann:hunter2@h/d"}, {"connection_string": "host=h pasword=hunter2"}],
)
async def test_settings_that_are_wrong_are_told_without_their_secrets(
    executor: ToolExecutor, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    spec = pg_spec("postgresql://ann:hunter2@h:1/d", **settings)

    with pytest.raises(ConfigurationError, match="check its connection_string") as caught:
        await call(executor, spec, query="SELECT 1")

    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "hunter2" not in told


async def test_nothing_of_one_call_is_left_for_the_next(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url, pool_size=1)
    await call(executor, spec, query="SET application_name = 'left behind'")
    await call(executor, spec, query="SELECT pg_advisory_lock(7)")

    seen = await call(
        executor,
        spec,
        query="SELECT current_setting('application_name') AS name, (SELECT count(*) FROM pg_locks JOIN pg_database d "
        "ON d.oid = database WHERE locktype = 'advisory' AND d.datname = current_database()) AS n",
    )

    assert seen["rows"] == [{"name": "", "n": 0}]


async def test_a_transaction_cannot_be_left_open(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url, pool_size=1)

    error = await refused(executor, spec, query="BEGIN")

    assert (error.kind, "each call is one" in str(error)) == ("caller", True)
    assert (await call(executor, spec, query="SELECT 1 AS n"))["rows"] == [{"n": 1}]


async def test_calls_at_the_same_time_share_the_pool(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url, pool_size=3)

    results = await asyncio.gather(*(call(executor, spec, query="SELECT pg_backend_pid() AS pid") for _ in range(30)))

    assert 1 <= len({result["rows"][0]["pid"] for result in results}) <= 3


async def test_the_deadline_ends_the_statement_in_the_server(executor: ToolExecutor, postgres_url: str) -> None:
    spec = pg_spec(postgres_url, timeout_s=0.3)

    with pytest.raises(ToolTimeoutError):
        await call(executor, spec, query="SELECT pg_sleep(30)")

    watch = pg_spec(postgres_url)
    active = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    async with asyncio.timeout(20):
        while (await call(executor, watch, query=active))["rows"] != [{"n": 0}]:
            await asyncio.sleep(0)


async def test_a_server_that_is_not_there_did_not_run_it(executor: ToolExecutor) -> None:
    error = await refused(executor, pg_spec("postgresql://u:hunter2@127.0.0.1:1/d"), query="SELECT 1")

    assert (error.kind, error.outcome, error.retryable) == ("network", "not_run", True)
    assert "hunter2" not in str(error)


async def test_a_server_that_was_restarted_is_connected_to_anew(executor: ToolExecutor, own_postgres: Postgres) -> None:
    spec = pg_spec(own_postgres.url)
    assert (await call(executor, spec, query="SELECT 1 AS n"))["row_count"] == 1

    await asyncio.to_thread(own_postgres.restart)

    assert (await call(executor, spec, query="SELECT 1 AS n"))["row_count"] == 1


async def test_a_connection_lost_in_the_middle_leaves_the_outcome_open(
    executor: ToolExecutor, own_postgres: Postgres
) -> None:
    spec = pg_spec(own_postgres.url)
    waiting = asyncio.create_task(refused(executor, spec, query="SELECT pg_sleep(30)"))
    active = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    async with asyncio.timeout(20):
        while (await call(executor, spec, query=active))["rows"] != [{"n": 1}]:
            await asyncio.sleep(0)

    await asyncio.to_thread(own_postgres.kill)

    error = await waiting
    assert (error.kind, error.outcome) == ("network", "unknown")


def test_connections_are_closed_before_their_loop_ends(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    import psycopg

    with executor_for() as executor:
        for _ in range(2):
            asyncio.run(call(executor, pg_spec(postgres_url), query="SELECT 1"))
        with psycopg.connect(postgres_url) as connection:
            count = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            for _ in range(1000):  # a backend needs a moment to notice
                connection.rollback()
                left = connection.execute(count).fetchone()
                if left == (0,):
                    break
    assert left == (0,)
    assert caplog.text == ""


# strategies


class Ledger:
    """A strategy that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], Any, float | None]] = []

    async def execute_operation(self, args: dict[str, Any], spec: Any, timeout: float | None = None) -> Any:
        self.asked.append((args, spec, timeout))
        return {"operation": "entry", "status": "success"}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    strategy = Ledger()
    DbStrategyFactory.register_strategy("ledger", strategy)
    yield strategy
    DbStrategyFactory.unregister_strategy("ledger")


async def test_a_registered_strategy_is_given_arguments_spec_and_time(executor: ToolExecutor, ledger: Ledger) -> None:
    spec = DbToolSpec(
        driver="ledger",
        id="l",
        tool_name="l",
        description="",
        parameters=[IntegerParameter(name="n")],
        timeout_s=5,
        book="main",  # type: ignore[call-arg]
    )

    assert await call(executor, spec, n=1) == {"operation": "entry", "status": "success"}

    ((args, seen, timeout),) = ledger.asked
    assert (args, seen.book) == ({"n": 1}, "main")
    assert timeout is not None
    assert 0 < timeout <= 5
    assert DbStrategyFactory.get_strategy("ledger") is ledger


async def test_a_driver_without_a_strategy_refuses_each_call(executor: ToolExecutor) -> None:
    spec = MySqlToolSpec(
        id="m", tool_name="m", description="", parameters=SQL, database="d", username="u", password="p"
    )

    with pytest.raises(NotSupportedError, match="no strategy for driver 'mysql'") as caught:
        await call(executor, spec, query="SELECT 1")

    assert caught.value.outcome == "not_run"


async def test_a_strategy_can_be_used_by_itself(shop: Path) -> None:
    strategy = DbStrategyFactory.get_strategy("sqlite")

    result = await strategy.execute_operation({"query": "SELECT name FROM orders"}, sqlite_spec(shop), 5)

    assert result["rows"] == [{"name": "tea"}]
    assert DbStrategyFactory.get_strategy("sqlite") is strategy


def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must have execute_operation"):
        DbStrategyFactory.register_strategy("x", object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="takes an object"):
        DbStrategyFactory.register_strategy("x", Ledger)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no strategy is registered"):
        DbStrategyFactory.unregister_strategy("x")
    with pytest.raises(NotSupportedError, match="no strategy for driver 'x'"):
        DbStrategyFactory.get_strategy("x")


def test_strategies_may_be_asked_for_by_many_threads_at_once() -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(DbStrategyFactory.get_strategy("sqlite"))) for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(map(id, found))) == 1
