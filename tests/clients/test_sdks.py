"""The SDKs of OpenAI and Anthropic run their tool loops through toolpost: at a gateway, and in this process."""

from collections.abc import Iterator
from typing import Any

import anthropic as anthropic_sdk
import openai as openai_sdk
import orjson
import pytest

from tests.clients.provider import (
    Provider,
    completion,
    function_call,
    message,
    output_text,
    provider,
    reasoning,
    refusal_item,
    response,
    text,
    tool_call,
    tool_use,
)
from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import TOOLS
from toolpost import Caller, Tool, ToolExecutor
from toolpost.clients import AsyncClient, Client, anthropic, openai
from toolpost.engine.registry import ToolRegistry
from toolpost.errors import ConfigurationError, EngineError, InputValidationError


@Tool(name="Weather.Today", register=False)
async def today(city: str, unit: str | None = None, days: int = 1) -> str:
    """Tell the weather."""
    return f"{city}: 7 {unit or 'C'} for {days}"


ALL = [*TOOLS, today]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway(ALL) as one:
        yield one


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor({}, registry=ToolRegistry()) as one:
        for tool in ALL:
            one.add(tool)
        yield one


@pytest.fixture(params=["gateway", "executor"])
def where(request: pytest.FixtureRequest, served: Served, executor: ToolExecutor) -> Iterator[Any]:
    """Where the tools are: the adapters take both."""
    if request.param == "executor":
        yield executor
        return
    with Client(served.url) as client:
        yield client


@pytest.fixture
def model() -> Iterator[Provider]:
    with provider() as one:
        yield one


@pytest.fixture
def gpt(model: Provider) -> Iterator[openai_sdk.OpenAI]:
    with openai_sdk.OpenAI(base_url=model.url, api_key="x", max_retries=0) as one:
        yield one


@pytest.fixture
def claude(model: Provider) -> Iterator[anthropic_sdk.Anthropic]:
    with anthropic_sdk.Anthropic(base_url=model.url, api_key="x", max_retries=0) as one:
        yield one


ASKED: Any = {"role": "user", "content": "What is 1 + 2, and the weather in Rome?"}


# -- OpenAI, Responses -------------------------------------------------------------------------------------------------


def test_responses_in_three_lines(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(
        response(
            reasoning(),
            function_call(1, "Math__Add", '{"a": 1, "b": 2}'),
            function_call(2, "Weather__Today", '{"city": "Rome"}'),
        ),
        response(output_text("3, and 7 degrees")),
    )
    messages: list[Any] = [ASKED]

    tools: Any = openai.tools(where)
    answer = gpt.responses.create(model="gpt-5", input=messages, tools=tools)
    messages += openai.run(where, answer)
    final = gpt.responses.create(model="gpt-5", input=messages, tools=tools)

    assert final.output_text == "3, and 7 degrees"
    assert [one.get("type") for one in model.asked[1]["input"][1:]] == [
        "reasoning",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
    ]
    assert orjson.loads(messages[-2]["output"]) == {"sum": 3}
    assert orjson.loads(messages[-1]["output"]) == {"result": "Rome: 7 C for 1"}
    assert {one["name"] for one in model.asked[0]["tools"]} >= {"Math__Add", "Weather__Today"}
    assert openai.has_calls(answer)
    assert not openai.has_calls(final)
    assert openai.run(where, final) == [one.model_dump(exclude_none=True) for one in final.output]


def test_an_error_is_given_back_for_the_model_to_mend(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(
        response(
            function_call(1, "Math__Add", '{"a": "one", "b": 2}'),
            function_call(2, "Math__Ad", "{}"),
            function_call(3, "Fail__Tool", ""),
            function_call(4, "Math__Add", '{"a": 1, "b"'),
        ),
        response(function_call(5, "Math__Add", '{"a": 1, "b": 2}')),
        response(output_text("3")),
    )
    messages: list[Any] = [ASKED]

    final = openai.loop(gpt, where, messages, model="gpt-5")

    outputs = [orjson.loads(one["output"]) for one in messages if one.get("type") == "function_call_output"]
    errors = [one.get("error") for one in outputs]
    assert [one and one["code"] for one in errors] == [
        "invalid_input",
        "unknown_tool",
        "NO_ORDER",
        "invalid_input",
        None,
    ]
    assert errors[0]["errors"][0]["path"] == "/a"
    assert final.output_text == "3"


def test_nulls_of_strict_mode_are_no_arguments(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(
        response(function_call(1, "Weather__Today", '{"city": "Rome", "unit": null, "days": null}')),
        response(output_text("7")),
    )
    messages: list[Any] = [ASKED]

    openai.loop(gpt, where, messages, model="gpt-5", tools=openai.tools(where, strict=True))

    (weather,) = [one for one in model.asked[0]["tools"] if one["name"] == "Weather__Today"]
    assert weather["strict"]
    assert weather["parameters"]["required"] == ["city", "unit", "days"]
    assert orjson.loads(messages[2]["output"]) == {"result": "Rome: 7 C for 1"}


def test_a_refusal_is_what_the_model_said(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(response(refusal_item("I cannot help with that")))
    messages: list[Any] = [ASKED]

    openai.loop(gpt, where, messages, model="gpt-5")

    assert messages[-1]["content"] == [{"type": "refusal", "refusal": "I cannot help with that"}]


def test_a_call_that_was_cut_off_is_not_run(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    cut = function_call(1, "Math__Add", '{"a": 1, "b": 2', status="incomplete")
    model.will_say(response(cut, status="incomplete"), response(output_text("sorry")))
    messages: list[Any] = [ASKED]

    openai.loop(gpt, where, messages, model="gpt-5")

    assert "cut off" in orjson.loads(messages[2]["output"])["error"]["message"]


def test_the_final_response_of_a_stream_is_run(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    call = function_call(1, "Math__Add", '{"a": 1, "b": 2}')
    whole = response(call)
    begun = {**call, "arguments": "", "status": "in_progress"}
    model.will_say(
        [
            {
                "type": "response.created",
                "sequence_number": 0,
                "response": {**whole, "output": [], "status": "in_progress"},
            },
            {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": begun},
            {
                "type": "response.function_call_arguments.delta",
                "sequence_number": 2,
                "item_id": call["id"],
                "output_index": 0,
                "delta": call["arguments"],
            },
            {
                "type": "response.function_call_arguments.done",
                "sequence_number": 3,
                "item_id": call["id"],
                "name": call["name"],
                "output_index": 0,
                "arguments": call["arguments"],
            },
            {"type": "response.output_item.done", "sequence_number": 4, "output_index": 0, "item": call},
            {"type": "response.completed", "sequence_number": 5, "response": whole},
        ],
        response(output_text("3")),
    )
    messages: list[Any] = [ASKED]

    strict: Any = [one for one in openai.tools(where, strict=True) if one["strict"]]
    with gpt.responses.stream(model="gpt-5", input=messages, tools=strict) as stream:
        stream.until_done()
        answer = stream.get_final_response()
    messages += openai.run(where, answer)
    gpt.responses.create(model="gpt-5", input=messages)

    assert orjson.loads(messages[-1]["output"]) == {"sum": 3}


# -- OpenAI, Chat ------------------------------------------------------------------------------------------------------


def test_chat_in_three_lines(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    calls = [tool_call(1, "Math__Add", '{"a": 1, "b": 2}'), tool_call(2, "Fail__Tool", "{}")]
    model.will_say(completion({"tool_calls": calls}, "tool_calls"), completion({"content": "3"}))
    messages: list[Any] = [ASKED]

    tools: Any = openai.tools(where, api="chat")
    answer = gpt.chat.completions.create(model="gpt-5", messages=messages, tools=tools)
    messages += openai.run(where, answer)
    final = gpt.chat.completions.create(model="gpt-5", messages=messages, tools=tools)

    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool"]
    assert orjson.loads(messages[2]["content"]) == {"sum": 3}
    assert orjson.loads(messages[3]["content"])["error"]["code"] == "NO_ORDER"
    assert openai.run(where, final) == [{"role": "assistant", "content": "3"}]
    assert model.asked[0]["tools"][0]["function"]["name"]


def test_the_final_completion_of_a_stream_is_run(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "choices": [choice]}

    first = {"index": 0, **tool_call(1, "Math__Add", "")}
    model.will_say(
        [
            chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1,'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "b": 2}'}}]}),
            chunk({}, "tool_calls"),
            "[DONE]",
        ],
        completion({"content": "3"}),
    )
    messages: list[Any] = [ASKED]

    strict: Any = [one for one in openai.tools(where, api="chat", strict=True) if one["function"]["strict"]]
    with gpt.chat.completions.stream(model="gpt-5", messages=messages, tools=strict) as stream:
        stream.until_done()
        answer = stream.get_final_completion()
    messages += openai.run(where, answer)
    gpt.chat.completions.create(model="gpt-5", messages=messages)

    assert orjson.loads(messages[-1]["content"]) == {"sum": 3}


def test_a_refusal_in_chat_ends_the_loop(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(completion({"refusal": "I cannot"}))
    messages: list[Any] = [ASKED]

    openai.loop(gpt, where, messages, api="chat", model="gpt-5")

    assert messages[-1] == {"role": "assistant", "content": None, "refusal": "I cannot"}


# -- Anthropic ---------------------------------------------------------------------------------------------------------


def test_messages_in_three_lines(model: Provider, claude: anthropic_sdk.Anthropic, where: Any) -> None:
    model.will_say(
        message(
            text("I shall look."),
            tool_use(1, "Math__Add", {"a": 1, "b": 2}),
            tool_use(2, "Echo__Value", {"value": {"kept": None}}),
            tool_use(3, "Math__Add", {"a": "one", "b": 2}),
            stop_reason="tool_use",
        ),
        message(text("3")),
    )
    messages: list[Any] = [ASKED]

    tools: Any = anthropic.tools(where)
    answer = claude.messages.create(model="claude", max_tokens=99, messages=messages, tools=tools)
    messages += anthropic.run(where, answer)
    final = claude.messages.create(model="claude", max_tokens=99, messages=messages, tools=tools)

    assert [one["role"] for one in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"][2]["input"] == {"value": {"kept": None}}
    results = messages[2]["content"]
    assert [one.get("is_error", False) for one in results] == [False, False, True]
    assert orjson.loads(results[0]["content"]) == {"sum": 3}
    assert orjson.loads(results[1]["content"]) == {"kept": None}
    assert anthropic.run(where, final) == [{"role": "assistant", "content": [{"type": "text", "text": "3"}]}]


def test_a_refused_message_ends_the_loop(model: Provider, claude: anthropic_sdk.Anthropic, where: Any) -> None:
    model.will_say(message(stop_reason="refusal"))
    messages: list[Any] = [ASKED]

    final = anthropic.loop(claude, where, messages, model="claude", max_tokens=99)

    assert final.stop_reason == "refusal"
    assert messages == [ASKED]


def test_the_final_message_of_a_stream_is_run(model: Provider, claude: anthropic_sdk.Anthropic, where: Any) -> None:
    use = tool_use(1, "Math__Add", {})
    model.will_say(
        [
            {"type": "message_start", "message": {**message(), "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": use},
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": '{"a": 1, "b'},
            },
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '": 2}'}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use", "stop_sequence": None},
                "usage": {"output_tokens": 9},
            },
            {"type": "message_stop"},
        ],
        message(text("3")),
    )
    messages: list[Any] = [ASKED]

    with claude.messages.stream(model="claude", max_tokens=99, messages=messages) as stream:
        answer = stream.get_final_message()
    messages += anthropic.run(where, answer)
    claude.messages.create(model="claude", max_tokens=99, messages=messages)

    assert orjson.loads(messages[-1]["content"][0]["content"]) == {"sum": 3}


# -- both --------------------------------------------------------------------------------------------------------------


async def test_loops_that_await(model: Provider, served: Served, executor: ToolExecutor) -> None:
    async with (
        openai_sdk.AsyncOpenAI(base_url=model.url, api_key="x", max_retries=0) as gpt,
        anthropic_sdk.AsyncAnthropic(base_url=model.url, api_key="x", max_retries=0) as claude,
        AsyncClient(served.url) as client,
    ):
        for where in (client, executor):
            model.will_say(
                response(function_call(1, "Math__Add", '{"a": 1, "b": 2}')),
                response(output_text("3")),
                completion({"tool_calls": [tool_call(1, "Math__Add", '{"a": 1, "b": 2}')]}, "tool_calls"),
                completion({"content": "3"}),
                message(tool_use(1, "Math__Add", {"a": 1, "b": 2}), stop_reason="tool_use"),
                message(text("3")),
            )
            spoken: list[list[Any]] = [[ASKED], [ASKED], [ASKED]]
            await openai.loop_async(gpt, where, spoken[0], model="gpt-5")
            await openai.loop_async(gpt, where, spoken[1], api="chat", model="gpt-5")
            await anthropic.loop_async(claude, where, spoken[2], model="claude", max_tokens=99)

            assert orjson.loads(spoken[0][2]["output"]) == {"sum": 3}
            assert orjson.loads(spoken[1][2]["content"]) == {"sum": 3}
            assert orjson.loads(spoken[2][2]["content"][0]["content"]) == {"sum": 3}


def test_a_loop_that_a_model_does_not_end_is_ended(model: Provider, gpt: openai_sdk.OpenAI, where: Any) -> None:
    model.will_say(*[response(function_call(n, "Math__Add", '{"a": 1, "b": 2}')) for n in range(3)])

    with pytest.raises(EngineError, match="after 3 turns"):
        openai.loop(gpt, where, [ASKED], model="gpt-5", max_turns=3)


def test_the_caller_of_an_executor_is_given_that_of_a_gateway_not(served: Served, executor: ToolExecutor) -> None:
    ann = Caller(user_id="ann", session_id="s1")
    asked = response(function_call(1, "Who__Am__I", "{}"))

    said = openai.run(executor, asked, caller=ann)

    assert orjson.loads(said[-1]["output"])["user"] == "ann"
    assert "Who__Am__I" not in {one["name"] for one in openai.tools(executor)}
    assert "Who__Am__I" in {one["name"] for one in openai.tools(executor, caller=ann)}
    with Client(served.url) as client, pytest.raises(ConfigurationError, match="knows callers by their key"):
        openai.run(client, asked, caller=ann)


def test_what_is_no_message_is_told(where: Any) -> None:
    with pytest.raises(InputValidationError, match="run takes a Response"):
        openai.run(where, "hello")


def test_models_find_tools_by_discovery(model: Provider, claude: anthropic_sdk.Anthropic) -> None:
    with gateway(ALL, discovery=True) as found, Client(found.url) as client:
        for where in (client, found.executor):
            model.will_say(
                message(tool_use(1, "search_tools", {"query": "weather"}), stop_reason="tool_use"),
                message(tool_use(2, "describe_tool", {"name": "Weather.Today"}), stop_reason="tool_use"),
                message(
                    tool_use(3, "call_tool", {"name": "Weather.Today", "arguments": {"city": "Rome"}}),
                    stop_reason="tool_use",
                ),
                message(text("7 degrees")),
            )
            messages: list[Any] = [ASKED]

            anthropic.loop(claude, where, messages, model="claude", max_tokens=99)

            assert len(model.asked[-1]["tools"]) == 3
            read = orjson.loads(messages[4]["content"][0]["content"])
            assert read["tool"]["input_schema"]["required"] == ["city"]
            assert orjson.loads(messages[6]["content"][0]["content"]) == {"result": "Rome: 7 C for 1"}
