"""Other libraries' ways to call the same tool, as their own documentation has it; one that is missing is said to be."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from measure import Contender, Missing, sample
from pydantic import BaseModel

ARGUMENTS_JSON = '{"a": 1, "b": 2}'


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def add_sync(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def contenders(runner: asyncio.Runner, wanted: Callable[[str], bool]) -> list[Contender | Missing]:
    """All wanted peers. What they print and set up while they are made is kept away from the table."""
    found: list[Contender | Missing] = []
    for make, rows in PEERS.items():
        asked = {name: what for name, what in rows.items() if wanted(name)}
        if not asked:
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                made = {c.name: c for c in make(runner, rows)}
                for name in asked:
                    sample(made[name], 1, runner)
        except ModuleNotFoundError as error:
            why = f"not installed ({error.name})"
        except Exception as error:  # its interface has changed: say so, and measure the others
            why = f"cannot be called as before: {type(error).__name__}: {error}"
        else:
            found.extend(made[name] for name in asked)
            continue
        found.extend(Missing(name=name, what=what, why=why) for name, what in asked.items())
    return found


def _pydantic_ai(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    ai, models = import_module("pydantic_ai"), import_module("pydantic_ai.models.test")
    part = import_module("pydantic_ai.messages").ToolCallPart
    toolset = ai.FunctionToolset([add], max_retries=1)
    ctx = ai.RunContext(deps=None, model=models.TestModel(), usage=ai.RunUsage())
    tool = runner.run(toolset.get_tools(ctx))["add"]
    manager = runner.run(import_module("pydantic_ai.tool_manager").ToolManager(toolset).for_run_step(ctx))

    async def by_toolset(n: int) -> Any:
        answer = None
        for _ in range(n):
            arguments = tool.args_validator.validate_python({"a": 1, "b": 2})
            answer = await toolset.call_tool("add", arguments, ctx, tool)
        return answer

    async def by_manager(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await manager.handle_call(part("add", {"a": 1, "b": 2}))
        return answer

    for name, loop in zip(rows, (by_toolset, by_manager), strict=True):
        yield Contender(name=name, what=rows[name], loop=loop, floor="async/pydantic")


def _openai_agents(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    tool = import_module("agents").function_tool(add)
    context = import_module("agents.tool_context").ToolContext(
        None, tool_name="add", tool_call_id="call_1", tool_arguments=ARGUMENTS_JSON
    )

    async def loop(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.on_invoke_tool(context, ARGUMENTS_JSON)
        return answer

    [name] = rows
    yield Contender(name=name, what=rows[name], loop=loop, floor="async/pydantic")


def _mcp(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    server = import_module("mcp.server").MCPServer("bench")
    server.add_tool(add)
    yield _server(server, rows)


def _fastmcp(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    server = import_module("fastmcp").FastMCP("bench")
    server.tool(add)
    yield _server(server, rows)


def _server(server: Any, rows: dict[str, str]) -> Contender:
    async def loop(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await server.call_tool("add", {"a": 1, "b": 2})
        return answer

    [name] = rows
    return Contender(
        name=name,
        what=rows[name],
        loop=loop,
        read=lambda answer: answer.structured_content["result"],
        floor="async/pydantic",
    )


def _langchain(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    as_tool = import_module("langchain_core.tools").tool
    tool, tool_sync = as_tool(add), as_tool(add_sync)

    async def awaits(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.ainvoke({"a": 1, "b": 2})
        return answer

    def blocks(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = tool_sync.invoke({"a": 1, "b": 2})
        return answer

    yield Contender(name="async/langchain", what=rows["async/langchain"], loop=awaits, floor="async/pydantic")
    yield Contender(name="sync/langchain", what=rows["sync/langchain"], loop=blocks, floor="sync/pydantic")


def _aiecs(runner: asyncio.Runner, rows: dict[str, str]) -> Iterator[Contender]:
    base: Any = import_module("aiecs.tools.base_tool").BaseTool

    class Adder(base):  # type: ignore[misc]
        class AddSchema(BaseModel):
            a: int
            b: int

        class Add_syncSchema(BaseModel):
            a: int
            b: int

        async def add(self, a: int, b: int) -> int:
            return a + b

        def add_sync(self, a: int, b: int) -> int:
            return a + b

    for cached, suffix in ((False, ""), (True, "-cache-hit")):
        tool = Adder({"enable_cache": cached})

        async def awaits(n: int, tool: Any = tool) -> Any:
            answer = None
            for _ in range(n):
                answer = await tool.run_async("add", a=1, b=2)
            return answer

        def blocks(n: int, tool: Any = tool) -> Any:
            answer = None
            for _ in range(n):
                answer = tool.run("add_sync", a=1, b=2)
            return answer

        for name, loop in ((f"async/aiecs{suffix}", awaits), (f"sync/aiecs{suffix}", blocks)):
            yield Contender(name=name, what=rows[name], loop=loop, floor=f"{name.split('/')[0]}/pydantic")


Make = Callable[[asyncio.Runner, dict[str, str]], Iterator[Contender]]

PEERS: dict[Make, dict[str, str]] = {
    _pydantic_ai: {
        "async/pydantic-ai-toolset": "pydantic-ai FunctionToolset: args_validator, then call_tool; no hooks or retries",
        "async/pydantic-ai-manager": "pydantic-ai ToolManager.handle_call, which an agent run uses",
    },
    _openai_agents: {
        "async/openai-agents": "openai-agents function tool, on_invoke_tool; parses its arguments from JSON"
    },
    _mcp: {"async/mcp": "mcp MCPServer.call_tool, in process"},
    _fastmcp: {"async/fastmcp": "fastmcp FastMCP.call_tool, in process, with its middleware chain"},
    _langchain: {
        "async/langchain": "langchain-core tool, ainvoke",
        "sync/langchain": "langchain-core tool, invoke",
    },
    _aiecs: {
        "async/aiecs": "aiecs BaseTool.run_async, cache off",
        "sync/aiecs": "aiecs BaseTool.run, cache off",
        "async/aiecs-cache-hit": "aiecs BaseTool.run_async, answered by its cache",
        "sync/aiecs-cache-hit": "aiecs BaseTool.run, answered by its cache",
    },
}
