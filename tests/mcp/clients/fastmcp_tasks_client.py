"""fastmcp's client with its extension for tasks: fastmcp_tasks_client.py URL. Prints what tasks of the fixture gave."""

import asyncio
import json
import sys
from typing import Any

import fastmcp_tasks
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

asked: list[str] = []


async def answer(message: str, response_type: Any, params: Any, context: Any) -> ElicitResult:
    """What the person says."""
    asked.append(message)
    fields = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={"name": "Ada"} if "name" in fields else {"confirm": True})


async def main(url: str) -> dict[str, object]:
    async with Client(url, elicitation_handler=answer) as client:
        task = await fastmcp_tasks.call_tool_task(client, "slow_compute", {"seconds": 0.2, "label": "pi"})
        computed = await task.result()
        deleted = await client.call_tool("confirm_delete", {"filename": "notes.txt"})
        greeted = await client.call_tool("test_tool_with_task", {})
        failed = await client.call_tool("failing_job", {}, raise_on_error=False)
        return {
            "task": task.task_id,
            "computed": computed.content[0].text,
            "deleted": deleted.content[0].text,
            "greeted": greeted.content[0].text,
            "asked": asked,
            "failed": failed.is_error,
            "error": failed.content[0].text,
        }


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
