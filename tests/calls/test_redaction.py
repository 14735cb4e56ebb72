"""What a Redactor knows is hidden in every form that it promises, and nothing else is touched."""

import dataclasses
import gc
import json
import logging
import pickle
import re
import threading
import time
import traceback
import types
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings, strategies as st
from pydantic import BaseModel, Field, SecretStr, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tests.canaries.encoded_forms import ENCODINGS, shows
from toolpost.calls import redaction
from toolpost.calls.redaction import HIDDEN, MOST, Redactor, Revealed, hide
from toolpost.pipeline.encode import to_json

SECRET = 'hunter2/é+"x y\\z'

# What stands in real secrets: letters, digits, what is escaped somewhere, and what is more than one byte.
SECRETS = st.text(st.sampled_from("abcXYZ0189-_./+=%&<>\"'\\ :@é€😀\n"), min_size=6, max_size=60).filter(
    lambda s: len(s.strip()) >= 6 and len(set(s)) > 3
)

# What begins an escape makes one with the start of what follows it, to whoever reads by the rules.
SIGNS = [
    "%",
    "%0",
    "\\",
    "\\\\",
    "\\x",
    "\\x0",
    "\\u",
    "\\u00",
    "\\U000",
    "&",
    "&#",
    "&#x",
    "&l",
    "%25",
    "&amp;",
    "\\u005c",
    "\0",
]
BEFORE = st.builds(
    "{}{}".format,
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.lists(st.sampled_from(SIGNS), max_size=3).map("".join),
)


def knowing(*secrets):
    redactor = Redactor()
    for secret in secrets:
        assert redactor.add(secret)
    return redactor


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_secret_is_hidden_in_each_encoding(name):
    text = f"before {ENCODINGS[name](SECRET)} after"

    shown = knowing(SECRET).text(text)

    assert HIDDEN in shown
    assert not shows(SECRET, shown)
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@settings(max_examples=300)
@given(SECRETS, st.sampled_from(sorted(ENCODINGS)), BEFORE, st.text(max_size=30))
@example("%41%42%43%44", "percent", "", "")
@example("\\u0041\\u0042", "JSON", "", "")
@example("&amp;&lt;&gt;", "HTML", "", "")
@example("a+b c%20d", "form", "", "")
@example("a\\zb%41c-12", "JSON in a URL", "", "")
@example("00018<", "HTML", "%", "")
@example("00018<", "percent", "%", "")
@example("00018<", "percent, twice", "%25", "")
@example("😀00018", "JSON", "\\", "")
@example("é00018", "\\x", "\\", "")
@example("9b€😀>+", "percent", "\\x0", "")
@example("b<=😀\n8", "form", "\\u000", "")
@example("8 \\b_- '", "form", " -%0", "")
@example("Y\\&c+a", "\\x", "\\\\\\", "")
@example("\nabcde", "JSON", "\\", "")
@example("lt;ab<c", "HTML", "&", "")
@example('u0041b"c', "JSON", "\\", "")
@example('001\\<"', "percent, twice", "Z%", "")
@example('1"+😀€\\', "percent, twice", "&Y%0", "")
@example("ab/cdé>?>", "base64 in a URL", "%", "")
def test_no_encoding_of_any_secret_gets_through(secret, name, before, after):
    text = before + ENCODINGS[name](secret) + after

    shown = knowing(secret).text(text)

    assert not shows(secret, shown)
    assert not knowing(secret).shows(shown)


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("filler", ["word ", "a%41 b\\n c&amp; ", "%20"], ids=["plain", "escaped", "all escaped"])
def test_a_secret_is_hidden_in_a_long_text(name, filler):
    text = filler * 3000 + ENCODINGS[name](SECRET) + filler * 3000

    shown = knowing(SECRET).text(text)

    assert not shows(SECRET, shown)
    assert len(shown) > len(text) - 600


@settings(max_examples=200)
@given(st.text(max_size=200), SECRETS)
def test_a_text_without_the_secret_is_the_same_object(text, secret):
    redactor = knowing(secret)

    if not redactor.shows(text):
        assert redactor.text(text) is text


def test_only_the_secret_is_hidden():
    shown = knowing("s3cr3t-canary").text("GET /orders?key=s3cr3t-canary&page=2 said s3cr3t-canary, twice")

    assert shown == f"GET /orders?key={HIDDEN}&page=2 said {HIDDEN}, twice"


def test_what_shows_a_secret_only_once_others_are_hidden_is_not_shown_at_all():
    assert knowing("canary-inner", "x[hidden]y").text("an xcanary-innery") == HIDDEN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, SECRETS)
def test_a_value_without_the_secret_is_the_same_object(value, secret):
    redactor = knowing(secret)

    if not redactor.shows(json.dumps(value, ensure_ascii=False)) and not redactor.shows(json.dumps(value)):
        assert redactor.value(value) is value


@given(SECRETS, st.sampled_from(sorted(ENCODINGS)))
def test_a_secret_is_hidden_anywhere_in_a_value(secret, name):
    encoded = ENCODINGS[name](secret)
    value = {"a": [1, {"b": (encoded, "kept")}], encoded: {"deep": [[encoded]]}, "same": {"x": 1}}

    shown = knowing(secret).value(value)

    assert not shows(secret, json.dumps(shown, ensure_ascii=False))
    assert shown["a"][1]["b"][1] == "kept"
    assert shown["same"] is value["same"]
    assert value["a"][1]["b"][0] == encoded


def test_two_keys_that_are_secrets_stay_two():
    shown = knowing("canary-one", "canary-two").value({"canary-one": 1, "canary-two": 2})

    assert sorted(shown.values()) == [1, 2]


def test_a_number_that_is_a_secret_is_hidden():
    assert knowing("4929123456").value({"pin": 4929123456, "n": 4}) == {"pin": HIDDEN, "n": 4}


def test_bytes_and_sets_are_looked_into():
    redactor = knowing("canary-bytes")

    assert redactor.value({b"a canary-bytes b"}) == {b"a [hidden] b"}
    assert redactor.value(bytearray(b"canary-bytes")) == b"[hidden]"


def test_a_secret_of_bytes_is_hidden_as_text_base64_and_hex():
    raw = b"\xff\xfe\x00binary key\x80"
    redactor = knowing(raw)

    assert redactor.text(raw.hex()) == HIDDEN
    assert redactor.value([raw]) == [HIDDEN.encode()]


@dataclasses.dataclass(frozen=True)
class Login:
    user: str
    _password: str


class Model(BaseModel):
    user: str
    password: str


class Opaque:
    def __init__(self, inner):
        self.inner = inner


def test_objects_are_hidden_in_as_far_as_they_show_what_they_hold():
    redactor = knowing("canary-object")

    assert redactor.value(Login("ann", "canary-object")) == Login("ann", HIDDEN)
    assert redactor.value([Model(user="ann", password="canary-object")]) == [{"user": "ann", "password": HIDDEN}]
    assert "canary-object" not in redactor.value(Opaque("canary-object"))
    plain = Opaque("other")
    assert redactor.value(plain) is plain


def test_lines_of_a_key_are_hidden_by_themselves():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nzzzzTAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n"
    redactor = knowing(key)

    assert redactor.text("x MIIEvQIBADANBgkqhkiG9w0 y") == f"x {HIDDEN} y"
    assert redactor.text(key) == f"{HIDDEN}"
    assert redactor.text("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


def test_the_password_of_a_url_is_hidden_by_itself():
    redactor = knowing("postgresql://app:s%40fe-pass@db:5432/shop")

    assert redactor.text("no: s@fe-pass") == f"no: {HIDDEN}"
    assert redactor.text("to db as app") == "to db as app"


def test_a_password_that_the_url_names_otherwise_is_no_secret():
    assert knowing("postgresql://postgres:postgres@db/postgres").text("is postgres up?") == "is postgres up?"


def test_members_of_json_with_secret_names_are_hidden_by_themselves():
    redactor = knowing('{"type": "service_account", "client": {"private_key": "line one of key\\nline two of key"}}')

    assert redactor.text("line one of key\nline two of key") == HIDDEN
    assert redactor.text("service_account") == "service_account"


def test_one_that_is_too_short_is_not_hidden_and_that_is_told_without_it(caplog):
    with caplog.at_level(logging.WARNING):
        assert not Redactor().add("tiny!", "secret://env/PIN")

    assert "secret://env/PIN has fewer than 6 characters" in caplog.text
    assert "tiny!" not in caplog.text


def test_a_beginning_at_the_end_of_what_was_cut_is_hidden():
    redactor = knowing("canary-that-is-long")

    assert redactor.text("said canary-that", cut=True) == f"said {HIDDEN}"
    assert redactor.text("said canary-that") == "said canary-that"
    assert redactor.text("said cana", cut=True) == "said cana"
    assert redactor.text("said canary-that", cut=True, given=lambda text: text == "canary-that") == "said canary-that"


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_beginning_in_an_encoding_is_hidden_too(name):
    secret = 'canary/"é+17" of_what & was cut'
    encoded = ENCODINGS[name](secret)
    redactor = knowing(secret)

    for size in range(len(encoded) // 2 + 10, len(encoded)):
        shown = redactor.text(f"said {encoded[:size]}", cut=True)

        assert shown.startswith("said ")
        assert HIDDEN in shown
        assert encoded[len(encoded) // 2 - 8 : len(encoded) // 2 + 8] not in shown


def test_whoever_gave_a_beginning_is_not_told_that_it_is_one_in_an_encoding_either():
    redactor = knowing("canary/that/is long")
    text = "said canary%2Fthat%2Fis"

    assert redactor.text(text, cut=True) == f"said {HIDDEN}"
    assert redactor.text(text, cut=True, given=lambda text: text == "canary/that/is") == text


def test_numbers_keys_and_other_containers_are_looked_into():
    redactor = knowing("483920")
    value = {"float": 483920.0, "keys": {483920: 1, (483920, 1): 2}, "deque": deque(["483920"])}

    assert redactor.value(value) == {
        "float": HIDDEN,
        "keys": {HIDDEN: 1, (HIDDEN, 1): 2},
        "deque": deque([HIDDEN]),
    }
    assert redactor.value({"proxy": types.MappingProxyType({"a": Quiet("483920")})}) == {"proxy": {"a": Quiet(HIDDEN)}}
    assert redactor.value({1: 1.5, "b": deque([2])}) == {1: 1.5, "b": deque([2])}


@dataclass
class Quiet:
    kept: str = field(repr=False)


class Inner(BaseModel):
    kept: str = Field(repr=False, alias="within")


class Outer(BaseModel):
    inner: Inner
    quiet: Quiet


class Telling(BaseModel):
    kept: SecretStr

    @field_serializer("kept")
    def open(self, value):
        return value.get_secret_value()


@pydantic_dataclass
class TellingToo:
    kept: SecretStr

    @field_serializer("kept")
    def open(self, value):
        return value.get_secret_value()


@pytest.mark.parametrize(
    "value",
    [
        TellingToo(SecretStr("canary-within")),
        Outer(inner=Inner(within="canary-within"), quiet=Quiet("")),
        Outer(inner=Inner(within=""), quiet=Quiet("canary-within")),
        Telling(kept=SecretStr("canary-within")),
    ],
)
def test_what_a_model_gives_as_json_is_looked_at_though_no_repr_shows_it(value):
    redactor = knowing("canary-within")
    assert "canary-within" in str(to_json([value]))
    assert "canary-within" not in repr(value)

    shown = str(to_json(redactor.value([value])))

    assert "canary-within" not in shown
    assert shown == str(to_json([value])).replace("canary-within", HIDDEN)


def test_a_long_text_with_a_secret_within_escapes_is_hidden_as_a_whole():
    redactor = knowing("canary of escapes")
    long = "%20x" * 60_000

    assert redactor.text(f"{long}canary%20of%20escapes") == HIDDEN
    assert redactor.text(f"{long}canary of escapes") == long + HIDDEN
    assert redactor.text(long) == long


TOKENS = st.text(st.sampled_from("abcXYZ0189-_./~="), min_size=23, max_size=90).filter(lambda t: len(set(t)) > 4)


@settings(max_examples=300)
@given(st.lists(TOKENS, min_size=1, max_size=3, unique=True), st.sampled_from(sorted(ENCODINGS)), st.data())
def test_no_encoding_of_any_token_gets_through_either(tokens, name, data):
    redactor = Redactor()
    for token in tokens:
        redactor.add_token(token)
    token, before = data.draw(st.sampled_from(tokens)), data.draw(st.text(max_size=30))
    text = before + ENCODINGS[name](token) + data.draw(st.text(max_size=30))

    assert redactor.shows(text)
    assert not shows(token, redactor.text(text))


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzABC0189-_. /+=%\\"), max_size=300))
def test_a_text_that_has_none_of_the_tokens_stays_what_it_is(text):
    redactor = Redactor()
    for n in range(50):
        redactor.add_token(f"{n:03}Zq8-{n * 7919:08x}Kf_w2.{n * 104729:08x}")

    assert redactor.text(text) == text


@pytest.mark.parametrize("token", ["short-one", "with a blank, but long", "with+plus/and=more.of.such-things", "é" * 9])
def test_a_token_of_another_kind_is_hidden_as_any_secret(token):
    redactor = Redactor()

    redactor.add_token(token)

    assert redactor.text(f"it is {token}!") == f"it is {HIDDEN}!"


def test_tokens_come_and_go_and_leave_the_other_secrets_alone(monkeypatch):
    monkeypatch.setattr(redaction, "MOST_TOKENS", 100)
    redactor = knowing("canary-of-a-setting")
    tokens = [f"canary-token-{n:06}-{n * 7919:08x}-the-end-is-the-same" for n in range(150)]

    for token in tokens:
        redactor.add_token(token)

    assert redactor.text("canary-of-a-setting") == HIDDEN
    assert redactor.text(tokens[-1]) == redactor.text(tokens[50]) == HIDDEN
    assert redactor.text(tokens[49]) == tokens[49]


def test_a_token_makes_it_active_and_is_found_where_it_was_cut_off():
    told = []
    redactor = Redactor(on_active=lambda: told.append(1))
    token = "eyJ0eXAiOiJKV1QifQ.c29tZXRoaW5n.c2lnbmF0dXJl"

    redactor.add_token(token)
    redactor.add_token(token)

    assert told == [1]
    assert redactor.text(f"so it ends: {token[:30]}", cut=True) == f"so it ends: {HIDDEN}"


def test_thousands_of_tokens_cost_no_more_than_some():
    redactor = Redactor()
    for n in range(3000):
        redactor.add_token(f"{n:04}Zq8-{n * 7919:08x}Kf_w2.{n * 104729:012x}")
    text = ("The quick brown fox jumps over the lazy dog & said “no” 100% of the time. " * 14000)[:1_000_000]

    started = time.process_time()
    shown = redactor.text(text)

    assert time.process_time() - started < 0.5
    assert shown is text


def test_nothing_is_done_as_long_as_nothing_is_known():
    redactor, text, value = Redactor(), "x" * 100, {"a": object()}

    assert not redactor.active
    assert redactor.text(text) is text
    assert redactor.value(value) is value


def test_it_says_once_that_it_has_become_active():
    told = []
    redactor = Redactor(on_active=lambda: told.append(1))

    redactor.add("canary-first")
    redactor.add("canary-second")

    assert told == [1]


def test_the_oldest_value_goes_first_and_one_in_use_stays():
    redactor = Redactor()
    for n in range(MOST):
        redactor.add(f"canary-{n:06}")
    redactor.add("canary-000000")

    redactor.add("canary-the-new")

    assert redactor.text("canary-000000") == HIDDEN
    assert redactor.text("canary-000001") == "canary-000001"
    assert redactor.text("canary-000002") == HIDDEN


def test_neither_repr_nor_vars_nor_pickle_nor_a_cache_gives_values_away():
    redactor = knowing("canary-of-memory")
    redactor.add_token("a-token-with-a-canary-of-memory")
    redactor.text("a canary-of-memory b")
    finder, many = redactor._found(), redactor._many

    shown = " ".join(
        repr(one)
        for one in (
            redactor,
            finder,
            *(getattr(redactor, name) for name in Redactor.__slots__ if name != "__weakref__"),
            *(getattr(finder, name) for name in type(finder).__slots__),
            *(getattr(many, name) for name in type(many).__slots__),
            vars(redaction),
            list(re._cache),
        )
    )

    assert "canary-of-memory" not in shown
    assert not hasattr(redactor, "__dict__")
    for one in (redactor, finder, many):
        with pytest.raises(TypeError):
            pickle.dumps(one)


def test_a_traceback_with_locals_does_not_show_a_revealed_secret():
    def body(token):
        header = {"Authorization": token}
        return 1 / (len(header) - 1)

    try:
        body(Revealed("-".join(["canary", "in", "locals"])))
    except ZeroDivisionError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "canary-in-locals" not in text
    assert "header = " in text


def test_a_revealed_secret_is_text_in_all_else():
    value = Revealed("canary-text")

    assert f"{value}" == "canary-text"
    assert str(value) + "!" == "canary-text!"
    assert json.dumps(value) == '"canary-text"'
    assert f"{value!r}" == HIDDEN
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(value)


def test_hide_knows_the_secrets_of_all_redactors_that_live():
    one, two = knowing("canary-of-one"), knowing("canary-of-two")

    assert hide("canary-of-one and canary-of-two") == f"{HIDDEN} and {HIDDEN}"
    del one
    gc.collect()
    assert hide("canary-of-two") == HIDDEN
    assert two.active


def test_it_may_be_used_and_added_to_from_many_threads():
    redactor, wrong = knowing("canary-at-first"), []

    def add(start):
        for n in range(start, start + 50):
            redactor.add(f"canary-thread-{n:05}")
            if redactor.text(f"x canary-thread-{n:05} canary-at-first") != f"x {HIDDEN} {HIDDEN}":
                wrong.append(n)

    threads = [threading.Thread(target=add, args=(1000 * t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_megabyte_is_looked_through_for_fifty_secrets_in_well_under_a_second():
    redactor = knowing(*(f"{n:03}Zq8-{n * 7919:08x}Kf_w2" for n in range(50)))
    text = ("The quick brown fox jumps over the lazy dog & said “no” 100% of the time. " * 14000)[:1_000_000]

    started = time.process_time()
    shown = redactor.text(text)

    assert time.process_time() - started < 1.0
    assert shown is text


@pytest.mark.parametrize(
    "text",
    [
        "%" * 100_000,
        "\\" * 100_000,
        "&#" * 50_000,
        "a" * 100_000,
        "%25" * 33_000,
        "\\u" * 50_000,
        "ab\n" * 33_000,
        "%ca" * 33_000,
    ],
    ids=["percent", "backslash", "reference", "run", "nested", "unicode", "lines", "beginnings"],
)
def test_no_text_makes_it_slow(text):
    redactor = knowing("canary-slow/1", "aaaaaaaaab")

    started = time.process_time()
    redactor.text(text + "canary-slow/1")

    assert time.process_time() - started < 3.0
