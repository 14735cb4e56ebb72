"""Every path of the corpora, and every way of writing it, given to the FileSystem tools: nothing outside is shown."""

import html
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.corpora import items
from toolpost import create_tool_call
from toolpost.testing import executor_for
from toolpost.toolbox import file_tools

CANARY = "canary-of-what-lies-outside"
PLACES = ("/etc/passwd", "/etc/shadow", "/etc/hosts", "/proc/self/environ", "/proc/version", "C:\\boot.ini")


def written(path: str) -> Iterator[str]:
    """A path as it came and as programs before us may have decoded it."""
    seen = {path}
    yield path
    for decode in (unquote, html.unescape, lambda text: text.replace("\\", "/"), lambda text: text.partition("\0")[0]):
        for known in list(seen):
            if (made := decode(known)) not in seen:
                seen.add(made)
                yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The allowed folder, with canaries in every folder above it and links that lead to them."""
    root = tmp_path / "a" / "b" / "inside"
    root.mkdir(parents=True)
    (root / "notes.txt").write_text("inside")
    for above in (root.parent, root.parent.parent, tmp_path):
        for name in ("secret.txt", "notes.txt", "passwd", "boot.ini", "web.config", "win.ini"):
            (above / name).write_text(CANARY)
        (above / "etc").mkdir()
        (above / "etc" / "passwd").write_text(CANARY)
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(root.parent)
    return root


@pytest.mark.timeout(120)
@pytest.mark.parametrize("screening", [False, True], ids=["by handle alone", "screened"])
def test_no_path_of_the_corpora_shows_what_is_outside(folder, screening):
    system = {Path(place).read_bytes() for place in PLACES[:4] if Path(place).is_file()}

    def told(path: str) -> Counter[str]:
        """How the calls with a path ended."""
        ends: Counter[str] = Counter()
        for form in written(path):
            for tool in ("FileSystem.ReadFile", "FileSystem.ListDirectory", "FileSystem.GetFileInfo"):
                for prefix in ("", "up/", "link.txt/"):
                    result = executor.execute_sync(create_tool_call(tool, {"path": prefix + form}))
                    ends["shown" if result.success else result.failure.code] += 1
                    shown = str(result.content)
                    assert CANARY not in shown, (tool, prefix + form)
                    assert not any(text.decode("utf-8", "replace")[:40] in shown for text in system), (tool, form)
                    if result.success:
                        assert "secret.txt" not in shown, (tool, prefix + form)
        return ends

    # Most of the time of a call is spent waiting for a thread to take it, so many are made at once.
    with (
        executor_for(file_tools([folder]), enable_security_checks=screening) as executor,
        ThreadPoolExecutor(8) as threads,
    ):
        ends = sum(threads.map(told, items("mal_path_*")), Counter())

    assert sum(ends.values()) - ends["shown"] > 1000  # they were refused, not passed over
    assert (folder.parent / "secret.txt").read_text() == CANARY
