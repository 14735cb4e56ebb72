"""Arguments on a command line, read by a tool's schema."""

from typing import Any

import pytest

from toolpost.calls.errors import InputValidationError
from toolpost.transports.cli_values import read_arguments, read_object, type_words, types_of

SCHEMA: dict[str, Any] = {
    "$defs": {"size": {"enum": ["s", "m"]}, "loop": {"$ref": "#/$defs/loop"}},
    "properties": {
        "text": {"type": "string"},
        "when": {"type": "string", "format": "date"},
        "count": {"type": "integer"},
        "ratio": {"type": ["number", "null"]},
        "flag": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "size": {"$ref": "#/$defs/size"},
        "level": {"enum": [1, 2]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "both": {"allOf": [{"minimum": 1}, {"type": "integer"}]},
        "open": {},
        "loop": {"$ref": "#/$defs/loop"},
        "lost": {"$ref": "#/$defs/none"},
        "yes": True,
        "a/b~c": {"type": "integer"},
    },
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("text=12", "12"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("text=null", "null"),
        ("when=2026-01-01", "2026-01-01"),
        ("count=-12", -12),
        ("ratio=1e3", 1000.0),
        ("ratio=null", None),
        ("flag=false", False),
        ('tags=["a"]', ["a"]),
        ('options={"a": 1}', {"a": 1}),
        ("size=m", "m"),
        ("level=2", 2),
        ("either=5", "5"),
        ("either:=5", 5),
        ("maybe=5", 5),
        ("both=5", 5),
        ("open=5", "5"),
        ("open:=[5]", [5]),
        ("loop=5", "5"),
        ("lost=5", "5"),
        ("yes=5", "5"),
        ("unknown=5", "5"),
        ("a/b~c=5", 5),
        ('text:="@not a file"', "@not a file"),
    ],
)
def test_a_value_is_read_by_the_type_of_its_parameter(pair: str, value: object) -> None:
    [(_, read)] = read_arguments([pair], SCHEMA).items()

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("count=x", "'count' must be an integer, got 'x'"),
        ("count=", "'count' must be an integer, got ''"),
        ("flag=yes", "'flag' must be a boolean, got 'yes'"),
        ("maybe=x", "'maybe' must be an integer, got 'x'"),
        ("count=" + "9" * 100, "'count' must be an integer, got '" + "9" * 60 + "...'"),
        ("tags=a,b", "'tags' must be an array, got 'a,b': invalid JSON: expecting value (line 1, column 1)"),
        ("open:=x", "'open' must be JSON, got 'x': invalid JSON: expecting value (line 1, column 1)"),
        ('options={"a":1,"a":2}', "the key 'a' is given twice"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_what_was_expected(pair: str, message: str) -> None:
    with pytest.raises(InputValidationError) as caught:
        read_arguments([pair], SCHEMA)

    assert message in caught.value.message


def test_a_problem_has_a_pointer_to_its_parameter() -> None:
    with pytest.raises(InputValidationError) as caught:
        read_arguments(["a/b~c=x", "count=y"], SCHEMA)

    assert [problem["path"] for problem in caught.value.errors()] == ["/a~1b~0c", "/count"]


def test_json_of_another_type_is_left_to_the_tools_own_check() -> None:
    assert read_arguments(["count=1.5"], SCHEMA) == {"count": 1.5}


def test_files_are_read_as_text_or_as_json(tmp_path: Any) -> None:
    (tmp_path / "tags.json").write_text('["ä"]\n')
    (tmp_path / "bad").write_bytes(b"\xff")

    assert read_arguments([f"tags=@{tmp_path}/tags.json"], SCHEMA) == {"tags": ["ä"]}
    assert read_arguments([f"text=@{tmp_path}/tags.json"], SCHEMA) == {"text": '["ä"]\n'}
    assert read_arguments([f"open:=@{tmp_path}/tags.json"], SCHEMA) == {"open": ["ä"]}
    with pytest.raises(InputValidationError, match="is not UTF-8"):
        read_arguments([f"text=@{tmp_path}/bad"], SCHEMA)


@pytest.mark.parametrize("text", ["[1]", "5", "null", '"x"'])
def test_arguments_must_be_an_object(text: str) -> None:
    with pytest.raises(InputValidationError, match="arguments must be a JSON object"):
        read_object(text)


def test_types_are_unknown_where_the_schema_does_not_say() -> None:
    assert types_of({}, "a") == set()
    assert types_of({"properties": {"a": {"anyOf": [{"type": "integer"}, {}]}}}, "a") == set()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("count", "integer"),
        ("when", "string (date)"),
        ("ratio", "number | null"),
        ("tags", "array of string"),
        ("size", '"s" | "m"'),
        ("maybe", "integer | null"),
        ("open", "any"),
        ("yes", "any"),
        ("loop", "any"),
    ],
)
def test_what_a_parameter_takes_is_told_in_words(name: str, words: str) -> None:
    assert type_words(SCHEMA["properties"][name], SCHEMA) == words
