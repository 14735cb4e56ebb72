"""pydantic-ai's agent loop, its test model calling every tool once: pydantic_ai_client.py URL [API_KEY].

The model makes up arguments by the schemas: numbers are 0, texts "a".
"""

import asyncio
import json
import sys

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelRequest, ToolReturnPart
from pydantic_ai.models.test import TestModel


async def main(url: str, key: str | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    toolset = MCPToolset(url, headers=headers, tool_error_behavior="failed")
    agent = Agent(TestModel(), toolsets=[toolset])
    async with agent:
        run = await agent.run("Do all you can.")
        tools = await toolset.list_tools()
    told = {
        part.tool_name: part
        for message in run.all_messages()
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }
    return {
        "tools": [tool.name for tool in tools],
        "structured": told["add"].content,
        "text": told["greet"].content,
        "failed": told["divide"].outcome == "failed",
        "error": told["divide"].content,
    }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
