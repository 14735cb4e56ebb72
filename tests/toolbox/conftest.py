"""Two directories beside each other, one allowed, and the tools over the allowed one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolpost import ToolResult, create_tool_call
from toolpost.testing import executor_for
from toolpost.toolbox import file_tools, web_tools

Run = Callable[..., ToolResult]


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The allowed directory: notes.txt, docs/guide.md and docs/deep/er.md."""
    root = tmp_path / "inside"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "notes.txt").write_text("inside")
    (root / "docs" / "guide.md").write_text("# Guide")
    (root / "docs" / "deep" / "er.md").write_text("deeper")
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that is not allowed; its secret.txt says "outside"."""
    root = tmp_path / "outside"
    root.mkdir()
    (root / "secret.txt").write_text("outside")
    (root / "notes.txt").write_text("outside")
    return root


@pytest.fixture
def run(inside: Path) -> Iterator[Run]:
    """Runs one call; what is not refused by the tools themselves is refused by nothing, as screening is off."""
    with executor_for(file_tools([inside]), web_tools(), enable_security_checks=False) as executor:

        def call(tool: str, **arguments: Any) -> ToolResult:
            return executor.execute_sync(create_tool_call(tool, arguments))

        yield call
