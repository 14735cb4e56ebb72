"""The public API as its users see it: never run, only type-checked."""

from collections.abc import Awaitable
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

import toolpost
from toolpost import (
    BaseTool,
    Cache,
    ExecutorConfig,
    InputValidationError,
    Sandbox,
    Sandboxes,
    SandboxLimits,
    SandboxNetwork,
    SandboxResult,
    SandboxSession,
    Tool,
    ToolCall,
    ToolContext,
    ToolDefinition,
    ToolExecutor,
    ToolResult,
    cache_result,
    create_tool_call,
    decode_calls,
    run_in_executor,
    sandboxes_of,
    validate_input,
)
from toolpost.clients import AsyncClient, CallEvent, CallResult, Client, RemoteFile, Report
from toolpost.testing import FakeClock, Recorder, executor_for
from toolpost.toolbox import code_tools, shell_tools


class Numbers(BaseTool):
    class AddSchema(BaseModel):
        a: int
        b: int

    @cache_result(ttl=60)
    def add(self, a: int, b: int) -> int:
        return a + b

    @run_in_executor
    def slow(self, n: int) -> str:
        return str(n)

    @validate_input(AddSchema)
    async def later(self, a: int, b: int) -> int:
        return a + b


numbers = Numbers({"cache_size": 5})
assert_type(numbers.add(1, b=2), int)
assert_type(numbers.slow(n=1), str)
assert_type(numbers.run("add", a=1, b=2), Any)


@Tool(name="Typed.Double", cache=Cache(ttl_s=5), timeout_seconds=3)
def double(n: int, ctx: ToolContext) -> int:
    ctx.progress(1, 2, "half")
    assert_type(ctx.remaining_s(), float | None)
    return 2 * n


assert_type(double(2, ToolContext()), int)

executor = ToolExecutor(ExecutorConfig(cache_size=3), observers=[Recorder()], timeout=3)
assert_type(executor.add(double), list[ToolDefinition])
assert_type(executor.get_available_tools(), list[str])
call: ToolCall = create_tool_call("Typed.Double", {"n": 1}, user_id="ann")


async def use() -> None:
    result = await executor.execute_tool_call(call)
    assert_type(result, ToolResult)
    assert_type(result.success, bool)
    assert_type(await executor.execute_tool_calls([call]), list[ToolResult])
    async for index, streamed in executor.stream_tool_calls(iter([call])):
        assert_type(index, int)
        assert_type(streamed, ToolResult)
    later: Awaitable[int] = numbers.later(1, 2)
    assert_type(await later, int)
    assert_type(decode_calls("[]"), list[ToolCall])
    try:
        await executor.call("Typed.Double", n="x")
    except InputValidationError as error:
        assert_type(error.errors(), list[dict[str, Any]])
    except toolpost.TimeoutError as late:
        assert_type(late.status, int)


with executor_for(double, clock=FakeClock()) as tested:
    assert_type(tested, ToolExecutor)


async def sandboxed(ctx: ToolContext) -> None:
    profile = Sandbox(limits=SandboxLimits(wall_s=5), network=SandboxNetwork(allow=("api.example.com",)))
    async with Sandboxes(profile, warm=1) as boxes:
        result = await boxes.run_python("1", files={"a.txt": "text", "b": b"bytes"}, timeout_s=1, deadline_s=2.0)
        assert_type(result, SandboxResult)
        assert_type(result.value, str | None)
        async with boxes.session() as session:
            assert_type(session, SandboxSession)
            assert_type(await session.run(["ls", "-l"], stdin="x"), SandboxResult)
        assert_type(boxes.run_blocking(["ls"]).stdout.text, str)
    ctx.artifact("a.txt", b"x")
    ctx.used(cpu_s=1.0)
    assert_type(ctx.shared("boxes", Sandboxes), Sandboxes)
    assert_type(sandboxes_of(ExecutorConfig()), Sandboxes)
    assert_type([*shell_tools(boxes), *code_tools(lambda: Sandboxes(profile))], list[ToolDefinition])


def remote(client: Client, file: RemoteFile) -> None:
    with client:
        assert_type(client.execute("Math.Add", {"a": 1}, idempotency_key="k", deadline_s=5), CallResult)
        assert_type(client.batch([("Math.Add", {"a": 1})]), list[CallResult])
        handle = client.submit("Math.Add", {"a": 1}, priority=3, callback="https://example.org")
        assert_type(handle.wait(5), Report)
        assert_type(list(client.stream("Math.Add")), list[CallEvent])
        assert_type(list(client.calls(state=["failed"], page=5)), list[Report])
        assert_type(client.download(file), bytes)
        assert_type(client.download("id", "name", to="path"), Path)
        client.execute("Math.Add", {"a": 1}, priority=3)  # type: ignore[call-arg]
        client.call("Math.Add", deadline="soon")  # type: ignore[call-arg]


async def remote_later(client: AsyncClient, file: RemoteFile) -> None:
    async with client:
        assert_type(await client.execute("Math.Add", {"a": 1}), CallResult)
        handle = await client.submit("Math.Add", {"a": 1}, delay_s=3)
        assert_type(await handle.result(5), CallResult)
        async for event in handle.events():
            assert_type(event, CallEvent)
        assert_type(await client.download(file), bytes)
        assert_type(await client.download(file, to=Path("path")), Path)
