"""Problems are worded so that a model can mend its call, and never show a secret or run a value's own code."""

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NoReturn

import pytest
from hypothesis import given, strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError

from toolpost.authoring.problems import (
    CODES,
    MAX_PROBLEMS,
    broken,
    kind,
    listed,
    missing,
    must,
    nearest,
    one_of,
    pointer,
    problem,
    problems,
    sentence,
    unknown,
    wrong_format,
    wrong_kind,
)
from toolpost.authoring.pydantic_errors import from_pydantic
from toolpost.authoring.showing import secret_name, show
from toolpost.authoring.unions import condense
from toolpost.calls.errors import InputValidationError, Problem

FORBID = ConfigDict(extra="forbid")


class Circle(BaseModel):
    model_config = FORBID
    kind: Literal["circle"]
    radius: Annotated[float, Field(gt=0)]


class Square(BaseModel):
    model_config = FORBID
    kind: Literal["square"]
    side: float


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


def _listed_path(value: str) -> str:
    if value != "/tmp":
        raise ValueError("path is outside of the allowed directories")
    return value


def _refused(value: object) -> NoReturn:
    raise ValueError("the key sk-abcdefghijklmnopqrstuvwxyz012345 was refused")


class Arguments(BaseModel):
    model_config = FORBID

    operation: Literal["add", "subtract", "multiply", "divide"] = "add"
    n: Annotated[int, Field(ge=1, lt=100)] = 1
    ratio: Annotated[float, Field(multiple_of=0.5, allow_inf_nan=False)] = 1.0
    flag: bool = False
    name: Annotated[str, Field(min_length=2, max_length=5, pattern="^[a-z]+$")] = "abc"
    tags: Annotated[list[str], Field(min_length=1, max_length=2)] = ["a"]
    sizes: Annotated[dict[str, int], Field(max_length=1)] = {}
    keyed: dict[Literal["x", "y"], int] = {}
    colour: Colour = Colour.RED
    mixed: Literal["a, b or c", 1] = 1
    value: int | str = 1
    maybe: Annotated[int, Field(ge=3)] | None = None
    many: list[int] | int = 1
    when_or_count: datetime.datetime | int = 1
    shape: Circle | Square | None = None
    tagged: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    squares: list[Square] = []
    even: Annotated[int, AfterValidator(_even)] = 2
    path: Annotated[str, AfterValidator(_listed_path)] = "/tmp"
    key: Annotated[str, AfterValidator(_refused)] | None = None
    start: datetime.date = datetime.date(2025, 1, 1)
    at: datetime.datetime | None = None
    wait: datetime.timedelta = datetime.timedelta(0)
    ident: uuid.UUID | None = None
    site: HttpUrl | None = None
    price: Annotated[decimal.Decimal, Field(max_digits=3)] = decimal.Decimal(1)
    password: str = ""


KNOWN = tuple(Arguments.model_fields)


def _wrong(model: Any = Arguments, /, *, whole: Any = None, told: bool = True, **arguments: Any) -> list[Problem]:
    """The problems pydantic finds in arguments; told: with the arguments at hand, as the engine asks for them."""
    given = whole if whole is not None else arguments
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(model).validate_python(given)
    if told:
        return from_pydantic(caught.value, KNOWN, arguments=given)
    return from_pydantic(caught.value, KNOWN)


def _says(*args: Any, **arguments: Any) -> list[str]:
    return [entry["msg"] for entry in _wrong(*args, **arguments)]


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        (missing(("operation",)), "'operation' is required"),
        (missing(("items", 0, "qty")), "'/items/0/qty' is required"),
        (
            one_of(("operation",), ["'add'", "'subtract'"], "power"),
            "'operation' must be one of ['add', 'subtract'], got 'power'",
        ),
        (one_of(("mode",), ["'r'"], "w", code="const"), "'mode' must be 'r', got 'w'"),
        (wrong_kind(("b",), ["an integer"], "x"), "'b' must be an integer, got 'x'"),
        (
            wrong_kind(("b",), ["an integer", "a string", "null"], [1]),
            "'b' must be an integer, a string or null, got [1]",
        ),
        (wrong_kind(("items", 0, "qty"), ["an integer"], 1.5), "'/items/0/qty' must be an integer, got 1.5"),
        (broken(("n",), "minimum", 1, 0), "'n' must be >= 1, got 0"),
        (broken(("n",), "exclusive_maximum", 1.5, 2), "'n' must be < 1.5, got 2"),
        (broken(("s",), "min_length", 1, ""), "'s' must be at least 1 character long, got ''"),
        (broken(("s",), "max_length", 2, "abc"), "'s' must be at most 2 characters long, got 'abc'"),
        (broken(("l",), "min_items", 2, [1]), "'l' must have at least 2 items, got [1]"),
        (wrong_format(("when",), "date", "x"), "'when' must be a date (like 2025-01-31), got 'x'"),
        (wrong_format(("when",), "moon-phase", "x"), "'when' must be of format 'moon-phase', got 'x'"),
        (must((), "type", "must be an object", 5), "the value must be an object, got 5"),
        (must((0,), "type", "must be a string", 5), "'/0' must be a string, got 5"),
    ],
)
def test_each_finding_becomes_one_sentence_that_names_place_rule_and_value(finding: Any, message: str) -> None:
    assert sentence(finding) == message
    assert problem(finding)["msg"] == message


def test_an_entry_says_where_what_kind_what_was_expected_and_what_came() -> None:
    entry = problem(wrong_kind(("items", 0, "a/b~c"), [kind("integer")], "x"))

    assert entry == {
        "path": "/items/0/a~1b~0c",
        "loc": ("items", 0, "a/b~c"),
        "parameter": "items",
        "type": "type",
        "msg": "'/items/0/a~1b~0c' must be an integer, got 'x'",
        "expected": "an integer",
        "got": "'x'",
    }


def test_an_entry_for_the_whole_has_an_empty_path_and_no_parameter() -> None:
    entry = problem(must((), "type", "must be an object", 5))

    assert (entry["path"], entry["loc"], entry["parameter"]) == ("", (), "")


def test_a_missing_value_is_got_nothing() -> None:
    entry = problem(missing(("a",), expected="a number"))

    assert (entry["expected"], entry["got"]) == ("a number", "nothing")


@pytest.mark.parametrize(
    ("loc", "known", "message"),
    [
        (("opration",), ["operation", "a"], "unknown argument 'opration'; did you mean 'operation'?"),
        (("zzz",), ["a", "b"], "unknown argument 'zzz'; known are 'a', 'b'"),
        (("zzz",), [], "unknown argument 'zzz'"),
        (("items", 0, "qtty"), ["qty"], "unknown argument '/items/0/qtty'; did you mean 'qty'?"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_nearest_or_the_known_names(
    loc: Any, known: list[str], message: str
) -> None:
    assert sentence(unknown(loc, known, 1)) == message


def test_a_thousand_known_names_do_not_make_a_long_message() -> None:
    message = sentence(unknown(("?",), [f"name_{n}" for n in range(1000)], 1))

    assert "… (1000 in all)" in message
    assert len(message) < 1000


def test_a_long_list_of_choices_is_cut_and_names_the_nearest() -> None:
    choices = [f"'country_{n}'" for n in range(300)]

    message = sentence(one_of(("country",), choices, "Country-299"))

    assert "… (300 in all)" in message
    assert "did you mean 'country_299'?" in message


def test_more_problems_than_are_listed_are_counted() -> None:
    entries = problems(missing((f"p{n}",)) for n in range(MAX_PROBLEMS + 7))

    assert len(entries) == MAX_PROBLEMS + 1
    assert entries[-1]["msg"] == "and 7 more problems like these"


def test_the_same_finding_twice_is_one_problem() -> None:
    assert len(problems([missing(("a",)), missing(("a",))])) == 1


def test_listed_names_all_that_fit() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], most=2) == "a, b, … (3 in all)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("power", "'power'"),
        ("it's", '"it\'s"'),
        ("a\nb", "'a\\nb'"),
        ("\ud800", "'\\ud800'"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (10**30, "1" + "0" * 30),
        pytest.param(10**5000, "an integer of 5001 digits", id="huge"),
        ({"a": 1, "b": [1, 2]}, "{'a': 1, 'b': [1, 2]}"),
        ({}, "{}"),
        ((1, 2), "[1, 2]"),
        (list(range(1000)), "array of 1000 items"),
        ({str(n): n for n in range(30)}, "object with 30 keys"),
        ([["x" * 100]], f"[['{'x' * 56}…' (100 characters)]]"),
        ([["x" * 40, "y" * 40]], "[array of 2 items]"),
        (b"abc", "3 bytes"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2025, 1, 31), "2025-01-31"),
        ({1, 2}, "<set>"),
        (Colour.RED, "<Colour>"),
    ],
)
def test_a_value_is_shown_as_short_safe_text(value: Any, text: str) -> None:
    assert show(value) == text


def test_a_long_string_is_cut_and_its_length_told() -> None:
    text = show("a" * 10_000_000)

    assert len(text) == 80
    assert text.startswith("'aaaa")
    assert text.endswith("a…' (10000000 characters)")


def test_a_value_that_holds_itself_is_shown() -> None:
    loop: list[Any] = []
    loop.append(loop)
    knot: dict[str, Any] = {}
    knot["me"] = knot

    assert show(loop) == "[[[array of 1 item]]]"
    assert show(knot) == "{'me': {'me': {'me': object with 1 key}}}"


def test_showing_runs_no_code_of_the_value() -> None:
    class Trap:
        def __repr__(self) -> str:
            raise AssertionError("repr was called")

        __str__ = __repr__

    class Text(str):
        __slots__ = ()
        __repr__ = Trap.__repr__
        __str__ = Trap.__repr__

    class Number(int):
        __repr__ = Trap.__repr__

    assert show(Trap()) == "<Trap>"
    assert show([Trap(), Text("x"), Number(3)]) == "[<Trap>, 'x', 3]"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.integers(min_value=32, max_value=200),
)
def test_shown_text_never_exceeds_its_limit_and_is_plain_text(value: Any, limit: int) -> None:
    text = show(value, limit=limit)

    assert len(text) <= limit
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "passwd", "db_password", "dbPassword", "dbpassword", "secret", "client_secret",
        "clientSecret", "secrets", "token", "TOKEN", "access_token", "accessToken", "auth-token", "github_token",
        "api_key", "apikey", "API_KEY", "apiKey", "x-api-key", "openai_api_key", "api_key_2", "authorization",
        "Authorization", "credential", "credentials", "aws_credentials", "private_key", "privateKey", "cookie",
        "Set-Cookie", "session_key", "passphrase", "jwt", "auth", "refresh_tokens", "bearer_token", "secret_access_key",
    ],
)  # fmt: skip
def test_a_name_that_means_a_secret_hides_its_value(name: str) -> None:
    assert secret_name(name)
    assert show("hunter2", name=name) == "[hidden]"
    assert show({name: "hunter2", "a": 1}) == f"{{'{name}': [hidden], 'a': 1}}"
    assert problem(wrong_kind((name,), ["an integer"], "hunter2"))["got"] == "[hidden]"
    assert problem(wrong_kind((name, "deep"), ["an integer"], "hunter2"))["got"] == "[hidden]"


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens", "maxTokens", "tokens_in", "tokens", "tokenizer", "tokenize", "token_count", "token_limit",
        "next_page_token", "pageToken", "author", "authors", "authority", "key", "keys", "monkey", "keyboard",
        "primary_key", "public_key", "sort_key", "passenger", "compass", "secretary", "cookies_count", "secret_name",
        "password_length", "api_key_id", "session_id", "description", "oauth_url", "", "_", "ключ",
    ],
)  # fmt: skip
def test_a_name_that_only_looks_like_a_secret_shows_its_value(name: str) -> None:
    assert not secret_name(name)
    assert show("value", name=name) == "'value'"


def test_truth_and_absence_are_never_secret() -> None:
    assert show(True, name="password") == "True"
    assert show(None, name="token") == "None"


SECRETS = [
    "sk-abcdefghijklmnopqrst",
    "sk-proj-AbC123AbC123AbC123AbC123",
    "Bearer abcdef0123456789",
    "Authorization: bearer abcdef0123456789",
    "Basic dXNlcjpwYXNzd29yZA==",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijkl",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "postgresql://user:hunter2secret@db/app",
    "xoxb-123456789012-abcdefghijkl",
]


@pytest.mark.parametrize("value", SECRETS)
def test_a_value_that_looks_like_a_key_is_hidden_whatever_its_name(value: str) -> None:
    core = max(value.replace("\n", " ").replace("://", " ").replace(":", " ").replace("@", " ").split(), key=len)

    for text in (show(value), show(f"please use {value} now"), show([value]), show({"note": value})):
        assert "[hidden]" in text
        assert core not in text
    assert core not in str(problem(wrong_kind((value, "a"), ["an integer"], 1))["msg"])


@given(st.sampled_from(SECRETS[:2] + SECRETS[5:8]), st.text(alphabet="ab ", max_size=90), st.integers(32, 120))
def test_cutting_never_lays_a_part_of_a_key_bare(secret: str, before: str, limit: int) -> None:
    text = show(f"{before} {secret} and more" + "x" * 200, limit=limit)

    assert not any(secret[:length] in text for length in range(12, len(secret)))


@pytest.mark.parametrize(
    "value", ["Bearer of bad news", "a basic example", "sk-learn", "user@example.com", "http://a:80/b"]
)
def test_ordinary_text_is_not_taken_for_a_key(value: str) -> None:
    assert show(value) == repr(value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("opration", "operation"),
        ("Operation", "operation"),
        ("file-path", "file_path"),
        ("filePath", "file_path"),
        ("FILEPATH", "file_path"),
        ("maxresult", "max_results"),
        ("zzz", None),
        ("", None),
        ("x" * 1000, None),
    ],
)
def test_the_nearest_name_is_found_whatever_the_spelling(name: str, meant: str | None) -> None:
    assert nearest(name, ["operation", "file_path", "max_results", "q"]) == meant


def test_the_pointer_of_a_huge_key_is_bounded() -> None:
    assert len(pointer(("k" * 1_000_000,))) < 200


def test_a_union_of_kinds_is_one_problem() -> None:
    found = condense(("v",), [[wrong_kind(("v",), ["an integer"], [])], [wrong_kind(("v",), ["a string"], [])]], [])

    assert [sentence(one) for one in found] == ["'v' must be an integer or a string, got []"]


def test_a_union_names_the_nearest_form_when_nothing_singles_one_out() -> None:
    first = [broken(("v",), "min_properties", 2, {}), missing(("v", "a"))]
    second = [missing(("v", "b"))]

    [found] = condense(("v",), [first, second], {}, code="one_of")

    assert sentence(found) == "'v' fits none of its 2 allowed forms; the nearest says: '/v/b' is required"
    assert found.type == "one_of"


def test_every_code_a_finding_uses_is_declared() -> None:
    entries = _wrong(zz=1, n=0, value=[], even=3, tagged={}, ratio=float("inf"))

    assert {entry["type"] for entry in entries} <= CODES


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ({"operation": "power"}, ["'operation' must be one of ['add', 'subtract', 'multiply', 'divide'], got 'power'"]),
        ({"n": "x"}, ["'n' must be an integer, got 'x'"]),
        ({"n": 1.5}, ["'n' must be an integer, got 1.5"]),
        ({"n": 0}, ["'n' must be >= 1, got 0"]),
        ({"n": 100}, ["'n' must be < 100, got 100"]),
        ({"ratio": 0.3}, ["'ratio' must be a multiple of 0.5, got 0.3"]),
        ({"ratio": float("nan")}, ["'ratio' must be a finite number, got nan"]),
        ({"ratio": "much"}, ["'ratio' must be a number, got 'much'"]),
        ({"flag": "perhaps"}, ["'flag' must be a boolean, got 'perhaps'"]),
        ({"name": 3}, ["'name' must be a string, got 3"]),
        ({"name": "a"}, ["'name' must be at least 2 characters long, got 'a'"]),
        ({"name": "abcdef"}, ["'name' must be at most 5 characters long, got 'abcdef'"]),
        ({"name": "ABC"}, ["'name' must match the pattern '^[a-z]+$', got 'ABC'"]),
        ({"tags": []}, ["'tags' must have at least 1 item, got []"]),
        ({"tags": ["a", "b", "c"]}, ["'tags' must have at most 2 items, got ['a', 'b', 'c']"]),
        ({"tags": "a"}, ["'tags' must be an array, got 'a'"]),
        ({"tags": ["a", 2]}, ["'/tags/1' must be a string, got 2"]),
        ({"sizes": {"a": 1, "b": 2}}, ["'sizes' must have at most 1 key, got {'a': 1, 'b': 2}"]),
        ({"sizes": 5}, ["'sizes' must be an object, got 5"]),
        ({"keyed": {"z": 1}}, ["the key 'z' of 'keyed' must be one of ['x', 'y']"]),
        ({"colour": "green"}, ["'colour' must be one of ['red', 'blue'], got 'green'"]),
        ({"mixed": 2}, ["'mixed' must be one of ['a, b or c', 1], got 2"]),
        ({"start": "soon"}, ["'start' must be a date (like 2025-01-31), got 'soon'"]),
        ({"at": "soon"}, ["'at' must be a date and time (like 2025-01-31T12:00:00Z), got 'soon'"]),
        ({"wait": "long"}, ["'wait' must be a duration (like PT90S, or a number of seconds), got 'long'"]),
        ({"ident": "me"}, ["'ident' must be a UUID, got 'me'"]),
        ({"site": "here"}, ["'site' must be a URL (like https://example.com/a), got 'here'"]),
        ({"site": "ftp://a/b"}, ["'site' must be a URL whose scheme is 'http' or 'https', got 'ftp://a/b'"]),
        ({"price": "1234"}, ["'price' must have no more than 3 digits in total, got '1234'"]),
        ({"opration": "add"}, ["unknown argument 'opration'; did you mean 'operation'?"]),
        ({"password": 3}, ["'password' must be a string, got [hidden]"]),
    ],
)  # fmt: skip
def test_a_pydantic_error_is_worded_like_any_other(arguments: dict[str, Any], messages: list[str]) -> None:
    assert _says(**arguments) == messages
    assert _says(**arguments, told=False) == messages


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ({"value": [1]}, ["'value' must be an integer or a string, got [1]"]),
        ({"maybe": 1}, ["'maybe' must be >= 3, got 1"]),
        ({"many": ["a", 1]}, ["'/many/0' must be an integer, got 'a'"]),
        (
            {"when_or_count": "soon"},
            ["'when_or_count' must be a date and time (like 2025-01-31T12:00:00Z) or an integer, got 'soon'"],
        ),
        ({"shape": 3}, ["'shape' must be an object, got 3"]),
        ({"shape": {"kind": "square", "side": "long"}}, ["'/shape/side' must be a number, got 'long'"]),
        ({"shape": {"kind": "circle", "radius": -1}}, ["'/shape/radius' must be > 0, got -1"]),
        ({"shape": {"kind": "hexagon"}}, ["'/shape/kind' must be one of ['circle', 'square'], got 'hexagon'"]),
        ({"shape": {}}, ["'/shape/kind' is required"]),
        ({"tagged": {"kind": "hexagon"}}, ["'/tagged/kind' must be one of ['circle', 'square'], got 'hexagon'"]),
        ({"tagged": {}}, ["'/tagged/kind' is required"]),
        ({"tagged": {"kind": "circle", "radius": -1}}, ["'/tagged/radius' must be > 0, got -1"]),
        ({"squares": [{"kind": "square", "side": 1, "z": 1}]}, ["unknown argument '/squares/0/z'"]),
        ({"squares": [{"kind": "square"}]}, ["'/squares/0/side' is required"]),
    ],
)
def test_a_union_of_pydantic_is_one_problem_at_its_place(arguments: dict[str, Any], messages: list[str]) -> None:
    assert _says(**arguments) == messages


def test_without_the_arguments_plain_unions_are_still_told_from_keys() -> None:
    assert _says(value=[1], told=False) == ["'value' must be an integer or a string, got [1]"]
    assert _says(many=["a"], told=False) == ["'/many/0' must be an integer, got 'a'"]


def test_keys_named_like_types_are_keys() -> None:
    class Event(BaseModel):
        date: int
        url: int
        Circle: int

    class Holder(BaseModel):
        event: Event

    given = {"event": {"date": "a", "url": "b", "Circle": "c"}}

    paths = [entry["path"] for entry in _wrong(Holder, whole=given)]

    assert paths == ["/event/date", "/event/url", "/event/Circle"]
    assert [entry["path"] for entry in _wrong(Holder, whole=given, told=False)] == paths


def test_the_words_of_custom_validators_are_kept() -> None:
    assert _says(even=3) == ["'even' must be even, got 3"]
    assert _says(path="/etc") == ["path is outside of the allowed directories"]
    assert _wrong(even=3)[0]["type"] == "value"


def test_secrets_in_the_words_of_custom_validators_are_hidden() -> None:
    [entry] = _wrong(key="sk-abcdefghijklmnopqrstuvwxyz012345")

    assert entry["msg"] == "the key [hidden] was refused"
    assert entry["got"] == "'[hidden]'"


def test_arguments_that_are_no_object_are_told_so() -> None:
    assert _says(whole=5) == ["the value must be an object, got 5"]


def test_problems_travel_in_the_error() -> None:
    error = InputValidationError(problems=_wrong(n="x", zz=1))

    assert str(error) == (
        "Parameter validation failed: 'n' must be an integer, got 'x'; "
        f"unknown argument 'zz'; known are {listed([repr(name) for name in KNOWN])}"
    )
    assert [entry["path"] for entry in error.errors()] == ["/n", "/zz"]
    assert "loc" not in error.details["errors"][0]
