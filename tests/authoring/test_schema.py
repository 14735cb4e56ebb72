"""One compiled check, whether parameters come from a signature, a model or a schema."""

import datetime
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field, field_validator, model_validator

from toolpost import ConfigurationError, InputValidationError, ToolContext
from toolpost.authoring.schema import SchemaCheck, context_parameter, from_model, from_signature


def check(checker, arguments):
    try:
        return checker.convert(arguments)
    except Exception as raised:
        return checker.mend(arguments, raised)


def codes(checker, arguments):
    with pytest.raises(InputValidationError) as caught:
        check(checker, arguments)
    return {p["path"]: p["type"] for p in caught.value.errors()}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    sku: str
    amount: int = 1


class Order(BaseModel):
    items: list[Item]
    note: str | None = None


def every_kind(
    text: str,
    whole: int,
    number: float,
    flag: bool,
    colour: Colour = Colour.RED,
    size: Literal["s", "m"] = "s",
    day: datetime.date | None = None,
    path: Path = Path("."),
    ident: uuid.UUID | None = None,
    tags: list[str] = [],  # noqa: B006 - what is tested is that it is never shared
    counts: dict[str, int] | None = None,
    order: Order | None = None,
    anything: Any = None,
    bounded: Annotated[int, Field(ge=1, le=9)] = 5,
):
    """Take everything.

    Args:
        text: What is said.
        whole (int): How often,
            and then some.

    Returns:
        nothing: at all
    """


REQUIRED = {"text": "a", "whole": 1, "number": 1.5, "flag": True}


class TestSignature:
    def test_values_arrive_typed_and_defaults_are_applied(self):
        _, checker = from_signature(every_kind)

        values = check(checker, {**REQUIRED, "colour": "blue", "day": "2026-01-02", "order": {"items": [{"sku": "x"}]}})

        assert values["colour"] is Colour.BLUE
        assert values["day"] == datetime.date(2026, 1, 2)
        assert values["order"] == Order(items=[Item(sku="x", amount=1)])
        assert (values["bounded"], values["size"], values["path"]) == (5, "s", Path("."))

    def test_python_values_are_taken_as_they_are(self):
        _, checker = from_signature(every_kind)
        order = Order(items=[])

        values = check(checker, {**REQUIRED, "colour": Colour.BLUE, "day": datetime.date(2026, 1, 2), "order": order})

        assert values["colour"] is Colour.BLUE
        assert values["order"] is order

    def test_a_mutable_default_is_never_shared(self):
        _, checker = from_signature(every_kind)

        check(checker, REQUIRED)["tags"].append("spoilt")

        assert check(checker, REQUIRED)["tags"] == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("whole", True),
            ("whole", 1.5),
            ("whole", "1"),
            ("whole", None),
            ("whole", float("nan")),
            ("number", True),
            ("number", "1.5"),
            ("number", float("inf")),
            ("number", float("nan")),
            ("flag", 1),
            ("flag", "yes"),
            ("text", 1),
            ("bounded", 10),
            ("size", "xl"),
            ("colour", "green"),
            ("tags", [1]),
            ("tags", "abc"),
            ("counts", {"a": True}),
            ("order", {"items": [{"sku": "x", "amount": 1.5}]}),
        ],
    )
    def test_what_does_not_fit_is_refused_at_its_place(self, name, value):
        _, checker = from_signature(every_kind)

        found = codes(checker, {**REQUIRED, name: value})

        assert len(found) == 1
        assert next(iter(found)).startswith(f"/{name}")

    @pytest.mark.parametrize(
        ("name", "value", "expected"), [("whole", 3.0, 3), ("bounded", 7.0, 7), ("number", 2, 2.0)]
    )
    def test_whole_floats_are_integers_and_integers_are_numbers(self, name, value, expected):
        _, checker = from_signature(every_kind)

        got = check(checker, {**REQUIRED, name: value})[name]

        assert got == expected
        assert type(got) is type(expected)

    def test_bounds_hold_for_whole_floats_too(self):
        _, checker = from_signature(every_kind)

        assert codes(checker, {**REQUIRED, "bounded": 10.0}) == {"/bounded": "maximum"}

    def test_what_is_missing_or_unknown_is_named(self):
        _, checker = from_signature(every_kind)
        arguments = {k: v for k, v in REQUIRED.items() if k != "text"} | {"txt": "a"}

        with pytest.raises(InputValidationError, match="unknown argument 'txt'; did you mean 'text'"):
            check(checker, arguments)
        assert codes(checker, arguments) == {"/text": "missing", "/txt": "unknown"}

    def test_the_schema_says_what_the_signature_says(self):
        schema, _ = from_signature(every_kind)

        assert schema["required"] == ["text", "whole", "number", "flag"]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["text"] == {"type": "string", "description": "What is said."}
        assert schema["properties"]["whole"]["description"] == "How often, and then some."
        assert "nothing" not in schema["properties"]
        assert "title" not in str(schema["properties"]["bounded"])

    def test_optional_parameters_are_known(self):
        _, checker = from_signature(every_kind)

        assert checker.optional == frozenset(every_kind.__annotations__) - set(REQUIRED)

    def test_the_context_is_hidden(self):
        def body(n: int, ctx: ToolContext):
            pass

        def maybe(n: int, ctx: ToolContext | None = None):
            pass

        assert (context_parameter(body), context_parameter(maybe), context_parameter(every_kind)) == (
            "ctx",
            "ctx",
            None,
        )

    def test_further_names_are_taken_where_the_function_takes_them(self):
        def body(n: int, **more: Any):
            pass

        schema, checker = from_signature(body)

        assert check(checker, {"n": 1, "x": [1]}) == {"n": 1, "x": [1]}
        assert schema["additionalProperties"] is True

    def test_what_cannot_be_given_by_name_is_refused_with_the_way_out(self):
        def positional(n, /):
            pass

        def starred(*numbers):
            pass

        for func in (positional, starred):
            with pytest.raises(ConfigurationError, match="cannot be given by name"):
                from_signature(func)

    def test_an_annotation_that_names_nothing_is_refused(self):
        def body(n: "Nowhere"):  # noqa: F821
            pass

        with pytest.raises(ConfigurationError, match="Nowhere"):
            from_signature(body)

    def test_a_class_without_a_json_form_is_refused_when_declared(self):
        class Socket:
            pass

        def body(s: Socket):
            pass

        with pytest.raises(ConfigurationError, match="no JSON form"):
            from_signature(body)


class TestModel:
    def test_nested_models_stay_models_and_validators_run(self):
        class Basket(BaseModel):
            order: Order
            code: str = "none"

            @field_validator("code")
            @classmethod
            def lower(cls, value: str) -> str:
                return value.lower()

            @model_validator(mode="after")
            def known(self):
                if self.code == "bad":
                    raise ValueError("that code is not valid")
                return self

        _, checker = from_model(Basket)

        values = check(checker, {"order": {"items": []}, "code": "ABC"})
        assert values == {"order": Order(items=[]), "code": "abc"}
        with pytest.raises(InputValidationError, match="that code is not valid"):
            check(checker, {"order": {"items": []}, "code": "bad"})

    @pytest.mark.parametrize("amount", [True, 1.5, "2"])
    def test_numbers_are_as_strict_as_in_a_signature_however_deep(self, amount):
        _, checker = from_model(Order)

        assert codes(checker, {"items": [{"sku": "a", "amount": amount}]}) == {"/items/0/amount": "type"}

    def test_a_field_may_ask_for_coercion(self):
        class Lax(BaseModel):
            n: Annotated[int, Field(strict=False)]

        _, checker = from_model(Lax)

        assert check(checker, {"n": "5"}) == {"n": 5}

    def test_unknown_fields_are_refused_unless_the_model_says_otherwise(self):
        class Open(BaseModel, extra="allow"):
            n: int

        class Deaf(BaseModel, extra="ignore"):
            n: int

        assert codes(from_model(Item)[1], {"sku": "a", "x": 1}) == {"/x": "unknown"}
        assert check(from_model(Open)[1], {"n": 1, "x": 2}) == {"n": 1, "x": 2}
        assert check(from_model(Deaf)[1], {"n": 1, "x": 2}) == {"n": 1}

    def test_a_model_that_holds_itself_works(self):
        class Node(BaseModel):
            value: int
            children: list["Node"] = []

        Node.model_rebuild(_types_namespace={"Node": Node})
        schema, checker = from_model(Node)

        assert check(checker, {"value": 1, "children": [{"value": 2}]})["children"][0].value == 2
        assert codes(checker, {"value": 1, "x": 1}) == {"/x": "unknown"}
        assert "properties" in schema or "$ref" in schema


class TestSchema:
    CHECK = SchemaCheck(
        {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "s": {"type": "string", "default": "x"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    )

    def test_it_means_the_same_as_a_signature(self):
        def body(n: int, s: str = "x"):
            pass

        _, typed = from_signature(body)
        for value in (1, 2.0, True, 1.5, "1", None, [], 10**30):
            outcomes = []
            for checker in (self.CHECK, typed):
                try:
                    outcomes.append(check(checker, {"n": value}))
                except InputValidationError as error:
                    outcomes.append([(p["path"], p["type"], p["msg"]) for p in error.errors()])
            assert outcomes[0] == outcomes[1], value

    @given(
        st.dictionaries(
            st.sampled_from(["n", "s", "x"]), st.none() | st.booleans() | st.integers() | st.text(max_size=3)
        )
    )
    def test_both_engines_take_and_refuse_the_same(self, arguments):
        def body(n: int, s: str = "x"):
            pass

        _, typed = from_signature(body)
        outcomes = []
        for checker in (self.CHECK, typed):
            try:
                outcomes.append(check(checker, arguments))
            except InputValidationError as error:
                outcomes.append(sorted((p["path"], p["type"]) for p in error.errors()))
        assert outcomes[0] == outcomes[1]
