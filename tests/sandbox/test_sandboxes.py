"""Sandboxes: turns, retries, refusals, cancellation and sessions, from threads and event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.played import Gate, Played, ended, not_run, until_cancelled
from toolpost import (
    ConfigurationError,
    InputValidationError,
    OverloadedError,
    Sandbox,
    SandboxError,
    Sandboxes,
    SandboxLimits,
    SandboxResult,
)
from toolpost.calls.errors import CallCancelledError, ToolTimeoutError
from toolpost.sandbox import backends
from toolpost.sandbox.backend import Job
from toolpost.sandbox.outcome import Missing
from toolpost.sandbox.profile import Control


def sandboxes(backend: Any = None, **more: Any) -> Sandboxes:
    """Sandboxes over a back end that is played."""
    return Sandboxes(more.pop("profile", None), backend=backend or Played(), **more)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_a_program_runs_from_a_task_from_a_thread_and_from_several_loops() -> None:
    played = Played()

    with sandboxes(played) as boxes:
        blocked = boxes.run_blocking(["true"])
        loops = in_threads(4, lambda n: asyncio.run(boxes.run_python(f"{n}")))
        awaited = asyncio.run(boxes.run(["true"]))

    assert {result.status for result in [blocked, awaited, *loops]} == {"ok"}
    assert (played.starts, played.closes, len(played.jobs)) == (1, 1, 6)
    assert sorted(job.code for job in played.jobs if job.code) == ["0", "1", "2", "3"]


def test_an_awaited_program_runs_in_a_thread_that_is_not_the_loops() -> None:
    played = Played()

    with sandboxes(played) as boxes:
        asyncio.run(boxes.run(["true"]))
        boxes.run_blocking(["true"])

    assert len(played.threads - {threading.get_ident()}) == 1
    assert threading.get_ident() in played.threads  # the blocking twin


def test_what_is_asked_for_reaches_the_back_end() -> None:
    played = Played()
    profile = Sandbox(limits=SandboxLimits(wall_s=9.0, memory_bytes=64 << 20))

    with sandboxes(played, profile=profile, root="/somewhere", warm=3) as boxes:
        boxes.run_blocking(
            ["cat", "in"],
            stdin="text",
            files={"a/b.txt": "é", "c": b"\0"},
            env={"NAME": "value"},
            timeout_s=2,
            limits=SandboxLimits(cpu_s=1.0, memory_bytes=1 << 30),
            collect=False,
        )

    (job,) = played.jobs
    assert played.made_with == (profile, Path("/somewhere"), 3)
    assert (job.argv, job.stdin, job.files) == (("cat", "in"), b"text", {"a/b.txt": "é".encode(), "c": b"\0"})
    assert (dict(job.env), job.collect) == ({"NAME": "value"}, False)
    assert (job.limits.wall_s, job.limits.cpu_s, job.limits.memory_bytes) == (2.0, 1.0, 64 << 20)


@pytest.mark.parametrize(
    ("argv", "options", "said"),
    [
        ([], {}, "program first"),
        ("ls -l", {}, "program first"),
        (["a", 1], {}, "program first"),
        ([""], {}, "name a program"),
        (["a", "b\0c"], {}, "null characters"),
        (["a", "\ud800"], {}, "surrogate"),
        (["a", "x" * 200_000], {}, "too long"),
        (["a"] * 5000, {}, "too long"),
        (["a"], {"files": {"../up": b""}}, "plain relative path"),
        (["a"], {"files": {"/etc/passwd": b""}}, "plain relative path"),
        (["a"], {"files": {"a//b": b""}}, "plain relative path"),
        (["a"], {"files": {"x" * 256: b""}}, "plain relative path"),
        (["a"], {"files": {"a": b"x" * 2000}}, "fit"),
        (["a"], {"files": {"a": 5}}, "bytes or text"),
        (["a"], {"env": {"LD_PRELOAD": "x"}}, "load other code"),
        (["a"], {"env": {"A=B": "x"}}, "no name"),
        (["a"], {"timeout_s": 0}, "more than 0"),
        (["a"], {"timeout_s": float("nan")}, "more than 0"),
        (["a"], {"stdin": 5}, "bytes or text"),
    ],
)
def test_what_no_program_can_be_given_is_refused_before_anything_starts(
    argv: Any, options: dict[str, Any], said: str
) -> None:
    played = Played()

    with (
        sandboxes(played, profile=Sandbox(limits=SandboxLimits(file_bytes=1000))) as boxes,
        pytest.raises(InputValidationError, match=said),
    ):
        boxes.run_blocking(argv, **options)

    assert (played.jobs, played.starts) == ([], 0)


def test_an_option_that_is_none_is_a_mistake_of_the_program() -> None:
    with sandboxes() as boxes, pytest.raises(TypeError, match="'tiemout_s' is no option"):
        boxes.run_blocking(["true"], tiemout_s=5)  # type: ignore[call-arg]


def test_code_that_no_python_can_read_is_refused() -> None:
    with sandboxes() as boxes:
        for code in ("a\0b", "\ud800", b"1"):
            with pytest.raises(InputValidationError):
                boxes.run_python_blocking(code)  # type: ignore[arg-type]


# -- turns ------------------------------------------------------------------------------------------------------------


def test_more_programs_than_may_run_wait_their_turn_and_all_run() -> None:
    gate = Gate()
    played = Played(gate)

    async def many(boxes: Sandboxes) -> list[SandboxResult]:
        return await asyncio.gather(*(boxes.run(["true"]) for _ in range(20)))

    with sandboxes(played, max_running=3) as boxes, ThreadPoolExecutor(6) as pool:
        begun = [
            pool.submit(lambda: asyncio.run(many(boxes))),
            *(pool.submit(boxes.run_blocking, ["x"]) for _ in "12345"),
        ]
        for _ in range(3):
            assert gate.arrived.acquire(timeout=10)
        assert boxes.running == 3
        gate.go.set()
        results = [future.result(20) for future in begun]

    assert (len(results[0]), played.most, len(played.jobs)) == (20, 3, 25)
    assert boxes.running == boxes.waiting == 0


def test_who_gets_no_turn_by_his_deadline_is_told_that_nothing_ran() -> None:
    gate = Gate()

    with sandboxes(Played(gate), max_running=1) as boxes, ThreadPoolExecutor(1) as pool:
        first = pool.submit(boxes.run_blocking, ["first"])
        assert gate.arrived.acquire(timeout=10)
        with pytest.raises(ToolTimeoutError, match="max_running") as blocked:
            boxes.run_blocking(["second"], deadline_s=0.02)
        with pytest.raises(ToolTimeoutError) as awaited:
            asyncio.run(boxes.run(["third"], deadline_s=0.02))
        assert boxes.waiting == 0
        gate.go.set()
        assert first.result(10).status == "ok"
        assert boxes.run_blocking(["fourth"]).status == "ok"

    assert blocked.value.outcome == awaited.value.outcome == "not_run"


def test_a_deadline_shortens_what_the_program_may_take() -> None:
    played = Played()

    with sandboxes(played) as boxes:
        boxes.run_blocking(["true"], deadline_s=5.0)
        boxes.run_blocking(["true"], deadline_s=5000.0)

    assert 4.0 < played.jobs[0].limits.wall_s <= 5.0
    assert played.jobs[1].limits.wall_s == SandboxLimits().wall_s


def test_a_task_that_is_cancelled_while_it_waits_takes_no_turn() -> None:
    gate = Gate()

    async def wait_in_vain(boxes: Sandboxes) -> None:
        waits = asyncio.create_task(boxes.run(["second"]))
        while not boxes.waiting:
            await asyncio.sleep(0.001)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    played = Played(gate)
    with sandboxes(played, max_running=1) as boxes, ThreadPoolExecutor(1) as pool:
        pool.submit(boxes.run_blocking, ["first"])
        assert gate.arrived.acquire(timeout=10)
        asyncio.run(wait_in_vain(boxes))
        gate.go.set()
        assert boxes.run_blocking(["third"]).status == "ok"

    assert [job.argv for job in played.jobs] == [("first",), ("third",)]


# -- cancelling and closing -------------------------------------------------------------------------------------------


def test_a_cancelled_task_waits_until_its_program_is_gone() -> None:
    gone = threading.Event()
    begun = threading.Event()

    def slow_to_die(job: Job) -> SandboxResult:
        begun.set()
        result = until_cancelled(job)
        time.sleep(0.05)  # what killing takes
        gone.set()
        return result

    async def cancel(boxes: Sandboxes) -> None:
        task = asyncio.create_task(boxes.run(["sleep", "inf"]))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # a second time, which ends nothing sooner
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gone.is_set()

    with sandboxes(Played(slow_to_die)) as boxes:
        asyncio.run(cancel(boxes))

        assert boxes.running == 0


def test_closing_ends_what_runs_and_refuses_what_comes_later() -> None:
    played = Played(until_cancelled)
    boxes = sandboxes(played, max_running=2)

    with ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(boxes.run_blocking, ["x"]), pool.submit(lambda: asyncio.run(boxes.run(["y"])))]
        while len(played.jobs) < 2:
            time.sleep(0.001)
        boxes.close()
        for future in begun:
            with pytest.raises(CallCancelledError):
                future.result(10)

    with pytest.raises(OverloadedError, match="closed"):
        boxes.run_blocking(["z"])
    with pytest.raises(OverloadedError, match="closed"):
        asyncio.run(boxes.open_session())
    assert played.closes == 1


def test_it_is_closed_from_a_task_without_blocking_the_loop() -> None:
    played = Played()

    async def use() -> None:
        async with sandboxes(played) as boxes:
            await boxes.run(["true"])

    asyncio.run(use())

    assert played.closes == 1


def test_nothing_of_a_program_is_kept_when_it_has_ended() -> None:
    with sandboxes() as boxes:
        asyncio.run(boxes.run(["true"]))
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            asyncio.run(boxes.run(["true"]))
            boxes.run_blocking(["true"])
        gc.collect()

        assert len(os.listdir("/proc/self/fd")) <= before
        assert boxes._running == set()


def test_a_forked_child_starts_afresh_and_its_parent_goes_on() -> None:
    played = Played()
    boxes = sandboxes(played)
    boxes.run_blocking(["true"])
    boxes._turns.take_blocking(0)  # as if another thread ran a program in this moment

    child = os.fork()
    if child == 0:
        ended_well = boxes.backend is None and boxes.running == 0 and boxes.run_blocking(["true"]).status == "ok"
        os._exit(0 if ended_well and played.starts == 2 and played.closes == 0 else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (played.starts, boxes.running) == (1, 1)


def test_a_forked_child_is_told_that_its_parents_sessions_are_none_of_its_own() -> None:
    boxes = sandboxes()
    session = boxes.open_session_blocking("mine")
    session.run_blocking(["true"])
    session._kept.turn.take_blocking(0)  # as if another thread ran a program in it in this moment

    child = os.fork()
    if child == 0:
        code = 1
        try:
            session.run_blocking(["true"])
        except SandboxError as error:
            code = 0 if "forked" in error.message and boxes.open_session_blocking("mine").runs == 0 else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.ended is None


def test_what_is_told_of_output_may_break_and_the_program_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def program(job: Job) -> SandboxResult:
        assert job.on_output is not None
        for _ in range(3):
            job.on_output("stdout", b"x")
        return ended("ran")

    def broken(stream: str, data: bytes) -> None:
        raise RuntimeError("no screen")

    with sandboxes(Played(program)) as boxes:
        assert boxes.run_blocking(["true"], on_output=broken).status == "ok"

    assert caplog.text.count("on_output failed") == 1


# -- starts that fail -------------------------------------------------------------------------------------------------


class Fails:
    """Programs of which the first ones cannot be started."""

    def __init__(self, times: int, error: Callable[[], SandboxError] = not_run) -> None:
        self.times, self.error = times, error

    def __call__(self, job: Job) -> SandboxResult:
        self.times -= 1
        if self.times >= 0:
            raise self.error()
        return ended("ran")


def test_a_start_that_fails_is_tried_three_times_in_all() -> None:
    second, never = Played(Fails(2)), Played(Fails(99))

    with sandboxes(second) as boxes:
        assert boxes.run_blocking(["true"]).status == "ok"
    with sandboxes(never) as boxes, pytest.raises(SandboxError, match="tried 3 times: no memory for it") as caught:
        asyncio.run(boxes.run(["true"]))

    assert (len(second.jobs), len(never.jobs)) == (3, 3)
    assert (caught.value.outcome, caught.value.retryable, caught.value.details["attempts"]) == ("not_run", True, 3)


def test_a_back_end_that_does_not_start_is_made_anew_each_time() -> None:
    class Stubborn(Played):
        def start(self) -> None:
            super().start()
            if self.starts < 3:
                raise not_run("no launcher")

    stubborn = Stubborn()
    with sandboxes(stubborn) as boxes:
        result = boxes.run_blocking(["true"])

    assert (result.status, stubborn.starts, stubborn.closes) == ("ok", 3, 3)


def test_what_may_have_run_is_never_tried_again() -> None:
    played = Played(Fails(99, lambda: SandboxError("the sandbox was lost")))

    with sandboxes(played) as boxes, pytest.raises(SandboxError, match="was lost") as caught:
        boxes.run_blocking(["true"])

    assert (len(played.jobs), caught.value.outcome) == (1, "ran")


# -- choosing ---------------------------------------------------------------------------------------------------------

NO_FILES = {Control.FILES: Missing("there are no mount namespaces", "set kernel.unprivileged_userns_clone=1")}


class Package:
    """Stands for an installed package with one back end; factory is what its entry point names."""

    def __init__(self, name: str, factory: Any) -> None:
        self.name, self._factory = name, factory
        self.loaded = False

    @property
    def factory(self) -> Any:
        self.loaded = True
        return self._factory

    def point(self) -> metadata.EntryPoint:
        module = f"stand_in_{self.name}_{id(self)}"
        sys.modules[module] = self  # type: ignore[assignment]
        return metadata.EntryPoint(self.name, f"{module}:factory", backends.GROUP)


def without_engine(profile: Sandbox, root: Path, warm: int) -> Played:
    raise RuntimeError("no engine")


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has other back ends stand for our own, and for those of plugins."""

    def set_up(ours: dict[str, Played], plugins: Sequence[Package] = ()) -> None:
        monkeypatch.setattr(backends, "BUILT_IN", {name: f"tests.sandbox.stand_in:{name}" for name in ours})
        monkeypatch.setattr(backends, "import_module", lambda module: type("M", (), ours))
        monkeypatch.setattr(metadata, "entry_points", lambda group: [plugin.point() for plugin in plugins])

    return set_up


def test_the_first_back_end_that_holds_to_everything_is_taken_and_no_plugin_is_loaded(built_in: Any) -> None:
    worse, better, plugin = Played(missing=NO_FILES), Played(name="better"), Package("other", Played())
    built_in({"native": worse, "bubblewrap": better}, [plugin])

    with Sandboxes() as boxes:
        boxes.run_blocking(["true"])

        assert boxes.backend == "better"
    assert (len(better.jobs), worse.jobs, worse.starts, plugin.loaded) == (1, [], 0, False)


def test_a_plugin_is_taken_where_our_own_lack_something(built_in: Any) -> None:
    lacking, plugin = Played(missing=NO_FILES), Package("containers", Played(name="containers"))
    built_in({"native": lacking}, [Package("broken", without_engine), plugin])

    with Sandboxes() as boxes:
        boxes.run_blocking(["true"])

        assert boxes.backend == "containers"


def test_where_nothing_holds_to_all_of_it_the_call_is_refused_with_what_is_missing_and_the_way_out(
    built_in: Any,
) -> None:
    lacking = Played(name="native", missing=NO_FILES)
    built_in({"native": lacking}, [Package("broken", without_engine)])

    with Sandboxes() as boxes, pytest.raises(SandboxError) as caught:
        boxes.run_blocking(["true"])

    said, details = str(caught.value), caught.value.details["missing"]
    assert "native lacks files (there are no mount namespaces; set kernel.unprivileged_userns_clone=1)" in said
    assert "broken lacks" in said
    assert "no engine" in said
    assert details["native"]["files"]["way_out"] == "set kernel.unprivileged_userns_clone=1"
    assert (caught.value.outcome, caught.value.retryable) == ("not_run", False)
    assert (lacking.jobs, lacking.starts) == ([], 0)


def test_a_profile_that_requires_less_is_served_by_less_and_one_that_requires_more_is_refused(built_in: Any) -> None:
    no_memory = {Control.MEMORY: Missing("no cgroup is delegated", "run it under systemd-run --user")}
    built_in({"native": Played(missing=no_memory)})

    with Sandboxes() as boxes:
        assert boxes.run_blocking(["true"]).status == "ok"
    strict = Sandbox(require=Sandbox().require | {Control.MEMORY})
    with (
        Sandboxes(strict) as boxes,
        pytest.raises(SandboxError, match=r"memory \(no cgroup is delegated; run it"),
    ):
        boxes.run_blocking(["true"])


def test_a_back_end_that_is_named_is_not_replaced_by_another(built_in: Any) -> None:
    built_in({"native": Played(missing=NO_FILES), "bubblewrap": Played(name="bubblewrap")})

    with Sandboxes(backend="native") as boxes, pytest.raises(SandboxError, match="lacks files"):
        boxes.run_blocking(["true"])


def test_a_name_that_nobody_has_and_one_that_several_have_are_refused(built_in: Any) -> None:
    twice = [Package("double", Played()), Package("double", Played())]
    built_in({"native": Played()}, twice)

    with pytest.raises(ConfigurationError, match="did you mean 'native'"):
        Sandboxes(backend="nativ").run_blocking(["true"])
    with pytest.raises(ConfigurationError, match="several packages"):
        Sandboxes(backend="double").run_blocking(["true"])


def test_the_report_tells_of_every_back_end_that_may_be_chosen_and_starts_none(built_in: Any) -> None:
    ours = {"native": Played(name="native"), "bubblewrap": Played(name="bubblewrap", missing=NO_FILES)}
    built_in(ours, [Package("broken", without_engine)])

    reports = Sandboxes().report()

    assert [report.backend for report in reports] == ["native", "bubblewrap", "broken"]
    assert reports[1].missing == NO_FILES
    assert "no engine" in reports[2].missing[Control.FILES].why
    assert [played.starts for played in ours.values()] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warm": -1}, "warm must be a whole number"),
        ({"max_running": 0}, "max_running must be a whole number"),
        ({"max_sessions": True}, "max_sessions must be a whole number"),
        ({"session_idle_s": 0}, "session_idle_s must be a number of seconds"),
        ({"session_life_s": "1h"}, "session_life_s must be a number of seconds"),
        ({"backend": 5}, "backend must be a name or callable"),
        ({"profile": {"cpu": 1}}, "takes a Sandbox, got dict"),
    ],
)
def test_settings_that_are_wrong_are_refused_when_it_is_made(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Sandboxes(**settings)


def test_the_root_comes_from_the_environment_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Sandboxes().root == Path("/tmp/tool-exec")

    monkeypatch.setenv("SANDBOX_ROOT", "/srv/boxes")

    assert Sandboxes().root == Path("/srv/boxes")
    assert Sandboxes(root="/elsewhere").root == Path("/elsewhere")


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_programs_of_a_session_run_in_one_sandbox_one_after_the_other() -> None:
    played = Played()

    async def use(boxes: Sandboxes) -> None:
        async with boxes.session() as session:
            await asyncio.gather(*(session.run_python(f"{n}") for n in range(5)))
            assert session.runs == 5

    with sandboxes(played, max_running=4) as boxes:
        asyncio.run(use(boxes))
        with boxes.session() as session:
            session.run_blocking(["true"])
            assert len(played.open_sessions) == 1

    assert (played.most, played.open_sessions) == (1, [])
    assert len({job.session for job in played.jobs}) == 2


def test_a_result_in_a_session_has_the_files_that_are_new_or_changed() -> None:
    states = iter(
        [{"a": b"1", "b": b"1"}, {"a": b"1", "b": b"2", "c": b""}, {"a": b"1", "b": b"2", "c": b""}, {}, {"a": b"1"}]
    )

    def program(job: Job) -> SandboxResult:
        return ended(artifacts=next(states))

    with sandboxes(Played(program)) as boxes, boxes.session() as session:
        given = [dict(session.run_blocking(["true"]).artifacts) for _ in range(5)]

    assert given == [{"a": b"1", "b": b"1"}, {"b": b"2", "c": b""}, {}, {}, {}]


def test_a_session_is_found_again_by_its_name() -> None:
    played = Played()

    with sandboxes(played) as boxes:
        first, again, other = (boxes.open_session_blocking(name) for name in ("a", "a", "b"))
        for session in (first, again, other):
            session.run_blocking(["true"])

    names = [job.session for job in played.jobs]
    assert names[0] == names[1] != names[2]
    assert (first.runs, again.runs, other.runs) == (2, 2, 1)


def test_there_are_only_so_many_sessions_and_one_that_is_closed_makes_room() -> None:
    with sandboxes(max_sessions=2) as boxes:
        one, _two = boxes.open_session_blocking(), boxes.open_session_blocking()
        with pytest.raises(OverloadedError, match="max_sessions"):
            boxes.open_session_blocking()
        one.close()

        assert boxes.open_session_blocking().name


def test_a_session_that_is_idle_for_too_long_ends_by_itself() -> None:
    played = Played()

    with sandboxes(played, session_idle_s=0.05) as boxes:
        session = boxes.open_session_blocking("mine")
        session.run_blocking(["true"])
        until = time.monotonic() + 10
        while played.open_sessions and time.monotonic() < until:
            time.sleep(0.01)

        assert played.open_sessions == []
        assert session.ended is not None
        with pytest.raises(SandboxError, match=r"nothing ran in it for 0\.05 s") as caught:
            session.run_blocking(["true"])
        assert caught.value.outcome == "not_run"
        assert boxes.open_session_blocking("mine").runs == 0


def test_no_program_of_a_session_runs_beyond_its_life() -> None:
    played = Played()

    with sandboxes(played, session_life_s=5.0) as boxes, boxes.session() as session:
        session.run_blocking(["true"])
        session._kept.ends_s = time.monotonic() - 1

        with pytest.raises(SandboxError, match="as old as a session may be"):
            session.run_blocking(["true"])

    assert 4.0 < played.jobs[0].limits.wall_s <= 5.0
    assert len(played.jobs) == 1


def test_a_session_whose_sandbox_was_lost_has_ended() -> None:
    played = Played(Fails(1, lambda: SandboxError("killed from outside")))

    with sandboxes(played) as boxes:
        session = boxes.open_session_blocking("mine")
        with pytest.raises(SandboxError, match="killed from outside"):
            session.run_blocking(["true"])

        assert session.ended == "its sandbox was lost"
        assert (played.open_sessions, boxes.open_session_blocking("mine").runs) == ([], 0)


def test_what_cannot_be_started_in_a_session_that_has_files_is_not_tried_again() -> None:
    runs: list[Job] = []

    def program(job: Job) -> SandboxResult:
        runs.append(job)
        if len(runs) > 1:
            raise not_run("the session is gone")
        return ended("ran")

    with sandboxes(Played(program)) as boxes, boxes.session() as session:
        session.run_blocking(["true"])
        with pytest.raises(SandboxError, match="tried once: the session is gone"):
            session.run_blocking(["true"])

    assert len(runs) == 2


def test_a_session_that_cannot_be_ended_is_logged_and_is_over_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Played):
        def close_session(self, session: str) -> None:
            raise OSError("stuck")

    def lost(job: Job) -> SandboxResult:
        raise SandboxError("killed from outside")

    with sandboxes(Stuck(lost)) as boxes:
        session = boxes.open_session_blocking("mine")
        with pytest.raises(SandboxError, match="killed from outside"):
            session.run_blocking(["true"])

        assert session.ended
        assert "could not be ended" in caplog.text


def test_a_profile_that_starts_no_program_runs_code_alone() -> None:
    with sandboxes(profile=Sandbox(syscalls="strict")) as boxes:
        assert boxes.run_python_blocking("1").status == "ok"
        with pytest.raises(InputValidationError, match="starts no program"):
            boxes.run_blocking(["true"])


def test_a_session_of_other_sandboxes_is_refused() -> None:
    with sandboxes() as one, sandboxes() as other, pytest.raises(ConfigurationError, match="other Sandboxes"):
        other.run_blocking(["true"], session=one.open_session_blocking())
