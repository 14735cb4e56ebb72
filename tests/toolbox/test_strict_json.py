"""JSON read strictly: what is refused beyond the grammar, and the place that is named."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolpost.toolbox.strict_json import MAX_DEPTH, NotStrictJson, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refusal(text: str) -> dict[str, Any]:
    with pytest.raises(NotStrictJson) as caught:
        parse(text)
    return caught.value.problem


@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_whatever_is_json_is_read(value: object, ascii_only: bool, indent: int | None) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == value


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse("\ufeff[1]") == [1]


@pytest.mark.parametrize(
    ("text", "type", "path", "line", "column"),
    [
        ('{"a": 1, "a": 2}', "json_duplicate_key", "/a", 1, 10),
        ('{"a": [{"b": {}}, {\n "c/d": 1,\n "c~": 2, "c/d": 3}]}', "json_duplicate_key", "/a/1/c~1d", 3, 11),
        ('{"a": 1, "\\u0061": 2}', "json_duplicate_key", "/a", 1, 10),
        ('{"": 1, "": 2}', "json_duplicate_key", "/", 1, 9),
        ("[1, NaN]", "json_constant", "/1", 1, 5),
        ('{"x": {"y": -Infinity}}', "json_constant", "/x/y", 1, 13),
        ("Infinity", "json_constant", "", 1, 1),
        ('{"a": "NaN", "b": NaN}', "json_constant", "/b", 1, 19),
        ("[0, [1e999]]", "json_number", "/1/0", 1, 6),
        ("[-1e999]", "json_number", "/0", 1, 2),
        ("18446744073709551616", "json_number", "", 1, 1),
        ("[-9223372036854775809]", "json_number", "/0", 1, 2),
        ("1" * 5000, "json_number", "", 1, 1),
        ('["\\ud83d\\ude00", "\\ud800"]', "json_surrogate", "/1", 1, 18),
        ('{"a": {"\\udc00": 1}}', "json_surrogate", "/a", 1, 8),
        ('["\ud800"]', "json_surrogate", "/0", 1, 2),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "json_depth", "", 1, MAX_DEPTH + 1),
        ("", "json_syntax", "", 1, 1),
        (" \n ", "json_syntax", "", 2, 2),
        ("{'a': 1}", "json_syntax", "", 1, 2),
        ('{"a": 1,}', "json_syntax", "", 1, 9),
        ("[1, 2", "json_syntax", "", 1, 6),
        ("[1] 2", "json_syntax", "", 1, 5),
        ('"\t"', "json_syntax", "", 1, 2),
        ("01", "json_syntax", "", 1, 2),
        ("True", "json_syntax", "", 1, 1),
        ('{"a": 1, "a": 2, oops', "json_syntax", "", 1, 18),
        ("// no comments\n1", "json_syntax", "", 1, 1),
    ],
)
def test_what_is_not_strict_json_is_refused_with_its_place(
    text: str, type: str, path: str, line: int, column: int
) -> None:
    problem = refusal(text)

    assert (problem["type"], problem["path"]) == (type, path)
    assert (problem["line"], problem["column"]) == (line, column)
    assert f"(line {line}, column {column})" in problem["msg"]
    assert len(problem["msg"]) < 200


@pytest.mark.parametrize(
    "text",
    [
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "[" + "[]," * 1000 + "[]]",
        '"' + "[" * 1000 + '"',
        "[1.5e300, -0, 1e-999]",
        '{"a": {"a": {"a": 1}}}',
        '[{"a": 1}, {"a": 1}]',
        '"\\ud83d\\ude00 NaN"',
        "18446744073709551615",
        " [ ] ",
    ],
)
def test_innocent_twins_pass(text: str) -> None:
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000,
        '{"a":' * 60_000,
        '"' + "\\" * 299_999,
        '"\\"' * 100_000,
        "[" + '"\\ud83d\\ude00",' * 20_000 + '"\\ud800"]',
        "[" + "1," * 150_000 + "NaN]",
        "[" + "[]," * 100_000 + "1e999]",
        '{"a":1' + ',"b":2' * 50_000 + "}",
        "-" * 300_000,
        "9" * 300_000,
        " " * 300_000,
    ],
)
def test_a_large_hostile_text_is_refused_in_linear_time(text: str) -> None:
    started = time.process_time()

    refusal(text)

    assert time.process_time() - started < 5  # half a second on a quiet machine; quadratic time would be minutes
