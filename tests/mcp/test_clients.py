"""MCP clients that others wrote list, call and understand the tools of a real gateway, open or asking for a key.

Each foreign client runs in an environment of its own, by a script in tests/mcp/clients that prints what it was told.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from tests.conftest import prepared, serving
from tests.mcp.gateway import Gateway
from tests.services import LegacyPythonClients, NpmClients, PythonClients
from tests.services.server import CHECKOUT

pytestmark = pytest.mark.timeout(120)  # none takes more than 4 s on a quiet machine, but each loads much

MODERN, LEGACY = "2026-07-28", "2025-11-25"
CLIENTS = Path(__file__).with_name("clients")
TOOLS = ["add", "divide", "greet"]
SHOP = "tests.mcp.shop"
TOLD = {"tools": TOOLS, "structured": {"sum": 5, "numbers": [2, 3]}, "text": "Hello, Ada!", "failed": True}
ERROR = "division by zero has no result"


@pytest.fixture(scope="module", params=["open", "keyed"])
def gateway(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Gateway]:
    """A gateway with the shop's tools."""
    yield from serving(Gateway(SHOP, keyed=request.param == "keyed"), pytestconfig)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a client, with an environment that names no proxies, keys or settings of this machine's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=110, env=kept | environment)


def told(*command: str | Path, home: Path) -> dict[str, Any]:
    """What a client printed, with its tools sorted."""
    done = run(*command, HOME=str(home))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"tools": sorted(found["tools"])}


def arguments(gateway: Gateway) -> list[str]:
    """What the scripts of clients take."""
    return [gateway.mcp, *([gateway.key] if gateway.key else [])]


def check(found: Mapping[str, Any], gateway: Gateway, era: str, **other: Any) -> None:
    """The client was told what it should be, and spoke this revision and no other for its calls."""
    assert {key: found[key] for key in TOLD} == TOLD | other
    assert ERROR in found["error"]
    methods = gateway.spoken()
    assert {version for method, version in methods if method == "tools/call"} == {era}
    assert ("initialize" in {method for method, _ in methods}) == (era == LEGACY)


@pytest.mark.parametrize(("mode", "era"), [("auto", MODERN), ("legacy", LEGACY)])
async def test_the_sdks_client(gateway: Gateway, mode: Any, era: str) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"} if gateway.key else {}
    async with httpx2.AsyncClient(headers=headers) as http:
        async with Client(streamable_http_client(gateway.mcp, http_client=http), mode=mode) as client:
            found = await by_sdk(client)

    assert found["era"] == era
    check(found, gateway, era)


@pytest.mark.parametrize(("mode", "era"), [("auto", MODERN), ("legacy", LEGACY)])
async def test_the_sdks_client_on_standard_input_and_output(tmp_path: Path, mode: Any, era: str) -> None:
    command = ["-m", "toolpost", "mcp", "--no-toolbox", "--tools", f"{SHOP}:TOOLS"]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]}
    server = StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=tmp_path)
    async with Client(server, mode=mode) as client:
        found = await by_sdk(client)

    assert {key: found[key] for key in TOLD} == TOLD
    assert ERROR in found["error"]
    assert found["era"] == era


async def by_sdk(client: Client) -> dict[str, Any]:
    """What the scripts of other clients print."""
    listed = await client.list_tools()
    added = await client.call_tool("add", {"a": 2, "b": 3})
    greeted = await client.call_tool("greet", {"name": "Ada"})
    failed = await client.call_tool("divide", {"a": 1, "b": 0})
    [text], [error] = greeted.content, failed.content
    assert isinstance(text, TextContent)
    assert isinstance(error, TextContent)
    return {
        "era": client.protocol_version,
        "tools": sorted(tool.name for tool in listed.tools),
        "structured": added.structured_content,
        "text": text.text,
        "failed": failed.is_error,
        "error": error.text,
    }


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Path:
    """The Python that has today's clients."""
    return prepared(PythonClients, pytestconfig)


def test_fastmcps_client(gateway: Gateway, python: Path, tmp_path: Path) -> None:
    found = told(python, CLIENTS / "fastmcp_client.py", *arguments(gateway), home=tmp_path)

    assert found["era"] == MODERN
    check(found, gateway, MODERN)


def test_an_agent_of_openai_agents(gateway: Gateway, python: Path, tmp_path: Path) -> None:
    found = told(python, CLIENTS / "openai_agents_client.py", *arguments(gateway), home=tmp_path)

    check(found, gateway, MODERN, text='[[{"type": "input_text", "text": "Hello, Ada!"}]]')


def test_the_agent_loop_of_pydantic_ai(gateway: Gateway, python: Path, tmp_path: Path) -> None:
    found = told(python, CLIENTS / "pydantic_ai_client.py", *arguments(gateway), home=tmp_path)

    check(found, gateway, MODERN, text="Hello, a!", structured={"sum": 1, "numbers": [0, 1]})


def test_langchains_adapters(gateway: Gateway, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    legacy = prepared(LegacyPythonClients, pytestconfig)

    found = told(legacy, CLIENTS / "langchain_client.py", *arguments(gateway), home=tmp_path)

    check(found, gateway, LEGACY)


@pytest.fixture(scope="module")
def npm(pytestconfig: pytest.Config) -> Path:
    """The folder that has the clients of npm."""
    return prepared(NpmClients, pytestconfig)


@pytest.mark.parametrize(("mode", "era"), [("auto", MODERN), ("legacy", LEGACY)])
def test_the_typescript_client(gateway: Gateway, npm: Path, tmp_path: Path, mode: str, era: str) -> None:
    script = CLIENTS / "typescript_client.mjs"

    found = told(NpmClients.node(), script, npm, mode, *arguments(gateway), home=tmp_path)

    check(found, gateway, era)


class Inspector:
    """The command line of MCP Inspector, in one era."""

    def __init__(self, gateway: Gateway, npm: Path, home: Path, era: str) -> None:
        key = ["--header", f"Authorization: Bearer {gateway.key}"] if gateway.key else []
        options = ["--cli", "--server-url", gateway.mcp, "--transport", "http", "--protocol-era", era]
        program: list[str | Path] = [NpmClients.node(), npm / NpmClients.inspector]
        self._command = [*program, *options, *key, "--format", "json", "--quiet"]
        self._home = home

    def __call__(self, *more: str) -> subprocess.CompletedProcess[str]:
        return run(*self._command, *more, HOME=str(self._home))


@pytest.mark.parametrize(("name", "era"), [("modern", MODERN), ("legacy", LEGACY)])
def test_the_command_line_of_inspector(gateway: Gateway, npm: Path, tmp_path: Path, name: str, era: str) -> None:
    inspector = Inspector(gateway, npm, tmp_path, name)

    listed = inspector("--method", "tools/list", "--strict")
    added = inspector("--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=3")
    failed = inspector("--method", "tools/call", "--tool-name", "divide", "--tool-args-json", '{"a": 1, "b": 0}')

    assert (listed.returncode, listed.stderr) == (0, ""), listed.stderr  # it has nothing to say about the schemas
    assert sorted(tool["name"] for tool in json.loads(listed.stdout)["result"]["tools"]) == TOOLS
    assert json.loads(added.stdout)["result"]["structuredContent"] == TOLD["structured"]
    assert ERROR in json.loads(failed.stdout)["result"]["content"][0]["text"]
    assert failed.returncode == 5  # the tool failed, says Inspector
    assert {version for method, version in gateway.spoken() if method == "tools/call"} == {era}
