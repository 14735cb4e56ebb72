"""The header fields of the gateway: what is taken, what is refused, and what is written."""

import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from toolpost import InputValidationError
from toolpost.transports import http_bodies
from toolpost.transports.http_bodies import read_json
from toolpost.transports.http_headers import (
    MalformedHeaderError,
    Prefer,
    etag_matches,
    idempotency_key,
    next_link,
    prefer,
    retry_after,
    sf_string,
    trace_of,
)
from toolpost.transports.wire_json import parse_json


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ('  "a b"  ', "a b"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ('"a";q=1', "a"),
        ("8e03978e-40d5-43e8", "8e03978e-40d5-43e8"),
        ("order/7:a.b~c+d=e@f", "order/7:a.b~c+d=e@f"),
        ('"' + "a" * 255 + '"', "a" * 255),
    ],
)
def test_an_idempotency_key_is_a_structured_string_or_a_bare_word(value: str, key: str) -> None:
    assert idempotency_key(value) == key


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=100))
def test_every_string_that_is_written_is_read_again(text: str) -> None:
    assert idempotency_key(sf_string(text)) == text


@given(st.text(max_size=60))
def test_whatever_comes_is_a_key_or_is_refused(text: str) -> None:
    with contextlib.suppress(MalformedHeaderError):
        assert 1 <= len(idempotency_key(text)) <= 255


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("respond-async", Prefer(respond_async=True)),
        ("Respond-Async, WAIT=10", Prefer(respond_async=True, wait_s=10)),
        ("respond-async, wait=10, wait=20", Prefer(respond_async=True, wait_s=10)),
        ('wait="5", respond-async; foo="a,b"', Prefer(respond_async=True, wait_s=5)),
        ("return=minimal", Prefer()),
        ("", Prefer()),
        (", ,", Prefer()),
    ],
)
def test_preferences_are_read(value: str, found: Prefer) -> None:
    assert prefer(value) == found


def test_a_wait_is_told_as_it_is_applied() -> None:
    assert Prefer(respond_async=True).applied == "respond-async"
    assert Prefer(respond_async=True, wait_s=5).applied == "respond-async, wait=5"
    assert Prefer(respond_async=True, wait_s=9999).applied == "respond-async, wait=60"


@given(st.text(max_size=80))
def test_whatever_comes_as_a_preference_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(MalformedHeaderError):
        assert prefer(text).wait_s is None or "wait" in text.lower()


def test_a_trace_of_a_later_version_may_have_more() -> None:
    known = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    assert trace_of(f"01-{known}-more") == f"01-{known}-more"
    assert trace_of(f"00-{known}-more") is None
    assert trace_of(None) is None


@pytest.mark.parametrize(
    ("seconds", "field"), [(None, "1"), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(seconds: float | None, field: str) -> None:
    assert retry_after(seconds) == field


@pytest.mark.parametrize(
    ("given_by_caller", "matches"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), (None, False), ("", False)],
)
def test_an_etag_is_compared_as_rfc_9110_has_it(given_by_caller: str | None, matches: bool) -> None:
    assert etag_matches(given_by_caller, '"a"') == matches


def test_a_link_has_its_query_encoded() -> None:
    assert next_link("/v1/calls", {"state": ["a", "b"], "after": "x&y>"}) == (
        '</v1/calls?state=a&state=b&after=x%26y%3E>; rel="next"'
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_is_read_as_the_strict_reader_reads_it(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert read_json(text.encode()) == parse_json(text.encode())


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", ":"]), st.sampled_from(["1", '":"', '"\\u003a"', "[]", '{"a":1}'])))
)
def test_no_pair_of_equal_keys_is_missed_by_the_quick_reader(members: list[tuple[str, str]]) -> None:
    text = ("{" + ", ".join(f'"{name}" : {value}' for name, value in members) + "}").encode()
    names = [name for name, _ in members]

    try:
        found = read_json(text)
    except InputValidationError:
        assert len(set(names)) < len(names)
    else:
        assert len(set(names)) == len(names)
        assert list(found) == names


def test_a_body_with_many_small_lists_is_read_quickly_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bodies, "parse_json", lambda body: pytest.fail("it is read slowly"))
    deep = "[" * 199 + "]" * 199

    assert len(read_json(b'{"x":[' + b"[]," * 1_000 + b"{}]}")["x"]) == 1_001
    assert read_json(b'{"x":%b}' % deep.encode())["x"]


def test_a_body_of_more_levels_is_left_to_who_says_where() -> None:
    deep = "[" * 201 + "]" * 201

    with pytest.raises(InputValidationError, match="nested too deeply"):
        read_json(deep.encode())
