"""The native back end beyond the contract: attribution, crashes, many at once, leaks, refusals, sessions."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolpost.calls.errors import ConfigurationError, SandboxError
from toolpost.sandbox import box, link as links, native, reaper, template
from toolpost.sandbox.backend import Cancel, Job
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.profile import MB, Control, Sandbox, SandboxLimits, SandboxMount

PROFILE = Sandbox(
    limits=SandboxLimits(
        wall_s=20.0, cpu_s=10.0, memory_bytes=192 * MB, disk_bytes=16 * MB, inodes=500, file_bytes=8 * MB, processes=40
    )
)
PATIENCE_S = 20.0
SLEEPS = Job(argv=("sleep", "1000"), limits=PROFILE.limits)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBackend]:
    made = NativeBackend(PROFILE, tmp_path_factory.mktemp("native"), 2)
    made.start()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., NativeBackend]]:
    made: list[NativeBackend] = []

    def one(profile: Sandbox = PROFILE, warm: int = 1, root: Path = tmp_path / "run") -> NativeBackend:
        made.append(NativeBackend(profile, root, warm))
        return made[-1]

    yield one
    for backend in made:
        backend.close()


def python(backend: NativeBackend, code: str, **limits: float) -> SandboxResult:
    return backend.run(Job(code=code, limits=PROFILE.limits.tightened(**limits)))


def shell(backend: NativeBackend, script: str, **limits: float) -> SandboxResult:
    return backend.run(Job(argv=("sh", "-c", script), limits=PROFILE.limits.tightened(**limits)))


def wait_for(what: Callable[[], object], why: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, why
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """All processes below one."""
    with contextlib.suppress(OSError):
        below = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*below, *(deeper for one in below for deeper in children(one))]
    return []


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def groups(owner: str) -> list[str]:
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if owner in os.path.basename(path)]


def launcher_of(backend: NativeBackend) -> int:
    assert backend._link is not None
    return backend._link.pid


# --- at which limit a program ended


def test_memory_that_a_child_took_is_not_the_end_of_its_parent(backend: NativeBackend) -> None:
    if Control.MEMORY not in backend.report().enforced or not backend.report().enforced[Control.MEMORY].hard:
        pytest.skip("memory is best effort here")
    result = shell(backend, "python3 -c 'x = bytearray(1 << 30)'; echo went on")

    assert (result.status, result.stdout.whole) == ("ok", b"went on\n")
    assert result.usage.peak_memory_bytes is not None
    assert 100 * MB < result.usage.peak_memory_bytes <= 192 * MB


def test_the_shells_exit_code_for_a_command_ended_at_a_limit_names_the_limit(backend: NativeBackend) -> None:
    result = shell(backend, "head -c 16000000 /dev/zero > big; exit $?")

    assert (result.status, result.limit and result.limit.name) == ("limit", "file_bytes")


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("open('big', 'wb', 0).write(bytes(9 << 20)); open('big', 'ab', 0).write(b'x')", "file_bytes"),
        ("for i in range(9): open(f'{i}', 'wb').write(bytes(3 << 20))", "disk_bytes"),
        ("for i in range(900): open(f'{i}', 'wb').close()", "inodes"),
        ("f = [open('/dev/null') for i in range(900)]", "open_files"),
        ("import os\nwhile True:\n  if os.fork() == 0: os.read(os.pipe()[0], 1)", "processes"),
    ],
)
def test_a_program_that_gives_up_at_a_limit_names_it(backend: NativeBackend, code: str, limit: str) -> None:
    result = python(backend, code)

    assert (result.status, result.exit_code) == ("limit", 1), result.stderr.text
    assert result.limit is not None
    assert (result.limit.name, result.limit.allowed) == (limit, getattr(PROFILE.limits, limit))


def test_output_is_too_much_also_where_the_program_ends_before_it_is_read(backend: NativeBackend) -> None:
    results = [python(backend, "print('x' * 2000)", output_bytes=1000) for _ in range(20)]

    assert {(result.status, result.limit and result.limit.name) for result in results} == {("limit", "output_bytes")}
    assert {len(result.stdout.whole) for result in results} == {1000}


def test_an_exit_of_its_own_is_no_limit(backend: NativeBackend) -> None:
    full = "import sys\ntry:\n  open('a', 'wb').write(bytes(7 << 20))\nfinally: sys.exit(3)"

    assert python(backend, full).status == "exit"
    assert python(backend, "import os; os.kill(os.getpid(), 9)").status == "signal"


def test_what_the_program_left_running_is_gone_when_it_has_ended(backend: NativeBackend) -> None:
    code = "import os\nfor _ in range(5):\n  if os.fork() == 0:\n    os.setsid()\n    while True: pass"
    result = python(backend, code)

    assert (result.status, result.usage.processes) == ("ok", 6)


@pytest.mark.parametrize("script", ["true", "sleep 100 & sleep 100 & exit 3", "setsid sleep 100 & kill -9 $$"])
def test_nothing_of_a_program_lives_when_its_result_is_there(make: Callable[..., NativeBackend], script: str) -> None:
    backend = make(warm=0)
    backend.start()
    for _ in range(10):
        shell(backend, script)

        assert not [pid for pid in children(launcher_of(backend)) if alive(pid)]


@pytest.mark.parametrize("how", ["close_session", "close"])
def test_nothing_of_a_session_lives_when_it_is_closed(make: Callable[..., NativeBackend], how: str) -> None:
    backend = make(warm=0)
    backend.start()
    session, launcher = backend.open_session(), launcher_of(backend)
    backend.run(Job(argv=("true",), limits=PROFILE.limits, session=session))
    there = children(launcher)
    assert any(map(alive, there))

    backend.close_session(session) if how == "close_session" else backend.close()

    assert not any(map(alive, there))


def test_a_program_waits_for_its_own_children_only(backend: NativeBackend) -> None:
    code = (
        "import os\nif os.fork() == 0: os._exit(3)\nos.wait()\ntry: os.wait()\nexcept ChildProcessError: print('none')"
    )

    assert python(backend, code).stdout.whole == b"none\n"


def test_input_files_may_fill_the_disk(make: Callable[..., NativeBackend]) -> None:
    """They are in memory twice while they are put there, which must not end the sandbox."""
    limits = SandboxLimits(memory_bytes=256 * MB, disk_bytes=100 * MB)
    backend = make(Sandbox(limits=limits))
    files = {"big": bytes(96 * MB), "small": b"x"}
    result = backend.run(Job(code="import os; os.stat('big').st_size >> 20", limits=limits, files=files, collect=False))

    assert (result.status, result.value) == ("ok", "96")


def test_input_files_beyond_the_disk_are_refused(backend: NativeBackend) -> None:
    """They would fill the memory of the sandbox before its disk, and nobody could tell whether the program ran."""
    files = {"a": bytes(200 * MB), "b": bytes(20 * MB)}
    with pytest.raises(SandboxError, match="disk_bytes") as raised:
        backend.run(Job(code="1", limits=PROFILE.limits, files=files))

    assert raised.value.outcome == "not_run"


def test_nothing_of_the_host_is_changed_or_shown_beside_its_programs(backend: NativeBackend) -> None:
    looks = """
import os
for folder in ("/usr/home", "/usr/src", "/usr/local/etc", "/usr/local/src"):
    if os.path.isdir(folder):
        print(folder, os.listdir(folder))
for device in os.listdir("/dev"):
    if device not in ("shm", "fd", "stdin", "stdout", "stderr"):
        try:
            os.utime(f"/dev/{device}")
            print("changed", device)
        except OSError as error:
            print(device, error.errno)
open("/dev/null", "w").write("x"), open("/dev/zero", "rb").read(1)
"""
    result = python(backend, looks)
    hidden = [f"{folder} []" for folder in template._PRIVATE if os.path.isdir(folder)]
    refused = [f"{device} {errno.EROFS}" for device in template.DEVICES]

    assert result.value == "(1, b'\\x00')", result.stderr.text
    assert sorted(result.stdout.text.splitlines()) == sorted(hidden + refused)


def test_usage_is_that_of_all_its_processes(backend: NativeBackend) -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    result = shell(backend, f"python3 -c '{burn}' & python3 -c '{burn}'; wait; head -c 5000000 /dev/zero > five")

    assert result.status == "ok", result.stderr.text
    assert result.usage.cpu_s >= 0.6
    assert 5_000_000 <= result.usage.disk_bytes <= 16 * MB
    assert result.usage.wall_s > 0.3


def test_denied_calls_are_counted_by_name(backend: NativeBackend) -> None:
    result = python(backend, "import os\nfor _ in range(3):\n  try: os.chroot('/')\n  except PermissionError: pass")

    assert result.status == "ok", result.stderr.text
    if result.usage.denied_syscalls is not None:
        assert result.usage.denied_syscalls.get("chroot") == 3


def test_the_first_instruction_comes_after_the_start_and_before_the_end(backend: NativeBackend) -> None:
    called = time.monotonic()
    result = python(backend, "import time; print(time.monotonic())")
    inside = float(result.stdout.whole)

    assert called < called + result.usage.start_s <= inside
    assert result.usage.wall_s > 0


def test_artifacts_of_a_stopped_program_are_taken(backend: NativeBackend) -> None:
    result = shell(backend, "echo kept > file; sleep 100", wall_s=0.3)

    assert (result.status, dict(result.artifacts)) == ("limit", {"file": b"kept\n"})


def test_a_program_cannot_say_that_it_took_less_time(backend: NativeBackend) -> None:
    forges = """
import sys, time
time.sleep(1)
frame = sys._getframe()
while not hasattr(frame.f_locals.get("says"), "put"):
    frame = frame.f_back
frame.f_locals["says"].put(began=time.monotonic())
"""
    result = python(backend, forges)

    assert (result.status, result.usage.start_s > 0.9) == ("ok", True), result.stderr.text
    assert result.usage.wall_s > 0.9


def test_a_program_cannot_forge_its_report(backend: NativeBackend) -> None:
    forges = """
import os, sys
says = [frame for frame in [sys._getframe(depth) for depth in range(3)] if "says" in frame.f_locals]
for frame in says:
    memory = frame.f_locals["says"]._memory
    memory[:] = b"\\xff" * len(memory)
os._exit(7)
"""
    result = python(backend, forges)

    assert (result.status, result.exit_code) == ("exit", 7)


def test_open_figures_are_saved(backend: NativeBackend) -> None:
    # A stand-in for matplotlib, which is too large to be installed for this: the three names that are used.
    code = """
import sys, types
class Figure:
    def __init__(self, number): self.number = number
    def savefig(self, path): open(path, "w").write(f"figure {self.number}")
pyplot = types.ModuleType("matplotlib.pyplot")
pyplot.get_fignums, pyplot.figure = lambda: [3, 7], Figure
sys.modules["matplotlib.pyplot"] = pyplot
"""
    result = python(backend, code)

    assert dict(result.artifacts) == {"figure-1.png": b"figure 3", "figure-2.png": b"figure 7"}


def test_random_numbers_are_fresh_in_each_program(make: Callable[..., NativeBackend]) -> None:
    backend = make(Sandbox(limits=PROFILE.limits, preload=("random",)), warm=2)

    assert len({python(backend, "import random; print(random.random())").stdout.whole for _ in range(4)}) == 4


# --- what is tighter, or made to order


def test_tighter_limits_hold_in_a_sandbox_made_to_order(backend: NativeBackend) -> None:
    result = python(backend, "open('a', 'wb').write(bytes(3 << 20))", disk_bytes=2 * MB)

    assert (result.status, result.warm) == ("limit", False)
    assert result.limit is not None
    assert (result.limit.name, result.limit.allowed) == ("disk_bytes", 2 * MB)


def test_mounts_are_shown_and_cannot_be_written(make: Callable[..., NativeBackend], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("of the host")
    (tmp_path / "data").chmod(0o755)
    mounts = (SandboxMount(source=str(tmp_path / "data"), target="/data"),)
    backend = make(Sandbox(limits=PROFILE.limits, mounts=mounts))

    result = shell(backend, "cat /data/file; echo x > /data/file || echo x > /data/new || echo refused")

    assert result.stdout.whole == b"of the hostrefused\n"


def test_packages_of_the_profile_can_be_imported_and_no_others(make: Callable[..., NativeBackend]) -> None:
    backend = make(Sandbox(limits=PROFILE.limits, packages=("pytest",), preload=("pluggy",)))

    code = "import pytest, iniconfig, sys\nprint('pluggy' in sys.modules, pytest.__file__)\nimport pydantic"
    result = python(backend, code)

    assert result.stdout.text.startswith("True /opt/packages/pytest/")
    assert "No module named 'pydantic'" in result.stderr.text


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no-such-distribution"):
        NativeBackend(Sandbox(packages=("no-such-distribution",)), tmp_path, 0)


def test_strict_runs_code_and_no_programs(make: Callable[..., NativeBackend]) -> None:
    backend = make(Sandbox(limits=PROFILE.limits, syscalls="strict"))

    assert python(backend, "1 + 1").value == "2"
    with pytest.raises(SandboxError, match="strict") as raised:
        shell(backend, "true")
    assert raised.value.outcome == "not_run"


# --- many at once, and many after each other


def test_a_hundred_at_once_all_succeed(backend: NativeBackend) -> None:
    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(lambda number: python(backend, f"print({number})"), range(100)))

    assert [result.stdout.whole for result in results] == [f"{number}\n".encode() for number in range(100)]


def test_calls_leave_no_descriptors_groups_or_processes(backend: NativeBackend) -> None:
    def held() -> tuple[int, int]:
        launcher = launcher_of(backend)
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{launcher}/fd"))

    def settled() -> bool:
        assert backend._link is not None
        return not backend._link.dead() and len(backend._link._ready) == 2 and len(children(launcher_of(backend))) == 4

    python(backend, "1")
    wait_for(settled, "the pool was not filled again")
    before, groups_before = held(), len(groups(str(launcher_of(backend))))
    for number in range(150):
        python(backend, "1") if number % 2 else shell(backend, "true")
    cancel = Cancel()
    cancel.cancel()
    assert backend.run(Job(code="1", limits=PROFILE.limits, cancel=cancel)).status == "cancelled"
    cancel.close()
    wait_for(settled, "processes are left")

    assert held()[0] <= before[0]
    # Control groups, and their descriptors, are kept for the next: as many as were ever needed at once. On a busy
    # machine that can be some more than at first, but never what so many calls would have left.
    assert len(groups(str(launcher_of(backend)))) <= groups_before + 50
    assert held()[1] <= before[1] + 50


def test_an_engine_without_stdio_has_sandboxes_too(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from tests.sandbox.test_native import PROFILE, python
from toolpost.sandbox.native import NativeBackend
told = os.dup(1)
for fd in range(3):
    os.close(fd)
backend = NativeBackend(PROFILE, Path(sys.argv[1]), 1)
try:
    os.write(told, python(backend, "print(6 * 7)").stdout.whole)
except BaseException as error:
    os.write(told, repr(error).encode())
backend.close()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], check=False)

    assert done.stdout == b"42\n"


# --- crashes

ENGINE = """
import json, sys, threading, time
from pathlib import Path
from tests.sandbox.test_native import PROFILE, SLEEPS, children
from toolpost.sandbox.native import NativeBackend
backend = NativeBackend(PROFILE, Path(sys.argv[1]), 2)
backend.start()
for _ in range(20):
    threading.Thread(target=backend.run, args=(SLEEPS,), daemon=True).start()
launcher = backend._link.pid
while len(children(launcher)) < 40:
    time.sleep(0.05)
print(json.dumps({"launcher": launcher, "below": children(launcher)}), flush=True)
time.sleep(1000)
"""


@contextlib.contextmanager
def engine(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, list[int]]]:
    """An engine of its own with 20 sandboxes that run, its launcher, and all that is below that."""
    command = [sys.executable, "-c", ENGINE, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield process, said["launcher"], said["below"]
        finally:
            process.kill()


def test_nothing_is_left_of_an_engine_that_was_killed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with engine(root) as (process, launcher, below):
        (folder,) = root.iterdir()
        assert len(groups(folder.name)) > 0 or os.geteuid() != 0
        process.kill()
        process.wait()
        wait_for(lambda: not any(map(alive, [launcher, *below])), "processes are left")
        wait_for(lambda: not list(root.iterdir()) and not groups(folder.name), "folders or groups are left")


def test_nothing_is_left_after_the_next_start_when_engine_and_launcher_were_killed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with engine(root) as (process, launcher, below):
        (folder,) = root.iterdir()
        process.send_signal(signal.SIGSTOP)  # so that it cannot start another launcher
        os.kill(launcher, signal.SIGKILL)
        process.kill()
        process.wait()
        wait_for(lambda: not any(map(alive, [launcher, *below])), "processes outlive their launcher")
        assert folder.exists()

        backend = NativeBackend(PROFILE, root, 0)
        backend.start()
        try:
            assert not folder.exists()
            assert not groups(folder.name)
        finally:
            backend.close()
    assert list(root.iterdir()) == []


def test_groups_of_a_dead_engine_are_found_without_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with engine(root) as (process, launcher, below), contextlib.closing(NativeBackend(PROFILE, tmp_path, 0)) as other:
        (folder,) = root.iterdir()
        if not groups(folder.name):
            pytest.skip("no control groups can be made here")
        process.send_signal(signal.SIGSTOP)
        os.kill(launcher, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, [launcher, *below])), "processes outlive their launcher")
        shutil.rmtree(root)

        other.start()
        other.close()
        assert groups(folder.name), "groups of an engine that lives were removed"

        process.kill()
        process.wait()
        other.start()
        assert not groups(folder.name)


@pytest.mark.parametrize(
    ("change", "living"),
    [
        (lambda own: own, True),
        (lambda own: [own[0], own[1], str(int(own[2]) + 1), *own[3:]], False),
        (lambda own: [own[0], str(dead_process()), *own[2:]], False),
        (lambda own: [own[0], str(dead_process()), own[2], str(int(own[3]) + 1), own[4]], True),
        (lambda own: [own[0], own[1], own[4]], True),
    ],
    ids=["this one", "its number went to another process", "ended", "of another namespace", "of another form"],
)
def test_a_launchers_name_tells_whether_its_engine_lives(
    change: Callable[[list[str]], list[str]], living: bool
) -> None:
    name = "-".join(change(reaper.launcher_name().split("-")))

    assert reaper.lives(name) is living


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


def test_the_reaper_leaves_the_living_alone(make: Callable[..., NativeBackend]) -> None:
    first, second = make(), make()
    first.start()
    second.start()

    assert python(first, "1").value == "1"


def test_a_killed_launcher_fails_what_runs_and_is_replaced(make: Callable[..., NativeBackend]) -> None:
    backend = make()
    backend.start()
    before = launcher_of(backend)
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(backend.run, SLEEPS) for _ in range(3)]
        wait_for(lambda: len(_programs(before, "sleep")) == 3, "the programs did not start")
        below = children(before)
        os.kill(before, signal.SIGKILL)
        for one in running:
            error = one.exception(PATIENCE_S)
            assert isinstance(error, SandboxError)
            assert error.outcome == "unknown"
    wait_for(lambda: not any(map(alive, below)), "processes outlive their launcher")

    assert python(backend, "1").value == "1"
    assert launcher_of(backend) != before
    assert len(list(backend._root.iterdir())) == 1
    assert not any(f"l-{os.getpid()}" in name and str(before) in name for name in groups("toolpost"))


def _programs(launcher: int, name: str) -> list[int]:
    found = []
    for pid in children(launcher):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
    return found


def test_a_launcher_that_says_nothing_is_replaced(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "START_S", 2.0)
    backend = make(warm=0)
    assert python(backend, "1").value == "1"
    stopped = launcher_of(backend)
    os.kill(stopped, signal.SIGSTOP)

    with pytest.raises(SandboxError, match="no sandbox was made") as caught:
        python(backend, "2")
    assert caught.value.outcome == "not_run"
    assert python(backend, "3").value == "3"
    assert not alive(stopped)


def test_a_launcher_that_takes_no_orders_stops_nobody_for_ever(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make(warm=0)
    assert python(backend, "1").value == "1"
    monkeypatch.setattr(links, "START_S", 1.0)
    link, stopped = backend._link, launcher_of(backend)
    assert link is not None
    os.kill(stopped, signal.SIGSTOP)

    def fill() -> None:
        while not link._dead:
            with link._changed:
                link._order({"processes": 5})

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    watched = [threading.Thread(target=link.look, daemon=True) for _ in range(20)]
    for one in watched:
        one.start()
    for one in (filling, *watched):
        one.join(PATIENCE_S)
        assert not one.is_alive()
    assert "took no order" in link.dead()
    assert python(backend, "3").value == "3"


def test_many_orders_at_once_do_not_fill_the_way_to_the_launcher_for_good(make: Callable[..., NativeBackend]) -> None:
    """It answers while nobody listens, until there is no room for answers; then it takes no orders either."""
    backend = make(warm=0)
    assert python(backend, "1").value == "1"
    link = backend._link
    assert link is not None
    os.kill(link.pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (link.pid, signal.SIGCONT)).start()

    def order() -> None:
        for _ in range(1200):
            with link._changed:
                link._order({"no such limit": 1, "memory_bytes": "none"})

    ordering = threading.Thread(target=order, daemon=True)
    ordering.start()
    ordering.join(60)

    assert not ordering.is_alive()
    assert link.dead() == ""
    (folder,) = backend._root.glob("l-*")
    backend.close()
    assert not groups(folder.name)


def test_a_refusal_of_an_order_that_nobody_waits_for_is_nobodys(make: Callable[..., NativeBackend]) -> None:
    backend = make(warm=0)
    assert python(backend, "1").value == "1"
    link = backend._link
    assert link is not None
    with link._changed:  # as when somebody waited, who then got another one
        link._pending.add(10_000)
        link._waiting += 1
        link._heard({"id": 10_000, "error": "long ago"}, [])
        link._waiting -= 1

    assert python(backend, "2").value == "2"


def test_a_stop_that_comes_together_with_the_job_is_heard(make: Callable[..., NativeBackend]) -> None:
    """Its first process is busy while the program, which was told itself, runs and is stopped."""
    backend = make(warm=1)
    backend.start()
    wait_for(lambda: _handed_over(backend), "it was not handed over")
    warden = children(launcher_of(backend))[0]
    wait_for(lambda: _state(warden) == "S", "it does not wait")
    cancel = Cancel()

    def stop(*_: object) -> None:
        cancel.cancel()
        threading.Timer(0.5, os.kill, (warden, signal.SIGCONT)).start()

    os.kill(warden, signal.SIGSTOP)
    code = "import time; open('kept', 'w').write('this'); print('on', flush=True); time.sleep(100)"
    result = backend.run(Job(code=code, limits=PROFILE.limits, on_output=stop, cancel=cancel))
    cancel.close()

    assert result.status == "cancelled"
    assert result.artifacts == {"kept": b"this"}
    assert result.left_behind == ()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_was_cancelled_before_it_began_left_nothing_behind(backend: NativeBackend) -> None:
    cancel = Cancel()
    cancel.cancel()
    result = backend.run(Job(code="1", limits=PROFILE.limits, cancel=cancel))
    cancel.close()

    assert (result.status, result.left_behind) == ("cancelled", ())


@pytest.mark.parametrize("kept", [False, True], ids=["alone", "in a session"])
def test_nothing_of_a_program_lives_when_its_watcher_broke(make: Callable[..., NativeBackend], kept: bool) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    backend = make(warm=0)
    backend.start()
    session = backend.open_session() if kept else None
    with pytest.raises(KeyboardInterrupt):
        backend.run(Job(argv=("sh", "-c", "echo; sleep 100"), limits=PROFILE.limits, session=session, on_output=broken))

    assert not [pid for pid in children(launcher_of(backend)) if alive(pid)]
    if session is not None:
        with pytest.raises(SandboxError, match="there is no session") as raised:
            run_in(backend, session, "1")
        assert raised.value.outcome == "not_run"
        backend.close_session(session)
    assert python(backend, "1").value == "1"


def test_a_killed_warden_loses_its_program_only(make: Callable[..., NativeBackend]) -> None:
    backend = make(warm=0)
    backend.start()
    with ThreadPoolExecutor(2) as pool:
        lost = pool.submit(backend.run, SLEEPS)
        wait_for(lambda: _programs(launcher_of(backend), "sleep"), "the program did not start")
        warden = children(launcher_of(backend))[0]
        kept = pool.submit(shell, backend, "sleep 1; echo kept")
        os.kill(warden, signal.SIGKILL)
        error = lost.exception(PATIENCE_S)

        assert isinstance(error, SandboxError)
        assert error.outcome == "unknown"
        assert kept.result(PATIENCE_S).stdout.whole == b"kept\n"


def test_a_killed_parked_sandbox_is_passed_over(make: Callable[..., NativeBackend]) -> None:
    backend = make(warm=1)
    backend.start()
    wait_for(lambda: len(children(launcher_of(backend))) == 2, "nothing was parked")
    for pid in children(launcher_of(backend)):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not children(launcher_of(backend)), "it was not reaped")

    assert python(backend, "1").value == "1"


def test_a_killed_process_that_was_to_become_the_program_is_not_run(make: Callable[..., NativeBackend]) -> None:
    backend = make(warm=1)
    backend.start()
    wait_for(lambda: len(children(launcher_of(backend))) == 2, "nothing was parked")
    _, parked = children(launcher_of(backend))
    wait_for(lambda: _handed_over(backend), "it was not handed over")
    os.kill(parked, signal.SIGKILL)
    wait_for(lambda: not alive(parked), "it did not end")

    with pytest.raises(SandboxError) as raised:
        python(backend, "1")
    assert raised.value.outcome == "not_run"
    assert python(backend, "1").value == "1"


def _handed_over(backend: NativeBackend) -> bool:
    link = backend._link
    assert link is not None
    link.look()
    return bool(link._ready) and box.wait_for([link._ready[0].channel.fileno()], 0)


def test_a_forked_child_has_a_launcher_of_its_own(make: Callable[..., NativeBackend]) -> None:
    backend = make(warm=1)
    backend.start()
    parents = launcher_of(backend)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"failed"
        with contextlib.suppress(BaseException):
            result = python(backend, "40 + 2")
            said = f"{result.value} {launcher_of(backend) != parents}".encode()
            backend.close()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)

    assert os.read(read, 100) == b"42 True"
    os.close(read)
    assert python(backend, "1").value == "1"
    assert launcher_of(backend) == parents


def test_close_leaves_nothing(tmp_path: Path) -> None:
    backend = NativeBackend(PROFILE, tmp_path / "run", 2)
    backend.start()
    (folder,) = (tmp_path / "run").iterdir()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(backend.run, SLEEPS) for _ in range(2)]
        launcher = launcher_of(backend)
        wait_for(lambda: len(_programs(launcher, "sleep")) == 2, "the programs did not start")
        below = children(launcher)
        backend.close()
        assert all(isinstance(one.exception(PATIENCE_S), SandboxError) for one in running)

    assert not any(map(alive, [launcher, *below]))
    assert list((tmp_path / "run").iterdir()) == []
    assert not groups(folder.name)


def test_close_leaves_nothing_of_a_launcher_that_was_killed(tmp_path: Path) -> None:
    backend = NativeBackend(PROFILE, tmp_path / "run", 1)
    backend.start()
    (folder,) = (tmp_path / "run").iterdir()
    os.kill(launcher_of(backend), signal.SIGKILL)
    wait_for(lambda: not alive(launcher_of(backend)), "it did not end")
    backend.close()

    assert list((tmp_path / "run").iterdir()) == []
    assert not groups(folder.name)


# --- what the host lacks

LACKING = """
import json, os, sys
from pathlib import Path
from tests.sandbox.test_native import PROFILE
from toolpost.calls.errors import SandboxError
from toolpost.sandbox import kernel, native
from toolpost.sandbox.backend import Job
from toolpost.sandbox.native import NativeBackend
how, root = sys.argv[1:]
if how == "masked":
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/proc/irq", "tmpfs", kernel.MS_RDONLY)
    native.CGROUP_SWITCH = False
if how == "namespaces":
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
backend = NativeBackend(PROFILE, Path(root), 0)
missing = backend.report().lacks(PROFILE.require)
said = [f"{one.why}; {one.way_out}" for one in missing.values()]
try:
    result = backend.run(Job(code="import os; print(os.listdir('/proc'))", limits=PROFILE.limits))
    print(json.dumps({"ran": result.stdout.text, "missing": said}))
    backend.close()
except SandboxError as error:
    print(json.dumps({"error": error.message, "outcome": error.outcome, "missing": said, "left": os.listdir(root)}))
"""


def without(what: str, root: Path) -> dict[str, Any]:
    """What a back end says, in a process of its own that lacks something."""
    command = [sys.executable, "-c", LACKING, what, str(root)]
    done = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2], check=False, timeout=50)
    assert done.stdout, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_without_user_namespaces_it_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    said = without("namespaces", tmp_path)

    assert said["outcome"] == "not_run"
    assert "namespaces" in said["error"]
    assert all("sysctl user.max_user_namespaces" in one for one in said["missing"])
    assert len(said["missing"]) == len(PROFILE.require)
    assert said["left"] == []


def test_where_the_hosts_proc_is_masked_programs_have_none(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mask /proc")
    assert without("masked", tmp_path) == {"ran": "[]\n", "missing": []}


def test_a_required_control_that_is_missing_refuses_the_run(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CGROUP_SWITCH", False)
    backend = make(Sandbox(limits=PROFILE.limits, require=frozenset({Control.MEMORY})))

    assert Control.MEMORY in backend.report().lacks(frozenset({Control.MEMORY}))
    with pytest.raises(SandboxError, match=r"memory .*cgroup|control group") as raised:
        python(backend, "1")
    assert raised.value.outcome == "not_run"


def test_memory_without_control_groups_is_held_as_well_as_can_be(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CGROUP_SWITCH", False)
    backend = make()

    result = shell(
        backend, "for i in 1 2 3 4; do python3 -c 'x = bytearray(90 << 20); import time; time.sleep(9)' & done; wait"
    )

    assert (result.status, result.limit and result.limit.name) == ("limit", "memory_bytes")
    assert result.enforced[Control.MEMORY].hard is False


def test_a_launcher_that_cannot_start_says_why(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "interpreter", lambda: "/nonexistent/python")
    backend = make()

    with pytest.raises(SandboxError, match="nonexistent") as raised:
        backend.start()
    assert raised.value.outcome == "not_run"


def test_a_launcher_that_ends_at_once_is_a_refusal(
    make: Callable[..., NativeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "interpreter", lambda: "/bin/false")

    with pytest.raises(SandboxError, match="before it was ready") as raised:
        make().start()
    assert raised.value.outcome == "not_run"


def test_a_mount_that_is_not_there_is_named(make: Callable[..., NativeBackend]) -> None:
    backend = make(Sandbox(mounts=(SandboxMount(source="/nonexistent/data", target="/data"),)))

    with pytest.raises(SandboxError, match=r"show /nonexistent/data at /data.*No such file"):
        backend.start()


# --- sessions


def run_in(backend: NativeBackend, session: str, code: str, **job: object) -> SandboxResult:
    return backend.run(Job(code=code, limits=PROFILE.limits, session=session, **job))  # type: ignore[arg-type]


def test_a_session_keeps_files_and_no_processes(backend: NativeBackend) -> None:
    session = backend.open_session()
    code = "import os\nopen('kept', 'w').write('here')\nif os.fork() == 0:\n  while True: pass"
    first = run_in(backend, session, code)
    second = run_in(
        backend, session, "import os; print(open('kept').read(), len([p for p in os.listdir('/proc') if p.isdigit()]))"
    )

    assert dict(first.artifacts) == {"kept": b"here"}
    assert second.stdout.whole == b"here 1\n"
    assert dict(second.artifacts) == {}
    backend.close_session(session)
    with pytest.raises(SandboxError) as raised:
        run_in(backend, session, "1")
    assert raised.value.outcome == "not_run"


def test_the_limits_of_a_session_hold_over_all_its_programs(make: Callable[..., NativeBackend]) -> None:
    limits = SandboxLimits(cpu_s=2.0, wall_s=20.0, disk_bytes=4 * MB)
    backend = make(Sandbox(limits=limits))
    session = backend.open_session()

    def run(code: str) -> SandboxResult:
        return backend.run(Job(code=code, limits=limits, session=session))

    assert run("open('a', 'wb').write(bytes(3 << 20))").status == "ok"
    assert run("open('b', 'wb').write(bytes(3 << 20))").status == "limit"
    statuses = [run("import time\nwhile time.process_time() < 0.9: pass").status for _ in range(4)]
    assert statuses[0] == "ok"
    assert statuses[-1] == "limit"


@pytest.mark.parametrize(
    ("limit", "allowed", "code"),
    [("wall_s", 2.0, "import time; time.sleep(1.2)"), ("output_bytes", 1000, "print('x' * 700)")],
)
def test_time_and_output_of_a_session_are_counted_over_all_its_programs(
    make: Callable[..., NativeBackend], limit: str, allowed: float, code: str
) -> None:
    limits = SandboxLimits(**{limit: allowed})
    backend = make(Sandbox(limits=limits))
    session = backend.open_session()
    results = [backend.run(Job(code=code, limits=limits, session=session)) for _ in range(3)]

    assert [result.status for result in results] == ["ok", "limit", "limit"]
    assert [(hit.name, hit.allowed) for result in results if (hit := result.limit)] == [(limit, allowed)] * 2
    assert results[2].usage.wall_s == 0.0, "a third program was run"


def test_refused_inputs_of_a_session_leave_nothing_open(backend: NativeBackend) -> None:
    session = backend.open_session()
    job = Job(code="import os; os.mkdir('folder')", limits=PROFILE.limits, session=session)
    assert backend.run(job).status == "ok"

    (warden,) = [pid for pid in children(launcher_of(backend)) if kept_by(backend, session, pid)]

    def held() -> int:
        """While the next program is made it is more for a moment."""
        time.sleep(0.02)
        return len(os.listdir(f"/proc/{warden}/fd"))

    before = min(held() for _ in range(20))
    for _ in range(3):
        with pytest.raises(SandboxError, match="input file"):
            backend.run(Job(code="1", limits=PROFILE.limits, session=session, files={"a/b": b"", "folder": b"x"}))
    wait_for(lambda: held() <= before, "descriptors are left of refused programs")
    backend.close_session(session)


def kept_by(backend: NativeBackend, session: str, pid: int) -> bool:
    """Whether a process is the first one of a session's sandbox."""
    with open(f"/proc/self/fdinfo/{backend._sessions[session].box.pidfd}") as file:
        return f"Pid:\t{pid}\n" in file.read()


def test_inputs_of_a_session_do_not_follow_links_of_an_earlier_program(backend: NativeBackend) -> None:
    session = backend.open_session()
    run_in(
        backend, session, "import os\nos.mkdir('d'); open('d/target', 'w').write('mine')\nos.symlink('d/target', 'in')"
    )
    result = run_in(backend, session, "print(open('in').read(), open('d/target').read())", files={"in": b"given"})

    assert result.stdout.whole == b"given mine\n"
    backend.close_session(session)


def test_a_session_ends_in_the_middle_of_a_program(backend: NativeBackend) -> None:
    session = backend.open_session()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_in, backend, session, "import time; print('on', flush=True); time.sleep(100)")
        time.sleep(0.3)
        backend.close_session(session)
        assert isinstance(running.exception(PATIENCE_S), SandboxError)
    backend.close_session(session)


def test_threads_may_share_a_session(backend: NativeBackend) -> None:
    session = backend.open_session()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: run_in(backend, session, f"open('f{number}', 'w').close()"), range(8)))
    result = run_in(backend, session, "import os; print(len(os.listdir()))")
    backend.close_session(session)

    assert result.stdout.whole == b"8\n"
    assert threading.active_count() < 50
