"""Specs survive being written and read; secrets are not written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, strategies as st

from toolpost.authoring import serialize
from toolpost.authoring.parameters import (
    ArrayParameter,
    BooleanParameter,
    IntegerParameter,
    NumericParameter,
    ObjectParameter,
    StringParameter,
    ToolParameter,
)
from toolpost.authoring.serialize import (
    ToolSerializationError,
    register_db_driver,
    tool_from_dict,
    tool_from_json,
    tool_to_dict,
    tool_to_json,
)
from toolpost.authoring.specs import (
    DbToolSpec,
    DynamoDbToolSpec,
    FunctionToolSpec,
    HttpToolSpec,
    PostgreSqlToolSpec,
    SqliteToolSpec,
    ToolSpec,
    ToolType,
)
from toolpost.calls.errors import ConfigurationError

COMMON: dict[str, Any] = {
    "id": "order-v1",
    "tool_name": "create_order",
    "description": "Create an order",
    "parameters": [StringParameter(name="order_id", required=True)],
}
POSTGRES: dict[str, Any] = {"database": "shop", "username": "clerk", "password": "hunter2"}


@pytest.fixture(autouse=True)
def own_drivers() -> Iterator[None]:
    """Forget the drivers that a test registers."""
    with patch.dict(serialize._drivers):
        yield


# any spec, written and read

names = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
delays = st.floats(0.001, 1e6) | st.integers(1, 10**6)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
described = {"description": texts, "deprecated": st.booleans()}
lengths = st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(3, 9))


def made(cls: type[ToolParameter], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[ToolParameter]:
    return st.builds(cls, name=names, required=st.booleans(), **described, **fields)


leaves: st.SearchStrategy[ToolParameter] = st.one_of(
    lengths.flatmap(lambda n: made(StringParameter, min_length=st.just(n[0]), max_length=st.just(n[1]))),
    made(
        StringParameter,
        enum=st.none() | st.lists(texts, min_size=1, max_size=3, unique=True),
        coerce=st.booleans(),
    ),
    made(
        StringParameter,
        pattern=st.sampled_from([None, "a|b", r"\d+", "^x$"]),
        format=st.sampled_from([None, "email", "date"]),
    ),
    made(NumericParameter, min=st.none() | st.integers(max_value=0), max=st.none() | st.floats(0, 1e300)),
    made(IntegerParameter, min=st.none() | st.integers(max_value=0), max=st.none() | st.integers(0)),
    made(BooleanParameter),
    made(ToolParameter),
    st.builds(IntegerParameter, name=names, default=st.integers(), examples=st.lists(st.integers(), max_size=2)),
    st.builds(ToolParameter, name=names, default=json_values),
)


def by_name(parameters: list[ToolParameter]) -> dict[str, ToolParameter]:
    return {parameter.name: parameter for parameter in parameters}


def nested(inner: st.SearchStrategy[ToolParameter]) -> st.SearchStrategy[ToolParameter]:
    some = st.none() | st.lists(inner, max_size=2).map(by_name)
    return st.one_of(
        lengths.flatmap(
            lambda n: made(
                ArrayParameter,
                items=st.none() | inner,
                min_items=st.just(n[0]),
                max_items=st.just(n[1]),
                unique_items=st.booleans(),
            )
        ),
        made(ObjectParameter, properties=some),
    )


parameters = st.lists(st.recursive(leaves, nested, max_leaves=4), max_size=3, unique_by=lambda p: p.name)
common: dict[str, st.SearchStrategy[Any]] = {
    "id": texts.filter(bool),
    "tool_name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True),
    "version": st.from_regex(r"[0-9]\.[0-9]", fullmatch=True),
    "description": texts,
    "parameters": parameters,
    "return_type": st.sampled_from(["json", "toon", "text"]),
    "return_target": st.sampled_from(["human", "llm", "agent", "step"]),
    "required": st.booleans(),
    "owner": st.none() | texts,
    "permissions": st.lists(texts, max_size=2),
    "timeout_s": delays,
    "examples": st.lists(json_values, max_size=2),
    "metrics_tags": st.dictionaries(texts, texts, max_size=2),
    "retry": st.fixed_dictionaries({}, optional={"max_attempts": st.integers(1, 9), "jitter_s": delays}),
    "circuit_breaker": st.fixed_dictionaries({}, optional={"enabled": st.booleans()}),
    "idempotency": st.fixed_dictionaries({}, optional={"ttl_s": delays, "key_fields": st.lists(texts)}),
}
some_fields = st.fixed_dictionaries(
    {name: common.pop(name) for name in ("id", "tool_name", "description", "parameters")}, optional=common
)
own_fields: st.SearchStrategy[tuple[type[ToolSpec], dict[str, Any]]] = st.one_of(
    st.tuples(st.just(FunctionToolSpec), st.just({})),
    st.tuples(
        st.just(HttpToolSpec),
        st.fixed_dictionaries(
            {"url": st.just("https://example.com/{id}"), "method": st.sampled_from(["get", "POST"])},
            optional={
                "headers": st.dictionaries(st.sampled_from(["Accept", "X-Page"]), texts),
                "query_params": st.dictionaries(st.sampled_from(["page", "size"]), json_values),
                "body": json_values,
            },
        ),
    ),
    st.tuples(st.just(SqliteToolSpec), st.fixed_dictionaries({}, optional={"timeout": delays})),
    st.tuples(st.just(DynamoDbToolSpec), st.fixed_dictionaries({"table_name": texts.filter(bool)})),
)


@given(some_fields, own_fields)
def test_a_spec_is_the_same_after_it_was_written_and_read(
    fields: dict[str, Any], own: tuple[type[ToolSpec], dict[str, Any]]
) -> None:
    spec = own[0](**fields, **own[1])

    read = tool_from_json(tool_to_json(spec))

    assert read == spec
    assert type(read) is type(spec)
    assert tool_from_dict(tool_to_dict(spec)) == spec
    assert json.loads(tool_to_json(spec)) == tool_to_dict(spec)


def test_one_of_survives_too() -> None:
    payment = ObjectParameter(
        name="payment", oneOf=[ObjectParameter(name="card", properties={"n": IntegerParameter(name="n")})]
    )
    spec = FunctionToolSpec(**{**COMMON, "parameters": [payment]})

    assert tool_from_json(tool_to_json(spec)) == spec


def test_policies_that_nobody_set_are_not_written() -> None:
    spec = FunctionToolSpec(**COMMON)
    spec.retry.max_attempts = 5

    written = tool_to_dict(spec)

    assert written["retry"] == {"max_attempts": 5}
    assert written.keys().isdisjoint({"circuit_breaker", "idempotency"})


# secrets


def test_secrets_are_left_out_and_given_again_when_reading() -> None:
    spec = PostgreSqlToolSpec(**COMMON, **POSTGRES, connection_string="postgresql://clerk:hunter2@db/shop")

    text = tool_to_json(spec)

    assert "hunter2" not in text
    with pytest.raises(ToolSerializationError, match="needs 'password', which is never written; give it by secrets"):
        tool_from_json(text)
    secrets = {"password": "hunter2", "connection_string": "postgresql://clerk:hunter2@db/shop"}
    assert tool_from_json(text, secrets=secrets) == spec


def test_a_reference_to_a_secret_is_written() -> None:
    spec = PostgreSqlToolSpec(**{**COMMON, **POSTGRES, "password": "secret://shop/db"})

    assert tool_to_dict(spec)["password"] == "secret://shop/db"
    assert tool_from_json(tool_to_json(spec)) == spec


def test_credentials_in_headers_and_queries_are_left_out() -> None:
    spec = HttpToolSpec(
        **COMMON,
        url="https://example.com",
        headers={"Authorization": "Bearer hunter2", "Cookie": "secret://jar", "Accept": "text/plain"},
        query_params={"api_key": "hunter2", "page": 2},
    )

    written = tool_to_dict(spec)

    assert written["headers"] == {"Cookie": "secret://jar", "Accept": "text/plain"}
    assert written["query_params"] == {"page": 2}
    secrets = {"headers": {"Authorization": "Bearer hunter2"}, "query_params": {"api_key": "hunter2"}}
    assert tool_from_dict(written, secrets=secrets) == spec


def test_a_secret_setting_of_ones_own_driver_is_left_out() -> None:
    register_db_driver("mongodb", DbToolSpec)
    spec = DbToolSpec(**COMMON, driver="mongodb", database="shop", password="hunter2")

    written = tool_to_dict(spec)

    assert written["database"] == "shop"
    assert "password" not in written
    assert tool_from_dict(written, secrets={"password": "hunter2"}) == spec


# drivers


class MongoToolSpec(DbToolSpec):
    driver: str = "mongodb"
    database: str


def test_a_registered_driver_chooses_the_class() -> None:
    spec = MongoToolSpec(**COMMON, database="shop")
    with pytest.raises(ToolSerializationError, match=r"register_db_driver\('mongodb', MongoToolSpec\)"):
        tool_to_dict(spec)

    register_db_driver("mongodb", MongoToolSpec)

    read = tool_from_json(tool_to_json(spec))
    assert isinstance(read, MongoToolSpec)
    assert read == spec


def test_a_driver_is_replaced_only_when_asked() -> None:
    class OtherToolSpec(DbToolSpec):
        driver: str = "mongodb"

    register_db_driver("mongodb", MongoToolSpec)
    register_db_driver("mongodb", MongoToolSpec)
    with pytest.raises(ConfigurationError, match="driver 'mongodb' has MongoToolSpec already"):
        register_db_driver("mongodb", OtherToolSpec)
    register_db_driver("mongodb", OtherToolSpec, replace=True)

    assert isinstance(tool_from_dict(tool_to_dict(OtherToolSpec(**COMMON))), OtherToolSpec)


@pytest.mark.parametrize("wrong", [FunctionToolSpec, "MongoToolSpec", None])
def test_a_class_that_is_no_database_spec_cannot_be_registered(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"driver 'mongodb': .* subclass DbToolSpec"):
        register_db_driver("mongodb", wrong)


def test_a_class_of_another_driver_cannot_be_registered() -> None:
    with pytest.raises(ConfigurationError, match="SqliteToolSpec is for 'sqlite'"):
        register_db_driver("litefs", SqliteToolSpec)


# what cannot be written or read


@pytest.mark.parametrize("name", ["retry_policy", "circuit_breaker_policy", "idempotency_key_generator"])
def test_a_policy_object_cannot_be_written(name: str) -> None:
    spec = FunctionToolSpec(**COMMON)
    setattr(spec, name, lambda: None)

    with pytest.raises(ToolSerializationError, match=f"create_order: {name} holds a function"):
        tool_to_json(spec)


def test_a_class_that_would_be_read_as_another_is_not_written() -> None:
    class Slug(StringParameter):
        format: str | None = "slug"

    class Special(FunctionToolSpec):
        pass

    with pytest.raises(ToolSerializationError, match=r"parameter 's' is a Slug, .* use StringParameter"):
        tool_to_dict(FunctionToolSpec(**{**COMMON, "parameters": [Slug(name="s")]}))
    with pytest.raises(ToolSerializationError, match="a Special cannot be read again"):
        tool_to_dict(Special(**COMMON))
    with pytest.raises(ToolSerializationError, match="a ToolSpec cannot be read again"):
        tool_to_dict(ToolSpec(**COMMON, tool_type=ToolType.HTTP))
    with pytest.raises(ToolSerializationError, match="a DbToolSpec of driver 'dynamodb' cannot be read again"):
        tool_to_dict(DbToolSpec(**COMMON))


def test_what_was_put_into_a_spec_unchecked_is_refused_when_it_is_no_json() -> None:
    spec = FunctionToolSpec(**COMMON)
    spec.examples.append({"at": object()})

    with pytest.raises(ToolSerializationError, match="examples holds a object, which is not data"):
        tool_to_dict(spec)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tool_type": None}, "tool_type is missing; known: function, http, db"),
        ({"tool_type": "functon"}, "tool_type 'functon' is unknown; did you mean 'function'?"),
        ({"tool_type": 3}, "tool_type must be text, not int"),
        ({"tool_type": "db", "driver": "mongodb"}, "known: dynamodb, postgresql, mysql, sqlite; register_db"),
        ({"tool_type": "db", "driver": "sqllite"}, "did you mean 'sqlite'?"),
        ({"timeout": 3}, "no field 'timeout'; did you mean 'timeout_s'?"),
        ({"timeout_s": -1}, "timeout_s must be more than 0, got -1"),
        ({"parameters": [{"name": "a", "type": "text"}]}, "parameters[0]: parameter 'a' has type 'text'"),
    ],
)
def test_a_wrong_field_is_named_when_reading(change: dict[str, Any], said: str) -> None:
    data = tool_to_dict(FunctionToolSpec(**COMMON)) | change

    with pytest.raises(ToolSerializationError) as caught:
        tool_from_dict(data)

    assert said in str(caught.value)


def deep(levels: int) -> str:
    start = '{"tool_type":"function","id":"a","tool_name":"a","description":"","parameters":['
    return start + '{"name":"p","type":"array","items":' * levels + '{"type":"string"}' + "}" * levels + "]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "the text is not JSON: "),
        (b"\xff{}", "the text is not JSON: "),
        (None, "the text is not JSON: "),
        ("[]", "a spec is read from a mapping, not from a list"),
        ('{"id": "a", "id": "b"}', "the key 'id' is given twice"),
        ('{"parameters": [{"name": "a", "name": "b"}]}', "the key 'name' is given twice"),
        ('{"tool_type": "function", "timeout_s": ' + "9" * 5000 + "}", "the text is not JSON: "),
        ('{"a":' * 100_000, "the spec is nested too deeply"),
        (deep(600), "the spec is nested too deeply"),
    ],
    ids=range(9),
)
def test_what_is_no_spec_is_refused(text: Any, said: str) -> None:
    with pytest.raises(ToolSerializationError) as caught:
        tool_from_json(text)

    assert said in str(caught.value)


def test_field_names_that_are_no_text_are_refused() -> None:
    with pytest.raises(ToolSerializationError, match="the names of a spec's fields are text, not int"):
        tool_from_dict({1: 2})  # type: ignore[dict-item]


def test_numbers_that_json_lacks_are_refused() -> None:
    text = tool_to_json(FunctionToolSpec(**COMMON)).replace('"timeout_s": 30', '"timeout_s": NaN')

    with pytest.raises(ToolSerializationError, match="timeout_s must be a finite number"):
        tool_from_json(text)
