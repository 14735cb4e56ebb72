"""fastmcp's client: fastmcp_client.py URL [API_KEY]. Prints what came as JSON."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport


async def main(url: str, key: str | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with Client(StreamableHttpTransport(url, headers=headers)) as client:
        added = await client.call_tool("add", {"a": 2, "b": 3})
        greeted = await client.call_tool("greet", {"name": "Ada"})
        failed = await client.call_tool("divide", {"a": 1, "b": 0}, raise_on_error=False)
        return {
            "era": client.protocol_version,
            "tools": [tool.name for tool in await client.list_tools()],
            "structured": added.structured_content,
            "text": greeted.content[0].text,
            "failed": failed.is_error,
            "error": failed.content[0].text,
        }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
