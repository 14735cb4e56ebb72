"""Worker processes: what crosses, what is killed, what survives, and that nothing is left behind."""

import asyncio
import builtins
import functools
import importlib
import math
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.context import ToolContext
from toolpost.calls.errors import (
    CallCancelledError,
    ConfigurationError,
    InputValidationError,
    NotSupportedError,
    OperationError,
    OutputValidationError,
    OverloadedError,
    ToolError,
    ToolTimeoutError,
)
from toolpost.calls.events import Event, Logged, Progressed
from toolpost.runners import processes as module_under_test
from toolpost.runners.children import WorkerTraceback
from toolpost.runners.processes import Processes, Target
from toolpost.runners.threads import from_body

WAIT_S = 20.0


# -- bodies: found by name in the workers; where a builtin will do, a fresh worker need not import this file ----------

hang, die, exit_now, get_pid, mark = signal.pause, os.abort, os._exit, os.getpid, os.mkdir


def add(a: int, b: int = 10) -> int:
    return a + b


def echo(value: Any) -> Any:
    return value


def takes_all(arguments: dict[str, Any]) -> list[str]:
    return sorted(arguments)


async def doubles(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


def raises(kind: str) -> None:
    raise getattr(builtins, kind)("because")


class Custom(Exception):
    pass


class Stubborn(Exception):
    def __init__(self, code: int, what: object) -> None:
        super().__init__(f"code {code}")
        self.what = what


def raises_custom() -> None:
    raise Custom("mine")


def raises_what_cannot_cross() -> None:
    raise Stubborn(7, lambda: None)


def raises_tool_error() -> None:
    raise ToolError("no such order", retryable=True, code="NOT_FOUND")


def raises_input_error() -> None:
    raise InputValidationError(problems=[{"path": "/a", "loc": ("a",), "msg": "a is odd"}])


def raises_cancelled() -> None:
    raise asyncio.CancelledError


def makes_generator() -> Any:
    yield 1


class Unreadable:
    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def makes_unreadable() -> Unreadable:
    return Unreadable()


def prints() -> str:
    print("to standard output")
    os.write(1, b"raw bytes\n")
    return sys.stdin.read()


def tells(ctx: ToolContext) -> str:
    ctx.progress(1, 2, "half")
    ctx.log("working", "warning", lock=threading.Lock())
    return f"{ctx.tool} {ctx.call_id} {ctx.user_id} {ctx.extras} {ctx.memory}"


def tells_late(ctx: ToolContext, go: str) -> None:
    def later() -> None:
        while not os.path.exists(go):
            os.sched_yield()
        ctx.progress(99)
        os.remove(go)

    ctx.progress(1)
    threading.Thread(target=later).start()


def release(go: str) -> None:
    Path(go).touch()
    while os.path.exists(go):
        os.sched_yield()


def hangs_with_a_child(ctx: ToolContext) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    ctx.progress(os.getpid(), child.pid)
    child.wait()


def holds_the_interpreter(ctx: ToolContext) -> None:
    ctx.progress(os.getpid())
    re.match("(a+)+$", "a" * 60 + "b")


def leaves_a_child_and_dies(ctx: ToolContext) -> None:
    ctx.progress(os.getpid(), subprocess.Popen(["sleep", "1000"]).pid)
    os._exit(4)


def closes_everything() -> None:
    os.closerange(3, 256)
    threading.Event().wait()


def forks() -> str:
    if os.fork() == 0:
        return "from the wrong process"
    os.wait()
    return "once"


def doubled(func: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(func)
    def wrapper(*args: int, **kwargs: int) -> int:
        return 2 * func(*args, **kwargs)

    return wrapper


@doubled
def decorated(n: int) -> int:
    return n + 1


def through_pipeline(func: Callable[..., Any]) -> Callable[..., Any]:
    """As the declaring decorators do: a direct call would go through an executor."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a worker must run the body itself")

    wrapper.__toolpost_raw__ = func  # type: ignore[attr-defined]
    del wrapper.__wrapped__  # type: ignore[attr-defined]  # so that only the mark leads to the body
    return wrapper


@through_pipeline
@doubled
def declared(n: int) -> int:
    return n + 1


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def next(self, by: int = 1) -> int:
        self.count += by
        return self.count

    @through_pipeline
    def declared(self) -> int:
        return -self.count

    @classmethod
    def called(cls) -> str:
        return cls.__name__

    @staticmethod
    def plain(n: int) -> int:
        return n * n

    def __call__(self, n: int) -> int:
        return self.count * n


class Sub(Counter):
    pass


# -- what the tests share ---------------------------------------------------------------------------------------------


class Told:
    """A listener that keeps events and tells when the first has come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.first = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.first.set()

    def pids(self) -> tuple[int, int]:
        """The process of the body, and the one that it started (0: none)."""
        event = self.events[0]
        assert isinstance(event, Progressed)
        return int(event.value), int(event.total or 0)


class Impatient(Clock):
    """A clock whose every wait is over as soon as an event is set."""

    __slots__ = ("_event",)

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
        assert self._event.wait(WAIT_S)
        return False


def passed() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def ended(process: int) -> bool:
    """Whether a process ends within a reasonable time, or has."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], WAIT_S)[0])
    finally:
        os.close(handle)


def reaped(process: int) -> bool:
    return not os.path.exists(f"/proc/{process}")


@pytest.fixture(scope="module")
def warm() -> Iterator[Processes]:
    """One pool for what leaves its workers alive."""
    pool = Processes(2)
    yield pool
    pool.close()


@pytest.fixture
def pools() -> Iterator[Callable[..., Processes]]:
    made: list[Processes] = []

    def make(max_workers: int = 1, **options: float) -> Processes:
        made.append(Processes(max_workers, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def call(pool: Processes, func: Callable[..., Any], **kwargs: Any) -> Any:
    return pool.run_blocking(Target.of(func), kwargs, WAIT_S, SYSTEM_CLOCK)


async def cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def hanging(pool: Processes) -> tuple["asyncio.Task[Any]", int]:
    """A task whose call hangs in a worker, and the worker's process."""
    given = asyncio.Event()
    give = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, given.set)
    task = asyncio.ensure_future(pool.run(Target.of(hang), {}, on_start=give))
    await given.wait()
    [child] = pool._children
    return task, child.process.pid


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_body_runs_in_another_process_and_its_value_comes_back(warm):
    assert call(warm, add, a=1, b=2) == 3
    assert call(warm, add, a=1) == 11
    assert call(warm, get_pid) != os.getpid()


async def test_a_body_can_be_awaited(warm):
    assert await warm.run(Target.of(add), {"a": 1, "b": 2}) == 3


def test_a_warm_worker_is_used_again(warm):
    assert call(warm, get_pid) == call(warm, get_pid)


async def test_ten_thousand_quick_calls_come_back_in_order_from_two_workers(warm):
    target = Target.of(add)

    values = await asyncio.gather(*[warm.run(target, {"a": n, "b": 0}) for n in range(10_000)])

    assert values == list(range(10_000))
    assert len(warm._children) <= 2


def test_many_threads_may_block_on_one_pool(warm):
    sums = []

    def caller() -> None:
        target = Target.of(add)
        sums.append(sum(warm.run_blocking(target, {"a": n, "b": 0}, WAIT_S, SYSTEM_CLOCK) for n in range(100)))

    callers = [threading.Thread(target=caller) for _ in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(WAIT_S)

    assert sums == [sum(range(100))] * 6


def test_loops_may_come_and_go(warm):
    target = Target.of(add)

    assert [asyncio.run(warm.run(target, {"a": n, "b": 0})) for n in range(10)] == list(range(10))


def test_large_arguments_and_results_cross(warm):
    value = os.urandom(5_000_000)

    assert call(warm, echo, value=value) == value


def test_an_async_body_runs_on_a_loop_of_the_worker(warm):
    assert call(warm, doubles, n=21) == 42


def test_a_body_that_takes_all_arguments_as_one_dict_gets_that(warm):
    target = Target.of(takes_all, takes_mapping=True)

    assert warm.run_blocking(target, {"b": 1, "a": 2}, WAIT_S, SYSTEM_CLOCK) == ["a", "b"]


def test_on_start_is_called_once_the_call_was_given_to_a_worker(warm):
    started = []

    warm.run_blocking(Target.of(add), {"a": 1}, WAIT_S, SYSTEM_CLOCK, on_start=lambda: started.append(True))

    assert started == [True]


def test_what_a_body_prints_goes_to_standard_error_and_its_input_is_empty(pools, capfd):
    pool = pools()

    assert call(pool, prints) == ""
    assert call(pool, add, a=1, b=2) == 3

    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == ["raw bytes", "to standard output"]


def test_a_body_that_forks_answers_once(pools):
    pool = pools()

    assert call(pool, forks) == "once"
    assert call(pool, add, a=1, b=2) == 3


# -- targets ----------------------------------------------------------------------------------------------------------


def test_methods_take_their_instance_along_as_it_was_when_registered(warm):
    counter = Counter(5)
    target = Target.of(counter.next)
    counter.count = 100

    assert warm.run_blocking(target, {"by": 2}, WAIT_S, SYSTEM_CLOCK) == 7


@pytest.mark.parametrize(
    ("func", "kwargs", "value"),
    [
        pytest.param(Sub(1).next, {}, 2, id="inherited method"),
        pytest.param(Sub.called, {}, "Sub", id="class method of a subclass"),
        pytest.param(Counter.plain, {"n": 3}, 9, id="static method"),
        pytest.param(Counter(2), {"n": 3}, 6, id="callable instance"),
        pytest.param(functools.partial(add, b=5), {"a": 1}, 6, id="partial"),
        pytest.param(math.factorial, {}, None, id="builtin"),
        pytest.param(decorated, {"n": 1}, 4, id="decorated, with its decorator"),
        pytest.param(decorated.__wrapped__, {"n": 1}, 2, id="what a decorator wraps"),  # type: ignore[attr-defined]
        pytest.param(declared, {"n": 1}, 4, id="declared, with the author's decorator and without ours"),
        pytest.param(Counter(3).declared, {}, -3, id="declared method"),
        pytest.param(doubled(add), {"a": 1}, 11, id="wrapped at registration"),
    ],
)
def test_a_worker_finds(warm, func, kwargs, value):
    if func is math.factorial:
        with pytest.raises(TypeError, match="keyword"):
            call(warm, func, x=3)
        return

    assert call(warm, func, **kwargs) == value


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Writes a module that is importable here, and so in workers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> ModuleType:
        (tmp_path / "written_module.py").write_text(source)
        sys.modules.pop("written_module", None)
        importlib.invalidate_caches()
        return importlib.import_module("written_module")

    return write


def test_a_worker_follows_the_parents_import_path_as_it_is_at_the_call(warm, written):
    call(warm, add, a=1)

    module = written("def body(): return 'found'")

    assert call(warm, module.body) == "found"


def test_a_module_that_cannot_be_imported_says_so_and_is_tried_anew(pools, written, tmp_path):
    pool = pools()
    module = written("def body(): return 'there'")
    target = Target.of(module.body)
    (tmp_path / "written_module.py").write_text("1 / 0")

    with pytest.raises(ConfigurationError, match=r"written_module.body.*ZeroDivisionError") as caught:
        pool.run_blocking(target, {}, WAIT_S, SYSTEM_CLOCK)
    (tmp_path / "written_module.py").write_text("def body(): return 'mended'")

    assert "1 / 0" in str(caught.value.__cause__)
    assert pool.run_blocking(target, {}, WAIT_S, SYSTEM_CLOCK) == "mended"


def test_recycling_loads_modules_afresh(pools, written):
    pool = pools()
    module = written("def body(): return 'old'")
    assert call(pool, module.body) == "old"

    module = written("def body(): return 'new version'")
    before = call(pool, module.body)
    pool.recycle()

    assert before == "old"
    assert call(pool, module.body) == "new version"


def script(text: str, tmp_path: Path, *, as_file: bool = True) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    what = [str(path)] if as_file else ["-c", path.read_text()]
    return subprocess.run([sys.executable, "-W", "ignore", *what], capture_output=True, text=True, timeout=60, env=env)


MAIN = """
from dataclasses import dataclass
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.runners.processes import Processes, Target

@dataclass
class Point:
    x: int

def mirror(point):
    return Point(-point.x)

def run():
    pool = Processes(1)
    try:
        print(pool.run_blocking(Target.of(mirror), {"point": Point(3)}, 20.0, SYSTEM_CLOCK))
    except Exception as error:
        print(type(error).__name__, error)
    pool.close()
"""


def test_functions_and_classes_of_a_script_cross(tmp_path):
    ran = script(MAIN + "\nif __name__ == '__main__':\n    run()\n", tmp_path)

    assert (ran.stdout, ran.stderr) == ("Point(x=-3)\n", "")


def test_a_script_without_a_main_guard_is_told_so_instead_of_multiplying(tmp_path):
    ran = script(MAIN + "\nrun()\n", tmp_path)

    assert "ConfigurationError" in ran.stdout + ran.stderr
    assert 'if __name__ == "__main__":' in ran.stdout + ran.stderr


def test_functions_of_an_interactive_session_are_refused(tmp_path):
    ran = script(MAIN + "\nrun()\n", tmp_path, as_file=False)

    assert re.match(r"ConfigurationError __main__\.mirror cannot run .*define it in a module", ran.stdout)


# -- what bodies raise and return -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_a_body_raises_comes_back_as_itself_with_the_traceback_of_the_worker(warm, kind):
    before = call(warm, get_pid)

    with pytest.raises(getattr(builtins, kind)) as caught:
        call(warm, raises, kind=kind)

    assert caught.value.args == ("because",)
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in raises" in str(caught.value.__cause__)
    assert from_body(caught.value) == (kind != "ValueError")
    assert call(warm, get_pid) == before


async def test_a_cancellation_that_a_body_raises_can_be_told_from_the_waiters_own(warm):
    with pytest.raises(asyncio.CancelledError) as caught:
        await warm.run(Target.of(raises_cancelled), {})

    assert from_body(caught.value)


def test_stop_iteration_becomes_a_runtime_error(warm):
    with pytest.raises(RuntimeError, match="StopIteration"):
        call(warm, raises, kind="StopIteration")


def test_an_authors_exception_comes_back_as_itself(warm):
    with pytest.raises(Exception, match="mine") as caught:
        call(warm, raises_custom)

    assert type(caught.value) is Custom


def test_a_tool_error_keeps_its_code_and_hint(warm):
    with pytest.raises(ToolError, match="no such order") as caught:
        call(warm, raises_tool_error)

    assert (caught.value.code, caught.value.retryable) == ("NOT_FOUND", True)


def test_an_input_error_keeps_its_problems(warm):
    with pytest.raises(InputValidationError) as caught:
        call(warm, raises_input_error)

    assert caught.value.errors() == [{"path": "/a", "loc": ("a",), "msg": "a is odd"}]


def test_an_exception_that_cannot_cross_comes_as_its_type_words_and_traceback(warm):
    with pytest.raises(OperationError, match=r"Stubborn: code 7") as caught:
        call(warm, raises_what_cannot_cross)

    assert "raises_what_cannot_cross" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("func", "message"),
    [
        pytest.param(makes_generator, "type generator cannot be sent", id="generator"),
        pytest.param(makes_unreadable, "cannot be read from its worker process", id="fails when read"),
    ],
)
def test_a_result_that_cannot_cross_is_refused(warm, func, message):
    with pytest.raises(OutputValidationError, match=message):
        call(warm, func)

    assert call(warm, add, a=1, b=2) == 3


def test_an_argument_that_cannot_cross_is_refused_by_name(warm):
    with pytest.raises(NotSupportedError, match=r"argument 'value' of type _thread.lock.*echo"):
        call(warm, echo, value=threading.Lock())


def test_an_argument_that_fails_when_read_is_refused(warm):
    with pytest.raises(NotSupportedError, match=r"arguments cannot be read.*ValueError"):
        call(warm, echo, value=Unreadable())


def test_a_context_with_extras_that_cannot_cross_is_refused(warm):
    with pytest.raises(NotSupportedError, match="extras"):
        call(warm, tells, ctx=ToolContext(extras={"lock": threading.Lock()}))


# -- what a body tells ------------------------------------------------------------------------------------------------


def test_progress_and_log_lines_reach_the_listener_before_the_result(warm):
    told = Told()
    ctx = ToolContext(call_id="c1", tool="T", user_id="ada", extras={"k": 1}, memory=object())  # type: ignore[arg-type]

    said = warm.run_blocking(Target.of(tells), {"ctx": ctx}, WAIT_S, SYSTEM_CLOCK, on_event=told)

    progressed, logged = told.events
    assert progressed == Progressed(call_id="c1", tool="T", value=1, total=2, message="half")
    assert isinstance(logged, Logged)
    assert (logged.level, logged.message) == ("warning", "working")
    assert "lock" in logged.fields["lock"]
    assert said == "T c1 ada {'k': 1} None"


def test_without_a_listener_the_callers_context_tells(warm):
    told, logs = Told(), []
    ctx = ToolContext(call_id="c2", tool="T", _emit=told, _logs=logs)

    call(warm, tells, ctx=ctx)

    assert [type(event) for event in told.events] == [Progressed, Logged]
    assert logs == ["WARNING working"]


def test_a_listener_that_breaks_is_logged_and_the_call_goes_on(warm, caplog):
    def breaks(event: Event) -> None:
        raise RuntimeError("listener")

    said = warm.run_blocking(Target.of(tells), {"ctx": ToolContext(tool="T")}, WAIT_S, SYSTEM_CLOCK, on_event=breaks)

    assert said.startswith("T")
    assert "a listener failed" in caplog.text


def test_what_a_body_leaves_running_cannot_tell_into_the_next_call(pools, tmp_path):
    pool, told, later = pools(), Told(), Told()
    go = str(tmp_path / "go")

    pool.run_blocking(Target.of(tells_late), {"ctx": ToolContext(), "go": go}, WAIT_S, SYSTEM_CLOCK, on_event=told)
    pool.run_blocking(Target.of(release), {"go": go}, WAIT_S, SYSTEM_CLOCK, on_event=later)

    assert [e.value for e in told.events if isinstance(e, Progressed)] == [1]
    assert later.events == []


# -- killing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", [hangs_with_a_child, holds_the_interpreter])
def test_a_body_past_its_deadline_is_killed_with_all_that_it_started(pools, func):
    pool, told = pools(), Told()

    with pytest.raises(ToolTimeoutError, match=r"did not end within 2 s and was killed") as caught:
        pool.run_blocking(Target.of(func), {"ctx": ToolContext()}, 2.0, Impatient(told.first), on_event=told)

    assert caught.value.outcome == "stopped"
    process, grandchild = told.pids()
    assert reaped(process)
    assert grandchild == 0 or ended(grandchild)
    assert call(pool, get_pid) != process


def test_a_real_deadline_is_kept_while_the_worker_still_starts(pools):
    with pytest.raises(ToolTimeoutError) as caught:
        pools().run_blocking(Target.of(hang), {}, 0.001, SYSTEM_CLOCK)

    assert caught.value.outcome in ("stopped", "not_run")


async def test_a_call_whose_deadline_passes_in_the_queue_never_runs(pools, tmp_path):
    pool = pools()
    running, _ = await hanging(pool)
    made = tmp_path / "made"

    with pytest.raises(ToolTimeoutError, match=r"never ran.*max_workers") as caught:
        pool.run_blocking(Target.of(mark), {"path": str(made)}, 2.0, Impatient(passed()))

    assert caught.value.outcome == "not_run"
    assert pool.queued == 0
    await cancel(running)
    assert await pool.run(Target.of(get_pid), {}) > 0
    assert not made.exists()


async def test_a_cancelled_task_kills_its_body_and_goes_on_once_it_is_gone(pools, monkeypatch):
    pool, may_bury, bury = pools(), threading.Event(), Processes._bury

    def buries_when_allowed(self: Processes, selector: Any) -> None:
        if self._dying:
            assert may_bury.wait(WAIT_S)
        bury(self, selector)

    monkeypatch.setattr(Processes, "_bury", buries_when_allowed)
    task, process = await hanging(pool)

    task.cancel()
    early, _ = await asyncio.wait({task}, timeout=0.05)
    may_bury.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert not early
    assert not from_body(caught.value)
    assert reaped(process)
    assert await pool.run(Target.of(get_pid), {}) != process


async def test_a_task_cancelled_while_queued_never_runs_its_body(pools, tmp_path):
    pool = pools()
    running, _ = await hanging(pool)
    made = tmp_path / "made"
    queued = asyncio.ensure_future(pool.run(Target.of(mark), {"path": str(made)}))
    await asyncio.sleep(0)
    assert pool.queued == 1

    await cancel(queued)
    await cancel(running)

    assert await pool.run(Target.of(get_pid), {}) > 0
    assert not made.exists()


async def test_a_queued_call_gets_a_new_worker_when_the_running_one_is_killed(pools):
    pool = pools()
    running, process = await hanging(pool)
    queued = asyncio.ensure_future(pool.run(Target.of(get_pid), {}))
    await asyncio.sleep(0)

    running.cancel()

    assert await queued != process


def test_an_interrupt_of_the_waiting_thread_kills_the_body_and_goes_on(pools):
    pool, given, processes = pools(), threading.Event(), []

    class Interrupted(Clock):
        __slots__ = ()

        def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
            assert given.wait(WAIT_S)
            processes.extend(child.process.pid for child in pool._children)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run_blocking(Target.of(hang), {}, 2.0, Interrupted(), on_start=given.set)

    [process] = processes
    assert ended(process)


# -- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "kwargs", "message"),
    [
        pytest.param(die, {}, r"abort: its worker process was ended by SIGABRT", id="signal"),
        pytest.param(exit_now, {"status": 3}, r"exited with code 3 before the body returned", id="exit"),
    ],
)
async def test_a_body_whose_process_dies_fails_with_the_reason_and_the_pool_lives_on(pools, func, kwargs, message):
    pool = pools()

    with pytest.raises(OperationError, match=message):
        call(pool, func, **kwargs)
    with pytest.raises(OperationError, match=message):
        await pool.run(Target.of(func), kwargs)

    assert call(pool, get_pid) > 0


def test_what_a_dead_worker_left_running_is_killed(pools):
    pool, told = pools(), Told()

    with pytest.raises(OperationError, match="code 4"):
        pool.run_blocking(
            Target.of(leaves_a_child_and_dies), {"ctx": ToolContext()}, WAIT_S, SYSTEM_CLOCK, on_event=told
        )

    process, left = told.pids()
    assert reaped(process)
    assert ended(left)


def test_an_idle_worker_that_dies_is_replaced(pools):
    pool = pools()
    first = call(pool, get_pid)

    os.kill(first, signal.SIGKILL)
    assert ended(first)

    assert call(pool, get_pid) != first


def test_a_body_that_closes_the_workers_channel_is_killed_and_named(pools, monkeypatch):
    monkeypatch.setattr(module_under_test, "GRACE_S", 0.01)

    with pytest.raises(OperationError, match=r"closes_everything: .* lost its channel"):
        call(pools(), closes_everything)


def test_workers_outlive_the_thread_that_first_called(pools):
    pool = pools()
    pids = []

    for _ in range(2):
        caller = threading.Thread(target=lambda: pids.append(call(pool, get_pid)))
        caller.start()
        caller.join(WAIT_S)

    assert pids[0] == pids[1] == call(pool, get_pid)


@pytest.mark.parametrize("body", ["hangs_with_a_child", "holds_the_interpreter"])
def test_workers_and_what_they_started_die_with_a_parent_that_is_killed(tmp_path, body):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    text = f"""
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.context import ToolContext
from toolpost.runners.processes import Processes, Target
from {__name__} import {body}
tell = lambda event: print(int(event.value), int(event.total or 0), flush=True)
Processes(1).run_blocking(Target.of({body}), {{"ctx": ToolContext()}}, None, SYSTEM_CLOCK, on_event=tell)
"""
    parent = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=env)
    assert parent.stdout is not None
    process, grandchild = map(int, parent.stdout.readline().split())

    parent.kill()
    parent.wait(WAIT_S)
    parent.stdout.close()

    assert ended(process)
    assert grandchild == 0 or ended(grandchild)


def test_when_no_process_can_be_started_calls_are_refused(pools, monkeypatch):
    pool = pools()

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(OverloadedError, match="no worker process can be started"):
            call(pool, get_pid)

    assert call(pool, get_pid) > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_keeper_that_breaks_fails_its_calls_and_the_next_call_starts_anew(pools, monkeypatch):
    pool = pools()
    first = call(pool, get_pid)

    def breaks(self: Processes, selector: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "_bury", breaks)
        with pytest.raises(OperationError, match="the worker processes were lost"):
            call(pool, die)

    assert reaped(first)
    assert call(pool, get_pid) > 0


# -- size, idleness, end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_that_could_run_nothing_is_refused(size):
    with pytest.raises(ConfigurationError, match=f"at least 1, got {size}"):
        Processes(size)


async def test_growing_starts_waiting_calls_and_shrinking_ends_idle_workers(pools):
    pool = pools(1)
    running, _ = await hanging(pool)
    queued = asyncio.ensure_future(pool.run(Target.of(get_pid), {}))
    await asyncio.sleep(0)

    pool.resize(2)
    second = await queued
    assert (pool.active, pool.idle) == (1, 1)
    pool.resize(1)

    assert await asyncio.to_thread(ended, second)
    await cancel(running)


def test_idle_workers_and_the_keeper_end_by_themselves(pools):
    pool = pools(idle_s=0.05)
    process = call(pool, get_pid)
    keeper = pool._keeper

    assert keeper is not None
    keeper.join(WAIT_S)

    assert not keeper.is_alive()
    assert reaped(process)
    assert call(pool, get_pid) != process


def test_close_leaves_no_process_and_no_thread(pools):
    threads = set(threading.enumerate())
    pool = pools(2)
    process = call(pool, get_pid)

    pool.close()

    assert reaped(process)
    assert set(threading.enumerate()) == threads
    with pytest.raises(OverloadedError, match="closed"):
        call(pool, get_pid)


async def test_close_kills_what_runs_refuses_what_waits_and_tells_both(pools):
    pool = pools(1)
    running, process = await hanging(pool)
    queued = asyncio.ensure_future(pool.run(Target.of(get_pid), {}))
    await asyncio.sleep(0)

    await asyncio.to_thread(pool.close)

    assert reaped(process)
    with pytest.raises(CallCancelledError, match="closed while the call ran"):
        await running
    with pytest.raises(OverloadedError, match="closed"):
        await queued


def test_close_lets_busy_workers_finish_when_asked(pools):
    pool, given, pids = pools(1), threading.Event(), []
    caller = threading.Thread(
        target=lambda: pids.append(pool.run_blocking(Target.of(get_pid), {}, None, SYSTEM_CLOCK, on_start=given.set))
    )
    caller.start()
    assert given.wait(WAIT_S)

    pool.close(wait_s=WAIT_S)

    caller.join(WAIT_S)
    assert len(pids) == 1


def test_a_forked_child_has_a_pool_of_its_own(tmp_path):
    ran = script(
        """
        import os, time
        from toolpost.calls.clock import SYSTEM_CLOCK
        from toolpost.runners.processes import Processes, Target
        pool = Processes(1)
        target = Target.of(os.getpid)
        first = pool.run_blocking(target, {}, 20.0, SYSTEM_CLOCK)
        child = os.fork()
        if child == 0:
            other = pool.run_blocking(target, {}, 20.0, SYSTEM_CLOCK)
            pool.close()
            os._exit(0 if other != first else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(pool.run_blocking(target, {}, 20.0, SYSTEM_CLOCK) == first)
        pool.close()
        """,
        tmp_path,
    )

    assert (ran.stdout, ran.stderr) == ("0\nTrue\n", "")


def test_an_open_pool_does_not_keep_the_interpreter_from_exiting(tmp_path):
    ran = script(
        """
        import os
        from toolpost.calls.clock import SYSTEM_CLOCK
        from toolpost.runners.processes import Processes, Target
        print(Processes(1).run_blocking(Target.of(os.getpid), {}, 20.0, SYSTEM_CLOCK))
        """,
        tmp_path,
    )

    assert ran.stderr == ""
    assert ended(int(ran.stdout))
