"""cache: only for tools that declare it, one entry for one meaning, nothing shared that should not be."""

import asyncio
import datetime
import logging
import typing

import pytest

from toolpost import BaseTool, Cache, Tool, cache_result, create_tool_call
from toolpost.testing import FakeClock, Recorder, executor_for


class Counting(BaseTool):
    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def plain(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=60)
    def kept(self, n: int, extra: dict | None = None):
        self.runs += 1
        return {"n": n, "items": [n]}

    @cache_result()
    def kept_as_configured(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=60, per="global")
    def for_all(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=60, per="user")
    def for_user(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=lambda result, arguments: 100 if arguments["n"] > 10 else 1)
    def as_the_result_says(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=lambda result, arguments: 1 / 0)
    def with_a_broken_ttl(self, n: int):
        self.runs += 1
        return n

    @cache_result(ttl=60)
    def none(self):
        self.runs += 1

    @cache_result(ttl=60)
    def fails(self):
        self.runs += 1
        raise ValueError("no")

    @cache_result(ttl=60)
    async def slowly(self, n: int):
        self.runs += 1
        await asyncio.sleep(0)
        return n

    @cache_result(ttl=60)
    def of_a_day(self, day: datetime.date):
        self.runs += 1
        return day.isoformat()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tool(clock):
    with executor_for(clock=clock, cache_size=3, cache_ttl=30) as executor:
        made = Counting()
        made._executor = executor
        yield made


def test_nothing_is_kept_unless_declared(tool):
    tool.run("plain", n=1)
    tool.run("plain", n=1)

    assert tool.runs == 2


def test_an_equal_call_is_answered_without_running_the_body(tool):
    first = tool.run("kept", n=1)
    second = tool.run("kept", n=1)

    assert first == second == {"n": 1, "items": [1]}
    assert tool.runs == 1
    assert tool._executor.get_metrics()["cache_hits"] == 1


def test_the_order_of_arguments_and_keys_has_no_meaning(tool):
    tool.run("kept", n=1, extra={"a": 1, "b": 2})
    tool.run("kept", extra={"b": 2, "a": 1}, n=1)

    assert tool.runs == 1


def test_other_arguments_users_and_tasks_have_entries_of_their_own(tool):
    for scope in ({}, {"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "ann", "task_id": "t1"}):
        tool.run("kept", n=1, **scope)
    tool.run("kept", n=2)

    assert tool.runs == 5


def test_per_user_ignores_the_task_and_per_global_the_user_too(tool):
    for task in ("t1", "t2"):
        tool.run("for_user", n=1, user_id="ann", task_id=task)
    tool.run("for_user", n=1, user_id="bob")
    assert tool.runs == 2

    for user in ("ann", "bob"):
        tool.run("for_all", n=1, user_id=user)
    assert tool.runs == 3


def test_two_tools_with_equal_arguments_never_share(tool):
    other = Counting()
    other.tool_name = "Other"
    other._executor = tool._executor

    tool.run("kept", n=1)
    other.run("kept", n=1)

    assert (tool.runs, other.runs) == (1, 1)


def test_a_value_cannot_be_changed_by_its_receivers(tool):
    first = tool.run("kept", n=1)
    first["items"].append("spoilt")
    second = tool.run("kept", n=1)
    second["items"].append("spoilt too")

    assert tool.run("kept", n=1) == {"n": 1, "items": [1]}


def test_none_is_a_value(tool):
    tool.run("none")
    tool.run("none")

    assert tool.runs == 1


def test_errors_are_not_kept(tool):
    for _ in range(2):
        with pytest.raises(Exception, match="no"):
            tool.run("fails")

    assert tool.runs == 2


def test_an_entry_ends_with_its_time(tool, clock):
    tool.run("kept", n=1)
    clock.advance(59)
    tool.run("kept", n=1)
    assert tool.runs == 1

    clock.advance(2)
    tool.run("kept", n=1)

    assert tool.runs == 2


def test_without_a_ttl_the_executors_holds(tool, clock):
    tool.run("kept_as_configured", n=1)
    clock.advance(29)
    tool.run("kept_as_configured", n=1)
    assert tool.runs == 1

    clock.advance(2)
    tool.run("kept_as_configured", n=1)
    assert tool.runs == 2


def test_a_ttl_may_come_from_the_result(tool, clock):
    for n in (1, 11):
        tool.run("as_the_result_says", n=n)
    clock.advance(2)
    for n in (1, 11):
        tool.run("as_the_result_says", n=n)

    assert tool.runs == 3


def test_a_ttl_that_breaks_is_logged_and_the_call_goes_on(tool, caplog):
    with caplog.at_level(logging.ERROR, logger="toolpost"):
        assert tool.run("with_a_broken_ttl", n=1) == 1

    assert "ttl of Counting.with_a_broken_ttl failed" in caplog.text


def test_the_least_recently_used_goes_first(tool):
    for n in (1, 2, 3):
        tool.run("kept", n=n)
    tool.run("kept", n=1)
    tool.run("kept", n=4)
    assert tool.runs == 4

    tool.run("kept", n=1)
    assert tool.runs == 4
    tool.run("kept", n=2)
    assert tool.runs == 5


def test_the_master_switch_turns_it_off_and_on(tool):
    tool.run("kept", n=1)
    tool._executor.config.enable_cache = False
    tool.run("kept", n=1)
    assert tool.runs == 2

    tool._executor.config.enable_cache = True
    tool.run("kept", n=1)
    assert tool.runs == 2


def test_a_new_size_takes_effect_on_the_next_call(tool):
    for n in range(3):
        tool.run("kept", n=n)

    tool._executor.config.cache_size = 1

    assert tool._executor.get_metrics()["cache_entries"] == 1
    tool.run("kept", n=2)
    assert tool.runs == 3


def test_arguments_without_a_canonical_form_are_not_kept(tool):
    for _ in range(2):
        tool.run("kept", n=2**80)
        tool.run("kept", n=1, extra={"x": float("nan")})

    assert tool.runs == 4


def test_null_is_cacheable_though_nan_is_not(tool):
    for _ in range(2):
        tool.run("kept", n=1, extra={"x": None})

    assert tool.runs == 1


def test_two_objects_of_one_class_do_not_share(tool):
    class Api(BaseTool):
        def __init__(self, base: str) -> None:
            super().__init__()
            self.base = base

        @cache_result(ttl=60)
        def get(self, path: str):
            return f"{self.base}/{path}"

    answers = []
    for base in ("prod", "test"):
        api = Api(base)
        api._executor = tool._executor
        answers += [api.run("get", path="x"), api.run("get", path="x")]

    assert answers == ["prod/x", "prod/x", "test/x", "test/x"]
    assert tool._executor.get_metrics()["cache_hits"] == 2


def test_a_tool_by_name_and_by_object_is_one_tool(tool):
    tool._executor.add(tool)
    tool.run("kept", n=1)
    tool._executor.call_sync("Counting.kept", n=1)

    assert tool.runs == 1


def test_a_new_closure_never_meets_the_old_entries(clock):
    def make(number):
        @Tool(name="Closure", register=False, cache=Cache(ttl_s=60))
        def closure(x: int):
            return number + len("")

        return closure

    with executor_for(make(1), clock=clock) as executor:
        assert executor.call_sync("Closure", x=1) == 1
        executor.add(make(2), replace=True)

        assert executor.call_sync("Closure", x=1) == 2


def test_a_date_and_its_text_are_two_meanings_for_what_is_untyped(clock):
    seen = []

    @Tool(name="Anything", register=False, cache=Cache(ttl_s=60, per="global"))
    def anything(value: typing.Any):
        seen.append(value)
        return str(type(value))

    with executor_for(anything, clock=clock) as executor:
        for value in (datetime.date(2024, 1, 1), "2024-01-01", 1, 1.0, True, "1"):
            executor.call_sync("Anything", value=value)

    assert len(seen) == 6


async def test_null_for_absent_and_null_itself_are_two_meanings(clock):
    @Tool(name="Nullable", register=False, cache=Cache(ttl_s=60))
    def nullable(x: int | None = 5):
        return [x]

    with executor_for(nullable, clock=clock) as executor:
        absent = await executor.execute_tool_call(create_tool_call("Nullable", {"x": None}, strict=True))
        null = await executor.execute_tool_call(create_tool_call("Nullable", {"x": None}))

    assert (absent.data, null.data) == ({"result": [5]}, {"result": [None]})


async def test_a_result_that_is_refused_is_not_kept(clock):
    answers = iter([{"wrong": 1}, b"bytes", {"total": 3}])

    @Tool(name="Mends", register=False, cache=Cache(ttl_s=60), returns={"type": "object", "required": ["total"]})
    def mends():
        return next(answers)

    with executor_for(mends, clock=clock) as executor:
        results = [await executor.execute_tool_call(create_tool_call("Mends", {})) for _ in range(4)]

    assert [r.status_code for r in results] == [502, 502, 200, 200]
    assert [r.source for r in results[2:]] == ["run", "cache"]


def test_per_global_holds_for_callers_without_a_name_too(tool):
    tool.run("for_all", n=1)
    tool.run("for_all", n=1, user_id="ann")

    assert tool.runs == 1


def test_python_values_that_json_can_write_are_kept(tool):
    for _ in range(2):
        tool.run("of_a_day", day=datetime.date(2026, 1, 2))

    assert tool.runs == 1


async def test_hits_are_marked_in_results_and_events(tool):
    told = Recorder()
    tool._executor.add(tool)
    tool._executor.observe(told)

    results = [await tool._executor.execute_tool_call(create_tool_call("Counting.slowly", {"n": 1})) for _ in "ab"]

    assert [r.source for r in results] == ["run", "cache"]
    assert [r.usage.cached_hit for r in results] == [False, True]
    assert [e.source for e in told.events if type(e).__name__ == "CallFinished"] == ["run", "cache"]


def test_a_refused_call_never_meets_the_cache(tool):
    tool.run("kept", n=1)

    with pytest.raises(Exception, match="unknown argument"):
        tool.run("kept", n=1, other=1)

    assert tool._executor.get_metrics()["cache_hits"] == 0


def test_a_changed_definition_never_meets_the_old_entries(clock):
    def answer(n: int) -> int:
        return n

    first = Tool(name="Answer", register=False, cache=Cache(ttl_s=60))(answer).tool_definition

    def answer(n: int) -> int:
        return n + 100

    second = Tool(name="Answer", register=False, cache=Cache(ttl_s=60))(answer).tool_definition
    with executor_for(first, clock=clock) as executor:
        assert executor.call_sync("Answer", n=1) == 1
        executor.add(second, replace=True)

        assert executor.call_sync("Answer", n=1) == 101


def test_clear_cache_forgets_everything(tool):
    tool.run("kept", n=1)

    assert tool._executor.execution_utils.clear_cache() == 1

    tool.run("kept", n=1)
    assert tool.runs == 2
