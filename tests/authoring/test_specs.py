"""What the specs hold, what they refuse, and the definitions they become."""

from __future__ import annotations

import functools
import pickle
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from toolpost.authoring.parameters import NumericParameter, StringParameter
from toolpost.authoring.specs import (
    CircuitBreakerConfig,
    DatabaseProvider,
    DbToolSpec,
    DynamoDbToolSpec,
    FunctionToolSpec,
    HttpToolSpec,
    IdempotencyConfig,
    MySqlToolSpec,
    PostgreSqlToolSpec,
    RetryConfig,
    SqliteToolSpec,
    ToolSpec,
    ToolType,
)
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import DbBody, FunctionBody, HttpBody
from toolpost.calls.errors import ConfigurationError, InputValidationError
from toolpost.calls.policies import (
    UNSET,
    Breaker,
    CircuitBreakerState,
    Idempotency,
    Retry,
    RetryableErrorType,
    Timeout,
)
from toolpost.calls.result import ToolReturnTarget, ToolReturnType

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers

COMMON: dict[str, Any] = {
    "id": "order-creation-v1",
    "tool_name": "create_order",
    "description": "Create an order",
    "parameters": [StringParameter(name="order_id", required=True)],
}
POSTGRES: dict[str, Any] = {"database": "shop", "username": "clerk", "password": "hunter2"}


def function_spec(**changes: Any) -> FunctionToolSpec:
    return FunctionToolSpec(**{**COMMON, **changes})


async def create_order(args: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": args["order_id"]}


# fields and defaults


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        (ToolType, ["function", "http", "db"]),
        (RetryableErrorType, ["timeout", "unavailable", "network", "rate_limit", "transient"]),
        (CircuitBreakerState, ["closed", "open", "half_open"]),
        (DatabaseProvider, ["dynamodb", "postgresql", "mysql", "sqlite"]),
    ],
)
def test_the_enums_have_the_promised_values(enum: Any, values: list[str]) -> None:
    assert [member.value for member in enum] == values


def test_a_function_spec_has_the_promised_defaults() -> None:
    spec = function_spec()

    assert spec.tool_type is ToolType.FUNCTION
    assert (spec.version, spec.timeout_s, spec.required, spec.owner) == ("1.0.0", 30, False, None)
    assert (spec.return_type, spec.return_target) == (ToolReturnType.JSON, ToolReturnTarget.STEP)
    assert (spec.permissions, spec.examples, spec.metrics_tags) == ([], [], {})
    assert (spec.retry, spec.circuit_breaker, spec.idempotency) == (
        RetryConfig(),
        CircuitBreakerConfig(),
        IdempotencyConfig(),
    )
    assert (spec.retry_policy, spec.circuit_breaker_policy, spec.idempotency_key_generator) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        (RetryConfig(), {"max_attempts": 3, "base_delay_s": 0.2, "max_delay_s": 2.0, "jitter_s": 0.1}),
        (
            CircuitBreakerConfig(),
            {
                "enabled": True,
                "failure_threshold": 5,
                "recovery_timeout_s": 30,
                "half_open_max_calls": 1,
                "error_codes_to_trip": ["timeout", "unavailable", "tool_error"],
            },
        ),
        (
            IdempotencyConfig(),
            {
                "enabled": True,
                "key_fields": None,
                "ttl_s": 3600,
                "persist_result": True,
                "bypass_on_missing_key": False,
            },
        ),
    ],
)
def test_the_policies_have_the_promised_defaults(config: Any, defaults: dict[str, Any]) -> None:
    assert config.model_dump() == defaults


@pytest.mark.parametrize(
    ("cls", "given", "own"),
    [
        (
            HttpToolSpec,
            {"url": "https://api.example.com/orders"},
            {"method": "post", "headers": None, "query_params": None, "body": None},
        ),
        (DbToolSpec, {}, {"driver": "dynamodb"}),
        (
            DynamoDbToolSpec,
            {"table_name": "orders"},
            {
                "driver": "dynamodb",
                "region": "us-west-2",
                "endpoint_url": None,
                "aws_access_key_id": None,
                "aws_secret_access_key": None,
            },
        ),
        (
            PostgreSqlToolSpec,
            POSTGRES,
            {
                "driver": "postgresql",
                "host": "localhost",
                "port": 5432,
                "connection_string": None,
                "ssl_mode": None,
                "pool_size": 10,
            },
        ),
        (
            MySqlToolSpec,
            POSTGRES,
            {"driver": "mysql", "host": "localhost", "port": 3306, "pool_size": 10, "charset": "utf8mb4"},
        ),
        (
            SqliteToolSpec,
            {},
            {"driver": "sqlite", "database_path": ":memory:", "timeout": 5.0, "check_same_thread": False},
        ),
    ],
)
def test_each_spec_has_its_own_fields_and_defaults(
    cls: type[ToolSpec], given: dict[str, Any], own: dict[str, Any]
) -> None:
    spec = cls(**COMMON, **given)

    assert {name: getattr(spec, name) for name in own} == own


def test_the_tool_type_may_be_said_and_must_be_right() -> None:
    assert function_spec(tool_type=ToolType.FUNCTION) == function_spec(tool_type="function") == function_spec()

    with pytest.raises(ConfigurationError, match="tool_type must be 'function' here; for 'http' use HttpTool"):
        function_spec(tool_type=ToolType.HTTP)


def test_a_driver_may_be_said_and_must_be_right() -> None:
    assert SqliteToolSpec(**COMMON, driver="sqlite") == SqliteToolSpec(**COMMON)

    with pytest.raises(ConfigurationError, match="driver must be 'sqlite' here"):
        SqliteToolSpec(**COMMON, driver="mysql")


def test_returns_is_another_name_of_return_type() -> None:
    spec = FunctionToolSpec.model_validate({**COMMON, "returns": "text"})

    assert spec.return_type is spec.returns is ToolReturnType.TEXT
    spec.returns = ToolReturnType.TOON
    assert spec.return_type is ToolReturnType.TOON
    with pytest.raises(ConfigurationError, match="two names of one field and differ"):
        FunctionToolSpec.model_validate({**COMMON, "returns": "text", "return_type": "json"})


def test_parameters_may_be_mappings_with_a_type() -> None:
    spec = function_spec(parameters=[{"type": "number", "name": "amount", "min": 0}])

    assert spec.parameters == [NumericParameter(name="amount", min=0)]


# changing


def test_a_spec_can_be_configured_after_it_was_made() -> None:
    spec = function_spec()

    spec.idempotency.enabled = True
    spec.idempotency.ttl_s = 86400
    spec.idempotency.key_fields = ["order_id"]
    spec.idempotency_key_generator = object()
    spec.timeout_s = 2.5

    assert (spec.idempotency.key_fields, spec.idempotency.ttl_s, spec.timeout_s) == (["order_id"], 86400, 2.5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("timeout_s", 0, "timeout_s must be more than 0, got 0"),
        ("timeout_s", "30", "timeout_s must be a finite number, got '30'"),
        ("tool_name", "create order", "tool_name must be 1 to 128 letters"),
        ("version", "1@2", "version must be text such as '1.0.0'"),
        ("return_type", "xml", "return_type must be 'json', 'toon' or 'text', got 'xml'"),
        (
            "parameters",
            [StringParameter(name="a"), StringParameter(name="a")],
            "two parameters are named 'a'",
        ),
        ("parameters", [{"name": "a", "type": "strin"}], "parameters[0]: parameter 'a' has type 'strin'"),
        ("timeot_s", 3, "no field 'timeot_s'; did you mean 'timeout_s'?"),
    ],
)
def test_a_wrong_change_is_refused_and_leaves_the_spec_as_it_was(name: str, value: Any, said: str) -> None:
    spec = function_spec()

    with pytest.raises(ConfigurationError) as caught:
        setattr(spec, name, value)

    assert str(caught.value).startswith("FunctionToolSpec 'create_order': ")
    assert said in str(caught.value)
    assert spec == function_spec()


def test_a_change_that_contradicts_another_field_leaves_the_spec_as_it_was() -> None:
    spec = PostgreSqlToolSpec(**COMMON, **POSTGRES)

    with pytest.raises(ConfigurationError, match="no field 'databse'; did you mean 'database'"):
        spec.databse = "other"

    assert spec == PostgreSqlToolSpec(**COMMON, **POSTGRES)


@pytest.mark.parametrize(
    ("config", "name", "value", "said"),
    [
        (RetryConfig(), "max_attempts", 0, "RetryConfig: max_attempts must be greater than or equal to 1"),
        (RetryConfig(), "max_attempt", 2, "no field 'max_attempt'; did you mean 'max_attempts'?"),
        (RetryConfig(), "base_delay_s", -1, "base_delay_s must be 0 or more, got -1"),
        (CircuitBreakerConfig(), "failure_threshold", 1.5, "failure_threshold must be a valid integer"),
        (IdempotencyConfig(), "ttl_s", 0, "ttl_s must be more than 0, got 0"),
        (IdempotencyConfig(), "key_fields", "order_id", "key_fields must be a valid list, got 'order_id'"),
    ],
)
def test_a_wrong_policy_field_is_refused(config: Any, name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        setattr(config, name, value)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timeout": 3}, "no field 'timeout'; did you mean 'timeout_s'?"),
        ({"return": "json"}, "did you mean 'returns'?"),
        ({"id": ""}, "id must have at least 1 character"),
        ({"tool_name": ".hidden"}, "tool_name must be 1 to 128 letters"),
        ({"retry": {"attempts": 3}}, "retry: RetryConfig: no field 'attempts'; did you mean 'max_attempts'?"),
        ({"metrics_tags": {"a": 1}}, "metrics_tags.a must be a valid string, got 1"),
        ({"examples": [{1}]}, "examples[0] must be JSON, got a value of type set"),
        ({"parameters": None}, "parameters must be a valid list, got None"),
    ],
)
def test_a_wrong_spec_is_refused_when_it_is_made(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        function_spec(**changes)

    assert said in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigurationError, match="FunctionToolSpec 'a': needs 'description'; needs 'parameters'"):
        FunctionToolSpec.model_validate({"id": "a", "tool_name": "a"})


# HTTP and databases


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "ftp://example.com"}, "url must be a URL such as"),
        ({"url": "/orders"}, "url must be a URL such as"),
        ({"url": "https://[::1"}, "url must be a URL such as"),
        ({"url": "https://h:port/"}, "url must be a URL such as"),
        ({"method": "fetch"}, "method must be one of get, post"),
        ({"headers": {"X": 1}}, "headers.X must be a valid string"),
        ({"body": {1}}, "body must be JSON"),
    ],
)
def test_a_wrong_request_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HttpToolSpec(**{**COMMON, "url": "https://example.com", **changes})

    assert said in str(caught.value)


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    url = "https://clerk:{}@example.com/".format("hunter2")

    with pytest.raises(ConfigurationError, match="url must not hold a user or password") as caught:
        HttpToolSpec(**COMMON, url=url)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_method_may_be_written_in_any_case() -> None:
    assert HttpToolSpec(**COMMON, url="https://example.com", method="GET").method == "get"


def test_a_driver_of_ones_own_takes_its_settings_as_fields() -> None:
    spec = DbToolSpec(**COMMON, driver="mongodb", database="shop", hosts=("a", "b"), password="hunter2")

    assert (spec.driver, spec.database, spec.hosts) == ("mongodb", "shop", ["a", "b"])
    assert spec.settings() == {"database": "shop", "hosts": ["a", "b"], "password": SecretStr("hunter2")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table_name": "orders"}, "no field 'table_name'; for driver 'dynamodb' use DynamoDbToolSpec"),
        ({"driver": "mysql", "database": "d"}, "use MySqlToolSpec"),
        ({"driver": "mongodb", "timeouts": 3}, "no field 'timeouts'; did you mean 'timeout_s'?"),
        ({"driver": "mongodb", "client": object()}, "client must be JSON, got a value of type object"),
        ({"driver": ""}, "driver must have at least 1 character"),
    ],
)
def test_what_is_no_setting_of_the_driver_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DbToolSpec(**COMMON, **changes)

    assert said in str(caught.value)


def test_a_subclass_for_a_driver_has_only_its_declared_fields() -> None:
    class MongoToolSpec(DbToolSpec):
        driver: str = "mongodb"
        database: str

    assert MongoToolSpec(**COMMON, database="shop").settings() == {"database": "shop"}
    with pytest.raises(ConfigurationError, match="no field 'databse'; did you mean 'database'"):
        MongoToolSpec(**COMMON, database="shop", databse="x")


SECRETIVE = [
    PostgreSqlToolSpec(**COMMON, **POSTGRES, connection_string="postgresql://clerk:hunter2@db/shop"),
    MySqlToolSpec(**COMMON, **POSTGRES),
    DynamoDbToolSpec(**COMMON, table_name="t", aws_access_key_id="AKIA", aws_secret_access_key="hunter2"),
    DbToolSpec(**COMMON, driver="mongodb", api_key="hunter2"),
    HttpToolSpec(
        **COMMON,
        url="https://example.com",
        headers={"Authorization": "Bearer hunter2", "X-API-Key": "hunter2", "Accept": "text/plain"},
        query_params={"token": "hunter2", "page": 1},
    ),
]


@pytest.mark.parametrize("spec", SECRETIVE, ids=lambda spec: type(spec).__name__)
def test_secrets_are_accepted_as_text_and_never_shown(spec: ToolSpec) -> None:
    shown = f"{spec!r} {spec}"

    assert "hunter2" not in shown
    assert "**********" in shown


def test_secrets_of_a_database_are_not_shown_by_its_definition() -> None:
    definition = PostgreSqlToolSpec(**COMMON, **POSTGRES).define()

    assert "hunter2" not in repr(definition)
    assert isinstance(definition.body, DbBody)
    assert definition.body.settings["password"].get_secret_value() == "hunter2"


@pytest.mark.parametrize("wrong", [{"prot": 1}, {"port": "x"}, {"password": ["hunter2"]}, {"username": None}])
def test_a_mistake_next_to_a_secret_does_not_tell_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgreSqlToolSpec(**{**COMMON, **POSTGRES, **wrong})

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_spec_can_be_pickled() -> None:
    spec = SECRETIVE[0]

    assert pickle.loads(pickle.dumps(spec)) == spec


# policies


def asked(spec: ToolSpec) -> dict[str, Any]:
    policies = spec.policies()
    return {n: p for n in ("retry", "breaker", "idempotency") if (p := getattr(policies, n)) is not UNSET}


def test_a_spec_whose_policies_nobody_touched_asks_for_nothing() -> None:
    assert asked(function_spec()) == {}


class Theirs:
    async def execute_with_retry(self, func: Any, tool_name: str) -> Any:
        return await func()

    execute_with_breaker = execute_with_retry


THEIRS = Theirs()
CODES = ("timeout", "unavailable", "tool_error")


@pytest.mark.parametrize(
    ("touch", "policy"),
    [
        (lambda spec: setattr(spec, "retry_policy", THEIRS), {"retry": THEIRS}),
        (lambda spec: setattr(spec, "circuit_breaker_policy", THEIRS), {"breaker": THEIRS}),
        (
            lambda spec: setattr(spec.retry, "max_attempts", 5),
            {"retry": Retry(attempts=5, wait_s=0.2, max_wait_s=2.0, jitter=0.0, jitter_s=0.1)},
        ),
        (
            lambda spec: setattr(spec, "retry", {"jitter_s": 0.5}),
            {"retry": Retry(attempts=3, wait_s=0.2, max_wait_s=2.0, jitter=0.0, jitter_s=0.5)},
        ),
        (
            lambda spec: setattr(spec.circuit_breaker, "failure_threshold", 2),
            {"breaker": Breaker(failures=2, recovery_s=30, trips_on=(*CODES, "network", "transient"))},
        ),
        (
            lambda spec: spec.circuit_breaker.error_codes_to_trip.append("x"),
            {"breaker": Breaker(recovery_s=30, trips_on=(*CODES, "x", "network", "transient"))},
        ),
        (
            lambda spec: setattr(spec.idempotency, "key_fields", ["order_id"]),
            {"idempotency": Idempotency(key_fields=("order_id",), include_session=True)},
        ),
        (
            lambda spec: setattr(spec, "idempotency", {"ttl_s": 5, "persist_result": False}),
            {"idempotency": Idempotency(ttl_s=5, persist_result=False, include_session=True)},
        ),
        (lambda spec: setattr(spec.idempotency, "enabled", True), {"idempotency": Idempotency(include_session=True)}),
        (
            lambda spec: setattr(spec, "retry", RetryConfig()),
            {"retry": Retry(attempts=3, wait_s=0.2, max_wait_s=2.0, jitter=0.0, jitter_s=0.1)},
        ),
    ],
)
def test_what_a_spec_asks_for_becomes_a_policy(touch: Callable[[ToolSpec], None], policy: dict[str, Any]) -> None:
    spec = function_spec()

    touch(spec)

    assert asked(spec) == policy


def test_a_key_generator_alone_asks_for_idempotency() -> None:
    def generate(args: Any, ctx: Any) -> str:
        return "k"

    assert asked(function_spec(idempotency_key_generator=generate)) == {"idempotency": Idempotency(generator=generate)}


def test_a_policy_object_goes_before_the_config_of_its_kind() -> None:
    spec = function_spec(retry=RetryConfig(max_attempts=5), retry_policy=THEIRS)

    assert asked(spec) == {"retry": THEIRS}


@pytest.mark.parametrize(
    "off",
    [
        {"retry": RetryConfig(max_attempts=1)},
        {"circuit_breaker": CircuitBreakerConfig(enabled=False, failure_threshold=9)},
        {"idempotency": IdempotencyConfig(enabled=False)},
        {"idempotency": IdempotencyConfig(enabled=False), "idempotency_key_generator": lambda args, ctx: "k"},
    ],
)
def test_a_policy_that_is_switched_off_asks_for_nothing(off: dict[str, Any]) -> None:
    assert asked(function_spec(**off)) == {}


@pytest.mark.parametrize(
    ("field", "method"),
    [("retry_policy", "execute_with_retry"), ("circuit_breaker_policy", "execute_with_breaker")],
)
def test_what_is_no_policy_is_refused(field: str, method: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{field} must have {method}\(func, tool_name\)"):
        function_spec(**{field: object()}).define(create_order)


def test_a_key_field_that_is_no_parameter_is_refused_with_the_nearest() -> None:
    spec = function_spec(idempotency={"key_fields": ["order_idd"]})

    with pytest.raises(ConfigurationError, match=r"key_fields names 'order_idd', .*; did you mean 'order_id'\?"):
        spec.define(create_order)


@pytest.mark.parametrize(
    ("method", "read_only", "idempotent"),
    [("get", True, None), ("head", True, None), ("put", None, True), ("delete", None, True), ("post", None, None)],
)
def test_an_http_method_says_what_it_does(method: str, read_only: bool | None, idempotent: bool | None) -> None:
    hints = HttpToolSpec(**COMMON, url="https://a.example/o", method=method).define().hints

    assert (hints.read_only, hints.idempotent) == (read_only, idempotent)


# definitions


def test_a_function_spec_becomes_a_definition() -> None:
    spec = function_spec(
        parameters=[
            StringParameter(name="order_id", required=True),
            NumericParameter(name="amount", default=1),
        ],
        timeout_s=12,
        version="2.1.0",
        owner="orders",
        permissions=["orders:write"],
        examples=[{"order_id": "o1"}],
        metrics_tags={"team": "shop"},
    )

    definition = spec.define(create_order)

    assert (definition.name, definition.version, definition.owner) == ("create_order", "2.1.0", "orders")
    assert (definition.description, definition.permissions) == ("Create an order", ("orders:write",))
    assert (definition.examples, definition.metrics_tags) == (({"order_id": "o1"},), {"team": "shop"})
    assert definition.policies.timeout == Timeout(total_s=12)
    assert definition.parameters["required"] == ["order_id"]
    assert definition.check.optional == {"amount"}
    assert definition.body == FunctionBody(func=create_order, is_async=True, takes_mapping=True)


def test_the_check_of_a_definition_fills_defaults_and_coerces() -> None:
    spec = function_spec(
        parameters=[
            StringParameter(name="order_id", required=True, coerce=True),
            StringParameter(name="currency", default="EUR"),
        ]
    )

    check = spec.define(create_order).check

    assert check.convert({"order_id": 7}) == {"order_id": "7", "currency": "EUR"}


@pytest.mark.parametrize("arguments", [{}, {"order_id": 7}, {"order_id": "a", "ordr": 1}])
def test_the_check_of_a_definition_refuses_what_does_not_fit(arguments: dict[str, Any]) -> None:
    check = function_spec().define(create_order).check

    with pytest.raises(ValueError, match="do not fit") as caught:
        check.convert(arguments)

    with pytest.raises(InputValidationError):
        check.mend(arguments, caught.value)


def test_a_change_after_the_definition_does_not_reach_it() -> None:
    spec = function_spec(examples=[{"order_id": "o1"}])
    definition = spec.define(create_order)

    spec.parameters = []
    spec.examples[0]["order_id"] = "o2"

    assert definition.parameters["required"] == ["order_id"]
    assert definition.examples == ({"order_id": "o1"},)


def test_parameters_that_were_added_in_place_are_checked_by_define() -> None:
    spec = function_spec()
    spec.parameters.append(StringParameter(name="order_id"))

    with pytest.raises(ConfigurationError, match="two parameters are named 'order_id'"):
        spec.define(create_order)


AnotherName = ToolContext


class Counter:
    async def __call__(self, args: dict[str, Any], ctx: ToolContext) -> None: ...

    def count(self, args: dict[str, Any]) -> None: ...


async def with_context(args: Any, c: ToolContext) -> None: ...


def with_aliased_context(args: Any, c: AnotherName) -> None: ...


def with_optional_context(args: Any, *, c: ToolContext | None = None) -> None: ...


def with_named_context(args: Any, context: Any) -> None: ...


def with_defaults(args: Any, retries: int = 3, *more: Any, **others: Any) -> None: ...


def with_unknown_annotation(args: OnlyForTypeCheckers, ctx: ToolContext) -> None: ...


@pytest.mark.parametrize(
    ("func", "is_async", "context"),
    [
        (create_order, True, None),
        (lambda args: args, False, None),
        (lambda *args: args, False, None),
        (with_context, True, "c"),
        (with_optional_context, False, "c"),
        (with_aliased_context, False, "c"),
        (with_named_context, False, "context"),
        (with_defaults, False, None),
        (with_unknown_annotation, False, "ctx"),
        (Counter(), True, "ctx"),
        (Counter().count, False, None),
        (functools.partial(with_context, c=None), True, "c"),
        (functools.partial(lambda service, args: args, object()), False, None),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else str(value),
)
def test_a_function_takes_one_dict_and_maybe_the_context(
    func: Callable[..., Any], is_async: bool, context: str | None
) -> None:
    body = function_spec().define(func).body

    assert isinstance(body, FunctionBody)
    assert (body.func, body.is_async, body.takes_mapping, body.context) == (func, is_async, True, context)


def test_a_body_that_ends_at_once_is_marked() -> None:
    body = function_spec().define(lambda args: args).body

    assert isinstance(body, FunctionBody)
    assert body.leaf


def two_arguments(order_id: str, amount: float) -> None: ...


async def keyword_only(args: Any, *, amount: float) -> None: ...


def context_first(ctx: ToolContext, args: Any) -> None: ...


def positional_context(args: Any, ctx: ToolContext, /) -> None: ...


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (
            two_arguments,
            "two_arguments also takes 'amount', but a spec's function gets all arguments as one dict",
        ),
        (keyword_only, "write async def keyword_only(args) or async def keyword_only(args, ctx)"),
        (lambda: None, "takes no argument, but"),
        (lambda **fields: None, "takes no argument, but"),
        (context_first, "has the context 'ctx' as its first parameter"),
        (positional_context, "cannot be given 'ctx' by name"),
        (dict, "the signature of its function cannot be read; wrap it in def create_order(args)"),
        ("create_order", "its function must be callable, got a value of type str"),
        (None, "its function is missing; call define(func)"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused_with_the_fix(func: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        function_spec().define(func)

    assert str(caught.value).startswith("create_order: ")
    assert said in str(caught.value)


def test_an_http_spec_becomes_a_definition() -> None:
    spec = HttpToolSpec(
        **COMMON,
        url="https://api.example.com/orders",
        method="put",
        headers={"Accept": "application/json"},
        query_params={"dry": True},
        body={"source": "toolpost"},
    )

    assert spec.define().body == HttpBody(
        method="PUT",
        url="https://api.example.com/orders",
        headers={"Accept": "application/json"},
        query={"dry": True},
        body={"source": "toolpost"},
    )


def test_a_database_spec_becomes_a_definition() -> None:
    definition = SqliteToolSpec(**COMMON, database_path="shop.db").define()

    assert definition.body == DbBody(
        driver="sqlite",
        settings={"database_path": "shop.db", "timeout": 5.0, "check_same_thread": False},
    )


@pytest.mark.parametrize("spec", [SECRETIVE[0], SECRETIVE[-1]], ids=lambda spec: type(spec).__name__)
def test_a_function_for_a_spec_that_runs_none_is_refused(spec: ToolSpec) -> None:
    with pytest.raises(ConfigurationError, match="runs no function; use FunctionToolSpec"):
        spec.define(create_order)


def test_the_common_spec_alone_cannot_be_defined() -> None:
    spec = ToolSpec(**COMMON, tool_type=ToolType.FUNCTION)

    with pytest.raises(ConfigurationError, match="a ToolSpec says nothing about how the tool runs"):
        spec.define(create_order)
