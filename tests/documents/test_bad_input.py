"""Bad input: each kind is a typed, clear error at every door, and the executor lives on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from toolpost import (
    BaseTool,
    CallCancelledError,
    ConfigurationError,
    DuplicateToolError,
    FunctionToolSpec,
    InputValidationError,
    JsonSchema,
    OperationError,
    OutputValidationError,
    ParameterValidator,
    RateLimit,
    SchemaError,
    StringParameter,
    Tool,
    ToolCall,
    ToolExecutionError,
    ToolExecutor,
    ToolNotFoundError,
    ToolResult,
    cache_result,
    create_tool_call,
    decode_calls,
    get_tool_registry,
    measure_execution_time,
    run_in_executor,
    sanitize_input,
    validate_input,
)
from toolpost.testing import executor_for

PATIENCE_S = 10.0


class Address(BaseModel):
    """A model within the arguments."""

    city: str


class EchoTool(BaseTool):
    """Gives back what it gets, in a thread and in the loop; or misbehaves."""

    class AddressedSchema(BaseModel):
        address: Address
        copies: int = 1

    def any(self, value: Any = None) -> Any:
        return value

    async def any_async(self, value: Any = None) -> Any:
        return value

    def typed(self, text: str, count: int = 1, share: float = 0.5, flag: bool = False) -> str:
        return text * count

    async def typed_async(self, text: str, count: int = 1, share: float = 0.5, flag: bool = False) -> str:
        return text * count

    def addressed(self, address: Address, copies: int = 1) -> str:
        return address.city

    def raises(self, kind: str) -> None:
        raise RAISED[kind]()

    async def raises_async(self, kind: str) -> None:
        raise RAISED[kind]()

    def generates(self) -> Iterator[int]:
        yield 1

    async def generates_async(self) -> AsyncIterator[int]:
        yield 1

    def forgets_to_await(self) -> Any:
        return self.any_async(1)


RAISED: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}


@pytest.fixture(scope="module")
def tool() -> EchoTool:
    return EchoTool()


@pytest.fixture(scope="module")
def survivor(tool: EchoTool) -> Iterator[ToolExecutor]:
    """One executor that lives through all of this file."""
    with executor_for(tool, max_workers=2) as made:
        yield made


@pytest.fixture
def executor(survivor: ToolExecutor, tool: EchoTool) -> Iterator[ToolExecutor]:
    """The executor, which has to be of as much use after the test as before it."""
    yield survivor

    async def good() -> list[Any]:
        call = create_tool_call("EchoTool.any", {"value": [1]})
        return [
            await survivor.execute_async(tool, "typed_async", text="good"),
            (await survivor.execute_tool_call(call)).data,
        ]

    assert survivor.execute(tool, "typed", text="good") == "good"
    assert asyncio.run(good()) == ["good", [1]]
    assert survivor.health()["status"] == "healthy"


def through_execute(executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any]) -> Any:
    return executor.execute(tool, operation, **arguments)


def through_execute_async(executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any]) -> Any:
    return asyncio.run(executor.execute_async(tool, operation, **arguments))


def through_batch(executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any]) -> Any:
    (value,) = asyncio.run(executor.execute_batch(tool, [{"op": operation, "kwargs": arguments}]))
    return value


def through_tool_call(executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any]) -> Any:
    call = create_tool_call(f"EchoTool.{operation}", arguments)
    return raised_again(asyncio.run(executor.execute_tool_call(call)))


def through_execute_sync(executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any]) -> Any:
    return raised_again(executor.execute_sync(create_tool_call(f"EchoTool.{operation}", arguments)))


KINDS: dict[str, type[ToolExecutionError]] = {
    "cancelled": CallCancelledError,
    "invalid_input": InputValidationError,
    "unknown_tool": ToolNotFoundError,
    "tool_failed": OperationError,
    "invalid_output": OutputValidationError,
}


def raised_again(result: ToolResult) -> Any:
    """A result's value, or its failure raised as the error it stands for."""
    if result.success:
        return result.data
    assert result.failure is not None
    assert result.error == result.failure.message
    assert result.to_dict()["status_code"] == result.failure.status
    raise KINDS[result.failure.code](result.error)


Door = Callable[[ToolExecutor, EchoTool, str, dict[str, Any]], Any]
DOORS = (through_execute, through_execute_async, through_batch, through_tool_call, through_execute_sync)
at_every_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__.removeprefix("through_"))


# names


@at_every_door
def test_an_unknown_operation_is_named_with_the_nearest(executor: ToolExecutor, tool: EchoTool, door: Door) -> None:
    with pytest.raises(ToolNotFoundError, match=r"did you mean '(EchoTool\.)?typed'"):
        door(executor, tool, "tpyed", {"text": "x"})


async def test_an_unknown_tool_is_a_404_that_names_the_nearest(executor: ToolExecutor) -> None:
    result = await executor.execute_tool_call(create_tool_call("EchoTol.typed", {}))

    assert result.status_code == 404
    assert result.metadata["error_type"] == "ToolNotFoundError"
    assert result.error == "Tool 'EchoTol.typed' not found in registry; did you mean 'EchoTool.typed'?"


@pytest.mark.parametrize("name", [None, 5, ["EchoTool.any"], {}, "", "x" * 100_000, "EchoTool.any@9.9.9", "\x00"])
async def test_a_name_that_is_none_is_a_404(executor: ToolExecutor, name: Any) -> None:
    result = await executor.execute_tool_call(ToolCall(id="1", name=name, arguments={}))

    assert (result.success, result.status_code) == (False, 404)
    assert len(result.error or "") < 1000


@pytest.mark.parametrize("operation", [None, 5, ["any"], "__init__", "_executor", "run", "operations", ""])
def test_what_is_no_operation_is_not_found(executor: ToolExecutor, tool: EchoTool, operation: Any) -> None:
    with pytest.raises(ToolNotFoundError):
        executor.execute(tool, operation)


@pytest.mark.parametrize("other", [None, 5, "EchoTool", EchoTool, ToolCall(id="1", name="EchoTool.any", arguments={})])
def test_what_is_no_tool_object_is_refused_with_the_way_out(executor: ToolExecutor, other: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tool object|make an object of it"):
        executor.execute(other, "any")


@pytest.mark.parametrize("call", [None, "EchoTool.any", {"name": "EchoTool.any", "arguments": {}}])
async def test_what_is_no_tool_call_is_refused_with_the_way_out(executor: ToolExecutor, call: Any) -> None:
    with pytest.raises(ConfigurationError, match="ToolCall"):
        await executor.execute_tool_call(call)


# arguments


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def recursive_list() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def recursive_object() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # operation, arguments, the problem's type, what the message says
    ("typed", {}, "missing", "'text' is required"),
    ("typed", {"text": "x", "colour": "red"}, "unknown", "colour"),
    ("typed", {"text": "x", "cuont": 2}, "unknown", "did you mean 'count'"),
    ("typed", {"text": 5}, "type", "'text' must be a string"),
    ("typed", {"text": None}, "type", "'text' must be a string"),
    ("typed", {"text": "x", "count": "2"}, "type", "'count' must be an integer"),
    ("typed", {"text": "x", "count": True}, "type", "'count' must be an integer"),
    ("typed", {"text": "x", "count": 1.5}, "type", "'count' must be an integer"),
    ("typed", {"text": "x", "share": True}, "type", "'share' must be a number"),
    ("typed", {"text": "x", "share": float("nan")}, "not_finite", "'share' must be a finite number"),
    ("typed", {"text": "x", "share": float("inf")}, "not_finite", "'share' must be a finite number"),
    ("typed", {"text": "x", "flag": "yes"}, "type", "'flag' must be a boolean"),
    ("typed", {"text": "x", "flag": 1}, "type", "'flag' must be a boolean"),
    ("typed", {"text": b"\xff\xfe"}, "type", "'text' must be a string"),
    ("typed", {"text": "\ud800"}, "not_unicode", "'text' must be valid Unicode"),
    ("typed", {"text": "x" * 10_000_000}, "too_large", "larger than 1048576 bytes"),
    ("any", {"value": "x" * 10_000_000}, "too_large", "larger than 1048576 bytes"),
    ("any", {"value": {"deep": ["é" * 600_000]}}, "too_large", "larger than 1048576 bytes"),
    ("any", {"value": [0] * 100_001}, "too_large", "more than 100000 members"),
    ("any", {"value": nested(65)}, "too_deep", "more than 64 levels"),
    ("any", {"value": nested(100_000)}, "too_deep", "more than 64 levels"),
    ("any", {"value": recursive_list()}, "recursive", "contains itself"),
    ("any", {"value": recursive_object()}, "recursive", "contains itself"),
    ("addressed", {"address": {}}, "missing", "city"),
    ("addressed", {"address": "Bonn"}, "type", "'address' must be an object"),
    ("addressed", {"address": recursive_object()}, "recursive", "contains itself"),
]
REFUSED_IDS = [f"{n}-{kind}" for n, (_, _, kind, _) in enumerate(REFUSED)]


@at_every_door
@pytest.mark.parametrize(("operation", "arguments", "kind", "said"), REFUSED, ids=REFUSED_IDS)
def test_arguments_that_do_not_fit_are_refused(
    executor: ToolExecutor,
    tool: EchoTool,
    door: Door,
    operation: str,
    arguments: dict[str, Any],
    kind: str,
    said: str,
) -> None:
    with pytest.raises(InputValidationError) as refusal:
        door(executor, tool, operation, arguments)

    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(("operation", "arguments", "kind", "said"), REFUSED, ids=REFUSED_IDS)
def test_a_refusal_lists_its_problems(
    executor: ToolExecutor, tool: EchoTool, operation: str, arguments: dict[str, Any], kind: str, said: str
) -> None:
    with pytest.raises(InputValidationError) as refusal:
        executor.execute(tool, operation, **arguments)

    (problem,) = refusal.value.errors()
    assert {"path", "loc", "parameter", "type", "msg", "expected", "got"} <= set(problem)
    assert (problem["type"], problem["path"][0]) == (kind, "/")
    assert said in problem["msg"]


@pytest.mark.parametrize("arguments", [None, [], "text", 5, b"{}", {1: 2}, {None: 1}])
async def test_arguments_that_are_no_object_are_refused(executor: ToolExecutor, arguments: Any) -> None:
    result = await executor.execute_tool_call(create_tool_call("EchoTool.any", arguments))

    assert (result.success, result.status_code) == (False, 400)
    assert result.metadata["error_type"] == "ToolValidationError"


@pytest.mark.parametrize("operations", [None, 5, ["any"], [None], {"op": "any"}, [{"kwargs": {}}]])
async def test_operations_of_a_batch_that_are_none_are_refused(
    executor: ToolExecutor, tool: EchoTool, operations: Any
) -> None:
    with pytest.raises(InputValidationError, match="op"):
        await executor.execute_batch(tool, operations)


@pytest.mark.parametrize(
    "item", [{"op": "any", "kwargs": [1]}, {"op": "any", "kwargs": "x"}, {"op": "any", "args": {}}]
)
async def test_kwargs_of_a_batch_that_are_none_are_refused(executor: ToolExecutor, tool: EchoTool, item: Any) -> None:
    with pytest.raises(InputValidationError, match="kwargs"):
        await executor.execute_batch(tool, [item])


TEXTS: list[tuple[str | bytes, str]] = [
    ('{"text": "a", "text": "b"}', "given twice"),
    ('{"share": NaN, "text": "x"}', "NaN"),
    ('{"share": -Infinity, "text": "x"}', "Infinity"),
    ('{"share": 1e999, "text": "x"}', "double"),
    ('{"text": "half \\ud800"}', "surrogate"),
    (b'{"text": "caf\xe9"}', "not UTF-8"),
    ('{"text": "x"', "invalid JSON"),
    ("text=x", "invalid JSON"),
    ("[1]", "no JSON object"),
    ('"text"', "no JSON object"),
    ("[" * 100_000, "too deeply"),
    ('{"text": ' + "9" * 5000 + "}", "64 bits"),
]


@pytest.mark.parametrize(("text", "said"), TEXTS, ids=[said for _, said in TEXTS])
async def test_arguments_that_cannot_be_read_fail_their_call_and_no_other(
    executor: ToolExecutor, text: str | bytes, said: str
) -> None:
    def model_said(arguments: Any, call_id: str) -> dict[str, Any]:
        function = {"name": "EchoTool.typed", "arguments": arguments}
        return {"id": call_id, "type": "function", "function": function}

    calls = decode_calls([model_said('{"text": "one"}', "1"), model_said(text, "2"), model_said('{"text": "3"}', "3")])

    results = await executor.execute_tool_calls(calls)

    assert [(r.call_id, r.success) for r in results] == [("1", True), ("2", False), ("3", True)]
    assert results[1].status_code == 400
    assert said in (results[1].error or "")


@pytest.mark.parametrize("payload", [b'{"name": "\xff"}', '{"a": 1, "a": 2}', "[NaN]", "not json", "5", "[" * 300])
def test_a_payload_that_is_no_call_is_refused_as_a_whole(payload: str | bytes) -> None:
    with pytest.raises(InputValidationError):
        decode_calls(payload)


# what a body does


@at_every_door
@pytest.mark.parametrize("operation", ["raises", "raises_async"])
@pytest.mark.parametrize("kind", RAISED)
def test_whatever_a_body_raises_fails_its_call(
    executor: ToolExecutor, tool: EchoTool, door: Door, operation: str, kind: str
) -> None:
    cancelled = kind == "CancelledError" and operation == "raises_async"
    expected = CallCancelledError if cancelled else OperationError
    said = "the call was cancelled" if cancelled else f"Error executing {operation}: .*{kind}"

    with pytest.raises(expected, match=said):
        door(executor, tool, operation, {"kind": kind})


@at_every_door
@pytest.mark.parametrize("operation", ["generates", "generates_async", "forgets_to_await"])
def test_what_still_has_to_run_is_no_result(executor: ToolExecutor, tool: EchoTool, door: Door, operation: str) -> None:
    with pytest.raises(OutputValidationError, match=r"generator|coroutine"):
        door(executor, tool, operation, {})


def test_a_generator_is_told_what_to_return_instead(executor: ToolExecutor, tool: EchoTool) -> None:
    with pytest.raises(OutputValidationError, match="return a list"):
        executor.execute(tool, "generates")
    with pytest.raises(OutputValidationError, match="collect it into a list"):
        executor.execute(tool, "generates_async")
    with pytest.raises(OutputValidationError, match="async def, or await it"):
        executor.execute(tool, "forgets_to_await")


# declarations


def body(a: int, b: int = 0) -> int:
    return a + b


async def async_body(a: int) -> int:
    return a


class Model(BaseModel):
    """A schema that fits body."""

    a: int


WRONG_USES: dict[str, Callable[[], Any]] = {
    "validate_input without brackets": lambda: validate_input(body),  # type: ignore[arg-type]
    "validate_input of a dict": lambda: validate_input({"a": int}),  # type: ignore[arg-type]
    "validate_input of an object": lambda: validate_input(Model(a=1)),  # type: ignore[arg-type]
    "validate_input on a class": lambda: validate_input(Model)(EchoTool),
    "cache_result of a text": lambda: cache_result(ttl="60"),  # type: ignore[arg-type]
    "cache_result of True": lambda: cache_result(ttl=True),
    "cache_result of 0": lambda: cache_result(ttl=0),
    "cache_result of NaN": lambda: cache_result(ttl=float("nan")),
    "cache_result per planet": lambda: cache_result(ttl=60, per="planet"),
    "cache_result on a property": lambda: cache_result(ttl=60)(property(body)),  # type: ignore[type-var]
    "run_in_executor on async def": lambda: run_in_executor(async_body),
    "run_in_executor on a class": lambda: run_in_executor(EchoTool),
    "run_in_executor on a staticmethod": lambda: run_in_executor(staticmethod(body)),
    "measure_execution_time on a property": lambda: measure_execution_time(property(body)),  # type: ignore[call-overload]
    "measure_execution_time on a number": lambda: measure_execution_time(5),  # type: ignore[call-overload]
    "sanitize_input on a classmethod": lambda: sanitize_input(classmethod(body)),  # type: ignore[call-overload, arg-type]
    "sanitize_input on a text": lambda: sanitize_input("query"),  # type: ignore[call-overload]
    "Tool without brackets": lambda: Tool(body),  # type: ignore[arg-type]
    "Tool on a class": lambda: Tool(register=False)(EchoTool),
    "Tool on a builtin": lambda: Tool(register=False)(len),
    "Tool on a number": lambda: Tool(register=False)(5),  # type: ignore[type-var]
    "Tool with an unknown option": lambda: Tool(timeout=5),
    "Tool with a timeout of text": lambda: Tool(timeout_seconds="5"),  # type: ignore[arg-type]
    "Tool with a negative timeout": lambda: Tool(timeout_seconds=-1),
    "Tool with a doubtful auth": lambda: Tool(requires_auth="yes"),  # type: ignore[arg-type]
    "Tool that runs nowhere": lambda: Tool(runs_in="cloud"),  # type: ignore[arg-type]
    "Tool with a bad name": lambda: Tool(name="a b", register=False)(body),
    "Tool with a numeric version": lambda: Tool(version=1, register=False)(body),  # type: ignore[arg-type]
    "Tool whose schema has too much": lambda: Tool(parameters={"c": {"type": "string"}}, register=False)(body),
    "Tool whose schema has too little": lambda: Tool(parameters={"b": {"type": "integer"}}, register=False)(body),
    "Tool on *args": lambda: Tool(register=False)(lambda *args: None),
    "a rate limit of no calls": lambda: RateLimit(calls=0),
    "a rate limit of text": lambda: RateLimit(calls="many"),  # type: ignore[arg-type]
    "a spec without a name": lambda: FunctionToolSpec(id="a", description="", parameters=[]),  # type: ignore[call-arg]
    "a function of two parameters for a spec": lambda: spec().define(lambda a, b: a + b),
}


def spec() -> FunctionToolSpec:
    return FunctionToolSpec(
        id="s", tool_name="s", description="", parameters=[StringParameter(name="a", description="")]
    )


@pytest.mark.parametrize("use", WRONG_USES)
def test_a_declaration_used_wrongly_is_refused_where_it_stands(executor: ToolExecutor, use: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        WRONG_USES[use]()

    assert isinstance(refusal.value, ValueError)
    assert len(str(refusal.value)) > 20


@pytest.mark.parametrize("decorate", [measure_execution_time, sanitize_input, run_in_executor])
def test_brackets_make_no_difference_where_there_is_nothing_to_put_in_them(
    executor: ToolExecutor, decorate: Callable[..., Any]
) -> None:
    for mark in (decorate, decorate()):
        method = mark(lambda self, n: n + 1)
        held = type("Held", (BaseTool,), {"method": method})()

        assert executor.execute(held, "method", n=1) == 2


def test_a_missing_pair_of_brackets_is_found_even_on_a_function_that_looks_like_a_ttl(executor: ToolExecutor) -> None:
    class Unbracketed(BaseTool):
        @cache_result  # type: ignore[arg-type]
        def square(self, n: int) -> int:  # type: ignore[misc]
            return n * n

    @cache_result  # type: ignore[arg-type]
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(ConfigurationError, match="@cache_result needs its brackets"):
        cache_result(lambda self, a, b: None)  # type: ignore[arg-type, misc]
    with pytest.raises(ConfigurationError, match=r"Unbracketed\.square: @cache_result needs its brackets"):
        executor.execute(Unbracketed(), "square", n=2)
    with pytest.raises(ConfigurationError, match="@cache_result needs its brackets"):
        add(1, 2)  # type: ignore[call-arg, type-var]


def test_a_schema_class_that_fits_no_operation_is_refused(executor: ToolExecutor) -> None:
    class Misfit(BaseTool):
        class WriteSchema(BaseModel):
            text: str

        def read(self, text: str) -> str:
            return text

    with pytest.raises(ConfigurationError, match="fits no operation"):
        Misfit()


def test_two_tools_of_one_name_clash_unless_one_replaces_the_other(executor: ToolExecutor, tool: EchoTool) -> None:
    first = Tool(name="Twice", register=False)(lambda: "first")
    second = Tool(name="Twice", register=False)(lambda: "second")
    executor.add(first)

    with pytest.raises(DuplicateToolError, match=r"'Twice' of version 1\.0\.0 is registered already"):
        executor.add(second)
    assert executor.call_sync("Twice") == "first"
    with pytest.raises(DuplicateToolError):
        executor.add(EchoTool())

    executor.add(second, replace=True)
    assert executor.call_sync("Twice") == "second"


def test_the_process_registry_refuses_a_second_tool_of_a_name_too() -> None:
    registry = get_tool_registry()
    Tool(name="Documents.Twice")(lambda: "first")
    try:
        with pytest.raises(DuplicateToolError):
            Tool(name="Documents.Twice")(lambda: "second")
        Tool(name="Documents.Twice", replace=True)(lambda: "second")
    finally:
        registry.unregister_tool("Documents.Twice")


NO_SCHEMAS: list[Any] = [
    5,
    "string",
    [],
    {"a": 5},
    {"a": "str"},
    {"a": {"type": "strng"}},
    {"a": {"type": ["string", 5]}},
    {"a": {"type": "string", "minLength": "x"}},
    {"a": {"type": "string", "pattern": "("}},
    {"a": {"enum": "red"}},
    {"a": {"$ref": "#/nowhere"}},
    {"a": {"$ref": "https://example.com/schema.json"}},
    {"type": "object", "properties": 5},
    {"type": "object", "properties": {"a": {}}, "required": "a"},
    {"type": "array"},
]


@pytest.mark.parametrize("parameters", NO_SCHEMAS, ids=repr)
def test_a_schema_that_is_none_is_refused_at_declaration(parameters: Any) -> None:
    with pytest.raises(SchemaError) as refusal:
        Tool(name="Broken", parameters=parameters, register=False)(lambda a=None: a)

    assert len(str(refusal.value)) > 20


@pytest.mark.parametrize("parameters", NO_SCHEMAS, ids=repr)
def test_a_schema_that_is_none_is_refused_by_the_validator(parameters: Any) -> None:
    with pytest.raises(SchemaError):
        ParameterValidator.validate({}, parameters)


@pytest.mark.parametrize(
    "schema", [5, "x", None, {"type": "strng"}, {"$ref": "#/nowhere"}, recursive_object()], ids=str
)
def test_a_schema_that_is_none_is_refused_by_itself(schema: Any) -> None:
    with pytest.raises(SchemaError):
        JsonSchema(schema)


@pytest.mark.parametrize("thing", [None, 5, body, object(), "no.such.module:tool", "toolpost:nothing", "nonsense"])
def test_what_is_no_tool_cannot_be_added(executor: ToolExecutor, thing: Any) -> None:
    with pytest.raises(ToolExecutionError):
        executor.add(thing)
