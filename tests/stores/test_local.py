"""Blobs in a folder: the contract, and what a file system can do to them."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolpost.calls.errors import ConfigurationError, EngineError, StoreUnavailableError
from toolpost.stores import Blobs, open_blobs
from toolpost.stores.local import LEFTOVER_S, FolderBlobs
from toolpost.testing import FakeClock
from toolpost.testing.blobs_contract import BlobsContract, got


class TestFolderBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Iterator[Blobs]:
        store = open_blobs(f"file://{tmp_path}/blobs")
        yield store
        store.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "with space" / "blobs"


@pytest.fixture
def blobs(root: Path) -> Iterator[FolderBlobs]:
    store = FolderBlobs(f"file://{str(root).replace(' ', '%20')}")
    yield store
    store.close()


def file_of(root: Path, digest: str) -> Path:
    return root / "sha256" / digest[:2] / digest[2:]


def test_another_store_on_the_folder_finds_what_was_put(blobs: FolderBlobs) -> None:
    digest = got(blobs.put(b"lasting"))
    blobs.close()

    again = FolderBlobs(blobs.url)

    assert got(again.get(digest)) == b"lasting"
    again.close()


def test_only_the_owner_can_read_folders_and_files(blobs: FolderBlobs, root: Path) -> None:
    digest = got(blobs.put(b"private"))

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (root, root / "sha256", file_of(root, digest).parent)}
    assert modes == {0o700}
    assert stat.S_IMODE(file_of(root, digest).stat().st_mode) == 0o600


def test_a_put_leaves_the_blob_and_nothing_else(blobs: FolderBlobs, root: Path) -> None:
    digest = got(blobs.put(b"alone"))

    assert [path for path in root.rglob("*") if path.is_file()] == [file_of(root, digest)]


def test_a_damaged_blob_is_an_error_that_names_it_until_it_is_put_again(blobs: FolderBlobs, root: Path) -> None:
    digest = got(blobs.put(b"precious"))
    file_of(root, digest).write_bytes(b"PRECIOUS")

    with pytest.raises(EngineError, match=f"blob {digest} in .* is damaged") as caught:
        got(blobs.get(digest))

    assert not isinstance(caught.value, StoreUnavailableError)
    got(blobs.put(b"precious"))
    assert got(blobs.get(digest)) == b"precious"


@pytest.mark.parametrize("level", ["sha256", "shard", "file", "tmp"])
def test_no_link_below_the_folder_is_followed(blobs: FolderBlobs, root: Path, tmp_path: Path, level: str) -> None:
    digest = hashlib.sha256(b"out").hexdigest()
    outside = tmp_path / "outside"
    outside.mkdir()
    link = {
        "sha256": root / "sha256",
        "shard": root / "sha256" / digest[:2],
        "file": file_of(root, digest),
        "tmp": root / "tmp",
    }[level]
    link.parent.mkdir(parents=True)
    if level == "file":
        (outside / "secret").write_bytes(b"out")
        link.symlink_to(outside / "secret")
    else:
        (outside / digest[2:]).write_bytes(b"out")
        link.symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}

    if level == "tmp":
        with pytest.raises(StoreUnavailableError, match="symbolic link"):
            got(blobs.put(b"out"))
    elif level == "file":
        with pytest.raises(StoreUnavailableError, match="symbolic link"):
            got(blobs.get(digest))
        got(blobs.put(b"out"))  # the link itself is replaced
        assert not link.is_symlink()
    else:
        for operation in (blobs.get, blobs.delete, blobs.size):
            with pytest.raises(StoreUnavailableError, match="symbolic link"):
                got(operation(digest))
        with pytest.raises(StoreUnavailableError, match="symbolic link"):
            got(blobs.put(b"out"))
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_no_partial_file(
    blobs: FolderBlobs, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full disk cannot be had here, so the system call is made to fail as one would (a mock)."""
    kept = got(blobs.put(b"was there before"))
    real = getattr(os, call)

    def full(*args: object, **more: object) -> object:
        if threading.current_thread().name.startswith("toolpost-blobs"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreUnavailableError, match="No space left on device"):
            got(blobs.put(b"too much"))

    assert [path for path in root.rglob("*") if path.is_file()] == [file_of(root, kept)]
    assert got(blobs.get(hashlib.sha256(b"too much").hexdigest())) is None
    assert got(blobs.get(kept)) == b"was there before"


def test_a_blob_is_synced_before_it_has_its_name_and_its_folder_after(
    blobs: FolderBlobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got(blobs.put(b"makes the folders"))
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def renamed(*args: object, **more: object) -> None:
        steps.append("rename")
        rename(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    got(blobs.put(b"makes the folders"))

    assert steps == ["file", "rename", "folder"]


def test_what_a_dead_writer_left_goes_once_it_is_a_day_old(root: Path) -> None:
    clock = FakeClock()
    (root / "tmp").mkdir(parents=True)
    old, new = root / "tmp" / "old", root / "tmp" / "new"
    for path, age_s in ((old, LEFTOVER_S + 1), (new, LEFTOVER_S - 1)):
        path.write_bytes(b"half")
        os.utime(path, (clock.now() - age_s,) * 2)
    blobs = FolderBlobs(f"file://{root}", clock=clock)

    got(blobs.put(b"next"))

    assert (old.exists(), new.exists()) == (False, True)
    blobs.close()


def test_a_folder_that_cannot_be_made_is_a_store_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blobs = FolderBlobs(f"file://{tmp_path}/file/blobs")

    with pytest.raises(StoreUnavailableError, match=r"file/blobs cannot be used"):
        got(blobs.ping())
    blobs.close()


def test_after_close_it_refuses(blobs: FolderBlobs) -> None:
    blobs.close()

    with pytest.raises(StoreUnavailableError, match="is closed"):
        got(blobs.put(b"late"))


def test_a_folder_has_no_urls_for_others(blobs: FolderBlobs) -> None:
    assert blobs.sign("a" * 64, 60) is None
    assert (blobs.local, blobs.durable) == (False, True)


@pytest.mark.parametrize(
    "url", ["file://relative/path", "file://host/path", "file://", "file:///a?mode=0777", "file:///a%00b"]
)
def test_a_url_that_names_no_folder_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="need a URL such as file:///var"):
        open_blobs(url)
