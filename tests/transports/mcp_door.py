"""The MCP door for tests: asked in process by its wire form, and by the SDK's client in memory or over real HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import uvicorn

from toolpost import Caller, ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.transports.http_app import build_app
from toolpost.transports.http_routes import Door
from toolpost.transports.mcp_http import McpApp, mcp_app
from toolpost.worker.service import Service

VERSION = "2026-07-28"
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
FORMS = {"elicitation": {"form": {}}}
LINKS = {"elicitation": {"form": {}, "url": {}}}
META = "io.modelcontextprotocol/"


class Mcp:
    """A door that is open. ask() sends one stateless request and gives the whole JSON-RPC answer."""

    def __init__(
        self, executor: ToolExecutor, service: Service, app: McpApp, client: httpx.AsyncClient, served: Any = None
    ) -> None:
        self.executor, self.service, self.app, self.client = executor, service, app, client
        self.served = served or app  # the gateway, where the door is within one

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        capabilities: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        """The request itself, with the headers that go with it."""
        params = dict(params or {})
        envelope = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": dict(capabilities or {})}
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": method,
            "params": {**params, "_meta": {**envelope, **(meta or {})}},
        }
        sent = {
            "mcp-protocol-version": VERSION,
            "mcp-method": method,
            "accept": "application/json, text/event-stream",
        }
        name = params.get("name") or params.get("uri") or params.get("taskId")
        if name is not None:
            sent["mcp-name"] = name
        return self.client.build_request("POST", "/mcp", json=body, headers={**sent, **(headers or {})})

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The answer of the door."""
        response = await self.client.send(self.request(method, params, **more))
        answer: dict[str, Any] = response.json()
        return answer

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The result of a call; further params go in as such, beside capabilities, meta and headers."""
        ours = {key: more.pop(key) for key in ("capabilities", "meta", "headers") if key in more}
        answer = await self.ask("tools/call", {"name": name, "arguments": dict(arguments or {}), **more}, **ours)
        result: dict[str, Any] = answer["result"]
        return result

    async def error(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The protocol's error that a request ends with."""
        error: dict[str, Any] = (await self.ask(method, params, **more))["error"]
        return error


@contextlib.asynccontextmanager
async def mcp_door(*tools: Any, base_url: str = "", gateway: bool = False, **settings: Any) -> AsyncIterator[Mcp]:
    """A door over these tools, resources and prompts, and no others; by itself, or asked through the whole gateway."""
    executor = ToolExecutor({"secret_key": "k" * 40, **settings}, registry=ToolRegistry())
    for tool in tools:
        executor.add(tool)
    service = Service(executor)
    whole = build_app(service, base_url=base_url) if gateway else None
    app = mcp_app(Door(service=service, executor=executor, base_url=base_url)) if whole is None else whole._mcp
    transport = httpx.ASGITransport(app=whole or app)  # type: ignore[arg-type]
    try:
        async with (
            service,
            app.running(),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            yield Mcp(executor, service, app, client, whole)
    finally:
        executor.close()


@contextlib.asynccontextmanager
async def over_http(door: Mcp) -> AsyncIterator[str]:
    """The URL of a real server of the door's application, in this event loop."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(door.served, log_level="error", lifespan="off", ws="none"))
    serving = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await serving
        listening.close()


def key_of(executor: ToolExecutor, user_id: str, **more: Any) -> dict[str, str]:
    """The header of a new API key."""
    made = executor.api_keys.create(user_id=user_id, **more)
    return {"authorization": f"Bearer {made.secret}"}


ANN = Caller(user_id="ann")
