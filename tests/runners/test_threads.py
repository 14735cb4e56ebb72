"""Worker threads: what a body gets and gives back, and what becomes of bodies that are late or cancelled."""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, OverloadedError, ToolTimeoutError
from toolpost.runners.threads import Abandoned, Threads, _Job, from_body

WAIT_S = 10.0


class Body:
    """A body that tells when it starts and ends only when it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.started.set()
        assert self.release.wait(WAIT_S)
        self.ended.set()
        return "late result"

    def end(self) -> None:
        """Let the body return and wait until its thread is gone."""
        self.release.set()
        assert self.thread is not None
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


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


@pytest.fixture
def pools() -> Iterator[Callable[..., Threads]]:
    made: list[Threads] = []

    def make(max_workers: int = 2, **options: float) -> Threads:
        made.append(Threads(max_workers, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        pool.close()


async def started(body: Body) -> None:
    assert await asyncio.to_thread(body.started.wait, WAIT_S)


def abandon(pool: Threads) -> Body:
    body = Body()
    with pytest.raises(ToolTimeoutError):
        pool.run_blocking(body, 2.0, Impatient(body.started))
    return body


# -- running ----------------------------------------------------------------------------------------------------------


async def test_a_body_runs_in_another_thread_and_its_value_comes_back(pools):
    pool = pools()

    value, thread = await pool.run(lambda: (42, threading.current_thread()))

    assert value == 42
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_a_blocking_caller_gets_the_value(pools):
    assert pools().run_blocking(lambda: 42, 5.0, SYSTEM_CLOCK) == 42
    assert pools().run_blocking(lambda: 43, None, SYSTEM_CLOCK) == 43


async def test_a_body_sees_the_callers_context_and_cannot_change_it(pools):
    pool = pools()
    caller = contextvars.ContextVar("caller", default="nobody")
    caller.set("ada")

    def body() -> str:
        seen = caller.get()
        caller.set("eve")
        return seen

    seen = await pool.run(body)
    seen_blocking = pool.run_blocking(body, 5.0, SYSTEM_CLOCK)

    assert (seen, seen_blocking, caller.get()) == ("ada", "ada", "ada")


async def test_a_body_that_is_given_up_as_its_worker_begins_counts_as_begun(pools, monkeypatch):
    """Else what must happen once would be free to happen again, while the body runs."""
    pool, said, go_on, real = pools(1), [], threading.Event(), _Job.call
    taken = threading.Event()

    def call(job):
        taken.set()
        assert go_on.wait(WAIT_S)
        real(job)

    monkeypatch.setattr(_Job, "call", call)
    waiting = asyncio.ensure_future(pool.run(lambda: None, lambda: said.append("begun")))
    assert await asyncio.to_thread(taken.wait, WAIT_S)
    waiting.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert said == ["begun"]
    finally:
        go_on.set()


async def test_on_start_is_called_in_the_worker_before_the_body(pools):
    pool = pools()
    order = []

    await pool.run(
        lambda: order.append(("body", threading.get_ident())),
        lambda: order.append(("start", threading.get_ident())),
    )

    assert [what for what, _ in order] == ["start", "body"]
    assert order[0][1] == order[1][1] != threading.get_ident()


async def test_ten_thousand_quick_calls_come_back_in_order_from_few_threads(pools):
    pool = pools(4)

    values = await asyncio.gather(*[pool.run(lambda n=n: n) for n in range(10_000)])

    assert values == list(range(10_000))
    assert len(pool._threads) <= 4


def test_many_threads_may_block_on_one_pool(pools):
    pool = pools(3)
    sums = []

    def caller() -> None:
        sums.append(sum(pool.run_blocking(lambda n=n: n, 30.0, SYSTEM_CLOCK) for n in range(200)))

    callers = [threading.Thread(target=caller) for _ in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(30)

    assert sums == [sum(range(200))] * 8


def test_loops_may_come_and_go(pools):
    pool = pools()

    values = [asyncio.run(pool.run(lambda n=n: n)) for n in range(50)]

    assert values == list(range(50))


def test_a_body_that_ends_after_its_loop_was_closed_raises_nothing_in_its_worker(pools):
    pool = pools(1)
    body = Body()
    loop = asyncio.new_event_loop()
    waiting = pool.run(body)

    loop.call_soon(lambda: (waiting.send(None), loop.stop()))
    loop.run_forever()
    loop.close()
    assert body.started.wait(WAIT_S)
    body.release.set()

    assert pool.run_blocking(lambda: "lives", 5.0, SYSTEM_CLOCK) == "lives"
    waiting.close()


def test_a_worker_keeps_nothing_of_a_call_that_is_over(pools):
    pool = pools(1)

    class Value:
        pass

    value = weakref.ref(pool.run_blocking(Value, 5.0, SYSTEM_CLOCK))
    pool.run_blocking(lambda: None, 5.0, SYSTEM_CLOCK)

    assert value() is None


# -- what bodies raise ------------------------------------------------------------------------------------------------


class Custom(Exception):
    pass


@pytest.mark.parametrize("kind", [ValueError, Custom, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_body_raises_reaches_the_waiter_as_the_same_object(pools, kind):
    pool = pools(1)
    error = kind("because")

    def body() -> None:
        raise error

    async def waiter() -> BaseException:
        try:
            await pool.run(body)
        except BaseException as raised:
            return raised
        raise AssertionError("nothing was raised")

    assert asyncio.run(waiter()) is error
    with pytest.raises(kind) as caught:
        pool.run_blocking(body, 5.0, SYSTEM_CLOCK)
    assert caught.value is error
    assert pool.run_blocking(lambda: "lives", 5.0, SYSTEM_CLOCK) == "lives"
    assert len(pool._threads) == 1


async def test_a_cancellation_that_a_body_raises_can_be_told_from_the_waiters_own(pools):
    pool = pools(1)
    body = Body()

    def cancels() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError) as from_the_body:
        await pool.run(cancels)
    task = asyncio.ensure_future(pool.run(body))
    await started(body)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as from_outside:
        await task

    assert from_body(from_the_body.value)
    assert not from_body(from_outside.value)
    body.end()


async def test_stop_iteration_becomes_a_runtime_error_with_it_as_the_cause(pools):
    pool = pools(1)

    def body() -> None:
        next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration") as awaited:
        await pool.run(body)
    with pytest.raises(RuntimeError, match="StopIteration") as blocked:
        pool.run_blocking(body, 5.0, SYSTEM_CLOCK)

    assert isinstance(awaited.value.__cause__, StopIteration)
    assert isinstance(blocked.value.__cause__, StopIteration)


# -- deadlines and cancellation ---------------------------------------------------------------------------------------


def test_a_running_body_past_its_deadline_is_abandoned_with_outcome_unknown(pools):
    pool = pools(1)
    body = Body()

    with pytest.raises(ToolTimeoutError, match=r"within 2 s.*runs_in=.process") as caught:
        pool.run_blocking(body, 2.0, Impatient(body.started))

    assert caught.value.outcome == "unknown"
    assert isinstance(caught.value.__cause__, Abandoned)
    assert (pool.abandoned_now, pool.abandoned_total, pool.active) == (1, 1, 0)
    body.end()
    assert (pool.abandoned_now, pool.abandoned_total) == (0, 1)


def test_a_real_deadline_is_kept(pools):
    pool = pools(1)
    body = Body()

    with pytest.raises(ToolTimeoutError) as caught:
        pool.run_blocking(body, 0.02, SYSTEM_CLOCK)

    assert caught.value.outcome == "unknown"
    body.end()


def test_a_call_whose_deadline_passes_in_the_queue_never_runs(pools):
    pool = pools(1)
    first, second = Body(), Body()
    holder = threading.Thread(target=pool.run_blocking, args=(first, None, SYSTEM_CLOCK))
    holder.start()
    assert first.started.wait(WAIT_S)

    with pytest.raises(ToolTimeoutError, match=r"never ran.*max_workers") as caught:
        pool.run_blocking(second, 2.0, Impatient(passed()))

    assert caught.value.outcome == "not_run"
    assert pool._work_queue.qsize() == 0
    first.release.set()
    holder.join(WAIT_S)
    assert pool.run_blocking(lambda: "next", 5.0, SYSTEM_CLOCK) == "next"
    assert not second.started.is_set()
    assert pool.abandoned_total == 0


def test_a_body_that_ends_in_the_moment_of_its_deadline_gives_its_value(pools):
    pool = pools(1)
    ended = threading.Event()

    class JustLate(Clock):
        __slots__ = ()

        def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
            assert lock.acquire(timeout=WAIT_S)
            ended.set()
            return False

    assert pool.run_blocking(lambda: "value", 2.0, JustLate()) == "value"
    assert ended.is_set()
    assert pool.abandoned_total == 0


async def test_a_cancelled_task_abandons_its_running_body(pools):
    pool = pools(1)
    body = Body()
    task = asyncio.ensure_future(pool.run(body))
    await started(body)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (pool.abandoned_now, pool.active) == (1, 0)
    body.end()
    assert body.ended.is_set()


async def test_a_task_cancelled_while_queued_never_runs_its_body(pools):
    pool = pools(1)
    first, second = Body(), Body()
    running = asyncio.ensure_future(pool.run(first))
    await started(first)
    queued = asyncio.ensure_future(pool.run(second))
    await asyncio.to_thread(lambda: None)
    assert pool._work_queue.qsize() == 1

    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    first.release.set()

    assert await running == "late result"
    assert await pool.run(lambda: "next") == "next"
    assert not second.started.is_set()
    assert pool.abandoned_total == 0


def test_an_interrupt_of_the_waiting_thread_abandons_the_body_and_goes_on(pools):
    pool = pools(1)
    body = Body()

    class Interrupted(Clock):
        __slots__ = ()

        def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
            assert body.started.wait(WAIT_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        pool.run_blocking(body, 2.0, Interrupted())

    assert not from_body(caught.value)
    assert pool.abandoned_now == 1
    body.end()


def test_a_signal_handler_that_raises_reaches_a_thread_that_waits_for_a_body(pools):
    pool = pools(1)
    body = Body()

    def press(*_: object) -> None:
        if body.started.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # again and again: one that comes just before a wait is not seen
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run_blocking(body, None, SYSTEM_CLOCK)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert pool.abandoned_now == 1
    body.end()


# -- abandoned bodies do not starve the pool --------------------------------------------------------------------------


async def test_a_pool_of_two_with_two_abandoned_still_runs_new_calls(pools):
    pool = pools(2)
    bodies = [abandon(pool), abandon(pool)]

    values = await asyncio.gather(*[pool.run(lambda n=n: n) for n in range(20)])

    assert values == list(range(20))
    assert pool.abandoned_now == 2
    for body in bodies:
        body.end()


async def test_a_queued_call_starts_when_the_running_one_is_abandoned(pools):
    pool = pools(1)
    hanging = Body()
    running = asyncio.ensure_future(pool.run(hanging))
    await started(hanging)
    queued = asyncio.ensure_future(pool.run(lambda: "my turn"))
    await asyncio.sleep(0)

    running.cancel()

    assert await queued == "my turn"
    hanging.end()


def test_an_abandoned_thread_ends_with_its_body_and_the_late_result_is_dropped(pools):
    pool = pools(1)
    body = abandon(pool)

    body.end()

    assert body.ended.is_set()
    assert pool.abandoned_now == 0
    assert body.thread not in pool._threads
    assert pool.run_blocking(lambda: "fresh", 5.0, SYSTEM_CLOCK) == "fresh"


def test_too_many_abandoned_bodies_refuse_new_calls_and_say_what_to_do(pools):
    pool = pools(1, max_abandoned=2)
    bodies = [abandon(pool), abandon(pool)]

    with pytest.raises(OverloadedError, match=r'2 bodies.*runs_in="process"'):
        pool.run_blocking(lambda: None, 5.0, SYSTEM_CLOCK)

    bodies[0].end()
    assert pool.run_blocking(lambda: "room again", 5.0, SYSTEM_CLOCK) == "room again"
    bodies[1].end()


def test_a_body_may_call_through_its_own_pool_however_small(pools):
    pool = pools(1)

    def outer(depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + pool.run_blocking(lambda: outer(depth - 1), 10.0, SYSTEM_CLOCK)

    assert pool.run_blocking(lambda: outer(5), 20.0, SYSTEM_CLOCK) == 5
    assert pool.abandoned_total == 0
    assert pool._places() == 1


def test_a_body_with_a_loop_of_its_own_lends_one_place_however_much_it_awaits(pools):
    pool = pools(1)
    most = []

    async def inner() -> list[int]:
        def note(n: int) -> int:
            most.append(len(pool._threads))
            return n

        return await asyncio.gather(*[pool.run(lambda n=n: note(n)) for n in range(50)])

    values = pool.run_blocking(lambda: asyncio.run(inner()), 20.0, SYSTEM_CLOCK)

    assert values == list(range(50))
    assert max(most) == 2


# -- size, idleness, end ----------------------------------------------------------------------------------------------


async def test_what_the_documents_look_at_tells_threads_queue_and_limit(pools):
    pool = pools(2)
    bodies = [Body() for _ in range(5)]
    tasks = [asyncio.ensure_future(pool.run(body)) for body in bodies]
    for body in bodies[:2]:
        await started(body)

    assert len(pool._threads) == 2
    assert pool._work_queue.qsize() == 3
    assert pool._max_workers == 2
    assert (pool.active, pool.idle) == (2, 0)

    for body in bodies:
        body.release.set()
    await asyncio.gather(*tasks)


async def test_growing_starts_waiting_calls_at_once(pools):
    pool = pools(1)
    bodies = [Body() for _ in range(3)]
    tasks = [asyncio.ensure_future(pool.run(body)) for body in bodies]
    await started(bodies[0])
    assert not bodies[1].started.is_set()

    pool.resize(3)

    for body in bodies:
        await started(body)
        body.release.set()
    await asyncio.gather(*tasks)


async def test_shrinking_lets_busy_workers_finish_and_then_go(pools):
    pool = pools(3)
    bodies = [Body() for _ in range(3)]
    tasks = [asyncio.ensure_future(pool.run(body)) for body in bodies]
    for body in bodies:
        await started(body)

    pool.resize(1)
    for body in bodies:
        body.release.set()
    results = await asyncio.gather(*tasks)
    await pool.run(lambda: None)

    assert results == ["late result"] * 3
    assert len(pool._threads) == 1


async def test_shrinking_ends_idle_workers_at_once(pools):
    pool = pools(2)
    both = threading.Barrier(2)
    await asyncio.gather(pool.run(lambda: both.wait(WAIT_S)), pool.run(lambda: both.wait(WAIT_S)))
    workers = list(pool._threads)
    assert len(workers) == 2

    pool.resize(1)

    assert len(pool._threads) == 1
    [gone] = set(workers) - pool._threads
    gone.join(WAIT_S)
    assert not gone.is_alive()


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_that_could_run_nothing_is_refused(pools, size):
    with pytest.raises(ConfigurationError, match=f"at least 1, got {size}"):
        Threads(size)
    with pytest.raises(ConfigurationError):
        pools().resize(size)


def test_idle_workers_end_by_themselves(pools):
    pool = pools(1, idle_s=0.01)
    worker = pool.run_blocking(threading.current_thread, 5.0, SYSTEM_CLOCK)

    worker.join(WAIT_S)

    assert not worker.is_alive()
    assert pool._threads == set()
    assert pool.run_blocking(lambda: "again", 5.0, SYSTEM_CLOCK) == "again"


async def test_the_worker_that_ran_last_runs_next_so_that_the_rest_may_end(pools):
    pool = pools(2)
    both = threading.Barrier(2)
    await asyncio.gather(pool.run(lambda: both.wait(WAIT_S)), pool.run(lambda: both.wait(WAIT_S)))
    assert pool.idle == 2

    workers = {pool.run_blocking(threading.get_ident, 5.0, SYSTEM_CLOCK) for _ in range(20)}

    assert len(workers) == 1


async def test_close_finishes_what_is_queued_and_leaves_no_thread(pools):
    pool = pools(1)
    body = Body()
    running = asyncio.ensure_future(pool.run(body))
    await started(body)
    queued = asyncio.ensure_future(pool.run(threading.current_thread))
    await asyncio.sleep(0)

    pool.close()
    with pytest.raises(OverloadedError, match="closed"):
        await pool.run(lambda: None)
    body.release.set()

    assert await running == "late result"
    worker = await queued
    worker.join(WAIT_S)
    assert not worker.is_alive()
    assert pool._threads == set()


def test_close_waits_for_workers_when_asked(pools):
    pool = pools(2)
    worker = pool.run_blocking(threading.current_thread, 5.0, SYSTEM_CLOCK)

    pool.close(wait_s=WAIT_S)

    assert not worker.is_alive()


def test_close_does_not_wait_for_abandoned_bodies(pools):
    pool = pools(1)
    body = abandon(pool)

    pool.close(wait_s=WAIT_S)  # would take as long as the test may if it did

    assert not body.ended.is_set()
    body.end()


def test_where_no_thread_can_be_started_the_call_is_refused(pools, monkeypatch):
    pool = pools(1)

    def fails(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(OverloadedError, match="can't start new thread"):
            pool.run_blocking(lambda: None, 5.0, SYSTEM_CLOCK)

    assert pool.run_blocking(lambda: "later", 5.0, SYSTEM_CLOCK) == "later"


def script(text: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, timeout=30, env=env
    )


def test_an_abandoned_body_does_not_keep_the_interpreter_from_exiting():
    ended = script(
        "import threading\n"
        "from toolpost.calls.clock import SYSTEM_CLOCK\n"
        "from toolpost.runners.threads import Threads\n"
        "pool = Threads(1)\n"
        "try:\n"
        "    pool.run_blocking(threading.Event().wait, 0.01, SYSTEM_CLOCK)\n"
        "except TimeoutError as error:\n"
        "    print(error.outcome)\n"
    )

    assert (ended.stdout, ended.stderr, ended.returncode) == ("unknown\n", "", 0)


def test_a_forked_child_starts_with_an_empty_pool_that_works():
    ended = script(
        "import os, threading\n"
        "from toolpost.calls.clock import SYSTEM_CLOCK\n"
        "from toolpost.runners.threads import Threads\n"
        "pool, held = Threads(1), threading.Event()\n"
        "try:\n"
        "    pool.run_blocking(held.wait, 0.01, SYSTEM_CLOCK)\n"
        "except TimeoutError:\n"
        "    pass\n"
        "pool.run_blocking(int, 5.0, SYSTEM_CLOCK)\n"
        "pool._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    fresh = (len(pool._threads), pool.abandoned_now) == (0, 0)\n"
        "    os._exit(0 if fresh and pool.run_blocking(lambda: 42, 5.0, SYSTEM_CLOCK) == 42 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )

    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_body_that_forks_answers_once_and_from_the_parent():
    ended = script(
        "import os, sys\n"
        "from toolpost.calls.clock import SYSTEM_CLOCK\n"
        "from toolpost.runners.threads import Threads\n"
        "pool = Threads(1)\n"
        "pid = pool.run_blocking(os.fork, 5.0, SYSTEM_CLOCK)\n"
        "print('answered', pid > 0)\n"
        "print('child', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )

    assert (ended.stdout, ended.stderr) == ("answered True\nchild 0\n", "")
