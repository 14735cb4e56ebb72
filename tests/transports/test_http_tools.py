"""Tools over HTTP: which are shown to whom, and in which form."""

from collections.abc import Iterator

import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import TOOLS


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway(TOOLS) as one:
        yield one


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with gateway(TOOLS, authentication="required") as one:
        yield one


def names(served: Served, **query: str) -> list[str]:
    return [tool["name"] for tool in served.client.get("/v1/tools", params=query).json()["tools"]]


def test_tools_are_listed_in_our_own_form(served: Served) -> None:
    tools = {tool["name"]: tool for tool in served.client.get("/v1/tools").json()["tools"]}

    assert tools["Math.Add"]["version"] == "2.0.0"
    assert tools["Math.Add"]["parameters"]["required"] == ["a", "b"]
    assert tools["Who.Am.I"]["requires_auth"] is True


@pytest.mark.parametrize(
    ("form", "name", "parameters"),
    [
        ("openai", "Math__Add", "parameters"),
        ("anthropic", "Math__Add", "input_schema"),
        ("mcp", "Math.Add", "inputSchema"),
    ],
)
def test_tools_are_listed_as_a_provider_takes_them(served: Served, form: str, name: str, parameters: str) -> None:
    tools = {tool["name"]: tool for tool in served.client.get("/v1/tools", params={"format": form}).json()["tools"]}

    assert tools[name][parameters]["required"] == ["a", "b"]


def test_strict_mode_is_for_those_who_ask(served: Served) -> None:
    def strict(**query: str) -> bool:
        return bool(served.client.get("/v1/tools/Math.Add", params={"format": "openai", **query}).json()["strict"])

    assert strict(strict="true")
    assert not strict()


def test_a_search_gives_the_best_first_and_no_more_than_asked(served: Served) -> None:
    assert names(served, query="add two numbers", limit="1") == ["Math.Add"]
    assert len(names(served, limit="3")) == 3


def test_tools_that_nobody_unasked_could_call_are_not_shown(served: Served) -> None:
    assert "Admin.Wipe" not in names(served)
    assert "Who.Am.I" in names(served)


def test_callers_are_shown_what_they_may_call(guarded: Served) -> None:
    keys = guarded.executor.api_keys

    def seen(*scopes: str) -> tuple[bool, int]:
        headers = {"x-api-key": keys.create(user_id="anna", scopes=scopes).secret}
        listed = guarded.client.get("/v1/tools", headers=headers).json()["tools"]
        one = guarded.client.get("/v1/tools/Admin.Wipe", headers=headers).status_code
        return "Admin.Wipe" in [tool["name"] for tool in listed], one

    assert seen("admin:wipe") == (True, 200)
    assert seen() == (False, 403)


def test_one_tool_is_shown_with_its_versions(served: Served) -> None:
    newest = served.client.get("/v1/tools/Math.Add").json()
    old = served.client.get("/v1/tools/Math.Add", params={"version": "1.0.0"}).json()

    assert (newest["version"], sorted(newest["versions"])) == ("2.0.0", ["1.0.0", "2.0.0"])
    assert old["version"] == "1.0.0"


def test_a_tool_that_is_not_there_is_404(served: Served) -> None:
    answer = served.client.get("/v1/tools/Math.Ad")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_tool")
    assert served.client.get("/v1/tools/Math.Add?version=7.0.0").status_code == 404


@pytest.mark.parametrize("path", ["/v1/tools", "/v1/tools/Math.Add"])
def test_what_a_caller_has_is_not_sent_again(served: Served, path: str) -> None:
    first = served.client.get(path)
    again = served.client.get(path, headers={"if-none-match": first.headers["etag"]})
    other = served.client.get(path, params={"format": "openai"}, headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert first.headers["cache-control"] == "private, no-cache"
    assert other.status_code == 200


@pytest.mark.parametrize("query", ["format=x", "limit=0", "limit=-1", "strict=yes", "what=1", "query=%00"])
def test_a_query_that_says_nothing_is_refused(served: Served, query: str) -> None:
    answer = served.client.get(f"/v1/tools?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_query")
