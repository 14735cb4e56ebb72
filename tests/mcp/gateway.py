"""A gateway for clients of the tests: on real uvicorn in a process of its own, which notes what MCP clients speak.

python -m tests.mcp.gateway MODULE PORT SETTINGS [keyed], in a folder of its own: SETTINGS are JSON; MODULE has TOOLS,
and serving(executor) if it wants to be told.
"""

import asyncio
import importlib
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tests.services.server import CHECKOUT, HOST, Server, ask

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Gateway(Server):
    """One gateway. keyed: whether callers have to come with `key`, an API key, which is None otherwise."""

    name = "gateway"

    def __init__(self, tools: str, *, keyed: bool = False, **settings: Any) -> None:
        """tools is a module that has TOOLS; "{port}" in settings becomes the port."""
        super().__init__()
        self.tools, self.keyed, self.settings = tools, keyed, settings

    @classmethod
    def find(cls) -> Path:
        return Path(sys.executable)

    def command(self, folder: Path) -> list[str]:
        settings = json.dumps(self.settings).replace("{port}", str(self.port))
        told = [self.tools, str(self.port), settings, *(["keyed"] if self.keyed else [])]
        return [str(self.find()), "-m", __name__, *told]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(CHECKOUT)}

    def answers(self) -> bool:
        question = f"GET /live HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        return ask(self.port, question.encode()).startswith(b"HTTP/1.1 200")

    @property
    def mcp(self) -> str:
        """The URL of the MCP endpoint."""
        return f"{self.url}/mcp"

    @property
    def key(self) -> str | None:
        return self._read("key") or None

    def spoken(self) -> list[tuple[str, str | None]]:
        """The methods that were called since the last time that this was asked, with the revision that was named."""
        lines = self._read("spoken").splitlines()
        told = [tuple(json.loads(line)) for line in lines[getattr(self, "_told", 0) :]]
        self._told = len(lines)
        return told

    def _read(self, name: str) -> str:
        path = self._refuse_unless_ours() / name
        return path.read_text() if path.exists() else ""


def noting(app: App, spoken: Path) -> App:
    """The app; what MCP messages of its requests call for is written down before it is answered."""

    async def noted(scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp" or scope["method"] != "POST":
            return await app(scope, receive, send)
        version = dict(scope["headers"]).get(b"mcp-protocol-version")
        body = bytearray()

        async def heard() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            if message["type"] == "http.request" and not message.get("more_body"):
                with spoken.open("a") as file:
                    file.write(json.dumps([json.loads(body).get("method"), version and version.decode()]) + "\n")
            return message

        return await app(scope, heard, send)

    return noted


def main(module: str, port: int, settings: dict[str, Any], *, keyed: bool) -> None:
    """Answer until the process ends."""
    from toolpost import ToolExecutor

    if keyed:
        settings = {**settings, "authentication": "required"}
    executor = ToolExecutor(records_url="sqlite:///records.db", serve_port=port, **settings)
    found = importlib.import_module(module)
    executor.add(found.TOOLS)
    if hasattr(found, "serving"):
        found.serving(executor)
    if keyed:
        Path("key").write_text(executor.api_keys.create(user_id="ada", name="tests").secret)
    asyncio.run(serve(executor, port))


async def serve(executor: Any, port: int) -> None:
    """Answer on a port."""
    import uvicorn

    from toolpost.transports.http_app import build_app
    from toolpost.worker.service import Service

    async with Service(executor) as service:
        app = noting(build_app(service), Path("spoken"))
        config = uvicorn.Config(app, host=HOST, port=port, http="httptools", lifespan="off", access_log=False)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), keyed="keyed" in sys.argv[4:])
