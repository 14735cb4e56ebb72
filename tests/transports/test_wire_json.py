"""The strict JSON reader: what it refuses, and how well it says where."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from toolpost.calls.errors import InputValidationError
from toolpost.transports import wire_json
from toolpost.transports.wire_json import parse_json

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refusal(text: str | bytes, **options: int) -> dict[str, object]:
    with pytest.raises(InputValidationError) as caught:
        parse_json(text, **options)
    (problem,) = caught.value.errors()
    assert problem["msg"] == caught.value.message
    return problem


@given(value=JSON_VALUES)
def test_whatever_json_can_say_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("text", ['\ufeff{"a": 1}', b'\xef\xbb\xbf{"a": 1}'])
def test_a_byte_order_mark_is_tolerated(text: str | bytes) -> None:
    assert parse_json(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "a": 1}', "/a"),
        ('{"b": {"list": [1, {"x": 1, "x": 2}]}}', "/b/list/1/x"),
        ('{"a": 1, "\\u0061": 2}', "/a"),
        ('{"a/b~c": {"": 1, "": 2}}', "/a~1b~0c/"),
    ],
)
def test_a_key_given_twice_is_refused_at_its_path(text: str, path: str) -> None:
    problem = refusal(text)

    assert problem["type"] == "json_duplicate_key"
    assert problem["path"] == path


def test_one_key_in_two_objects_is_no_duplicate() -> None:
    assert parse_json('[{"a": {"a": "a: a"}}, {"a": 1}]') == [{"a": {"a": "a: a"}}, {"a": 1}]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_not_json_are_refused(constant: str) -> None:
    problem = refusal(f'{{"text": "NaN, Infinity", "x": [1, {constant}]}}')

    assert (problem["type"], problem["path"], problem["got"]) == ("json_constant", "/x/1", constant)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "9" * 5000, "1e999", "-2E400"])
def test_a_number_beyond_64_bits_or_a_double_is_refused(number: str) -> None:
    problem = refusal(f'{{"n": {number}}}')

    assert (problem["type"], problem["path"]) == ("json_number", "/n")


def test_the_largest_numbers_that_fit_are_read() -> None:
    assert parse_json("[18446744073709551615, -9223372036854775808, 1e308]") == [2**64 - 1, -(2**63), 1e308]


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"a": "x\\udc00y"}', '{"a": "\ud800"}'])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    problem = refusal(text)

    assert (problem["type"], problem["path"]) == ("json_surrogate", "/a")


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "😀"


def test_text_that_is_not_utf8_is_refused_with_the_byte_offset() -> None:
    problem = refusal(b'{"city": "Z\xfcrich"}')

    assert (problem["type"], problem["offset"], problem["got"]) == ("json_encoding", 11, "0xfc")


def test_a_syntax_error_tells_line_and_column() -> None:
    problem = refusal('{\n  "a": 1,\n  "b" 2\n}')

    assert (problem["type"], problem["line"], problem["column"]) == ("json_syntax", 3, 7)
    assert "line 3, column 7" in str(problem["msg"])


@pytest.mark.parametrize("text", ["", " ", "{", '{"a"', "[1,]", "{'a': 1}", "nul", '"\x01"', "[1] 2", "\x00"])
def test_what_is_not_json_is_refused(text: str) -> None:
    assert refusal(text)["type"] == "json_syntax"


@pytest.mark.parametrize("text", ["[" * 201 + "]" * 201, '{"a":' * 201 + "1" + "}" * 201, "[" * 1_000_000])
def test_nesting_beyond_200_levels_is_refused_without_a_crash(text: str) -> None:
    assert refusal(text)["type"] == "json_depth"


def test_nesting_of_200_levels_and_brackets_in_text_are_read() -> None:
    assert parse_json("[" * 200 + "]" * 200)
    assert parse_json(json.dumps("[{" * 1000)) == "[{" * 1000


def test_a_text_beyond_the_size_limit_is_refused_unread() -> None:
    problem = refusal("[1, 2, 3]", max_bytes=8)

    assert problem["type"] == "json_size"
    assert "9 bytes" in str(problem["msg"])


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [' + "1," * 200_000 + '"\\ud800"]}',
        '{"x": [' + "1," * 200_000 + '1], "a": 1, "a": 2}',
        "[" * 201 + "]" * 201 + " " * 300_000,
    ],
)
def test_a_large_text_that_is_refused_is_not_searched_for_the_place(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    for name in ("_TOKEN", "_NESTING"):
        pattern = getattr(wire_json, name)
        finder = SimpleNamespace(
            finditer=lambda text, pattern=pattern: searched.append(len(text)) or pattern.finditer(text)
        )
        monkeypatch.setattr(wire_json, name, finder)

    problem = refusal(text)

    assert problem["type"] in ("json_refused", "json_depth")
    assert max(searched, default=0) <= wire_json.MAX_SCANNED


def test_whole_characters_that_are_written_as_pairs_are_not_gone_through_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_json, "_scan", lambda source: pytest.fail("it is gone through"))

    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]') == ["😀", "\\ud800"]
