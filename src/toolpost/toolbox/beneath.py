"""Opens files by a path beneath a directory that is held open; which paths a caller may name is left to files.py."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

LOOK: Final = getattr(os, "O_PATH", os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
"""Flags to learn what a file is; on Linux that neither opens it nor needs permission to read it."""

READ: Final = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_LARGEFILE"))
"""Flags to read a file. A FIFO or device that stands there in a race does not make the call wait."""

MAX_LINKS: Final = 40
"""How many symbolic links one path may lead through; Linux has the same bound."""

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_IS_LINK: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EMLINK})  # what platforms say of a link not followed
# What the walk would find too; anything else openat2 says (no such call, forbidden, busy, a link) the walk decides.
_CERTAIN: Final = frozenset({errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE})


class Escaped(Exception):
    """A path leads out of the directory: by '..', by an absolute path or by a link."""


class Opened(NamedTuple):
    """A file descriptor, the receiver's to close, and the file's own name: its target's where the path was a link."""

    fd: int
    name: bytes


def supported() -> bool:
    """Whether the platform can open files relative to a directory handle, without following links."""
    return os.open in os.supports_dir_fd and os.readlink in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


def open_directory(path: Path) -> int:
    """A handle on a directory, for its path without links. Raises OSError, ENOTDIR or ELOOP where a link stands.

    So the directory cannot be exchanged for a link elsewhere after its path was decided on.
    """
    first, *names = path.parts
    handle = os.open(first, LOOK | _DIRECTORY | _NOFOLLOW)
    for name in names:
        try:
            inner = os.open(name, LOOK | _DIRECTORY | _NOFOLLOW, dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def open_beneath(directory: int, path: bytes, flags: int) -> Opened:
    """Open what a relative path names beneath directory. Links are followed while they stay beneath it.

    Whatever is done to names and links meanwhile, what is opened was reached without leaving directory; what kind of
    file it is the caller has to ask of the handle. Raises Escaped for a path that leads out, ValueError for one with
    a NUL in it, else OSError.
    """
    if b"\0" in path:
        raise ValueError("a path holds no NUL")
    flags |= _NOFOLLOW
    openat2 = _openat2()
    if openat2 is not None:
        try:
            fd = openat2(directory, path, flags)
        except OSError as exc:
            if exc.errno == errno.EXDEV:
                raise Escaped from None
            if exc.errno in _CERTAIN:
                raise
        else:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return Opened(fd, path.rstrip(b"/").rpartition(b"/")[2])
            os.close(fd)
    return walk_beneath(directory, path, flags)


def walk_beneath(directory: int, path: bytes, flags: int) -> Opened:
    """open_beneath for every kernel: one name at a time, each in the directory opened before; links are read here."""
    if not path:  # as kernels have it (POSIX, 4.16: an empty pathname names nothing)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    ahead = _names(path)
    above = [os.dup(directory)]
    links = 0
    try:
        while True:
            name = ahead.pop()
            if name == b"..":
                os.close(above.pop())
                if not above:
                    raise Escaped
            if name in (b"", b".", b".."):
                if ahead:
                    continue
                return Opened(os.open(b".", flags | _NOFOLLOW, dir_fd=above[-1]), b".")
            found = _open_or_read_link(above[-1], name, LOOK | _DIRECTORY if ahead else flags)
            if isinstance(found, bytes):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                ahead += _names(found)
            elif ahead:
                above.append(found)
            else:
                return Opened(found, name)
    finally:
        for handle in above:
            os.close(handle)


def _names(path: bytes) -> list[bytes]:
    """The names in a path, the last first. Raises Escaped for an absolute path."""
    if path.startswith(b"/"):
        raise Escaped
    return path.split(b"/")[::-1]


def _open_or_read_link(directory: int, name: bytes, flags: int) -> int | bytes:
    """A handle on the file of that name, or where the link of that name leads."""
    try:
        fd = os.open(name, flags | _NOFOLLOW, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in _IS_LINK:
            raise
        try:
            return os.readlink(name, dir_fd=directory)
        except OSError:
            raise exc from None
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return os.readlink(name, dir_fd=directory)


def is_kernel_interface(status: os.stat_result) -> bool:
    """Whether a file lies in /proc or /sys, whose files are no data but doors into the kernel."""
    return status.st_dev in _kernel_devices()


@functools.cache
def _kernel_devices() -> frozenset[int]:
    """The devices of /proc and /sys where they are file systems of their own."""
    found = set()
    for name in ("/proc", "/sys"):
        try:
            found.add(os.lstat(name).st_dev)
        except OSError:  # there is none, as on macOS
            continue
    return frozenset(found - {os.lstat("/").st_dev})


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_OPENAT2_NUMBER: Final = 437  # on every architecture but alpha and mips, which number on from an older base
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08


@functools.cache
def _openat2() -> Callable[[int, bytes, int], int] | None:
    """openat2(2) with RESOLVE_BENEATH, None where there can be none. Linux has it since 5.6."""
    if sys.platform != "linux" or platform.machine().startswith(("alpha", "mips")):
        return None
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t)

    def openat2(directory: int, path: bytes, flags: int) -> int:
        how = _How(flags=flags, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        fd = int(syscall(_OPENAT2_NUMBER, directory, path, ctypes.byref(how), ctypes.sizeof(how)))
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return fd

    return openat2
