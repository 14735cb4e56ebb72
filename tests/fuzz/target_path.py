"""Any bytes as a path: the FileSystem tools and what opens files for them never leave the allowed folder."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from toolpost import InputValidationError, SecurityError, ToolError
from toolpost.toolbox.beneath import LOOK, Escaped, open_beneath, open_directory, walk_beneath
from toolpost.toolbox.files import AllowedDirectory, FileSystem

CANARY = "canary-of-what-lies-outside"
OUTSIDE_BYTES = 7919
SLOW_S = 0.5


class World(NamedTuple):
    """An allowed folder, the canaries around it, and the files that may be opened, by device and number."""

    inside: Path
    files: FileSystem
    may: frozenset[tuple[int, int]]


@cache
def world() -> World:
    """Made once a process, removed at its end."""
    folder = TemporaryDirectory(prefix="toolpost-fuzz-")
    atexit.register(folder.cleanup)
    top = Path(folder.name).resolve()
    inside = top / "in"
    (inside / "docs" / "deep").mkdir(parents=True)
    for name in ("notes.txt", "docs/guide.md", "docs/deep/er.md", "..hidden", "a b", "\\x80", "%2e%2e", "~"):
        (inside / name).write_text("inside")
    for place in (top / "secret.txt", top / "etc" / "passwd", top / "in-too" / "secret.txt"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(CANARY.ljust(OUTSIDE_BYTES))
    links = {"up": "..", "out": "../secret.txt", "abs": str(top / "secret.txt"), "root": "/", "proc": "/proc/self"}
    links |= {"loop": "loop", "ping": "pong", "pong": "ping", "here": ".", "down": "docs/deep", "back": "docs/../.."}
    for name, leads in links.items():
        (inside / name).symlink_to(leads)
    (inside / "docs" / "over").symlink_to("../notes.txt")
    reached = [inside, *(path for path in inside.rglob("*") if not path.is_symlink())]
    may = frozenset((status.st_dev, status.st_ino) for status in map(os.lstat, reached))
    return World(inside, FileSystem((AllowedDirectory.of(inside),), 1 << 20), may)


def tools(data: bytes) -> None:
    """The three tools: what they give was inside, and what they raise is what they document."""
    path = data.decode("utf-8", errors="surrogateescape")
    here = world()
    paths = [path, f"{here.inside}/{path}"]
    begun = time.perf_counter()
    for one in paths:
        read = _result(lambda one=one: here.files.read_file(one))
        assert read is None or read["content"] == "inside"
        info = _result(lambda one=one: here.files.get_file_info(one))
        assert info is None or info["size"] != OUTSIDE_BYTES
        listed = _result(lambda one=one: here.files.list_directory(one, recursive=True, limit=50))
        assert listed is None or not {"secret.txt", "passwd"} & {
            Path(entry["name"]).name for entry in listed["entries"]
        }
    assert time.perf_counter() - begun < SLOW_S


def beneath(data: bytes) -> None:
    """What the kernel opens beneath a folder and what is walked name by name are one file, and inside."""
    here = world()
    handle = open_directory(here.inside)
    try:
        ends = [_opened(way, handle, data) for way in (open_beneath, walk_beneath)]
    finally:
        os.close(handle)
    for end in ends:
        assert not isinstance(end, tuple) or end in here.may, f"{data!r} opened what is not inside"
    assert isinstance(ends[0], tuple) == isinstance(ends[1], tuple)
    assert not isinstance(ends[0], tuple) or ends[0] == ends[1]


def _result(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return work()
    except (InputValidationError, SecurityError, ToolError) as error:
        assert CANARY not in str(error)  # noqa: PT017 - what it raises is part of the promise
        return None


def _opened(way: Callable[..., Any], handle: int, path: bytes) -> object:
    try:
        opened = way(handle, path, LOOK)
    except (Escaped, ValueError, OSError) as error:
        return type(error).__name__
    try:
        status = os.fstat(opened.fd)
        return status.st_dev, status.st_ino
    finally:
        os.close(opened.fd)


TARGETS: dict[str, Callable[[bytes], None]] = {"tools": tools, "beneath": beneath}
SEEDS: dict[str, list[bytes]] = {
    name: [
        b"notes.txt",
        b"docs/deep/er.md",
        b"../secret.txt",
        b"docs/../../secret.txt",
        b"/etc/passwd",
        b"up/secret.txt",
        b"out",
        b"abs",
        b"root/etc/passwd",
        b"proc/environ",
        b"loop",
        b"back/secret.txt",
        b"here/here/notes.txt",
        b"down/er.md",
        b"docs/over",
        b"..hidden",
        b"....//....//secret.txt",
        b"%2e%2e/secret.txt",
        b"\\x80",
        b"..\\secret.txt",
        b"notes.txt\0.md",
        b"\xff\xfe",
        b"~/secret.txt",
        b"./" * 100 + b"notes.txt",
        b"a" * 300,
        b"docs/" * 50,
    ]
    for name in TARGETS
}
