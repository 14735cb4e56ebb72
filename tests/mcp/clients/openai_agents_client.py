"""The MCP server of openai-agents, and an agent that a scripted model drives: openai_agents_client.py URL [API_KEY]."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage
from agents.mcp import MCPServerStreamableHttp
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText


class Scripted(Model):
    """Asks for greet once, then says what it was told."""

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        outputs = [item["output"] for item in input if item.get("type") == "function_call_output"]
        if outputs:
            text = ResponseOutputText(text=json.dumps(outputs), type="output_text", annotations=[])
            says = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
            return ModelResponse(output=[says], usage=Usage(), response_id=None)
        asks = ResponseFunctionToolCall(
            call_id="c1", name="greet", arguments='{"name": "Ada"}', type="function_call", id="f1"
        )
        return ModelResponse(output=[asks], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


async def main(url: str, key: str | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    params = {"url": url, "headers": headers, "timeout": 60}
    async with MCPServerStreamableHttp(params, client_session_timeout_seconds=60) as server:
        tools = await server.list_tools()
        added = await server.call_tool("add", {"a": 2, "b": 3})
        failed = await server.call_tool("divide", {"a": 1, "b": 0})
        agent = Agent(name="clerk", mcp_servers=[server], model=Scripted())
        run = await Runner.run(agent, "Greet Ada.", run_config=RunConfig(tracing_disabled=True))
        return {
            "tools": [tool.name for tool in tools],
            "structured": added.structured_content,
            "text": run.final_output,
            "failed": failed.is_error,
            "error": failed.content[0].text,
        }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
