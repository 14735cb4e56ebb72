"""What a call tells its client while it runs: progress and log lines, to whoever asked for them."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from mcp import Client

from tests.transports.mcp_door import META, Mcp, mcp_door, over_http
from toolpost import Tool, ToolContext


@Tool(register=False)
async def work(context: ToolContext) -> str:
    """Tell how far it is, once too often."""
    for value in (0, 1, 1, 2):
        context.progress(value, 2, f"at {value}")
    context.log("careful", "warning", disk="full")
    context.log("look", "debug")
    return "done"


@Tool(register=False)
def from_a_thread(context: ToolContext) -> str:
    """Tell from a thread."""
    context.progress(1, 1, threading.current_thread().name)
    context.log("in a thread")
    return "done"


async def told(door: Mcp, name: str, meta: dict[str, Any]) -> list[dict[str, Any]]:
    """All messages of the answer to a stateless call, in order."""
    response = await door.client.send(door.request("tools/call", {"name": name, "arguments": {}}, meta=meta))
    if response.headers["content-type"] == "application/json":
        return [response.json()]
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("name", ["work", "from_a_thread"])
async def test_progress_grows_and_comes_before_the_result(name: str) -> None:
    async with mcp_door(work, from_a_thread) as door:
        *notices, result = await told(door, name, {"progressToken": "t"})

        values = [one["params"]["progress"] for one in notices]
        assert {one["method"] for one in notices} == {"notifications/progress"}
        assert values == sorted(set(values))
        assert notices[0]["params"]["progressToken"] == "t"
        assert result["result"]["content"][0]["text"] == "done"


async def test_log_lines_are_told_from_the_level_that_was_asked_for() -> None:
    async with mcp_door(work) as door:
        *notices, _ = await told(door, "work", {f"{META}logLevel": "info"})
        everything = await told(door, "work", {f"{META}logLevel": "debug"})

        assert [one["params"] for one in notices] == [
            {"level": "warning", "logger": "work", "data": {"message": "careful", "disk": "full"}}
        ]
        assert len(everything) == 3


async def test_who_asked_for_nothing_is_told_nothing() -> None:
    async with mcp_door(work) as door:
        assert len(await told(door, "work", {})) == 1


async def test_nothing_is_watched_once_nobody_listens() -> None:
    async with mcp_door(work) as door:
        watching = len(door.executor._observers)
        await asyncio.gather(*(told(door, "work", {"progressToken": n}) for n in range(3)))

        assert len(door.executor._observers) == watching


async def test_what_one_call_tells_reaches_no_other() -> None:
    async with mcp_door(work, from_a_thread) as door:
        answers = await asyncio.gather(*(told(door, "work", {"progressToken": f"t{n}"}) for n in range(8)))

        for n, messages in enumerate(answers):
            assert {one["params"]["progressToken"] for one in messages[:-1]} == {f"t{n}"}


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_a_session_is_told_from_its_own_level() -> None:
    levels: list[str] = []

    async def heard(params: Any) -> None:
        levels.append(params.level)

    async with mcp_door(work) as door, over_http(door) as url:
        async with Client(url, mode="legacy", logging_callback=heard) as client:
            await client.call_tool("work", {})
            assert levels == ["warning"]
            await client.set_logging_level("debug")
            await client.call_tool("work", {})

    assert levels == ["warning", "warning", "debug"]


@Tool(register=False)
async def long(whose: str, context: ToolContext) -> str:
    """Let the client go at once; the result is there when it comes back."""
    context.detach()
    await released.wait()
    return f"for {whose}"


released = asyncio.Event()


async def begun(client: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The headers of a new session."""
    accept = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    who = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": who}
    answer = await client.post(url, json=begin, headers=accept)
    session = {**accept, "mcp-session-id": answer.headers["mcp-session-id"]}
    await client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
    return session


async def let_go(client: httpx.AsyncClient, url: str, session: dict[str, str], whose: str) -> str:
    """The id of the last event of a call whose stream was closed before its result."""
    params = {"name": "long", "arguments": {"whose": whose}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    text = (await client.post(url, json=call, headers=session)).text
    assert f"for {whose}" not in text
    return [line[4:] for line in text.splitlines() if line.startswith("id: ")][-1]


async def come_back(client: httpx.AsyncClient, url: str, session: dict[str, str], last: str) -> str:
    """The data of the first event with any that comes to whoever comes back; then the session is ended."""
    async with asyncio.timeout(10), client.stream("GET", url, headers={**session, "last-event-id": last}) as back:
        async for line in back.aiter_lines():
            if line == "data: ":
                released.set()  # only now, as the SDK loses what comes between its replay and this (mcp 2.3)
            elif line.startswith("data: "):
                return line
    return ""


async def test_sessions_that_were_let_go_come_back_each_for_their_own_result() -> None:
    released.clear()
    async with mcp_door(long) as door, over_http(door) as url, httpx.AsyncClient() as client:
        ann, bob = await begun(client, url), await begun(client, url)
        hers, his = await let_go(client, url, ann, "ann"), await let_go(client, url, bob, "bob")
        answers = await asyncio.gather(come_back(client, url, ann, hers), come_back(client, url, bob, his))

    assert ["for ann" in answers[0], "for bob" in answers[1]] == [True, True]
    assert "for bob" not in answers[0]


async def test_an_event_of_one_session_is_none_of_another() -> None:
    released.set()
    async with mcp_door(long) as door, over_http(door) as url, httpx.AsyncClient() as client:
        ann, bob = await begun(client, url), await begun(client, url)
        hers = await let_go(client, url, ann, "ann")

        assert await come_back(client, url, bob, hers) == ""


async def test_a_body_that_tells_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    @Tool(register=False)
    async def floods(context: ToolContext) -> str:
        """Tell much more than anybody reads."""
        for number in range(200):
            context.log(f"line {number}")
        return "done"

    monkeypatch.setattr("toolpost.transports.mcp_notices.MOST_WAITING", 10)
    async with mcp_door(floods) as door:
        *notices, result = await told(door, "floods", {f"{META}logLevel": "debug"})

        assert len(notices) == 10
        assert result["result"]["content"][0]["text"] == "done"
