"""The base tool's document, block by block: schemas, caching, async work, metrics and troubleshooting."""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import pstats
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from toolpost import (
    BaseTool,
    ConfigurationError,
    Egress,
    InputValidationError,
    OperationError,
    SecurityError,
    Tool,
    ToolExecutionError,
    ToolExecutor,
    ToolNotFoundError,
    cache_result,
    create_tool_call,
    export_tool,
    get_executor,
    get_metrics_collector,
    measure_execution_time,
    policy,
    run_in_executor,
    validate_input,
)
from toolpost.testing import FakeClock, executor_for


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """The process's own executor and collector as a program finds them that has just started."""
    get_executor().close()
    get_metrics_collector().clear_metrics()
    yield
    get_executor().close()


# 4.1 input


class PageTool(BaseTool):
    """Reads files."""

    class ReadSchema(BaseModel):
        path: str
        encoding: str = "utf-8"
        max_size: int | None = None

    def read(self, path: str, encoding: str = "utf-8", max_size: int | None = None) -> str:
        """Read a file's text."""
        with open(path, encoding=encoding) as file:
            return file.read(max_size) if max_size else file.read()


def test_a_file_is_read_through_its_schema(tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("first and last", encoding="utf-8")
    tool = PageTool()

    assert tool.run("read", path=str(page), encoding="utf-8") == "first and last"
    assert tool.run("read", path=str(page), max_size=5) == "first"
    assert tool.run("read", path=str(page), max_size=None) == "first and last"


def test_wrong_input_is_an_input_validation_error(tmp_path: Path) -> None:
    for wrong in ({}, {"path": 5}, {"path": "a.txt", "max_size": "big"}, {"path": "a.txt", "mode": "r"}):
        with pytest.raises(InputValidationError):
            PageTool().run("read", **wrong)


@pytest.mark.parametrize("path", ["../../etc/passwd", "docs/../../../root/.ssh/id_rsa", "..\\..\\windows\\win.ini"])
def test_a_hostile_path_is_a_security_error(path: str) -> None:
    with pytest.raises(SecurityError):
        PageTool().run("read", path=path)


def test_a_file_that_is_not_there_is_an_operation_error(tmp_path: Path) -> None:
    with pytest.raises(OperationError) as failure:
        PageTool().run("read", path=str(tmp_path / "nothing.txt"))

    assert isinstance(failure.value.__cause__, FileNotFoundError)


# 4.2 caching


class RefineTool(BaseTool):
    """Refines text, slowly; the schema is named after the beginning of its operation."""

    class RefineSchema(BaseModel):
        data: str
        algorithm: str = "default"

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.runs = 0

    @cache_result(ttl=3600)
    def refine_data(self, data: str, algorithm: str = "default") -> str:
        self.runs += 1
        return f"{data} refined by {algorithm}"


def test_the_second_run_comes_from_the_cache() -> None:
    tool = RefineTool()

    first = tool.run("refine_data", data="test data", algorithm="advanced")
    second = tool.run("refine_data", data="test data", algorithm="advanced")

    assert first == second == "test data refined by advanced"
    assert tool.runs == 1


def test_user_and_task_scope_the_cache_of_an_operation_that_does_not_take_them() -> None:
    tool = RefineTool()

    for user_id, task_id in (("ann", "t1"), ("bob", "t1"), ("ann", "t2"), ("ann", "t1")):
        assert tool.run("refine_data", data="x", user_id=user_id, task_id=task_id) == "x refined by default"

    assert tool.runs == 3


# 4.3 asynchronous work


class FetchTool(BaseTool):
    """Fetches pages; the schema is named after the beginning of its operation."""

    class FetchSchema(BaseModel):
        url: str
        timeout: int = 30

    @policy(Egress(private=("127.0.0.1:*",)))  # the site of these tests is on this machine
    async def fetch_url(self, url: str, timeout: int = 30) -> str:
        host, _, rest = url.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(f"GET /{rest} HTTP/1.0\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), timeout)
        writer.close()
        await writer.wait_closed()
        return answer.partition(b"\r\n\r\n")[2].decode()

    def process_sync(self, data: str) -> str:
        return f"Done: {data}"


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """The address of a server on this machine that answers with the path it was asked for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        body = f"page {path}"
        writer.write(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


async def test_an_async_operation_is_awaited_with_run_async(site: str) -> None:
    assert await FetchTool().run_async("fetch_url", url=f"{site}/data") == "page /data"


async def test_a_batch_mixes_async_and_sync_operations_and_keeps_their_order(site: str) -> None:
    operations = [
        {"op": "fetch_url", "kwargs": {"url": f"{site}/one"}},
        {"op": "fetch_url", "kwargs": {"url": f"{site}/two"}},
        {"op": "process_sync", "kwargs": {"data": "test"}},
    ]

    assert await FetchTool().run_batch(operations) == ["page /one", "page /two", "Done: test"]


def test_an_async_operation_can_be_run_by_a_caller_that_blocks() -> None:
    class Later(BaseTool):
        async def double(self, n: int) -> int:
            await asyncio.sleep(0)
            return 2 * n

    assert Later().run("double", n=4) == 8


# 4.4 metrics


class SumTool(BaseTool):
    """Adds up squares."""

    @measure_execution_time
    def heavy(self, n: int) -> int:
        return sum(i**2 for i in range(n))


def test_the_metrics_of_a_tool_are_those_of_its_executor() -> None:
    tool = SumTool()

    values = [tool.run("heavy", n=1000) for _ in range(5)]
    metrics = tool._executor.get_metrics()

    assert values == [332833500] * 5
    assert (metrics["requests"], metrics["failures"], metrics["cache_hits"]) == (5, 0, 0)
    assert 0 < metrics["avg_processing_time"] < 10


# 5 the interface


class PairTool(BaseTool):
    """Adds, in both ways."""

    class AddSchema(BaseModel):
        a: int
        b: int

    def add(self, a: int, b: int) -> int:
        return a + b

    async def add_later(self, a: int, b: int = 0) -> int:
        return a + b

    def fail(self) -> None:
        raise ZeroDivisionError("never")

    def query(self, sql: str) -> str:
        return sql


@pytest.mark.parametrize("config", [{"cache_size": -1}, {"cache_sise": 5}, {"max_workers": "four"}])
def test_a_tools_wrong_configuration_is_a_value_error(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cache_size|max_workers"):
        PairTool(config)


def test_a_tools_own_settings_live_in_its_nested_config() -> None:
    class Limited(BaseTool):
        class Config(BaseModel):
            limit: int = 3

        def get(self) -> int:
            return int(self.config.limit)

    assert Limited().run("get") == 3
    assert Limited({"limit": 5}).run("get") == 5
    with pytest.raises(ValueError, match="limit"):
        Limited({"limit": "much"})
    with pytest.raises(ValueError, match="did you mean 'limit'"):
        Limited({"limt": 5})


def test_settings_give_a_tool_an_executor_of_its_own() -> None:
    own = PairTool({"cache_size": 7})
    shared = PairTool()

    assert own._executor is not get_executor()
    assert own._executor.config.cache_size == 7
    assert shared._executor is get_executor()
    own._executor.close()


def test_run_raises_the_documented_errors() -> None:
    tool = PairTool()

    with pytest.raises(ToolExecutionError):
        tool.run("fail")
    with pytest.raises(InputValidationError):
        tool.run("add", a=1)
    with pytest.raises(SecurityError):
        tool.run("query", sql="SELECT 1; DROP TABLE users")
    with pytest.raises(ToolNotFoundError, match="did you mean 'add'"):
        tool.run("ad", a=1, b=2)


async def test_run_async_and_run_batch_raise_the_documented_errors() -> None:
    tool = PairTool()

    with pytest.raises(ToolExecutionError):
        await tool.run_async("fail")
    with pytest.raises(InputValidationError):
        await tool.run_async("add_later", a="one")
    with pytest.raises(SecurityError):
        await tool.run_async("query", sql="SELECT 1; DROP TABLE users")
    with pytest.raises(OperationError):
        await tool.run_batch([{"op": "add", "kwargs": {"a": 1, "b": 2}}, {"op": "fail", "kwargs": {}}])
    with pytest.raises(InputValidationError):
        await tool.run_batch([{"op": "add", "kwargs": {"a": 1}}])


def test_an_operation_may_be_called_any_number_of_ways() -> None:
    tool = PairTool()
    with executor_for(tool) as executor:
        assert tool.run("add", a=1, b=2) == 3
        assert executor.execute(tool, "add", a=1, b=2) == 3
        assert asyncio.run(tool.run_async("add", a=1, b=2)) == 3
        assert asyncio.run(executor.execute_tool_call(create_tool_call("PairTool.add", {"a": 1, "b": 2}))).data == 3


# 5.3 what a tool keeps of itself


def test_a_tool_knows_its_schemas_and_its_async_methods() -> None:
    tool = PairTool()

    assert tool._schemas == {"add": PairTool.AddSchema}
    assert tool._async_methods == ["add_later"]
    tool._schemas, tool._async_methods = {}, []
    tool._register_schemas()
    tool._register_async_methods()
    assert (tool._schemas, tool._async_methods) == ({"add": PairTool.AddSchema}, ["add_later"])


def test_sanitize_kwargs_gives_back_what_is_harmless_and_refuses_the_rest() -> None:
    tool = PairTool()

    assert tool._sanitize_kwargs({"text": "hello", "n": 5}) == {"text": "hello", "n": 5}
    with pytest.raises(SecurityError, match="parameter 'text' contains potentially malicious content"):
        tool._sanitize_kwargs({"n": 5, "text": "'; DROP TABLE users; --"})


def test_schema_coverage_tells_which_operations_have_a_schema() -> None:
    coverage = PairTool().get_schema_coverage()

    assert coverage["with_schema"] == ["add"]
    assert sorted(coverage["from_signature"]) == ["add_later", "fail", "query"]


# 6.2 binding of schemas


class Data(BaseModel):
    """The fields of the schemas below."""

    data: str


def tool_of(schema: str, *operations: str) -> type[BaseTool]:
    """A tool class with these operations and a schema class of that name nested in it."""

    def operation(self: Any, data: str) -> str:
        return data

    nested = type(schema, (Data,), {"__module__": __name__})
    return type("Bound", (BaseTool,), {schema: nested, **dict.fromkeys(operations, operation)})


@pytest.mark.parametrize(
    ("schema", "operations", "bound"),
    [
        ("ReadSchema", ("read", "write"), "read"),
        ("ProcessDataSchema", ("process_data", "process"), "process_data"),
        ("ProcessDataSchema", ("processdata",), "processdata"),
        ("ProcessSchema", ("process_data", "other"), "process_data"),
        ("ProcessSchema", ("process", "process_data"), "process"),
        ("HTTPFetchSchema", ("http_fetch",), "http_fetch"),
        ("Fetch2Schema", ("fetch2",), "fetch2"),
    ],
)
def test_a_schema_binds_by_snake_case_and_then_by_a_unique_prefix(
    schema: str, operations: tuple[str, ...], bound: str
) -> None:
    assert list(tool_of(schema, *operations)()._schemas) == [bound]


@pytest.mark.parametrize(
    ("schema", "operations", "said"),
    [
        ("WriteSchema", ("read",), "fits no operation .*'write'.* operations: read.*; rename it"),
        (
            "ProcessSchema",
            ("process_data", "process_file"),
            "fits 'process_data' and 'process_file'; name it ProcessDataSchema",
        ),
        ("ProcSchema", ("process_data",), "fits no operation"),
    ],
)
def test_a_schema_that_binds_to_none_or_to_two_is_refused_at_registration_with_the_fix(
    schema: str, operations: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        tool_of(schema, *operations)()


def test_a_schema_that_a_decorator_names_needs_no_fitting_name() -> None:
    class Chosen(BaseTool):
        class AnythingSchema(BaseModel):
            text: str = Field(min_length=3)

        @validate_input(AnythingSchema)
        def shorten(self, text: str) -> str:
            return text[:3]

    tool = Chosen()

    assert tool.run("shorten", text="abcdef") == "abc"
    with pytest.raises(InputValidationError):
        tool.run("shorten", text="ab")


def test_a_schema_is_inherited_with_its_operation() -> None:
    class Wider(PairTool):
        def more(self, n: int) -> int:
            return n

    assert Wider()._schemas == {"add": PairTool.AddSchema}
    with pytest.raises(InputValidationError):
        Wider().run("add", a=1)


# validation


class Line(BaseModel):
    """A model within a model."""

    article: str
    count: int = 1


class OrderTool(BaseTool):
    """Takes orders, and tells what it was given."""

    class PlaceSchema(BaseModel):
        customer: str = Field(min_length=2)
        lines: list[Line]
        express: bool = False
        discount: float | None = None
        api_key: str = Field("none", max_length=40)
        note: str = "none"

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def place(
        self,
        customer: str,
        lines: list[Line],
        express: bool = False,
        discount: float | None = None,
        api_key: str = "none",
        note: str = "unset",
    ) -> int:
        self.given = {"lines": lines, "express": express, "discount": discount, "note": note}
        return sum(line.count for line in lines)

    def plain(self, count: int, share: float = 0.5, name: str | None = None) -> dict[str, Any]:
        return {"count": count, "share": share, "name": name}


def test_validation_applies_the_schemas_defaults_and_keeps_nested_models() -> None:
    tool = OrderTool()

    count = tool.run("place", customer="ann", lines=[{"article": "pen"}, {"article": "ink", "count": 2}])

    assert count == 3
    assert tool.given == {
        "lines": [Line(article="pen", count=1), Line(article="ink", count=2)],
        "express": False,
        "discount": None,
        "note": "none",
    }


def test_an_unknown_argument_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(InputValidationError, match="unknown argument 'expres'; did you mean 'express'"):
        OrderTool().run("place", customer="ann", lines=[], expres=True)


def test_a_model_that_allows_extras_receives_them() -> None:
    class Open(BaseTool):
        class TakeSchema(BaseModel):
            model_config = ConfigDict(extra="allow")
            a: int

        def take(self, a: int, **more: Any) -> dict[str, Any]:
            return {"a": a, **more}

    assert Open().run("take", a=1, b="two") == {"a": 1, "b": "two"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"count": True}, "an integer"),
        ({"count": 1.5}, "an integer"),
        ({"count": "1"}, "an integer"),
        ({"count": None}, "an integer"),
        ({"count": 1, "share": True}, "a number"),
        ({"count": 1, "share": "0.5"}, "a number"),
        ({"count": 1, "name": 5}, "a string"),
    ],
)
def test_values_of_another_type_are_refused_and_not_converted(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputValidationError) as refusal:
        OrderTool().run("plain", **arguments)

    (problem,) = refusal.value.errors()
    assert problem["expected"] == expected


def test_a_whole_number_may_be_written_with_a_point_and_a_number_without() -> None:
    assert OrderTool().run("plain", count=2.0, share=1) == {"count": 2, "share": 1.0, "name": None}


def test_null_stands_for_an_absent_optional_argument_only_where_the_schema_was_strict() -> None:
    tool = OrderTool()
    arguments = {"count": 1, "share": None, "name": None}
    with executor_for(tool) as executor:
        strict = executor.execute_sync(create_tool_call("OrderTool.plain", arguments, strict=True))
        loose = executor.execute_sync(create_tool_call("OrderTool.plain", arguments))
        required = executor.execute_sync(create_tool_call("OrderTool.plain", {"count": None}, strict=True))

    assert strict.data == {"count": 1, "share": 0.5, "name": None}
    assert (loose.success, loose.status_code) == (False, 400)
    assert (required.success, required.status_code) == (False, 400)


def test_errors_carry_pointer_expected_and_got() -> None:
    with pytest.raises(InputValidationError) as refusal:
        OrderTool().run("place", customer="a", lines=[{"article": "pen", "count": "two"}, {"count": 1}])

    problems = {problem["path"]: problem for problem in refusal.value.errors()}
    assert set(problems) == {"/customer", "/lines/0/count", "/lines/1/article"}
    assert problems["/lines/0/count"]["loc"] == ("lines", 0, "count")
    assert problems["/lines/0/count"]["expected"] == "an integer"
    assert problems["/lines/0/count"]["got"] == "'two'"
    assert problems["/lines/1/article"]["type"] == "missing"
    for problem in problems.values():
        assert problem["msg"] in str(refusal.value)
    json.dumps(refusal.value.details)


def test_errors_show_no_secrets() -> None:
    secret = "sk-live-0123456789abcdefghijklmnopqrstuvwxyz-0123456789"
    with pytest.raises(InputValidationError) as refusal:
        OrderTool().run("place", customer="ann", lines=[], api_key=secret)
    with pytest.raises(InputValidationError) as unknown:
        OrderTool().run("place", customer="ann", lines=[], password=secret)

    for error in (refusal.value, unknown.value):
        assert secret not in f"{error} {error.errors()} {error.details}"
        assert secret[8:30] not in f"{error} {error.errors()} {error.details}"


def test_a_message_tells_all_that_is_needed_to_mend_the_call_in_one_turn() -> None:
    tool = OrderTool()
    with executor_for(tool) as executor:
        wrong = {"customer": "a", "lines": [{}], "discount": "10%", "expres": True}
        result = executor.execute_sync(create_tool_call("OrderTool.place", wrong))
        mended = {"customer": "ann", "lines": [{"article": "pen"}], "discount": 10}
        again = executor.execute_sync(create_tool_call("OrderTool.place", mended))

    for place in ("customer", "/lines/0/article", "discount", "expres", "express"):
        assert place in (result.error or "")
    assert again.success


# 8.2 troubleshooting


class CountTool(BaseTool):
    """Repeats."""

    class RepeatSchema(BaseModel):
        data: str
        count: int = 1

    def repeat(self, data: str, count: int = 1) -> str:
        return data * count

    @cache_result()
    def repeat_cached(self, data: str) -> str:
        return data


def test_the_fields_that_failed_can_be_listed() -> None:
    try:
        CountTool().run("repeat", data="test", count="invalid")
    except InputValidationError as error:
        listed = [f"Field {problem['loc']}: {problem['msg']}" for problem in error.errors()]
    assert listed == ["Field ('count',): 'count' must be an integer, got 'invalid'"]


def test_a_configured_tools_cache_can_be_measured_and_cleared() -> None:
    tool = CountTool({"enable_cache": True, "cache_size": 1000, "cache_ttl": 1800})
    executor = tool._executor
    for _ in range(4):
        tool.run("repeat_cached", data="x")

    metrics = executor.get_metrics()
    assert f"{metrics['cache_hits'] / metrics['requests']:.2%}" == "75.00%"
    executor.execution_utils.clear_cache()
    tool.run("repeat_cached", data="x")
    assert executor.get_metrics()["cache_hits"] == 3
    executor.close()


def test_a_body_may_be_profiled(tmp_path: Path) -> None:
    class Profiled(BaseTool):
        @measure_execution_time
        def slow_operation(self, data):  # type: ignore[no-untyped-def]
            profiler = cProfile.Profile()
            profiler.enable()
            try:
                return self._process_data(data)
            finally:
                profiler.disable()
                profiler.dump_stats(tmp_path / "slow_operation.prof")

        def _process_data(self, data: list[int]) -> int:
            return sum(data)

    tool = Profiled({"max_workers": 8, "io_concurrency": 16, "chunk_size": 5000})

    assert tool.run("slow_operation", data=[1, 2, 3]) == 6
    assert "_process_data" in {name for _, _, name in pstats.Stats(str(tmp_path / "slow_operation.prof")).stats}  # type: ignore[attr-defined]
    assert (tool._executor.config.max_workers, tool._executor.config.io_concurrency) == (8, 16)
    assert tool._executor.config.chunk_size == 5000
    tool._executor.close()


# 8.3 logs


def test_the_log_of_tools_has_the_documented_patterns(tmp_path: Path) -> None:
    path = tmp_path / "tools.log"
    logger = logging.getLogger("toolpost")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        tool = CountTool()
        tool.run("repeat_cached", data="x")
        tool.run("repeat_cached", data="x")
        with pytest.raises(OperationError):
            PairTool().run("fail")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()

    lines = path.read_text().splitlines()
    assert [line.split(" - ")[2] for line in lines if "ERROR" in line] == ["ERROR"]
    assert len([line for line in lines if "executed in" in line]) == 1
    assert len([line for line in lines if "Cache hit" in line]) == 1


# 8.4 unit tests of a tool


def test_tool_execution() -> None:
    assert PairTool().run("add", a=2, b=3) == 5


def test_input_validation() -> None:
    with pytest.raises(InputValidationError):
        PairTool().run("add", a="invalid", b=3)


def test_async_execution() -> None:
    async def add() -> Any:
        return await PairTool().run_async("add", a=2, b=3)

    assert asyncio.run(add()) == 5


# 7.1 variables


@pytest.mark.parametrize(
    ("variable", "text", "setting", "value"),
    [
        ("CACHE_PREFIX", "mine", "cache_prefix", "mine"),
        ("ENABLE_METRICS", "false", "enable_metrics", False),
        ("PROMETHEUS_PORT", "9191", "prometheus_port", 9191),
        ("SECURITY_LEVEL", "high", "security_level", "high"),
        ("ALLOWED_FILE_EXTENSIONS", ".txt,.json,.csv", "allowed_file_extensions", (".txt", ".json", ".csv")),
        ("MAX_INPUT_SIZE", "2048", "max_input_size", 2048),
    ],
)
def test_the_variables_without_a_prefix_reach_a_tools_executor(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, setting: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)

    assert getattr(PairTool()._executor.config, setting) == value


def test_max_input_size_of_the_environment_bounds_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_INPUT_SIZE", "100")

    with pytest.raises(InputValidationError, match="larger than 100 bytes"):
        CountTool().run("repeat", data="x" * 101)


# three ways, one meaning


def test_a_class_tool_and_a_function_tool_of_one_signature_mean_the_same() -> None:
    def repeat(data: str, count: int = 1) -> str:
        return data * count

    class Signed(BaseTool):
        def repeat(self, data: str, count: int = 1) -> str:
            return data * count

    function = Tool(name="Signed.repeat", register=False).define(repeat)
    (method,) = Signed().definitions()

    assert function.parameters == method.parameters
    assert export_tool(function, "openai")["parameters"] == export_tool(method, "openai")["parameters"]


def test_a_tool_made_before_its_executor_follows_a_later_one() -> None:
    tool, clock = CountTool(), FakeClock()
    tool.run("repeat", data="x")
    with executor_for(clock=clock) as later:
        tool._executor = later
        tool.run("repeat", data="x")

        assert later.get_metrics()["requests"] == 1
    assert get_executor().get_metrics()["requests"] == 1


@pytest.mark.parametrize(
    "mark", [run_in_executor, measure_execution_time, cache_result(ttl=5)], ids=["in", "measure", "cache"]
)
def test_a_private_method_may_be_decorated_without_becoming_an_operation(mark: Callable[[Any], Any]) -> None:
    class Private(BaseTool):
        @mark
        def _inner(self, n: int) -> int:
            return n + 1

        def outer(self, n: int) -> int:
            return int(self._inner(n))

    tool = Private()

    assert tool.operations() == ("outer",)
    assert tool.run("outer", n=1) == 2


def test_a_subclass_that_skips_the_base_constructor_still_runs() -> None:
    class Careless(BaseTool):
        def __init__(self) -> None:
            self.base = 10

        def add(self, n: int) -> int:
            return self.base + n

    assert Careless().run("add", n=1) == 11


def test_execute_takes_any_object_with_public_methods() -> None:
    class Plain:
        def add(self, a: int, b: int) -> int:
            return a + b

    with ToolExecutor() as executor:
        assert executor.execute(Plain(), "add", a=1, b=2) == 3
        with pytest.raises(InputValidationError):
            executor.execute(Plain(), "add", a=1)
