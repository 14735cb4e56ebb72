"""kernel: every call does what it says, in processes that are thrown away."""

import errno
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import miss
from tests.sandbox.children import errno_of, in_child, needs_user_namespaces
from toolpost.sandbox import kernel, syscall_table

HEADERS = {
    "x86_64": ("asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)$"),
    "aarch64": ("asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)$"),
}
# How the generic header calls what 64-bit kernels know by another name, and what none of them has.
OTHERWISE = {"fstatat": "newfstatat", "sync_file_range2": "", "arch_specific_syscall": "", "syscalls": ""}
ALONE = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS


@pytest.fixture
def namespaces(pytestconfig):
    needs_user_namespaces(pytestconfig)


def private_mounts() -> None:
    """Nothing that is mounted from here on is seen outside."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


class TestTheTable:
    @pytest.mark.parametrize("machine", HEADERS)
    def test_numbers_are_those_of_the_kernels_headers(self, machine, pytestconfig):
        name, pattern = HEADERS[machine]
        folders = [Path("/usr/include"), Path(f"/usr/include/{machine}-linux-gnu")]
        header = next((folder / name for folder in folders if (folder / name).exists()), None)
        if header is None:
            miss("kernel_headers", "install the package linux-libc-dev", pytestconfig)

        found = {}
        for line in header.read_text().splitlines():
            if match := re.match(pattern, line):
                found[OTHERWISE.get(match[1], match[1])] = int(match[2])
        found.pop("", None)
        if machine == "aarch64":
            # 32-bit machines have calls of their own for 64-bit times.
            found = {call: number for call, number in found.items() if not 403 <= number < 424}

        table = syscall_table.numbers(machine)
        newest = max(found.values())
        assert {call: number for call, number in table.items() if number <= newest} == found | (
            {call: number for call, number in table.items() if number in (335, 336)} if machine == "x86_64" else {}
        )

    def test_no_two_names_share_a_number(self):
        for machine in HEADERS:
            table = syscall_table.numbers(machine)
            assert len(set(table.values())) == len(table)

    def test_a_machine_that_is_not_known_has_none(self):
        assert syscall_table.numbers("riscv64") == {}


class TestErrors:
    def test_an_error_names_the_call_and_what_it_was_about(self):
        with pytest.raises(FileNotFoundError, match=r"openat2 'nothing here': No such file"):
            kernel.openat2(-100, "nothing here", os.O_RDONLY, resolve=0)

    def test_a_call_that_the_architecture_lacks_is_absent(self):
        with pytest.raises(OSError, match="sideways") as caught:
            kernel.syscall("sideways")
        assert caught.value.errno == errno.ENOSYS

    def test_numbers_are_passed_whole(self, tmp_path):
        with open(tmp_path / "file", "wb") as file:
            assert kernel.syscall("lseek", file.fileno(), 1 << 33, os.SEEK_SET) == 1 << 33

    def test_a_mount_names_its_target(self):
        with pytest.raises(OSError, match=r"mount tmpfs on /nothing/here"):
            kernel.mount("x", "/nothing/here", "tmpfs")


class TestNamespaces:
    def test_the_child_of_a_clone_is_pid_1_of_its_own(self, namespaces):
        assert in_child(os.getpid, flags=ALONE | kernel.CLONE_NEWPID) == 1

    def test_a_clone_without_flags_is_a_fork(self):
        def body():
            pid = kernel.clone(0)
            if pid == 0:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert in_child(body) == 7

    def test_the_child_of_a_clone_draws_other_random_numbers(self):
        import random

        assert in_child(random.random) != in_child(random.random)

    def test_a_clone_that_is_refused_leaves_the_parent_whole(self):
        with pytest.raises(OSError, match="clone 0x"):
            kernel.clone(kernel.CLONE_NEWNS | 0x200)  # CLONE_FS, which do not go together
        assert in_child(lambda: 1) == 1

    def test_unshare_leaves_a_namespace(self, namespaces):
        def hostname():
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWUTS)
            kernel.syscall("sethostname", b"inside", 6)
            return os.uname().nodename

        assert in_child(hostname) == "inside"
        assert os.uname().nodename != "inside"

    def test_setns_goes_back(self, namespaces):
        def back():
            held = os.open("/proc/self/ns/uts", os.O_RDONLY)
            kernel.unshare(kernel.CLONE_NEWUTS)
            there = os.readlink("/proc/self/ns/uts")
            kernel.setns(held, kernel.CLONE_NEWUTS)
            return there != os.readlink("/proc/self/ns/uts") == os.readlink(f"/proc/self/fd/{held}")

        assert in_child(back, flags=ALONE | kernel.CLONE_NEWUTS)

    def test_setns_of_another_kind_is_refused(self):
        held = os.open("/proc/self/ns/uts", os.O_RDONLY)
        with pytest.raises(OSError, match="setns"):
            kernel.setns(held, kernel.CLONE_NEWNET)
        os.close(held)


class TestMounts:
    def test_a_mount_has_its_options(self, namespaces, tmp_path):
        def mounted():
            private_mounts()
            kernel.mount("mine", str(tmp_path), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,mode=0700")
            found = os.statvfs(tmp_path)
            return [
                found.f_blocks * found.f_frsize,
                bool(found.f_flag & os.ST_NOSUID),
                os.stat(tmp_path).st_mode & 0o777,
            ]

        assert in_child(mounted, flags=ALONE) == [65536, True, 0o700]
        assert not os.path.ismount(tmp_path)

    def test_umount_takes_it_away(self, namespaces, tmp_path):
        def gone():
            private_mounts()
            kernel.mount("mine", str(tmp_path), "tmpfs")
            held = os.open(tmp_path, os.O_RDONLY)
            kernel.umount(str(tmp_path))
            os.close(held)
            return os.path.ismount(tmp_path)

        assert in_child(gone, flags=ALONE) is False

    @pytest.mark.parametrize("old_kernel", [False, True])
    def test_a_bind_is_read_only_with_all_below_it(self, namespaces, tmp_path, monkeypatch, old_kernel):
        source, target = tmp_path / "source", tmp_path / "target"
        (source / "below it").mkdir(parents=True)
        target.mkdir()
        if old_kernel:
            # What Linux before 5.12 does; it cannot be had here.
            monkeypatch.delitem(kernel.NUMBERS, "mount_setattr")

        def written():
            private_mounts()
            kernel.mount("mine", f"{source}/below it", "tmpfs")
            kernel.bind(str(source), str(target), noexec=True)
            flags = os.statvfs(target / "below it").f_flag
            where = [target / "x", target / "below it" / "x", source / "below it" / "x"]
            return [errno_of(lambda path=path: path.touch()) for path in where] + [
                bool(flags & flag) for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC)
            ]

        assert in_child(written, flags=ALONE) == ["EROFS", "EROFS", "", True, True, True]

    def test_a_bind_can_be_written_to_when_asked(self, namespaces, tmp_path):
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        target.mkdir()

        def write():
            private_mounts()
            kernel.bind(str(source), str(target), readonly=False)
            (target / "x").touch()

        in_child(write, flags=ALONE)

        assert (source / "x").exists()

    def test_a_device_is_shown_only_without_nodev(self, namespaces, tmp_path):
        shown, hidden = tmp_path / "shown", tmp_path / "hidden"
        shown.touch()
        hidden.touch()

        def opened():
            private_mounts()
            kernel.bind("/dev/null", str(shown), nodev=False)
            kernel.bind("/dev/null", str(hidden))
            return [errno_of(lambda path=path: os.close(os.open(path, os.O_RDWR))) for path in (shown, hidden)]

        # Read-only holds for files, not for what devices do.
        assert in_child(opened, flags=ALONE) == ["", "EACCES"]

    def test_pivot_root_shows_the_new_root_alone(self, namespaces, tmp_path):
        def root():
            private_mounts()
            kernel.mount("root", str(tmp_path), "tmpfs")
            (tmp_path / "only this").touch()
            os.chdir(tmp_path)
            kernel.pivot_root(".", ".")
            kernel.umount(".")
            os.chdir("/")
            return os.listdir("/")

        assert in_child(root, flags=ALONE) == ["only this"]


class TestDescriptors:
    @pytest.mark.parametrize("old_kernel", [False, True])
    def test_only_those_named_stay_open(self, monkeypatch, old_kernel):
        if old_kernel:
            # What Linux before 5.9 does; it cannot be had here.
            monkeypatch.delitem(kernel.NUMBERS, "close_range")

        def left():
            kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)][::2]
            open_before = set(map(int, os.listdir("/proc/self/fd")))
            pipes = {fd for fd in open_before if stat.S_ISFIFO(_mode(fd))}
            kernel.close_all_but([*kept, *pipes])
            now = {fd for fd in open_before if _mode(fd)}
            return sorted(now - pipes) == kept

        assert in_child(left)

    @pytest.mark.parametrize("absent", [False, True])
    def test_openat2_stays_beneath(self, tmp_path, absent, monkeypatch):
        if absent:
            there = kernel.syscall

            def missing(name, *arguments, about=""):
                if name == "openat2":
                    raise OSError(errno.ENOSYS, "no such call")
                return there(name, *arguments, about=about)

            monkeypatch.setattr(kernel, "syscall", missing)
        (tmp_path / "out").symlink_to("/etc")
        (tmp_path / "link").symlink_to("file")
        (tmp_path / "file").write_text("x")
        folder = os.open(tmp_path, os.O_RDONLY)
        beneath = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS

        fd = kernel.openat2(folder, b"file", os.O_RDONLY, resolve=beneath)

        assert os.read(fd, 9) == b"x"
        assert not os.get_inheritable(fd)
        for path in ("out/passwd", "out", "link", "../x", "/etc/passwd"):
            for how in (os.O_RDONLY, os.O_PATH):
                assert errno_of(lambda path=path, how=how: kernel.openat2(folder, path, how, resolve=beneath)), path
        one_device = beneath | kernel.RESOLVE_NO_XDEV
        root = os.open("/", os.O_PATH)
        assert errno_of(lambda: kernel.openat2(root, "proc/version", os.O_RDONLY, resolve=one_device)) == "EXDEV"
        os.close(root)
        os.close(fd)
        os.close(folder)

    def test_a_pidfd_kills_its_process_and_no_other(self):
        process = subprocess.Popen(["sleep", "60"])
        fd = kernel.pidfd_open(process.pid)

        assert kernel.pidfd_kill(fd)
        assert process.wait() == -signal.SIGKILL
        assert not kernel.pidfd_kill(fd)
        os.close(fd)

    def test_a_pidfd_of_no_process_is_an_error(self):
        with pytest.raises(OSError, match="pidfd_open"):
            kernel.pidfd_open(1 << 29)


class TestPrivileges:
    def test_no_capability_is_left_and_none_comes_back_on_exec(self, namespaces):
        def dropped():
            kernel.drop_capabilities()
            kernel.no_new_privileges()
            status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
            return [list(kernel.getcaps()), re.findall(r"^(Cap\w+|NoNewPrivs):\s*(\w+)", status, re.M)]

        caps, status = in_child(dropped, flags=ALONE)

        assert caps == [0, 0, 0, 0]
        assert {name: int(value, 16) for name, value in status} == {
            "CapInh": 0,
            "CapPrm": 0,
            "CapEff": 0,
            "CapBnd": 0,
            "CapAmb": 0,
            "NoNewPrivs": 1,
        }

    def test_what_was_dropped_cannot_be_used(self, namespaces, tmp_path):
        def tried():
            private_mounts()
            kernel.drop_capabilities()
            return errno_of(lambda: kernel.mount("x", str(tmp_path), "tmpfs"))

        assert in_child(tried, flags=ALONE) == "EPERM"

    def test_dropping_twice_is_fine(self):
        def twice():
            kernel.drop_capabilities()
            kernel.drop_capabilities()
            return kernel.getcaps().effective

        assert in_child(twice) == 0

    def test_a_process_can_be_made_not_dumpable_and_back(self):
        def dumpable():
            found = []
            for make in (kernel.not_dumpable, kernel.dumpable):
                make()
                found.append(kernel.syscall("prctl", 3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
            return found

        assert in_child(dumpable) == [0, 1]

    def test_a_process_dies_with_its_parent(self):
        read, write = os.pipe()

        def parent():
            child = kernel.clone(0)
            if child == 0:
                kernel.death_signal(signal.SIGKILL)
                os.write(write, b"r")
                time.sleep(60)
                os._exit(0)
            assert os.read(read, 1) == b"r"
            return child

        in_child(parent)
        os.close(write)

        # The child held the last other end of the pipe.
        assert os.read(read, 1) == b""
        os.close(read)


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0
