"""Lines of calls from files and pipes."""

import asyncio
import io
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from toolpost.transports import cli_input
from toolpost.transports.cli_input import Input, Line, Pipe, open_input


def lines_of(path: Path, content: bytes, kind: str = "") -> list[Line]:
    path.write_bytes(content)
    source = open_input(str(path), kind)
    try:
        return list(source)
    finally:
        source.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def pipe() -> tuple[Pipe, int]:
    read, write = os.pipe()
    return Pipe(os.fdopen(read, "rb"), ""), write


def test_lines_are_numbered_and_stripped_and_blank_ones_stay(path: Path) -> None:
    found = lines_of(path, b"one\r\n\n  two")

    assert [(line.number, line.text) for line in found] == [(1, b"one"), (2, b""), (3, b"two")]


def test_a_digest_is_of_the_text_and_of_how_it_is_read(path: Path) -> None:
    first, same, other = lines_of(path, b"one\n one\r\nother")
    [otherwise] = lines_of(path, b"one", "openai")

    assert first.digest == same.digest
    assert len({first.digest, other.digest, otherwise.digest}) == 3


def test_a_line_that_is_too_long_is_skipped_without_being_held(path: Path) -> None:
    with patch.object(cli_input, "MAX_LINE_BYTES", 10):
        found = lines_of(path, b"x" * 5_000_000 + b"y\n" + b"0123456789\n" + b"x" * 5_000_000 + b"z\nend")

    assert [(line.number, line.text) for line in found] == [(1, None), (2, b"0123456789"), (3, None), (4, b"end")]
    assert found[0].digest != found[2].digest


@pytest.mark.parametrize(("content", "number"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3)])
def test_lines_are_counted_beforehand_without_being_used_up(path: Path, content: bytes, number: int) -> None:
    path.write_bytes(content)
    source = open_input(str(path), "")

    assert source.count() == number
    assert len(list(source)) == number
    source.close()


async def test_a_file_is_ready_until_it_is_exhausted() -> None:
    source, stop = Input(io.BytesIO(b"a\n"), ""), asyncio.Event()

    assert await source.ready(stop)
    assert len(list(source)) == 1
    assert source.exhausted
    assert not await source.ready(stop)
    source.close()


async def test_a_pipe_gives_what_there_is_and_waits_for_more(pipe: tuple[Pipe, int]) -> None:
    source, write = pipe
    stop = asyncio.Event()

    os.write(write, b"a\n")
    assert await source.ready(stop)
    assert [line.text for line in source] == [b"a"]
    waiting = asyncio.ensure_future(source.ready(stop))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.write(write, b"b\n")
    assert await waiting
    assert [line.text for line in source] == [b"b"]
    os.close(write)
    while await source.ready(stop):
        assert list(source) == []
    assert source.exhausted


async def test_waiting_for_a_pipe_ends_when_it_is_stopped_or_too_late(pipe: tuple[Pipe, int]) -> None:
    source, write = pipe
    stop = asyncio.Event()

    assert not await source.ready(stop, 0.01)
    waiting = asyncio.ensure_future(source.ready(stop))
    await asyncio.sleep(0)
    stop.set()
    assert not await waiting
    os.close(write)


def test_a_named_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "calls")
    end = os.open(tmp_path / "calls", os.O_RDWR)

    source = open_input(str(tmp_path / "calls"), "")

    assert isinstance(source, Pipe)
    assert source.count() is None
    source.close()
    os.close(end)


def test_standard_input_from_a_file_is_read_as_a_file(path: Path) -> None:
    path.write_bytes(b"a\nb\n")
    with open(path) as stdin, patch("sys.stdin", stdin):
        source = open_input("-", "")

        assert type(source) is Input
        assert [line.text for line in source] == [b"a", b"b"]
        source.close()
