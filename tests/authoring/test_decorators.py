"""Decorators declare: their order has no meaning, and a direct call takes the pipeline."""

import asyncio
import inspect
import itertools
import threading

import pytest
from pydantic import BaseModel

from toolpost import (
    BaseTool,
    ConfigurationError,
    InputValidationError,
    SecurityError,
    Tool,
    cache_result,
    get_tool_registry,
    measure_execution_time,
    run_in_executor,
    sanitize_input,
    validate_input,
)
from toolpost.authoring.binding import is_leaf
from toolpost.testing import executor_for


class Text(BaseModel):
    text: str


DECORATORS = [validate_input(Text), cache_result(ttl=60), run_in_executor, measure_execution_time, sanitize_input]


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7])
def test_the_order_of_decorators_has_no_meaning(order):
    runs = []

    def work(self, text):
        runs.append(threading.current_thread())
        return text.upper()

    method = work
    for place in order:
        method = DECORATORS[place](method)
    made = type("Made", (BaseTool,), {"work": method})()
    with executor_for() as executor:
        made._executor = executor

        assert made.work(text="a") == "A"
        assert made.run("work", text="a") == "A"
        with pytest.raises(InputValidationError):
            made.work(txt="a")
        with pytest.raises(SecurityError):
            made.work(text="'; DROP TABLE users; --")

    assert len(runs) == 1
    assert runs[0] is not threading.main_thread()


class Direct(BaseTool):
    @cache_result(ttl=60)
    def join(self, a: str, b: str = "x", *, c: str = "y") -> str:
        """Join them."""
        return f"{a}{b}{c}"

    @run_in_executor
    def threaded(self, n: int) -> int:
        return int(str(n)) + 1

    @measure_execution_time
    async def waits(self, n: int) -> int:
        await asyncio.sleep(0)
        return n


@pytest.fixture
def tool():
    with executor_for() as executor:
        made = Direct()
        made._executor = executor
        yield made


class TestDirectCalls:
    def test_positional_and_named_arguments_work_as_on_any_method(self, tool):
        assert tool.join("a", "b") == "aby"
        assert tool.join("a", c="z") == "axz"
        with pytest.raises(TypeError, match="takes 3 arguments"):
            tool.join("a", "b", "c", "d")
        with pytest.raises(TypeError, match="'a' twice"):
            tool.join("a", a="b")

    def test_they_are_validated_counted_and_cached(self, tool):
        tool.join(a="1")
        tool.join(a="1")
        with pytest.raises(InputValidationError):
            tool.join(a=1)

        metrics = tool._executor.get_metrics()
        assert (metrics["requests"], metrics["cache_hits"], metrics["failures"]) == (3, 1, 1)

    def test_run_in_executor_returns_the_value_where_no_loop_runs(self, tool):
        assert tool.threaded(n=1) == 2

    async def test_run_in_executor_returns_an_awaitable_inside_a_loop(self, tool):
        answer = tool.threaded(n=1)

        assert inspect.isawaitable(answer)
        assert await answer == 2

    async def test_an_async_method_stays_one(self, tool):
        assert inspect.iscoroutinefunction(tool.waits)
        assert await tool.waits(n=3) == 3

    def test_name_signature_and_docstring_stay(self, tool):
        assert tool.join.__name__ == "join"
        assert tool.join.__doc__ == "Join them."
        assert list(inspect.signature(tool.join).parameters) == ["a", "b", "c"]

    def test_a_decorated_function_takes_the_pipeline_too(self):
        runs = []

        @cache_result(ttl=60)
        @validate_input(Text)
        def shout(text):
            runs.append(text)
            return text.upper()

        assert [shout("a"), shout(text="a")] == ["A", "A"]
        assert runs == ["a"]
        with pytest.raises(InputValidationError):
            shout(text=1)

    def test_a_decorated_function_may_become_a_tool(self):
        @Tool(name="Decorated.Shout", register=False)
        @cache_result(ttl=60)
        def shout(text: str):
            return text.upper()

        with executor_for(shout) as executor:
            executor.call_sync("Decorated.Shout", text="a")
            executor.call_sync("Decorated.Shout", text="a")
            assert executor.get_metrics()["cache_hits"] == 1


class TestUsedWrongly:
    def test_each_mistake_is_told_where_it_is_made(self):
        def plain(x):
            return x

        async def waits(x):
            return x

        for wrong, words in [
            (lambda: validate_input(plain), "takes a pydantic model class"),
            (lambda: validate_input({"type": "object"}), "takes a pydantic model class"),
            (lambda: validate_input(Text)(Text), "goes on a function"),
            (lambda: cache_result(plain), "needs its brackets"),
            (lambda: cache_result(ttl=0), "ttl_s must be more than 0"),
            (lambda: cache_result(ttl=-1), "ttl_s must be more than 0"),
            (lambda: cache_result(ttl="60"), "ttl_s"),
            (lambda: cache_result(per="everybody"), "per must be"),
            (lambda: run_in_executor(waits), "is async"),
            (lambda: sanitize_input("plain"), "goes on a function"),
            (lambda: measure_execution_time(staticmethod(plain)), "goes on a function"),
            (lambda: Tool(plain), "needs its brackets"),
            (lambda: Tool(name="X")(Text), "derive from BaseTool"),
            (lambda: Tool(name="has space", register=False)(plain), "must be 1 to 128"),
            (lambda: Tool(name="X", retries=3), "'retries'"),
            (lambda: Tool(name="X", desciption="x"), "did you mean description="),
            (lambda: Tool(name="X", timeout_seconds=0), "total_s must be more than 0"),
            (lambda: Tool(name="X", requires_auth="yes"), "requires_auth"),
            (lambda: Tool(name="X", runs_in="cloud"), "runs_in"),
            (lambda: Tool(name="X", parameters={"y": {"type": "string"}}, register=False)(plain), "'y'"),
            (lambda: Tool(name="X", parameters={"x": {"type": "strng"}}, register=False)(plain), "string"),
            (lambda: Tool(name="X", parameters=["x"], register=False)(plain), "parameters"),
        ]:
            with pytest.raises(ConfigurationError, match=words):
                wrong()


class TestTool:
    def test_the_function_stays_callable_and_carries_its_definition(self):
        @Tool(name="Stays.Callable", description="It does.", register=False)
        def double(n: int):
            """Other words."""
            return 2 * n

        assert double(4) == 8
        assert double.tool_definition.description == "It does."
        assert double.tool_definition.function is double

    def test_name_and_description_come_from_the_function_if_not_given(self):
        @Tool(register=False)
        def double(n: int):
            """Twice as much.

            More of it.
            """

        assert (double.tool_definition.name, double.tool_definition.description) == ("double", "Twice as much.")

    def test_it_registers_with_the_process(self):
        try:

            @Tool(name="Registers.Itself")
            def nothing():
                return None

            assert get_tool_registry().get_tool("Registers.Itself").function is nothing
            with pytest.raises(ConfigurationError, match="registered already"):
                Tool(name="Registers.Itself")(lambda: None)
        finally:
            get_tool_registry().unregister_tool("Registers.Itself")


def test_only_code_that_ends_at_once_is_a_leaf():
    def adds(a, b):
        return a + b if a > b else {"a": a, "text": f"{b}"}

    def calls(a):
        return str(a)

    def loops(a):
        while a:
            a = a - 1

    def grows(a):
        return a**a

    def multiplies(a):
        return a * 1000000

    def looks(a):
        return a.size

    def raises(a):
        raise KeyboardInterrupt

    def yields(a):
        yield a

    def widens(a, b):
        return f"{a:>{b}}"

    async def waits(a):
        return a

    assert is_leaf(adds)
    for func in (calls, loops, grows, multiplies, looks, raises, yields, widens, waits, print):
        assert not is_leaf(func)


def test_a_leaf_runs_inline_only_when_it_can_get_numbers_alone():
    @Tool(name="Numbers", register=False)
    def numbers(a: int, b: float):
        return a + b

    @Tool(name="Texts", register=False)
    def texts(a: str, b: str):
        return a + b

    assert numbers.tool_definition.body.leaf
    assert not texts.tool_definition.body.leaf
