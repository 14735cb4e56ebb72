"""Lists what is in an open directory, sorted, bounded and without following links; and says what a file is."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from toolpost import ToolContext
from toolpost.toolbox.beneath import is_kernel_interface
from toolpost.toolbox.refusals import quoted, refused

MAX_LOOKED_AT: Final = 100_000
"""The most names one listing reads from directories."""

MAX_DEPTH: Final = 32
"""How many levels below the listed directory a recursive listing goes."""

KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def described(status: os.stat_result) -> dict[str, Any]:
    """The type of a file, its size in bytes where it has one, and when it was last modified."""
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    try:
        modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # beyond the years that datetime knows
        modified = None
    return {"type": KINDS.get(stat.S_IFMT(status.st_mode), "other"), "size": size, "modified": modified}


def shown(name: bytes) -> str:
    r"""A file's name as text; bytes that are not UTF-8 are written \xHH."""
    return name.decode(errors="backslashreplace")


class Listing:
    """Collects entries, sorted by name, a directory's own before what is in it, until one of the bounds is met."""

    def __init__(
        self, matches: Callable[[tuple[str, ...]], bool], recursive: bool, limit: int, ctx: ToolContext | None
    ) -> None:
        self.entries: list[dict[str, Any]] = []
        self.truncated = False
        self._matches, self._recursive, self._limit, self._ctx = matches, recursive, limit, ctx
        self._looked_at = 0
        self._full = False

    def add(self, directory: int, above: tuple[str, ...]) -> None:
        """Add what is in a directory; above are the names that lead to it from the listed one."""
        with os.scandir(directory) as found:
            children = list(islice(found, MAX_LOOKED_AT - self._looked_at + 1))
            if len(children) > MAX_LOOKED_AT - self._looked_at:
                self.truncated = True
                children.pop()
            self._looked_at += len(children)
        for name, child in sorted(((shown(os.fsencode(one.name)), one) for one in children), key=itemgetter(0)):
            if self._ctx is not None:
                self._ctx.raise_if_cancelled()
            names = (*above, name)
            if self._matches(names):
                self._append(names, child)
            if self._full:
                return
            if self._recursive and child.is_dir(follow_symlinks=False):
                self._enter(directory, child.name, names)

    def _append(self, names: tuple[str, ...], child: os.DirEntry[str]) -> None:
        if len(self.entries) == self._limit:
            self._full = self.truncated = True
            return
        try:
            about = described(child.stat(follow_symlinks=False))
        except FileNotFoundError:  # gone since
            return
        except OSError:
            about = {"type": "other", "size": None, "modified": None}
        self.entries.append({"name": "/".join(names), **about})

    def _enter(self, directory: int, child: str, names: tuple[str, ...]) -> None:
        if len(names) > MAX_DEPTH:
            self.truncated = True
            return
        try:
            inner = os.open(child, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except OSError:  # gone since, exchanged for a link, or not for us
            self.truncated = True
            return
        try:
            if is_kernel_interface(os.fstat(inner)):
                self.truncated = True
            else:
                self.add(inner, names)
        finally:
            os.close(inner)


def matcher(pattern: str | None, recursive: bool) -> Callable[[tuple[str, ...]], bool]:
    """Whether the names that lead to an entry fit a glob; one without '/' is for the last name alone."""
    if pattern is None:
        return lambda names: True
    if "/" not in pattern:
        last = _fits(pattern)
        return lambda names: last(names[-1])
    if not recursive:
        must = f"must not hold '/' unless recursive is true, got {quoted(pattern)}"
        raise refused("pattern", must, expected="a glob for names, or recursive true", got=quoted(pattern))
    steps = [None if step == "**" else _fits(step) for step in pattern.strip("/").split("/")]

    def matches(names: tuple[str, ...]) -> bool:
        reached = _past_wildcards({0}, steps)
        for name in names:
            stays = {at for at in reached if at < len(steps) and steps[at] is None}
            moves = {at + 1 for at in reached if at < len(steps) and (step := steps[at]) is not None and step(name)}
            reached = _past_wildcards(stays | moves, steps)
        return len(steps) in reached

    return matches


def _past_wildcards(reached: set[int], steps: Sequence[object]) -> set[int]:
    """Each step reached, and those after a '**', which may stand for nothing."""
    for at in sorted(reached):
        while at < len(steps) and steps[at] is None:
            at += 1
            reached.add(at)
    return reached


def _fits(glob: str) -> Callable[[str], bool]:
    compiled = re.compile(fnmatch.translate(glob))
    return lambda name: compiled.match(name) is not None
