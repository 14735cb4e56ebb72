"""Executors of database specs: one method of an author's own behind the whole pipeline, and the ready ones."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import Mongo
from toolpost import (
    ConfigurationError,
    DbToolSpec,
    IdempotencyConfig,
    IntegerParameter,
    NotSupportedError,
    RemoteToolError,
    RetryConfig,
    SqliteToolSpec,
    StringParameter,
    ToolContext,
    ToolError,
    ToolExecutor,
)
from toolpost.authoring.parameters import ArrayParameter, ObjectParameter
from toolpost.authoring.specs import DynamoDbToolSpec, MySqlToolSpec
from toolpost.engine.db_executors import (
    BaseDbExecutor,
    DynamoDBExecutor,
    MySQLExecutor,
    PostgreSQLExecutor,
    SQLiteExecutor,
)
from toolpost.testing import executor_for


@pytest.fixture
def engine() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False) as made:
        yield made


def spec_with(**changes: Any) -> DbToolSpec:
    values: dict[str, Any] = {
        "id": "docs-v1",
        "tool_name": "docs",
        "description": "Documents",
        "driver": "paper",
        "parameters": [StringParameter(name="name", required=True), ObjectParameter(name="more")],
        "drawer": "top",
    }
    return DbToolSpec(**{**values, **changes})


class Paper(BaseDbExecutor):
    """A database of an author's own, which counts its effects."""

    def __init__(self, spec: DbToolSpec, **more: Any) -> None:
        super().__init__(spec, **more)
        self.written: list[str] = []
        self.seen: list[tuple[Any, ...]] = []
        self.fail: list[Exception] = []

    async def _execute_db_operation(self, args, ctx, timeout):
        self.seen.append((copy.deepcopy(args), ctx.user_id, timeout, ctx.idempotency_key))
        args.setdefault("more", {})["_id"] = object()
        if self.fail:
            raise self.fail.pop(0)
        self.written.append(args["name"])
        return {"operation": "write", "drawer": self.spec.drawer, "count": len(self.written), "status": "success"}


async def test_the_method_is_the_body_and_gets_arguments_context_and_time(engine: ToolExecutor) -> None:
    paper = Paper(spec_with(timeout_s=7), executor=engine)

    result = await paper.execute({"name": "a"}, ToolContext(user_id="u1"))

    assert result.success, result.error
    assert result.data == {"operation": "write", "drawer": "top", "count": 1, "status": "success"}
    ((args, user, timeout, _),) = paper.seen
    assert (args, user) == ({"name": "a"}, "u1")
    assert 0 < timeout <= 7


async def test_wrong_arguments_never_reach_the_method(engine: ToolExecutor) -> None:
    paper = Paper(spec_with(), executor=engine)

    result = await paper.execute({"nonsense": 1}, ToolContext())

    assert (result.status_code, paper.seen) == (400, [])


async def test_a_repeated_call_with_idempotency_writes_once(engine: ToolExecutor) -> None:
    paper = Paper(spec_with(idempotency=IdempotencyConfig(enabled=True, key_fields=["name"])), executor=engine)

    results = [await paper.execute({"name": "a"}, ToolContext(user_id="u1")) for _ in range(3)]

    assert paper.written == ["a"]
    assert [result.data["count"] for result in results] == [1, 1, 1]
    assert paper.seen[0][3]  # the method sees the key


async def test_a_failure_that_passes_is_tried_again_with_the_arguments_as_they_were(engine: ToolExecutor) -> None:
    retry = RetryConfig(max_attempts=3, base_delay_s=0, max_delay_s=0, jitter_s=0)
    idempotency = IdempotencyConfig(enabled=True, key_fields=["name"])
    paper = Paper(spec_with(retry=retry, idempotency=idempotency), executor=engine)
    paper.fail = [RemoteToolError("busy", kind="transient"), RemoteToolError("gone", kind="network")]

    result = await paper.execute({"name": "a", "more": {"k": 1}}, ToolContext())

    assert result.success, result.error
    assert (result.attempts, paper.written) == (3, ["a"])
    assert [args["more"] for args, *_ in paper.seen] == [{"k": 1}] * 3


async def test_what_the_method_raises_reaches_the_caller(engine: ToolExecutor) -> None:
    paper = Paper(spec_with(), executor=engine)
    paper.fail = [ToolError("no such drawer", code="NOT_FOUND"), ZeroDivisionError("oops")]

    own = await paper.execute({"name": "a"}, ToolContext())
    other = await paper.execute({"name": "a"}, ToolContext())

    assert (own.failure.code, own.failure.outcome) == ("NOT_FOUND", "ran")
    assert (other.failure.code, other.status_code) == ("tool_failed", 500)


def test_a_method_that_is_not_async_is_refused_when_it_is_made(engine: ToolExecutor) -> None:
    class Blocking(BaseDbExecutor):
        def _execute_db_operation(self, args, ctx, timeout):
            return {}

    with pytest.raises(ConfigurationError, match="write async def _execute_db_operation"):
        Blocking(spec_with(), executor=engine)


def test_results_of_a_method_are_not_shared_between_processes(engine: ToolExecutor) -> None:
    assert Paper(spec_with(), executor=engine).definition.identity is None


# the document's own example, as it is written there but for the address of the server


async def test_a_mongodb_executor_is_one_method(engine: ToolExecutor, mongo: Mongo) -> None:
    class MongoDBExecutor(BaseDbExecutor):
        """MongoDB executor - just implement one method!"""

        async def _execute_db_operation(self, args, ctx, timeout):
            import motor.motor_asyncio

            client = motor.motor_asyncio.AsyncIOMotorClient(mongo.url)
            db = client[self.spec.database]
            collection = db[args["collection"]]

            operation = args.get("operation", "insert")
            try:
                if operation == "insert":
                    result = await collection.insert_one(args["document"])
                    return {"operation": "insert", "inserted_id": str(result.inserted_id), "status": "success"}
                if operation == "find":
                    found = await collection.find(args["document"], {"_id": 0}).to_list(10)
                    return {"operation": "find", "rows": found, "status": "success"}
            finally:
                client.close()

    spec = DbToolSpec(
        driver="mongodb",
        id="mongo-v1",
        tool_name="mongo_documents",
        description="Keep documents",
        parameters=[
            StringParameter(name="collection", required=True),
            StringParameter(name="operation", enum=["insert", "find"]),
            ObjectParameter(name="document", required=True),
        ],
        database=f"shop_{secrets.token_hex(4)}",
        idempotency=IdempotencyConfig(
            enabled=True, key_fields=["collection", "document", "operation"], bypass_on_missing_key=True
        ),
    )
    executor = MongoDBExecutor(spec, executor=engine)
    insert = {"collection": "orders", "operation": "insert", "document": {"order": 1}}

    first = await executor.execute(insert, ToolContext())
    again = await executor.execute(insert, ToolContext())
    found = await executor.execute({**insert, "operation": "find"}, ToolContext())

    assert first.success, first.error
    assert first.data["status"] == "success"
    assert again.data["inserted_id"] == first.data["inserted_id"]
    assert found.data["rows"] == [{"order": 1}]


# the ready ones

SQL = [StringParameter(name="query", required=True), ArrayParameter(name="params")]


async def test_the_sqlite_executor_runs_statements(engine: ToolExecutor, tmp_path: Path) -> None:
    spec = SqliteToolSpec(
        id="s", tool_name="s", description="", parameters=SQL, database_path=str(tmp_path / "shop.db")
    )
    executor = SQLiteExecutor(spec, executor=engine)

    await executor.execute({"query": "CREATE TABLE t (n INTEGER)"}, ToolContext())
    await executor.execute({"query": "INSERT INTO t VALUES (?)", "params": [7]}, ToolContext())
    result = await executor.execute({"query": "SELECT n FROM t"}, ToolContext())

    assert result.data == {"operation": "select", "rows": [{"n": 7}], "row_count": 1, "status": "success"}


async def test_a_subclass_may_go_on_with_the_ready_method(engine: ToolExecutor, tmp_path: Path) -> None:
    class ReadOnly(SQLiteExecutor):
        async def _execute_db_operation(self, args, ctx, timeout):
            if not args["query"].lower().startswith("select"):
                raise ToolError("only reading is allowed", code="PERMISSION_DENIED")
            return await super()._execute_db_operation(args, ctx, timeout)

    spec = SqliteToolSpec(id="s", tool_name="s", description="", parameters=SQL, database_path=str(tmp_path / "a.db"))
    executor = ReadOnly(spec, executor=engine)

    assert (await executor.execute({"query": "SELECT 1 AS n"}, ToolContext())).data["rows"] == [{"n": 1}]
    assert (await executor.execute({"query": "DROP TABLE t"}, ToolContext())).failure.code == "PERMISSION_DENIED"


async def test_an_executor_takes_the_spec_of_its_database_only(engine: ToolExecutor) -> None:
    for kind in (DynamoDBExecutor, PostgreSQLExecutor, SQLiteExecutor):
        with pytest.raises(ConfigurationError, match=f"{kind.__name__} takes a .*ToolSpec, got DbToolSpec"):
            kind(spec_with(), executor=engine)


async def test_the_dynamodb_executor_reports_a_server_that_is_not_there(engine: ToolExecutor) -> None:
    spec = DynamoDbToolSpec(
        id="d",
        tool_name="d",
        description="",
        parameters=[StringParameter(name="operation", required=True)],
        table_name="t",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )

    result = await DynamoDBExecutor(spec, executor=engine).execute({"operation": "scan"}, ToolContext())

    assert (result.failure.code, result.failure.outcome) == ("upstream_failed", "not_run")


def test_mysql_says_by_name_that_it_is_left_out(engine: ToolExecutor) -> None:
    spec = MySqlToolSpec(
        id="m", tool_name="m", description="", parameters=SQL, database="d", username="u", password="p"
    )

    with pytest.raises(NotSupportedError, match="has no MySQL driver"):
        MySQLExecutor(spec, executor=engine)

    class WithDriver(MySQLExecutor):
        async def _execute_db_operation(self, args, ctx, timeout):
            return {"status": "success"}

    result = asyncio.run(WithDriver(spec, executor=engine).execute({"query": "SELECT 1"}, ToolContext()))
    assert result.data == {"status": "success"}


async def test_a_driver_nobody_knows_refuses_each_call(engine: ToolExecutor) -> None:
    executor = BaseDbExecutor(spec_with(parameters=[IntegerParameter(name="n")]), executor=engine)

    result = await executor.execute({"n": 1}, ToolContext())

    assert (result.failure.code, result.failure.outcome, result.status_code) == ("not_supported", "not_run", 501)
