"""The servers that benchmarks/doors.py loads, each in a process of its own: python door_servers.py NAME PORT.

All run under the same Uvicorn (uvloop, httptools), toolpost's as `toolpost serve` sets it up, the others as lean as it
goes, and give the sum of a and b.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import orjson
import uvicorn

from toolpost import Tool, ToolContext, ToolExecutor

SLOW_S = 0.05
"""How long a call of Bench.slow takes."""
SLOW_PLACES = 16
"""How many of them toolpost runs at a time when it is overloaded."""


def starlette(port: int) -> Any:
    """A bare route that parses what toolpost's parses, and answers what it answers."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def add(request: Request) -> Response:
        body = orjson.loads(await request.body())
        arguments = body["arguments"]
        answer = {
            "call_id": "0199b0a1-7a5b-7000-8000-000000000000",
            "tool_name": request.path_params["name"],
            "success": True,
            "data": {"result": arguments["a"] + arguments["b"]},
            "status_code": 200,
            "execution_time_ms": 0.021,
            "metadata": {},
        }
        return Response(orjson.dumps(answer), media_type="application/json")

    return Starlette(routes=[Route("/v1/tools/{name}/calls", add, methods=["POST"])])


def toolpost(port: int) -> Any:
    """The gateway with its usual settings: SQLite, a folder, every call recorded."""
    return _toolpost(port)


def toolpost_lean(port: int) -> Any:
    """The gateway that keeps accepted calls only."""
    return _toolpost(port, record_calls="accepted")


def toolpost_small(port: int) -> Any:
    """The gateway with few places, to be overloaded."""
    return _toolpost(port, max_in_flight=SLOW_PLACES, max_waiting=64)


def _toolpost(port: int, **settings: Any) -> Any:
    from toolpost.transports.http_app import build_app
    from toolpost.transports.serve_process import spare_what_stays
    from toolpost.worker.service import Service

    folder = tempfile.mkdtemp(prefix="toolpost-bench-")
    executor = ToolExecutor(
        records_url=f"sqlite:///{folder}/toolpost.db",
        blobs_url=f"file:///{folder}/blobs",
        data_directory=folder,
        log_level="WARNING",
        **settings,
    )

    @Tool(name="Bench.add")
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @Tool(name="Bench.slow")
    async def slow(a: int, b: int) -> int:
        """Add two numbers, slowly."""
        await asyncio.sleep(SLOW_S)
        return a + b

    @Tool(name="Bench.long")
    async def long(context: ToolContext, a: int, b: int) -> int:
        """Add two numbers in ten minutes."""
        for step in range(600):
            context.progress(step, 600)
            await asyncio.sleep(1.0)
        return a + b

    executor.add([add, slow, long])
    app = build_app(Service(executor), base_url=f"http://127.0.0.1:{port}")
    spare_what_stays()  # as toolpost serve does
    return app


def sdk(port: int) -> Any:
    """The SDK's own server, as it is quickest: plain JSON, no sessions."""
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("bench")

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return server.streamable_http_app(json_response=True, stateless_http=True)


def fastmcp(port: int) -> Any:
    """FastMCP's, likewise."""
    from fastmcp import FastMCP

    server: Any = FastMCP("bench")

    @server.tool
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return server.http_app(json_response=True, stateless_http=True)


SERVERS: dict[str, Callable[[int], Any]] = {
    "starlette": starlette,
    "toolpost": toolpost,
    "toolpost-lean": toolpost_lean,
    "toolpost-small": toolpost_small,
    "sdk": sdk,
    "fastmcp": fastmcp,
}


def main(name: str, port: int) -> None:
    """Serve until the process is told to end."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    logging.disable(logging.INFO)
    app = SERVERS[name](port)
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port, "loop": "uvloop", "lifespan": "auto"}
    if name.startswith("toolpost"):
        from toolpost.transports.serve_uvicorn import uvicorn_config

        config = uvicorn_config(app, **options)
    else:
        usual = {"http": "httptools", "log_config": None, "access_log": False, "proxy_headers": False}
        config = uvicorn.Config(app, **options, **usual, server_header=False)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
