"""Landlock: what it forbids by itself, tried in processes that nothing else confines."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import miss
from tests.sandbox.children import errno_of, in_child
from toolpost.sandbox import kernel, landlock

# What an interpreter needs to go on; the rest of each test is about what is not here.
SYSTEM = [
    path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc", sys.base_prefix, sys.prefix) if os.path.exists(path)
]


@pytest.fixture
def version(pytestconfig) -> int:
    if not landlock.abi():
        miss("landlock", "Linux 5.13 or later with 'landlock' in its lsm= list", pytestconfig)
    return landlock.abi()


def since(version: int, wanted: int, pytestconfig: pytest.Config) -> None:
    if version < wanted:
        miss(
            f"landlock_{wanted}",
            f"a kernel with version {wanted} of Landlock's ABI, this one has {version}",
            pytestconfig,
        )


def confined(body, *, read=(), write=(), devices=("/dev/null",), tcp=False, connect=()):
    """body, in a child that may use the system's programs and what is said."""

    def run():
        kernel.no_new_privileges()
        landlock.restrict(
            read_execute=SYSTEM,
            read=[str(path) for path in read],
            write=[str(path) for path in write],
            devices=devices,
            tcp=tcp,
            connect=connect,
        )
        return body()

    return in_child(run)


def opened(path: Path | str, flags: int = os.O_RDONLY) -> str:
    return errno_of(lambda: os.close(os.open(path, flags)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """One to read, one to write, one that nobody said anything of; each with a file that is called file."""
    made = tuple(tmp_path / name for name in ("read", "write", "other"))
    for folder in made:
        folder.mkdir()
        (folder / "file").write_text("x")
        (folder / "file").chmod(0o755)
    return made


class TestFiles:
    def test_each_path_gives_what_it_was_named_for(self, version, folders):
        read, write, _ = folders

        def tried():
            return [
                [
                    opened(folder / "file"),
                    opened(folder / "file", os.O_WRONLY),
                    errno_of(lambda path=folder: os.listdir(path)),
                ]
                for folder in folders
            ]

        assert confined(tried, read=[read], write=[write]) == [
            ["", "EACCES", ""],
            ["", "", ""],
            ["EACCES", "EACCES", "EACCES"],
        ]

    def test_files_are_made_and_removed_only_where_one_may_write(self, version, folders):
        read, write, _ = folders

        def tried():
            found = []
            for folder in folders:
                found.append(
                    [
                        errno_of(lambda path=folder: os.mkdir(path / "folder")),
                        errno_of(lambda path=folder: os.symlink("x", path / "link")),
                        errno_of(lambda path=folder: os.mkfifo(path / "fifo")),
                        opened(folder / "new", os.O_CREAT | os.O_WRONLY),
                        errno_of(lambda path=folder: os.unlink(path / "file")),
                    ]
                )
            return found

        assert confined(tried, read=[read], write=[write]) == [["EACCES"] * 5, [""] * 5, ["EACCES"] * 5]

    def test_what_may_be_written_may_not_be_executed(self, version, folders):
        _, write, _ = folders
        (write / "file").write_text("#!/bin/sh\nexit 7\n")

        def tried():
            ran = subprocess.run(["/bin/sh", "-c", "exit 6"], check=False).returncode
            return [ran, errno_of(lambda: subprocess.run([str(write / "file")], check=False))]

        assert confined(tried, write=[write]) == [6, "EACCES"]

    def test_no_device_is_made_and_only_those_named_are_opened(self, version, folders):
        _, write, _ = folders

        def tried():
            return [
                errno_of(lambda: os.mknod(write / "device", 0o20666, os.makedev(1, 3))),
                opened("/dev/null", os.O_RDWR),
                opened("/dev/zero"),
            ]

        found = confined(tried, write=[write])

        assert found[0] in ("EACCES", "EPERM")
        assert found[1:] == ["", "EACCES"]

    def test_a_file_of_another_folder_is_not_linked_into_ones_own(self, version, folders):
        read, write, other = folders

        def tried():
            return [errno_of(lambda path=path: os.link(path / "file", write / path.name)) for path in (read, other)]

        assert set(confined(tried, read=[read], write=[write])) <= {"EACCES", "EXDEV"}

    def test_files_move_between_folders_that_one_may_write(self, version, folders, pytestconfig):
        since(version, 2, pytestconfig)
        _, write, other = folders

        confined(lambda: os.rename(write / "file", other / "moved"), write=[write, other])

        assert (other / "moved").exists()

    def test_a_file_is_not_cut_where_one_may_only_read(self, version, folders, pytestconfig):
        since(version, 3, pytestconfig)
        read, write, _ = folders

        def tried():
            return [errno_of(lambda path=path: os.truncate(path / "file", 0)) for path in (read, write)]

        assert confined(tried, read=[read], write=[write]) == ["EACCES", ""]

    def test_a_device_that_is_only_read_takes_no_ioctl(self, version, pytestconfig):
        since(version, 5, pytestconfig)

        def tried():
            with open("/dev/ptmx" if os.path.exists("/dev/ptmx") else "/dev/tty", "rb", buffering=0) as device:
                return errno_of(lambda: fcntl.ioctl(device, 0x80045430, bytes(4)))  # TIOCGPTN

        if not os.path.exists("/dev/ptmx"):
            miss("ptmx", "a /dev with pseudo-terminals", pytestconfig)
        assert confined(tried, read=["/dev/ptmx"]) == "EACCES"
        assert confined(tried, devices=["/dev/ptmx"]) == ""

    def test_a_path_that_does_not_exist_is_passed_over(self, version, folders):
        read, _, _ = folders

        assert confined(lambda: opened(read / "file"), read=[read, "/no/such/path"]) == ""

    def test_what_may_be_looked_at_is_listed_and_not_read(self, version, folders):
        read, _, other = folders

        def tried():
            kernel.no_new_privileges()
            landlock.restrict(read_execute=[], read=[], write=[], devices=[], look=[str(read), str(other / "file")])
            return [os.listdir(read), opened(read / "file"), opened(other / "file")]

        assert in_child(tried) == [["file"], "EACCES", "EACCES"]

    def test_what_was_named_is_still_held_after_an_exec_and_in_children(self, version, folders):
        _, _, other = folders

        def tried():
            return subprocess.run(["cat", str(other / "file")], capture_output=True, check=False).returncode

        assert confined(tried) == 1

    def test_a_second_layer_takes_away_and_gives_nothing(self, version, folders):
        read, _, other = folders

        def tried():
            landlock.restrict(read_execute=[], read=[str(other)], write=[], devices=[])
            return [opened(read / "file"), opened(other / "file")]

        assert confined(tried, read=[read]) == ["EACCES", "EACCES"]


class TestBeyondFiles:
    def test_no_tcp_port_is_bound_or_connected_to(self, version, pytestconfig):
        since(version, 4, pytestconfig)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def tried():
                def bind() -> None:
                    with socket.socket() as one:
                        one.bind(("127.0.0.1", 0))

                def connect() -> None:
                    with socket.socket() as one:
                        one.connect(("127.0.0.1", port))

                return [errno_of(bind), errno_of(connect)]

            assert confined(tried) == ["EACCES", "EACCES"]
            assert confined(tried, tcp=True) == ["", ""]
            assert confined(tried, connect=[port]) == ["EACCES", ""]
            assert confined(tried, connect=[port + 1 if port < 65535 else 1]) == ["EACCES", "EACCES"]

    def test_no_abstract_socket_of_others_is_reached(self, version, pytestconfig):
        since(version, 6, pytestconfig)
        name = f"\0toolpost-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            server.listen()

            def tried():
                with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as own:
                    found = errno_of(lambda: one.connect(name))
                    own.bind(name + "-own")
                    own.listen()
                    return [found, errno_of(lambda: one.connect(name + "-own"))]

            assert confined(tried) == ["EPERM", ""]

    def test_no_signal_reaches_others(self, version, pytestconfig):
        since(version, 6, pytestconfig)

        def tried():
            child = subprocess.Popen(["sleep", "60"])
            child.kill()
            return [errno_of(lambda: os.kill(os.getppid(), 0)), child.wait()]

        assert confined(tried) == ["EPERM", -signal.SIGKILL]


class TestVersions:
    def test_each_handles_what_it_knows(self):
        found = {version: landlock.handled(version) for version in range(1, 8)}

        assert [one.files.bit_count() for one in found.values()] == [13, 14, 15, 15, 16, 16, 16]
        assert [one.tcp for one in found.values()] == [0, 0, 0, 3, 3, 3, 3]
        assert [one.scoped for one in found.values()] == [0, 0, 0, 0, 0, 3, 3]
        assert landlock.handled(7, tcp=True).tcp == 0

    @pytest.mark.parametrize("pretended", range(1, 8))
    def test_a_ruleset_of_each_version_is_taken_by_this_kernel(self, version, pretended, folders, monkeypatch):
        if pretended > version:
            return
        # Older kernels cannot be had here; what is asked of them is a part of what this one knows.
        monkeypatch.setattr(landlock, "abi", lambda: pretended)
        read, _, other = folders

        assert confined(lambda: [opened(read / "file"), opened(other / "file")], read=[read]) == ["", "EACCES"]

    def test_without_landlock_its_version_is_0_and_restricting_is_an_error(self, monkeypatch):
        # A kernel without it cannot be had here.
        monkeypatch.delitem(kernel.NUMBERS, "landlock_create_ruleset")

        assert landlock.abi() == 0
        with pytest.raises(OSError, match="landlock_create_ruleset") as caught:
            landlock.restrict(read_execute=[], read=[], write=[], devices=[])
        assert caught.value.errno == errno.ENOSYS
