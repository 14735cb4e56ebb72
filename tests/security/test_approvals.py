"""Approvals in records: what is shown of a call, what is kept, and how lists are told."""

import time

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from toolpost import ConfigurationError, EngineError, RateLimitError
from toolpost.calls.redaction import Redactor
from toolpost.security import waiting_room as ours
from toolpost.security.approval_records import KEPT_S, LAST, LAST_KEPT_S, ApprovalRecord, record_of
from toolpost.security.approvals import Approvals
from toolpost.security.shown import MAX_BYTES, MAX_TEXT, changes, shown
from toolpost.stores.memory_records import MemoryRecords
from toolpost.testing import FakeClock

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # a lone surrogate is no JSON, and never comes as far
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz_/~", max_size=8), inner, max_size=4),
    max_leaves=20,
)


def told(arguments, schema=None, redactor=None):
    return shown(arguments, schema or {}, redactor or Redactor())


SECRETS = {
    "its name": ({"api_key": "abc"}, {}, "/api_key"),
    "a name further in": ({"login": {"password": "abc"}}, {}, "/login/password"),
    "a number": ({"pin": 1234}, {"properties": {"pin": {"x-secret": True}}}, "/pin"),
    "writeOnly": ({"a": "abc"}, {"properties": {"a": {"writeOnly": True}}}, "/a"),
    "format": ({"a": "abc"}, {"properties": {"a": {"type": "string", "format": "password"}}}, "/a"),
    "one of several": ({"a": "abc"}, {"properties": {"a": {"anyOf": [{"x-secret": True}, {"type": "null"}]}}}, "/a"),
    "in a list": ({"a": ["abc"]}, {"properties": {"a": {"items": {"writeOnly": True}}}}, "/a"),
    "behind a reference": (
        {"a": {"b": "abc"}},
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"properties": {"b": {"writeOnly": True}}}}},
        "/a/b",
    ),
    "further members": (
        {"a": {"b": "abc"}},
        {"properties": {"a": {"additionalProperties": {"x-secret": True}}}},
        "/a/b",
    ),
    "what looks like a key": ({"note": f"use ghp_{'a' * 20} there"}, {}, "/note"),
}


@pytest.mark.parametrize(("arguments", "schema", "path"), SECRETS.values(), ids=SECRETS)
def test_secrets_are_neither_shown_nor_kept(arguments, schema, path):
    found = told(arguments, schema)

    assert found.hidden == (path,)
    assert not found.whole
    for secret in ("abc", "1234", "ghp_a"):
        assert secret not in str(found.arguments)


def test_a_secret_that_is_known_by_its_value_is_hidden_wherever_it_stands():
    redactor = Redactor()
    redactor.add("correct-horse-battery")

    found = told({"note": "it is correct-horse-battery", "list": [{"x": "correct-horse-battery"}]}, redactor=redactor)

    assert "horse" not in str(found.arguments)
    assert found.hidden == ("/note", "/list/0/x")


@given(st.dictionaries(st.text("abcxyz_/~", min_size=1, max_size=8), JSON, max_size=4))
def test_arguments_without_secrets_are_shown_as_they_are(arguments):
    assert told(arguments)[:3] == (arguments, (), ())


def test_what_is_too_long_is_cut_and_says_so():
    text = "x" * (MAX_TEXT + 1)
    found = told({"a": text, "b": 1})

    assert (found.cut, found.arguments["b"]) == (("/a",), 1)
    assert found.arguments["a"].startswith("x" * MAX_TEXT + f"[… {len(text)} characters, sha256 ")


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": ["x" * 100] * 5000, "b": 1},
        {f"a{n}": "y" * 3000 for n in range(100)},
        {f"a{n}": n for n in range(20_000)},
        {f"{n}{'a' * 3000}": n for n in range(100)},
    ],
)
def test_no_more_than_so_much_is_kept(arguments):
    found = told(arguments)

    assert len(orjson.dumps(found.arguments)) <= MAX_BYTES + 200
    assert found.cut
    assert not found.whole


def test_many_arguments_are_cut_in_one_pass_and_the_places_that_are_named_are_bounded():
    many = {f"n{n}": "x" * 300 for n in range(5000)}
    began = time.perf_counter()
    found = told({**many, "o": {f"password{n}": "secret" for n in range(5000)}})

    assert time.perf_counter() - began < 10  # one pass takes a second; looking for the largest each time, a minute
    assert (len(found.cut), len(found.hidden), found.hidden[-1]) == (101, 101, "and 4900 more")


def test_names_that_hold_secrets_are_hidden_and_none_of_them_is_lost():
    found = told({"o": {f"ghp_{letter * 20}": letter for letter in "abc"}})

    assert found.arguments == {"o": {"[hidden]": "a", "[hidden] (2)": "b", "[hidden] (3)": "c"}}
    assert found.hidden == ("/o/[hidden]",) * 3


def test_the_digest_of_what_is_cut_is_of_what_is_shown_so_that_nobody_guesses_a_secret_in_it():
    redactor = Redactor()
    redactor.add("correct-horse-battery")
    text = "x" * MAX_TEXT

    first = told({"a": f"{text} correct-horse-battery"}, redactor=redactor).arguments
    redactor.add("another-horse-battery")
    second = told({"a": f"{text} another-horse-battery"}, redactor=redactor).arguments

    assert first["a"].partition("sha256")[2] == second["a"].partition("sha256")[2]


def test_characters_that_nobody_sees_are_named_to_the_approver():
    found = told({"path": "invoice\u202efdp.exe", "who\u200b": "x"})

    assert found.odd == (
        "/path has U+202E RIGHT-TO-LEFT OVERRIDE at character 8",
        "the name /who\\u200b has U+200B ZERO WIDTH SPACE at character 4",
    )


@given(JSON, JSON)
def test_changes_are_none_for_equal_values_and_some_for_others(before, now):
    assert changes(before, before) == []
    same = orjson.dumps(before, option=orjson.OPT_SORT_KEYS) == orjson.dumps(now, option=orjson.OPT_SORT_KEYS)
    assert (changes(before, now) == []) == same


def test_changes_name_places_and_values():
    before, now = {"a": 1, "b": {"c": [1]}, "gone": 0}, {"a": 2, "b": {"c": [1]}, "new/~": 0}

    assert changes(before, now) == [
        {"path": "/a", "before": 1, "now": 2},
        {"path": "/gone", "before": 0},
        {"path": "/new~1~0", "now": 0},
    ]


# -- records ----------------------------------------------------------------------------------------------------------


async def had(answer):
    return answer


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def approvals(clock):
    return Approvals(MemoryRecords("memory://", clock=clock), clock)


def draft(n=0, **more):
    fields = {"id": "", "tool": "T", "version": "1", "definition": "d", "arguments_digest": f"a{n}", "user_id": "ann"}
    return ApprovalRecord(**{**fields, "arguments": {"n": n}, **more})


def subject(n):
    return f"{n:024d}{'f' * 40}"


async def ask(approvals, n, max_pending=1000, **more):
    return await approvals.ask(draft(n, **more), subject(n), max_pending, had)


@settings(max_examples=30)
@given(st.dictionaries(st.text("abc"), JSON, max_size=3), st.lists(st.text(max_size=9), max_size=3))
def test_a_record_is_read_as_it_was_written(arguments, words):
    record = draft(arguments=arguments, odd=tuple(words), history=({"at": 1.5, "what": "asked"},))

    assert record_of(record.body(), 7) == record
    assert record_of(record.body(), 7).at_version == 7


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1}', b"null", b"\xff"])
def test_what_is_no_record_grants_nothing(body):
    with pytest.raises(EngineError):
        record_of(body, 1)


async def test_the_next_approver_sees_what_differs_from_the_last_approved_call(approvals):
    first = await ask(approvals, 1)
    assert first.changes == ()
    await approvals.decide(first.id, "ops", had, approve=True)
    await ask(approvals, 2)
    denied = await ask(approvals, 3)
    await approvals.decide(denied.id, "ops", had, approve=False, reason="no")

    assert (await ask(approvals, 4)).changes == ({"path": "/n", "before": 1, "now": 4},)
    assert (await ask(approvals, 5, user_id="bob")).changes == ()


async def test_lists_are_oldest_first_and_by_state_and_tenant(approvals, clock):
    for n in (5, 2, 9):
        await ask(approvals, n, tenant="acme" if n == 9 else None)
        clock.advance(1)
    (first, second, third) = await approvals.listed("pending", None, 10, had)
    await approvals.decide(first.id, "ops", had, approve=True)

    assert [one.arguments["n"] for one in (first, second, third)] == [5, 2, 9]
    assert [one.id for one in await approvals.listed("pending", None, 1, had)] == [second.id]
    assert [one.id for one in await approvals.listed("approved", None, 10, had)] == [first.id]
    assert [one.id for one in await approvals.listed(None, "acme", 10, had)] == [third.id]
    assert [one.id for one in await approvals.listed(None, None, 10, had)] == [first.id, second.id, third.id]
    clock.advance(3600)
    assert [one.id for one in await approvals.listed("expired", None, 10, had)] == [first.id, second.id, third.id]


async def test_a_record_that_another_took_the_place_of_is_still_shown_and_no_longer_decided(approvals, clock):
    first = await ask(approvals, 1)
    clock.advance(3601)
    second = await ask(approvals, 1)

    assert (await approvals.shown(first.id, had)).id == first.id
    with pytest.raises(ConfigurationError, match="asked about anew"):
        await approvals.decide(first.id, "ops", had, approve=True)
    assert [one.id for one in await approvals.listed(None, None, 10, had)] == [first.id, second.id]
    clock.advance(3600 + KEPT_S + 1)
    assert await approvals.shown(first.id, had) is None
    assert await approvals.shown(second.id, had) is None


@pytest.mark.parametrize("approval_id", ["", "x", "-", "a-b-c", "0" * 24, f"{'0' * 24}-00000000"])
async def test_an_id_that_is_none_is_said_to_be_none(approvals, approval_id):
    assert await approvals.shown(approval_id, had) is None
    with pytest.raises(ConfigurationError, match="is not there"):
        await approvals.decide(approval_id, "ops", had, approve=True)


@pytest.mark.parametrize("verdict", [True, False])
async def test_a_decision_is_made_once(approvals, verdict):
    first = await ask(approvals, 1)
    await approvals.decide(first.id, "ops", had, approve=verdict, reason="so it is")

    for again in (True, False):
        with pytest.raises(ConfigurationError, match="only one that is pending"):
            await approvals.decide(first.id, "eve", had, approve=again, reason="no, so")
    assert (await approvals.shown(first.id, had)).decided_by == "ops"


@pytest.mark.parametrize(
    ("bound", "whose", "fields"),
    [
        ("MAX_OF_CALLER", "of this caller", lambda n: {"tool": f"T{n}"}),
        ("MAX_OF_TOOL", "of this tool", lambda n: {"user_id": f"u{n}"}),
        ("MAX_OF_TENANT", "of this tenant", lambda n: {"user_id": f"u{n}", "tool": f"T{n}"}),
    ],
)
async def test_so_many_questions_wait_at_a_time(approvals, monkeypatch, bound, whose, fields):
    monkeypatch.setattr(ours, bound, 3)
    for n in range(3):
        await ask(approvals, n, **fields(n))

    with pytest.raises(RateLimitError, match=whose):
        await ask(approvals, 3, **fields(3))
    assert (await ask(approvals, 4, tenant="another", **fields(4))).state == "pending"


async def test_questions_that_are_over_neither_count_nor_hide_those_that_wait(approvals, clock, monkeypatch):
    monkeypatch.setattr(ours, "MAX_OF_TENANT", 3)
    monkeypatch.setattr(ours, "PAGE", 2)
    for round in range(4):
        for n in range(3):
            await ask(approvals, 10 * round + n)
        with pytest.raises(RateLimitError, match="of this tenant"):
            await ask(approvals, 99)
        clock.advance(3601)
    waiting = [await ask(approvals, 50 + n) for n in range(3)]

    assert await approvals.listed("pending", None, 10, had) == waiting
    await approvals.decide(waiting[0].id, "ops", had, approve=False, reason="no")
    assert await approvals.listed("pending", None, 10, had) == waiting[1:]
    assert (await ask(approvals, 99)).state == "pending"


async def test_what_was_approved_last_is_not_kept_for_ever(approvals, clock):
    await approvals.decide((await ask(approvals, 1)).id, "ops", had, approve=True)
    (kept,) = approvals.records.documents(LAST)

    assert kept.expires_at == clock.now() + LAST_KEPT_S


def test_a_digest_that_a_key_sealed_is_that_keys_own(approvals):
    plain = approvals.sealed("d")
    sealed = set()
    for secret in ("one", "two"):
        approvals.secret = lambda: secret  # noqa: B023
        sealed.add(approvals.sealed("d"))
        assert approvals.sealed("d") in sealed

    assert (plain, len(sealed | {plain})) == ("d", 3)
