"""The examples of docs/cli.md do what the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.transports.cli_shop import environment
from toolpost.transports.cli_options import ExitCode

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text()
SHOWN_REDIS = "redis://localhost:6379/0"
"""Where the page has its Redis; the tests' own stands in for it."""


def commands() -> list[tuple[str, str]]:
    """Every command shown, with what is shown to come out."""
    blocks = re.findall(r"^```(?:console|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the examples and a program called toolpost; the commands are run in it in order."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "examples").symlink_to(ROOT / "examples")
    program = folder / "bin" / "toolpost"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m toolpost "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(("command", "output"), commands())
def test_a_command_gives_what_the_page_shows(
    folder: Path, command: str, output: str, request: pytest.FixtureRequest
) -> None:
    if SHOWN_REDIS in command:
        command = command.replace(SHOWN_REDIS, request.getfixturevalue("redis_url"))
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])

    ended = subprocess.run(
        ["sh", "-c", command],
        env=environment(PATH=path),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    pattern = ".*".join(re.escape(piece) for piece in output.split("..."))
    assert re.fullmatch(pattern, ended.stdout, re.DOTALL), ended.stdout


def test_every_exit_code_is_on_the_page() -> None:
    table = PAGE.rpartition("| exit code")[2]

    codes = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in cell.split(",")}
    assert codes == {*ExitCode, 143}
