"""JSON Schema checks say yes and no as the specification does, fetch nothing, and survive any value and any schema."""

import enum
import json
import socket
import subprocess
import sys
import threading
import types
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolpost.authoring.documents import MAX_STEPS
from toolpost.authoring.jsonschema import MAX_DEPTH, JsonSchema, ParameterValidator, parameters_schema
from toolpost.authoring.problems import CODES, MAX_PROBLEMS
from toolpost.calls.errors import InputValidationError, SchemaError

CALCULATOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "operation": {"type": "string", "enum": ["add", "subtract", "multiply", "divide"]},
        "a": {"type": "number"},
        "b": {"type": "integer"},
        "n": {"type": "integer", "minimum": 1},
        "note": {"type": "string", "maxLength": 10},
    },
    "required": ["operation"],
    "additionalProperties": False,
}
TREE: dict[str, Any] = {
    "type": ["object", "array"],
    "additionalProperties": {"$ref": "#"},
    "items": {"$ref": "#"},
}


def says(schema: Any, instance: Any, **options: Any) -> list[str]:
    """The messages for instance, after checking that all ways of asking agree and that the codes are declared."""
    checked = JsonSchema(schema, **options)
    entries = checked.problems(instance)
    assert checked.is_valid(instance) == (not entries)
    assert {entry["type"] for entry in entries} <= CODES
    return [entry["msg"] for entry in entries]


def codes(schema: Any, instance: Any) -> list[tuple[str, str]]:
    return [(entry["path"], entry["type"]) for entry in JsonSchema(schema).problems(instance)]


def nested(levels: int, *, leaf: Any = None) -> Any:
    value: Any = [] if leaf is None else leaf
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ({"operation": "add", "a": 1, "b": 2}, []),
        ({}, ["'operation' is required"]),
        ({"operation": "power"}, ["'operation' must be one of ['add', 'subtract', 'multiply', 'divide'], got 'power'"]),
        ({"operation": "add", "b": "x"}, ["'b' must be an integer, got 'x'"]),
        ({"operation": "add", "n": 0}, ["'n' must be >= 1, got 0"]),
        ({"operation": "add", "zz": 1}, ["unknown argument 'zz'; known are 'operation', 'a', 'b', 'n', 'note'"]),
        (
            {"opration": "add"},
            ["unknown argument 'opration'; did you mean 'operation'?", "'operation' is required"],
        ),
        (5, ["the value must be an object, got 5"]),
        (None, ["the value must be an object, got None"]),
    ],
)  # fmt: skip
def test_a_problem_names_the_parameter_the_rule_and_the_value(arguments: Any, messages: list[str]) -> None:
    assert says(CALCULATOR, arguments) == messages


def test_a_nested_problem_is_named_by_its_pointer() -> None:
    schema = {"properties": {"items": {"items": {"properties": {"qty": {"type": "integer"}}}}}}

    assert says(schema, {"items": [{"qty": 1.5}]}) == ["'/items/0/qty' must be an integer, got 1.5"]


@pytest.mark.parametrize(
    ("schema", "instance", "message"),
    [
        ({"exclusiveMinimum": 1}, 1, "the value must be > 1, got 1"),
        ({"exclusiveMaximum": 1}, 1, "the value must be < 1, got 1"),
        ({"maximum": 1}, 2, "the value must be <= 1, got 2"),
        ({"multipleOf": 0.1}, 0.35, "the value must be a multiple of 0.1, got 0.35"),
        ({"minLength": 2}, "a", "the value must be at least 2 characters long, got 'a'"),
        ({"maxLength": 1}, "ab", "the value must be at most 1 character long, got 'ab'"),
        ({"pattern": "^a"}, "b", "the value must match the pattern '^a', got 'b'"),
        ({"minItems": 2}, [1], "the value must have at least 2 items, got [1]"),
        ({"maxItems": 1}, [1, 2], "the value must have at most 1 item, got [1, 2]"),
        ({"uniqueItems": True}, [1, 1.0], "the value must have no item twice, got [1, 1.0]"),
        ({"minProperties": 1}, {}, "the value must have at least 1 key, got {}"),
        ({"maxProperties": 0}, {"a": 1}, "the value must have at most 0 keys, got {'a': 1}"),
        ({"const": {"a": 1}}, 2, "the value must be {'a': 1}, got 2"),
        ({"contains": {"type": "string"}}, [1], "the value must contain at least 1 item that is a string, got [1]"),
        (
            {"contains": {"const": 1}, "minContains": 2},
            [1],
            "the value must contain at least 2 items that are 1, got [1]",
        ),
        (
            {"contains": {"minimum": 0}, "maxContains": 1},
            [1, 2],
            "the value must contain at most 1 item of the kind it must contain, got [1, 2]",
        ),
        ({"not": {"type": "string"}}, "x", "the value must not be a string, got 'x'"),
        ({"not": {"minimum": 1}}, 2, "the value must not be of the form that its 'not' excludes, got 2"),
        ({"properties": {"a": False}}, {"a": 1}, "'a' is not allowed, got 1"),
        ({"prefixItems": [True], "items": False}, [1, 2], "'/1' is not allowed, got 2"),
        (
            {"prefixItems": [{}], "unevaluatedItems": False},
            [1, 2],
            "the value has items that are not allowed, got [1, 2]",
        ),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "'b' is required when 'a' is given"),
        ({"propertyNames": {"maxLength": 2}}, {"abc": 1}, "the key 'abc' must be at most 2 characters long"),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, "'b' is required"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3,
         "the value must fit exactly one of its 2 allowed forms, but fits 2, got 3"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, "x", "the value must be an integer, got 'x'"),
        (
            {"properties": {"a": {"properties": {"name": {}}, "additionalProperties": False}}},
            {"a": {"nmae": 1}},
            "unknown argument '/a/nmae'; did you mean 'name'?",
        ),
        (
            {"allOf": [{"properties": {"alpha": {}}}], "unevaluatedProperties": False},
            {"alhpa": 1},
            "unknown argument 'alhpa'; did you mean 'alpha'?",
        ),
        (
            {"$defs": {"p": {"properties": {"name": {}}}}, "$ref": "#/$defs/p", "unevaluatedProperties": False},
            {"nam": 1},
            "unknown argument 'nam'; did you mean 'name'?",
        ),
    ],
)  # fmt: skip
def test_each_keyword_has_its_words(schema: Any, instance: Any, message: str) -> None:
    assert says(schema, instance) == [message]


SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": k}, n: {"type": "number"}}, "required": ["kind", n]}
        for k, n in (("circle", "radius"), ("square", "side"))
    ]
}


@pytest.mark.parametrize(
    ("schema", "instance", "message"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [1], "'v' must be an integer or a string, got [1]"),
        ({"type": ["string", "null", "integer"]}, [1], "'v' must be an integer, a string or null, got [1]"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, 0, "'v' must be >= 1, got 0"),
        (
            {"anyOf": [{"type": "integer"}, {"enum": ["auto", "none"]}]},
            "atuo",
            "'v' must be an integer or one of ['auto', 'none'], got 'atuo'",
        ),
        ({"anyOf": [{"const": "a"}, {"enum": ["b", "c"]}]}, "d", "'v' must be one of ['a', 'b', 'c'], got 'd'"),
        (SHAPES, 3, "'v' must be an object, got 3"),
        (SHAPES, {}, "'/v/kind' is required"),
        (SHAPES, {"kind": "hexagon"}, "'/v/kind' must be one of ['circle', 'square'], got 'hexagon'"),
        (SHAPES, {"kind": "square", "side": "long"}, "'/v/side' must be a number, got 'long'"),
        (SHAPES, {"kind": "circle"}, "'/v/radius' is required"),
        (
            {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {},
            "'v' fits none of its 2 allowed forms; the nearest says: '/v/a' is required",
        ),
    ],
)
def test_a_union_is_one_problem_with_the_best_branchs_reason(schema: Any, instance: Any, message: str) -> None:
    assert says({"properties": {"v": schema}}, {"v": instance}) == [message]


def test_unions_nested_forty_deep_are_worded_without_running_out_of_stack() -> None:
    schema = {"anyOf": [{"type": "null"}, {"properties": {"a": {"$ref": "#"}}, "minProperties": 1}]}

    assert len(says(schema, nested(150, leaf={}))) == 1


@pytest.mark.parametrize(
    ("instance", "fits"),
    [(1, True), (1.0, True), (1.5, False), (True, False), (10**400, True), (1 - 10**640, True), (1e300, True)],
    ids=["1", "1.0", "1.5", "True", "10^400", "1 - 10^640", "1e300"],
)  # fmt: skip
def test_an_integer_is_a_number_without_a_fraction_and_never_a_boolean(instance: Any, fits: bool) -> None:
    assert JsonSchema({"type": "integer"}).is_valid(instance) is fits


def test_huge_integers_are_compared_exactly() -> None:
    limit = JsonSchema({"minimum": 10**400, "multipleOf": 3})

    assert limit.is_valid(3 * 10**400)
    assert not limit.is_valid(10**400)
    assert not limit.is_valid(10**399 * 3)
    assert says({"maximum": 5}, 10**600) == ["the value must be <= 5, got an integer of 601 digits"]


@pytest.mark.parametrize("schema", [True, CALCULATOR, {"maximum": 5}, {"type": "string"}, {"multipleOf": 7}])
def test_an_integer_too_long_to_be_written_is_a_problem(schema: Any) -> None:
    for value in (10**640, -(10**640), 10**5000):
        [entry] = JsonSchema(schema).problems({"operation": "add", "b": value})

        assert (entry["path"], entry["type"]) == ("/b", "too_large")
        assert entry["msg"].startswith("'b' must have at most 640 digits, got an integer of ")
        assert not JsonSchema(schema).is_valid({"operation": "add", "b": value})


@pytest.mark.parametrize(
    "schema", [True, {}, {"type": "number"}, {"minimum": 3}, {"not": {"type": "integer"}}, {"enum": [None]}]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), Decimal("NaN"), Decimal("Infinity")])
def test_what_is_not_finite_is_a_problem_under_any_schema(schema: Any, value: Any) -> None:
    assert codes(schema, value) == [("", "not_finite")]
    assert says(schema, [{"x": value}])[0].startswith("'/0/x' must be a finite number, got ")


@pytest.mark.parametrize("value", [b"x", {1}, object(), 1j, range(3), types, iter(()), lambda: 1])
@pytest.mark.parametrize("schema", [True, CALCULATOR, {"properties": {"a": {}}}, {"type": "object"}])
def test_what_is_not_json_is_a_problem_under_any_schema(schema: Any, value: Any) -> None:
    entries = JsonSchema(schema).problems({"operation": "add", "a": value})

    assert [(entry["path"], entry["type"]) for entry in entries] == [("/a", "not_json")]
    assert entries[0]["msg"].startswith("'a' must be JSON, got ")
    assert not JsonSchema(schema).is_valid({"operation": "add", "a": value})


@pytest.mark.parametrize("schema", [True, CALCULATOR, {"properties": {"note": {"pattern": "x"}}}])
def test_a_lone_surrogate_is_a_problem_under_any_schema(schema: Any) -> None:
    assert codes(schema, {"operation": "add", "note": "a\ud800"}) == [("/note", "not_unicode")]
    assert not JsonSchema(schema).is_valid({"operation": "add", "note": "a\ud800"})
    assert codes(True, {"\udfff": 1}) == [("", "not_unicode")]
    assert not JsonSchema(True).is_valid([{"\udfff": 1}])


@pytest.mark.parametrize("key", [1, None, True, b"a", (1,)])
def test_a_key_that_is_no_string_is_a_problem(key: Any) -> None:
    for schema in (True, CALCULATOR):
        assert ("", "not_json") in codes(schema, {key: 1})
        assert not JsonSchema(schema).is_valid({key: 1})


class _Name(str):
    __slots__ = ()


class _Count(int):
    pass


class _Mode(enum.Enum):
    FAST = "add"


class _Text(enum.StrEnum):
    ADD = "add"


_Pair = namedtuple("_Pair", "a b")


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (_Name("add"), "add"),
        (_Mode.FAST, "add"),
        (_Text.ADD, "add"),
        (_Count(3), 3),
        (Decimal("1.5"), 1.5),
        ((1, 2), [1, 2]),
        (_Pair(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ({_Text.ADD: 1}, {"add": 1}),
    ],
)
def test_what_python_holds_for_json_counts_as_json(value: Any, same_as: Any) -> None:
    for wrap in (lambda v: v, lambda v: [v], lambda v: {"k": v}):
        assert JsonSchema({"const": wrap(same_as)}).is_valid(wrap(value))
        assert not JsonSchema({"not": {"const": wrap(same_as)}}).is_valid(wrap(value))


@pytest.mark.parametrize("item", ["\ud800", 10**640, float("nan"), b"x", _Name("a")])
def test_a_long_array_is_looked_through_to_its_end(item: Any) -> None:
    for usual in ("a", "é", 1, 1.5, None):
        value = [usual] * 1000 + [item]

        assert JsonSchema(True).is_valid(value) == isinstance(item, _Name) == (not JsonSchema(True).problems(value))
        assert JsonSchema(True).is_valid([usual] * 1000)


def test_a_dict_of_another_class_is_looked_through_as_well() -> None:
    assert not JsonSchema(CALCULATOR).is_valid(OrderedDict(operation="add", note="\ud800"))
    assert not JsonSchema(True).is_valid(OrderedDict(a=float("nan")))


def test_a_value_that_holds_itself_is_a_problem() -> None:
    loop: list[Any] = []
    loop.append(loop)
    bush: list[Any] = []
    bush += [bush, bush]

    for schema in (True, TREE, {"type": "string"}):
        assert codes(schema, {"a": loop}) == [("/a/0", "not_json")]
        assert says(schema, bush)[0] == "'/0' contains itself, so it is not JSON"


@pytest.mark.parametrize("schema", [True, TREE, {"type": "string"}, {"enum": [[[[]]]]}])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100_000])
def test_a_value_nested_too_deep_is_a_problem_and_no_crash(schema: Any, levels: int) -> None:
    [(path, code)] = codes(schema, nested(levels))

    assert (path, code) == ("/a" * MAX_DEPTH, "too_deep")
    assert not JsonSchema(schema).is_valid(nested(levels))


def test_a_value_nested_as_deep_as_allowed_is_checked() -> None:
    assert JsonSchema(TREE).is_valid(nested(MAX_DEPTH - 1))
    assert not JsonSchema(TREE).is_valid(nested(MAX_DEPTH - 1, leaf=1))


def test_the_same_part_used_twice_is_no_loop() -> None:
    part = {"x": [1]}

    assert says(True, [part, part, {"again": part}]) == []


def test_the_check_survives_when_little_stack_is_left() -> None:
    checked = JsonSchema(TREE)
    value = nested(MAX_DEPTH - 1)

    def sunk(levels: int) -> bool:
        return sunk(levels - 1) if levels else checked.is_valid(value)

    assert sunk(800)


def _run_in_small_thread(code: str) -> str:
    """What code prints, run by a fresh interpreter in a thread with 1 MB of stack; an overflow kills it."""
    program = f"""
import sys, threading
from toolpost.authoring.jsonschema import JsonSchema
from toolpost.calls.errors import SchemaError
def work():
{"".join(f"    {line}{chr(10)}" for line in code.strip().splitlines())}
threading.stack_size(1 << 20)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


CHAINS = {
    "anyOf": "{'anyOf': [r, {'type': 'null'}]}",
    "oneOf": "{'oneOf': [r, {'type': 'null'}]}",
    "ref": "{**r, 'minimum': 0}",
    "unevaluated": "{'anyOf': [r, {'type': 'null'}], 'unevaluatedProperties': False}",
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_hostile_chain_of_references_is_refused_before_it_overflows_the_stack_of_a_fresh_process(chain: str) -> None:
    out = _run_in_small_thread(f"""
defs = {{f"d{{i}}": (lambda r: {CHAINS[chain]})({{"$ref": f"#/$defs/d{{i + 1}}"}}) for i in range(5000)}}
defs["d5000"] = {{"type": "integer"}}
try:
    JsonSchema({{"$defs": defs, "$ref": "#/$defs/d0"}})
except SchemaError as error:
    print("refused:", error)
""")

    assert out.startswith("refused: schema: at ")


@pytest.mark.parametrize("chain", ["anyOf", "oneOf", "ref"])
def test_the_longest_chain_and_deepest_value_allowed_fit_a_small_stack_of_a_fresh_process(chain: str) -> None:
    out = _run_in_small_thread(f"""
links = {MAX_STEPS} // (1 if {chain == "ref"} else 2) - 4
defs = {{f"d{{i}}": (lambda r: {CHAINS[chain]})({{"$ref": f"#/$defs/d{{i + 1}}"}}) for i in range(links)}}
defs[f"d{{links}}"] = {{"items": {{"$ref": "#"}}, "minItems": 1}}
schema = JsonSchema({{"$defs": defs, "$ref": "#/$defs/d0"}})
value = []
for _ in range(300):
    value = [value]
    print(schema.is_valid(value), len(schema.problems(value)))
""")

    assert set(out.splitlines()) == {"False 1"}


def test_references_that_multiply_are_refused() -> None:
    defs: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    defs["d30"] = {"type": "integer"}

    with pytest.raises(SchemaError, match="held against more than 1000000 subschemas; repeat fewer references"):
        JsonSchema({"$defs": defs, "$ref": "#/$defs/d0"})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strng"}, "schema: at '/type' 'strng' is not a JSON type; did you mean 'string'?"),
        ({"properties": {"a": {"type": "int"}}},
         "schema: at '/properties/a/type' 'int' is not a JSON type; did you mean 'integer'?"),
        ({"type": ["string", "nil"]}, "schema: at '/type/1' 'nil' is not a JSON type; did you mean 'null'?"),
        ({"minimum": "x"}, "schema: '/minimum' must be a number, got 'x'"),
        ({"maxLength": -1}, "schema: '/maxLength' must be >= 0, got -1"),
        ({"properties": {"a": {"required": True}}}, "schema: '/properties/a/required' must be an array, got True"),
        ({"items": 5}, "schema: '/items' must be a boolean or an object, got 5"),
        ({"pattern": "(a"}, "schema: at '/pattern' '(a' is not a regular expression"),
        ({"patternProperties": {"(a": {}}}, "schema: at '/patternProperties/(a' '(a' is not a regular expression"),
        ({"$ref": "#/$defs/Ordr", "$defs": {"Order": {}}},
         "schema: at '/$ref' '#/$defs/Ordr' leads nowhere; did you mean '#/$defs/Order'?"),
        ({"$ref": "#nope"}, "schema: at '/$ref' '#nope' leads nowhere"),
        ({"$defs": {"unused": {"$ref": "#/x"}}}, "schema: at '/$defs/unused/$ref' '#/x' leads nowhere"),
        ({"$ref": "#"},
         "schema: at the top the schema leads back to itself without going down into the value, so it would never end"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
         "schema: at '/$defs/a' the schema leads back to itself without going down into the value, "
         "so it would never end"),
        ({"$schema": "http://example.com/mine"},
         "schema: $schema names 'http://example.com/mine', which is not known; "
         "known are 2020-12, 2019-09, draft-07, draft-06 and draft-04"),
        (5, "schema must be a JSON Schema, a mapping or a bool, got 5"),
        ([], "schema must be a JSON Schema, a mapping or a bool, got []"),
        ("{}", "schema must be a JSON Schema, a mapping or a bool, got '{}'"),
        (None, "schema must be a JSON Schema, a mapping or a bool, got None"),
        ({"enum": {1}}, "schema: '/enum' must be JSON, got <set>"),
        ({"default": float("nan")}, "schema: '/default' must be a finite number, got nan"),
        ({1: 2}, "schema: the schema must have strings as keys, got 1"),
        ({"$id": "http://[x"}, None),
    ],
)  # fmt: skip
def test_a_schema_that_is_none_is_refused_with_the_place_and_the_reason(schema: Any, message: str | None) -> None:
    with pytest.raises(SchemaError) as caught:
        JsonSchema(schema)

    if message is not None:
        assert str(caught.value) == message


def test_the_error_says_what_the_schema_is_of() -> None:
    with pytest.raises(
        SchemaError, match=r"^parameters of Math\.Add: at '/type' 'any' is not a JSON type; known are string, "
    ):
        JsonSchema({"type": "any"}, name="parameters of Math.Add")


def test_a_schema_that_holds_itself_or_is_too_deep_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["items"] = loop
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}

    with pytest.raises(SchemaError, match="'/items' contains itself"):
        JsonSchema(loop)
    with pytest.raises(SchemaError, match="is nested deeper than 200 levels"):
        JsonSchema(deep)


class _Listener:
    """A local server that counts who connects."""

    def __init__(self) -> None:
        self.visits = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/schema.json"
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while True:
            try:
                visitor, _ = self._server.accept()
            except OSError:
                return
            with visitor:
                self.visits += 1
                if visitor.recv(4096).startswith(b"stop"):
                    return
                visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    def close(self) -> None:
        with socket.create_connection(self._server.getsockname()) as last:
            last.sendall(b"stop")
        self._thread.join()
        self._server.close()
        self.visits -= 1


@pytest.fixture
def listener() -> Iterator[_Listener]:
    made = _Listener()
    try:
        yield made
    finally:
        made.close()


def test_no_socket_is_opened_for_any_reference_or_dialect(listener: _Listener) -> None:
    url = listener.url
    known = {"http://a.example/": {"type": "integer"}}
    tries: list[tuple[Any, dict[str, Any] | None]] = [
        ({"$ref": url}, None),
        ({"$ref": f"{url}#/a"}, known),
        ({"$ref": "http://a.example/", "properties": {"a": {"$ref": url}}}, known),
        ({"$dynamicRef": url}, None),
        ({"$id": url, "$ref": "other.json"}, None),
        ({"$schema": url}, None),
        ({"$schema": url, "type": "strng"}, known),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": url}, None),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "id": url, "$ref": "x"}, known),
        ({"$ref": "http://a.example/"}, {"http://a.example/": {"$ref": url}}),
        ({"$ref": "http://a.example/"}, {"http://a.example/": {"$schema": url, "type": "strng"}}),
        ({"$ref": "#/odd", "odd": {"$ref": url}}, None),
        (
            {"$defs": {"a": {"$id": "http://b.example/", "$schema": url, "$ref": url}}, "$ref": "http://b.example/"},
            None,
        ),
    ]

    for schema, resources in tries:
        with pytest.raises(SchemaError):
            JsonSchema(schema, resources=resources)

    assert listener.visits == 0


def test_the_counting_listener_would_notice_a_fetch(listener: _Listener) -> None:
    import jsonschema_rs

    jsonschema_rs.validator_for({"$ref": listener.url})

    assert listener.visits == 1


def test_a_remote_reference_is_refused_with_the_way_out() -> None:
    with pytest.raises(SchemaError) as caught:
        JsonSchema({"properties": {"a": {"$ref": "https://example.com/order.json#/x"}}})

    assert str(caught.value) == (
        "schema: at '/properties/a/$ref' 'https://example.com/order.json#/x' names another document, "
        "which is never fetched; pass it in resources={'https://example.com/order.json': …}"
    )


def test_a_file_reference_is_never_read(tmp_path: Path) -> None:
    document = tmp_path / "order.json"
    document.write_text('{"type": "integer"}')

    for reference in (document.as_uri(), str(document), "order.json", f"file:{document}"):
        with pytest.raises(SchemaError, match="never fetched"):
            JsonSchema({"$ref": reference})


def test_resources_are_what_references_may_name() -> None:
    resources = {
        "https://example.com/order.json": {"properties": {"qty": {"$ref": "types.json#/$defs/count"}}},
        "https://example.com/types.json": {"$defs": {"count": {"type": "integer"}}},
    }

    order = JsonSchema({"$ref": "https://example.com/order.json"}, resources=resources)

    assert order.is_valid({"qty": 1})
    assert order.problems({"qty": "x"})[0]["msg"] == "'qty' must be an integer, got 'x'"


def test_a_resource_nobody_refers_to_does_not_matter() -> None:
    resources = {"https://example.com/broken.json": {"$ref": "#/nowhere"}}

    assert JsonSchema({"type": "integer"}, resources=resources).is_valid(1)


def test_a_bad_resource_is_named() -> None:
    resources = {"https://example.com/bad.json": {"type": "strng"}}

    with pytest.raises(SchemaError) as caught:
        JsonSchema({"$ref": "https://example.com/bad.json"}, resources=resources)

    assert str(caught.value) == (
        "schema, resource https://example.com/bad.json: at '/type' 'strng' is not a JSON type; did you mean 'string'?"
    )


def test_the_meta_schema_itself_may_be_referred_to() -> None:
    schema = JsonSchema({"$ref": "https://json-schema.org/draft/2020-12/schema"})

    assert schema.is_valid({"type": "string"})
    assert not schema.is_valid({"type": "strng"})


def test_later_changes_to_the_mapping_change_nothing() -> None:
    given: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer", "default": [1]}}}
    schema = JsonSchema(given)

    given["properties"]["a"]["type"] = "string"
    given["properties"]["a"]["default"].append(2)
    copied = schema.schema
    assert isinstance(copied, dict)
    copied["properties"]["a"]["type"] = "null"

    assert schema.is_valid({"a": 1})
    assert schema.with_defaults({}) == {"a": [1]}
    assert schema.schema == {"type": "object", "properties": {"a": {"type": "integer", "default": [1]}}}


def test_any_mapping_will_do_for_a_schema() -> None:
    schema = types.MappingProxyType({"type": "array", "prefixItems": ({"type": "integer"},)})

    assert says(schema, ["x"]) == ["'/0' must be an integer, got 'x'"]


@pytest.mark.parametrize(
    ("draft", "schema", "yes", "no"),
    [
        ("http://json-schema.org/draft-04/schema#", {"minimum": 1, "exclusiveMinimum": True}, 2, 1),
        ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 1}, 2, 1),
        (
            "http://json-schema.org/draft-07/schema#",
            {"items": [{"type": "integer"}], "additionalItems": False},
            [1],
            [1, 2],
        ),
        ("http://json-schema.org/draft-07/schema", {"dependencies": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
        ("https://json-schema.org/draft/2019-09/schema", {"items": [{"type": "integer"}]}, [1], ["x"]),
        ("https://json-schema.org/draft/2020-12/schema", {"prefixItems": [{"type": "integer"}]}, [1], ["x"]),
    ],
)
def test_the_draft_that_schema_names_is_respected(draft: str, schema: dict[str, Any], yes: Any, no: Any) -> None:
    assert says({"$schema": draft, **schema}, yes) == []
    assert len(says({"$schema": draft, **schema}, no)) == 1


def test_in_old_drafts_a_reference_hides_its_siblings() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"a": {"type": "integer"}},
        "$ref": "#/definitions/a",
        "minimum": 5,
    }

    assert JsonSchema(schema).is_valid(1)


def test_formats_are_rules_only_when_asked_for() -> None:
    schema = {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}}

    assert JsonSchema(schema).is_valid({"when": "soon"})
    assert says(schema, {"when": "soon"}, assert_formats=True) == [
        "'when' must be a date (like 2025-01-31), got 'soon'"
    ]


def test_a_pattern_of_a_hostile_schema_takes_linear_time() -> None:
    assert not JsonSchema({"pattern": "^(a+)+$"}).is_valid("a" * 100_000 + "b")


def test_a_pattern_with_lookahead_works_and_its_backtracking_is_bounded() -> None:
    no_blank = JsonSchema({"pattern": r"^(?!\s*$).+"})
    evil = {"pattern": r"^(?=x*)(a|a)*\1$"}

    assert no_blank.is_valid("a")
    assert not no_blank.is_valid("  ")
    [message] = says(evil, "a" * 60 + "b")
    assert message.startswith("the value is too costly to match against its pattern; use a simpler value, got ")


def test_secrets_are_not_in_problems() -> None:
    schema = {"properties": {"password": {"type": "integer"}, "auth": {"properties": {"user": {"type": "integer"}}}}}
    value = {"password": "hunter2", "auth": {"user": "hunter2"}}

    assert "hunter2" not in json.dumps(JsonSchema(schema).problems(value))


def test_many_problems_are_bounded_and_counted() -> None:
    entries = JsonSchema({"items": {"type": "string"}}).problems(list(range(100)))

    assert len(entries) == MAX_PROBLEMS + 1
    assert entries[-1]["msg"] == f"and {100 - MAX_PROBLEMS} more problems like these"


def test_of_a_large_value_only_the_first_problem_is_told() -> None:
    assert says({"items": {"type": "string"}}, ["a"] * 15_000 + [1] * 5_000) == ["'/15000' must be a string, got 1"]


def test_of_a_huge_value_only_its_size_is_told() -> None:
    [entry] = JsonSchema({"items": {"type": "string"}}).problems([1] * 250_000)

    assert entry["type"] == "too_large"
    assert entry["msg"] == "the value does not fit the schema; it holds 250001 values, too many to say where"


def test_a_ten_megabyte_string_gives_a_short_message() -> None:
    [message] = says(CALCULATOR, {"operation": "add", "note": "a" * 10_000_000})

    assert len(message) < 200
    assert message.endswith("(10000000 characters)")


def test_validate_raises_what_problems_lists() -> None:
    with pytest.raises(InputValidationError) as caught:
        JsonSchema(CALCULATOR).validate({"operation": "add", "b": "x"})

    assert str(caught.value) == "Parameter validation failed: 'b' must be an integer, got 'x'"
    assert caught.value.errors() == JsonSchema(CALCULATOR).problems({"operation": "add", "b": "x"})
    JsonSchema(CALCULATOR).validate({"operation": "add"})


def test_the_known_names_may_be_given() -> None:
    schema = {"type": "object", "additionalProperties": False}

    [entry] = JsonSchema(schema).problems({"opration": 1}, known=["operation"])

    assert entry["msg"] == "unknown argument 'opration'; did you mean 'operation'?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)
OPEN = [
    JsonSchema(schema)
    for schema in (
        True,
        CALCULATOR,
        TREE,
        {"properties": {"a": {"type": "string"}}},
        {
            "type": ["array", "object"],
            "uniqueItems": True,
            "contains": {"minimum": 1},
            "propertyNames": {"pattern": "^.?$"},
        },
        {"anyOf": [{"type": "string", "minLength": 2}, {"items": {"type": "integer"}, "minItems": 1}, SHAPES]},
    )
]


@given(st.sampled_from(OPEN), JSON)
def test_no_value_raises_and_both_questions_agree(schema: JsonSchema, value: Any) -> None:
    assert schema.is_valid(value) == (schema.problems(value) == [])


@given(st.dictionaries(st.sampled_from([*CALCULATOR["properties"], "zz"]), JSON))
def test_the_quick_look_at_a_flat_tool_misses_nothing(arguments: dict[str, Any]) -> None:
    quick = JsonSchema(CALCULATOR)
    thorough = JsonSchema({"allOf": [CALCULATOR]})

    assert quick._closed
    assert not thorough._closed
    assert quick.is_valid(arguments) == thorough.is_valid(arguments) == (not quick.problems(arguments))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.floats(-2, 3)
    | st.sampled_from(["a", "string", "#", "#/$defs/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
KEYWORDS = (
    "$ref", "$dynamicRef", "$anchor", "$dynamicAnchor", "$id", "$schema", "$defs", "type", "enum", "const",
    "minimum", "maximum", "exclusiveMinimum", "multipleOf", "minLength", "maxLength", "pattern", "format", "items",
    "prefixItems", "contains", "minContains", "maxContains", "minItems", "uniqueItems", "properties",
    "patternProperties", "additionalProperties", "propertyNames", "required", "dependentRequired",
    "dependentSchemas", "minProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "unevaluatedItems",
    "unevaluatedProperties", "default", "definitions", "contentEncoding",
)  # fmt: skip
SCHEMAS = st.recursive(
    PLAIN | st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "object", "array"])}),
    lambda inner: st.dictionaries(
        st.sampled_from(KEYWORDS),
        inner | st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_size=4,
    ),
    max_leaves=8,
)


def _made(schema: Any) -> JsonSchema | SchemaError:
    try:
        return JsonSchema(schema, assert_formats=True)
    except SchemaError as error:
        return error


@given(SCHEMAS, PLAIN)
def test_any_junk_is_either_a_schema_that_answers_or_a_schema_error(schema: Any, value: Any) -> None:
    checked = _made(schema)

    if isinstance(checked, SchemaError):
        assert len(str(checked)) < 1000
        return
    entries = checked.problems(value)

    assert checked.is_valid(value) == (entries == [])
    assert {entry["type"] for entry in entries} <= CODES
    assert all("breaks the rule" not in entry["msg"] for entry in entries)
    if isinstance(value, dict):
        checked.with_defaults(value)


def test_without_defaults_the_very_same_dict_comes_back() -> None:
    arguments = {"operation": "add"}

    assert JsonSchema(CALCULATOR).with_defaults(arguments) is arguments


def test_defaults_are_filled_in_everywhere_below() -> None:
    schema = {
        "$defs": {
            "server": {"type": "object", "properties": {"port": {"type": "integer", "default": 80}}},
            "level": {"type": "string", "default": "low"},
        },
        "properties": {
            "name": {"default": "x"},
            "level": {"$ref": "#/$defs/level"},
            "main": {"$ref": "#/$defs/server", "default": {}},
            "spare": {"$ref": "#/$defs/server"},
            "all": {"type": "array", "items": {"$ref": "#/$defs/server"}},
            "pair": {"prefixItems": [{}, {"$ref": "#/$defs/server"}]},
            "by_name": {"type": "object", "additionalProperties": {"$ref": "#/$defs/server"}},
            "null": {"default": None},
        },
        "allOf": [{"properties": {"extra": {"default": [1]}}}],
    }
    given = {"all": [{}, {"port": 1}], "pair": [{}, {}], "by_name": {"a": {}}, "name": None}

    full = JsonSchema(schema).with_defaults(given)

    assert full == {
        "all": [{"port": 80}, {"port": 1}],
        "pair": [{}, {"port": 80}],
        "by_name": {"a": {"port": 80}},
        "name": None,
        "level": "low",
        "main": {"port": 80},
        "null": None,
        "extra": [1],
    }
    assert given == {"all": [{}, {"port": 1}], "pair": [{}, {}], "by_name": {"a": {}}, "name": None}


def test_declared_properties_are_no_additional_ones() -> None:
    schema = {
        "properties": {"plain": {"type": "object"}},
        "additionalProperties": {"properties": {"port": {"default": 80}}},
    }

    assert JsonSchema(schema).with_defaults({"plain": {}, "other": {}}) == {"plain": {}, "other": {"port": 80}}


def test_a_mutable_default_is_never_shared() -> None:
    schema = JsonSchema({"properties": {"tags": {"default": [{"a": []}]}}})

    schema.with_defaults({})["tags"][0]["a"].append("mine")

    assert schema.with_defaults({}) == {"tags": [{"a": []}]}


def test_a_default_that_would_need_itself_is_filled_in_once() -> None:
    schema = JsonSchema({"properties": {"child": {"$ref": "#", "default": {}}, "name": {"default": "x"}}})

    assert schema.with_defaults({}) == {"child": {"child": {}, "name": "x"}, "name": "x"}


def test_defaults_reach_the_leaves_of_a_recursive_schema() -> None:
    schema = JsonSchema({"properties": {"name": {"default": "x"}, "kids": {"items": {"$ref": "#"}}}})

    assert schema.with_defaults({"kids": [{"kids": [{}]}]}) == {
        "name": "x",
        "kids": [{"name": "x", "kids": [{"name": "x"}]}],
    }


def test_defaults_survive_a_value_as_deep_as_allowed_and_one_that_holds_itself() -> None:
    schema = JsonSchema({"properties": {"name": {"default": "x"}, "a": {"$ref": "#"}}})
    loop: dict[str, Any] = {}
    loop["a"] = loop

    assert schema.with_defaults(nested(MAX_DEPTH - 1, leaf={}))["name"] == "x"
    assert schema.with_defaults(loop)["name"] == "x"


def test_defaults_in_one_of_several_forms_are_left_alone() -> None:
    schema = {"properties": {"a": {"default": 1}}, "anyOf": [{"properties": {"b": {"default": 2}}}]}

    assert JsonSchema(schema).with_defaults({}) == {"a": 1}


def test_fragments_become_a_closed_object_schema() -> None:
    parameters = {
        "a": {"type": "number"},
        "b": {"type": "number", "required": True},
        "c": {"type": "number", "default": 1},
        "d": {"type": "number", "required": False},
        "e": {"type": "number", "optional": True},
        "f": {"type": "object", "properties": {"x": {"format": "datetime"}}, "required": ["x"], "optional": False},
    }

    schema = parameters_schema(parameters)

    assert schema == {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "number"},
            "c": {"type": "number", "default": 1},
            "d": {"type": "number"},
            "e": {"type": "number"},
            "f": {"type": "object", "properties": {"x": {"format": "date-time"}}, "required": ["x"]},
        },
        "required": ["a", "b", "f"],
        "additionalProperties": False,
    }
    assert parameters["b"] == {"type": "number", "required": True}
    JsonSchema(schema)


def test_no_parameters_make_a_schema_of_none() -> None:
    schema = parameters_schema({})

    assert JsonSchema(schema).is_valid({})
    assert says(schema, {"a": 1}) == ["unknown argument 'a'"]


@pytest.mark.parametrize(
    ("given", "closed_by"),
    [
        ({"type": "object", "properties": {"a": {}}}, {"additionalProperties": False}),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, {}),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {}),
        ({"type": "object", "properties": {}, "allOf": [{"properties": {"b": {}}}]}, {"unevaluatedProperties": False}),
        ({"type": "object"}, {}),
    ],
)
def test_an_object_schema_is_kept_and_closed_unless_it_is_open_by_its_words(given: Any, closed_by: Any) -> None:
    assert parameters_schema(given) == {**given, **closed_by}


def test_parameters_may_be_called_type_and_properties() -> None:
    schema = parameters_schema({"type": {"type": "string"}, "properties": {"type": "object"}})

    assert list(schema["properties"]) == ["type", "properties"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a": "number"}, "parameter 'a' must be a JSON Schema such as {'type': 'number'}, got 'number'"),
        ({"a": "int"}, "parameter 'a' must be a JSON Schema such as {'type': 'integer'}, got 'int'"),
        ({"a": 5}, "parameter 'a' must be a JSON Schema such as {'type': 'string'}, got 5"),
        ({"a": {"type": "strng"}}, "parameter 'a': at '/type' 'strng' is not a JSON type; did you mean 'string'?"),
        ({"a": {"items": {"type": "str"}}},
         "parameter 'a': at '/items/type' 'str' is not a JSON type; did you mean 'string'?"),
        ({"a": {"type": 5}}, "parameter 'a': at '/type' 5 is not a JSON type; "
                             "known are string, integer, number, boolean, array, object, null"),
        ({"type": "object", "properties": {"a": {"type": "dict"}}},
         "parameters: at '/properties/a/type' 'dict' is not a JSON type; did you mean 'object'?"),
        (["a"], "parameters must be a JSON Schema, a mapping or a bool, got ['a']"),
        (True, "parameters must map parameter names to JSON Schemas, got True"),
        ({"a": {"enum": {1}}}, "parameters: '/a/enum' must be JSON, got <set>"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused_with_the_fix(parameters: Any, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parameters_schema(parameters)

    assert str(caught.value) == message


PARAMETERS = {
    "operation": {"type": "string", "enum": ["add", "subtract", "multiply", "divide"]},
    "a": {"type": "number"},
    "places": {"type": "integer", "default": 2},
    "mail": {"type": "string", "format": "email", "optional": True},
}


def test_the_parameter_validator_gives_the_parameters_with_defaults() -> None:
    given = {"operation": "add", "a": 1}

    assert ParameterValidator.validate(given, PARAMETERS) == {"operation": "add", "a": 1, "places": 2}
    assert ParameterValidator().validate(given, PARAMETERS) == {"operation": "add", "a": 1, "places": 2}
    assert given == {"operation": "add", "a": 1}


def test_the_parameter_validator_gives_a_new_dict_even_without_defaults() -> None:
    given = {"a": 1}

    full = ParameterValidator.validate(given, {"a": {"type": "integer"}})

    assert full == given
    assert full is not given


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"operation": "power", "a": 1},
         "Parameter validation failed: "
         "'operation' must be one of ['add', 'subtract', 'multiply', 'divide'], got 'power'"),
        ({"a": 1}, "Parameter validation failed: 'operation' is required"),
        ({"operation": "add", "a": 1, "mail": "x"},
         "Parameter validation failed: 'mail' must be an email address, got 'x'"),
        ({"operation": "add", "a": True}, "Parameter validation failed: 'a' must be a number, got True"),
        ([1], "Parameter validation failed: the value must be an object, got [1]"),
    ],
)  # fmt: skip
def test_the_parameter_validator_refuses_what_does_not_fit(params: Any, message: str) -> None:
    with pytest.raises(InputValidationError) as caught:
        ParameterValidator.validate(params, PARAMETERS)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("email", "a@example.com", "a@"),
        ("uri", "https://example.com/a", "/a"),
        ("date", "2024-02-29", "2023-02-29"),
        ("datetime", "2025-01-31T12:00:00Z", "2025-01-31"),
        ("date-time", "2025-01-31T12:00:00Z", "2025-01-31"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "::1", "::g"),
    ],
)
def test_the_parameter_validator_holds_to_formats(name: str, good: str, bad: str) -> None:
    schema = {"v": {"type": "string", "format": name}}

    assert ParameterValidator.validate({"v": good}, schema) == {"v": good}
    with pytest.raises(InputValidationError):
        ParameterValidator.validate({"v": bad}, schema)


def test_the_parameter_validator_compiles_a_schema_once_whatever_the_order_of_its_keys() -> None:
    from toolpost.authoring.jsonschema import _validator_of

    _validator_of.cache_clear()

    ParameterValidator.validate({"a": 1}, {"a": {"type": "integer", "minimum": 0}})
    ParameterValidator.validate({"a": 1}, {"a": {"minimum": 0, "type": "integer"}})
    ParameterValidator.validate({"a": 1}, parameters_schema({"a": {"minimum": 0, "type": "integer"}}))

    assert _validator_of.cache_info().misses == 1
    assert _validator_of.cache_info().maxsize == 256
