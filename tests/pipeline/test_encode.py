"""Results become JSON, or the call fails: nothing in between."""

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from pathlib import PurePosixPath

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from toolpost import OutputValidationError, Tool, create_tool_call
from toolpost.pipeline.encode import to_json
from toolpost.testing import executor_for

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_values_come_out_equal_and_share_nothing(value):
    encoded = to_json(value)

    assert encoded == value
    assert json.loads(json.dumps(encoded)) == value
    if isinstance(value, (list, dict)):
        assert encoded is not value


class Point(BaseModel):
    x: int
    when: datetime.date


@dataclasses.dataclass
class Box:
    points: list[Point]


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(x=1, when=datetime.date(2026, 1, 2)), {"x": 1, "when": "2026-01-02"}),
        (Box([Point(x=1, when=datetime.date(2026, 1, 2))]), {"points": [{"x": 1, "when": "2026-01-02"}]}),
        (Colour.RED, "red"),
        ({"day": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)}, {"day": "2026-01-02T03:04:00Z"}),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: "a"}, {"1": "a"}),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("a/b"), "a/b"),
        ([{"deep": (Colour.RED,)}], [{"deep": ["red"]}]),
    ],
)
def test_what_has_a_json_form_is_encoded(value, expected):
    assert to_json(value) == expected


def looped():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan"),
        (2**64, "beyond 64 bits"),
        ({"n": [-(2**63) - 1]}, "at /n/0 is an integer beyond 64 bits"),
        ({"\ud800": 1}, "not valid Unicode"),
        ({1: "a", "1": "b"}, "the same in JSON"),
        ({"a": [math.inf]}, "at /a/0 is inf"),
        (b"bytes", "base64"),
        ({"a": bytearray(b"x")}, "at /a"),
        (object(), "no JSON form"),
        ({"f": open}, "no JSON form"),
        ({(1, 2): 1}, "keys of an object must be text"),
        ({None: 1}, "keys of an object must be text"),
        ({True: 1}, "keys of an object must be text"),
        (looped(), "contains itself"),
        ("\ud800", "not valid Unicode"),
        ((n for n in [1]), "generator"),
        (iter([1]), "read it first"),
        (math, "no JSON form"),
    ],
)
def test_what_has_none_is_refused_and_says_where(value, words):
    with pytest.raises(OutputValidationError, match=words):
        to_json(value)


@pytest.mark.parametrize("value", [math.nan, b"x", object(), {"x": {1.5: 2}}])
def test_such_a_result_is_never_reported_as_success(value):
    tool = Tool(name="Odd", register=False)(lambda: value)
    with executor_for(tool) as executor:
        result = executor.execute_sync(create_tool_call("Odd", {}))

        assert (result.success, result.status_code, result.failure.code) == (False, 502, "invalid_output")
        assert executor.get_metrics()["failures"] == 1


@given(JSON)
def test_a_tools_own_keys_are_never_overwritten(value):
    tool = Tool(name="Mirror", register=False, parameters={"value": {}})(lambda value: value)
    with executor_for(tool, enable_security_checks=False, max_depth=200) as executor:
        data = executor.execute_sync(create_tool_call("Mirror", {"value": value})).data

    assert data == (value if isinstance(value, dict) else {"result": value})
