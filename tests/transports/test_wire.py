"""Calls in and results out, in every format: literal samples of what providers send and take."""

import json
from typing import Any

import pytest

from toolpost.calls import Caller, ToolCall, ToolResult, failed_result
from toolpost.calls.errors import ConfigurationError, InputValidationError, RateLimitError
from toolpost.transports.wire import (
    CALL_ID,
    LOCAL_ID,
    Format,
    decode_calls,
    detect_format,
    encode_name,
    encode_result,
    encode_results,
)

OPENAI_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "MyApp__Calculator",
            "arguments": '{"a": 1}',
            "status": "completed",
        },
        {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "now", "arguments": ""},
    ],
}
CHAT_MESSAGE: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "function_call": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "MyApp__Calculator", "arguments": '{"a": 1}'},
        },
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
    ],
}
CHAT_CHOICE = {"index": 0, "finish_reason": "tool_calls", "message": CHAT_MESSAGE}
CHAT_COMPLETION = {"id": "chatcmpl_1", "object": "chat.completion", "choices": [CHAT_CHOICE]}
ANTHROPIC_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "stop_reason": "tool_use",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_1", "name": "MyApp__Calculator", "input": {"a": 1}},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ],
}
GEMINI_CONTENT: dict[str, Any] = {
    "role": "model",
    "parts": [
        {"text": "Let me look."},
        {"functionCall": {"id": "call_1", "name": "MyApp.Calculator", "args": {"a": 1}}},
        {"functionCall": {"id": "call_2", "name": "now"}, "thoughtSignature": "x"},
    ],
}
GEMINI_SNAKE = {
    "role": "model",
    "parts": [
        {"text": None, "function_call": {"id": "call_1", "name": "MyApp.Calculator", "args": {"a": 1}}},
        {"text": None, "function_call": {"id": "call_2", "name": "now", "args": None}},
    ],
}
GEMINI_RESPONSE: dict[str, Any] = {
    "candidates": [{"content": GEMINI_CONTENT, "finishReason": "STOP"}],
    "modelVersion": "g",
}
MCP_REQUESTS = [
    {
        "jsonrpc": "2.0",
        "id": "call_1",
        "method": "tools/call",
        "params": {"name": "MyApp.Calculator", "arguments": {"a": 1}},
    },
    {"jsonrpc": "2.0", "id": "call_2", "method": "tools/call", "params": {"name": "now"}},
]
OWN_CALLS = [
    {"id": "call_1", "name": "MyApp.Calculator", "arguments": {"a": 1}},
    {"call_id": "call_2", "tool": "now"},
]
TWO_CALLS: dict[str, tuple[Format, Any]] = {
    "openai response": ("openai", OPENAI_RESPONSE),
    "openai output": ("openai", OPENAI_RESPONSE["output"]),
    "chat completion": ("openai-chat", CHAT_COMPLETION),
    "chat choice": ("openai-chat", CHAT_CHOICE),
    "chat message": ("openai-chat", CHAT_MESSAGE),
    "chat tool calls": ("openai-chat", CHAT_MESSAGE["tool_calls"]),
    "anthropic message": ("anthropic", ANTHROPIC_MESSAGE),
    "anthropic content": ("anthropic", ANTHROPIC_MESSAGE["content"]),
    "gemini response": ("gemini", GEMINI_RESPONSE),
    "gemini content": ("gemini", GEMINI_CONTENT),
    "gemini parts": ("gemini", GEMINI_CONTENT["parts"]),
    "gemini snake case": ("gemini", {"candidates": [{"content": GEMINI_SNAKE}]}),
    "mcp requests": ("mcp", MCP_REQUESTS),
    "our own": ("toolpost", OWN_CALLS),
}


class SdkObject:
    """What an SDK's model looks like from outside."""

    def __init__(self, value: dict[str, Any]) -> None:
        self._value = value

    def model_dump(self) -> dict[str, Any]:
        return self._value


class OlderSdkObject:
    def __init__(self, value: dict[str, Any]) -> None:
        self._value = value

    def to_dict(self) -> dict[str, Any]:
        return self._value


def only(payload: Any, format: Format | None = None, **options: Any) -> ToolCall:
    (call,) = decode_calls(payload, format, **options)
    return call


def responses_call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": "call_1", "name": "t", "arguments": arguments, **more}


# Decoding: the same two calls, wherever they lie.


@pytest.mark.parametrize("sample", TWO_CALLS)
@pytest.mark.parametrize("given_as", ["value", "text", "bytes"])
@pytest.mark.parametrize("told", [True, False])
def test_two_calls_are_found_in_order_wherever_a_provider_puts_them(sample: str, given_as: str, told: bool) -> None:
    format, payload = TWO_CALLS[sample]
    if given_as != "value":
        payload = json.dumps(payload) if given_as == "text" else json.dumps(payload).encode()

    first, second = decode_calls(payload, format if told else None)

    assert (first.id, first.name, dict(first.arguments)) == ("call_1", "MyApp.Calculator", {"a": 1})
    assert (second.id, second.name, dict(second.arguments)) == ("call_2", "now", {})
    assert (first.malformed, second.malformed) == (None, None)


@pytest.mark.parametrize("sample", [name for name in TWO_CALLS if name != "anthropic content"])
def test_the_format_is_detected(sample: str) -> None:
    format, payload = TWO_CALLS[sample]

    assert detect_format(payload) == format
    assert detect_format(json.dumps(payload)) == format


def test_content_blocks_are_recognised_by_the_first_call_in_them() -> None:
    assert detect_format(ANTHROPIC_MESSAGE["content"]) == "anthropic"


@pytest.mark.parametrize("kind", [SdkObject, OlderSdkObject])
def test_objects_of_sdks_are_read_wherever_they_stand(kind: Any) -> None:
    whole = kind(ANTHROPIC_MESSAGE)
    parts = [kind(item) for item in OPENAI_RESPONSE["output"]]
    holder = {"object": "response", "output": parts}

    for payload in (whole, parts, holder):
        assert [call.id for call in decode_calls(payload)] == ["call_1", "call_2"]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("openai", {"object": "response", "output": [OPENAI_RESPONSE["output"][1]]}),
        ("openai-chat", {"role": "assistant", "content": "Hello.", "tool_calls": None}),
        ("openai-chat", {"role": "assistant", "content": "Hello."}),
        ("anthropic", {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}]}),
        ("gemini", {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello."}]}}]}),
        ("gemini", {"candidates": []}),
    ],
)
def test_a_message_without_calls_gives_none(format: Format, message: dict[str, Any]) -> None:
    assert decode_calls(message) == []
    assert decode_calls(message, format) == []


def test_of_several_candidates_only_the_first_is_called() -> None:
    other = {"content": {"role": "model", "parts": [{"functionCall": {"name": "x"}}]}}

    calls = decode_calls({"candidates": [*GEMINI_RESPONSE["candidates"], other]})

    assert [call.id for call in calls] == ["call_1", "call_2"]


def test_of_several_choices_only_the_first_is_called() -> None:
    other = {
        "index": 1,
        "message": {"tool_calls": [{"id": "x", "function": {"name": "x", "arguments": "{}"}}]},
    }

    calls = decode_calls({"choices": [CHAT_CHOICE, other]})

    assert [call.id for call in calls] == ["call_1", "call_2"]


def test_a_list_may_mix_formats() -> None:
    payload = [OWN_CALLS[0], responses_call('{"b": 2}'), MCP_REQUESTS[1]]

    assert [call.name for call in decode_calls(payload)] == ["MyApp.Calculator", "t", "now"]


def test_our_own_fields_and_aliases_are_read() -> None:
    call = only(
        {
            "call_id": "c",
            "tool_name": "t",
            "arguments": '{"a": 1}',
            "user_id": "u",
            "session_id": "s",
            "tenant": "x",
            "task_id": "k",
            "version": "2.0.0",
            "idempotency_key": "i",
            "deadline_s": 2.5,
            "timestamp": 17.0,
        }
    )

    assert (call.id, call.name, dict(call.arguments)) == ("c", "t", {"a": 1})
    assert (call.user_id, call.session_id, call.tenant, call.task_id) == ("u", "s", "x", "k")
    assert (call.version, call.idempotency_key, call.deadline_s, call.timestamp) == ("2.0.0", "i", 2.5, 17.0)


def test_of_an_authenticated_caller_the_payload_says_nothing() -> None:
    payload = {"tool": "t", "user_id": "forged", "session_id": "forged", "tenant": "forged"}
    ann = Caller(user_id="ann", scopes=frozenset({"read"}), roles=frozenset({"clerk"}))

    assert only(payload, caller=ann).caller == ann
    assert only(payload, caller=Caller()).caller == Caller()
    with pytest.raises(ConfigurationError, match="not both"):
        only(payload, caller=ann, tenant="x")


def test_what_the_door_knows_of_the_caller_outranks_the_payload() -> None:
    payload = {"tool": "t", "user_id": "forged", "session_id": "forged", "tenant": "forged"}

    call = only(payload, user_id="real", session_id="s", tenant="x")

    assert (call.user_id, call.session_id, call.tenant) == ("real", "s", "x")


@pytest.mark.parametrize("field", ["scopes", "roles"])
def test_a_payload_cannot_give_itself_rights(field: str) -> None:
    call = only({"tool": "t", "arguments": {}, field: ["admin"]})

    assert getattr(call, field) == frozenset()
    assert call.malformed is not None
    assert repr(field) in call.malformed


@pytest.mark.parametrize(
    ("field", "value"),
    [("user_id", 7), ("deadline_s", "3"), ("deadline_s", -1), ("deadline_s", True), ("version", 1.0)],
)
def test_a_field_of_the_wrong_type_makes_that_call_malformed(field: str, value: Any) -> None:
    bad, good = decode_calls([{"tool": "t", field: value}, {"tool": "t"}])

    assert bad.malformed is not None
    assert field in bad.malformed
    assert good.malformed is None


def test_an_mcp_call_carries_its_trace_and_a_number_as_id() -> None:
    params = {"name": "t", "arguments": {"a": 1}, "_meta": {"traceparent": "00-ab-cd-01"}}

    request = only({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
    bare = only(params)

    assert (request.id, request.trace) == ("7", "00-ab-cd-01")
    assert (bare.name, bare.trace) == ("t", "00-ab-cd-01")


@pytest.mark.parametrize(
    ("format", "strict"),
    [("openai", True), ("openai-chat", True), ("anthropic", False), ("gemini", False), ("mcp", False)],
)
def test_only_openai_callers_are_taken_to_have_seen_a_strict_schema(format: Format, strict: bool) -> None:
    payload = next(payload for kind, payload in TWO_CALLS.values() if kind == format)

    assert [call.strict for call in decode_calls(payload)] == [strict, strict]
    assert [call.strict for call in decode_calls(payload, strict=True)] == [True, True]
    assert [call.strict for call in decode_calls(payload, strict=False)] == [False, False]


def test_a_name_that_was_shortened_is_found_among_the_known() -> None:
    name = "Some." + "Very.Long.Name." * 6 + "End"

    call = only(responses_call("{}", name=encode_name(name, "openai")), known=["other", name])

    assert call.name == name


# Arguments that cannot be read cost their own call only.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"a": 1', "line 1, column 8"),
        ("{'a': 1}", "line 1, column 2"),
        ('{"a": 1, "a": 2}', "'a' is given twice at /a"),
        ('{"a": NaN}', "NaN is not JSON at /a"),
        ('{"a": [1e999]}', "a double holds at /a/0"),
        ('{"a": 123456789012345678901234567890}', "beyond 64 bits"),
        ("[1, 2]", "an array"),
        ('"text"', "a string"),
        ("null", "null"),
        ("true", "true"),
        (b'{"a": "\xff"}', "byte 7 is 0xff"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        (12, "a number"),
        ([1], "an array"),
    ],
)
def test_unreadable_arguments_cost_only_their_own_call(arguments: Any, said: str) -> None:
    bad, good = decode_calls([responses_call(arguments), responses_call('{"a": 1}', call_id="call_2")])

    assert bad.id == "call_1"
    assert dict(bad.arguments) == {}
    assert bad.malformed is not None
    assert said in bad.malformed
    assert (dict(good.arguments), good.malformed) == ({"a": 1}, None)


@pytest.mark.parametrize("arguments", ["", "  \n", None, "{}", {}])
def test_no_arguments_at_all_are_an_empty_object(arguments: Any) -> None:
    call = only(responses_call(arguments))

    assert (dict(call.arguments), call.malformed) == ({}, None)


@pytest.mark.parametrize(
    "payload",
    [
        responses_call("", status="incomplete"),
        responses_call('{"path": "/ho', status="incomplete"),
        {
            "finish_reason": "length",
            "message": {"tool_calls": [{"id": "c", "function": {"name": "t", "arguments": ""}}]},
        },
        {
            "role": "assistant",
            "stop_reason": "max_tokens",
            "content": [{"type": "tool_use", "id": "c", "name": "t", "input": {}}],
        },
        {"functionCall": {"name": "t", "args": {"a": 1}, "willContinue": True}},
    ],
)
def test_a_call_cut_off_by_the_token_limit_is_not_run_with_what_there_is(payload: dict[str, Any]) -> None:
    call = only(payload)

    assert dict(call.arguments) == {}
    assert call.malformed is not None
    assert "cut off" in call.malformed


def test_a_call_that_was_complete_before_the_token_limit_is_run() -> None:
    blocks = [
        {"type": "tool_use", "id": "c", "name": "t", "input": {"a": 1}},
        {"type": "text", "text": "and"},
    ]

    call = only({"role": "assistant", "stop_reason": "max_tokens", "content": blocks})

    assert (dict(call.arguments), call.malformed) == ({"a": 1}, None)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "custom_tool_call", "call_id": "c", "name": "t", "input": "free text"},
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "t", "input": "free text"}}]},
    ],
)
def test_a_custom_call_of_free_text_is_answered_not_lost(payload: dict[str, Any]) -> None:
    call = only(payload)

    assert (call.id, call.name) == ("c", "t")
    assert call.malformed is not None
    assert "free text" in call.malformed


@pytest.mark.parametrize("name", [None, 7, ""])
def test_a_call_without_a_name_is_malformed(name: Any) -> None:
    assert only(responses_call("{}", name=name)).malformed == "the call names no tool"


# Payloads that are no calls.


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"foo": 1, "bar": 2}, "the keys 'foo', 'bar'"),
        ({}, "an empty object"),
        (7, "a number"),
        ("null", "null"),
        ('"text"', "a string"),
        ([7], "a number"),
    ],
)
def test_what_is_no_call_is_refused_saying_what_was_seen(payload: Any, said: str) -> None:
    for read in (decode_calls, detect_format):
        with pytest.raises(InputValidationError, match="openai, openai-chat, anthropic, gemini, mcp, toolpost") as e:
            read(payload)
        assert said in e.value.message


def test_a_stranger_in_a_list_is_refused_by_its_index() -> None:
    with pytest.raises(InputValidationError, match="item 1 is no tool call"):
        decode_calls([OWN_CALLS[0], {"foo": 1}])


@pytest.mark.parametrize(
    ("format", "payload"),
    [
        ("openai", CHAT_COMPLETION),
        ("anthropic", OPENAI_RESPONSE),
        ("gemini", MCP_REQUESTS[0]),
        ("mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        ("mcp", {"jsonrpc": "2.0", "id": 1, "result": {}}),
    ],
)
def test_a_payload_of_another_format_is_not_taken_for_empty(format: Format, payload: Any) -> None:
    with pytest.raises(InputValidationError, match=f"format '{format}' was expected"):
        decode_calls(payload, format)


def test_text_that_is_not_json_is_refused_with_its_place() -> None:
    with pytest.raises(InputValidationError, match="line 1, column 3"):
        decode_calls("[{]")


def test_an_object_that_holds_itself_is_refused() -> None:
    payload: dict[str, Any] = {"role": "model", "parts": []}
    payload["parts"].append({"functionCall": payload})

    with pytest.raises(InputValidationError):
        decode_calls(payload)


def test_a_format_nobody_knows_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no format 'opnai'; the formats are openai, openai-chat"):
        decode_calls(OWN_CALLS, "opnai")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no format 'opnai'"):
        encode_result(RESULT, "opnai")  # type: ignore[arg-type]


# Results.

RESULT = ToolResult(call_id="call_1", tool_name="MyApp.Calculator", success=True, data={"result": 3})
TEXT = ToolResult(call_id="call_2", tool_name="read", success=True, data="line 1\nline 2")
PROBLEM = {"path": "/b", "loc": ("b",), "parameter": "b", "type": "missing", "msg": "b is missing"}
FAILURE = failed_result("call_3", "MyApp.Calculator", InputValidationError(problems=[PROBLEM]))
ERROR = {
    "code": "invalid_input",
    "message": "Parameter validation failed: b is missing",
    "errors": [{"path": "/b", "parameter": "b", "type": "missing", "msg": "b is missing"}],
}


def test_a_result_for_openai() -> None:
    assert encode_result(RESULT, "openai") == {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": '{"result":3}',
    }


def test_a_result_for_openai_chat() -> None:
    assert encode_result(TEXT, "openai-chat") == {
        "role": "tool",
        "tool_call_id": "call_2",
        "content": "line 1\nline 2",
    }


def test_results_for_anthropic_stand_first_in_one_user_message() -> None:
    assert encode_results([RESULT, TEXT], "anthropic") == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": '{"result":3}'},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "line 1\nline 2"},
        ],
    }


def test_results_for_gemini_stand_in_one_user_content() -> None:
    assert encode_results([RESULT, TEXT], "gemini") == {
        "role": "user",
        "parts": [
            {
                "functionResponse": {
                    "id": "call_1",
                    "name": "MyApp.Calculator",
                    "response": {"output": {"result": 3}},
                }
            },
            {"functionResponse": {"id": "call_2", "name": "read", "response": {"output": "line 1\nline 2"}}},
        ],
    }


def test_a_result_for_mcp_is_text_and_where_it_is_an_object_structure_too() -> None:
    assert encode_result(RESULT, "mcp") == {
        "content": [{"type": "text", "text": '{"result":3}'}],
        "structuredContent": {"result": 3},
        "isError": False,
        "resultType": "complete",
        "_meta": {CALL_ID: "call_1"},
    }
    assert "structuredContent" not in encode_result(TEXT, "mcp")


def test_our_own_form_is_the_result_as_a_dict() -> None:
    assert encode_results([RESULT], "toolpost") == [RESULT.to_dict()]


@pytest.mark.parametrize("format", ["openai", "openai-chat", "mcp"])
def test_other_formats_take_one_item_a_result_in_order(format: Format) -> None:
    assert encode_results([RESULT, TEXT], format) == [
        encode_result(RESULT, format),
        encode_result(TEXT, format),
    ]


def test_a_failure_tells_every_provider_what_to_mend() -> None:
    openai, chat = encode_result(FAILURE, "openai"), encode_result(FAILURE, "openai-chat")
    anthropic, gemini = encode_result(FAILURE, "anthropic"), encode_result(FAILURE, "gemini")
    mcp = encode_result(FAILURE, "mcp")

    assert json.loads(openai["output"]) == {"error": ERROR}
    assert json.loads(chat["content"]) == {"error": ERROR}
    assert (json.loads(anthropic["content"]), anthropic["is_error"]) == ({"error": ERROR}, True)
    assert gemini["functionResponse"]["response"] == {"error": ERROR}
    assert (json.loads(mcp["content"][0]["text"]), mcp["isError"]) == ({"error": ERROR}, True)
    assert "structuredContent" not in mcp


def test_a_failure_that_may_pass_says_when_to_try_again() -> None:
    failure = failed_result("c", "t", RateLimitError("too many calls", retry_after_s=1.23456))

    error = json.loads(encode_result(failure, "openai")["output"])["error"]

    assert error == {
        "code": "rate_limited",
        "message": "too many calls",
        "retryable": True,
        "retry_after_s": 1.235,
    }


def test_a_result_made_by_hand_without_a_failure_still_reports_its_error() -> None:
    result = ToolResult(call_id="c", tool_name="t", success=False, error="it broke")

    assert json.loads(encode_result(result, "openai-chat")["content"])["error"]["message"] == "it broke"


@pytest.mark.parametrize(("data", "text"), [(None, "null"), (True, "true"), (3, "3"), ([1, "é"], '[1,"é"]'), ("", "")])
def test_text_stays_text_and_everything_else_becomes_json(data: Any, text: str) -> None:
    result = ToolResult(call_id="c", tool_name="t", success=True, data=data)

    assert encode_result(result, "openai")["output"] == text
    assert encode_result(result, "anthropic")["content"] == text
    assert encode_result(result, "mcp")["content"] == [{"type": "text", "text": text}]
    assert encode_result(result, "gemini")["functionResponse"]["response"] == {"output": data}


# Gemini's calls may come without ids and are then answered by order.


def test_gemini_calls_without_ids_get_one_that_their_results_leave_out() -> None:
    payload = {"parts": [{"functionCall": {"name": "a"}}, {"functionCall": {"name": "a", "id": "g"}}]}

    bare, named = decode_calls(payload)
    results = [ToolResult(call_id=call.id, tool_name=call.name, success=True) for call in (bare, named)]
    answer = encode_results(results, "gemini")

    assert bare.id.startswith(LOCAL_ID)
    assert isinstance(answer, dict)
    assert answer["parts"] == [
        {"functionResponse": {"name": "a", "response": {"output": None}}},
        {"functionResponse": {"id": "g", "name": "a", "response": {"output": None}}},
    ]


def test_fresh_ids_differ() -> None:
    calls = decode_calls([{"tool": "a"}, {"tool": "a"}])

    assert calls[0].id != calls[1].id


def test_a_gemini_result_names_the_tool_as_it_was_declared() -> None:
    result = ToolResult(call_id="c", tool_name="7zip", success=True, data=1)

    assert encode_result(result, "gemini")["functionResponse"]["name"] == "_7zip"


def test_a_value_with_a_reference_goes_to_gemini_as_text_for_it_would_refuse_it() -> None:
    data = {"schema": {"$ref": "#/$defs/X"}}
    result = ToolResult(call_id="c", tool_name="t", success=True, data=data)

    output = encode_result(result, "gemini")["functionResponse"]["response"]["output"]

    assert json.loads(output) == data
