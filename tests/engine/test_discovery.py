"""Three tools in place of all: what they find, what they show, and that what they call is called as ever."""

import asyncio
from typing import Any

import orjson
import pytest

from toolpost import (
    Access,
    Approval,
    Caller,
    Idempotency,
    Tool,
    ToolCall,
    ToolContext,
    ToolError,
    ToolExecutor,
    ToolNotFoundError,
    ToolResult,
    export_tool,
    export_tools,
)
from toolpost.calls.events import CallFinished, Progressed
from toolpost.calls.showing import SHOWN_AS
from toolpost.engine.discovery import example_of
from toolpost.engine.registry import ToolRegistry

ANN = Caller(user_id="ann", tenant="acme")
BOB = Caller(user_id="bob", tenant="acme")
RAN: list[Any] = []


@Tool(name="Weather.Today", tags=["weather"], register=False)
async def today(city: str, days: int = 1) -> str:
    """Tell the weather of a city."""
    return f"{city}: sun for {days}"


@Tool(name="Weather.Storms", register=False)
async def storms(city: str) -> str:
    """Tell the weather of a city, its storms."""
    return f"{city}: none"


@Tool(name="Admin.Weather", access=Access(scopes=("admin",)), register=False)
async def hidden(city: str) -> str:
    """Make the weather of a city."""
    return "made"


@Tool(name="Mail.Send", approval=Approval(), register=False)
async def send(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"


@Tool(name="Order.Place", idempotency=Idempotency(only_caller=True), register=False)
async def place(item: str) -> int:
    """Place an order."""
    RAN.append(item)
    return len(RAN)


@Tool(name="Fail.Always", register=False)
async def fail() -> None:
    """Fail."""
    raise ToolError("there is none", code="NONE_LEFT", details={"left": 0})


@Tool(name="Slow.Steps", register=False)
async def steps(context: ToolContext) -> dict[str, Any]:
    """Tell how far it is."""
    context.progress(1, 2, "half")
    return {"user": context.user_id, "key": context.idempotency_key is not None}


TOOLS = [today, storms, hidden, send, place, fail, steps]


def executor_with(*tools: Any, **settings: Any) -> ToolExecutor:
    executor = ToolExecutor({"discovery": True, **settings}, registry=ToolRegistry())
    for tool in tools:
        executor.add(tool)
    return executor


async def ask(executor: ToolExecutor, name: str, caller: Caller = ANN, /, **arguments: Any) -> ToolResult:
    who = {field: getattr(caller, field) for field in caller.__slots__}
    return await executor.execute_tool_call(ToolCall("c1", name, arguments, **who))


async def call(executor: ToolExecutor, tool: str, arguments: Any, caller: Caller = ANN, **more: Any) -> ToolResult:
    who = {field: getattr(caller, field) for field in caller.__slots__}
    given = {"name": tool, "arguments": arguments}
    return await executor.execute_tool_call(ToolCall("c1", "call_tool", given, **who, **more))


def test_a_model_is_shown_three_tools_and_people_all() -> None:
    with executor_with(*TOOLS) as executor:
        shown = executor.tools_for_model(ANN)

        assert [one.name for one in shown] == ["search_tools", "describe_tool", "call_tool"]
        assert "Weather.Today" in executor.get_available_tools()
        assert "search_tools" not in executor.get_available_tools()
        assert [one.hints.read_only for one in shown] == [True, True, None]


async def test_without_the_setting_there_are_none_and_it_can_be_turned() -> None:
    with ToolExecutor({}, registry=ToolRegistry()) as executor:
        executor.add(today)

        assert (await ask(executor, "search_tools")).failure.code == "unknown_tool"  # type: ignore[union-attr]
        executor.config.discovery = True
        assert (await ask(executor, "search_tools")).success
        executor.config.discovery = False
        assert (await ask(executor, "search_tools")).failure.code == "unknown_tool"  # type: ignore[union-attr]
        assert [one.name for one in executor.tools_for_model(ANN)] == ["Weather.Today"]


async def test_a_search_finds_what_the_caller_may_see_with_its_parameters() -> None:
    with executor_with(*TOOLS) as executor:
        found = (await ask(executor, "search_tools", query="weather of a city")).data
        admin = (await ask(executor, "search_tools", Caller(scopes=frozenset({"admin"})), query="weather")).data

        assert [one["name"] for one in found["tools"]] == ["Weather.Storms", "Weather.Today"]
        assert found["tools"][1]["parameters"] == "city: string, days?: integer"
        assert found["found"] == 2
        assert {one["name"] for one in admin["tools"]} >= {"Admin.Weather"}


async def test_what_finds_nothing_says_how_to_go_on() -> None:
    with executor_with(*TOOLS) as executor:
        found = (await ask(executor, "search_tools", query="zebra")).data

        assert found["tools"] == []
        assert "other words" in found["hint"]


async def test_of_equal_words_the_one_that_is_used_comes_first() -> None:
    with executor_with(*TOOLS) as executor:
        for _ in range(3):
            await call(executor, "Weather.Today", {"city": "Rome"}, BOB)
        for _ in range(4):
            await call(executor, "Weather.Storms", {"city": "Rome"}, Caller(user_id="eve", tenant="other"))

        of_its_tenant = (await ask(executor, "search_tools", ANN, query="weather of a city")).data["tools"]
        of_another = (await ask(executor, "search_tools", Caller(user_id="eve", tenant="other"), query="weather")).data
        most_used = (await ask(executor, "search_tools", ANN)).data["tools"]

        assert of_its_tenant[0]["name"] == "Weather.Today"
        assert of_another["tools"][0]["name"] == "Weather.Storms"
        assert most_used[0]["name"] == "Weather.Today"


async def test_a_failure_counts_for_no_use() -> None:
    with executor_with(*TOOLS) as executor:
        for _ in range(60):
            await call(executor, "Fail.Always", {})
        await call(executor, "Weather.Storms", {"city": "Rome"})

        assert (await ask(executor, "search_tools")).data["tools"][0]["name"] == "Weather.Storms"


async def test_one_is_described_in_the_form_of_the_models_provider() -> None:
    with executor_with(*TOOLS) as executor:
        own = (await ask(executor, "describe_tool", name="Weather.Today")).data
        before = SHOWN_AS.set(lambda one: export_tool(one, "anthropic"))
        try:
            theirs = (await ask(executor, "describe_tool", name="Weather.Today")).data
        finally:
            SHOWN_AS.reset(before)

        assert own["tool"]["parameters"]["properties"]["city"]["type"] == "string"
        assert own["call"] == {"name": "Weather.Today", "arguments": {"city": "..."}}
        assert theirs["tool"]["name"] == "Weather__Today"
        assert "city" in theirs["tool"]["input_schema"]["properties"]


@pytest.mark.parametrize("asked", ["describe_tool", "call_tool"])
async def test_an_unknown_name_is_told_near_ones_but_none_that_is_hidden(asked: str) -> None:
    with executor_with(*TOOLS) as executor:
        near = await ask(executor, asked, name="Weather.Tody")
        hidden_one = await ask(executor, "describe_tool", name="Admin.Weather")
        close = await ask(executor, asked, name="Admin.Weathr")

        assert near.failure is not None
        assert near.failure.code == "unknown_tool"
        assert near.failure.details["did_you_mean"][0] == "Weather.Today"
        assert hidden_one.failure is not None
        assert hidden_one.failure.code == "unknown_tool"
        assert "Admin.Weather'" not in (close.error or "").partition(";")[2]


async def test_a_call_is_the_inner_tools_own() -> None:
    told: list[Any] = []
    with executor_with(*TOOLS) as executor:
        executor.observe(told.append)

        result = await call(executor, "Slow.Steps", {}, idempotency_key="k1")

        assert (result.call_id, result.tool_name, result.data) == ("c1", "Slow.Steps", {"user": "ann", "key": True})
        assert [one.tool for one in told if isinstance(one, Progressed)] == ["Slow.Steps"]
        assert [one.tool for one in told if isinstance(one, CallFinished)] == ["Slow.Steps"]


async def test_its_errors_are_the_inner_tools_own() -> None:
    with executor_with(*TOOLS) as executor:
        failed = await call(executor, "Fail.Always", {})
        wrong = await call(executor, "Weather.Today", {"city": "Rome", "days": "many"})
        denied = await call(executor, "Admin.Weather", {"city": "Rome"})

        assert failed.failure is not None
        assert failed.failure.code == "NONE_LEFT"
        assert wrong.failure is not None
        assert wrong.failure.code == "invalid_input"
        assert [one["path"] for one in wrong.failure.details["errors"]] == ["/days"]
        assert denied.failure is not None
        assert denied.failure.code == "denied"


async def test_its_key_approval_and_audit_are_the_inner_tools_own() -> None:
    RAN.clear()
    with executor_with(*TOOLS, audit="on") as executor:
        first = await call(executor, "Order.Place", {"item": "tea"}, idempotency_key="k")
        again = await executor.execute_tool_call(
            ToolCall("c2", "Order.Place", {"item": "tea"}, user_id="ann", tenant="acme", idempotency_key="k")
        )
        held = await call(executor, "Mail.Send", {"to": "bob"})
        asked = executor.approvals.list("pending")

        assert (first.data, again.data, again.source, RAN) == ({"result": 1}, {"result": 1}, "replay", ["tea"])
        assert held.failure is not None
        assert held.failure.code == "approval_required"
        assert [one.tool for one in asked] == ["Mail.Send"]
        rows = await asyncio.to_thread(executor.audit.newest, 10)
        assert "Order.Place" in str(rows)
        assert "call_tool" not in str(rows)


@pytest.mark.parametrize("name", ["Weather.Today", "Weather__Today", "Weather.Today@1.0.0"])
async def test_a_name_may_be_written_as_providers_do_and_arguments_as_text(name: str) -> None:
    with executor_with(*TOOLS) as executor:
        result = await call(executor, name, '{"city": "Rome"}')

        assert result.data == {"result": "Rome: sun for 1"}


@pytest.mark.parametrize("arguments", ["[1]", "{", 7, [1]])
async def test_what_is_no_object_is_told_so(arguments: Any) -> None:
    with executor_with(*TOOLS) as executor:
        result = await call(executor, "Weather.Today", arguments)

        assert result.failure is not None
        assert result.failure.code == "invalid_input"
        assert result.failure.details["errors"][0]["path"] == "/arguments"


async def test_the_three_cannot_be_called_through_one_another() -> None:
    with executor_with(*TOOLS) as executor:
        result = await call(executor, "call_tool", {"name": "call_tool", "arguments": {}})

        assert result.failure is not None
        assert result.failure.code == "unknown_tool"


async def test_it_is_the_same_for_batches_for_who_blocks_and_by_name() -> None:
    given = {"name": "Weather.Today", "arguments": {"city": "Rome"}}
    with executor_with(*TOOLS) as executor:
        batch = await executor.execute_tool_calls([ToolCall("a", "call_tool", given), ToolCall("b", "nothing", {})])
        named = await executor.call("call_tool", **given)

        assert [one.tool_name for one in batch] == ["Weather.Today", "nothing"]
        assert named == "Rome: sun for 1"
        with pytest.raises(ToolNotFoundError, match="did you mean"):
            await executor.call("call_tool", name="Weather.Tody")


def test_it_is_the_same_for_who_blocks() -> None:
    with executor_with(*TOOLS) as executor:
        given = {"name": "Weather.Today", "arguments": {"city": "Rome"}}

        assert executor.execute_sync(ToolCall("a", "call_tool", given)).tool_name == "Weather.Today"
        assert executor.execute_sync(ToolCall("a", "search_tools", {"query": "weather"})).data["found"] == 2


async def test_a_lock_file_has_no_say_about_the_three(tmp_path: Any) -> None:
    lock = tmp_path / "toolpost.lock"
    lock.write_text("")
    with ToolExecutor({"discovery": True}, registry=ToolRegistry()) as executor:
        executor._services.pins = type("Nothing", (), {"check": _refuse, "hold": lambda self, tool: False})()

        assert (await ask(executor, "search_tools")).data == {"tools": [], "found": 0}


def _refuse(self: Any, tool: Any) -> None:
    raise AssertionError(f"{tool.name} was looked up in the lock")


def test_an_example_has_what_is_needed_in_its_kind() -> None:
    @Tool(
        name="Pick",
        register=False,
        parameters={
            "unit": {"type": "string", "enum": ["C", "F"]},
            "at": {"type": "integer", "minimum": 3},
            "tags": {"type": "array", "items": {"type": "string"}},
            "more": {"type": "boolean", "optional": True},
        },
    )
    async def pick(unit: str, at: int, tags: list[str], more: bool = False) -> None:
        """Pick."""

    @Tool(name="Own", examples=[{"a": 5}], register=False)
    async def own(a: int) -> None:
        """Own."""

    assert example_of(pick.tool_definition) == {"unit": "C", "at": 3, "tags": ["..."]}  # type: ignore[attr-defined]
    assert example_of(own.tool_definition) == {"a": 5}  # type: ignore[attr-defined]


def many(number: int) -> list[Any]:
    """Tools as applications have them, of four parameters each."""

    def one(index: int) -> Any:
        @Tool(name=f"Service{index // 10}.Operation{index}", register=False)
        async def operation(customer: str, amount: float, currency: str = "EUR", notes: list[str] | None = None) -> str:
            """Change the balance of a customer by an amount, in a currency, and note why that was done."""
            return "done"

        return operation

    return [one(index) for index in range(number)]


async def test_of_two_hundred_tools_a_model_is_shown_a_fiftieth() -> None:
    tools = many(200)
    with executor_with(*tools) as executor:
        whole = len(orjson.dumps(export_tools([one.tool_definition for one in tools], "openai")))
        shown = len(orjson.dumps(export_tools(executor.tools_for_model(ANN), "openai")))
        searched = len(orjson.dumps((await ask(executor, "search_tools", query="balance of a customer")).data))
        print(f"{whole} bytes for 200 tools, {shown} for three, {searched} for a search")

        assert shown * 40 < whole
        assert shown + searched < whole / 20
