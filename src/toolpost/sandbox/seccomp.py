"""seccomp: the allow-list of system calls for programs in a sandbox, loaded without any library's help.

What no rule names is denied; a number that no kernel had when this was written fails with ENOSYS, as on an older one.
What C libraries and tools fall back from in peace (clone3, openat2) fails so too, which nobody is told of.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from toolpost.sandbox import kernel
from toolpost.sandbox.bpf import (
    ALLOW,
    ARCHITECTURES,
    KILL_PROCESS,
    USER_NOTIF,
    Clause,
    above,
    among,
    any_bit,
    assemble,
    errno_verdict,
)
from toolpost.sandbox.syscall_table import MACHINE, NAMES, numbers

DENIED: Final = USER_NOTIF
"""Told to the listener; a program without one has EPERM here instead."""
_ABSENT = errno_verdict(errno.ENOSYS)
_UNKNOWN_OPTION = errno_verdict(errno.EINVAL)
_NOTHING_TO_DO = errno_verdict(0)

# Calls that act only on what the process has already, or that the kernel itself checks well enough without privileges.
_ALLOWED = """
access alarm brk capget chdir chown clock_getres clock_gettime clock_nanosleep close close_range copy_file_range dup
dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve exit
exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchown fchownat fdatasync fgetxattr flistxattr flock fork
fstat fstatfs fsync ftruncate futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday
getuid getxattr ioprio_get kill lchown lgetxattr link linkat listxattr llistxattr lseek lstat membarrier mincore mlock
mlock2 mlockall mprotect mremap mseal msync munlock munlockall munmap nanosleep newfstatat pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 pselect6 pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv rename renameat restart_syscall rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_yield select sendfile set_robust_list set_tid_address setgid setitimer setpgid setregid
setresgid setresuid setreuid setsid setuid shutdown sigaltstack signalfd signalfd4 stat statfs statx symlink symlinkat
sync_file_range sysinfo tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes
vfork wait4 waitid write writev
getpeername getsockname getsockopt accept accept4 bind connect listen
"""
_NOT_WHEN_STRICT = """
accept accept4 bind connect execve listen mlockall mknod mknodat pidfd_open pidfd_send_signal sched_setaffinity
sched_setscheduler setpriority socket
"""
_FALL_BACK = """
cachestat clone3 execveat file_getattr file_setattr futex_requeue futex_wait futex_waitv futex_wake get_mempolicy
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch landlock_add_rule landlock_create_ruleset
landlock_restrict_self listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mbind openat2
removexattrat setxattrat splice tee vmsplice
"""
"""execveat: only its callers' fall-back, execve, names a file. openat2, clone3: what they take lies in memory, where a
filter cannot look. The inotify_ ones tell what others do with the files that all see, the host too: which program of
/usr is started, and when; without them programs that watch files look again and again. The futex_ ones, splice and its
kin: programs want them only to be quick, attacks on the kernel often."""

_YES = Clause(ALLOW)
_NO = Clause(DENIED)
_NO_ATTRIBUTES = [Clause(errno_verdict(errno.EOPNOTSUPP))]
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_TYPE = 1, 2, 0xF
_SET_ID = 0o6000
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
_CLONE_NEW_ANY_OR_PARENT = 0x7E028000
_MAP_HUGETLB = 0x40000
_MSG_OOB, _MSG_ZEROCOPY = 0x1, 0x4000000
_RLIMIT_CORE = 4
_PID_1 = 1


def _no_set_id(mode: int) -> list[Clause]:
    return [Clause(DENIED, (any_bit(mode, _SET_ID),)), _YES]


def _opens(flags: int, mode: int) -> list[Clause]:
    """Without a flag that creates, mode is whatever lay in the register."""
    return [Clause(DENIED, (any_bit(mode, _SET_ID), any_bit(flags, _CREATES))), _YES]


def _makes_node(mode: int) -> list[Clause]:
    """Plain files, FIFOs and sockets; a device never, the white-out one that needs no privilege included."""
    return [
        Clause(DENIED, (any_bit(mode, _SET_ID),)),
        Clause(ALLOW, (among(mode, 0, 0o100000, 0o010000, 0o140000, mask=0o170000),)),
        _NO,
    ]


def _only(argument: int, *values: int, otherwise: int = DENIED, mask: int = 0) -> list[Clause]:
    return [Clause(ALLOW, (among(argument, *values, mask=mask),)), Clause(otherwise)]


def _not_pid_1(argument: int) -> list[Clause]:
    """The sandbox's warden has the same user, so the kernel would let a program starve it."""
    return [Clause(DENIED, (among(argument, _PID_1),)), _YES]


def _messages(flags: int) -> list[Clause]:
    """Out-of-band bytes of Unix sockets were a way out of browsers' sandboxes (CVE-2025-38236)."""
    return [Clause(DENIED, (any_bit(flags, _MSG_OOB | _MSG_ZEROCOPY),)), _YES]


_RULES: Final[Mapping[str, Sequence[Clause]]] = {
    # Files: never a set-user-id or set-group-id bit, never a device.
    "chmod": _no_set_id(1),
    "fchmod": _no_set_id(1),
    "fchmodat": _no_set_id(2),
    "fchmodat2": _no_set_id(2),
    "creat": _no_set_id(1),
    "mkdir": _no_set_id(1),
    "mkdirat": _no_set_id(2),
    "open": _opens(1, 2),
    "openat": _opens(2, 3),
    "mknod": _makes_node(1),
    "mknodat": _makes_node(2),
    # RENAME_WHITEOUT leaves a device behind.
    "renameat2": [Clause(DENIED, (any_bit(4, 0x4),)), _YES],
    # The whole machine's disks would be written out for it; what a sandbox writes lies in memory.
    "sync": [Clause(_NOTHING_TO_DO)],
    "syncfs": [Clause(_NOTHING_TO_DO)],
    # Programs that copy files copy attributes where they can.
    "setxattr": _NO_ATTRIBUTES,
    "lsetxattr": _NO_ATTRIBUTES,
    "fsetxattr": _NO_ATTRIBUTES,
    "removexattr": _NO_ATTRIBUTES,
    "lremovexattr": _NO_ATTRIBUTES,
    "fremovexattr": _NO_ATTRIBUTES,
    # Processes: no namespaces, no brothers and sisters of its own parent's making, no real-time classes.
    "clone": [Clause(DENIED, (any_bit(0, _CLONE_NEW_ANY_OR_PARENT),)), _YES],
    "unshare": [Clause(DENIED, (any_bit(0, 0xFFFFFFFF & ~0x600),)), _YES],  # CLONE_FS and CLONE_FILES are harmless
    "sched_setscheduler": [
        Clause(DENIED, (among(0, _PID_1),)),
        *_only(1, 0, 3, 5, mask=0xFFFFFFFF & ~0x40000000),  # other, batch, idle; reset on fork or not
    ],
    "sched_setaffinity": _not_pid_1(0),
    # Of this process and its group: PRIO_PROCESS and PRIO_PGRP with 0. The warden belongs to this user.
    "setpriority": [Clause(ALLOW, (among(0, 0, 1), among(1, 0))), _NO],
    # A core pattern that is a pipe starts a program of the host's whatever the limit is, but for a limit of 1: core(5).
    # So what the warden set stays. EINVAL, because gpg gives up over other errors.
    "setrlimit": [Clause(_UNKNOWN_OPTION, (among(0, _RLIMIT_CORE),)), _YES],
    "prlimit64": [
        Clause(_UNKNOWN_OPTION, (above(2, 0), among(1, _RLIMIT_CORE))),
        Clause(ALLOW, (among(0, 0),)),
        Clause(DENIED, (above(2, 0),)),
        _YES,
    ],
    "personality": _only(0, 0, 0xFFFFFFFF),
    # Requeuing to locks with priority inheritance: no C library does it, and much has been found in it.
    "futex": [Clause(_ABSENT, (among(1, 11, 12, mask=0x7F),)), _YES],
    # Memory: the huge pages of the machine are nobody's in particular, and merged pages tell who else has the same.
    "mmap": [Clause(errno_verdict(errno.ENOMEM), (any_bit(3, _MAP_HUGETLB),)), _YES],
    "madvise": _only(
        2,
        *range(5),
        8,
        9,
        10,
        11,
        14,
        15,
        16,
        17,
        18,
        19,
        20,
        22,
        23,
        25,
        102,
        103,
        otherwise=_UNKNOWN_OPTION,
    ),
    # Descriptors. F_SETPIPE_SZ up to what a pipe has anyhow: its pages are charged to nobody without a memory cgroup.
    "fcntl": [
        Clause(ALLOW, (among(1, *range(8), 9, 11, 16, 36, 37, 38, 1025, 1027, 1030, 1032, 1034),)),
        Clause(DENIED, (among(1, 1031), above(2, 65536))),
        *_only(1, 1031),
    ],
    # Input into a terminal that others read, and a say in who owns it, are denied; devices answer to nothing but what
    # is listed (terminals' own state, new pseudo-terminals, bytes waiting, flags, copies of files).
    "ioctl": [
        Clause(ALLOW, (among(1, *range(0x5401, 0x540C), 0x540E, 0x540F, 0x5410, 0x5411, 0x5413, 0x5414, 0x541B),)),
        Clause(ALLOW, (among(1, 0x5421, 0x5422, 0x5429, 0x5441, 0x5450, 0x5451, 0x5452, 0x5460, 0x802C542A),)),
        Clause(ALLOW, (among(1, 0x80045430, 0x40045431, 0x40049409, 0x4020940D),)),
        Clause(DENIED, (among(1, 0x5412, 0x541C, 0x541D, 0x5423),)),  # TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
        Clause(errno_verdict(errno.ENOTTY)),
    ],
    # prctl: what is known and harmless; what would weaken the sandbox is denied; the rest is as on an older kernel.
    "prctl": [
        Clause(ALLOW, (among(0, 1, 2, 3, 7, 15, 16, 21, 23, 27, 29, 30, 37, 38, 39, 41, 42, 51, 52, 56, 65, 66),)),
        Clause(ALLOW, (among(0, 4), among(1, 0))),  # PR_SET_DUMPABLE to 0
        Clause(DENIED, (among(0, 4, 8, 22, 24, 26, 28, 33, 35, 36, 47, 53, 57, 59, 62, 67, 77, 0x59616D61),)),
        Clause(_UNKNOWN_OPTION),
    ],
    # The registers of threads, and what of a processor's state may be used.
    "arch_prctl": _only(0, 0x1001, 0x1002, 0x1003, 0x1004, 0x1021, 0x1022, 0x1023, otherwise=_UNKNOWN_OPTION),
    # Sockets. Only of Unix, unless the profile has a network.
    "socketpair": _only(0, _AF_UNIX),
    "sendto": _messages(3),
    "recvfrom": _messages(3),
    "sendmsg": _messages(2),
    "recvmsg": _messages(2),
    "sendmmsg": _messages(3),
    "recvmmsg": _messages(3),
    "setsockopt": [
        # Sizes stay as they are: without a memory cgroup they are charged to nobody. SO_SNDBUF, SO_RCVBUF.
        Clause(_NOTHING_TO_DO, (among(1, 1), among(2, 7, 8))),
        # Timeouts, reuse, keep-alive, credentials; no filter programs, no devices.
        Clause(ALLOW, (among(1, 1), among(2, 2, 6, 9, 10, 12, 13, 15, 16, 18, 20, 21, 29, 66, 67))),
        Clause(ALLOW, (among(1, 6), among(2, 1, 3, 4, 5, 6, 7, 9, 12, 18))),  # of TCP
        Clause(ALLOW, (among(1, 0), among(2, 1, 2, 10, 11))),  # of IPv4: TOS, TTL, path MTU, errors
        Clause(ALLOW, (among(1, 41), among(2, 16, 23, 24, 25, 26, 67))),  # of IPv6: the same, and V6ONLY
        _NO,
    ],
}
_UNIX_ONLY = _only(0, _AF_UNIX)
_UNIX_AND_INTERNET = [
    Clause(ALLOW, (among(0, _AF_UNIX),)),
    Clause(ALLOW, (among(0, _AF_INET, _AF_INET6), among(1, _SOCK_STREAM, mask=_SOCK_TYPE), among(2, 0, 6))),
    Clause(ALLOW, (among(0, _AF_INET, _AF_INET6), among(1, _SOCK_DGRAM, mask=_SOCK_TYPE), among(2, 0, 17))),
    _NO,
]


def rules(profile: Literal["default", "strict"], *, network: bool) -> dict[str, Sequence[Clause]]:
    """Name of a system call -> what is decided about it. What is not named here is denied."""
    found: dict[str, Sequence[Clause]] = {name: [_YES] for name in _ALLOWED.split()}
    found.update((name, [Clause(_ABSENT)]) for name in _FALL_BACK.split())
    found.update(_RULES)
    found["socket"] = _UNIX_AND_INTERNET if network else _UNIX_ONLY
    if profile == "strict":
        for name in _NOT_WHEN_STRICT.split():
            found.pop(name, None)
    return found


def program(profile: Literal["default", "strict"], *, network: bool, notify: bool, machine: str = MACHINE) -> bytes:
    """The filter program of a profile. network: programs may have internet sockets, for the allow-list proxy.

    notify: what is denied is told to the holder of the listener (a Denied) instead of only failing with EPERM. Raises
    OSError where this processor is not known.
    """
    table = numbers(machine)
    if not table:
        raise OSError(
            errno.ENOSYS, f"seccomp: no table of system calls for {machine}, only for {', '.join(ARCHITECTURES)}"
        )
    denied = DENIED if notify else errno_verdict(errno.EPERM)
    found = rules(profile, network=network)

    def settled(name: str) -> list[Clause]:
        clauses = found.get(name, (_NO,))
        return [one._replace(verdict=denied) if one.verdict == DENIED else one for one in clauses]

    return assemble(machine, {number: settled(name) for name, number in table.items()}, _ABSENT)


_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_RECEIVE, _SEND = 0xC0502100, 0xC0182101


def available(*, notify: bool) -> bool:
    """Whether the kernel takes such programs; with notify, whether it can tell of what they deny (Linux 5.0)."""
    if not numbers(MACHINE):
        return False
    verdicts = (KILL_PROCESS, USER_NOTIF) if notify else (KILL_PROCESS,)
    try:
        for verdict in verdicts:
            kernel.syscall("seccomp", _GET_ACTION_AVAIL, 0, struct.pack("=I", verdict))
    except OSError:
        return False
    return True


def load(program: bytes, *, notify: bool) -> int | None:
    """Confine this process and all it will start; there is no way back. Returns the listener's descriptor, if any.

    Call it with one thread, after no_new_privileges. With notify the descriptor must go to a process outside of the
    filter and be closed here: who holds it decides about denied calls. Where nobody holds it any more they fail with
    ENOSYS. Raises OSError.
    """
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if not notify:
        kernel.syscall("seccomp", _SET_MODE_FILTER, 0, head)
        return None
    try:
        return kernel.syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, head)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 5.19 a signal ends the wait for an answer, and the call is then told of twice.
        return kernel.syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER, head)


class Denied:
    """Refuses the system calls that a filter denied, and says which they were. It owns the listener's descriptor."""

    def __init__(self, listener_fd: int) -> None:
        self._listener = listener_fd

    def fileno(self) -> int:
        """Readable when a call waits for its answer; hung up (POLLHUP) when no process with the filter is left."""
        return self._listener

    def answer(self) -> str:
        """Refuse one call with EPERM. Returns its name, "" when its caller was gone before it was told.

        Call it when the listener is readable: it waits where nothing is there.
        """
        told = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, told)
            call, _, _, number = struct.unpack_from("=QIIi", told)
            fcntl.ioctl(self._listener, _SEND, struct.pack("=QqiI", call, 0, -errno.EPERM, 0))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR, errno.ENOTCONN):
                raise
            return ""
        return NAMES.get(number, f"call {number}")

    def close(self) -> None:
        """Give the listener back: denied calls fail with ENOSYS from now on. A second time does nothing."""
        listener, self._listener = self._listener, -1
        if listener >= 0:
            os.close(listener)
