"""Idempotency keys: equal for equal calls, and for no others, whatever is in them."""

import dataclasses
import datetime
import decimal
import enum
import hashlib
import math
import subprocess
import sys
import uuid
from collections import OrderedDict

import pytest
from hypothesis import assume, given, strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_serializer

from toolpost import Caller, ConfigurationError, InputValidationError, Tool, ToolContext
from toolpost.calls.policies import Idempotency
from toolpost.engine.plugins import definitions_in
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.keys import (
    CustomIdempotencyKeyGenerator,
    DefaultIdempotencyKeyGenerator,
    FieldBasedIdempotencyKeyGenerator,
    HashBasedIdempotencyKeyGenerator,
    KeySpec,
    canonical,
    digest_of,
    fingerprint,
    key_maker,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["", "\0", "a|b", "a:b", '"', "null", "true", "1", "1.0", "\ud800", "é", "é", "[1]", '{"a":1}', "n", "s"]
)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.decimals(allow_nan=False)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.dictionaries(TEXT | st.integers() | st.booleans(), inner, max_size=2)
        | st.frozensets(st.integers() | TEXT, max_size=3)
    ),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
IDS = st.none() | TEXT


def same(a, b):
    """Whether two values mean the same, spelled out without any of the code under test."""
    if isinstance(a, float) and isinstance(b, float):
        return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        if len(a) != len(b):
            return False
        left = {(type(k), k): v for k, v in a.items()}
        right = {(type(k), k): v for k, v in b.items()}
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(a, frozenset):
        return {(type(m), m) for m in a} == {(type(m), m) for m in b}
    if isinstance(a, decimal.Decimal):
        return a.as_tuple() == b.as_tuple()
    return a == b


@given(VALUES, VALUES)
def test_two_values_share_a_form_only_when_they_mean_the_same(a, b):
    assert (canonical(a) == canonical(b)) == same(a, b)


LOOKALIKES = [
    None, True, False, 0, 1, 1.0, -0.0, 0.0, "", "1", "1.0", "true", "null", [], {}, [None], [[]], [1], ["1"], [1, 2],
    ["1,2"], {"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": None}, {1: "a"}, {"1": "a"}, {True: "a"}, {None: "a"},
    {"None": "a"}, b"", b"1", float("nan"), float("inf"), -float("inf"), 2**63, 2**64, float(2**64), -(2**64),
    str(2**64), datetime.date(2020, 1, 1), "2020-01-01", datetime.datetime(2020, 1, 1),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "2020-01-01T00:00:00", datetime.time(0), "00:00:00",
    datetime.timedelta(seconds=1), decimal.Decimal("1"), decimal.Decimal("1.0"), {1, 2}, {"a": {"b": 1}},
    {"a": [{"b": 1}]}, {"a": 1, "b": None}, "\ud800", "\\ud800", [float("nan")], [None, float("nan")],
]  # fmt: skip


def test_values_that_look_alike_all_differ():
    forms = [canonical(value) for value in LOOKALIKES]

    assert len(set(forms)) == len(LOOKALIKES)


def test_the_longer_form_shows_where_each_part_ends():
    odd = 2**80
    nested = [[odd, [1], 2], [odd, [1, 2]], [odd, 1, 2], [[odd], 1, 2], [odd, {"a": 1}, 2], [odd, {"a": [1, 2]}]]
    texts = [[odd, "ab", ""], [odd, "a", "b"], [odd, "", "ab"], [odd, "ab"]]
    times = [datetime.datetime(2024, 10, 27, 2, fold=fold) for fold in (0, 1)]

    assert len({canonical(value) for value in (*nested, *texts, *times)}) == len(nested) + len(texts) + len(times)


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=4))
def test_the_order_of_keys_does_not_matter(arguments):
    turned = dict(reversed(arguments.items()))

    assert canonical({"a": [turned]}) == canonical({"a": [arguments]})
    assert canonical(OrderedDict(arguments)) == canonical(arguments)


class Colour(enum.Enum):
    RED = "red"
    ODD = float("nan")


@dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Place:
    x: int


def test_what_stands_for_json_is_json_and_other_classes_are_told_apart():
    number = uuid.uuid4()
    assert canonical({"a": Colour.RED, "b": (1, 2), "c": number}) == canonical(
        {"a": "red", "b": [1, 2], "c": str(number)}
    )
    assert canonical(Colour.ODD) != canonical(None)
    assert canonical(Point(1)) == canonical(Point(1)) != canonical(Point(2))
    assert canonical(Point(1)) not in (canonical(Place(1)), canonical({"x": 1}))


def test_what_has_no_form_is_refused():
    loop: list = []
    loop.append(loop)

    for value in (object(), lambda: 1, loop, {"a": object()}, {object(): 1}):
        with pytest.raises(ValueError, match=r"no canonical form|too deeply"):
            canonical(value)


@given(st.lists(IDS | st.binary(max_size=8), max_size=5), st.lists(IDS | st.binary(max_size=8), max_size=5))
def test_digests_of_different_parts_differ(some, others):
    assert (digest_of(*some) == digest_of(*others)) == ([(type(p), p) for p in some] == [(type(p), p) for p in others])


def test_a_part_that_moves_over_its_edge_changes_the_digest():
    assert (
        len(
            {digest_of("ab", "c"), digest_of("a", "bc"), digest_of("abc"), digest_of("abc", ""), digest_of("abc", None)}
        )
        == 5
    )
    assert digest_of("a") != digest_of(b"a")
    assert len({digest_of("a", "b"), digest_of("asb"), digest_of("a", None), digest_of("an"), digest_of("a\0b")}) == 5


# -- keys of calls -----------------------------------------------------------------------------------------------------


def tool(name="Shop.Order", version="1.0.0"):
    def order(order_id: str = "", amount: float = 0) -> str:
        return order_id

    return definitions_in(Tool(name=name, version=version, register=False)(order))[0]


def call(arguments, *, key=None, **ids):
    inv = Invocation.of(arguments)
    if ids:
        inv.caller = Caller(**ids)
    inv.idempotency_key = key
    return inv


WHO = st.fixed_dictionaries({"tenant": IDS, "user_id": IDS, "session_id": IDS})
WHAT = st.tuples(st.sampled_from(["a", "a.b", "b", "1"]), st.sampled_from(["1", "1.0", "1.0.0", "a:1"]))
CALLS = st.tuples(WHAT, WHO, ARGUMENTS, st.none() | st.text(max_size=4))


@given(CALLS, CALLS, st.booleans(), st.booleans())
def test_two_calls_share_a_key_only_when_everything_agrees(one, other, by_user, by_session):
    policy = Idempotency(include_user=by_user, include_session=by_session)

    def made(what, who, arguments, key):
        return key_maker(tool(*what), policy)(call(arguments, key=key, **who))

    def means(what, who, key):
        return (what, who["tenant"], who["user_id"] if by_user else 0, who["session_id"] if by_session else 0, key)

    (what, who, arguments, key), (what2, who2, arguments2, key2) = one, other
    agree = means(what, who, key) == means(what2, who2, key2) and (key is not None or same(arguments, arguments2))
    assert (made(*one) == made(*other)) == agree
    assert made(*one) == made(*one)


@given(CALLS, st.sampled_from([("tenant", "user_id"), ("user_id", "session_id"), ("tenant", "session_id")]))
def test_ids_that_change_places_change_the_key(made, places):
    what, who, arguments, key = made
    assume(who[places[0]] != who[places[1]])
    swapped = {**who, places[0]: who[places[1]], places[1]: who[places[0]]}
    keys = key_maker(tool(*what), Idempotency(include_session=True))

    assert keys(call(arguments, key=key, **who)) != keys(call(arguments, key=key, **swapped))


def test_name_and_version_cannot_run_into_each_other():
    makers = [key_maker(tool(*what), Idempotency()) for what in (("a", "11"), ("a1", "1"), ("a11", "1"), ("a", "111"))]

    assert len({make(call({})) for make in makers}) == 4


def test_a_callers_key_is_never_one_that_is_made():
    make = key_maker(tool(), Idempotency())
    made = make(call({"order_id": "o1"}))

    assert make(call({"order_id": "o1"}, key=made)) != made
    assert make(call({"order_id": "o1"}, key=canonical({"order_id": "o1"}).decode())) != made
    assert make(call({}, key="k")) == make(call({"order_id": "other"}, key="k"))


def test_key_fields_alone_tell_calls_apart():
    make = key_maker(tool(), Idempotency(key_fields=("order_id",)))

    assert make(call({"order_id": "o1", "amount": 1})) == make(call({"order_id": "o1", "amount": 2}))
    assert make(call({"order_id": "o1"})) != make(call({"order_id": "o2"}))


def test_a_missing_key_field_is_refused_by_name_and_null_is_a_value():
    make = key_maker(tool(), Idempotency(key_fields=("order_id", "a/b")))

    with pytest.raises(InputValidationError, match="'order_id' is missing") as caught:
        make(call({"amount": 1}))
    assert [problem["path"] for problem in caught.value.errors()] == ["/order_id", "/a~1b"]
    assert make(call({"order_id": None, "a/b": 1})) != make(call({"order_id": "None", "a/b": 1}))


def test_a_missing_key_field_bypasses_the_policy_where_that_is_said():
    make = key_maker(tool(), Idempotency(key_fields=("order_id",), bypass_on_missing_key=True))

    assert make(call({"amount": 1})) is None
    assert make(call({"order_id": "o1"})) is not None


def test_only_the_callers_key_counts_where_that_is_said():
    make = key_maker(tool(), Idempotency(only_caller=True))

    assert make(call({"order_id": "o1"})) is None
    assert make(call({"order_id": "o1"}, key="k")) is not None


def test_arguments_without_a_form_are_refused():
    with pytest.raises(InputValidationError, match="cannot make an idempotency key"):
        key_maker(tool(), Idempotency())(call({"order_id": object()}))
    with pytest.raises(InputValidationError, match="cannot make an idempotency key"):
        fingerprint(tool(), call({"order_id": object()}))


def test_a_fingerprint_is_of_all_arguments():
    assert fingerprint(tool(), call({"a": 1})) == fingerprint(tool(), call({"a": 1}, user_id="ann"))
    assert fingerprint(tool(), call({"a": 1})) != fingerprint(tool(), call({"a": 1.0}))


def test_a_key_is_the_same_in_another_process():
    arguments = {"order_id": "o1", "big": 2**80, "day": datetime.date(2024, 2, 29), "some": {"b", "a"}}
    made = digest_of("t", canonical(arguments))
    code = (
        "import datetime; from toolpost.pipeline.keys import canonical, digest_of\n"
        "a = {'some': {'a', 'b'}, 'day': datetime.date(2024, 2, 29), 'big': 2**80, 'order_id': 'o1'}\n"
        "print(digest_of('t', canonical(a)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)

    assert other.stdout.strip() == made


# -- generators --------------------------------------------------------------------------------------------------------

OURS = [
    DefaultIdempotencyKeyGenerator(),
    FieldBasedIdempotencyKeyGenerator(),
    FieldBasedIdempotencyKeyGenerator(include_user_context=False),
    HashBasedIdempotencyKeyGenerator("sha512", include_session_context=False),
    HashBasedIdempotencyKeyGenerator("blake2b", include_user_context=False),
]


@pytest.mark.parametrize("generator", OURS, ids=lambda g: f"{type(g).__name__}-{getattr(g, 'algorithm', '')}")
@pytest.mark.parametrize("fields", [None, ("order_id",)])
def test_the_stage_makes_the_key_that_the_generator_makes(generator, fields):
    policy = Idempotency(generator=generator, key_fields=fields)
    definition, arguments = tool(), {"order_id": "o1", "amount": 3}
    ctx = ToolContext(tenant_id="t", user_id="ann", session_id="s")
    inv = call(arguments, tenant="t", user_id="ann", session_id="s")

    assert key_maker(definition, policy)(inv) == generator.generate_key(arguments, ctx, KeySpec.of(definition, policy))


def test_a_generator_says_whether_user_and_session_belong_to_the_key():
    def keys(generator):
        make = key_maker(tool(), Idempotency(generator=generator))
        who = [{"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "ann", "session_id": "s"}]
        ann, bob, session = (make(call({"order_id": "o1"}, **ids)) for ids in who)
        return ann == bob, ann == session

    assert keys(DefaultIdempotencyKeyGenerator()) == (False, False)
    assert keys(FieldBasedIdempotencyKeyGenerator()) == (False, True)
    assert keys(FieldBasedIdempotencyKeyGenerator(include_user_context=False)) == (True, True)
    assert keys(HashBasedIdempotencyKeyGenerator(include_session_context=False)) == (False, True)
    assert keys(HashBasedIdempotencyKeyGenerator(include_user_context=False)) == (True, False)


def test_a_generator_of_ones_own_is_within_tenant_tool_version_and_user():
    policy = Idempotency(generator=CustomIdempotencyKeyGenerator(lambda args, ctx, spec: f"{spec.tool_name}-same"))
    keys = {
        key_maker(definition, policy)(call({}, **ids))
        for definition in (tool(), tool(version="2.0.0"), tool("Other"))
        for ids in ({}, {"tenant": "t"}, {"tenant": "u"}, {"tenant": "t", "user_id": "ann"})
    }

    assert len(keys) == 12


def test_a_callable_is_a_generator_too_and_sees_the_call():
    seen = []

    def by_order(args, ctx):
        seen.append((dict(args), ctx.user_id, ctx.tenant_id))
        return args["order_id"]

    make = key_maker(tool(), Idempotency(generator=by_order))

    assert make(call({"order_id": "o1"}, user_id="ann")) != make(call({"order_id": "o2"}, user_id="ann"))
    assert seen[0] == ({"order_id": "o1"}, "ann", None)


@pytest.mark.parametrize(
    ("text", "error"), [("", InputValidationError), (None, InputValidationError), (7, ConfigurationError)]
)
def test_a_generator_that_gives_no_text_refuses_the_call(text, error):
    with pytest.raises(error, match="key"):
        key_maker(tool(), Idempotency(generator=lambda args, ctx: text))(call({}))


def test_a_generator_that_gives_none_bypasses_where_that_is_said():
    policy = Idempotency(generator=lambda args, ctx: None, bypass_on_missing_key=True)

    assert key_maker(tool(), policy)(call({})) is None


@pytest.mark.parametrize("algorithm", ["md5", "SHA1", "shake_128", "nonsense", "", None])
def test_a_hash_that_is_broken_or_unknown_is_refused(algorithm):
    with pytest.raises(ConfigurationError, match=r"algorithm.*sha256"):
        HashBasedIdempotencyKeyGenerator(algorithm)


def test_the_algorithm_decides_the_length_of_the_key():
    for algorithm in ("sha256", "sha512", "sha3_256"):
        make = key_maker(tool(), Idempotency(generator=HashBasedIdempotencyKeyGenerator(algorithm)))
        assert len(make(call({})) or "") == hashlib.new(algorithm).digest_size * 2


def test_many_callers_do_not_fill_the_memory():
    make = key_maker(tool(), Idempotency())
    keys = {make(call({}, user_id=f"u{n}")) for n in range(5000)}

    assert len(keys) == 5000
    kept = next(cell.cell_contents for cell in make.__closure__ or () if isinstance(cell.cell_contents, dict))
    assert len(kept) <= 1024


def test_models_that_differ_in_what_their_dump_leaves_out_or_masks_have_other_forms():
    class Payment(BaseModel):
        model_config = ConfigDict(extra="allow")
        to: str
        note: str = Field("", exclude=True)

        @field_serializer("to")
        def masked(self, to):
            return "***"

    forms = {
        canonical(Payment(**fields))
        for fields in ({"to": "a"}, {"to": "b"}, {"to": "a", "note": "x"}, {"to": "a", "more": 1}, {"to": "a"})
    }

    assert len(forms) == 4
