"""The Web tools as they are called: Web.ParseJSON and Web.ExtractURLs."""

from collections.abc import Callable

import pytest

from toolpost import ToolResult, create_tool_call, export_tool
from toolpost.testing import executor_for
from toolpost.toolbox import web_tools

Run = Callable[..., ToolResult]
PARSE, URLS = "Web.ParseJSON", "Web.ExtractURLs"


def test_json_is_read(run: Run) -> None:
    result = run(PARSE, text='{"a": [1, 2.5, null, "x"]}')

    assert result.data == {"valid": True, "value": {"a": [1, 2.5, None, "x"]}, "errors": []}


def test_what_is_not_json_is_an_answer_with_the_place_not_a_failure(run: Run) -> None:
    result = run(PARSE, text='{"a": 1,\n "a": 2}')

    assert result.success
    assert result.data == {
        "valid": False,
        "value": None,
        "errors": [
            {
                "path": "/a",
                "type": "json_duplicate_key",
                "msg": "the key 'a' is given twice at /a (line 2, column 2)",
                "line": 2,
                "column": 2,
            }
        ],
    }


def test_a_value_is_checked_against_a_schema(run: Run) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "when": {"type": "string", "format": "date"}},
        "required": ["id"],
    }

    wrong = run(PARSE, text='{"n": "1", "when": "soon"}', schema=schema)
    right = run(PARSE, text='{"n": 1, "when": "2026-03-01", "id": 0}', schema=schema)

    assert wrong.data["valid"] is False
    assert wrong.data["value"] == {"n": "1", "when": "soon"}
    assert sorted((error["path"], error["type"]) for error in wrong.data["errors"]) == [
        ("/id", "missing"),
        ("/n", "type"),
        ("/when", "format"),
    ]
    assert right.data["valid"] is True


def test_a_schema_may_be_a_boolean(run: Run) -> None:
    assert run(PARSE, text="1", schema=True).data["valid"] is True
    assert run(PARSE, text="1", schema=False).data["valid"] is False


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"$ref": "https://example.com/schema.json"}, {"pattern": "("}, {"properties": []}],
)
def test_a_schema_that_is_none_is_an_invalid_argument(run: Run, schema: object) -> None:
    result = run(PARSE, text="{}", schema=schema)

    assert result.failure is not None
    assert (result.status, result.failure.code) == ("rejected", "invalid_input")
    assert result.failure.details["errors"][0]["path"] == "/schema"


DOCUMENT = '{"items": [{"name": "tea"}, {"name": "pot"}], "a/b": 1, "m~n": 2, "": 3, "0": {"1": "deep"}}'


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/items/1/name", "pot"),
        ("/items/0", {"name": "tea"}),
        ("/a~1b", 1),
        ("/m~0n", 2),
        ("/", 3),
        ("/0/1", "deep"),
    ],
)
def test_a_pointer_names_the_part_to_give(run: Run, pointer: str, value: object) -> None:
    assert run(PARSE, text=DOCUMENT, pointer=pointer).data["value"] == value


def test_an_empty_pointer_names_the_whole(run: Run) -> None:
    assert run(PARSE, text="[1]", pointer="").data["value"] == [1]


@pytest.mark.parametrize(
    ("pointer", "says"),
    [
        ("/nothing", "the document has no member 'nothing'; the first of those it has: 'items', 'a/b', 'm~n', '', '0'"),
        ("/items/2", "'/items' is an array of 2 items, counted from 0"),
        ("/items/-", "'/items' is an array of 2 items, and '-' is no index"),
        ("/items/01", "'01' is no index"),
        ("/items/\u0661", "is no index"),
        ("/items/" + "9" * 4000, "is no index"),
        ("/a~1b/x", "'/a/b' is neither an object nor an array"),
    ],
)
def test_a_pointer_to_nothing_fails_and_says_what_is_there(run: Run, pointer: str, says: str) -> None:
    result = run(PARSE, text=DOCUMENT, pointer=pointer)

    assert result.failure is not None
    assert (result.status, result.failure.code, result.failure.retryable) == ("failed", "not_found", False)
    assert says in str(result.error)
    assert len(str(result.error)) < 800


@pytest.mark.parametrize("pointer", ["items/0", "$.items", "#/items", "/a~b", "/a~", "~"])
def test_what_is_no_pointer_is_an_invalid_argument(run: Run, pointer: str) -> None:
    result = run(PARSE, text=DOCUMENT, pointer=pointer)

    assert result.failure is not None
    assert result.failure.details["errors"][0]["path"] == "/pointer"


def test_errors_come_first_where_a_pointer_leads_nowhere_too(run: Run) -> None:
    result = run(PARSE, text="{}", schema={"required": ["a"]}, pointer="/a")

    assert (result.data["valid"], result.data["value"]) == (False, None)
    assert result.data["errors"][0]["path"] == "/a"


def test_urls_are_given_once_in_order(run: Run) -> None:
    result = run(URLS, text="https://b.com https://a.com https://b.com")

    assert result.data == {"urls": ["https://b.com", "https://a.com"], "count": 2, "truncated": False}


def test_urls_are_given_as_often_as_they_stand_there_when_asked(run: Run) -> None:
    assert run(URLS, text="https://b.com https://b.com", unique=False).data["count"] == 2


@pytest.mark.parametrize(("limit", "truncated"), [(2, True), (3, False), (4, False)])
def test_no_more_urls_than_asked_for_and_it_is_told(run: Run, limit: int, truncated: bool) -> None:
    result = run(URLS, text="https://a.com https://b.com https://a.com https://c.com https://c.com", limit=limit)

    assert (result.data["count"], result.data["truncated"]) == (min(limit, 3), truncated)


def test_schemes_are_taken_in_any_case(run: Run) -> None:
    assert run(URLS, text="FTP://a.com", schemes=["Ftp"]).data["urls"] == ["FTP://a.com"]


@pytest.mark.parametrize("base_url", ["/docs", "example.com", "file:///x", "https://", "http://[", ""])
def test_a_base_that_is_no_web_address_is_an_invalid_argument(run: Run, base_url: str) -> None:
    result = run(URLS, text="", base_url=base_url)

    assert result.failure is not None
    assert result.failure.details["errors"][0]["path"] == "/base_url"


@pytest.mark.parametrize("schemes", [[], ["ht tp"], ["1a"], [""], ["http", 1], ["a" * 40], "https"])
def test_what_is_no_scheme_is_refused(run: Run, schemes: object) -> None:
    assert run(URLS, text="", schemes=schemes).status == "rejected"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> https://a.com",
        "Robert'); DROP TABLE students;-- https://a.com",
        "it's 1=1 https://a.com",
        "cat /etc/passwd; rm -rf / https://a.com",
        "please select one from https://a.com",
        "../../x https://a.com",
    ],
)
def test_text_to_search_is_not_taken_for_an_attack(text: str) -> None:
    with executor_for(web_tools()) as executor:
        result = executor.execute_sync(create_tool_call(URLS, {"text": text}))

    assert result.data["urls"] == ["https://a.com"]


def test_the_tools_tell_models_what_they_take_and_give() -> None:
    for tool in (export_tool(one, "mcp") for one in web_tools() if one.name in (PARSE, URLS)):
        assert tool["inputSchema"]["required"] == ["text"]
        assert tool["outputSchema"]["type"] == "object"
        assert tool["annotations"]["readOnlyHint"] is True
        assert tool["annotations"]["openWorldHint"] is False
