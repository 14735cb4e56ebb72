"""`toolpost call --artifacts` writes what a tool gives beside its value, and nothing over what is there."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.transports.cli_shop import invoke

TOOLS = """
from toolpost import Tool, ToolContext


@Tool(name="Files.Make", description="Make files.", register=False)
async def make(ctx: ToolContext, fails: bool = False) -> str:
    ctx.artifact("one.txt", "first")
    ctx.artifact("plots/two.bin", b"\\xff\\x00")
    if fails:
        raise RuntimeError("no more")
    return "made"
"""


@pytest.fixture
def tools(tmp_path: Path) -> str:
    (tmp_path / "making.py").write_text(TOOLS)
    return f"{tmp_path}/making.py:make"


def test_they_are_written_below_the_folder(tools: str, tmp_path: Path) -> None:
    ended = invoke("call", "Files.Make", "--artifacts", str(tmp_path / "out"), "--tools", tools, tools=False)

    assert ended.exit_code == 0, ended.stderr
    assert (tmp_path / "out" / "one.txt").read_bytes() == b"first"
    assert (tmp_path / "out" / "plots" / "two.bin").read_bytes() == b"\xff\x00"


def test_those_of_a_call_that_failed_are_written_too(tools: str, tmp_path: Path) -> None:
    ended = invoke(
        "call", "Files.Make", "fails=true", "--artifacts", str(tmp_path / "out"), "--tools", tools, tools=False
    )

    assert ended.exit_code == 1
    assert (tmp_path / "out" / "one.txt").read_bytes() == b"first"


def test_what_is_there_is_left_as_it_is_and_no_link_is_followed(tools: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "one.txt").write_text("mine")
    (tmp_path / "elsewhere").write_text("mine too")
    (out / "plots" / "two.bin").symlink_to(tmp_path / "elsewhere")

    ended = invoke("call", "Files.Make", "--artifacts", str(out), "--tools", tools, tools=False)

    assert (out / "one.txt").read_text() == "mine"
    assert (tmp_path / "elsewhere").read_text() == "mine too"
    assert ended.stderr.count("was not written: File exists") == 2
    assert ended.exit_code == 0


def test_without_the_option_nothing_is_written_and_json_tells_names_and_sizes(tools: str, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)

    told = orjson.loads(invoke("call", "Files.Make", "--json", "--tools", tools, tools=False).stdout)["artifacts"]

    assert told == [{"name": "one.txt", "bytes": 5}, {"name": "plots/two.bin", "bytes": 2}]
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before
