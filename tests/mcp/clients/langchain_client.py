"""langchain-mcp-adapters, on the SDK of before 2026-07-28: langchain_client.py URL [API_KEY]. Prints JSON."""

import asyncio
import json
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient


async def main(url: str, key: str | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    client = MultiServerMCPClient({"shop": {"transport": "streamable_http", "url": url, "headers": headers}})
    tools = {tool.name: tool for tool in await client.get_tools()}

    async def call(tool: str, **arguments: object) -> object:
        return await tools[tool].ainvoke({"type": "tool_call", "id": tool, "name": tool, "args": arguments})

    added, greeted, failed = (
        await call("add", a=2, b=3),
        await call("greet", name="Ada"),
        await call("divide", a=1, b=0),
    )
    return {
        "tools": list(tools),
        "structured": added.artifact["structured_content"],
        "text": greeted.content[0]["text"],
        "failed": failed.status == "error",
        "error": failed.content if isinstance(failed.content, str) else failed.content[0]["text"],
    }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
