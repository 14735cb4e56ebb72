"""The tool execution framework's document, block by block: @Tool, calls, results, limits, metrics, health."""

from __future__ import annotations

import asyncio
import cProfile
import csv
import io
import json
import logging
import math
import pstats
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from toolpost import (
    ConfigurationError,
    Hints,
    InputValidationError,
    MetricsCollector,
    ParameterValidator,
    RateLimit,
    RateLimiter,
    RateLimitError,
    SchemaError,
    SecurityError,
    SecurityValidator,
    Tool,
    ToolCall,
    ToolContext,
    ToolDefinition,
    ToolError,
    ToolExecutionError,
    ToolExecutor,
    ToolNotFoundError,
    ToolRegistry,
    ToolResult,
    ToolValidationError,
    UnauthorizedError,
    cache_result,
    create_tool_call,
    format_tool_result_for_llm,
    get_executor,
    get_metrics_collector,
    get_tool_registry,
    measure_execution_time,
    run_in_executor,
    sanitize_input,
    validate_input,
)
from toolpost.testing import FakeClock, executor_for

PARAMETERS: dict[str, Any] = {
    "operation": {"type": "string", "enum": ["add", "subtract", "multiply", "divide"]},
    "a": {"type": "number"},
    "b": {"type": "number"},
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[ToolRegistry]:
    """The process's registry with the calculator in it, and nothing that another test counted."""
    get_executor().close()
    registry = get_tool_registry()
    before = set(registry.list_tools())
    Tool(
        name="MyApp.Calculator",
        description="Perform mathematical calculations",
        parameters=PARAMETERS,
        requires_auth=False,
        timeout_seconds=10,
        replace=True,
    )(calculate)
    get_metrics_collector().clear_metrics()
    yield registry
    for name in set(registry.list_tools()) - before:
        registry.unregister_tool(name)
    get_metrics_collector().clear_metrics()
    get_executor().close()


def calculate(operation: str, a: float, b: float) -> dict[str, Any]:
    """Work out one operation on two numbers."""
    if operation == "divide" and b == 0:
        return {"error": "division by zero"}
    worked_out = {
        "add": lambda: a + b,
        "subtract": lambda: a - b,
        "multiply": lambda: a * b,
        "divide": lambda: a / b,
    }
    return {"operation": operation, "operands": [a, b], "result": worked_out[operation]()}


def multiply(a: Any = 15, b: Any = 7, **more: Any) -> ToolCall:
    return create_tool_call("MyApp.Calculator", {"operation": "multiply", "a": a, "b": b}, **more)


# registration


def test_a_declared_function_stays_a_function_and_carries_its_definition() -> None:
    definition: ToolDefinition = calculate.tool_definition  # type: ignore[attr-defined]

    assert calculate("add", 1, 2) == {"operation": "add", "operands": [1, 2], "result": 3}
    assert (definition.name, definition.version) == ("MyApp.Calculator", "1.0.0")
    assert definition.description == "Perform mathematical calculations"
    assert (definition.requires_auth, definition.timeout_seconds) == (False, 10)
    assert definition.function is calculate
    assert definition.created_at == pytest.approx(time.time(), abs=3600)
    assert definition.parameters["required"] == ["operation", "a", "b"]
    assert definition.parameters["properties"] == PARAMETERS


def test_a_declared_tool_is_in_the_process_registry(registered: ToolRegistry) -> None:
    assert "MyApp.Calculator" in registered.list_tools()
    assert registered.get_tool("MyApp.Calculator") is calculate.tool_definition  # type: ignore[attr-defined]
    assert registered.get_tool_info("MyApp.Calculator")["description"] == "Perform mathematical calculations"
    exported = {schema["name"]: schema for schema in registered.export_all_schemas()}
    assert set(exported["MyApp.Calculator"]) == {"name", "description", "input_schema"}
    assert exported["MyApp.Calculator"]["input_schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("fragment", "required"),
    [
        ({"type": "string"}, True),
        ({"type": "string", "default": "x"}, False),
        ({"type": "string", "required": False}, False),
        ({"type": "string", "optional": True}, False),
        ({"type": "string", "required": True}, True),
    ],
)
def test_a_parameter_is_required_unless_it_says_otherwise(fragment: dict[str, Any], required: bool) -> None:
    def echo(word: str = "none") -> str:
        return word

    definition = Tool(name="Echo", parameters={"word": fragment}, register=False).define(echo)

    assert definition.parameters.get("required", []) == (["word"] if required else [])


def test_a_default_of_the_schema_reaches_the_function() -> None:
    def greet(name: str, greeting: str = "unset") -> str:
        return f"{greeting} {name}"

    parameters = {"name": {"type": "string"}, "greeting": {"type": "string", "default": "hello"}}
    with executor_for(Tool(name="Greet", parameters=parameters, register=False)(greet)) as executor:
        assert executor.call_sync("Greet", name="ann") == "hello ann"


class Shout(BaseModel):
    """What the function below takes."""

    text: str
    times: int = 1


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("turned", [False, True])
def test_the_place_of_tool_among_other_decorators_has_no_effect(place: int, turned: bool) -> None:
    runs: list[str] = []

    def shout(text: str, times: int = 1) -> str:
        runs.append(threading.current_thread().name)
        return text.upper() * times

    others: list[Any] = [
        validate_input(Shout),
        cache_result(ttl=60),
        run_in_executor,
        measure_execution_time,
        sanitize_input,
    ]
    function: Any = shout
    if turned:
        others.reverse()
    for decorate in (*others[:place], Tool(name="Shout"), *others[place:]):
        function = decorate(function)
    executor = ToolExecutor()
    call = create_tool_call("Shout", {"text": "a", "times": 2})
    results = [executor.execute_sync(call) for _ in range(2)]
    hostile = executor.execute_sync(create_tool_call("Shout", {"text": "<script>alert(1)</script>"}))
    wrong = executor.execute_sync(create_tool_call("Shout", {"text": "a", "times": "2"}))

    assert [result.data for result in results] == [{"result": "AA"}] * 2
    assert [result.source for result in results] == ["run", "cache"]
    assert runs != [threading.current_thread().name]
    assert (hostile.status_code, wrong.status_code) == (403, 400)
    assert function.tool_definition is get_tool_registry().get_tool("Shout")
    assert function("a", times=3) == "AAA"


def test_a_docstring_describes_where_no_description_is_given() -> None:
    definition = Tool(register=False).define(calculate)

    assert (definition.name, definition.description) == ("calculate", "Work out one operation on two numbers.")


# execution


def test_a_call_runs_to_its_result() -> None:
    async def main() -> ToolResult:
        executor = ToolExecutor(enable_rate_limiting=True, max_calls_per_minute=100)
        return await executor.execute_tool_call(multiply(user_id="user123"))

    result = asyncio.run(main())

    assert result.success
    assert result.data == {"operation": "multiply", "operands": [15, 7], "result": 105}
    assert (result.error, result.status_code, result.tool_name) == (None, 200, "MyApp.Calculator")
    assert result.execution_time_ms > 0
    assert result.metadata["user_id"] == "user123"
    assert result.metadata["timestamp"] == pytest.approx(time.time(), abs=60)


def test_a_tools_own_error_key_is_its_result() -> None:
    result = ToolExecutor().execute_sync(create_tool_call("MyApp.Calculator", {"operation": "divide", "a": 1, "b": 0}))

    assert (result.success, result.data) == (True, {"error": "division by zero"})


def test_a_created_call_has_the_documented_fields() -> None:
    call = create_tool_call("T", {"x": 1}, user_id="ann")
    named = create_tool_call("T", {}, call_id="c-1", session_id="s-1")

    assert (call.name, call.arguments, call.user_id, call.session_id) == ("T", {"x": 1}, "ann", None)
    assert call.timestamp == pytest.approx(time.time(), abs=60)
    assert len({create_tool_call("T", {}).id for _ in range(100)}) == 100
    assert (named.id, named.session_id) == ("c-1", "s-1")
    assert ToolCall("id", "T", {}).id == "id"


async def test_results_answer_their_calls_in_order() -> None:
    order: list[str] = []
    first_may_end = asyncio.Event()

    async def tool_1(param: str) -> str:
        await first_may_end.wait()
        order.append("Tool1")
        return param

    async def tool_2(param: str) -> str:
        order.append("Tool2")
        return param

    def tool_3(param: str) -> str:
        order.append("Tool3")
        asyncio.run_coroutine_threadsafe(let_go(), loop)
        return "".join([param])

    async def let_go() -> None:
        first_may_end.set()

    loop = asyncio.get_running_loop()
    tools = [Tool(name=f"Tool{n}", register=False)(f) for n, f in enumerate((tool_1, tool_2, tool_3), 1)]
    calls = [create_tool_call(f"Tool{n}", {"param": f"value{n}"}) for n in (1, 2, 3)]
    with executor_for(tools) as executor:
        results = await executor.execute_tool_calls(calls)

    assert [result.data for result in results] == [{"result": "value1"}, {"result": "value2"}, {"result": "value3"}]
    assert [result.call_id for result in results] == [call.id for call in calls]
    assert order[-1] == "Tool1"  # so they ran side by side


async def test_one_bad_call_of_many_costs_no_other() -> None:
    calls = [multiply(), multiply(a="fifteen"), create_tool_call("MyApp.Calculate", {}), multiply(b=2)]

    results = await ToolExecutor().execute_tool_calls(calls)

    assert [result.status_code for result in results] == [200, 400, 404, 200]


def test_an_executor_tells_which_tools_there_are_and_all_about_one() -> None:
    executor = ToolExecutor()

    assert "MyApp.Calculator" in executor.get_available_tools()
    info = executor.get_tool_info("MyApp.Calculator")
    assert (info["name"], info["version"], info["timeout_seconds"]) == ("MyApp.Calculator", "1.0.0", 10)
    assert info["parameters"]["properties"]["operation"]["enum"] == ["add", "subtract", "multiply", "divide"]
    with pytest.raises(ToolNotFoundError, match=r"did you mean 'MyApp\.Calculator'"):
        executor.get_tool_info("MyApp.Calculater")


def test_default_timeout_is_the_executors_timeout() -> None:
    assert ToolExecutor(default_timeout=7).config.timeout == 7


def test_a_call_may_be_profiled() -> None:
    executor = ToolExecutor()
    profiler = cProfile.Profile()
    profiler.enable()
    result = asyncio.run(executor.execute_tool_call(multiply()))
    profiler.disable()

    stats = pstats.Stats(profiler, stream=io.StringIO())
    stats.sort_stats("cumulative").print_stats(10)
    assert result.success
    assert stats.total_calls > 0  # type: ignore[attr-defined]


# errors


async def test_a_failed_call_answers_in_the_documented_form() -> None:
    call = create_tool_call("MyApp.Calculator", {"operation": "modulo", "a": 1, "b": 2})

    answer = (await ToolExecutor().execute_tool_call(call)).to_dict()

    assert json.loads(json.dumps(answer)) == answer
    assert set(answer) == {
        "call_id",
        "tool_name",
        "success",
        "error",
        "status_code",
        "execution_time_ms",
        "metadata",
    }
    assert (answer["call_id"], answer["tool_name"], answer["success"]) == (call.id, "MyApp.Calculator", False)
    assert answer["error"].startswith(
        "Parameter validation failed: 'operation' must be one of ['add', 'subtract', 'multiply', 'divide']"
    )
    assert answer["status_code"] == 400
    assert answer["execution_time_ms"] >= 0
    assert answer["metadata"]["error_type"] == "ToolValidationError"
    assert answer["metadata"]["timestamp"] == pytest.approx(time.time(), abs=60)


def test_every_error_has_the_documented_status() -> None:
    assert (ToolNotFoundError("").status, ToolValidationError("").status) == (404, 400)
    assert (UnauthorizedError("").status, SecurityError("").status) == (401, 403)
    assert (ToolExecutionError("").status, RateLimitError("").status) == (500, 429)
    assert ToolValidationError is InputValidationError


def raising(error: Exception) -> Any:
    def fail() -> None:
        raise error

    return fail


async def test_every_kind_of_failure_has_its_status_and_type() -> None:
    private = Tool(name="Private", requires_auth=True, register=False)(lambda: 1)
    broken = Tool(name="Broken", register=False)(raising(RuntimeError("out of order")))
    foreseen = Tool(name="Foreseen", register=False)(raising(ToolError("no such order", code="NOT_FOUND")))

    def search(sql: str) -> str:
        return sql

    cases: list[tuple[ToolCall, int, str]] = [
        (create_tool_call("Nothing", {}), 404, "ToolNotFoundError"),
        (create_tool_call("Search", {}), 400, "ToolValidationError"),
        (create_tool_call("Private", {}), 401, "UnauthorizedError"),
        (create_tool_call("Search", {"sql": "SELECT 1; DROP TABLE users"}), 403, "SecurityError"),
        (create_tool_call("Broken", {}), 500, "ToolExecutionError"),
        (create_tool_call("Foreseen", {}), 500, "ToolError"),
    ]
    with executor_for([private, broken, foreseen, Tool(name="Search", register=False)(search)]) as executor:
        results = [await executor.execute_tool_call(call) for call, _, _ in cases]
        welcome = await executor.execute_tool_call(create_tool_call("Private", {}, user_id="ann"))

    assert [(r.status_code, r.metadata["error_type"]) for r in results] == [(s, t) for _, s, t in cases]
    assert all(not r.success and r.data is None and r.error for r in results)
    assert results[5].failure is not None
    assert results[5].failure.code == "NOT_FOUND"
    assert (welcome.success, welcome.data) == (True, {"result": 1})


async def test_the_messages_of_the_troubleshooting_section() -> None:
    with executor_for(enable_rate_limiting=True, max_calls_per_minute=1) as empty:
        missing = await empty.execute_tool_call(multiply())
    with executor_for(calculate, max_calls_per_minute=1) as executor:
        lacking = await executor.execute_tool_call(create_tool_call("MyApp.Calculator", {"a": 1, "b": 2}))
        await executor.execute_tool_call(multiply())
        too_many = await executor.execute_tool_call(multiply())

    assert (missing.error or "").startswith("Tool 'MyApp.Calculator' not found in registry")
    assert lacking.error == "Parameter validation failed: 'operation' is required"
    assert (too_many.error or "").startswith("Rate limit exceeded. Too many tool calls per minute")


def test_a_result_is_formatted_for_a_model() -> None:
    good = format_tool_result_for_llm(ToolExecutor().execute_sync(multiply(call_id="c-1")))
    bad = format_tool_result_for_llm(ToolExecutor().execute_sync(multiply(a="x", call_id="c-2")))

    assert (good["role"], good["tool_call_id"], good["name"]) == ("tool", "c-1", "MyApp.Calculator")
    assert json.loads(good["content"]) == {"operation": "multiply", "operands": [15, 7], "result": 105}
    assert json.loads(bad["content"])["error"].startswith("Parameter validation failed: 'a' must be a number")


# rate limits


async def test_each_user_has_so_many_calls_a_minute() -> None:
    clock = FakeClock()
    with executor_for(
        calculate, clock=clock, enable_rate_limiting=True, max_calls_per_minute=60, rate_limit_by_user=True
    ) as executor:
        ann = [await executor.execute_tool_call(multiply(user_id="ann")) for _ in range(61)]
        bob = await executor.execute_tool_call(multiply(user_id="bob"))
        refused = ann[-1]
        clock.advance(1)
        after = await executor.execute_tool_call(multiply(user_id="ann"))

    assert all(result.success for result in ann[:60])
    assert (refused.success, refused.status_code) == (False, 429)
    assert refused.metadata["error_type"] == "RateLimitError"
    assert refused.metadata["retry_after_s"] == pytest.approx(1.0)
    assert bob.success
    assert after.success


async def test_rate_limiting_alone_grants_sixty_calls_a_minute() -> None:
    with executor_for(calculate, clock=FakeClock(), enable_rate_limiting=True) as executor:
        statuses = [(await executor.execute_tool_call(multiply())).status_code for _ in range(61)]

    assert statuses == [200] * 60 + [429]


async def test_without_rate_limit_by_user_all_share_the_calls() -> None:
    with executor_for(
        calculate, clock=FakeClock(), enable_rate_limiting=True, max_calls_per_minute=2, rate_limit_by_user=False
    ) as executor:
        statuses = [
            (await executor.execute_tool_call(multiply(user_id=user))).status_code for user in ("ann", "bob", "eve")
        ]

    assert statuses == [200, 200, 429]


async def test_a_tool_may_have_a_limit_of_its_own() -> None:
    limited = Tool(name="Limited", rate_limit=RateLimit(calls=1, per_s=60, by="tool"), register=False)(lambda: 1)
    clock = FakeClock()
    with executor_for([limited, calculate], clock=clock) as executor:
        statuses = [
            (await executor.execute_tool_call(create_tool_call(name, arguments, user_id=user))).status_code
            for name, arguments, user in (
                ("Limited", {}, "ann"),
                ("Limited", {}, "bob"),
                ("MyApp.Calculator", {"operation": "add", "a": 1, "b": 1}, "ann"),
            )
        ]

    assert statuses == [200, 429, 200]


async def test_a_refused_call_does_not_run_the_body() -> None:
    runs: list[int] = []
    with executor_for(
        Tool(name="Count", register=False)(lambda: runs.append(1)), clock=FakeClock(), max_calls_per_minute=1
    ) as executor:
        for _ in range(3):
            await executor.execute_tool_call(create_tool_call("Count", {}))

    assert runs == [1]


def test_a_rate_limiter_by_itself() -> None:
    clock = FakeClock()
    limiter = RateLimiter(max_calls_per_minute=2, clock=clock)

    assert limiter.can_execute("ann")
    limiter.record_call("ann")
    limiter.record_call("ann")
    assert not limiter.can_execute("ann")
    assert limiter.can_execute("bob")
    assert limiter.can_execute()
    clock.advance(30)
    assert limiter.can_execute("ann")
    with pytest.raises(ConfigurationError):
        RateLimiter(max_calls_per_minute=0)


# metrics


async def run_some() -> None:
    """Three good calls and a bad one of ann's, one good one of bob's."""
    executor = ToolExecutor()
    for call in (
        multiply(user_id="user123"),
        multiply(user_id="user123"),
        multiply(user_id="user123"),
        multiply(a="x", user_id="user123"),
        multiply(user_id="bob"),
    ):
        await executor.execute_tool_call(call)


async def test_the_collector_knows_all_tools_one_tool_and_one_user() -> None:
    await run_some()
    metrics = get_metrics_collector()

    system = metrics.get_system_metrics(time_window_minutes=60)
    tool = metrics.get_tool_metrics("MyApp.Calculator")
    user = metrics.get_user_metrics("user123", time_window_minutes=60)

    assert system.total_executions == 5
    assert (system.successful_executions, system.failed_executions) == (4, 1)
    assert f"{100 - system.error_rate:.1f}%" == "80.0%"
    assert 0 <= system.min_execution_time <= system.average_execution_time <= system.max_execution_time
    assert system.executions_per_minute == pytest.approx(5 / 60)
    assert list(system.top_tools) == [{"tool_name": "MyApp.Calculator", "count": 5}]
    (error,) = system.recent_errors
    assert (error["tool_name"], error["error_type"]) == ("MyApp.Calculator", "ToolValidationError")
    assert (tool["total_executions"], tool["success_rate"]) == (5, pytest.approx(80.0))
    assert tool["recent_24h"]["executions"] == 5
    assert (user["total_executions"], len(user["tools_used"])) == (4, 1)
    assert user["success_rate"] == pytest.approx(75.0)


def test_a_collector_by_itself_reckons_exactly() -> None:
    clock = FakeClock()
    metrics = MetricsCollector(max_history=100, clock=clock)
    metrics.record_tool_execution("A", True, 10.0, user_id="ann")
    clock.advance(3 * 3600)
    metrics.record_tool_execution("A", False, 30.0, user_id="ann", error_type="ToolExecutionError", metadata={"n": 1})
    metrics.record_tool_execution("B", True, 20.0, user_id="bob")

    recent = metrics.get_system_metrics(time_window_minutes=60)
    tool = metrics.get_tool_metrics("A")
    trends = metrics.get_performance_trends(hours=4, bucket_minutes=60)

    assert (recent.total_executions, recent.error_rate) == (2, 50.0)
    assert recent.average_execution_time == 25.0
    assert (recent.min_execution_time, recent.max_execution_time) == (20.0, 30.0)
    assert (tool["total_executions"], tool["success_rate"], tool["average_execution_time"]) == (2, 50.0, 20.0)
    assert [bucket["total_executions"] for bucket in trends["buckets"]] == [0, 1, 0, 2]
    assert metrics.get_user_metrics("ann", 60)["total_executions"] == 1
    assert metrics.get_user_metrics("nobody", 60)["tools_used"] == []


def test_metrics_can_be_exported_and_forgotten() -> None:
    clock = FakeClock()
    metrics = MetricsCollector(clock=clock)
    metrics.record_tool_execution("A", True, 10.0, "ann")
    clock.advance(2 * 3600)
    metrics.record_tool_execution("B", False, 20.0, "bob", "SecurityError")

    as_json = json.loads(metrics.export_metrics("json"))
    as_csv = list(csv.DictReader(io.StringIO(metrics.export_metrics("csv"))))
    forgotten = metrics.clear_metrics(older_than_hours=1)
    rest = [row["tool_name"] for row in csv.DictReader(io.StringIO(metrics.export_metrics("csv")))]

    assert [row["tool_name"] for row in as_json["executions"]] == ["A", "B"]
    assert [(row["tool_name"], row["error_type"]) for row in as_csv] == [("A", ""), ("B", "SecurityError")]
    assert (forgotten, rest) == (1, ["B"])
    assert metrics.clear_metrics() == 1
    assert metrics.get_system_metrics().total_executions == 0
    with pytest.raises(ConfigurationError, match="choose 'json' or 'csv'"):
        metrics.export_metrics("xml")


# checks on their own

CHECKED: list[tuple[dict[str, Any], Any, Any]] = [
    # schema of one value, a value that fits, one that does not
    ({"type": "string", "minLength": 2}, "ab", "a"),
    ({"type": "string", "maxLength": 2}, "ab", "abc"),
    ({"type": "string", "pattern": "^[a-z]+$"}, "ab", "AB"),
    ({"type": "string", "format": "email"}, "ann@example.com", "ann"),
    ({"type": "string", "format": "uri"}, "https://example.com/a", "not a uri"),
    ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
    ({"type": "string", "format": "datetime"}, "2024-02-29T12:00:00Z", "yesterday"),
    ({"type": "string", "format": "ipv4"}, "192.0.2.1", "192.0.2.256"),
    ({"type": "string", "format": "ipv6"}, "2001:db8::1", "2001:::1"),
    ({"type": "string", "enum": ["a", "b"]}, "a", "c"),
    ({"type": "number", "minimum": 1, "maximum": 2}, 1.5, 0.5),
    ({"type": "number", "exclusiveMinimum": 1}, 1.1, 1),
    ({"type": "integer", "exclusiveMaximum": 5}, 4, 5),
    ({"type": "integer", "multipleOf": 5}, 15, 7),
    ({"type": "integer"}, 3, True),
    ({"type": "integer"}, 3, 1.5),
    ({"type": "boolean"}, True, 1),
    ({"type": "array", "minItems": 1, "maxItems": 2}, [1], []),
    ({"type": "array", "items": {"type": "string"}}, ["a"], [1]),
    ({"type": "array", "uniqueItems": True}, [1, 2], [1, 1]),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"a": 1},
        {"b": 1},
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CHECKED, ids=lambda value: str(value)[:40])
async def test_every_documented_rule_for_parameters_holds(schema: dict[str, Any], good: Any, bad: Any) -> None:
    echo = Tool(name="Echo", parameters={"value": schema}, register=False)(lambda value: {"value": value})

    assert ParameterValidator.validate({"value": good}, {"value": schema}) == {"value": good}
    with pytest.raises(ToolValidationError):
        ParameterValidator().validate({"value": bad}, {"value": schema})
    with executor_for(echo, enable_security_checks=False) as executor:
        assert (await executor.execute_tool_call(create_tool_call("Echo", {"value": good}))).data == {"value": good}
        assert (await executor.execute_tool_call(create_tool_call("Echo", {"value": bad}))).status_code == 400


def test_the_parameter_validator_fills_defaults_and_names_what_is_wrong() -> None:
    schema = {"name": {"type": "string"}, "times": {"type": "integer", "default": 1}}

    assert ParameterValidator.validate({"name": "x"}, schema) == {"name": "x", "times": 1}
    with pytest.raises(ToolValidationError, match="unknown argument 'tmies'; did you mean 'times'"):
        ParameterValidator.validate({"name": "x", "tmies": 2}, schema)
    with pytest.raises(SchemaError):
        ParameterValidator.validate({}, {"name": {"type": "txt"}})


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


async def test_the_security_validator_bounds_and_screens_a_call() -> None:
    check = SecurityValidator().validate_tool_call
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("T", {"text": "x" * 10_001}),
        ("T", {"items": [0] * 1_001}),
        ("T", {"deep": nested(11)}),
        ("T", {f"a{n}": n for n in range(51)}),
        ("T", {"keys": {f"k{n}": n for n in range(101)}}),
        ("T", {"n" * 101: 1}),
        ("n" * 101, {}),
        ("T", {"query": "'; DROP TABLE users; --"}),
        ("T", {"path": "../../etc/passwd"}),
        ("T", {"deep": {"text": "<script>alert(1)</script>"}}),
    ]

    await check("T", {"text": "x" * 10_000, "items": [0] * 1_000, "deep": nested(10)}, user_id="ann")
    await check("T" * 100, {f"a{n}": n for n in range(50)})
    for name, arguments in wrong:
        with pytest.raises(SecurityError):
            await check(name, arguments)


async def test_hostile_arguments_never_reach_a_tool() -> None:
    seen: list[Any] = []

    def take(sql: str = "SELECT 1", path: str = "a.txt") -> None:
        seen.append((sql, path))

    with executor_for(Tool(name="Take", register=False)(take)) as executor:
        for arguments in ({"sql": "SELECT 1; DELETE FROM users"}, {"path": "../secrets"}):
            result = await executor.execute_tool_call(create_tool_call("Take", arguments))
            assert (result.status_code, result.metadata["outcome"]) == (403, "not_run")

    assert seen == []


# health and debugging


async def test_health_can_be_served() -> None:
    executor = ToolExecutor()

    health = await executor.health_check()
    served = {"status": "healthy" if health["healthy"] else "unhealthy", "executor": health, "timestamp": time.time()}

    assert served["status"] == "healthy"
    json.dumps(served)


def test_debug_logs_in_every_detail(caplog: pytest.LogCaptureFixture) -> None:
    def at_debug() -> list[str]:
        caplog.clear()
        executor.execute_sync(multiply(user_id="ann", call_id="c-1"))
        return [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]

    executor = ToolExecutor(debug=True)
    with caplog.at_level(logging.DEBUG):
        detailed = at_debug()
        executor.config.debug = False
        plain = at_debug()

    assert plain == []
    assert len(detailed) == 2
    assert all("MyApp.Calculator [c-1]" in line for line in detailed)
    assert "called by ann" in detailed[0]
    assert "ok from run" in detailed[1]
    assert not any("105" in line or "multiply" in line for line in detailed)


def test_what_a_body_says_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def talk(ctx: ToolContext) -> None:
        ctx.log("half way", "warning", rows=5)

    with executor_for(Tool(name="Talk", register=False)(talk)) as executor:
        executor.execute_sync(create_tool_call("Talk", {}, call_id="c-1"))

    (record,) = [r for r in caplog.records if r.getMessage() == "half way"]
    assert (record.levelname, record.__dict__["call_id"], record.__dict__["tool"]) == ("WARNING", "c-1", "Talk")


async def test_an_arcade_client_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigurationError, match="arcade_client"):
        ToolExecutor(arcade_client=object(), enable_rate_limiting=True)


# versions, hints, scale


async def test_a_name_stands_for_its_newest_version() -> None:
    versions = [
        Tool(name="V", version=version, register=False)(lambda version=version: version)
        for version in ("1.0.0", "1.10.0", "1.9.0")
    ]
    with executor_for(versions) as executor:
        newest = await executor.execute_tool_call(create_tool_call("V", {}))
        asked = await executor.execute_tool_call(create_tool_call("V", {}, version="1.9.0"))
        at = await executor.execute_tool_call(create_tool_call("V@1.0.0", {}))

    assert [newest.data, asked.data, at.data] == [{"result": "1.10.0"}, {"result": "1.9.0"}, {"result": "1.0.0"}]


def test_what_a_tool_says_of_itself_is_kept() -> None:
    definition = Tool(
        name="Told", hints=Hints(read_only=True), tags=["math"], owner="team", deprecated="use Other", register=False
    ).define(calculate)

    assert (definition.hints.read_only, definition.tags, definition.owner) == (True, ("math",), "team")
    assert definition.deprecated == "use Other"


async def test_permissions_are_asked_of_the_caller() -> None:
    tool = Tool(name="Admin", permissions=("admin",), register=False)(lambda: 1)
    with executor_for(tool) as executor:
        denied = await executor.execute_tool_call(create_tool_call("Admin", {}, user_id="ann"))
        allowed = await executor.execute_tool_call(
            create_tool_call("Admin", {}, user_id="ann", scopes=frozenset({"admin"}))
        )

    assert (denied.status_code, allowed.status_code) == (403, 200)


async def test_an_executor_serves_several_loops_and_threads_at_once() -> None:
    executor = ToolExecutor()
    results: list[Any] = []

    def serve() -> None:
        results.append(asyncio.run(executor.execute_tool_call(multiply())).data["result"])

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    here = await executor.execute_tool_call(multiply())
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert results == [105] * 8
    assert math.isclose(here.data["result"], 105)
    assert executor.get_metrics()["requests"] == 9
