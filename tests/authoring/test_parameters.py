"""What the parameter classes say, and what they refuse to say."""

from __future__ import annotations

import math
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, strategies as st

from toolpost.authoring.parameters import (
    ArrayParameter,
    BooleanParameter,
    IntegerParameter,
    NumericParameter,
    ObjectParameter,
    ParameterType,
    StringParameter,
    ToolParameter,
    coercions,
    parameter_from,
    parameters_to_json_schema,
)
from toolpost.calls.errors import ConfigurationError


def fits(parameter: ToolParameter, value: Any) -> bool:
    return jsonschema_rs.Draft202012Validator(parameter.json_schema(), validate_formats=True).is_valid(value)


def test_the_types_are_those_of_json_schema() -> None:
    assert [kind.value for kind in ParameterType] == [
        "string",
        "number",
        "integer",
        "boolean",
        "array",
        "object",
    ]


def test_a_parameter_needs_no_more_than_a_name() -> None:
    parameter = StringParameter(name="order_id", required=True)

    assert parameter.type is ParameterType.STRING
    assert (parameter.description, parameter.default, parameter.deprecated, parameter.examples) == (
        "",
        None,
        False,
        [],
    )
    assert (parameter.enum, parameter.format, parameter.pattern, parameter.coerce) == (
        None,
        None,
        None,
        False,
    )
    assert parameter.json_schema() == {"type": "string"}


@pytest.mark.parametrize(
    ("parameter", "schema"),
    [
        (
            StringParameter(name="s", description="a code", min_length=2, max_length=4, pattern="[A-Z]+"),
            {
                "type": "string",
                "description": "a code",
                "minLength": 2,
                "maxLength": 4,
                "pattern": "^(?:[A-Z]+)$",
            },
        ),
        (
            StringParameter(name="s", enum=["a", "b"], default="b", examples=["a"], deprecated=True),
            {"type": "string", "enum": ["a", "b"], "default": "b", "examples": ["a"], "deprecated": True},
        ),
        (StringParameter(name="s", format="email"), {"type": "string", "format": "email"}),
        (NumericParameter(name="n", min=0, max=1.5), {"type": "number", "minimum": 0, "maximum": 1.5}),
        (IntegerParameter(name="i", min=1, default=2), {"type": "integer", "minimum": 1, "default": 2}),
        (BooleanParameter(name="b", default=False), {"type": "boolean", "default": False}),
        (
            ArrayParameter(
                name="a",
                items=IntegerParameter(name="n", min=0),
                min_items=1,
                max_items=3,
                unique_items=True,
            ),
            {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 1,
                "maxItems": 3,
                "uniqueItems": True,
            },
        ),
        (ArrayParameter(name="a"), {"type": "array"}),
        (ObjectParameter(name="o"), {"type": "object"}),
        (ToolParameter(name="any", description="anything"), {"description": "anything"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_parameter_gives_its_json_schema(parameter: ToolParameter, schema: dict[str, Any]) -> None:
    assert parameter.json_schema() == schema


@pytest.mark.parametrize("value", ["ab", "xab", "abx", "ab\n", "b"])
def test_a_pattern_must_match_the_whole_text(value: str) -> None:
    assert fits(StringParameter(name="s", pattern="a|ab"), value) is (value == "ab")


def test_an_object_takes_its_properties_and_no_others() -> None:
    address = ObjectParameter(
        name="address",
        properties={
            "city": StringParameter(name="city", required=True),
            "zip": {"type": "string", "pattern": "[0-9]{5}"},
        },
    )

    assert address.json_schema() == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "zip": {"type": "string", "pattern": "^(?:[0-9]{5})$"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    assert fits(address, {"city": "Rome", "zip": "00100"})
    assert not fits(address, {"zip": "00100"})
    assert not fits(address, {"city": "Rome", "street": "Corso"})


def test_properties_may_be_a_list_of_parameters() -> None:
    listed = ObjectParameter.model_validate({"name": "o", "properties": [IntegerParameter(name="n")]})

    assert listed == ObjectParameter(name="o", properties={"n": IntegerParameter(name="n")})


def test_one_of_adds_its_properties_to_those_of_the_object() -> None:
    payment = ObjectParameter(
        name="payment",
        properties={"amount": NumericParameter(name="amount", required=True)},
        oneOf=[
            ObjectParameter(name="card", properties={"number": StringParameter(name="number", required=True)}),
            ObjectParameter(name="bank", properties={"iban": StringParameter(name="iban", required=True)}),
        ],
    )

    assert fits(payment, {"amount": 1, "number": "4111"})
    assert fits(payment, {"amount": 1, "iban": "DE00"})
    assert not fits(payment, {"number": "4111"})
    assert not fits(payment, {"amount": 1})
    assert not fits(payment, {"amount": 1, "iban": "DE00", "number": "4111"})


def test_an_option_of_one_of_may_narrow_a_property_of_the_object() -> None:
    def kind(value: str) -> StringParameter:
        return StringParameter(name="kind", enum=[value], required=True)

    shape = ObjectParameter(
        name="shape",
        properties={"kind": StringParameter(name="kind", required=True)},
        oneOf=[
            ObjectParameter(
                name="c", properties={"kind": kind("circle"), "r": NumericParameter(name="r", required=True)}
            ),
            ObjectParameter(name="p", properties={"kind": kind("point")}),
        ],
    )

    assert fits(shape, {"kind": "circle", "r": 2})
    assert fits(shape, {"kind": "point"})
    assert not fits(shape, {"kind": "point", "r": 2})


def test_parameters_give_the_schema_of_an_object() -> None:
    parameters = [
        StringParameter(name="order_id", required=True),
        NumericParameter(name="amount", description="in euro", default=1),
    ]

    assert parameters_to_json_schema(parameters) == {
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "amount": {"type": "number", "description": "in euro", "default": 1},
        },
        "required": ["order_id"],
        "additionalProperties": False,
    }
    assert parameters_to_json_schema([]) == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_two_parameters_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two parameters are named 'a'"):
        parameters_to_json_schema([StringParameter(name="a"), NumericParameter(name="a")])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: StringParameter(name="x", min_length=4, max_length=2),
            "min_length 4 is more than max_length 2",
        ),
        (lambda: NumericParameter(name="x", min=2, max=1.5), "min 2 is more than max 1.5"),
        (lambda: ArrayParameter(name="x", min_items=2, max_items=1), "min_items 2 is more than max_items 1"),
        (lambda: StringParameter(name="x", pattern="("), "is not a regular expression"),
        (lambda: StringParameter(name="x", pattern="a)(b"), "is not a regular expression"),
        (lambda: StringParameter(name="x", pattern=r"a\Z"), "is not a regular expression"),
        (lambda: StringParameter(name="x", default="b", enum=["a"]), "default does not fit"),
        (lambda: StringParameter(name="x", default=5), "default does not fit: 5 is not of type"),
        (lambda: IntegerParameter(name="x", default=1.5), "default does not fit"),
        (lambda: NumericParameter(name="x", default=True), "default does not fit"),
        (lambda: StringParameter(name="x", format="email", default="nobody"), "default does not fit"),
        (lambda: ArrayParameter(name="x", items={"type": "integer"}, default=["a"]), "default does not fit"),
        (lambda: IntegerParameter(name="x", max=3, examples=[2, 4]), "an example does not fit"),
        (lambda: StringParameter(name="x", required=True, default="a"), "required=True and a default"),
        (lambda: StringParameter(name="x", enum=["a", "b", "a"]), "enum has 'a' twice"),
        (lambda: StringParameter(name="x", enum=[]), "enum must list at least one text"),
        (lambda: StringParameter(name="x", enum=["a", "bcd"], max_length=2), "a text of enum does not fit"),
        (lambda: StringParameter(name=" "), "name must be text"),
        (lambda: ObjectParameter(name="x", oneOf=[]), "oneOf must be a list of at least one ObjectParameter"),
        (lambda: ObjectParameter(name="x", oneOf=[StringParameter(name="s")]), "oneOf has a StringParameter"),
        (
            lambda: ObjectParameter(name="x", properties={"a": StringParameter(name="b")}),
            "'a' holds a parameter named 'b'",
        ),
        (
            lambda: ObjectParameter(
                name="x",
                oneOf=[ObjectParameter(name="o", properties={"a": StringParameter(name="a", coerce=True)})],
            ),
            "coerce=True, so that two options could fit",
        ),
        (
            lambda: ObjectParameter(
                name="x",
                properties={"a": StringParameter(name="a", coerce=True)},
                oneOf=[ObjectParameter(name="o", properties={"a": IntegerParameter(name="a")})],
            ),
            "coerce=True, so that two options could fit",
        ),
    ],
)
def test_a_contradiction_is_refused_when_it_is_declared(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert f"{said}" in str(caught.value)
    assert "Parameter 'x'" in str(caught.value) or "Parameter:" in str(caught.value) or said.startswith("name")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"minLength": 3}, "no field 'minLength'; did you mean 'min_length'?"),
        ({"max_len": 3}, "did you mean 'max_length'?"),
        ({"zzz": 1}, "no field 'zzz'; it has type, name, description"),
        ({"min_length": -1}, "min_length must be greater than or equal to 0, got -1"),
        ({"min_length": 1.0}, "min_length must be a valid integer, got 1.0"),
        ({"max_length": True}, "max_length must be a valid integer, got True"),
        ({"required": "yes"}, "required must be a valid boolean, got 'yes'"),
        ({"description": None}, "description must be a valid string, got None"),
        ({"enum": ["a", 1]}, "enum[1] must be a valid string, got 1"),
        ({"default": {1, 2}}, "default must be JSON, got a value of type set"),
        ({"default": {0: "a"}}, "default must be JSON, whose keys are text, got a key of type int"),
        ({"examples": [math.inf]}, "must be JSON, which has no inf"),
        ({"type": "integer"}, "type 'integer' does not belong to StringParameter; use IntegerParameter"),
    ],
)
def test_a_mistake_names_the_parameter_the_field_and_the_fix(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StringParameter(**{"name": "code", **wrong})

    assert str(caught.value).startswith("StringParameter 'code': ")
    assert said in str(caught.value)


@pytest.mark.parametrize("bound", ["1", True, math.nan, math.inf, [1]])
def test_a_bound_must_be_a_finite_number(bound: Any) -> None:
    with pytest.raises(ConfigurationError, match="min must be a finite number, got"):
        NumericParameter(name="n", min=bound)


def test_all_mistakes_of_a_parameter_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match="needs 'name'; no field 'nam'; did you mean 'name'"):
        StringParameter.model_validate({"nam": "x"})


def test_a_parameter_cannot_be_changed() -> None:
    parameter = StringParameter(name="a")

    with pytest.raises(ConfigurationError, match="name cannot be changed: make a new StringParameter"):
        parameter.name = "b"

    assert parameter.name == "a"


def test_a_default_is_copied_in_and_out() -> None:
    tags = ["a"]
    parameter = ArrayParameter(name="tags", default=tags)
    tags.append("b")
    parameter.json_schema()["default"].append("c")

    assert parameter.json_schema()["default"] == ["a"]


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(ConfigurationError, match="not nested so deeply"):
        ToolParameter(name="x", default=loop)


@pytest.mark.parametrize("kind", list(ParameterType))
def test_a_mapping_becomes_the_class_of_its_type(kind: ParameterType) -> None:
    made = parameter_from({"type": kind, "name": "x"})

    assert made.type is kind
    assert parameter_from({"type": kind.value, "name": "x"}) == made
    assert type(made) is not ToolParameter


def test_a_mapping_of_type_null_takes_any_json_value() -> None:
    assert parameter_from({"type": None, "name": "x"}) == ToolParameter(name="x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"name": "x", "type": "str"}, "parameter 'x' has type 'str'; did you mean 'string'?"),
        ({"name": "x", "type": "money"}, "the types are string, number, integer, boolean, array, object"),
        ({"name": "x"}, "parameter 'x' has no 'type'"),
        ({"name": "x", "type": ["string"]}, "parameter 'x' has type a value of type list"),
        ("x", "must be a ToolParameter or a mapping with a 'type', got 'x'"),
        ({1: 2}, "must be a ToolParameter or a mapping"),
    ],
)
def test_what_is_no_parameter_is_refused_with_the_fix(value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parameter_from(value)

    assert said in str(caught.value)


def test_a_dump_makes_the_same_parameter_again() -> None:
    parameter = ArrayParameter(
        name="rows",
        items=ObjectParameter(name="row", properties={"n": IntegerParameter(name="n", min=1)}),
    )

    assert parameter_from(parameter.model_dump(mode="json")) == parameter
    assert ArrayParameter.model_validate_json(parameter.model_dump_json()) == parameter


def test_a_mistake_in_json_is_a_configuration_error_too() -> None:
    with pytest.raises(ConfigurationError, match="no field 'nme'; did you mean 'name'"):
        StringParameter.model_validate_json('{"nme": "x"}')


@pytest.mark.parametrize(
    ("given_", "text"),
    [(5, "5"), (-2.5, "-2.5"), (True, "true"), (False, "false"), ("5", "5"), (None, None), ([1], [1])],
)
def test_coerce_turns_numbers_and_booleans_into_the_text_json_has(given_: Any, text: Any) -> None:
    found = coercions([StringParameter(name="a", coerce=True), StringParameter(name="b")])

    assert set(found) == {"a"}
    assert found["a"](given_) == text


def test_coerce_reaches_into_lists_and_objects() -> None:
    ids = ArrayParameter(name="ids", items=StringParameter(name="id", coerce=True))
    order = ObjectParameter(name="order", properties={"ids": ids, "n": IntegerParameter(name="n")})
    found = coercions([ids, order, ArrayParameter(name="other")])

    assert set(found) == {"ids", "order"}
    assert found["ids"]([1, "a", True]) == ["1", "a", "true"]
    assert found["ids"](1) == 1
    assert found["order"]({"ids": [1], "n": 1, "more": 1}) == {"ids": ["1"], "n": 1, "more": 1}
    assert found["order"]("no object") == "no object"


def test_coerce_leaves_what_cannot_be_written_for_the_check_to_refuse() -> None:
    coerce = coercions([StringParameter(name="a", coerce=True)])["a"]
    too_long = 10**5000

    assert coerce(too_long) == too_long
    assert math.isnan(coerce(math.nan))


def test_coercing_does_not_change_what_was_given() -> None:
    given_ = {"ids": [1]}
    order = ObjectParameter(
        name="order",
        properties={"ids": ArrayParameter(name="ids", items=StringParameter(name="id", coerce=True))},
    )

    coercions([order])["order"](given_)

    assert given_ == {"ids": [1]}


@given(low=st.integers(-1000, 1000), high=st.integers(-1000, 1000), value=st.integers(-2000, 2000))
def test_bounds_are_allowed_values_and_what_lies_outside_is_not(low: int, high: int, value: int) -> None:
    low, high = sorted((low, high))

    assert fits(IntegerParameter(name="n", min=low, max=high), value) is (low <= value <= high)


@given(st.text(max_size=20), st.integers(0, 10), st.integers(0, 10))
def test_lengths_count_characters(text: str, low: int, high: int) -> None:
    low, high = sorted((low, high))
    parameter = StringParameter(name="s", min_length=low, max_length=high)

    assert fits(parameter, text) is (low <= len(text) <= high)
