"""Takes files out of a work folder in which hostile programs ran: no link is followed, nothing but plain files read."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Final

from toolpost.sandbox import kernel

_BENEATH: Final = (
    kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_XDEV
)
DEPTH: Final = 16
"""Folders in folders that are looked into."""
ENTRIES: Final = 20_000
"""Names that are looked at, over all folders."""
SECONDS: Final = 1.5
"""How long may be looked; whoever waits for a report waits longer."""
NAME: Final = 512
"""Characters of a relative path."""
_NAMED = 100

Seen = set[tuple[int, int]]
"""Files as they were before: inode and time of change, which programs cannot set."""


def empty(folder: str) -> bool:
    """Whether nothing is in it. A folder that cannot be read is not said to be empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


class Collector:
    """What was taken: artifacts by relative path, and what was left behind, with the reason."""

    def __init__(self, folder: str, *, most: int, most_bytes: int, known: Seen) -> None:
        self.artifacts: dict[str, bytes] = {}
        self.left: list[str] = []
        self.seen: Seen = set()
        self._known = known
        self._most, self._room = most, most_bytes
        self._entries = 0
        self._until = time.monotonic() + SECONDS
        self._unnamed = 0
        self._root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def run(self) -> None:
        """Walk the folder."""
        folders = [""]
        try:
            while folders:
                folders += self._folder(folders.pop())
        except _EnoughError as enough:
            self._leave(".", str(enough))
        finally:
            os.close(self._root)
        if self._unnamed:
            self.left.append(f"and {self._unnamed} more")

    def _folder(self, path: str) -> list[str]:
        """Take what lies in one folder; returns the folders in it."""
        try:
            fd = kernel.openat2(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=_BENEATH)
        except OSError as error:
            self._leave(path, _why(error))
            return []
        below = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > ENTRIES or time.monotonic() > self._until:
                        raise _EnoughError("too many files to look at")
                    name = f"{path}/{entry.name}" if path else entry.name
                    if not clean(name):
                        self._leave(name, "its name is not clean")
                    elif entry.is_symlink():
                        self._leave(name, "a link")
                    elif not entry.is_dir(follow_symlinks=False):
                        self._file(name)
                    elif name.count("/") + 1 >= DEPTH:
                        self._leave(name, f"more than {DEPTH} folders deep")
                    else:
                        below.append(name)
        finally:
            os.close(fd)
        return below

    def _file(self, name: str) -> None:
        try:
            # Not blocking, for the FIFO that a plain open would wait at.
            fd = kernel.openat2(self._root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=_BENEATH)
        except OSError as error:
            self._leave(name, "no plain file" if error.errno == errno.ENXIO else _why(error))
            return
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                self._leave(name, "no plain file")
                return
            self.seen.add((about.st_ino, about.st_ctime_ns))
            if (about.st_ino, about.st_ctime_ns) in self._known:
                return
            if about.st_nlink != 1:
                self._leave(name, "it has several names")
            elif len(self.artifacts) >= self._most:
                self._leave(name, f"more than {self._most} artifacts")
            elif about.st_size > self._room:
                self._leave(name, f"{about.st_size} bytes, where {self._room} are left for artifacts")
            else:
                self._take(name, fd)
        finally:
            os.close(fd)

    def _take(self, name: str, fd: int) -> None:
        got = bytearray()
        while len(got) <= self._room:
            piece = os.read(fd, min(1 << 20, self._room + 1 - len(got)))
            if not piece:
                break
            got += piece
            if time.monotonic() > self._until:
                raise _EnoughError("the time for taking artifacts was over")
        if len(got) > self._room:
            self._leave(name, f"it grew to more than the {self._room} bytes that are left for artifacts")
            return
        self.artifacts[name] = bytes(got)
        self._room -= len(got)

    def _leave(self, name: str, why: str) -> None:
        if len(self.left) < _NAMED:
            self.left.append(f"{ascii(name)[1:-1][:NAME]}: {why}")
        else:
            self._unnamed += 1


class _EnoughError(Exception):
    """The walk must end here."""


def clean(name: str) -> bool:
    """Whether a path is relative, of plain printable characters, and stays what it is on every system."""
    parts = name.split("/")
    return (
        0 < len(name) <= NAME
        and name.isprintable()
        and "\\" not in name
        and all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
    )


def _why(error: OSError) -> str:
    return f"it cannot be read ({errno.errorcode.get(error.errno or 0, error.errno)})"
