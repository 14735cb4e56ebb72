"""open_beneath, by openat2 and by the walk that stands in for it: both must open and refuse the same."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolpost.toolbox import beneath
from toolpost.toolbox.beneath import LOOK, READ, Escaped, Opened, open_beneath, open_directory, walk_beneath

Open = Callable[[int, bytes, int], Opened]


@pytest.fixture(params=["openat2", "walk"])
def open_file(request: pytest.FixtureRequest) -> Open:
    return walk_beneath if request.param == "walk" else open_beneath


@pytest.fixture
def root(inside: Path) -> Iterator[int]:
    handle = open_directory(inside.resolve())
    yield handle
    os.close(handle)


def content(opened: Opened) -> str:
    try:
        return os.read(opened.fd, 100).decode()
    finally:
        os.close(opened.fd)


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_empty_path_names_nothing(open_file: Open, root: int) -> None:
    with pytest.raises(FileNotFoundError):
        open_file(root, b"", LOOK)


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        (b"notes.txt", "inside", b"notes.txt"),
        (b"./docs//guide.md", "# Guide", b"guide.md"),
        (b"docs/../notes.txt", "inside", b"notes.txt"),
        (b"docs/deep/../../docs/guide.md", "# Guide", b"guide.md"),
        (b"to-file", "inside", b"notes.txt"),
        (b"to-folder/guide.md", "# Guide", b"guide.md"),
        (b"docs/up", "inside", b"notes.txt"),
        (b"chain", "inside", b"notes.txt"),
    ],
)
def test_a_path_that_stays_beneath_is_opened(
    open_file: Open, inside: Path, root: int, path: bytes, text: str, name: bytes
) -> None:
    (inside / "to-file").symlink_to("notes.txt")
    (inside / "to-folder").symlink_to("docs")
    (inside / "docs" / "up").symlink_to("../notes.txt")
    (inside / "chain").symlink_to("to-folder/up")

    opened = open_file(root, path, READ)

    assert opened.name == name
    assert content(opened) == text


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../outside/secret.txt",
        b"docs/../../outside/secret.txt",
        b"docs/../../inside/notes.txt",
        b"/etc/hostname",
        b"absolute",
        b"absolute-but-beneath",
        b"relative",
        b"folder/secret.txt",
        b"docs/chain",
        b"self/root/etc/hostname",
    ],
)
@pytest.mark.parametrize("flags", [READ, LOOK], ids=["read", "look"])
def test_a_path_that_leads_out_is_refused_and_leaves_no_handle_open(
    open_file: Open, inside: Path, outside: Path, root: int, path: bytes, flags: int
) -> None:
    (inside / "absolute").symlink_to(outside / "secret.txt")
    (inside / "absolute-but-beneath").symlink_to(inside / "notes.txt")
    (inside / "relative").symlink_to("../outside/secret.txt")
    (inside / "folder").symlink_to("../outside")
    (inside / "docs" / "chain").symlink_to("../relative")
    (inside / "self").symlink_to("/proc/self")
    before = handles()

    with pytest.raises(Escaped):
        open_file(root, path, flags)

    assert handles() == before


def test_magic_links_of_proc_lead_nowhere(open_file: Open, outside: Path) -> None:
    slash = open_directory(Path("/"))
    secret = os.open(outside / "secret.txt", os.O_RDONLY)

    try:
        for path in (f"proc/self/fd/{secret}", "proc/self/root/etc/hostname", "proc/self/cwd/notes.txt"):
            with pytest.raises((Escaped, OSError)):
                open_file(slash, path.encode(), READ)
    finally:
        os.close(secret)
        os.close(slash)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"nothing", FileNotFoundError),
        (b"docs/nothing/x", FileNotFoundError),
        (b"notes.txt/x", NotADirectoryError),
        (b"notes.txt/", NotADirectoryError),
        (b"broken", FileNotFoundError),
        (b"round", OSError),
        (b"x" * 300, OSError),
    ],
)
def test_what_cannot_be_opened_is_an_os_error(
    open_file: Open, inside: Path, root: int, path: bytes, error: type[OSError]
) -> None:
    (inside / "broken").symlink_to("nothing")
    (inside / "round").symlink_to("round")
    before = handles()

    with pytest.raises(error):
        open_file(root, path, READ)

    assert handles() == before


def test_a_chain_of_links_has_a_bound(open_file: Open, inside: Path, root: int) -> None:
    (inside / "link0").symlink_to("notes.txt")
    for number in range(1, 60):
        (inside / f"link{number}").symlink_to(f"link{number - 1}")

    assert content(open_file(root, b"link30", READ)) == "inside"
    with pytest.raises(OSError, match="symbolic links"):
        open_file(root, b"link59", READ)


def test_a_path_with_a_nul_is_not_cut_off_there(inside: Path, root: int) -> None:
    with pytest.raises(ValueError, match="NUL"):
        open_beneath(root, b"notes.txt\0.png", READ)


def test_a_fifo_makes_neither_look_nor_read_wait(open_file: Open, inside: Path, root: int) -> None:
    os.mkfifo(inside / "fifo")

    for flags in (LOOK, READ):
        opened = open_file(root, b"fifo", flags)

        assert stat.S_ISFIFO(os.fstat(opened.fd).st_mode)
        os.close(opened.fd)


def test_a_directory_is_opened_by_any_of_its_names(open_file: Open, inside: Path, root: int) -> None:
    (inside / "to-folder").symlink_to("docs")

    for path in (b"docs", b"docs/", b"docs/.", b"docs/deep/..", b"to-folder", b"to-folder/"):
        opened = open_file(root, path, os.O_RDONLY | os.O_DIRECTORY)

        assert sorted(os.listdir(opened.fd)) == ["deep", "guide.md"]
        os.close(opened.fd)


def test_a_directory_whose_path_now_goes_through_a_link_is_not_opened(inside: Path, outside: Path) -> None:
    path = inside.resolve()
    inside.rename(inside.with_name("moved"))
    inside.symlink_to(outside)

    with pytest.raises(NotADirectoryError):
        open_directory(path)


def test_without_openat2_the_walk_does_the_work(monkeypatch: pytest.MonkeyPatch, root: int) -> None:
    def forbidden(directory: int, path: bytes, flags: int) -> int:
        raise PermissionError(1, "as some containers' filters say")

    for stand_in in (None, forbidden):
        monkeypatch.setattr(beneath, "_openat2", lambda found=stand_in: found)

        assert content(open_beneath(root, b"docs/../notes.txt", READ)) == "inside"
        with pytest.raises(Escaped):
            open_beneath(root, b"../outside/secret.txt", READ)


@pytest.mark.skipif(beneath._openat2() is None, reason="the platform has no openat2")
def test_openat2_opens_without_the_walk(monkeypatch: pytest.MonkeyPatch, root: int) -> None:
    monkeypatch.setattr(beneath, "walk_beneath", None)

    assert content(open_beneath(root, b"docs/../notes.txt", READ)) == "inside"


@pytest.mark.parametrize("last", [True, False], ids=["the file is swapped", "its directory is swapped"])
def test_a_link_swapped_while_files_are_opened_never_shows_what_is_outside(
    open_file: Open, inside: Path, outside: Path, root: int, last: bool
) -> None:
    (inside / "docs" / "notes.txt").write_text("inside")
    targets = ("docs/notes.txt", "../outside/notes.txt") if last else ("docs", "../outside")

    def swap() -> None:
        for target in targets:
            (inside / "next").symlink_to(target)
            (inside / "next").replace(inside / "door")

    seen = outcomes(open_file, root, b"door" if last else b"door/notes.txt", swap)

    assert seen == {"inside", "Escaped"}  # both, or the race was not run


def test_a_file_exchanged_for_a_link_while_it_is_opened_never_shows_what_is_outside(
    open_file: Open, inside: Path, outside: Path, root: int
) -> None:
    def exchange() -> None:
        (inside / "next").write_text("inside")
        (inside / "next").replace(inside / "door")
        (inside / "next").symlink_to("../outside/notes.txt")
        (inside / "next").replace(inside / "door")

    seen = outcomes(open_file, root, b"door", exchange)

    assert "outside" not in seen
    assert {"inside", "Escaped"} <= seen


def outcomes(open_file: Open, root: int, path: bytes, flip: Callable[[], None]) -> set[str]:
    """What opening a path gives while flip runs over and over: contents, and names of errors."""
    stop = threading.Event()

    def flipping() -> None:
        while not stop.is_set():
            flip()

    flip()
    thread = threading.Thread(target=flipping)
    thread.start()
    seen: set[str] = set()
    try:
        for turn in range(20_000):
            try:
                seen.add(content(open_file(root, path, READ)))
            except (Escaped, OSError) as exc:
                seen.add(type(exc).__name__)
            if turn > 2000 and {"inside", "Escaped"} <= seen:
                break
    finally:
        stop.set()
        thread.join()
    return seen
