"""The examples: their tools load however they are named, and their calls come out as they are meant to."""

import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

from toolpost import ExecutorConfig, ToolCall, ToolResult, decode_calls, export_tools, screen_text
from toolpost.testing import executor_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LINES = (EXAMPLES / "calls.jsonl").read_text().splitlines()

# The calls that are meant to go wrong: id -> code. All others succeed.
WRONG = {
    "misspelt-tool": "unknown_tool",
    "unknown-argument": "invalid_input",
    "number-as-text": "invalid_input",
    "missing-argument": "invalid_input",
    "not-in-enum": "invalid_input",
    "broken-json": "invalid_input",
    "key-twice": "invalid_input",
    "arguments-as-list": "invalid_input",
    "wrong-inside": "invalid_input",
    "below-zero": "impossible",
    "wrong-unit": "invalid_input",
    "script-injection": "screened",
    "sql-injection": "screened",
    "refund": "too_late",
    "unknown-label": "tool_failed",
    "too-slow": "timeout",
    "not-utf-8": "undecodable",
    "no-such-file": "not_found",
    "climbing-path": "screened",
    "path-outside": "screened",
    "wrong-extension": "screened",
    "too-deep": "invalid_input",
    "place-changed": "key_mismatch",
}
CACHED = {"forecast-2", "forecast-3", "forecast-4"}
REPLAYED = {"place-again"}


async def run_all() -> list[tuple[int, ToolCall, ToolResult]]:
    """Every call with the line it stands in and its result."""
    tools = importlib.import_module("examples.tools").TOOLS
    with executor_for(tools) as executor:
        known = executor.get_available_tools()
        calls = [(line, call) for line, text in enumerate(LINES, 1) for call in decode_calls(text, known=known)]
        stream = executor.stream_tool_calls(
            (call for _, call in calls), concurrency=1
        )  # so that repeats find the cache
        results = {index: result async for index, result in stream}
    return [(line, call, results[index]) for index, (line, call) in enumerate(calls)]


async def test_the_calls_of_each_line_come_out_as_they_are_meant_to() -> None:
    outcomes = await run_all()

    assert Counter(result.status for _, _, result in outcomes) == {"ok": 54, "rejected": 17, "failed": 6}
    codes = {call.id: result.failure.code for _, call, result in outcomes if result.failure is not None}
    assert codes == WRONG
    lines_gone_wrong = {line for line, _, result in outcomes if not result.success}
    assert (len(LINES), len(lines_gone_wrong)) == (69, 23)
    assert {call.id for _, call, result in outcomes if result.source == "cache"} == CACHED
    assert {call.id for _, call, result in outcomes if result.source == "replay"} == REPLAYED
    assert {call.id: result.attempts for _, call, result in outcomes if result.attempts > 1} == {"supplier": 3}
    calls_by_line = Counter(line for line, _, _ in outcomes)
    assert {line: count for line, count in calls_by_line.items() if count > 1} == {
        19: 2, 20: 2, 36: 2, 57: 3, 62: 3, 63: 2
    }  # fmt: skip


async def test_a_call_gone_wrong_tells_what_to_do_about_it() -> None:
    said = {call.id: str(result.error) for _, call, result in await run_all() if not result.success}

    assert "did you mean 'MyApp.Calculator'?" in said["misspelt-tool"]
    assert "did you mean 'operation'?" in said["unknown-argument"]
    assert "'a' must be a number, got '15'" in said["number-as-text"]
    assert "add" in said["not-in-enum"]
    assert "line 1, column 35" in said["broken-json"]
    assert "/lines/0/quantity" in said["wrong-inside"]
    assert "there is no article" not in said["unknown-label"]
    assert "KeyError: 'MUG-9'" in said["unknown-label"]
    assert str(EXAMPLES / "data") in said["path-outside"]


async def test_the_calls_speak_all_formats_and_use_all_tools() -> None:
    from toolpost.transports.wire import detect_format

    outcomes = await run_all()

    formats = Counter(detect_format(text) for text in LINES)
    assert min(formats[name] for name in ("openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost")) >= 6
    assert {result.tool_name for _, _, result in outcomes} == {
        "MyApp.Calculator",
        "MyApp.Calculater",
        "Shop.price",
        "Shop.in_stock",
        "Shop.forecast",
        "Shop.find_customer",
        "Shop.refund",
        "Shop.label",
        "Shop.count_stock",
        "Shop.place_order",
        "Shop.ask_supplier",
        "convert_temperature",
        "Web.ParseJSON",
        "Web.ExtractURLs",
        "FileSystem.ReadFile",
        "FileSystem.ListDirectory",
        "FileSystem.GetFileInfo",
    }


def test_the_tools_load_from_their_file_as_from_their_module() -> None:
    spec = importlib.util.spec_from_file_location("examples_tools_by_path", EXAMPLES / "tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        with executor_for(module.TOOLS) as executor:
            names = executor.get_available_tools()
    finally:
        del sys.modules[spec.name]

    with executor_for("examples.tools:TOOLS") as executor:
        assert executor.get_available_tools() == names


def test_the_tools_are_not_in_the_process_registry() -> None:
    from toolpost import get_tool_registry

    importlib.import_module("examples.tools")

    assert "MyApp.Calculator" not in get_tool_registry().list_tools()


@pytest.mark.parametrize("format", ["openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost"])
def test_the_tools_can_be_shown_to_every_model(format: str) -> None:
    with executor_for("examples.tools:TOOLS") as executor:
        definitions = [executor.registry.get_tool(name) for name in executor.get_available_tools()]

    shown = export_tools(definitions, format, strict=format in ("openai", "openai-chat", "anthropic"))  # type: ignore[arg-type]

    assert len(shown) == (1 if format == "gemini" else 18)


def test_the_settings_file_of_the_examples_is_right_and_starts_paths_at_its_folder() -> None:
    config = ExecutorConfig.load(file=EXAMPLES / "toolpost.toml", environ={})

    assert config.allowed_directories == (EXAMPLES / "data",)
    assert config.timeout == 10.0


def test_no_call_that_is_meant_to_succeed_is_taken_for_an_attack() -> None:
    texts = [text for line in LINES for call in decode_calls(line) if call.id not in WRONG
             for text in call.arguments.values() if isinstance(text, str)]  # fmt: skip

    assert texts
    assert [text for text in texts if screen_text(text) is not None] == []
