"""Puts a job's files into a work folder in which hostile programs may have run: no link of theirs is followed."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from toolpost.sandbox import frames, kernel
from toolpost.sandbox.collect import Seen


def put_files(work: str, files: list[list[Any]], data: bytes | memoryview) -> Seen:
    """Write a job's files into the work folder. Links that an earlier program left are not followed.

    data may be as much as fits into the memory once, but not twice: a view of it is not copied.
    """
    put: Seen = set()
    root = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    beneath = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
    at = 0
    try:
        for name, size in files:
            if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise OSError(errno.EINVAL, "no plain relative path", name)
            folder, _, last = name.rpartition("/")
            parent = _folder(root, folder)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(last, dir_fd=parent)
                how = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                fd = kernel.openat2(parent, last, how, resolve=beneath, mode=0o644)
            finally:
                os.close(parent)
            try:
                frames.write(fd, data[at : at + size])
                about = os.fstat(fd)
            finally:
                os.close(fd)
            at += size
            put.add((about.st_ino, about.st_ctime_ns))
    finally:
        os.close(root)
    return put


def _folder(root: int, path: str) -> int:
    """Open a folder beneath root, making it and those above it."""
    beneath = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
    at = os.dup(root)
    for part in path.split("/") if path else ():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            below = kernel.openat2(at, part, os.O_PATH | os.O_DIRECTORY, resolve=beneath)
        finally:
            os.close(at)
        at = below
    return at
