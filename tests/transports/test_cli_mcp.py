"""`toolpost mcp`: the SDK's client over standard input and output, which are the protocol's alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.transports.cli_shop import environment
from tests.transports.serving import PATIENCE_S, Pipes, program

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}},
}


def started(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program("mcp"),
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def say(process: subprocess.Popen[bytes], *messages: dict[str, Any]) -> None:
    assert process.stdin is not None
    for message in messages:
        process.stdin.write(orjson.dumps(message) + b"\n")
    process.stdin.flush()


def call(id: int, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


async def test_the_sdks_client_lists_and_calls_tools_however_much_they_print(tmp_path: Path) -> None:
    command, *arguments = program("mcp")
    server = StdioServerParameters(command=command, args=arguments, env=environment(), cwd=tmp_path)
    with (tmp_path / "stderr").open("w") as errors:
        async with stdio_client(server, errlog=errors) as (reading, writing), ClientSession(reading, writing) as client:
            await client.initialize()
            listed = await client.list_tools()
            shouted = await client.call_tool("shout", {"text": "not the protocol"})
            added = await client.call_tool("add", {"a": 40})

    assert {tool.name for tool in listed.tools} >= {"add", "hold", "shout", "who"}
    assert [one.text for one in shouted.content] == ["not the protocol"]
    assert [one.text for one in added.content] == ["42"]
    assert (tmp_path / "stderr").read_text().count("not the protocol") == 4
    assert not (tmp_path / "toolpost-data").exists()


@pytest.mark.parametrize("how", ["its input ends", "SIGTERM"])
def test_it_ends_when(how: str, tmp_path: Path) -> None:
    process = started(tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    say(process, INITIALIZE)
    first = orjson.loads(process.stdout.readline())
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_S)
        _, errors = process.communicate()
    else:
        _, errors = process.communicate(timeout=PATIENCE_S)
        code = process.returncode

    assert first["result"]["serverInfo"]["name"]
    assert code == 0, errors.decode()


def test_a_running_call_is_answered_before_it_ends_at_a_signal(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    process = started(tmp_path)
    assert process.stdout is not None
    say(process, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    process.stdout.readline()
    say(process, call(2, "hold", **pipes.arguments))
    pipes.wait()
    process.send_signal(signal.SIGTERM)
    pipes.let_go("in the end")
    lines = process.stdout.readlines()  # to the end of the process; the end of its input would end its calls
    _, errors = process.communicate(timeout=PATIENCE_S)

    answers = [orjson.loads(line) for line in lines]
    assert [one["result"]["content"][0]["text"] for one in answers if one.get("id") == 2] == ["in the end"]
    assert process.returncode == 0, errors.decode()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")

    ended = subprocess.run(
        [sys.executable, "-m", "toolpost", "mcp"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr == "error: an MCP server needs the package mcp; install toolpost[mcp]\n"
    assert ended.stdout == ""
