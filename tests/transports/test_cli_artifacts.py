"""`toolpost call --artifacts` writes what a tool gives beside its value, and nothing over what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.transports.cli_shop import invoke
from toolpost.transports.cli_artifacts import write_artifacts

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


def test_what_is_there_is_never_written_over_nor_followed_and_the_rest_is_written(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "kept").write_text("mine")
    (folder / "link").symlink_to(outside)

    problems = write_artifacts({"kept": b"x", "link": b"x", "kept/below": b"x", "a/b": b"1", "n" * 300: b"x"}, folder)

    assert len(problems) == 4
    assert (folder / "kept").read_text() == "mine"
    assert not outside.exists()
    assert (folder / "a" / "b").read_bytes() == b"1"


def test_a_name_that_the_system_cannot_write_is_a_problem_of_that_file_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from toolpost.transports.cli_artifacts import write_artifacts\n"
        "print(write_artifacts({'\\u96ea.txt': b'1', 'plain.txt': b'2'}, Path(sys.argv[1])).__len__())"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=ascii_only, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "1\n"
    assert (tmp_path / "plain.txt").read_bytes() == b"2"
