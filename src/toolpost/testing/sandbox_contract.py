"""SandboxContract: what every back end of the sandbox must do, as tests that its author runs."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolpost.calls.errors import SandboxError, ToolExecutionError
from toolpost.sandbox.backend import Backend, BackendFactory, Cancel, Job
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.profile import CLOSED_ENV, KB, MB, Control, Sandbox, SandboxLimits

PATIENCE_S = 20.0


class SandboxContract:
    """Derive a test class from this, with one fixture, and pytest runs the contract.

    class TestMyBackend(SandboxContract):
        @pytest.fixture
        def factory(self): return MyBackend       # what makes it: (profile, folder, warm) -> Backend

    warm, where a class sets it, is how many interpreters are held ready. One back end serves all tests of the class.
    Programs are those of a POSIX shell, and Python 3.
    """

    warm = 0
    profile = Sandbox(
        limits=SandboxLimits(
            wall_s=15.0,
            cpu_s=10.0,
            memory_bytes=192 * MB,
            processes=40,
            file_bytes=8 * MB,
            disk_bytes=24 * MB,
            inodes=1000,
            output_bytes=MB,
            preview_bytes=4 * KB,
            artifacts=10,
            artifact_bytes=2 * MB,
        ),
        env={"GIVEN": "by the profile"},
    )

    @pytest.fixture
    def factory(self) -> BackendFactory:
        raise NotImplementedError("say which back end is meant: override the fixture `factory`")

    _started: Backend | None = None

    @pytest.fixture
    def backend(self, factory: BackendFactory, tmp_path_factory: pytest.TempPathFactory) -> Backend:
        own = type(self)
        if own._started is None:
            own._started = factory(self.profile, tmp_path_factory.mktemp("sandboxes"), self.warm)
            own._started.start()
        return own._started

    @classmethod
    def teardown_class(cls) -> None:
        if cls._started is not None:
            cls._started.close()
            cls._started = None

    def job(self, *, limits: dict[str, Any] | None = None, **job: Any) -> Job:
        return Job(limits=self.profile.limits.tightened(**limits or {}), **job)

    def sh(self, backend: Backend, script: str, **job: Any) -> SandboxResult:
        return backend.run(self.job(argv=("/bin/sh", "-c", script), **job))

    def python(self, backend: Backend, code: str, **job: Any) -> SandboxResult:
        return backend.run(self.job(code=code, **job))

    # how a program ends

    def test_a_program_that_exits_with_0_is_ok(self, backend: Backend) -> None:
        for result in (self.sh(backend, "echo out; echo err >&2"), self.python(backend, PRINTS)):
            assert (result.status, result.exit_code, result.signal, result.limit) == ("ok", 0, None, None)
            assert (result.stdout.whole, result.stderr.whole) == (b"out\n", b"err\n")
            assert result.backend == backend.name

    def test_another_exit_code_is_told(self, backend: Backend) -> None:
        for result in (self.sh(backend, "exit 3"), self.python(backend, "import sys; sys.exit(3)")):
            assert (result.status, result.exit_code, result.signal) == ("exit", 3, None)

    def test_an_exception_is_exit_code_1_with_its_traceback(self, backend: Backend) -> None:
        result = self.python(backend, "x = 1\nraise ValueError('the reason')")

        assert (result.status, result.exit_code) == ("exit", 1)
        assert b"line 2" in result.stderr.whole
        assert b"ValueError: the reason" in result.stderr.whole

    @pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM", "SIGSEGV"])
    def test_a_signal_of_its_own_making_is_told_by_name(self, backend: Backend, signal: str) -> None:
        for result in (
            self.sh(backend, f"kill -{signal[3:]} $$"),
            self.python(backend, f"import os, signal; os.kill(os.getpid(), signal.{signal})"),
        ):
            assert (result.status, result.exit_code, result.signal) == ("signal", None, signal)

    def test_a_program_that_is_not_there_is_exit_code_127(self, backend: Backend) -> None:
        result = backend.run(self.job(argv=("no-such-program", "x")))

        assert (result.status, result.exit_code) == ("exit", 127)
        assert b"no-such-program" in result.stderr.whole

    def test_a_program_is_found_by_path(self, backend: Backend) -> None:
        assert backend.run(self.job(argv=("echo", "a b", "", "$HOME"))).stdout.whole == b"a b  $HOME\n"

    # limits

    def test_the_limit_of_time_ends_it(self, backend: Backend) -> None:
        for result in (
            self.sh(backend, "echo so far; sleep 30", limits={"wall_s": 0.5}),
            self.python(backend, "print('so far', flush=True)\nimport time; time.sleep(30)", limits={"wall_s": 0.5}),
        ):
            self.check_limit(result, "wall_s", 0.5)
            assert result.stdout.whole == b"so far\n"
            assert result.limit is not None
            assert 0.3 < result.limit.after_s < PATIENCE_S

    def test_the_limit_of_processor_time_ends_it(self, backend: Backend) -> None:
        self.check_limit(self.python(backend, "while True: pass", limits={"cpu_s": 1.0}), "cpu_s", 1.0)

    def test_the_limit_of_output_ends_it(self, backend: Backend) -> None:
        result = self.sh(backend, "yes", limits={"output_bytes": 100 * KB})

        self.check_limit(result, "output_bytes", 100 * KB)
        assert len(result.stdout.whole) == 100 * KB

    def test_the_limit_of_one_file_ends_it(self, backend: Backend) -> None:
        result = self.sh(backend, "exec head -c 16000000 /dev/zero > big")

        self.check_limit(result, "file_bytes", 8 * MB)

    def test_the_limit_of_memory_ends_it(self, backend: Backend) -> None:
        if not self.holds(backend, Control.MEMORY):
            pytest.skip("memory is best effort here")
        result = self.python(backend, "x = []\nwhile True: x.append(bytearray(4 << 20))")

        self.check_limit(result, "memory_bytes", 192 * MB)

    def test_disk_and_inodes_are_refused_above_their_limit(self, backend: Backend) -> None:
        result = self.python(backend, FILLS)

        assert result.status == "ok", result.stderr.whole
        written, files = map(int, result.stdout.whole.split())
        assert 10 * MB < written <= 24 * MB
        assert files > 100
        if self.holds(backend, Control.INODES):
            assert files <= 1000

    def test_processes_and_open_files_are_refused_above_their_limit(self, backend: Backend) -> None:
        if self.holds(backend, Control.PROCESS_COUNT):
            assert 2 < int(self.python(backend, FORKS).stdout.whole) <= 40
        assert 10 < int(self.python(backend, OPENS).stdout.whole) <= 256

    def test_a_limit_is_the_profiles_or_tighter(self, backend: Backend) -> None:
        result = self.python(backend, OPENS, limits={"open_files": 64})

        assert int(result.stdout.whole) < 64

    def check_limit(self, result: SandboxResult, name: str, allowed: float) -> None:
        assert (result.status, result.exit_code) == ("limit", None), result
        assert result.limit is not None
        assert (result.limit.name, result.limit.allowed) == (name, allowed)

    # cancelling

    def test_a_cancelled_program_ends_at_once(self, backend: Backend) -> None:
        cancel = Cancel()
        heard = threading.Event()
        job = self.job(
            argv=("/bin/sh", "-c", "echo on; (sleep 30 &); sleep 30"),
            cancel=cancel,
            on_output=lambda _, __: heard.set(),
        )
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(backend.run, job)
            assert heard.wait(PATIENCE_S)
            cancel.cancel()
            result = running.result(PATIENCE_S)
        cancel.close()

        assert (result.status, result.exit_code, result.limit) == ("cancelled", None, None)
        assert result.stdout.whole == b"on\n"

    def test_a_program_cancelled_before_its_start_does_not_go_on(self, backend: Backend) -> None:
        cancel = Cancel()
        cancel.cancel()
        began = time.monotonic()
        result = self.sh(backend, "sleep 30", cancel=cancel)
        cancel.close()

        assert result.status == "cancelled"
        assert time.monotonic() - began < PATIENCE_S

    # what goes in

    def test_stdin_is_read_to_its_end(self, backend: Backend) -> None:
        data = bytes(range(256)) * 4000

        assert self.sh(backend, "cat", stdin=data).stdout.whole == data
        assert (
            self.python(backend, "import sys; print(len(sys.stdin.buffer.read()))", stdin=data).stdout.whole
            == b"1024000\n"
        )
        assert self.sh(backend, "cat").stdout.whole == b""

    def test_stdin_that_nobody_reads_is_no_trouble(self, backend: Backend) -> None:
        assert self.sh(backend, "echo done", stdin=b"x" * (2 * MB)).stdout.whole == b"done\n"

    def test_input_files_lie_in_the_work_folder(self, backend: Backend) -> None:
        files = {"a.txt": b"first", "deep/er/b.bin": bytes(range(256)), "empty": b""}
        result = self.sh(backend, "pwd; cat a.txt deep/er/b.bin; wc -c < empty", files=files)

        assert result.stdout.whole == b"/box\nfirst" + bytes(range(256)) + b"0\n"

    @pytest.mark.parametrize("name", ["../out", "/tmp/out", "", ".", "a/../../out", "a//b", "nul\0name", "./a", "a/"])
    def test_an_input_file_elsewhere_is_refused(self, backend: Backend, name: str) -> None:
        with pytest.raises(ToolExecutionError) as refused:
            self.sh(backend, "echo ran", files={name: b"x"})
        assert refused.value.outcome == "not_run"

    def test_the_environment_is_closed_but_for_what_is_given(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ENGINE_SECRET", "engine's")
        for result in (
            self.sh(backend, "exec env", env={"ALSO": "by the job"}),
            self.python(
                backend,
                "import os\nfor item in os.environ.items(): print('='.join(item))",
                env={"ALSO": "by the job"},
            ),
        ):
            seen = dict(line.split("=", 1) for line in result.stdout.whole.decode().splitlines())
            shells = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
            assert {k: v for k, v in seen.items() if k not in shells} == {
                **CLOSED_ENV,
                "GIVEN": "by the profile",
                "ALSO": "by the job",
            }

    # what comes out

    def test_output_comes_back_byte_by_byte(self, backend: Backend) -> None:
        data = bytes(range(256)) * 40
        result = self.python(backend, "import os\nos.write(1, bytes(range(256)) * 40)\nos.write(2, b'\\xff\\xfe\\0')")

        assert (result.stdout.whole, result.stdout.total) == (data, len(data))
        assert result.stderr.whole == b"\xff\xfe\0"
        assert result.usage.output_bytes == len(data) + 3

    def test_long_output_is_shown_by_its_head_and_tail(self, backend: Backend) -> None:
        result = self.python(backend, "for n in range(20000): print(f'{n:06d}')")
        whole = b"".join(b"%06d\n" % n for n in range(20000))

        assert result.stdout.whole == whole
        assert (len(result.stdout.head), len(result.stdout.tail)) == (2 * KB, 2 * KB)
        assert whole.startswith(result.stdout.head)
        assert whole.endswith(result.stdout.tail)
        assert result.stdout.omitted == len(whole) - 4 * KB
        assert "bytes left out" in result.stdout.text

    def test_output_is_told_as_it_comes_and_in_order(self, backend: Backend) -> None:
        pieces: list[tuple[str, bytes, float]] = []
        result = self.sh(
            backend,
            "echo one; sleep 0.4; echo two >&2; sleep 0.4; echo three",
            on_output=lambda name, data: pieces.append((name, data, time.monotonic())),
        )

        assert [piece[:2] for piece in pieces] == [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\n")]
        assert pieces[1][2] - pieces[0][2] > 0.2
        assert result.stdout.whole == b"one\nthree\n"

    def test_the_value_of_the_last_expression_is_its_repr(self, backend: Backend) -> None:
        assert self.python(backend, "x = 20\nx * 2 + 2").value == "42"
        assert self.python(backend, "'text'").value == "'text'"
        assert self.python(backend, "x = 1").value is None
        assert self.python(backend, "None").value is None
        assert self.python(backend, "1\nx = 2").value is None
        assert self.sh(backend, "echo 42").value is None

    def test_a_program_is_a_module_called_main(self, backend: Backend) -> None:
        assert self.python(backend, MAIN).value == "('__main__', True)"

    def test_files_of_the_work_folder_are_artifacts(self, backend: Backend) -> None:
        files = {"given.txt": b"given"}
        result = self.sh(backend, "mkdir -p d/e; printf made > d/e/f; printf x >> given.txt; : > empty", files=files)

        assert result.artifacts["d/e/f"] == b"made"
        assert result.artifacts["empty"] == b""
        assert result.artifacts["given.txt"] == b"givenx"
        assert not result.left_behind

    def test_no_files_are_taken_where_nobody_wants_them(self, backend: Backend) -> None:
        assert not self.sh(backend, "echo x > f", collect=False).artifacts

    def test_files_of_a_program_that_was_ended_are_taken(self, backend: Backend) -> None:
        result = self.sh(backend, "printf part > f; sleep 30", limits={"wall_s": 0.6})

        assert result.artifacts == {"f": b"part"}

    def test_what_cannot_be_taken_is_told(self, backend: Backend) -> None:
        result = self.sh(
            backend, "ln -s /etc/passwd link; mkfifo fifo; head -c 3000000 /dev/zero > big; echo fine > good"
        )

        assert result.artifacts == {"good": b"fine\n"}
        for name in ("link", "fifo", "big"):
            assert any(name in one for one in result.left_behind), (name, result.left_behind)

    def test_no_more_files_are_taken_than_allowed(self, backend: Backend) -> None:
        result = self.sh(backend, "for n in 0 1 2 3 4 5 6 7 8 9 a b c d e; do echo x > $n; done")

        assert len(result.artifacts) == 10
        assert result.left_behind

    def test_use_is_told(self, backend: Backend) -> None:
        result = self.python(
            backend, "x = bytearray(40 << 20)\nn = sum(range(3_000_000))\nopen('f', 'w').write('x' * 100000)"
        )

        assert result.usage.cpu_s > 0.01
        assert result.usage.wall_s > 0
        assert result.usage.start_s > 0
        assert result.usage.processes >= 1
        assert result.usage.disk_bytes >= 100000
        assert result.usage.peak_memory_bytes is None or 40 * MB < result.usage.peak_memory_bytes < 192 * MB

    # fresh, together, again

    def test_nothing_is_left_for_the_next_program(self, backend: Backend) -> None:
        self.sh(backend, "for d in /box /tmp /var/tmp /dev/shm; do echo x > $d/left; done; (sleep 30 &)")
        seen = self.sh(backend, "ls /box /tmp /var/tmp /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")

        assert b"left" not in seen.stdout.whole
        assert b"sleep" not in seen.stdout.whole

    def test_it_returns_when_daemons_hold_its_outputs(self, backend: Backend) -> None:
        began = time.monotonic()
        result = self.sh(backend, "(setsid sleep 12 &); sleep 12 & echo done")

        assert (result.status, result.stdout.whole) == ("ok", b"done\n")
        assert time.monotonic() - began < 10

    def test_many_run_at_once_and_each_gets_its_own(self, backend: Backend) -> None:
        def one(n: int) -> bool:
            result = self.python(
                backend,
                f"import sys\nopen('f', 'w').write('{n}')\nprint({n}, sys.stdin.read())\n{n}",
                stdin=b"in%d" % n,
            )
            return (result.stdout.whole, result.value, result.artifacts) == (
                b"%d in%d\n" % (n, n),
                str(n),
                {"f": b"%d" % n},
            )

        with ThreadPoolExecutor(10) as pool:
            assert all(pool.map(one, range(40)))

    # sessions

    def test_a_session_keeps_its_files_and_nothing_else(self, backend: Backend) -> None:
        session = backend.open_session()
        try:
            self.python(backend, "open('kept', 'w').write('x')\nleft = 1", session=session)
            self.sh(backend, "(sleep 30 &); echo y >> kept", session=session)
            seen = self.python(backend, LEFT_IN_SESSION, session=session)
        finally:
            backend.close_session(session)

        assert seen.value == "('xy\\n', False, False)", seen
        assert self.sh(backend, "ls").stdout.whole == b""

    def test_sessions_do_not_see_each_other(self, backend: Backend) -> None:
        first, second = backend.open_session(), backend.open_session()
        try:
            self.sh(backend, "echo x > mine; echo x > /tmp/mine", session=first)
            seen = self.sh(backend, "ls /box /tmp", session=second)
        finally:
            backend.close_session(first)
            backend.close_session(second)

        assert b"mine" not in seen.stdout.whole

    def test_a_program_that_is_ended_leaves_the_session_as_it_is_or_says_so(self, backend: Backend) -> None:
        session = backend.open_session()
        try:
            self.sh(backend, "echo x > kept", session=session)
            ended = self.sh(backend, "sleep 30", session=session, limits={"wall_s": 0.5})
            self.check_limit(ended, "wall_s", 0.5)
            after = self.sh(backend, "cat kept", session=session)
        finally:
            backend.close_session(session)

        assert after.stdout.whole == b"x\n"

    def test_a_session_that_is_not_known_is_refused(self, backend: Backend) -> None:
        closed = backend.open_session()
        backend.close_session(closed)
        backend.close_session(closed)
        backend.close_session("nobody's")
        for name in (closed, "nobody's", "../x"):
            with pytest.raises(SandboxError) as refused:
                self.sh(backend, "echo ran", session=name)
            assert refused.value.outcome == "not_run"

    # the back end itself

    def test_close_ends_what_runs_and_refuses_what_comes(self, factory: BackendFactory, tmp_path: Path) -> None:
        made = factory(self.profile, tmp_path, self.warm)
        made.start()
        heard = threading.Event()
        job = self.job(argv=("/bin/sh", "-c", "echo on; sleep 30"), on_output=lambda _, __: heard.set())
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(made.run, job)
            assert heard.wait(PATIENCE_S)
            made.close()
            error = running.exception(PATIENCE_S)
        made.close()

        if error is None:
            assert running.result().status == "cancelled"
        else:
            assert isinstance(error, SandboxError)
        with pytest.raises(SandboxError) as refused:
            self.sh(made, "echo ran")
        assert refused.value.outcome == "not_run"
        assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []

    def test_a_start_that_is_impossible_is_an_error_of_the_sandbox(
        self, factory: BackendFactory, tmp_path: Path
    ) -> None:
        in_the_way = tmp_path / "file"
        in_the_way.write_text("no folder")
        made = factory(self.profile, in_the_way, self.warm)
        try:
            with pytest.raises(SandboxError) as refused:
                self.start_and_run(made)
        finally:
            made.close()

        assert refused.value.outcome == "not_run"

    def start_and_run(self, backend: Backend) -> None:
        backend.start()
        self.sh(backend, "echo ran")

    # what is held

    def holds(self, backend: Backend, control: Control) -> bool:
        held = backend.report().enforced.get(control)
        return held is not None and held.hard

    def test_each_control_is_held_or_missing_and_a_result_says_the_same(self, backend: Backend) -> None:
        report = backend.report()

        assert report.backend == backend.name
        assert set(report.enforced) | set(report.missing) == set(Control)
        for missing in report.missing.values():
            assert missing.why
            assert missing.way_out
        assert self.sh(backend, "true").enforced == report.enforced
        assert self.python(backend, "pass").enforced == report.enforced

    @pytest.mark.parametrize(
        "control", sorted(set(Control) & {*"files processes network hostname privileges syscalls ipc".split()})
    )
    def test_what_is_said_to_be_held_is_held(self, backend: Backend, control: Control, tmp_path: Path) -> None:
        if not self.holds(backend, control):
            pytest.skip(f"{control} is not held here")
        canary = tmp_path / "canary"
        canary.write_text("of the host")
        given = f"HOST, CANARY = {os.uname().nodename!r}, {str(canary)!r}\n"
        result = self.python(backend, given + PROBES[control])

        assert result.value == "'held'", (result.value, result.stderr.whole)


MAIN = """
import dataclasses, sys
@dataclasses.dataclass
class P:
    x: int
(__name__, sys.modules[P.__module__].P is P)
"""

LEFT_IN_SESSION = """
import glob
seen = []
for name in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        seen.append(open(name, "rb").read())
    except OSError:
        pass
(open("kept").read(), "left" in globals(), any(b"sleep" in one for one in seen))
"""

PRINTS = "import sys\nprint('out')\nprint('err', file=sys.stderr)"

FILLS = """
import os
written = files = 0
try:
    for n in range(20):
        with open(f"/tmp/big{n}", "wb", buffering=0) as file:
            while file.tell() < 7 << 20:
                written += file.write(b"x" * 65536)
except OSError:
    pass
for n in range(20):
    if os.path.exists(f"/tmp/big{n}"):
        os.unlink(f"/tmp/big{n}")
try:
    while files < 5000:
        os.close(os.open(f"f{files}", os.O_CREAT | os.O_WRONLY))
        files += 1
except OSError:
    pass
print(written, files)
for n in range(files):
    os.unlink(f"f{n}")
"""

FORKS = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count + 1, flush=True)
"""

OPENS = """
import os
opened = []
try:
    while len(opened) < 5000:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
print(len(opened))
"""

PROBES = {
    "files": """
import os
found = [path for path in (CANARY, os.path.dirname(CANARY)) if os.path.exists(path)]
try:
    open("/usr/written", "w")
    found.append("/usr")
except OSError:
    pass
'held' if not found else found
""",
    "processes": """
import glob
found = glob.glob("/proc/[0-9]*")
'held' if len(found) < 5 else found
""",
    "network": """
import errno, socket
found = []
for address in ("192.0.2.1", "127.0.0.1", "169.254.169.254"):
    try:
        with socket.socket() as one:
            one.settimeout(1)
            one.connect((address, 80))
        found.append(address)
    except OSError as error:
        if error.errno not in (errno.ENETUNREACH, errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT):
            found.append((address, str(error)))
try:
    found += [name for _, name in socket.if_nameindex() if name != "lo"]
except OSError:
    pass
'held' if not found else found
""",
    "hostname": """
import os
'held' if os.uname().nodename != HOST else os.uname().nodename
""",
    "privileges": """
import os
found = [line for line in open("/proc/self/status") if line.startswith("Cap") and int(line.split()[1], 16)]
found += [line for line in open("/proc/self/status") if line.startswith("NoNewPrivs") and line.split()[1] != "1"]
'held' if not found and os.getuid() else found
""",
    "syscalls": """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
mode = next(line for line in open("/proc/self/status") if line.startswith("Seccomp:")).split()[1]
'held' if mode == "2" and c.syscall(425, 1, None) < 0 and ctypes.get_errno() in (1, 38) else (mode, ctypes.get_errno())
""",
    "ipc": """
import os
kinds = [kind for kind in ("shm", "msg", "sem") if os.path.exists(f"/proc/sysvipc/{kind}")]
found = [line for kind in kinds for line in open(f"/proc/sysvipc/{kind}").read().splitlines()[1:]]
'held' if not found else found
""",
}
