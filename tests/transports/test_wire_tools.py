"""Tools as models see them: names there and back, schemas in each provider's subset, strict or why not."""

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, strategies as st

from toolpost.calls import FunctionBody, Hints, ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.transports.wire_tools import (
    FORMATS,
    LIMITS,
    Format,
    decode_name,
    encode_name,
    export_tool,
    export_tools,
    strict_problems,
)

ALPHABET = {
    "openai": r"[A-Za-z0-9_-]{1,64}",
    "openai-chat": r"[A-Za-z0-9_-]{1,64}",
    "anthropic": r"[A-Za-z0-9_-]{1,128}",
    "gemini": r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}",
    "mcp": r"[A-Za-z0-9_.-]{1,128}",
    "toolpost": r"[A-Za-z0-9_.-]{1,128}",
}
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}", fullmatch=True) | st.from_regex(
    r"[adu_0][du_.]{0,30}", fullmatch=True
)


class Accepting:
    optional: frozenset[str] = frozenset()
    scalar = False

    def convert(self, arguments: dict[str, Any], /) -> dict[str, Any]:
        return arguments

    def mend(self, arguments: dict[str, Any], raised: Exception, /) -> dict[str, Any]:
        raise raised


def run() -> None: ...


def tool(parameters: Mapping[str, Any], name: str = "MyApp.Calculator", **more: Any) -> ToolDefinition:
    more.setdefault("description", "Add numbers.")
    return ToolDefinition(name=name, parameters=parameters, check=Accepting(), body=FunctionBody(func=run), **more)


def taking(**properties: Any) -> ToolDefinition:
    """A tool whose properties are all optional."""
    return tool({"type": "object", "properties": properties})


def strict_parameters(definition: ToolDefinition, format: Format = "openai") -> dict[str, Any]:
    exported = export_tool(definition, format, strict=True)
    assert exported["strict"] is True, strict_problems(definition, format)
    parameters: dict[str, Any] = exported["parameters" if format == "openai" else "input_schema"]
    return parameters


ADD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/add",
    "type": "object",
    "properties": {"a": {"type": "integer"}, "note": {"type": "string", "description": "Why."}},
    "required": ["a"],
}
ADD_SHOWN = {key: ADD[key] for key in ("type", "properties", "required")}


# Names.


@given(name=NAMES, format=st.sampled_from(FORMATS))
def test_every_legal_name_is_found_again_and_fits_the_providers_alphabet(name: str, format: Format) -> None:
    encoded = encode_name(name, format)

    assert re.fullmatch(ALPHABET[format], encoded)
    assert decode_name(encoded, format, known=[name]) == name
    if len(encoded) < LIMITS.get(format, 1000):
        assert decode_name(encoded, format) == name


@given(names=st.tuples(NAMES, NAMES), format=st.sampled_from(FORMATS))
def test_no_two_names_share_a_form(names: tuple[str, str], format: Format) -> None:
    first, second = names

    assert (encode_name(first, format) == encode_name(second, format)) == (first == second)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("MyApp.Calculator", "MyApp__Calculator"),
        ("get_weather", "get_weather"),
        ("a__b", "a___uu___b"),
        ("a._b", "a___du___b"),
        ("a_.b", "a___ud___b"),
        ("a..du..b", "a___dd___du___dd___b"),
        ("get-weather-2", "get-weather-2"),
    ],
)
@pytest.mark.parametrize("format", ["openai", "openai-chat", "anthropic"])
def test_dots_are_spelt_and_plain_names_stay_as_they_are(format: Format, name: str, encoded: str) -> None:
    assert encode_name(name, format) == encoded
    assert decode_name(encoded, format) == name


def test_gemini_and_mcp_keep_dots_and_gemini_takes_no_digit_first() -> None:
    assert encode_name("MyApp.Calculator", "gemini") == encode_name("MyApp.Calculator", "mcp") == "MyApp.Calculator"
    assert [encode_name(name, "gemini") for name in ("7zip", "_7zip", "_zip")] == ["_7zip", "__7zip", "_zip"]


def test_names_too_long_for_a_provider_end_in_a_digest_and_need_the_known_names() -> None:
    one, other = "Room." + "x" * 100 + ".a", "Room." + "x" * 100 + ".b"

    encoded = encode_name(one, "openai")

    assert len(encoded) == 64
    assert encoded != encode_name(other, "openai")
    assert decode_name(encoded, "openai", known=iter([other, one])) == one
    assert decode_name(encoded, "openai") == encoded


@pytest.mark.parametrize(
    "name", ["a___b", "a___x___b", "x____y", "Weather.Now", "a b", "", "__", "a_____b", "\ud800" * 99]
)
def test_a_name_nothing_encodes_to_comes_back_unchanged_or_legal(name: str) -> None:
    decoded = decode_name(name, "openai")

    assert decoded == name or encode_name(decoded, "openai") == name


def test_a_name_registered_as_it_stands_is_taken_when_its_decoding_is_not() -> None:
    assert decode_name("my__tool", "openai", known={"my__tool"}) == "my__tool"
    assert decode_name("my__tool", "openai", known={"my__tool", "my.tool"}) == "my.tool"


# Tools.


def test_a_tool_for_openai() -> None:
    assert export_tool(tool(ADD), "openai") == {
        "type": "function",
        "name": "MyApp__Calculator",
        "description": "Add numbers.",
        "parameters": ADD_SHOWN,
        "strict": False,
    }


def test_a_tool_for_openai_chat() -> None:
    assert export_tool(tool(ADD), "openai-chat") == {
        "type": "function",
        "function": {
            "name": "MyApp__Calculator",
            "description": "Add numbers.",
            "parameters": ADD_SHOWN,
            "strict": False,
        },
    }


def test_a_tool_for_anthropic_with_the_examples_that_fit() -> None:
    definition = tool(ADD, examples=({"a": 1}, {"note": "no a"}, {"a": 1, "zz": 2}, "text"))

    assert export_tool(definition, "anthropic") == {
        "name": "MyApp__Calculator",
        "description": "Add numbers.",
        "input_schema": ADD_SHOWN,
        "input_examples": [{"a": 1}],
    }


def test_tools_for_gemini_are_declarations_in_one_tool() -> None:
    nothing = tool({"type": "object", "properties": {}}, name="now", description="")

    assert export_tools([tool(ADD), nothing], "gemini") == [
        {
            "functionDeclarations": [
                {
                    "name": "MyApp.Calculator",
                    "description": "Add numbers.",
                    "parametersJsonSchema": ADD_SHOWN,
                },
                {"name": "now"},
            ]
        }
    ]
    assert export_tools([], "gemini") == []


def test_a_tool_for_mcp_with_the_hints_that_were_given() -> None:
    returns = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    hints = Hints(title="Adder", read_only=True, open_world=False)

    assert export_tool(tool(ADD, returns=returns, hints=hints), "mcp") == {
        "name": "MyApp.Calculator",
        "description": "Add numbers.",
        "inputSchema": ADD,
        "outputSchema": returns,
        "annotations": {"title": "Adder", "readOnlyHint": True, "openWorldHint": False},
    }


def test_mcp_is_told_no_output_schema_that_is_not_an_object_and_no_hints_nobody_gave() -> None:
    exported = export_tool(tool(ADD, returns={"type": "integer"}), "mcp")

    assert set(exported) == {"name", "description", "inputSchema"}


def test_our_own_form_tells_what_others_have_no_place_for() -> None:
    exported = export_tool(tool(ADD, tags=("math",), returns={"type": "integer"}, requires_auth=True), "toolpost")

    assert exported["name"] == "MyApp.Calculator"
    assert exported["version"] == "1.0.0"
    assert exported["parameters"] == ADD
    assert (exported["returns"], exported["tags"], exported["requires_auth"]) == (
        {"type": "integer"},
        ["math"],
        True,
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("strict", [True, False])
def test_an_export_is_json_and_shares_nothing_with_the_definition(format: Format, strict: bool) -> None:
    definition = tool(copy.deepcopy(ADD), examples=({"a": 1},), returns={"type": "object", "properties": {}})
    before = json.dumps([definition.parameters, definition.returns, definition.examples])

    exported = export_tool(definition, format, strict=strict)
    json.dumps(exported)
    empty(exported)

    assert json.dumps([definition.parameters, definition.returns, definition.examples]) == before


def empty(value: Any) -> None:
    for item in list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        empty(item)
    if isinstance(value, dict | list):
        value.clear()


@pytest.mark.parametrize("format", ["openai", "anthropic", "gemini"])
def test_a_choice_at_the_root_is_told_in_words_for_providers_refuse_it(format: Format) -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "string"}},
        "required": ["id"],
        "anyOf": [
            {"properties": {"kind": {"const": "a"}, "x": {"type": "string"}}, "required": ["kind", "x"]},
            {"$ref": "#/$defs/B"},
        ],
        "$defs": {"B": {"properties": {"kind": {"const": "b"}, "y": {"type": "string"}}, "required": ["kind"]}},
    }

    exported = export_tool(tool(schema), format)
    shown = exported[{"openai": "parameters", "anthropic": "input_schema"}.get(format, "parametersJsonSchema")]

    assert "anyOf" not in shown
    assert shown["type"] == "object"
    assert shown["properties"]["kind"] == {"anyOf": [{"const": "a"}, {"const": "b"}]}
    assert set(shown["properties"]) == {"id", "kind", "x", "y"}
    assert shown["required"] == ["id", "kind"]
    assert "must also satisfy" in shown["description"]


def test_a_root_that_is_a_reference_is_shown_as_what_it_names() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}

    shown = export_tool(tool({"$ref": "#/$defs/Node", "$defs": {"Node": node}}), "openai")["parameters"]

    assert shown == {**node, "$defs": {"Node": node}}


def test_a_format_nobody_knows_is_refused() -> None:
    for use in (lambda: export_tool(tool(ADD), "claude"), lambda: encode_name("a", "claude")):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no format 'claude'; the formats are openai"):
            use()


# Strict mode.


def test_strict_openai_requires_everything_and_lets_the_optional_be_null() -> None:
    assert strict_parameters(tool(ADD)) == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": ["string", "null"], "description": "Why."}},
        "required": ["a", "note"],
        "additionalProperties": False,
    }


def test_strict_anthropic_keeps_the_optional_optional() -> None:
    assert strict_parameters(tool(ADD), "anthropic") == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": "string", "description": "Why."}},
        "required": ["a"],
        "additionalProperties": False,
    }


def test_strict_chat_says_so_inside_the_function() -> None:
    assert export_tool(tool(ADD), "openai-chat", strict=True)["function"]["strict"] is True


@pytest.mark.parametrize(
    ("optional", "nullable"),
    [
        ({"type": "string"}, {"type": ["string", "null"]}),
        ({"type": ["string", "integer"]}, {"type": ["string", "integer", "null"]}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"enum": ["a", "b"]}, {"type": ["string", "null"], "enum": ["a", "b", None]}),
        ({"enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
        (
            {"const": "a", "description": "A."},
            {"anyOf": [{"type": "string", "const": "a"}, {"type": "null"}], "description": "A."},
        ),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
        ),
        (
            {"oneOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "T"},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            {"anyOf": [{"type": "array", "items": {"type": "integer"}, "minItems": 2}, {"type": "null"}]},
        ),
        (
            {"type": ["array", "string"], "items": {"type": "integer"}},
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "string"},
                    {"type": "null"},
                ]
            },
        ),
        (
            {"allOf": [{"type": "string"}], "description": "D."},
            {"type": ["string", "null"], "description": "D."},
        ),
    ],
)
def test_what_is_optional_may_be_null_in_strict_openai(optional: dict[str, Any], nullable: dict[str, Any]) -> None:
    assert strict_parameters(taking(x=optional))["properties"]["x"] == nullable


@pytest.mark.parametrize("format", ["openai", "anthropic"])
def test_objects_are_closed_at_every_level(format: Format) -> None:
    point = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    schema = {
        "type": "object",
        "properties": {"at": point, "path": {"type": "array", "items": point}, "or": {"anyOf": [point]}},
        "required": ["at", "path", "or"],
    }

    shown = strict_parameters(tool(schema), format)["properties"]

    for place in (shown["at"], shown["path"]["items"], shown["or"]["anyOf"][0]):
        assert place == {**point, "additionalProperties": False}


def test_bounds_openai_takes_are_kept_and_others_are_told_in_the_description() -> None:
    shown = strict_parameters(
        taking(
            n={"type": "integer", "minimum": 1, "multipleOf": 2, "default": 4},
            s={"type": "string", "pattern": "^a", "minLength": 2, "description": "Text."},
            u={"type": "string", "format": "uri"},
            d={"type": "string", "format": "date"},
            look={"type": "string", "pattern": "^(?!x)"},
            tags={"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 3},
        )
    )["properties"]

    assert shown["n"] == {
        "type": ["integer", "null"],
        "minimum": 1,
        "multipleOf": 2,
        "description": "(default: 4)",
    }
    assert shown["s"] == {"type": ["string", "null"], "pattern": "^a", "description": "Text. (minLength: 2)"}
    assert shown["u"] == {"type": ["string", "null"], "description": '(format: "uri")'}
    assert shown["d"] == {"type": ["string", "null"], "format": "date"}
    assert shown["look"] == {"type": ["string", "null"], "description": '(pattern: "^(?!x)")'}
    assert shown["tags"]["description"] == "(uniqueItems: true)"
    assert shown["tags"]["anyOf"][0]["maxItems"] == 3


def test_anthropic_takes_no_bounds_but_a_first_item_and_more_formats() -> None:
    shown = strict_parameters(
        taking(
            n={"type": "integer", "minimum": 1, "maximum": 9},
            u={"type": "string", "format": "uri"},
            one={"type": "array", "items": {"type": "string"}, "minItems": 1},
            two={"type": "array", "items": {"type": "string"}, "minItems": 2},
            e={"type": "string", "enum": ["a", "b"]},
            either={"type": ["string", "null"]},
        ),
        "anthropic",
    )["properties"]

    assert shown["n"] == {"type": "integer", "description": "(minimum: 1, maximum: 9)"}
    assert shown["u"] == {"type": "string", "format": "uri"}
    assert shown["one"]["minItems"] == 1
    assert "minItems" not in shown["two"]
    assert shown["e"] == {"enum": ["a", "b"]}
    assert shown["either"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_a_property_named_like_a_keyword_survives() -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "default": {"type": "string"}, "$id": {"type": "string"}},
        "required": ["title", "default", "$id"],
    }

    assert list(strict_parameters(tool(schema))["properties"]) == ["title", "default", "$id"]


POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
CLOSED_POINT = {**POINT, "additionalProperties": False}


def test_definitions_are_made_strict_and_nothing_stands_beside_a_reference() -> None:
    schema = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/P"}, "to": {"$ref": "#/$defs/P", "description": "Goal."}},
        "required": ["at", "to"],
        "$defs": {"P": POINT, "Unused": {"type": "object"}},
    }

    openai, anthropic = strict_parameters(tool(schema)), strict_parameters(tool(schema), "anthropic")

    assert openai["$defs"] == {"P": CLOSED_POINT}
    assert openai["properties"]["at"] == {"$ref": "#/$defs/P"}
    assert openai["properties"]["to"] == {"anyOf": [{"$ref": "#/$defs/P"}], "description": "Goal."}
    assert anthropic["properties"]["to"] == {**CLOSED_POINT, "description": "Goal."}


def test_a_schema_that_holds_itself_is_strict_for_openai_only() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["next"],
    }
    definition = tool({"$ref": "#/$defs/Node", "$defs": {"Node": node}})

    shown = strict_parameters(definition)

    assert shown["$defs"]["Node"] == {**node, "additionalProperties": False}
    assert export_tool(definition, "anthropic", strict=True)["strict"] is False
    assert strict_problems(definition, "anthropic") == [
        "/$defs/Node/properties/next/anyOf/0: Anthropic takes no schema that holds itself"
    ]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "object"}, "/properties/x: an object must name its properties"),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            "/properties/x: keys that are not named",
        ),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, "/properties/x: keys"),
        ({}, "/properties/x: any JSON value"),
        (True, "/properties/x: any JSON value"),
        ({"type": "array"}, "/properties/x/items: any JSON value"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "/properties/x/prefixItems: "),
        (
            {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
            "/properties/x/patternProperties: ",
        ),
        ({"type": "string", "if": {"minLength": 1}, "then": {"maxLength": 2}}, "/properties/x/if: "),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "/properties/x/allOf: several schemas"),
        ({"enum": [{"a": 1}, "b"]}, "/properties/x: an enum may hold only"),
        ({"$ref": "https://example.com/x.json"}, "/properties/x: the reference 'https://example.com/x.json'"),
        ({"$ref": "#/$defs/Gone"}, "/properties/x: the reference '#/$defs/Gone'"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"]},
            "'b' is required",
        ),
    ],
)
@pytest.mark.parametrize("format", ["openai", "anthropic"])
def test_what_has_no_strict_form_falls_back_to_the_open_schema_and_says_why(
    format: Format, schema: Any, place: str
) -> None:
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    definition = tool(parameters)

    exported = export_tool(definition, format, strict=True)

    assert exported["strict"] is False
    assert exported["parameters" if format == "openai" else "input_schema"] == parameters
    assert any(place in problem for problem in strict_problems(definition, format))


def test_a_choice_at_the_root_has_no_strict_form() -> None:
    definition = tool({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]})

    assert "the schema: anyOf stands at the root" in strict_problems(definition, "openai")
    assert export_tool(definition, "openai", strict=True)["strict"] is False


def test_an_optional_inside_an_argument_must_take_null_itself_to_be_strict() -> None:
    def inner(property: dict[str, Any]) -> ToolDefinition:
        return taking(options={"type": "object", "properties": {"deep": property}})

    assert strict_problems(inner({"type": ["boolean", "null"]}), "openai") == []
    assert strict_problems(inner({"type": "boolean"}), "anthropic") == []
    (problem,) = strict_problems(inner({"type": "boolean"}), "openai")
    assert problem.startswith("/properties/options/properties/deep: it is optional inside another value")


@pytest.mark.parametrize(
    ("format", "parameters", "said"),
    [
        ("openai", {f"p{i}": {"type": "string"} for i in range(5001)}, "5001 properties"),
        ("openai", {"e": {"enum": [str(i) for i in range(1001)]}}, "1001 enum values"),
        ("anthropic", {f"p{i}": {"type": "string"} for i in range(25)}, "25 optional properties"),
        ("anthropic", {f"p{i}": {"type": ["string", "null"]} for i in range(17)}, "17 choices between types"),
    ],
)
def test_what_exceeds_a_providers_limits_is_not_strict(format: Format, parameters: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in strict_problems(taking(**parameters), format))


def test_nesting_beyond_ten_levels_is_not_strict_for_openai() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(11):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}

    assert any("deeper than the 10 levels" in problem for problem in strict_problems(tool(schema), "openai"))
    assert strict_problems(tool(schema["properties"]["a"]), "openai") == []


@pytest.mark.parametrize("format", ["gemini", "mcp", "toolpost"])
def test_formats_without_a_strict_mode_say_so_and_export_as_ever(format: Format) -> None:
    assert strict_problems(tool(ADD), format) == [f"the {format} format has no strict mode"]
    assert export_tool(tool(ADD), format, strict=True) == export_tool(tool(ADD), format)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=5),
    "integer": st.integers(-100, 100),
    "number": st.floats(-10, 10),
    "boolean": st.booleans(),
    "null": st.none(),
}


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> tuple[dict[str, Any], Any]:
    """A schema that has a strict form, and a value that fits it with every property given."""
    kind = draw(st.sampled_from(["scalar", "enum", "union", "array", "object"][: 5 if depth else 2]))
    if kind == "scalar":
        name = draw(st.sampled_from(sorted(SCALARS)))
        return {"type": name, "default": None, "title": "T"}, draw(SCALARS[name])
    if kind == "enum":
        values = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True))
        return {"enum": values}, draw(st.sampled_from(values))
    if kind == "union":
        (one, value), (two, _) = draw(schemas(depth=0)), draw(schemas(depth=0))
        return {"anyOf": [one, two]}, value
    if kind == "array":
        schema, value = draw(schemas(depth=depth - 1))
        return {"type": "array", "items": schema, "minItems": 1}, [value]
    return draw(objects(depth - 1, every=True))


@st.composite
def objects(draw: st.DrawFn, depth: int, every: bool = False) -> tuple[dict[str, Any], Any]:
    parts = draw(st.dictionaries(st.sampled_from("abc"), schemas(depth=depth), min_size=1))
    required = sorted(parts) if every else draw(st.lists(st.sampled_from(sorted(parts)), unique=True))
    properties = {name: schema for name, (schema, _) in parts.items()}
    value = {name: value for name, (_, value) in parts.items()}
    return {"type": "object", "properties": properties, "required": required}, value


@given(case=objects(2), data=st.data())
def test_strict_openai_takes_what_the_tool_takes_with_null_for_absent(
    case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    schema, arguments = case
    absent = data.draw(st.sets(st.sampled_from(sorted(set(arguments) - set(schema["required"])) or ["-"])))

    shown = strict_parameters(tool(schema))

    sent = {name: None if name in absent else value for name, value in arguments.items()}
    meant = {name: value for name, value in arguments.items() if name not in absent}
    assert jsonschema_rs.is_valid(shown, sent)
    assert jsonschema_rs.is_valid(schema, meant)
    assert not jsonschema_rs.is_valid(shown, {**sent, "stranger": 1})


@given(case=objects(2), data=st.data())
def test_strict_anthropic_takes_what_the_tool_takes(
    case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    schema, arguments = case
    absent = data.draw(st.sets(st.sampled_from(sorted(set(arguments) - set(schema["required"])) or ["-"])))
    sent = {name: value for name, value in arguments.items() if name not in absent}

    shown = strict_parameters(tool(schema), "anthropic")

    assert jsonschema_rs.is_valid(shown, sent)
    assert not jsonschema_rs.is_valid(shown, {**sent, "stranger": 1})
