"""The system calls that a sandbox is built of and Python lacks, by ctypes. Each raises OSError, which names the call.

It runs in the launcher and inside of sandboxes: the standard library only, and nothing of a later kernel is assumed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from toolpost.sandbox.syscall_table import NUMBERS

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10
_STEPWISE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS

_MNT_DETACH = 2
_AT_RECURSIVE = 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 23, 24, 28
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_NO_PRIVILEGE_BY_ROOT = 0b11101111
"""Securebits: root means nothing, a change of user keeps nothing, nothing is made ambient; all of them locked."""
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
# The interpreter's lock is held during this one: in the child of a clone no other thread could give it back.
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.syscall.restype = ctypes.c_long
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_in_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_in_child = ctypes.pythonapi.PyOS_AfterFork_Child
_before_fork.restype = _after_fork_in_parent.restype = _after_fork_in_child.restype = None

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None


class Capabilities(NamedTuple):
    """The capability sets of this process, as bit masks."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int


def syscall(name: str, *arguments: Argument, about: str = "") -> int:
    """Call the kernel by name. bytes and buffers are passed by address. about is put into the error, as a path."""
    result: int = _libc.syscall(ctypes.c_long(_number(name)), *map(_word, arguments))
    if result < 0:
        raise _error(name, about)
    return result


def _number(name: str) -> int:
    try:
        return NUMBERS[name]
    except KeyError:
        raise OSError(errno.ENOSYS, f"{name}: this architecture has no such system call") from None


def _word(argument: Argument) -> object:
    """Whole numbers take a register: as plain int ctypes would pass 32 bits."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _error(call: str, about: str = "") -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call} {about}".rstrip() + f": {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones. Of CLONE_NEWPID only children see something."""
    if _libc.unshare(flags) < 0:
        raise _error("unshare", f"{flags:#x}")


def clone(flags: int) -> int:
    """Fork into new namespaces: 0 in the child, its pid in the parent. As with os.fork, one thread goes on in it."""
    _before_fork()
    pid: int = _locked.syscall(ctypes.c_long(_number("clone")), *map(ctypes.c_long, (flags | 17, 0, 0, 0, 0)))
    if pid == 0:
        _after_fork_in_child()
        return 0
    number = ctypes.get_errno()
    _after_fork_in_parent()
    if pid < 0:
        raise OSError(number, f"clone {flags:#x}: {os.strerror(number)}")
    return pid


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). kind is a file system's name, as "tmpfs"; data its options, as "size=1m,nr_inodes=100"."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    if _libc.mount(*words[:3], flags, words[3]) < 0:
        raise _error("mount", f"{kind or source or ''} on {target}")


def bind(
    source: str, target: str, *, readonly: bool = True, noexec: bool = False, nodev: bool = True, recursive: bool = True
) -> None:
    """Show source, with what is mounted below it, at target too. Set-user-id bits never count there."""
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
    mount_attributes(target, readonly=readonly, nosuid=True, nodev=nodev, noexec=noexec, recursive=recursive)


def mount_attributes(
    path: str,
    *,
    readonly: bool = False,
    nosuid: bool = False,
    nodev: bool = False,
    noexec: bool = False,
    recursive: bool = False,
) -> None:
    """Add restrictions to the mount at path, and to all below it. It takes none away."""
    wanted = readonly * MS_RDONLY | nosuid * MS_NOSUID | nodev * MS_NODEV | noexec * MS_NOEXEC
    try:
        # struct mount_attr; its first four flags have the values of the MS_ ones.
        how = struct.pack("=QQQQ", wanted, 0, 0, 0)
        syscall("mount_setattr", -100, os.fsencode(path), _AT_RECURSIVE * recursive, how, len(how), about=path)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # Linux before 5.12 does one mount at a time, and takes away what is not said again.
        for one in _mounts_below(path) if recursive else [path]:
            mount(None, one, None, MS_REMOUNT | MS_BIND | wanted | _flags_of(one))


def _flags_of(path: str) -> int:
    flags = os.statvfs(path).f_flag
    kept = flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME)
    # statvfs names the last two of the atime flags by other bits than mount does.
    return kept | (2048 if flags & 2048 else 0) | (MS_RELATIME if flags & 4096 else 0)


def _mounts_below(path: str) -> list[str]:
    """path and every mount point below it, as mountinfo has them."""
    top = os.path.realpath(path)
    with open("/proc/self/mountinfo", "rb") as table:
        points = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in table]
    below = {os.fsdecode(point) for point in points}
    return [top, *sorted(one for one in below if one.startswith(top.rstrip("/") + "/"))]


def umount(target: str) -> None:
    """Take the mount at target, with all below it, out of this namespace; who has it open keeps it."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH) < 0:
        raise _error("umount", target)


def pivot_root(new: str, old: str) -> None:
    """Make new, a mount point, the root; the one until now is then at old. Both may be ".": see pivot_root(2)."""
    syscall("pivot_root", os.fsencode(new), os.fsencode(old), about=new)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace that fd holds. kind is its CLONE_ flag."""
    if _libc.setns(fd, kind) < 0:
        raise _error("setns", f"{kind:#x}")


def close_all_but(fds: Iterable[int]) -> None:
    """Close every descriptor of this process that is not named."""
    first = 0
    for kept in [*sorted(set(fds)), 1 << 31]:
        if kept > first:
            _close_range(first, kept - 1)
        first = kept + 1


def _close_range(first: int, last: int) -> None:
    try:
        syscall("close_range", first, last, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        # Linux before 5.9.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if first <= fd <= last:
                os.closerange(fd, fd + 1)


def pidfd_open(pid: int) -> int:
    """A descriptor of a process: readable once it has ended, and never another process that got its number."""
    return syscall("pidfd_open", pid, 0, about=str(pid))


def pidfd_kill(fd: int, signal: int = 9) -> bool:
    """Send a signal to the process of a descriptor. False when it has ended and been waited for."""
    try:
        syscall("pidfd_send_signal", fd, signal, None, 0)
    except ProcessLookupError:
        return False
    return True


def getcaps() -> Capabilities:
    """The capabilities of this thread."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    syscall("capget", header, sets)
    low = struct.unpack("=6I", sets.raw)
    effective, permitted, inheritable = (low[at] | low[at + 3] << 32 for at in range(3))
    bounding = sum(1 << one for one in range(64) if _libc.prctl(_PR_CAPBSET_READ, one, 0, 0, 0) == 1)
    return Capabilities(effective, permitted, inheritable, bounding)


def drop_capabilities() -> None:
    """Give up every capability for good: no program that is executed gets one back, root or not."""
    if getcaps().effective >> 8 & 1:  # CAP_SETPCAP, which the two below need
        _prctl("prctl SET_SECUREBITS", _PR_SET_SECUREBITS, _NO_PRIVILEGE_BY_ROOT)
        for one in range(64):
            if _libc.prctl(_PR_CAPBSET_READ, one, 0, 0, 0) == 1:
                _prctl("prctl CAPBSET_DROP", _PR_CAPBSET_DROP, one)
    _prctl("prctl CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    syscall("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    left = getcaps()
    if left.effective or left.permitted or left.inheritable:
        raise OSError(errno.EPERM, f"capset: capabilities are left: {left}")


def no_new_privileges() -> None:
    """From now on no program that is executed has more rights than this one."""
    _prctl("prctl NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def death_signal(signal: int) -> None:
    """The signal that this process gets when the thread that made it ends. A later change of user takes it away."""
    _prctl("prctl PDEATHSIG", _PR_SET_PDEATHSIG, signal)


def not_dumpable() -> None:
    """No core file, and no other process of the same user may read this one's memory or descriptors."""
    _prctl("prctl DUMPABLE", _PR_SET_DUMPABLE, 0)


def dumpable() -> None:
    """Undo not_dumpable, or what a change of user did: the process owns what /proc shows of it again."""
    _prctl("prctl DUMPABLE", _PR_SET_DUMPABLE, 1)


def trim() -> None:
    """Give back what the C library holds free, where it can: who is forked from here has fewer pages to end with."""
    give_back = getattr(_libc, "malloc_trim", None)
    if give_back is not None:
        give_back(ctypes.c_size_t(0))


def _prctl(call: str, option: int, first: int) -> None:
    if _libc.prctl(option, *map(ctypes.c_ulong, (first, 0, 0, 0))) < 0:
        raise _error(call)


def openat2(dirfd: int, path: str | bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """openat with rules of how path is followed: RESOLVE_ flags. The descriptor is closed on exec.

    Where the kernel has no such call, as gVisor's, one that stays beneath and follows no links goes step by step; then
    nobody may rename folders meanwhile.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    try:
        return syscall("openat2", dirfd, os.fsencode(path), how, len(how), about=repr(path))
    except OSError as error:
        if error.errno != errno.ENOSYS or resolve & _STEPWISE != _STEPWISE:
            raise
    return _step_by_step(
        dirfd, os.fsdecode(path), flags | os.O_CLOEXEC, mode, one_device=bool(resolve & RESOLVE_NO_XDEV)
    )


def _step_by_step(dirfd: int, path: str, flags: int, mode: int, *, one_device: bool) -> int:
    parts = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    if path.startswith("/") or ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    device = os.fstat(dirfd).st_dev
    at = os.dup(dirfd)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        opened = os.open(parts[-1], flags | os.O_NOFOLLOW, mode, dir_fd=at)
    finally:
        os.close(at)
    about = os.fstat(opened)
    if stat.S_ISLNK(about.st_mode) or (one_device and about.st_dev != device):
        os.close(opened)
        wrong = errno.ELOOP if stat.S_ISLNK(about.st_mode) else errno.EXDEV
        raise OSError(wrong, os.strerror(wrong), path)
    return opened
