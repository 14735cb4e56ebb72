"""MCP clients that others wrote do more with a gateway than call: they answer, listen, read, and wait for tasks."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, types
from mcp.client.context import ClientRequestContext
from mcp.shared.exceptions import MCPError

from tests.conftest import prepared, serving
from tests.mcp.fixture import PNG
from tests.mcp.gateway import Gateway
from tests.services import NpmClients, PythonClients

pytestmark = pytest.mark.timeout(120)

CLIENTS = Path(__file__).with_name("clients")
MODES: list[Any] = ["auto", "legacy"]

in_both_eras = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config) -> Iterator[Gateway]:
    """A gateway with what the conformance suite calls."""
    yield from serving(Gateway("tests.mcp.fixture"), pytestconfig)


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    assert not result.is_error, block.text
    return block.text


@in_both_eras
async def test_a_person_answers_a_form(gateway: Gateway, mode: Any) -> None:
    async def answer(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestFormParams)
        assert params.requested_schema["required"] == ["username", "email"]
        return types.ElicitResult(action="accept", content={"username": "ada", "email": params.message})

    async with Client(gateway.mcp, mode=mode, elicitation_callback=answer) as client:
        told = text_of(await client.call_tool("test_elicitation", {"message": "Who are you?"}))

    assert "'username': 'ada'" in told
    assert "'email': 'Who are you?'" in told


@in_both_eras
async def test_a_model_and_folders_of_the_clients_are_asked(gateway: Gateway, mode: Any) -> None:
    async def say(context: ClientRequestContext, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        assert params.max_tokens == 100
        answer = types.TextContent(type="text", text="Paris")
        return types.CreateMessageResult(role="assistant", content=answer, model="tests")

    async def roots(context: ClientRequestContext) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///work")])

    async with Client(gateway.mcp, mode=mode, sampling_callback=say, list_roots_callback=roots) as client:
        said = text_of(await client.call_tool("test_sampling", {"prompt": "What is the capital of France?"}))
        folders = await client.call_tool("test_input_required_result_list_roots", {})

    assert said == "LLM response: Paris"
    assert json.loads(text_of(folders)) == ["file:///work"]


async def test_a_client_that_cannot_be_asked_is_told_what_to_declare(gateway: Gateway) -> None:
    async with Client(gateway.mcp) as client:
        with pytest.raises(MCPError, match="declares elicitation") as caught:
            await client.call_tool("test_elicitation", {"message": "Who are you?"})

    assert caught.value.error.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_an_older_client_that_cannot_be_asked_is_told_what_was_to_be_asked(gateway: Gateway) -> None:
    async with Client(gateway.mcp, mode="legacy") as client:
        result = await client.call_tool("test_elicitation", {"message": "Who are you?"})

    assert result.is_error
    assert isinstance(result.content[0], types.TextContent)
    assert "Who are you?" in result.content[0].text


@in_both_eras
async def test_progress_and_log_lines_come_while_a_call_runs(gateway: Gateway, mode: Any) -> None:
    told: list[tuple[float, float | None]] = []
    lines: list[Any] = []

    async def advanced(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async def logged(params: types.LoggingMessageNotificationParams) -> None:
        lines.append(params.data)

    async with Client(gateway.mcp, mode=mode, logging_callback=logged, log_level="info") as client:
        await client.call_tool("test_tool_with_progress", {}, progress_callback=advanced)
        await client.call_tool("test_tool_with_logging", {})

    assert told == [(0, 100), (50, 100), (100, 100)]
    assert lines == ["Tool execution started", "Tool processing data", "Tool execution completed"]


@in_both_eras
async def test_resources_are_listed_and_read(gateway: Gateway, mode: Any) -> None:
    async with Client(gateway.mcp, mode=mode) as client:
        listed = {str(one.uri) for one in (await client.list_resources()).resources}
        templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
        [text] = (await client.read_resource("test://static-text")).contents
        [picture] = (await client.read_resource("test://static-binary")).contents
        [made] = (await client.read_resource("test://template/7/data")).contents

    assert {"test://static-text", "test://static-binary", "test://watched-resource"} <= listed
    assert "test://template/{id}/data" in templates
    assert isinstance(text, types.TextResourceContents)
    assert text.text == "This is the content of the static text resource."
    assert isinstance(picture, types.BlobResourceContents)
    assert base64.b64decode(picture.blob) == PNG
    assert isinstance(made, types.TextResourceContents)
    assert json.loads(made.text)["id"] == "7"


@in_both_eras
async def test_prompts_are_listed_completed_and_rendered(gateway: Gateway, mode: Any) -> None:
    name = "test_prompt_with_arguments"
    async with Client(gateway.mcp, mode=mode) as client:
        listed = {one.name: one for one in (await client.list_prompts()).prompts}
        found = await client.complete(
            types.PromptReference(type="ref/prompt", name=name), {"name": "arg1", "value": "te"}
        )
        rendered = await client.get_prompt(name, {"arg1": "a", "arg2": "b"})

    assert [(one.name, one.required) for one in listed[name].arguments or ()] == [("arg1", True), ("arg2", True)]
    assert found.completion.values == ["testing", "testament"]
    [message] = rendered.messages
    assert isinstance(message.content, types.TextContent)
    assert message.content.text == "Prompt with arguments: arg1='a', arg2='b'"


async def test_a_listener_hears_of_tools_that_change_and_of_nothing_else(gateway: Gateway) -> None:
    async with Client(gateway.mcp) as client, client.listen(tools_list_changed=True) as changes:
        await client.call_tool("test_trigger_prompt_change", {})
        await client.call_tool("test_trigger_tool_change", {})

        async with asyncio.timeout(10):
            event = await anext(aiter(changes))

    assert type(event).__name__ == "ToolsListChanged"


def test_fastmcps_client_follows_tasks_and_answers_their_questions(
    gateway: Gateway, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    python = prepared(PythonClients, pytestconfig)
    command = [str(python), str(CLIENTS / "fastmcp_tasks_client.py"), gateway.mcp]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env={"HOME": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("task")
    assert told == {
        "computed": "computed pi for 0.2 s",
        "deleted": "notes.txt was deleted",
        "greeted": "Hello, Ada!",
        "asked": ["Delete notes.txt?", "What is your name?"],
        "failed": True,
        "error": "the job failed, as it always does",
    }
    assert {"tasks/get", "tasks/update"} <= {method for method, _ in gateway.spoken()}


@in_both_eras
def test_the_typescript_client_answers_listens_and_reads(
    gateway: Gateway, mode: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    npm = prepared(NpmClients, pytestconfig)
    script = str(CLIENTS / "typescript_answers_client.mjs")
    command = [str(NpmClients.node()), script, str(npm), mode, gateway.mcp]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env={"HOME": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "asked": [
            "Step 1: What is your name?",
            "Step 2: What is your favorite color?",
            "What context should the prompt use?",
        ],
        "progress": [0, 50, 100],
        "rounds": "name of Ada likes color of Ada",
        "sampled": "LLM response: Paris",
        "read": "7",
        "begun": "Use this context: context of Ada",
    }
