"""FileSystem.ListDirectory: what is shown of a directory, in which order, and where it stops."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolpost import ToolContext, ToolResult, create_tool_call
from toolpost.testing import executor_for
from toolpost.toolbox import file_tools, listing
from toolpost.toolbox.listing import Listing, matcher

Run = Callable[..., ToolResult]
LIST = "FileSystem.ListDirectory"


def names(result: ToolResult) -> list[str]:
    return [entry["name"] for entry in result.data["entries"]]


def test_a_directory_is_listed_in_the_order_of_names(run: Run, inside: Path) -> None:
    os.utime(inside / "notes.txt", (1_700_000_000, 1_700_000_000))
    for name in ("Zebra", "apple", "Äpfel", ".hidden", "10", "9"):
        (inside / name).mkdir()

    result = run(LIST)

    assert names(result) == [".hidden", "10", "9", "Zebra", "apple", "docs", "notes.txt", "Äpfel"]
    assert result.data["entries"][6] == {
        "name": "notes.txt",
        "type": "file",
        "size": 6,
        "modified": "2023-11-14T22:13:20+00:00",
    }
    assert (result.data["path"], result.data["allowed_directory"]) == (".", str(inside))
    assert (result.data["count"], result.data["truncated"]) == (8, False)


def test_links_are_shown_as_links_and_not_followed(run: Run, inside: Path, outside: Path) -> None:
    (inside / "in").symlink_to("docs")
    (inside / "out").symlink_to(outside)
    (inside / "round").symlink_to(".")
    os.mkfifo(inside / "fifo")

    result = run(LIST, recursive=True)

    kinds = {entry["name"]: entry["type"] for entry in result.data["entries"]}
    assert kinds == {
        "docs": "directory",
        "docs/deep": "directory",
        "docs/deep/er.md": "file",
        "docs/guide.md": "file",
        "fifo": "fifo",
        "in": "symlink",
        "notes.txt": "file",
        "out": "symlink",
        "round": "symlink",
    }
    assert list(kinds) == sorted(kinds)


def test_a_directory_exchanged_for_a_link_while_it_is_listed_is_not_entered(
    monkeypatch: pytest.MonkeyPatch, run: Run, inside: Path, outside: Path
) -> None:
    described = listing.described

    def exchanging(status: os.stat_result) -> dict[str, Any]:
        if not (inside / "docs").is_symlink():
            (inside / "docs").rename(inside.parent / "moved")
            (inside / "docs").symlink_to(outside)
        return described(status)

    monkeypatch.setattr(listing, "described", exchanging)

    result = run(LIST, recursive=True)

    assert names(result) == ["docs", "notes.txt"]
    assert result.data["truncated"] is True


@pytest.mark.parametrize(
    ("pattern", "recursive", "expected"),
    [
        ("*.md", False, []),
        ("*.txt", False, ["notes.txt"]),
        ("NOTES.*", False, []),
        ("note?.t[wxy]t", False, ["notes.txt"]),
        ("*.md", True, ["docs/deep/er.md", "docs/guide.md"]),
        ("**/*.md", True, ["docs/deep/er.md", "docs/guide.md"]),
        ("docs/*", True, ["docs/deep", "docs/guide.md"]),
        ("docs/**", True, ["docs", "docs/deep", "docs/deep/er.md", "docs/guide.md"]),
        ("/docs/**/er.md", True, ["docs/deep/er.md"]),
        ("**/deep/**", True, ["docs/deep", "docs/deep/er.md"]),
        ("*/*/*", True, ["docs/deep/er.md"]),
        ("../*", True, []),
        ("**/../**", True, []),
    ],
)
def test_a_glob_chooses_entries(run: Run, pattern: str, recursive: bool, expected: list[str]) -> None:
    assert names(run(LIST, pattern=pattern, recursive=recursive)) == expected


def test_a_glob_over_directories_needs_recursive_and_says_so(run: Run) -> None:
    result = run(LIST, pattern="docs/*.md")

    assert result.failure is not None
    assert result.failure.code == "invalid_input"
    assert "recursive is true" in str(result.error)


def test_globs_pass_the_screening_that_regular_expressions_do_not(inside: Path) -> None:
    with executor_for(file_tools([inside])) as executor:
        for pattern in ("(a+)+*", "**/*.{py,md}", "[!.]*", "$(x)*"):
            assert executor.execute_sync(create_tool_call(LIST, {"pattern": pattern, "recursive": True})).success


def test_a_hostile_glob_takes_no_time(run: Run, inside: Path) -> None:
    (inside / ("a" * 255)).touch()

    assert names(run(LIST, pattern="*a" * 100 + "b")) == []
    assert names(run(LIST, pattern="/".join(["**"] * 80) + "/*b", recursive=True)) == []


def test_no_more_entries_than_asked_for_and_it_is_told(run: Run) -> None:
    some = run(LIST, recursive=True, limit=2)
    all_ = run(LIST, recursive=True, limit=5)

    assert (names(some), some.data["truncated"]) == (["docs", "docs/deep"], True)
    assert (all_.data["count"], all_.data["truncated"]) == (5, False)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_limit_out_of_bounds_is_refused(run: Run, limit: int) -> None:
    assert run(LIST, limit=limit).status == "rejected"


def test_a_listing_goes_no_deeper_than_its_bound(run: Run, inside: Path) -> None:
    (inside / "docs" / "deep" / "/".join(["d"] * 60)).mkdir(parents=True)

    result = run(LIST, recursive=True)

    assert max(name.count("/") for name in names(result)) == listing.MAX_DEPTH
    assert result.data["truncated"] is True


def test_a_listing_looks_at_no_more_names_than_its_bound(
    monkeypatch: pytest.MonkeyPatch, run: Run, inside: Path
) -> None:
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", 3)
    for number in range(50):
        (inside / "docs" / f"{number}.md").touch()

    result = run(LIST, recursive=True)

    assert (result.data["count"], result.data["truncated"]) == (3, True)


def test_names_that_are_not_utf_8_are_shown_and_taken_with_their_bytes_written_out(run: Run, inside: Path) -> None:
    for name in (b"caf\xe9.txt", b"\xff\xfe", b"ok\xc3\xa9.txt"):
        (inside / "docs" / os.fsdecode(name)).write_text("odd")
    odd = inside / "docs" / os.fsdecode(b"d\xefr")
    odd.mkdir()
    (odd / "x").write_text("in an odd directory")

    shown = names(run(LIST, path="docs", recursive=True))

    assert {"caf\\xe9.txt", "\\xff\\xfe", "oké.txt", "d\\xefr", "d\\xefr/x"} <= set(shown)
    assert run("FileSystem.ReadFile", path="docs/caf\\xe9.txt").data["content"] == "odd"
    assert run("FileSystem.ReadFile", path="docs/d\\xefr/x").data["content"] == "in an odd directory"
    assert run("FileSystem.GetFileInfo", path="docs/\\xff\\xfe").data["name"] == "\\xff\\xfe"


def test_names_that_look_alike_once_written_out_are_all_listed(run: Run, inside: Path) -> None:
    (inside / "docs" / os.fsdecode(b"caf\xe9")).write_text("bytes")
    (inside / "docs" / "caf\\xe9").write_text("backslash")

    assert names(run(LIST, path="docs")).count("caf\\xe9") == 2
    assert run("FileSystem.ReadFile", path="docs/caf\\xe9").data["content"] == "backslash"


def test_a_directory_within_that_may_not_be_entered_is_listed_and_told(
    monkeypatch: pytest.MonkeyPatch, run: Run, inside: Path
) -> None:
    really = os.open

    def forbidding(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "deep":
            raise PermissionError(13, "Permission denied")
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", forbidding)

    result = run(LIST, path="docs", recursive=True)

    assert (names(result), result.data["truncated"]) == (["deep", "guide.md"], True)


@pytest.mark.parametrize("path", ["notes.txt", "nothing", "notes.txt/x"])
def test_only_a_directory_is_listed(run: Run, path: str) -> None:
    result = run(LIST, path=path)

    assert result.failure is not None
    assert (result.failure.code, f"there is no directory {path!r}" in str(result.error)) == ("not_found", True)


def test_a_listing_ends_when_its_call_does(inside: Path) -> None:
    ctx = ToolContext(deadline_ts=0.0)
    found = Listing(matcher(None, True), True, 1000, ctx)
    handle = os.open(inside, os.O_RDONLY)

    try:
        with pytest.raises(Exception, match="cancelled"):
            found.add(handle, ())
    finally:
        os.close(handle)

    assert found.entries == []
