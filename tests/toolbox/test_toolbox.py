"""standard_tools: the ready tools, set up as an executor is."""

from pathlib import Path

import pytest

from toolpost import ExecutorConfig, create_tool_call
from toolpost.testing import executor_for
from toolpost.toolbox import standard_tools

NAMES = [
    "Web.ParseJSON",
    "Web.ExtractURLs",
    "Web.HTTPRequest",
    "Web.URLHealth",
    "FileSystem.ReadFile",
    "FileSystem.ListDirectory",
    "FileSystem.GetFileInfo",
]


def test_the_standard_tools_follow_the_settings(inside: Path) -> None:
    config = ExecutorConfig(allowed_directories=(inside,), allowed_file_extensions=(".md",), max_file_size=4)

    with executor_for(standard_tools(config)) as executor:
        part = executor.execute_sync(create_tool_call("FileSystem.ReadFile", {"path": "docs/guide.md"}))
        refused = executor.execute_sync(create_tool_call("FileSystem.ReadFile", {"path": "notes.txt"}))

    assert sorted(executor.get_available_tools()) == sorted(NAMES)
    assert (part.data["content"], part.data["next_offset"]) == ("# Gu", 4)
    assert "allowed are .md" in str(refused.error)


def test_without_settings_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch, inside: Path) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_ALLOWED_DIRECTORIES", str(inside))

    with executor_for(standard_tools()) as executor:
        result = executor.execute_sync(create_tool_call("FileSystem.ReadFile", {"path": "notes.txt"}))

    assert result.data["content"] == "inside"


def test_the_tools_are_not_registered_by_being_made() -> None:
    with executor_for() as executor:
        standard_tools(ExecutorConfig())

        assert executor.get_available_tools() == []
