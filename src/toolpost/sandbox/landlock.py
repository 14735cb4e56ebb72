"""Landlock: a second layer under files, network and signals, for where another layer falls. Needs no privilege.

Source: Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h, up to version 7 of the ABI.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from toolpost.sandbox import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in range(13, 16))
_VERSION_1 = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""What may be said of a path that is no folder."""
_BIND_TCP, _CONNECT_TCP = 1, 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2

_READ = _READ_FILE | _READ_DIR
_READ_EXECUTE = _READ | _EXECUTE
_CHANGE = _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | _REFER
_WRITE = _READ | _WRITE_FILE | _TRUNCATE | _CHANGE
_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV

_GET_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2


class Handled(NamedTuple):
    """What a ruleset forbids unless a rule of it allows it: access to files, to TCP ports, and reach beyond itself."""

    files: int
    tcp: int
    scoped: int


def abi() -> int:
    """The kernel's version of Landlock, 0 where there is none or it is switched off."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, _GET_VERSION)
    except OSError:
        return 0


_SINCE: Final = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))


def handled(version: int, *, tcp: bool = False) -> Handled:
    """All that a version of the ABI can forbid; with tcp, but for TCP ports."""
    files = _VERSION_1
    for since, right in _SINCE:
        files |= right if version >= since else 0
    ports = _BIND_TCP | _CONNECT_TCP if version >= 4 and not tcp else 0
    return Handled(files, ports, _ABSTRACT_SOCKETS | _SIGNALS if version >= 6 else 0)


def restrict(
    *,
    read_execute: Iterable[str],
    read: Iterable[str],
    write: Iterable[str],
    devices: Iterable[str],
    look: Iterable[str] = (),
    tcp: bool = False,
    connect: Iterable[int] = (),
) -> None:
    """Confine this thread and all it starts to these paths, with all below them; no way back. Needs abi() > 0.

    read_execute: read and execute. read: read only. write: read, write, make and remove files, but neither execute them
    nor make devices. devices: read, write and ioctl of a device node. look: list folders. A path in two of them has the
    rights of both; one that does not exist is passed over. tcp: TCP ports are left alone; else none can be bound, and
    none connected to but those of connect. No abstract sockets and no signals beyond what is confined with it. All this
    as far as the kernel's version knows of it. no_new_privileges must have been called. Raises OSError.
    """
    wanted = handled(abi(), tcp=tcp)
    # A kernel of an older version takes the longer structure, as long as what it does not know is 0.
    attributes = struct.pack("=QQQ", *wanted)
    ruleset = kernel.syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for paths, rights in (
            (read_execute, _READ_EXECUTE),
            (read, _READ),
            (write, _WRITE),
            (devices, _DEVICE),
            (look, _READ_DIR),
        ):
            for path in paths:
                _allow(ruleset, path, rights & wanted.files)
        for port in connect if wanted.tcp else ():
            rule = struct.pack("=QQ", _CONNECT_TCP, port)
            kernel.syscall("landlock_add_rule", ruleset, _NET_PORT, rule, 0, about=f"port {port}")
        kernel.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        if rights:  # the kernel takes no rule that allows nothing
            kernel.syscall("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0, about=path)
    finally:
        os.close(fd)
