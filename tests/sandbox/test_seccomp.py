"""seccomp: what a program may ask of the kernel. By interpretation over every number, and by loading and trying."""

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import platform
import random
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import miss
from tests.sandbox.children import Killed, errno_of, forked, hand_over, in_child, taken, under_filter
from tests.sandbox.filters import ALLOW, FOREIGN, KILL, MACHINES, NOTIFY, Filter, errno_in
from toolpost.sandbox import bpf, kernel, seccomp, syscall_table

KINDS = [
    (machine, profile, network)
    for machine in MACHINES
    for profile in ("default", "strict")
    for network in (False, True)
]
EDGES = (0, 1, 2, 3, 10, 16, 40, 0x7F, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 64) - 1)

# What no program in a sandbox gets, whatever its arguments are; kept apart from the rules, to check them.
NEVER = """
acct add_key adjtimex afs_syscall bpf capset chroot clock_adjtime clock_settime create_module delete_module
epoll_ctl_old epoll_wait_old fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen fspick get_kernel_syms
get_robust_list get_thread_area getpmsg init_module io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
io_uring_enter io_uring_register io_uring_setup ioperm iopl ioprio_set kcmp kexec_file_load kexec_load keyctl listmount
listns lookup_dcookie memfd_create memfd_secret migrate_pages modify_ldt mount mount_setattr move_mount move_pages
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd name_to_handle_at
nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise
process_mrelease process_vm_readv process_vm_writev ptrace putpmsg query_module quotactl quotactl_fd reboot
remap_file_pages request_key sched_setattr sched_setparam seccomp security semctl semget semop semtimedop
set_mempolicy set_mempolicy_home_node set_thread_area setdomainname setfsgid setfsuid setgroups sethostname setns
settimeofday shmat shmctl shmdt shmget statmount swapoff swapon sysfs syslog tuxcall umount2 uprobe uretprobe uselib
userfaultfd ustat vhangup vserver _sysctl
"""
ABSENT = """
cachestat clone3 execveat file_getattr file_setattr futex_requeue futex_wait futex_waitv futex_wake get_mempolicy
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch landlock_add_rule landlock_create_ruleset
landlock_restrict_self listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mbind openat2
removexattrat setxattrat splice tee vmsplice
"""
NOT_WHEN_STRICT = """
accept accept4 bind connect execve listen mlockall mknod mknodat pidfd_open pidfd_send_signal sched_setaffinity
sched_setscheduler setpriority socket
"""


@functools.cache
def made(machine: str, profile: str = "default", *, network: bool = False, notify: bool = True) -> Filter:
    return Filter(seccomp.program(profile, network=network, notify=notify, machine=machine))


def asked(name: str, *arguments: int, machine: str = "x86_64", **kind) -> int:
    """What a filter says of one call."""
    number = syscall_table.numbers(machine)[name]
    return made(machine, **kind).verdict(number, arguments, architecture=MACHINES[machine])


def samples(seed: int) -> list[list[int]]:
    """Arguments at the edges of what rules look at, and at random."""
    draw = random.Random(seed)
    plain = [[edge] * 6 for edge in EDGES]
    mixed = [[draw.choice(EDGES) for _ in range(6)] for _ in range(20)]
    return plain + mixed + [[draw.getrandbits(64) for _ in range(6)] for _ in range(20)]


class TestEveryNumber:
    @pytest.mark.parametrize(("machine", "profile", "network"), KINDS)
    def test_what_is_not_on_the_list_is_denied_whatever_its_arguments(self, machine, profile, network):
        filter_, table = made(machine, profile, network=network), syscall_table.numbers(machine)
        never, absent = set(NEVER.split()), set(ABSENT.split())
        if profile == "strict":
            never |= set(NOT_WHEN_STRICT.split())
        allowed = set()

        for name, number in table.items():
            for arguments in samples(number):
                verdict = filter_.verdict(number, arguments, architecture=MACHINES[machine])
                assert verdict in (ALLOW, NOTIFY) or errno_in(verdict) is not None, name
                if name in never:
                    assert verdict == NOTIFY, name
                if name in absent:
                    assert errno_in(verdict) == errno.ENOSYS, name
                if verdict == ALLOW:
                    allowed.add(name)

        assert not allowed & (never | absent)
        # Nothing of the table is on no list: a new number is looked at by whoever adds it.
        assert allowed | never | absent | set(seccomp.rules(profile, network=network)) >= set(table)

    @pytest.mark.parametrize(("machine", "profile", "network"), KINDS)
    def test_a_number_without_a_name_is_absent(self, machine, profile, network):
        filter_ = made(machine, profile, network=network)
        known = set(syscall_table.numbers(machine).values())
        numbers = [*range(1000), 4096, 65535, 1 << 20, (1 << 30) - 1]
        if machine == "aarch64":
            numbers += [1 << 30, 1 << 31, (1 << 32) - 1]
        for number in numbers:
            if number not in known:
                verdict = filter_.verdict(number, [1] * 6, architecture=MACHINES[machine])
                assert errno_in(verdict) == errno.ENOSYS

    @pytest.mark.parametrize(("machine", "profile", "network"), KINDS)
    def test_a_foreign_architecture_is_death(self, machine, profile, network):
        filter_ = made(machine, profile, network=network)
        for foreign in [*FOREIGN.values(), *(one for name, one in MACHINES.items() if name != machine)]:
            for number in range(600):
                assert filter_.verdict(number, architecture=foreign) == KILL

    @pytest.mark.parametrize("profile", ["default", "strict"])
    def test_x32_is_death(self, profile):
        filter_ = made("x86_64", profile)
        for number in [*range(600), (1 << 30) - 1]:
            for high in (0x40000000, 0x80000000, 0xC0000000):
                assert filter_.verdict(number | high, architecture=MACHINES["x86_64"]) == KILL

    @pytest.mark.parametrize(("machine", "profile", "network"), KINDS)
    def test_without_a_listener_the_same_is_denied_with_eperm(self, machine, profile, network):
        loud = made(machine, profile, network=network)
        quiet = made(machine, profile, network=network, notify=False)
        for number in range(500):
            for arguments in samples(number)[:20]:
                told = loud.verdict(number, arguments, architecture=MACHINES[machine])
                silent = quiet.verdict(number, arguments, architecture=MACHINES[machine])
                assert silent == (0x50000 | errno.EPERM if told == NOTIFY else told)

    @pytest.mark.parametrize(("machine", "profile", "network"), KINDS)
    def test_strict_allows_nothing_that_default_does_not(self, machine, profile, network):
        default, strict = made(machine, network=network), made(machine, "strict", network=network)
        for number in range(500):
            for arguments in samples(number):
                if strict.verdict(number, arguments, architecture=MACHINES[machine]) == ALLOW:
                    assert default.verdict(number, arguments, architecture=MACHINES[machine]) == ALLOW

    def test_the_search_is_balanced(self):
        filter_ = made("x86_64")
        steps = [step for step in filter_.steps if step[0] == 0x35]
        assert len(steps) > 60

        def depth(number: int) -> int:
            at = count = 0
            while True:
                code, true, false, operand = filter_.steps[at]
                if code == 0x06:
                    return count
                at += 1
                if code == 0x35:
                    count += 1
                    at += true if number >= operand else false
                elif code == 0x05:
                    at += operand
                elif code == 0x15 and operand == MACHINES["x86_64"]:
                    at += true
                elif code != 0x20:
                    return count

        assert max(depth(number) for number in range(500)) <= 9

    def test_a_machine_without_a_table_is_refused(self):
        with pytest.raises(OSError, match="riscv64"):
            seccomp.program("default", network=False, notify=False, machine="riscv64")


YES, NO = ALLOW, NOTIFY
UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK = 1, 2, 10, 16, 17, 38, 40
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
HIGH = 1 << 32
ARGUMENT_RULES = [
    # Modes with a set-user-id or set-group-id bit, in every call that takes one.
    ("chmod", (0, 0o755), YES),
    ("chmod", (0, 0o1777), YES),
    ("chmod", (0, 0o4755), NO),
    ("chmod", (0, HIGH | 0o2755), NO),
    ("fchmod", (3, 0o6000), NO),
    ("fchmodat", (-100, 0, 0o4755), NO),
    ("fchmodat2", (-100, 0, 0o2755, 0), NO),
    ("fchmodat2", (-100, 0, 0o755, 0), YES),
    ("creat", (0, 0o4755), NO),
    ("mkdir", (0, 0o2777), NO),
    ("mkdirat", (-100, 0, 0o2777), NO),
    ("mkdirat", (-100, 0, 0o755), YES),
    ("open", (0, os.O_CREAT | os.O_WRONLY, 0o6755), NO),
    ("open", (0, os.O_RDONLY, 0o6755), YES),
    ("openat", (-100, 0, os.O_TMPFILE | os.O_RDWR, 0o4755), NO),
    ("openat", (-100, 0, os.O_CREAT, 0o644), YES),
    ("openat", (-100, 0, HIGH | os.O_CREAT, HIGH | 0o4000), NO),
    # Devices.
    ("mknod", (0, stat.S_IFREG | 0o644, 0), YES),
    ("mknod", (0, stat.S_IFIFO | 0o644, 0), YES),
    ("mknod", (0, stat.S_IFSOCK | 0o644, 0), YES),
    ("mknod", (0, stat.S_IFCHR | 0o644, 0), NO),
    ("mknod", (0, stat.S_IFBLK | 0o644, 0x801), NO),
    ("mknodat", (-100, 0, stat.S_IFCHR, 0x103), NO),
    ("mknodat", (-100, 0, stat.S_IFREG | 0o4755, 0), NO),
    ("renameat2", (-100, 0, -100, 0, 1), YES),
    ("renameat2", (-100, 0, -100, 0, 4), NO),
    # Namespaces.
    *(("clone", (flag | signal.SIGCHLD, 0), NO) for flag in (1 << 17, *(1 << bit for bit in range(25, 31)))),
    ("clone", (HIGH | kernel.CLONE_NEWUSER, 0), NO),
    ("clone", (0x8000 | signal.SIGCHLD, 0), NO),  # CLONE_PARENT
    ("clone", (0x3D0F00, 0), YES),  # a thread of glibc
    ("clone", (0x01200011, 0), YES),  # a fork of glibc
    *(("unshare", (flag,), NO) for flag in (0x80, 1 << 17, *(1 << bit for bit in range(25, 31)))),
    ("unshare", (0x600,), YES),
    # Scheduling.
    ("sched_setscheduler", (0, 0, 0), YES),
    ("sched_setscheduler", (0, 0x40000003, 0), YES),
    *(("sched_setscheduler", (0, policy, 0), NO) for policy in (1, 2, 6, 7, 0x40000001, 0x40000002)),
    ("sched_setscheduler", (1, 3, 0), NO),
    ("sched_setaffinity", (0, 8, 0), YES),
    ("sched_setaffinity", (1, 8, 0), NO),
    ("setpriority", (0, 0, 19), YES),
    ("setpriority", (0, 1, 19), NO),
    ("setpriority", (2, 0, 19), NO),
    # Limits: of itself, but never what happens to core dumps.
    ("setrlimit", (7, 0), YES),
    ("setrlimit", (4, 0), errno.EINVAL),
    ("prlimit64", (0, 7, 4096, 0), YES),
    ("prlimit64", (0, 4, 4096, 0), errno.EINVAL),
    ("prlimit64", (0, 4, HIGH, 0), errno.EINVAL),
    ("prlimit64", (0, 4, 0, 4096), YES),
    ("prlimit64", (1, 7, 4096, 0), NO),
    ("prlimit64", (1, 7, HIGH, 0), NO),
    ("prlimit64", (1, 7, 0, 4096), YES),
    ("personality", (0xFFFFFFFF,), YES),
    ("personality", (0,), YES),
    ("personality", (0x0040000,), NO),
    ("personality", (8,), NO),
    # Memory.
    ("mmap", (0, 4096, 3, 0x22), YES),
    ("mmap", (0, 4096, 3, 0x40022), errno.ENOMEM),
    ("madvise", (0, 4096, 4), YES),
    *(("madvise", (0, 4096, advice), errno.EINVAL) for advice in (12, 13, 21, 100, 101)),
    ("futex", (0, 128), YES),
    *(("futex", (0, operation), errno.ENOSYS) for operation in (11, 12, 128 | 11, 256 | 12, 384 | 11)),
    # Descriptors.
    ("fcntl", (1, fcntl.F_SETFL, os.O_NONBLOCK), YES),
    ("fcntl", (1, 1031, 65536), YES),
    ("fcntl", (1, 1031, 65537), NO),
    ("fcntl", (1, 1031, HIGH), NO),
    *(("fcntl", (1, command, 0), NO) for command in (8, 10, 15, 1024, 1026, 1033)),
    ("ioctl", (0, 0x5401), YES),
    ("ioctl", (0, 0x5421), YES),
    *(("ioctl", (0, request), NO) for request in (0x5412, HIGH | 0x5412, 0x541C, HIGH | 0x541C, 0x541D, 0x5423)),
    *(("ioctl", (0, request), errno.ENOTTY) for request in (0xB701, 0x8914, 0x5420, 0xC0184800, 0xAE01, 0x40086602)),
    # prctl.
    ("prctl", (15, 0), YES),
    ("prctl", (38, 1), YES),
    ("prctl", (4, 0), YES),
    ("prctl", (4, 1), NO),
    *(("prctl", (option, 1), NO) for option in (8, 22, 24, HIGH | 22, 28, 35, 36, 47, 53, 59, 62, 67, 0x59616D61)),
    ("prctl", (9999, 0), errno.EINVAL),
    ("arch_prctl", (0x1002, 0), YES),
    ("arch_prctl", (0x1012, 0), errno.EINVAL),
    # Sockets.
    ("socket", (UNIX, STREAM | NONBLOCK_CLOEXEC, 0), YES),
    ("socket", (INET, STREAM, 0), NO),
    ("socket", (INET6, DGRAM, 0), NO),
    ("socket", (HIGH | NETLINK, RAW, 0), NO),
    *(("socket", (family, STREAM, 0), NO) for family in range(2, 64)),
    ("socketpair", (UNIX, STREAM, 0), YES),
    *(("socketpair", (family, STREAM, 0), NO) for family in range(2, 64)),
    ("sendto", (3, 0, 1, 0x4000), YES),
    ("sendto", (3, 0, 1, 1), NO),
    ("recvfrom", (3, 0, 1, 0x41), NO),
    ("sendmsg", (3, 0, 1), NO),
    ("recvmsg", (3, 0, 1), NO),
    ("sendmmsg", (3, 0, 1, 1), NO),
    ("recvmmsg", (3, 0, 1, 1, 0), NO),
    ("setsockopt", (3, 1, 2, 0, 4), YES),
    *(("setsockopt", (3, 1, option, 0, 4), NO) for option in (25, 26, 27, 32, 33, 50, 51, 52, 60)),
    *(("setsockopt", (3, level, 64, 0, 4), NO) for level in (0, 41, 255, 270, 279)),
    ("setsockopt", (3, 6, 31, 0, 4), NO),  # TCP_ULP
    # Done for it, or not worth it.
    ("sync", (), 0),
    ("syncfs", (3,), 0),
    ("setxattr", (0, 0, 0, 0, 0), errno.EOPNOTSUPP),
    ("execve", (0, 0, 0), YES),
    ("kill", (1, 9), YES),
]


class TestArguments:
    @pytest.mark.parametrize("machine", MACHINES)
    @pytest.mark.parametrize(("name", "arguments", "verdict"), ARGUMENT_RULES)
    def test_it_decides_by(self, machine, name, arguments, verdict):
        if name not in syscall_table.numbers(machine):
            return  # the older form of a call, which aarch64 never had

        said = asked(name, *arguments, machine=machine)

        assert said == verdict if verdict in (YES, NO) else errno_in(said) == verdict

    @pytest.mark.parametrize("machine", MACHINES)
    def test_with_a_network_there_are_tcp_and_udp_and_nothing_below_them(self, machine):
        def socket_of(*arguments: int) -> bool:
            return asked("socket", *arguments, machine=machine, network=True) == ALLOW

        for family in (INET, INET6):
            assert socket_of(family, STREAM | NONBLOCK_CLOEXEC, 0)
            assert socket_of(family, STREAM, 6)
            assert socket_of(family, DGRAM, 17)
            for kind, protocol in (
                (RAW, 1),
                (RAW, 255),
                (STREAM, 262),
                (STREAM, 132),
                (DGRAM, 1),
                (DGRAM, 136),
                (10, 3),
            ):
                assert not socket_of(family, kind, protocol)
        for family in (NETLINK, PACKET, ALG, VSOCK, 0, 3, 44, HIGH | 17):
            assert not socket_of(family, STREAM, 0)

    @pytest.mark.parametrize("machine", MACHINES)
    def test_strict_has_pairs_of_sockets_alone(self, machine):
        for network in (False, True):
            assert asked("socket", UNIX, STREAM, 0, machine=machine, profile="strict", network=network) == NOTIFY
            assert asked("socketpair", UNIX, STREAM, 0, machine=machine, profile="strict", network=network) == ALLOW
            assert asked("execve", 0, 0, 0, machine=machine, profile="strict", network=network) == NOTIFY

    def test_nothing_but_the_low_half_of_a_word_is_looked_at_where_the_kernel_does_not(self):
        """A filter that compared 64 bits would let the same request pass with a bit set above."""
        for name, arguments, verdict in ARGUMENT_RULES:
            if verdict == NO and name not in ("fcntl", "prlimit64"):
                assert asked(name, *(HIGH << 3 | value & 0xFFFFFFFF for value in arguments)) == NO, name


class TestTheAssembler:
    def test_far_jumps_are_right(self):
        wide = [bpf.Clause(bpf.errno_verdict(77), (bpf.among(0, *range(200)),)), bpf.Clause(ALLOW)]
        other = [bpf.Clause(bpf.errno_verdict(78), (bpf.among(0, *range(199)),)), bpf.Clause(ALLOW)]
        filter_ = Filter(bpf.assemble("x86_64", {0: wide, 2: other, 4: wide, 9: other}, bpf.errno_verdict(5)))
        found = [
            errno_in(filter_.verdict(number, [argument], architecture=MACHINES["x86_64"]))
            for number in range(11)
            for argument in (0, 199, 200)
        ]

        rows = {0: [77, 77, None], 2: [78, None, None], 4: [77, 77, None], 9: [78, None, None]}
        assert found == [value for number in range(11) for value in rows.get(number, [5, 5, 5])]

    def test_a_rule_that_may_end_nowhere_is_refused(self):
        with pytest.raises(ValueError, match="must hold always"):
            bpf.decide([bpf.Clause(ALLOW, (bpf.any_bit(0, 1),))])

    def test_a_program_that_is_too_long_is_refused(self):
        rule = {n: [bpf.Clause(n, (bpf.among(0, *range(240)),)), bpf.Clause(ALLOW)] for n in range(20)}
        with pytest.raises(ValueError, match="too long"):
            bpf.assemble("x86_64", rule, ALLOW)


@pytest.fixture
def seccomp_here(pytestconfig):
    if not seccomp.available(notify=False):
        miss("seccomp", "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64", pytestconfig)


@pytest.fixture
def notified(seccomp_here, pytestconfig):
    if not seccomp.available(notify=True):
        miss("seccomp_notify", "Linux 5.0 or later", pytestconfig)


def call(name: str, *arguments: int | bytes | None) -> str:
    """The errno's name of a raw call, or ""."""
    return errno_of(lambda: kernel.syscall(name, *arguments))


def filtered(body, profile="default", *, network=False):
    """body, in a child under a filter without a listener."""
    program = seccomp.program(profile, network=network, notify=False)

    def confined():
        kernel.no_new_privileges()
        assert seccomp.load(program, notify=False) is None
        return body()

    return in_child(confined)


class TestLoaded:
    @pytest.mark.parametrize("profile", ["default", "strict"])
    def test_every_forbidden_call_fails(self, seccomp_here, profile):
        # These two are the kernel's own, for tracers of programs: no filter is asked, and anybody else gets SIGILL.
        names = [
            name for name in NEVER.split() if name in syscall_table.NUMBERS and name not in ("uprobe", "uretprobe")
        ]

        found = filtered(lambda: {name: call(name, 0, 0, 0, 0, 0, 0) for name in names}, profile)

        assert found == dict.fromkeys(names, "EPERM")

    def test_what_libraries_fall_back_from_is_absent(self, seccomp_here):
        names = [name for name in ABSENT.split() if name in syscall_table.NUMBERS]

        found = filtered(lambda: {name: call(name, 0, 0, 0, 0, 0, 0) for name in names})

        assert found == dict.fromkeys(names, "ENOSYS")

    def test_a_filter_cannot_be_taken_off_or_laid_over(self, seccomp_here):
        empty = struct.pack("@HP", 1, 0)

        def tried():
            return [
                call("seccomp", 1, 0, empty),
                call("seccomp", 1, 8, empty),
                call("seccomp", 0, 0, None),
                call("prctl", 22, 1, 0, 0, 0),
                call("prctl", 22, 2, empty, 0, 0),
            ]

        assert filtered(tried) == ["EPERM"] * 5

    def test_threads_and_children_are_under_it_too(self, seccomp_here):
        def tried():
            found = []
            thread = threading.Thread(target=lambda: found.append(call("ptrace", 0, 0, 0, 0)))
            thread.start()
            thread.join()
            found.append(in_child(lambda: call("ptrace", 0, 0, 0, 0)))
            run = [sys.executable, "-c", "import os; os.mknod('/tmp/never', 0o20666, 0x103)"]
            found.append(subprocess.run(run, capture_output=True, text=True, check=False).stderr.split("\n")[-2][:15])
            return found

        assert filtered(tried) == ["EPERM", "EPERM", "PermissionError"]

    def test_set_id_bits_are_never_set(self, seccomp_here, tmp_path):
        target = tmp_path / "file"
        target.touch()

        def tried():
            found = [
                errno_of(lambda: target.chmod(0o4755)),
                errno_of(lambda: os.open(tmp_path / "new", os.O_CREAT | os.O_WRONLY, 0o2755)),
                errno_of(lambda: os.mkdir(tmp_path / "folder", 0o2777)),
            ]
            target.chmod(0o700)
            return [*found, oct(stat.S_IMODE(target.stat().st_mode))]

        assert filtered(tried) == ["EPERM", "EPERM", "EPERM", "0o700"]

    def test_a_pipe_does_not_grow(self, seccomp_here):
        def tried():
            _, write = os.pipe()
            return [
                errno_of(lambda: fcntl.fcntl(write, 1031, 1 << 20)),
                errno_of(lambda: fcntl.fcntl(write, 1031, 4096)),
                fcntl.fcntl(write, 1032),
            ]

        assert filtered(tried) == ["EPERM", "", 4096]

    def test_families_of_sockets(self, seccomp_here):
        def tried():
            kinds = [(UNIX, STREAM), (INET, STREAM), (INET6, STREAM), (NETLINK, RAW), (VSOCK, STREAM), (ALG, SEQPACKET)]
            return [errno_of(lambda kind=kind: socket.socket(*kind).close()) for kind in kinds]

        assert filtered(tried) == ["", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM"]
        assert filtered(tried, network=True) == ["", "", "", "EPERM", "EPERM", "EPERM"]
        assert filtered(tried, "strict", network=True) == ["EPERM"] * 6

    def test_out_of_band_bytes_are_refused(self, seccomp_here):
        def tried():
            one, other = socket.socketpair()
            one.send(b"x")
            return [errno_of(lambda: one.send(b"x", socket.MSG_OOB)), other.recv(9).decode()]

        assert filtered(tried) == ["EPERM", "x"]

    def test_strict_starts_no_other_program(self, seccomp_here):
        assert filtered(lambda: errno_of(lambda: os.execv("/bin/true", ["true"])), "strict") == "EPERM"

    def test_a_sync_is_done_at_once(self, seccomp_here):
        assert filtered(lambda: [call("sync"), call("syncfs", 0)]) == ["", ""]

    def test_a_64_bit_process_cannot_use_32_bit_calls(self, seccomp_here):
        if platform.machine() != "x86_64":
            return  # int 0x80 and x32 are of x86_64

        def int80():
            # mov eax, 20 (getpid); int 0x80; ret
            code = bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3])
            memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            memory.write(code)
            ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()

        with pytest.raises(Killed, match="SIGSYS"):
            filtered(int80)
        with pytest.raises(Killed, match="SIGSYS"):
            filtered(lambda: kernel._libc.syscall(ctypes.c_long(0x40000000 | 39)))

    def test_without_no_new_privileges_an_ordinary_user_is_refused(self, seccomp_here):
        def tried():
            kernel.drop_capabilities()
            return errno_of(lambda: seccomp.load(seccomp.program("default", network=False, notify=False), notify=False))

        assert in_child(tried) == "EACCES"


class TestOrdinaryPrograms:
    PYTHON = """
import asyncio, concurrent.futures, ctypes, decimal, hashlib, json, multiprocessing, os, queue, random, re, shutil
import signal, socket, sqlite3, ssl, statistics, subprocess, tempfile, threading, time, zipfile
async def main():
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=-1)
    assert (await process.communicate())[0] == b"hello\\n"
    return await asyncio.to_thread(sum, [1, 2])
assert asyncio.run(main()) == 3
assert multiprocessing.get_context("fork").Pool(2).map(abs, [1, -2]) == [1, 2]
with concurrent.futures.ProcessPoolExecutor(1) as pool: assert pool.submit(abs, -3).result() == 3
with tempfile.TemporaryDirectory() as folder:
    database = sqlite3.connect(folder + "/x.db")
    database.execute("create table t (x)")
    database.commit()
    shutil.copytree(folder, folder + "/copy")
    shutil.copy2(folder + "/x.db", folder + "/y.db")
    os.replace(folder + "/y.db", folder + "/z.db")
    os.mkfifo(folder + "/fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(folder + "/sock")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(folder + "/sock")
signal.setitimer(signal.ITIMER_REAL, 100)
print("fine")
"""
    SHELL = """
set -e
cd "$(mktemp -d)"
for i in 1 2 3; do echo "$i" > "f$i" & done; wait
cat f1 f2 f3 | sort -r | head -1
cp -a f1 copy; mv copy moved; ln -s f1 link; ln f2 hard; chmod 600 f3; touch -d yesterday f3; ls -la > list
find . -type f | xargs sha256sum > sums; tar cf all.tar f1 f2 f3 moved; mkdir out; tar xf all.tar -C out; gzip all.tar
sed -i s/1/one/ f1; grep -q one f1; awk '{print $1}' f2; stat f1 > s; df . > d; du -s . > u; sync; nice -n 5 true
ulimit -n 64; (trap 'exit 0' TERM; kill -TERM $BASHPID; sleep 5); timeout 5 true; mkfifo p; (echo x > p &) ; cat p
"""

    def played(self, *argv: str) -> tuple[int, str, list[str]]:
        """Exit code, output and denied calls of a program under the default filter."""

        def run():
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return [done.returncode, done.stdout + done.stderr]

        (code, output), denied = under_filter(seccomp.program("default", network=False, notify=True), run)
        return code, output, denied

    def test_python_is_denied_nothing_that_it_needs(self, notified):
        assert self.played(sys.executable, "-c", self.PYTHON) == (0, "fine\n", [])

    def test_a_shell_is_denied_nothing_that_it_needs(self, notified):
        code, output, denied = self.played(shutil.which("bash") or "sh", "-c", self.SHELL)

        assert (code, output.split(), denied) == (0, ["3", "2", "x"], [])


class TestTheListener:
    def test_it_is_told_of_what_is_denied_and_of_nothing_else(self, notified):
        def tried():
            return [
                call("bpf", 0, 0, 0),
                call("clone3", 0, 0),
                call("chmod", b"/nowhere", 0o4755),
                call("socket", 16, 3, 0),
            ]

        found, names = under_filter(seccomp.program("default", network=False, notify=True), tried)

        assert found == ["EPERM", "ENOSYS", "EPERM", "EPERM"]
        assert names == ["bpf", "chmod", "socket"]

    def test_many_waiting_are_answered_one_by_one_and_not_one_gets_through(self, notified):
        processes = 40

        def tried():
            for _ in range(processes):
                if os.fork() == 0:
                    os._exit(3 if call("ptrace", 0, 0, 0, 0) == "EPERM" else 4)
            return sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(processes))

        found, names = under_filter(seccomp.program("default", network=False, notify=True), tried)

        assert found == [3] * processes
        assert names == ["ptrace"] * processes

    def test_nobody_holds_it_any_more_and_calls_fail_at_once(self, notified):
        ours, theirs = socket.socketpair()

        def tried():
            ours.close()
            hand_over(seccomp.program("default", network=False, notify=True), theirs)
            empty = struct.pack("@HP", 1, 0)
            # Not even a listener of its own, which it would answer as it likes, can it get then.
            return [call("ptrace", 0, 0, 0, 0), call("chroot", b"/"), call("seccomp", 1, 8, empty)]

        denied_by_nobody = threading.Thread(target=lambda: taken(ours).close())
        denied_by_nobody.start()
        found = in_child(tried)
        denied_by_nobody.join()
        theirs.close()
        ours.close()

        assert set(found) == {"ENOSYS"}

    def test_who_waits_when_it_is_closed_is_let_go_with_an_error(self, notified):
        ours, theirs = socket.socketpair()
        program = seccomp.program("default", network=False, notify=True)

        def waits():
            ours.close()
            hand_over(program, theirs)
            return call("ptrace", 0, 0, 0, 0)

        def close_when_asked():
            denied = taken(ours)
            select.select([denied], [], [])
            denied.close()
            denied.close()

        closer = threading.Thread(target=close_when_asked)
        closer.start()
        found = in_child(waits)
        closer.join()
        theirs.close()
        ours.close()

        assert found == "ENOSYS"

    def test_who_waits_can_be_killed_and_leaves_no_answer_due(self, notified):
        ours, theirs = socket.socketpair()
        pid = forked()
        if pid == 0:
            ours.close()
            hand_over(seccomp.program("default", network=False, notify=True), theirs)
            kernel.syscall("ptrace", 0, 0, 0, 0)
            os._exit(1)
        theirs.close()
        denied = taken(ours)
        ours.close()
        select.select([denied], [], [])

        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

        poll = select.poll()
        poll.register(denied.fileno(), select.POLLIN)
        assert poll.poll(5000)[0][1] & select.POLLHUP
        assert denied.answer() == ""
        denied.close()

    def test_a_signal_does_not_end_the_wait_for_an_answer(self, notified, monkeypatch, pytestconfig):
        if tuple(map(int, platform.release().split(".")[:2])) < (5, 19):
            miss("seccomp_wait_killable", "Linux 5.19 or later", pytestconfig)
        real = fcntl.ioctl

        def signalled_in_between(fd: int, request: int, data: bytearray | bytes) -> int:
            if isinstance(data, bytes):  # the answer; what was asked has been received by now
                os.kill(caller[0], signal.SIGALRM)
                time.sleep(0.05)
                return real(fd, request, data)
            done = real(fd, request, data)
            caller.append(struct.unpack_from("=QI", data)[1])
            return done

        def tried():
            signal.signal(signal.SIGALRM, lambda *_: None)
            return call("ptrace", 0, 0, 0, 0)

        caller: list[int] = []
        monkeypatch.setattr(fcntl, "ioctl", signalled_in_between)

        assert under_filter(seccomp.program("default", network=False, notify=True), tried) == ("EPERM", ["ptrace"])

    def test_calls_that_signals_end_before_anybody_was_told_do_not_get_through(self, notified):
        def tried():
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            found = [call("ptrace", 0, 0, 0, 0) for _ in range(50)]
            signal.setitimer(signal.ITIMER_REAL, 0)
            return found

        found, names = under_filter(seccomp.program("default", network=False, notify=True), tried)

        assert set(found) <= {"EPERM", "EINTR"}
        assert names.count("ptrace") >= found.count("EPERM") > 0
