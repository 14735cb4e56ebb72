"""The specs' document, block by block: a spec, its executor, the services handed in, and what is written out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from toolpost import (
    ArrayParameter,
    BaseToolExecutor,
    BooleanParameter,
    ConfigurationError,
    CostCalculator,
    DbToolSpec,
    DynamoDbToolSpec,
    ExecutorFactory,
    FunctionToolExecutor,
    FunctionToolSpec,
    GenericUsageCalculator,
    HttpToolExecutor,
    HttpToolSpec,
    IdempotencyConfig,
    InputValidationError,
    IntegerParameter,
    NoOpExecutor,
    NumericParameter,
    ObjectParameter,
    RetryConfig,
    SqliteToolSpec,
    StringParameter,
    TokenUsageCalculator,
    ToolContext,
    ToolContextBuilder,
    ToolError,
    ToolExecutor,
    ToolParameter,
    ToolResult,
    ToolReturnTarget,
    ToolReturnType,
    ToolSerializationError,
    ToolSpec,
    ToolType,
    register_db_driver,
    register_service,
    tool_from_dict,
    tool_from_json,
    tool_to_dict,
    tool_to_json,
)
from toolpost.authoring import serialize
from toolpost.telemetry.usage import Price
from toolpost.testing import FakeClock, executor_for

# services, as a caller hands them in


class Memory:
    """Values with a lifetime, in a dict."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    async def set(self, key: str, val: Any, ttl_s: float | None = None) -> None:
        self.values[key] = val

    async def set_if_absent(self, key: str, val: Any, ttl_s: float | None = None) -> bool:
        return self.values.setdefault(key, val) is val

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    @asynccontextmanager
    async def lock(self, key: str, ttl_s: float = 10) -> AsyncIterator[None]:
        yield


class Metrics:
    """Every number it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float, dict[str, str]]] = []

    async def incr(self, name: str, value: float = 1, tags: Mapping[str, str] | None = None) -> None:
        self.told.append(("incr", name, value, dict(tags or {})))

    async def observe(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        self.told.append(("observe", name, value, dict(tags or {})))

    async def timing_ms(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        self.told.append(("timing_ms", name, value, dict(tags or {})))


class Tracer:
    """The spans it opened, and which are still open."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, dict[str, Any]]] = []
        self.open = 0

    @asynccontextmanager
    async def span(self, name: str, attrs: Mapping[str, Any] | None = None) -> AsyncIterator[None]:
        self.spans.append((name, dict(attrs or {})))
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class Limiter:
    """Grants so many calls a key."""

    def __init__(self, calls: int) -> None:
        self.left: dict[str, int] = {}
        self.calls = calls

    async def acquire(self, key: str, limit: Any = None) -> bool:
        self.left[key] = self.left.get(key, self.calls) - 1
        return self.left[key] >= 0


class Validator:
    """A rule beyond the schema: amounts are below a thousand."""

    async def validate(self, args: Mapping[str, Any], spec: ToolSpec) -> None:
        if args.get("amount", 0) >= 1000:
            raise ValueError(f"{spec.tool_name} takes amounts below 1000")


class Security:
    """Lets only clerks in, and nothing out to Mars."""

    async def authorize(self, ctx: ToolContext, spec: ToolSpec) -> bool:
        return ctx.auth.get("user_role") == "clerk"

    async def check_egress(self, args: Mapping[str, Any], spec: ToolSpec) -> None:
        if args.get("currency") == "MARS":
            raise PermissionError("not beyond this planet")


class Orders:
    """The service that the tool is about."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []

    async def create(self, order_id: str, customer_id: str, amount: float) -> dict[str, str]:
        await asyncio.sleep(0)
        self.created.append({"order_id": order_id, "customer_id": customer_id, "amount": amount})
        return {"confirmation_code": f"C-{len(self.created)}"}


def order_spec(**changes: Any) -> FunctionToolSpec:
    values: dict[str, Any] = {
        "id": "order-creation-v1",
        "tool_name": "create_order",
        "description": "Create a customer's order",
        "tool_type": ToolType.FUNCTION,
        "parameters": [
            StringParameter(name="order_id", required=True),
            StringParameter(name="customer_id", required=True),
            NumericParameter(name="amount", required=True),
            StringParameter(name="currency", required=True),
        ],
        "timeout_s": 30,
    }
    return FunctionToolSpec(**{**values, **changes})


ORDER = {"order_id": "order-12345", "customer_id": "customer-789", "amount": 199.99, "currency": "USD"}


class Desk:
    """An executor of the order tool with all services, and what each of them saw."""

    def __init__(self, *, calls: int = 100) -> None:
        self.orders, self.metrics, self.tracer = Orders(), Metrics(), Tracer()
        self.executor = FunctionToolExecutor(order_spec(), self.create_order)
        self.ctx = ToolContext(
            user_id="user123",
            auth={"user_role": "clerk"},
            memory=Memory(),
            metrics=self.metrics,
            tracer=self.tracer,
            limiter=Limiter(calls),
            validator=Validator(),
            security=Security(),
        )

    async def create_order(self, args: dict[str, Any]) -> dict[str, Any]:
        assert self.tracer.open == 1
        made = await self.orders.create(args["order_id"], args["customer_id"], args["amount"])
        return {"order_id": args["order_id"], "status": "created", "confirmation": made["confirmation_code"]}

    async def order(self, **changes: Any) -> ToolResult:
        return await self.executor.execute({**ORDER, **changes}, self.ctx)


# the complete example


async def test_a_spec_and_a_function_make_a_tool_that_runs_with_all_services() -> None:
    desk = Desk()

    result = await desk.order()

    assert result.success
    assert result.content == {"order_id": "order-12345", "status": "created", "confirmation": "C-1"}
    assert (result.return_type, result.return_target) == (ToolReturnType.JSON, ToolReturnTarget.STEP)
    assert (result.artifacts, result.warnings, result.logs) == ({}, [], [])
    assert result.latency_ms >= 0
    assert desk.orders.created == [{"order_id": "order-12345", "customer_id": "customer-789", "amount": 199.99}]


async def test_the_metrics_service_hears_of_executions_and_their_time() -> None:
    desk = Desk()
    await desk.order()

    (counted, timed) = desk.metrics.told
    assert counted == ("incr", "tool.executions", 1, {"tool": "create_order", "status": "success"})
    assert (timed[0], timed[1], timed[3]) == ("timing_ms", "tool.execution_time", {"tool": "create_order"})
    assert timed[2] >= 0


async def test_the_tracer_opens_a_span_around_the_body() -> None:
    desk = Desk()
    await desk.order()

    ((name, attributes),) = desk.tracer.spans
    assert "create_order" in name
    assert "create_order" in attributes.values()
    assert desk.tracer.open == 0


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"amount": "much"}, "invalid_input", "'amount' must be a number"),
        ({"amount": 1000}, "invalid_input", "amounts below 1000"),
        ({"currency": "MARS"}, "denied", "not beyond this planet"),
        ({"colour": "red"}, "invalid_input", "unknown argument 'colour'"),
    ],
)
async def test_a_gate_that_refuses_keeps_the_body_from_running(changes: dict[str, Any], code: str, said: str) -> None:
    desk = Desk()

    result = await desk.order(**changes)

    assert (result.success, result.status) == (False, "rejected")
    assert result.failure is not None
    assert result.failure.code == code
    assert said in (result.error or "")
    assert desk.orders.created == []


async def test_whom_the_security_service_does_not_let_in_is_denied() -> None:
    desk = Desk()
    desk.ctx.auth = {"user_role": "guest"}

    result = await desk.order()

    assert result.status_code == 403
    assert desk.orders.created == []


async def test_the_limiter_grants_so_many_calls_a_user() -> None:
    desk = Desk(calls=1)

    first, second = await desk.order(), await desk.order()
    desk.ctx.user_id = "another"
    third = await desk.order()

    assert [first.status_code, second.status_code, third.status_code] == [200, 429, 200]


async def test_a_gate_that_breaks_refuses_and_an_observer_that_breaks_is_ignored() -> None:
    class Broken:
        async def validate(self, args: Any, spec: Any) -> None:
            raise RuntimeError("validator is down")

        async def incr(self, *rest: Any) -> None:
            raise RuntimeError("metrics are down")

        timing_ms = observe = incr

    gate, observer = Desk(), Desk()
    gate.ctx.validator = Broken()
    observer.ctx.metrics = Broken()

    assert not (await gate.order()).success
    assert (await observer.order()).success


async def test_services_are_optional() -> None:
    async def add(args: dict[str, Any]) -> Any:
        return args["a"] + args["b"]

    executor = FunctionToolExecutor(sum_spec(), add)

    assert (await executor.execute({"a": 1, "b": 2})).content == 3
    assert (await executor.execute({"a": 1, "b": 2}, ToolContext())).content == 3


def sum_spec(**changes: Any) -> FunctionToolSpec:
    parameters = [NumericParameter(name="a", required=True), NumericParameter(name="b", required=True)]
    return FunctionToolSpec(
        **{"id": "sum-v1", "tool_name": "sum", "description": "Adds", "parameters": parameters, **changes}
    )


async def test_step_by_step_any_function_becomes_a_tool() -> None:
    async def my_function(args: dict[str, Any]) -> dict[str, Any]:
        return {"result": f"{args['param1']} {args['param2']}"}

    spec = FunctionToolSpec(
        id="my-tool-v1",
        tool_name="my_tool",
        description="My tool",
        tool_type=ToolType.FUNCTION,
        parameters=[StringParameter(name="param1", required=True), NumericParameter(name="param2", required=True)],
        timeout_s=30,
    )
    executor = FunctionToolExecutor(spec, my_function)

    result = await executor.execute({"param1": "value", "param2": 42}, ToolContext(user_id="ann"))

    assert result.content == {"result": "value 42"}


# policies; tests/documents/test_c_usage.py has what they do


def test_a_policy_that_is_switched_off_may_stand_in_a_spec() -> None:
    spec = order_spec(idempotency=IdempotencyConfig(enabled=False), retry=RetryConfig(max_attempts=1))

    assert FunctionToolExecutor(spec, Desk().create_order).spec is spec


# Http and Db


def http_spec() -> HttpToolSpec:
    parameters = [StringParameter(name="city", required=True)]
    return HttpToolSpec(
        id="w", tool_name="weather", description="Weather", parameters=parameters, url="https://example.com/weather"
    )


def dynamo_spec() -> DynamoDbToolSpec:
    parameters = [StringParameter(name="operation", required=True)]
    return DynamoDbToolSpec(id="d", tool_name="items", description="Items", parameters=parameters, table_name="items")


async def test_http_and_db_specs_check_their_calls_before_anything_leaves() -> None:
    for executor in (HttpToolExecutor(http_spec()), ExecutorFactory().create_executor(dynamo_spec())):
        wrong = await executor.execute({"nonsense": 1}, ToolContext())

        assert (wrong.status_code, wrong.status) == (400, "rejected")


def test_a_database_without_a_spec_class_takes_settings_of_its_own() -> None:
    settings: dict[str, Any] = {"database": "shop", "password": "hunter2"}
    spec = DbToolSpec(
        driver="mongodb", id="m", tool_name="documents", description="Documents", parameters=[], **settings
    )

    assert (spec.driver, spec.database) == ("mongodb", "shop")  # type: ignore[attr-defined]
    assert "hunter2" not in repr(spec)


# errors of a tool


def division() -> FunctionToolExecutor:
    async def divide(args: dict[str, Any]) -> dict[str, Any]:
        if args["denominator"] == 0:
            raise ToolError("Cannot divide by zero", retryable=False, code="MATH_ERROR")
        return {"quotient": args["numerator"] / args["denominator"]}

    parameters = [
        NumericParameter(name="numerator", required=True),
        NumericParameter(name="denominator", required=True),
    ]
    return FunctionToolExecutor(
        FunctionToolSpec(id="div", tool_name="divide", description="Divides", parameters=parameters), divide
    )


async def test_a_tool_error_keeps_its_code_and_whether_to_try_again() -> None:
    good = await division().execute({"numerator": 6, "denominator": 3})
    bad = await division().execute({"numerator": 6, "denominator": 0})

    assert good.content == {"quotient": 2.0}
    assert (bad.success, bad.error, bad.status) == (False, "Cannot divide by zero", "failed")
    assert bad.failure is not None
    assert (bad.failure.code, bad.failure.retryable) == ("MATH_ERROR", False)
    assert bad.metadata["error_type"] == "ToolError"


CODES = (
    "TIMEOUT",
    "UNAVAILABLE",
    "TOOL_ERROR",
    "MATH_ERROR",
    "UNAUTHORIZED",
    "INSUFFICIENT_PERMISSIONS",
    "UNAUTHORIZED_ROLE",
    "VALIDATION_ERROR",
    "TOOL_NOT_FOUND",
    "INVALID_OPERATION",
)


@pytest.mark.parametrize("code", CODES)
async def test_every_documented_code_of_a_tool_error_reaches_the_caller(code: str) -> None:
    async def fail(args: dict[str, Any]) -> None:
        raise ToolError("no", retryable=code in ("TIMEOUT", "UNAVAILABLE"), code=code)

    result = await FunctionToolExecutor(sum_spec(), fail).execute({"a": 1, "b": 2})

    assert result.failure is not None
    assert (result.failure.code, result.failure.retryable) == (code, code in ("TIMEOUT", "UNAVAILABLE"))
    assert (ToolError("m").code, ToolError("m").retryable) == ("tool_error", False)


async def test_permissions_of_a_spec_are_looked_for_in_the_contexts_auth() -> None:
    executor = FunctionToolExecutor(sum_spec(permissions=["math"]), lambda args: args["a"])

    denied = await executor.execute({"a": 1, "b": 2}, ToolContext(user_id="ann", auth={"permissions": ["read"]}))
    allowed = await executor.execute({"a": 1, "b": 2}, ToolContext(user_id="ann", auth={"permissions": ["math"]}))

    assert denied.status_code == 403
    assert "'math'" in (denied.error or "")
    assert allowed.content == 1


async def test_a_specs_timeout_is_kept() -> None:
    started = asyncio.Event()

    async def wait(args: dict[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    clock = FakeClock()
    with executor_for(clock=clock) as engine:
        executor = FunctionToolExecutor(sum_spec(timeout_s=3), wait, executor=engine)
        task = asyncio.ensure_future(executor.execute({"a": 1, "b": 2}, ToolContext()))
        await started.wait()
        clock.advance(3)
        result = await task

    assert (result.status_code, result.failure.code if result.failure else None) == (504, "timeout")


async def test_a_contexts_deadline_is_kept() -> None:
    started = asyncio.Event()

    async def wait(args: dict[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    clock = FakeClock()
    with executor_for(clock=clock) as engine:
        executor = FunctionToolExecutor(sum_spec(), wait, executor=engine)
        context = ToolContext(deadline_ts=clock.now() + 2)
        task = asyncio.ensure_future(executor.execute({"a": 1, "b": 2}, context))
        await started.wait()
        clock.advance(2)

        assert (await task).status_code == 504


# what a function gets


async def test_a_function_may_take_the_context_as_its_second_parameter() -> None:
    seen: list[ToolContext] = []

    def look(args: dict[str, Any], ctx: ToolContext) -> str:
        seen.append(ctx)
        ctx.log("looked", "info")
        return f"{ctx.user_id} {ctx.tenant_id} {ctx.extras['colour']}"

    context = ToolContext(user_id="ann", tenant_id="acme", run_id="r-1", extras={"colour": "red"}, memory=Memory())

    result = await FunctionToolExecutor(sum_spec(), look).execute({"a": 1, "b": 2}, context)

    assert result.content == "ann acme red"
    assert result.logs == ["INFO looked"]
    assert (seen[0].run_id, seen[0].memory) == ("r-1", context.memory)
    assert seen[0].call_id == result.call_id


async def test_sync_functions_work_as_well_as_async_ones() -> None:
    executor = FunctionToolExecutor(sum_spec(), lambda args: {"sum": args["a"] + args["b"]})

    assert (await executor.execute({"a": 1, "b": 2})).content == {"sum": 3}


async def test_the_arguments_arrive_with_their_defaults() -> None:
    parameters = [
        StringParameter(name="text", required=True),
        IntegerParameter(name="times", default=2),
        StringParameter(name="suffix"),
    ]
    executor = FunctionToolExecutor(sum_spec(parameters=parameters), lambda args: args)

    assert (await executor.execute({"text": "x"})).content == {"text": "x", "times": 2}


async def test_usage_counts_bytes_and_attempts() -> None:
    result = await FunctionToolExecutor(sum_spec(), lambda args: {"sum": 3}).execute({"a": 1, "b": 2})

    assert result.usage is not None
    assert (result.usage.input_bytes, result.usage.output_bytes) == (len('{"a":1,"b":2}'), len('{"sum":3}'))
    assert (result.usage.attempts, result.usage.retries, result.usage.cached_hit) == (1, 0, False)


async def test_a_result_is_written_as_its_spec_says() -> None:
    spec = sum_spec(returns=ToolReturnType.TEXT, return_target=ToolReturnTarget.LLM)

    result = await FunctionToolExecutor(spec, lambda args: {"sum": 3}).execute({"a": 1, "b": 2})

    assert (result.content, result.data) == ('{"sum":3}', {"sum": 3})
    assert (result.return_type, result.return_target) == (ToolReturnType.TEXT, ToolReturnTarget.LLM)


@pytest.mark.parametrize("args", [None, [], "a=1", 5])
async def test_arguments_that_are_no_object_are_refused(args: Any) -> None:
    result = await FunctionToolExecutor(sum_spec(), lambda args: 1).execute(args, ToolContext())

    assert (result.success, result.status_code) == (False, 400)


async def test_a_spec_executor_screens_as_every_other_does() -> None:
    spec = sum_spec(parameters=[StringParameter(name="path", required=True)])

    result = await FunctionToolExecutor(spec, lambda args: args["path"]).execute({"path": "../../etc/passwd"})

    assert result.status_code == 403


async def test_an_executor_of_a_spec_counts_in_the_engine_it_uses() -> None:
    with executor_for() as engine:
        executor = FunctionToolExecutor(sum_spec(), lambda args: 1, executor=engine)
        await executor.execute({"a": 1, "b": 2})
        await executor.execute({"a": "x", "b": 2})

        assert engine.get_metrics()["tools"]["sum"]["requests"] == 2
        assert engine.get_metrics()["failures"] == 1


async def test_a_defined_spec_can_be_called_by_name_too() -> None:
    with executor_for(order_spec().define(Desk().create_order)) as engine:
        assert "create_order" in engine.get_available_tools()


@pytest.mark.parametrize("function", [lambda: 1, lambda a, b, c: 1, 5, None])
def test_a_function_that_cannot_take_the_arguments_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError):
        FunctionToolExecutor(sum_spec(), function)


def test_an_executor_takes_its_own_kind_of_spec() -> None:
    with pytest.raises(ConfigurationError, match="takes a FunctionToolSpec, got HttpToolSpec"):
        FunctionToolExecutor(http_spec(), lambda args: 1)
    with pytest.raises(ConfigurationError, match="takes a HttpToolSpec, got FunctionToolSpec"):
        HttpToolExecutor(sum_spec())


# parameters

PARAMETERS: list[tuple[ToolParameter, Any, Any]] = [
    # a parameter, a value that fits, one that does not
    (StringParameter(name="v", enum=["a", "b"]), "a", "c"),
    (StringParameter(name="v", format="email"), "ann@example.com", "ann"),
    (StringParameter(name="v", min_length=2, max_length=3), "ab", "abcd"),
    (StringParameter(name="v", pattern="[a-z]+"), "abc", "abc1"),
    (NumericParameter(name="v", min=1, max=2), 1.5, 2.5),
    (NumericParameter(name="v"), 1, True),
    (IntegerParameter(name="v", min=0), 3, 1.5),
    (BooleanParameter(name="v"), True, 1),
    (ArrayParameter(name="v", items=StringParameter(name="i"), min_items=1), ["a"], []),
    (ArrayParameter(name="v", max_items=1), [1], [1, 2]),
    (ArrayParameter(name="v", unique_items=True), [1, 2], [1, 1]),
    (ObjectParameter(name="v", properties={"a": IntegerParameter(name="a", required=True)}), {"a": 1}, {"b": 1}),
    (
        ObjectParameter(
            name="v",
            oneOf=[
                ObjectParameter(name="x", properties={"x": IntegerParameter(name="x", required=True)}),
                ObjectParameter(name="y", properties={"y": IntegerParameter(name="y", required=True)}),
            ],
        ),
        {"y": 1},
        {"z": 1},
    ),
]


@pytest.mark.parametrize(("parameter", "good", "bad"), PARAMETERS, ids=lambda value: str(value)[:60])
async def test_a_parameter_lets_in_what_fits_and_nothing_else(parameter: ToolParameter, good: Any, bad: Any) -> None:
    with executor_for(enable_security_checks=False) as engine:
        executor = FunctionToolExecutor(sum_spec(parameters=[parameter]), lambda args: args["v"], executor=engine)

        fits, misfits = await executor.execute({"v": good}), await executor.execute({"v": bad})

    assert (fits.success, fits.content) == (True, good)
    assert (misfits.success, misfits.status_code) == (False, 400)
    assert misfits.failure is not None
    assert misfits.failure.details["errors"]


async def test_a_string_that_coerces_takes_numbers_too() -> None:
    spec = sum_spec(parameters=[StringParameter(name="v", coerce=True)])
    executor = FunctionToolExecutor(spec, lambda args: args["v"])

    assert (await executor.execute({"v": 5})).content == "5"
    assert (await executor.execute({"v": True})).content == "true"


# the factory


async def test_the_factory_makes_the_executor_that_fits_a_spec() -> None:
    factory = ExecutorFactory()

    function = factory.create_executor(sum_spec(), lambda args: args["a"] + args["b"])
    nothing = factory.create_executor(sum_spec(), executor_type="noop")

    assert isinstance(function, FunctionToolExecutor)
    assert isinstance(factory.create_executor(http_spec()), HttpToolExecutor)
    assert isinstance(factory.create_executor(dynamo_spec()), BaseToolExecutor)
    assert isinstance(nothing, NoOpExecutor)
    assert (await function.execute({"a": 1, "b": 2})).content == 3
    assert (await nothing.execute({"a": 1, "b": 2})).content == {"a": 1, "b": 2}
    assert (await nothing.execute({"a": "x"})).status_code == 400


async def test_an_executor_of_ones_own_takes_one_method() -> None:
    class Shouting(FunctionToolExecutor):
        async def execute(self, args: Mapping[str, Any], ctx: ToolContext | None = None) -> ToolResult:
            return await super().execute({name: str(value).upper() for name, value in args.items()}, ctx)

    factory = ExecutorFactory()
    factory.register_function_executor("shouting", Shouting)
    spec = sum_spec(parameters=[StringParameter(name="word")])

    executor = factory.create_executor(spec, lambda args: args["word"], executor_type="shouting")

    assert (await executor.execute({"word": "hello"})).content == "HELLO"
    assert factory.list_function_executors() == ["noop", "shouting", "standard"]
    factory.unregister_function_executor("shouting")
    assert factory.list_function_executors() == ["noop", "standard"]


@pytest.mark.parametrize("kind", ["http", "db"])
def test_makers_of_the_other_kinds_can_be_registered_too(kind: str) -> None:
    factory = ExecutorFactory()
    maker = NoOpExecutor
    getattr(factory, f"register_{kind}_executor")("mine", maker)

    assert "mine" in getattr(factory, f"list_{kind}_executors")()
    spec: ToolSpec = http_spec() if kind == "http" else dynamo_spec()
    assert isinstance(factory.create_executor(spec, executor_type="mine"), NoOpExecutor)
    with pytest.raises(ConfigurationError, match="registered already"):
        getattr(factory, f"register_{kind}_executor")("mine", maker)
    getattr(factory, f"unregister_{kind}_executor")("mine")
    with pytest.raises(ConfigurationError, match=r"no .* executor is named 'mine'"):
        factory.create_executor(spec, executor_type="mine")


def test_the_factory_refuses_a_missing_function_and_an_unknown_type() -> None:
    with pytest.raises(ConfigurationError, match="needs its function"):
        ExecutorFactory().create_executor(sum_spec())
    with pytest.raises(ConfigurationError, match="'turbo'"):
        ExecutorFactory().create_executor(sum_spec(), lambda args: 1, executor_type="turbo")


def test_the_executors_helpers_make_keys_and_usage() -> None:
    executor = FunctionToolExecutor(sum_spec(), lambda args: 1)
    key = executor._generate_idempotency_key

    base = key({"a": 1, "b": 2}, ToolContext(user_id="ann", session_id="s"))

    assert base == key({"b": 2, "a": 1}, ToolContext(user_id="ann", session_id="s"))
    others = {
        key({"a": 1, "b": 3}, ToolContext(user_id="ann", session_id="s")),
        key({"a": 1, "b": 2}, ToolContext(user_id="bob", session_id="s")),
        key({"a": 1, "b": 2}, ToolContext(user_id="ann", session_id="t")),
        key({"a": 1, "b": 2}),
    }
    assert len(others) == 4
    assert base not in others
    usage = executor._calculate_usage({"a": 1}, "xyz")
    assert (usage.input_bytes, usage.output_bytes) == (len('{"a":1}'), len('"xyz"'))


async def test_a_call_whose_deadline_has_passed_does_not_run() -> None:
    ran = []

    async def body(args: dict[str, Any]) -> int:
        ran.append(args)
        return 1

    clock = FakeClock()
    with ToolExecutor(clock=clock) as own:
        executor = FunctionToolExecutor(sum_spec(), body, executor=own)
        result = await executor.execute({"a": 1, "b": 2}, ToolContext(deadline_ts=clock.now() - 1))

    assert (result.failure.code, result.failure.outcome, ran) == ("timeout", "not_run", [])


# the context


def test_a_builder_fills_a_context_step_by_step() -> None:
    memory, metrics, tracer, limiter = Memory(), Metrics(), Tracer(), Limiter(1)
    validator, security = Validator(), Security()

    context = (
        ToolContextBuilder()
        .with_tenant("acme")
        .with_user("ann")
        .with_session("s-1")
        .with_trace("t-1", "sp-1", "sp-0")
        .with_locale("de-DE")
        .with_timezone("Europe/Berlin")
        .with_deadline(1_750_000_030.0)
        .with_auth({"permissions": ["read"]})
        .with_extras({"colour": "red"})
        .with_run_id("r-1")
        .with_idempotency_key("k-1")
        .with_memory(memory)
        .with_metrics(metrics)
        .with_tracer(tracer)
        .with_limiter(limiter)
        .with_validator(validator)
        .with_security(security)
        .build()
    )

    assert context == ToolContext(
        tenant_id="acme",
        user_id="ann",
        session_id="s-1",
        trace_id="t-1",
        span_id="sp-1",
        parent_span_id="sp-0",
        locale="de-DE",
        timezone="Europe/Berlin",
        deadline_ts=1_750_000_030.0,
        auth={"permissions": ["read"]},
        extras={"colour": "red"},
        run_id="r-1",
        idempotency_key="k-1",
        memory=memory,
        metrics=metrics,
        tracer=tracer,
        limiter=limiter,
        validator=validator,
        security=security,
    )


async def test_services_can_be_named() -> None:
    metrics = Metrics()
    register_service("metrics", "documents-ledger", metrics)

    context = (
        ToolContextBuilder()
        .with_metrics_by_name("documents-ledger")
        .with_memory_by_name("noop")
        .with_tracer_by_name("noop")
        .with_limiter_by_name("noop")
        .with_validator_by_name("noop")
        .with_security_by_name("noop")
        .build()
    )
    await FunctionToolExecutor(sum_spec(), lambda args: 1).execute({"a": 1, "b": 2}, context)

    assert [told[1] for told in metrics.told] == ["tool.executions", "tool.execution_time"]
    with pytest.raises(ConfigurationError, match="documents-ledger"):
        ToolContextBuilder().with_metrics_by_name("documents-lodger")


async def test_a_default_context_skips_every_service() -> None:
    context = ToolContextBuilder().with_user("ann").with_defaults(profile="noop").build()

    result = await FunctionToolExecutor(sum_spec(), lambda args: 1).execute({"a": 1, "b": 2}, context)

    assert result.success
    with pytest.raises(ConfigurationError, match="'everything' is not known"):
        ToolContextBuilder().with_defaults(profile="everything")


# usage


def test_usage_calculators_count_bytes_tokens_and_money() -> None:
    args, result = {"q": "x" * 91}, "y" * 40

    generic = GenericUsageCalculator().calculate(args, result, attempts=3)
    tokens = TokenUsageCalculator(counter=len).calculate(args, result)
    prices = {"ask": Price(per_call_usd=0.5, per_1k_tokens_in_usd=1.0, per_1k_tokens_out_usd=2.0)}
    cost = CostCalculator(prices, usage=TokenUsageCalculator(counter=len)).calculate(args, result, tool="ask")
    cached = CostCalculator(prices).calculate(args, result, tool="ask", cached_hit=True)

    assert (generic.input_bytes, generic.output_bytes, generic.attempts, generic.retries) == (99, 42, 3, 2)
    assert (tokens.tokens_in, tokens.tokens_out) == (99, 40)
    assert cost.cost_usd == pytest.approx(0.5 + 0.099 + 0.08)
    assert (cached.cost_usd, cached.cached_hit) == (0.0, True)


# written and read


@pytest.mark.parametrize(
    "spec",
    [
        order_spec(permissions=["orders"], owner="shop", metrics_tags={"team": "shop"}, examples=[ORDER]),
        sum_spec(parameters=[parameter for parameter, _, _ in PARAMETERS[-1:]]),
        http_spec(),
        dynamo_spec(),
        SqliteToolSpec(id="s", tool_name="rows", description="", parameters=[], database_path="shop.db"),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_spec_written_out_is_read_as_its_equal(spec: ToolSpec) -> None:
    as_dict = tool_to_dict(spec)

    assert json.loads(json.dumps(as_dict)) == as_dict
    assert tool_from_dict(as_dict) == spec
    assert tool_from_json(tool_to_json(spec)) == spec
    assert type(tool_from_dict(as_dict)) is type(spec)


async def test_a_spec_that_was_read_runs_like_the_one_that_was_written() -> None:
    spec = tool_from_json(tool_to_json(order_spec()))

    result = await FunctionToolExecutor(spec, lambda args: args["amount"]).execute(ORDER)

    assert result.content == 199.99


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tool_type": "magic"}', '{"tool_type": "function"}', b"\xff"])
def test_what_is_no_spec_is_a_serialization_error(text: str | bytes) -> None:
    with pytest.raises(ToolSerializationError):
        tool_from_json(text)


def test_a_driver_of_ones_own_is_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "_drivers", dict(serialize._drivers))

    class MongoDbToolSpec(DbToolSpec):
        driver: str = "documents-mongodb"
        collection: str

    register_db_driver("documents-mongodb", MongoDbToolSpec, replace=True)
    spec = MongoDbToolSpec(id="m", tool_name="m", description="", parameters=[], collection="orders")

    assert tool_from_json(tool_to_json(spec)) == spec


# bad specs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tool_name": "a b"}, "tool_name"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"tool_type": ToolType.HTTP}, "HttpToolSpec"),
        ({"parameters": [StringParameter(name="a"), StringParameter(name="a")]}, "two parameters are named 'a'"),
        ({"parametrs": []}, "did you mean 'parameters'"),
        ({"parameters": [{"type": "strng", "name": "a"}]}, "did you mean 'string'"),
        ({"version": ""}, "version"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_field_and_the_fix(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        order_spec(**changes)


async def test_an_executor_of_specs_lives_on_after_bad_calls() -> None:
    def misbehave(args: dict[str, Any]) -> Any:
        if args["a"] == 0:
            raise SystemExit(1)
        if args["a"] == 1:
            return (n for n in range(3))
        return args["a"]

    executor = FunctionToolExecutor(sum_spec(), misbehave)
    recursive: dict[str, Any] = {}
    recursive["a"] = recursive
    bad: list[Any] = [
        {"a": 0, "b": 0},
        {"a": 1, "b": 0},
        recursive,
        {"a": "x" * 10_000_000},
        {"a": float("nan"), "b": 0},
    ]

    statuses = [(await executor.execute(args, ToolContext())).status_code for args in bad]
    good = await executor.execute({"a": 2, "b": 0}, ToolContext())

    assert statuses == [500, 502, 400, 400, 400]
    assert good.content == 2


def test_input_validation_error_is_what_a_caller_of_the_engine_sees() -> None:
    with executor_for(sum_spec().define(lambda args: args["a"])) as engine:
        assert isinstance(engine, ToolExecutor)
        assert engine.call_sync("sum", a=1, b=2) == 1
        with pytest.raises(InputValidationError):
            engine.call_sync("sum", a=1)
