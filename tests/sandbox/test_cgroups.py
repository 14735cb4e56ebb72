"""cgroups: real groups of this machine; version 2's controllers, where it has them, and else its files as text."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import miss
from toolpost.sandbox import cgroups, group

MB = 1 << 20
PREFIX = f"toolpost-test-{os.getpid()}"
OWNER = "owner.1"

ALLOCATES = "import sys; x = b'x' * (int(sys.argv[1]) << 20); print(len(x), flush=True); sys.stdin.read()"
FORKS = """
import os, time
refused = 0
for _ in range(30):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        refused += 1
print(refused, flush=True)
time.sleep(60)
"""
BREEDS = """
import os
while True:
    try:
        if os.fork() == 0:
            continue
        os._exit(0)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def places(pytestconfig):
    found = cgroups.find(PREFIX)
    if found is None or "memory" not in found.limits:
        miss("cgroups", "run as root, or in a delegated group (systemd: Delegate=yes, DelegateSubgroup=)", pytestconfig)
    yield found
    found.sweep(lambda owner: False)


@pytest.fixture
def made(places):
    one = places.make(f"{OWNER}-{time.monotonic_ns()}", memory=64 * MB, processes=16, cpus=0.5)
    yield one
    one.remove()


def started(one: group.Group | None, code: str, *argv: str, score: int | None = None) -> subprocess.Popen:
    """A program that begins inside the group."""

    def join() -> None:
        if one is not None:
            one.join(0)
        if score is not None:
            Path("/proc/self/oom_score_adj").write_text(str(score))

    run = [sys.executable, "-ISc", code, *argv]
    return subprocess.Popen(run, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, preexec_fn=join)


def ended(process: subprocess.Popen) -> int:
    process.stdin.close()
    process.stdout.close()
    return process.wait(20)


def left(places: cgroups.Cgroups) -> list[str]:
    """Groups of this test run that exist."""
    bases = set(places.places.values())
    return [name for base in bases for name in os.listdir(base) if name.startswith(PREFIX)]


class TestFinding:
    def test_what_is_found_is_proved_and_nothing_is_left_of_the_proof(self, places):
        assert places.version in (1, 2)
        assert places.limits <= {"memory", "process_count", "cpu"}
        assert not left(places)

    def test_groups_lie_below_this_processs_own_where_they_can(self, places):
        own = cgroups._own_groups()
        name = "memory" if places.version == 1 else ""

        assert places.places["memory"].endswith((own[name].rstrip("/"), os.path.dirname(own[name]).rstrip("/")))

    def test_where_no_group_can_be_made_none_is_found(self, monkeypatch):
        monkeypatch.setattr(cgroups, "_mounts", list)

        assert cgroups.find() is None

    def test_a_place_whose_groups_take_no_process_is_none(self, places, monkeypatch):
        def refuse(self: group.Group, pid: int) -> None:
            raise PermissionError(errno.EACCES, "not permitted")

        monkeypatch.setattr(group.Group, "join", refuse)

        assert cgroups.find(PREFIX) is None
        assert not left(places)

    def test_the_place_with_the_most_limits_is_taken_and_version_2_of_two_equals(self, monkeypatch):
        def place(version: int, *limits: str) -> cgroups.Cgroups:
            return cgroups.Cgroups(version=version, places=dict.fromkeys(limits, "/x"), prefix=PREFIX)

        def found(second: cgroups.Cgroups, first: cgroups.Cgroups) -> int | None:
            monkeypatch.setattr(cgroups, "_version_2", lambda prefix: [second])
            monkeypatch.setattr(cgroups, "_version_1", lambda prefix: [first])
            one = cgroups.find()
            return one and one.version

        monkeypatch.setattr(cgroups.Cgroups, "_proved", lambda self: True)

        assert found(place(2), place(1, "memory")) == 1
        assert found(place(2, "memory"), place(1, "memory", "cpu")) == 1
        assert found(place(2, "memory", "cpu"), place(1, "memory", "cpu")) == 2
        assert found(place(2), place(1, "cpu_time")) is None

    def test_mounts_and_groups_of_containers_are_understood(self):
        whole = cgroups._Mount(kind="cgroup2", root="/", point="/sys/fs/cgroup", controllers=frozenset())
        part = cgroups._Mount(kind="cgroup", root="/docker/abc", point="/sys/fs/cgroup/memory", controllers=frozenset())

        assert whole.places("/") == ["/sys/fs/cgroup"]
        assert whole.places("/a/b") == ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]
        assert part.places("/docker/abc") == ["/sys/fs/cgroup/memory"]
        assert part.places("/docker/abc/x")[0] == "/sys/fs/cgroup/memory/x"
        assert part.places("/docker/other") == ["/sys/fs/cgroup/memory"]


class TestMaking:
    def test_each_limit_is_set_and_said_by_what(self, places, made):
        assert set(made.by) == places.limits
        assert all(f"cgroup v{places.version} " in by for by in made.by.values())
        if places.version == 1:
            memory = made._places["memory"]
            assert group.read(f"{memory}/memory.limit_in_bytes") == str(64 * MB)
            assert group.read(f"{memory}/memory.memsw.limit_in_bytes") in (str(64 * MB), "")
            assert group.read(f"{made._places['cpu']}/cpu.cfs_quota_us") == "50000"
        assert group.read(f"{made._places['process_count']}/pids.max") == "16"

    @pytest.mark.parametrize("broken", ["_limit_memory", "_limit_processes", "_limit_cpu"])
    def test_a_limit_that_cannot_be_set_leaves_nothing_and_is_an_error(self, places, monkeypatch, broken):
        def refuse(self: group.Group) -> str:
            group.write(f"{self.folders[0]}/no.such.file", 1)
            return "never"

        kind = group.Version1 if places.version == 1 else group.Version2
        monkeypatch.setattr(kind, broken, refuse)

        with pytest.raises(OSError, match=r"control group: .*no\.such\.file = 1: "):
            places.make(f"{OWNER}-broken", memory=64 * MB, processes=16, cpus=0.5)
        assert not left(places)

    def test_a_name_without_an_owner_is_refused(self, places):
        for name in ("x", "a/b-1", "../x-1", "-", "a-"):
            with pytest.raises(ValueError, match="name"):
                places.make(name, memory=64 * MB, processes=16, cpus=0.5)

    def test_two_of_one_name_are_refused(self, places, made):
        name = made.name.removeprefix(f"{PREFIX}.")
        with pytest.raises(FileExistsError):
            places.make(name, memory=64 * MB, processes=16, cpus=0.5)


class TestHolding:
    def test_memory_is_held_and_the_kill_is_counted(self, made):
        process = started(made, ALLOCATES, "200", score=1000)

        assert ended(process) == -signal.SIGKILL
        used = made.used()
        assert used.oom_kills >= 1
        assert used.peak is None or 48 * MB < used.peak <= 64 * MB

    def test_memory_within_the_limit_is_counted(self, made):
        process = started(made, ALLOCATES, "30")
        assert process.stdout.readline() == f"{30 * MB}\n"

        used = made.used()

        assert ended(process) == 0
        assert used.oom_kills == 0
        assert used.peak is None or 30 * MB < used.peak < 64 * MB

    def test_the_tighter_limit_holds_until_the_reset(self, made):
        made.limit_memory(20 * MB)
        assert ended(started(made, ALLOCATES, "30", score=1000)) == -signal.SIGKILL

        made.reset()

        process = started(made, ALLOCATES, "30")
        assert process.stdout.readline()
        assert ended(process) == 0
        assert made.used().oom_kills == 0

    def test_processes_are_held_and_refusals_are_counted(self, made):
        process = started(made, FORKS)

        assert int(process.stdout.readline()) == 15
        assert made.used().processes_refused == 15
        made.kill()
        assert ended(process) == -signal.SIGKILL

    def test_processor_time_is_counted(self, made):
        process = started(made, "import time\nwhile time.process_time() < 0.2: pass\nprint()")
        process.stdout.readline()
        ended(process)

        cpu_s = made.used().cpu_s

        assert cpu_s is None or 0.15 <= cpu_s < 2  # two clocks of the kernel, one of which may count in ticks

    def test_a_process_is_put_in_from_outside_with_its_later_children(self, made):
        process = started(None, "import os, sys; sys.stdin.readline(); os.fork(); sys.stdin.read()")

        made.join(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        end = time.monotonic() + 10
        while len(group.members(made.folders)) < 2 and time.monotonic() < end:
            time.sleep(0.01)

        assert len(group.members(made.folders)) == 2
        ended(process)

    def test_joining_with_no_such_process_is_an_error(self, made):
        with pytest.raises(OSError, match=r"cgroup\.procs = 536870912"):
            made.join(1 << 29)


class TestUsingAgain:
    def test_a_reset_counts_from_nought(self, made):
        assert ended(started(made, ALLOCATES, "200", score=1000)) == -signal.SIGKILL
        before = made.used()

        made.reset()

        used = made.used()
        assert used.oom_kills == used.processes_refused == 0
        assert used.cpu_s in (None, 0.0)
        assert used.peak is None or used.peak < 8 * MB < before.peak

    def test_a_group_with_processes_is_not_used_again(self, made):
        process = started(made, ALLOCATES, "1")
        process.stdout.readline()

        with pytest.raises(OSError, match=rf"processes \{{{process.pid}\}} are in it"):
            made.reset()
        ended(process)

    def test_a_group_in_which_memory_stays_charged_is_not_used_again(self, made):
        if made.version != 1:
            pytest.skip("version 2 makes a new group for every use")
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            writes = f"open('/proc/{os.getpid()}/fd/{file.fileno()}', 'wb').write(bytes(10 << 20))"
            assert ended(started(made, writes)) == 0

            with pytest.raises(OSError, match="stay charged"):
                made.reset()
        made.reset()

    def test_its_limits_hold_after_it_was_killed_empty(self, made):
        process = started(made, ALLOCATES, "1")
        process.stdout.readline()
        made.kill()
        ended(process)

        made.reset()

        assert group.read(f"{made._places['process_count']}/pids.max") == "16"
        assert ended(started(made, "pass")) == 0

    def test_what_is_held_open_is_read_where_no_path_leads_to_it(self, made):
        made.hold()
        process = started(made, ALLOCATES, "5")
        process.stdout.readline()
        peak = made.used().peak

        # As in a root of its own: the names say nothing any more.
        hidden = {folder: f"/nowhere{folder}" for folder in made.folders}
        made._places = {what: hidden[folder] for what, folder in made._places.items()}
        made._held = {hidden[folder]: fd for folder, fd in made._held.items()}

        assert made.used().peak == peak
        ended(process)

    def test_a_file_that_is_kept_open_tells_each_time_what_is_so_then(self, made, monkeypatch):
        made.hold()
        made.keep_open()
        assert made.used().peak < 20 * MB
        process = started(made, ALLOCATES, "30")
        process.stdout.readline()
        monkeypatch.setattr(group, "read", lambda *_: pytest.fail("a file was opened anew"))

        assert made.used().peak >= 30 * MB
        monkeypatch.undo()
        ended(process)


class TestKilling:
    @pytest.mark.parametrize("by_hand", [False, True])
    def test_all_are_killed_those_being_started_too(self, made, monkeypatch, by_hand):
        if by_hand:
            real = group.write

            def without_kill(path: str, value: int | str) -> None:
                if path.endswith("cgroup.kill"):
                    raise FileNotFoundError(errno.ENOENT, path)
                real(path, value)

            # As before Linux 5.14, and in version 1.
            monkeypatch.setattr(group, "write", without_kill)
        processes = [started(made, BREEDS) for _ in range(3)]
        time.sleep(0.05)

        made.kill()

        assert not group.members(made.folders)
        for process in processes:
            ended(process)

    def test_nothing_is_started_while_it_kills(self, made, monkeypatch):
        real, limits = group._kill_once, []

        def watched(folders: list[str]) -> bool:
            limits.append(group.read(f"{made._places['process_count']}/pids.max"))
            return real(folders)

        monkeypatch.setattr(group, "_kill_once", watched)

        made.kill()

        assert limits == ["0"]

    def test_removing_kills_and_leaves_no_folder(self, places):
        one = places.make(f"{OWNER}-gone", memory=64 * MB, processes=16, cpus=0.5)
        process = started(one, ALLOCATES, "1")
        process.stdout.readline()

        assert one.remove()

        assert not any(map(os.path.exists, one.folders))
        assert ended(process) == -signal.SIGKILL
        assert one.remove()

    def test_reaping_needs_the_folders_alone(self, places):
        one = places.make(f"{OWNER}-reaped", memory=64 * MB, processes=16, cpus=0.5)
        process = started(one, BREEDS)

        assert cgroups.reap([*one.folders, "/sys/fs/cgroup/no/such/folder"])

        assert not any(map(os.path.exists, one.folders))
        ended(process)

    def test_a_number_that_went_to_another_process_is_not_killed(self, made, monkeypatch):
        stranger = subprocess.Popen(["sleep", "60"])
        # The group's list is read, then opened by number, then read again: the stranger is in the first one only.
        group._kill_members(made.folders[0], [stranger.pid])

        stranger.terminate()
        assert stranger.wait() == -signal.SIGTERM


class TestSweeping:
    def test_groups_of_the_dead_go_and_those_of_the_living_stay(self, places):
        names = [f"alive-1-{n}" for n in range(2)] + [f"dead-1-{n}" for n in range(2)]
        groups = {name: places.make(name, memory=64 * MB, processes=16, cpus=0.5) for name in names}
        process = started(groups["dead-1-0"], ALLOCATES, "1")
        process.stdout.readline()
        asked = set()

        def is_alive(owner: str) -> bool:
            asked.add(owner)
            return owner == "alive-1"

        assert sorted(places.sweep(is_alive)) == ["dead-1-0", "dead-1-1"]
        assert asked == {"alive-1", "dead-1"}
        assert ended(process) == -signal.SIGKILL
        assert {name for name, one in groups.items() if os.path.exists(one.folders[0])} == {"alive-1-0", "alive-1-1"}
        assert sorted(places.sweep(lambda owner: False)) == ["alive-1-0", "alive-1-1"]
        assert not left(places)

    def test_half_of_a_group_goes_too(self, places):
        one = places.make("dead.2-0", memory=64 * MB, processes=16, cpus=0.5)
        os.rmdir(one.folders[0])

        places.sweep(lambda owner: False)

        assert not any(map(os.path.exists, one.folders))

    def test_a_proof_that_is_going_on_stays_and_a_dead_ones_goes(self, places):
        dead = subprocess.Popen(["true"])
        dead.wait()
        mine = places.make(f"probe.{os.getpid()}-1", memory=64 * MB, processes=16, cpus=0.5)
        other = places.make(f"probe.{dead.pid}-1", memory=64 * MB, processes=16, cpus=0.5)

        places.sweep(lambda owner: False)

        assert os.path.exists(mine.folders[0])
        assert not os.path.exists(other.folders[0])
        assert mine.remove()


class TestVersion1:
    def test_without_swap_accounting_nothing_is_swapped_out(self, tmp_path):
        """A kernel without it cannot be had here: its files as plain ones."""
        folder = tmp_path / "v1.o-1"
        folder.mkdir()
        for name in ("memory.limit_in_bytes", "memory.swappiness"):
            (folder / name).write_text("")
        one = group.Version1("v1.o-1", {"memory": str(tmp_path)}, group.Limits(memory=MB, processes=1, cpus=1))

        assert one._limit_memory() == "cgroup v1 memory.limit_in_bytes"
        assert (folder / "memory.limit_in_bytes").read_text() == str(MB)
        assert (folder / "memory.swappiness").read_text() == "0"

    def test_without_swap_accounting_and_with_swapping_there_is_no_limit(self, tmp_path):
        (tmp_path / "v1.o-1").mkdir()
        (tmp_path / "v1.o-1/memory.limit_in_bytes").write_text("")
        one = group.Version1("v1.o-1", {"memory": str(tmp_path)}, group.Limits(memory=MB, processes=1, cpus=1))

        with pytest.raises(FileNotFoundError, match=r"memory\.swappiness = 0"):
            one._limit_memory()


class TestVersion2:
    """What needs no controllers is done in the real hierarchy; the rest is text in a folder, as a stand-in for one."""

    @pytest.fixture
    def real(self, pytestconfig):
        mount = next((one for one in cgroups._mounts() if one.kind == "cgroup2"), None)
        if mount is None or not os.access(mount.point, os.W_OK):
            miss("cgroup2", "a writable cgroup2 hierarchy", pytestconfig)
        one = group.Version2(f"{PREFIX}.v2-1", {"files": mount.point}, group.Limits(memory=MB, processes=1, cpus=1))
        one.make()
        yield one
        one.remove()

    @pytest.fixture
    def text(self, tmp_path, monkeypatch):
        """A group whose files are plain ones, as the kernel would make them."""
        real = os.mkdir
        files = {
            "memory.max": "max",
            "memory.swap.max": "max",
            "memory.peak": "1048576",
            "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1",
            "pids.max": "max",
            "pids.events": "max 3",
            "cpu.max": "max 100000",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1",
            "cgroup.procs": "",
        }

        def mkdir(path: str, mode: int = 0o777) -> None:
            real(path, mode)
            for name, content in files.items():
                Path(path, name).write_text(content)

        monkeypatch.setattr(os, "mkdir", mkdir)
        places = dict.fromkeys(("memory", "process_count", "cpu"), str(tmp_path))
        return cgroups.Cgroups(version=2, places=places, prefix="t"), tmp_path

    def test_processes_are_put_in_killed_and_the_group_is_removed(self, real):
        process = started(real, BREEDS)
        while not group.members(real.folders):
            time.sleep(0.001)

        real.kill()

        assert not group.members(real.folders)
        assert real.remove()
        assert not os.path.exists(real.folders[0])
        ended(process)

    def test_processor_time_is_counted_without_a_controller(self, real):
        assert ended(started(real, "sum(range(10**6))")) == 0

        assert real.used().cpu_s > 0

    def test_a_reset_makes_it_anew(self, real):
        assert ended(started(real, "sum(range(10**6))")) == 0
        real.reset()

        assert real.used().cpu_s == 0

    def test_limits_are_written_as_version_2_wants_them(self, text):
        places, folder = text

        one = places.make("o-1", memory=64 * MB, processes=16, cpus=0.25)

        assert (folder / "t.o-1/memory.max").read_text() == str(64 * MB)
        assert (folder / "t.o-1/memory.swap.max").read_text() == "0ax"  # a plain file is not cut when written to
        assert (folder / "t.o-1/pids.max").read_text() == "16x"
        assert (folder / "t.o-1/cpu.max").read_text().startswith("25000 100000")
        assert one.by == {
            "memory": "cgroup v2 memory.max",
            "process_count": "cgroup v2 pids.max",
            "cpu": "cgroup v2 cpu.max",
        }

    def test_what_it_counted_is_read(self, text):
        places, _ = text
        one = places.make("o-1", memory=64 * MB, processes=16, cpus=0.25)

        assert one.used() == cgroups.Used(peak=MB, cpu_s=2.5, oom_kills=1, processes_refused=3)

    def test_swap_that_cannot_be_limited_is_an_error_where_there_is_swap(self, text, monkeypatch):
        places, folder = text
        one = places.make("o-1", memory=64 * MB, processes=16, cpus=0.25)
        (folder / "t.o-1/memory.swap.max").unlink()
        read = group.read

        one.limit_memory(32 * MB)
        monkeypatch.setattr(group, "read", lambda path, at=None: "a\nb" if path == "/proc/swaps" else read(path, at))

        with pytest.raises(FileNotFoundError, match=r"memory\.swap\.max = 0"):
            one.limit_memory(16 * MB)

    def test_controllers_are_asked_for_only_where_they_are(self, tmp_path):
        (tmp_path / "cgroup.controllers").write_text("cpuset memory pids hugetlb\n")
        (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")

        assert cgroups._enabled(str(tmp_path)) == {"memory", "pids"}

    def test_a_group_that_may_limit_no_children_is_passed_over(self, tmp_path):
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
        (tmp_path / "cgroup.subtree_control").mkdir()  # as EBUSY: it cannot be written to

        assert cgroups._enabled(str(tmp_path)) == set()
