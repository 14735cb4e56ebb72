"""tools/list and tools/call over MCP: what a caller is shown, what calls give, and what they say when they fail."""

import base64
import json
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from tests.transports.mcp_door import META, mcp_door, over_http
from toolpost import (
    Access,
    Content,
    Hints,
    HttpToolSpec,
    RateLimit,
    Tool,
    ToolContext,
    policy,
)
from toolpost.transports import mcp_tools


class Sum(BaseModel):
    total: int


@Tool(register=False, name="Math.Sum")
def total(a: int, b: int) -> Sum:
    """Add two numbers."""
    return Sum(total=a + b)


@Tool(register=False, hints=Hints(title="Say it", read_only=True, open_world=False))
def say(text: str) -> str:
    """Give a text back."""
    return text


@Tool(register=False)
def names() -> list[str]:
    """A list of names."""
    return ["ann", "bob"]


@Tool(register=False)
def breaks() -> str:
    """Never works."""
    raise RuntimeError("the disk is full")


@Tool(register=False)
@policy(Access(scopes=("books:write",)))
def write_book() -> str:
    """For those who may."""
    return "written"


@Tool(register=False)
@policy(RateLimit(calls=1, by="global"))
def rare() -> str:
    """Once a minute."""
    return "now"


@Tool(register=False)
def pictures() -> Content:
    """A text, a picture, a sound, a resource and a link, with a value beside them."""
    shown = Content.text("look") + Content.image(b"\x89PNG") + Content.audio(b"RIFF")
    shown += Content.resource("notes://1", "a note", "text/plain") + Content.link("notes://2", "two")
    return shown.with_value({"count": 2})


@Tool(register=False)
async def files(context: ToolContext) -> str:
    """Give files beside a value."""
    context.artifact("plots/one.png", b"\x89PNG\r\n")
    context.artifact("data.csv", "a,b\n")
    return "two files"


async def test_tools_are_listed_by_name_with_their_schemas_and_annotations() -> None:
    async with mcp_door(say, total) as door:
        answer = (await door.ask("tools/list"))["result"]

        first, second = answer["tools"]
        assert [first["name"], second["name"]] == ["Math.Sum", "say"]
        assert first["description"] == "Add two numbers."
        assert first["inputSchema"]["required"] == ["a", "b"]
        assert first["outputSchema"]["properties"] == {"total": {"type": "integer"}}
        assert second["title"] == "Say it"
        assert second["annotations"] == {"title": "Say it", "readOnlyHint": True, "openWorldHint": False}
        assert (answer["ttlMs"], answer["cacheScope"]) == (60_000, "private")


async def test_annotations_of_an_http_tool_follow_from_its_method() -> None:
    made = {"description": "d", "url": "https://a.example/x", "parameters": []}
    reads = HttpToolSpec(id="Get.It", tool_name="Get.It", method="get", **made).define()
    puts = HttpToolSpec(id="Put.It", tool_name="Put.It", method="put", **made).define()
    shown = [mcp_tools.annotations_of(one) for one in (reads, puts)]

    assert shown[0].get("readOnlyHint") is True
    assert shown[1].get("idempotentHint") is True
    assert "readOnlyHint" not in shown[1]


async def test_a_caller_is_shown_what_it_may_call_and_no_more() -> None:
    async with mcp_door(say, write_book) as door:
        key = door.executor.api_keys.create(user_id="ann", scopes=["books:write"])

        nobody = (await door.ask("tools/list"))["result"]["tools"]
        somebody = await door.ask("tools/list", headers={"authorization": f"Bearer {key.secret}"})

        assert [tool["name"] for tool in nobody] == ["say"]
        assert [tool["name"] for tool in somebody["result"]["tools"]] == ["say", "write_book"]


async def test_a_list_comes_in_pages_that_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_tools.page, "__defaults__", (2,))
    async with mcp_door(say, total, names, breaks, rare) as door:
        seen: list[str] = []
        params: dict[str, Any] = {}
        while True:
            answer = (await door.ask("tools/list", params))["result"]
            seen += [tool["name"] for tool in answer["tools"]]
            assert len(answer["tools"]) <= 2
            if "nextCursor" not in answer:
                break
            params = {"cursor": answer["nextCursor"]}

        assert seen == ["Math.Sum", "breaks", "names", "rare", "say"]
        assert (await door.error("tools/list", {"cursor": "no cursor"}))["code"] == -32602


@pytest.mark.parametrize("cursor", ["!!!", "é", "Zm9v Zm9v", "/w=="])
async def test_a_cursor_that_was_never_given_is_refused(cursor: str) -> None:
    async with mcp_door() as door:
        assert (await door.error("tools/list", {"cursor": cursor}))["code"] == -32602


async def test_a_text_is_its_own_content_and_other_values_are_structured_too() -> None:
    async with mcp_door(say, total, names) as door:
        text = await door.call("say", {"text": "hello"})
        model = await door.call("Math.Sum", {"a": 1, "b": 2})
        listed = await door.call("names")

        assert text["content"] == [{"type": "text", "text": "hello"}]
        assert "structuredContent" not in text
        assert model["structuredContent"] == {"total": 3}
        assert json.loads(model["content"][0]["text"]) == {"total": 3}
        assert listed["structuredContent"] == {"result": ["ann", "bob"]}
        assert json.loads(listed["content"][0]["text"]) == ["ann", "bob"]
        assert model["_meta"][f"{META}serverInfo"]["name"] == "toolpost"


async def test_blocks_of_content_are_what_the_client_gets() -> None:
    async with mcp_door(pictures) as door:
        result = await door.call("pictures")

        assert [block["type"] for block in result["content"]] == ["text", "image", "audio", "resource", "resource_link"]
        assert base64.b64decode(result["content"][1]["data"]) == b"\x89PNG"
        assert result["content"][3]["resource"] == {"uri": "notes://1", "mimeType": "text/plain", "text": "a note"}
        assert result["structuredContent"] == {"count": 2}


async def test_small_pictures_come_along_and_other_artifacts_are_links_that_can_be_read() -> None:
    async with mcp_door(files) as door:
        result = await door.call("files")

        text, picture, link = result["content"]
        assert text["text"] == "two files"
        assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
        assert (link["type"], link["name"], link["size"]) == ("resource_link", "data.csv", 4)
        read = (await door.ask("resources/read", {"uri": link["uri"]}))["result"]["contents"]
        assert read == [{"uri": link["uri"], "mimeType": "text/csv", "text": "a,b\n"}]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "says"),
    [
        ("Math.Sum", {"a": 1, "b": "x"}, "invalid_input", "'b' must be an integer, got 'x'"),
        ("Math.Sum", {"a": 1}, "invalid_input", "'b'"),
        ("breaks", {}, "tool_failed", "the disk is full"),
        ("write_book", {}, "denied", "books:write"),
    ],
)
async def test_what_goes_wrong_is_a_result_that_a_model_can_act_on(
    name: str, arguments: dict[str, Any], code: str, says: str
) -> None:
    async with mcp_door(total, breaks, write_book) as door:
        result = await door.call(name, arguments)

        assert result["isError"] is True
        assert says in result["content"][0]["text"]
        assert result["_meta"]["toolpost/error"]["code"] == code


async def test_a_limit_says_when_to_come_back() -> None:
    async with mcp_door(rare) as door:
        await door.call("rare")
        refused = (await door.call("rare"))["_meta"]["toolpost/error"]

        assert refused["code"] == "rate_limited"
        assert refused["retryable"] is True
        assert refused["retry_after_s"] > 0


async def test_an_unknown_tool_is_the_protocols_error_and_names_none_that_are_hidden() -> None:
    async with mcp_door(say, write_book) as door:
        assert (await door.error("tools/call", {"name": "sai"}))["message"] == "Unknown tool: sai; did you mean 'say'?"

        hidden = await door.error("tools/call", {"name": "write_boo"})
        assert hidden["code"] == -32602
        assert "write_book" not in hidden["message"]


async def test_a_key_makes_a_call_run_once() -> None:
    ran = []

    @Tool(register=False)
    def pay(amount: int) -> int:
        """Pay."""
        ran.append(amount)
        return len(ran)

    async with mcp_door(pay, idempotency_keys="all") as door:
        meta = {"toolpost/idempotency_key": "order-7"}
        first = await door.call("pay", {"amount": 5}, meta=meta)
        again = await door.call("pay", {"amount": 5}, meta=meta)
        other = await door.call("pay", {"amount": 6}, meta=meta)

        assert first["structuredContent"] == again["structuredContent"] == {"result": 1}
        assert other["_meta"]["toolpost/error"]["code"] == "key_mismatch"
        assert ran == [5]


async def test_what_meta_says_of_a_call_reaches_its_body() -> None:
    seen: list[Any] = []

    @Tool(register=False)
    async def look(context: ToolContext) -> str:
        """See who asks."""
        seen.append((context.session_id, context.task_id, context.remaining_s()))
        return "seen"

    async with mcp_door(look) as door:
        meta = {"toolpost/session_id": "s-1", "toolpost/task_id": "t-1", "toolpost/deadline_s": 5}
        await door.call("look", meta=meta)

        session, task, left = seen[0]
        assert (session, task) == ("s-1", "t-1")
        assert 0 < left <= 5


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdks_client_is_served_in_both_eras(mode: Any) -> None:
    async with mcp_door(say, total, names, pictures) as door, over_http(door) as url, Client(url, mode=mode) as client:
        listed = await client.list_tools()
        said = await client.call_tool("say", {"text": "hello"})
        summed = await client.call_tool("Math.Sum", {"a": 1, "b": 2})
        shown = await client.call_tool("pictures", {})
        with pytest.raises(MCPError, match="Unknown tool: nothing"):
            await client.call_tool("nothing", {})

        assert [tool.name for tool in listed.tools] == ["Math.Sum", "names", "pictures", "say"]
        assert said.content[0].text == "hello"  # type: ignore[union-attr]
        assert summed.structured_content == {"total": 3}
        assert [block.type for block in shown.content] == ["text", "image", "audio", "resource", "resource_link"]


async def test_structured_content_is_an_object_for_older_clients_and_may_be_a_list_for_newer() -> None:
    @Tool(register=False, returns={"type": "array", "items": {"type": "integer"}})
    def numbers() -> Content:
        """Some numbers."""
        return Content.text("1, 2").with_value([1, 2])

    async with mcp_door(numbers) as door, over_http(door) as url:
        assert (await door.call("numbers"))["structuredContent"] == [1, 2]
        assert "outputSchema" in (await door.ask("tools/list"))["result"]["tools"][0]
        async with Client(url, mode="legacy") as client:
            assert (await client.list_tools()).tools[0].output_schema is None
            assert (await client.call_tool("numbers", {})).structured_content is None


async def test_with_discovery_three_tools_stand_for_all() -> None:
    async with mcp_door(total, say, write_book, discovery=True) as door:
        listed = (await door.ask("tools/list"))["result"]["tools"]
        found = await door.call("search_tools", {"query": "add two numbers"})
        shown = await door.call("describe_tool", {"name": "Math.Sum"})
        summed = await door.call("call_tool", {"name": "Math.Sum", "arguments": {"a": 1, "b": 2}})
        said = await door.call("call_tool", {"name": "say", "arguments": {"text": "hello"}})
        refused = await door.call("call_tool", {"name": "Math.Sum", "arguments": {"a": 1}})

        assert [one["name"] for one in listed] == ["call_tool", "describe_tool", "search_tools"]
        assert [one["name"] for one in found["structuredContent"]["tools"]] == ["Math.Sum"]
        assert "inputSchema" in shown["structuredContent"]["tool"]
        assert summed["structuredContent"] == {"total": 3}
        assert said["content"] == [{"type": "text", "text": "hello"}]
        assert refused["_meta"]["toolpost/error"]["code"] == "invalid_input"
