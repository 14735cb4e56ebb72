"""Discovery at the doors that speak with models: HTTP in every provider's form, and accepted calls."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import TOOLS

NAMES = ["search_tools", "describe_tool", "call_tool"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway(TOOLS, discovery=True, record_calls="all") as one:
        yield one


def named(tools: list[dict[str, Any]]) -> list[str]:
    return [one.get("name") or one["function"]["name"] for one in tools]


@pytest.mark.parametrize("format", ["openai", "openai-chat", "anthropic", "mcp"])
def test_a_model_is_shown_three_tools(served: Served, format: str) -> None:
    shown = served.client.get("/v1/tools", params={"format": format}).json()["tools"]

    assert named(shown) == NAMES


def test_people_are_shown_all_and_a_query_finds_the_tools_themselves(served: Served) -> None:
    everything = named(served.client.get("/v1/tools").json()["tools"])
    found = served.client.get("/v1/tools", params={"format": "openai", "query": "add numbers"}).json()["tools"]

    assert "Math.Add" in everything
    assert "call_tool" not in everything
    assert named(found)[0] == "Math__Add"


def test_a_model_finds_reads_and_calls_a_tool_in_its_providers_form(served: Served) -> None:
    def turn(name: str, given: dict[str, Any]) -> dict[str, Any]:
        use = {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}
        answer = served.client.post("/v1/calls", json={"role": "assistant", "content": [use]})
        block: dict[str, Any] = answer.json()["content"][0]
        return block

    found = orjson.loads(turn("search_tools", {"query": "add two numbers"})["content"])
    read = orjson.loads(turn("describe_tool", {"name": found["tools"][0]["name"]})["content"])
    called = turn("call_tool", {"name": "Math.Add", "arguments": {"a": 20, "b": 22}})
    wrong = turn("call_tool", {"name": "Math.Add", "arguments": {"a": "x", "b": 22}})

    assert found["tools"][0]["name"] == "Math.Add"
    assert read["tool"]["input_schema"]["required"] == ["a", "b"]
    assert orjson.loads(called["content"]) == {"sum": 42}
    assert wrong["is_error"]
    assert orjson.loads(wrong["content"])["error"]["errors"][0]["path"] == "/a"


def test_gemini_finds_its_calls_again_by_the_name_it_called(served: Served) -> None:
    part = {"functionCall": {"name": "call_tool", "args": {"name": "Math.Add", "arguments": {"a": 1, "b": 2}}}}

    answer = served.client.post("/v1/calls?format=gemini", json={"role": "model", "parts": [part]}).json()

    response = answer["parts"][0]["functionResponse"]
    assert response["name"] == "call_tool"
    assert response["response"] == {"output": {"sum": 3}}


def test_an_accepted_call_is_recorded_as_the_inner_tools(served: Served) -> None:
    given = {"name": "Math.Add", "arguments": {"a": 1, "b": 2}}
    accepted = served.client.post(
        "/v1/tools/call_tool/calls", json={"arguments": given}, headers={"prefer": "respond-async, wait=20"}
    )

    report = served.client.get(f"/v1/calls/{accepted.json()['call_id']}").json()
    assert (report["tool"], report["arguments"], report["data"]) == ("Math.Add", {"a": 1, "b": 2}, {"sum": 3})


def test_a_call_is_recorded_as_the_inner_tools(served: Served) -> None:
    given = {"name": "Math.Add", "arguments": {"a": 3, "b": 4}}
    made = served.client.post("/v1/tools/call_tool/calls", json={"arguments": given}).json()

    report = served.client.get(f"/v1/calls/{made['call_id']}").json()

    assert (report["tool"], report["arguments"], report["data"]) == ("Math.Add", {"a": 3, "b": 4}, {"sum": 7})


def test_the_inner_tools_limits_stand_in_the_headers(served: Served) -> None:
    given = {"arguments": {"name": "Limited.Two", "arguments": {}}, "user_id": "limited"}

    answers = [served.client.post("/v1/tools/call_tool/calls", json=given) for _ in range(3)]

    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "ratelimit" in answers[0].headers
    assert answers[2].json()["tool"] == "Limited.Two"
