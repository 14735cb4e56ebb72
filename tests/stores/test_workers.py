"""Workers: operations side by side, what they raise, an outage's gate, and closing."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolpost.calls.errors import EngineError, StoreUnavailableError
from toolpost.stores.workers import Workers
from toolpost.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def workers(clock: FakeClock) -> Iterator[Workers]:
    made = Workers("w", 3, gate=True, clock=clock)
    yield made
    made.close()


def unavailable() -> None:
    raise StoreUnavailableError("nobody answers")


def test_as_many_operations_run_side_by_side_as_there_are_threads(workers: Workers) -> None:
    together = threading.Barrier(3)

    answers = [workers.ask(lambda: together.wait(20)) for _ in range(3)]

    assert sorted(answer.wait() for answer in answers) == [0, 1, 2]


def test_never_more_threads_run_than_allowed(workers: Workers) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda _: workers.ask(work).wait(), range(300)))

    assert 1 <= most <= 3
    assert sum(thread.name.startswith("toolpost-w-") for thread in threading.enumerate()) <= 3


def test_an_idle_thread_is_used_before_another_is_started(workers: Workers) -> None:
    names = set()
    for _ in range(20):
        names.add(workers.ask(lambda: threading.current_thread().name).wait())

    assert len(names) <= 2  # a thread is counted as busy until just after its answer is there


async def test_a_task_awaits_an_answer(workers: Workers) -> None:
    assert await workers.ask(lambda: 7) == 7


def test_errors_of_ours_come_as_they_are_and_others_behind_one_of_ours(workers: Workers) -> None:
    def damaged() -> None:
        raise EngineError("damaged")

    def broken() -> None:
        raise ZeroDivisionError("oops")

    with pytest.raises(EngineError, match="damaged"):
        workers.ask(damaged).wait()
    with pytest.raises(StoreUnavailableError, match="w failed: ZeroDivisionError") as caught:
        workers.ask(broken).wait()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_outage_is_tried_once_a_pause_and_the_pause_grows(workers: Workers, clock: FakeClock) -> None:
    tries = 0

    def tried() -> None:
        nonlocal tries
        tries += 1
        unavailable()

    def asked() -> int:
        before = tries
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match="nobody answers"):
                workers.ask(tried).wait()
        return tries - before

    assert asked() == 1
    clock.advance(0.19)
    assert asked() == 0
    clock.advance(0.02)
    assert asked() == 1
    clock.advance(0.21)
    assert asked() == 0  # twice as long
    clock.advance(0.2)
    assert workers.ask(lambda: "well again").wait() == "well again"
    assert asked() == 1
    clock.advance(0.21)
    assert asked() == 1  # it began anew


def test_without_a_gate_every_operation_is_tried(clock: FakeClock) -> None:
    workers = Workers("w", 1, clock=clock)
    with pytest.raises(StoreUnavailableError):
        workers.ask(unavailable).wait()

    assert workers.ask(lambda: "tried").wait() == "tried"
    workers.close()


def test_close_does_what_was_asked_and_refuses_more(workers: Workers) -> None:
    go = threading.Event()
    answers = [workers.ask(lambda: go.wait(20)) for _ in range(9)]
    go.set()

    workers.close()

    assert all(answer.done and answer.value for answer in answers)
    with pytest.raises(StoreUnavailableError, match="w is closed"):
        workers.ask(lambda: 1).wait()
    assert not any(thread.name.startswith("toolpost-w-") for thread in threading.enumerate())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(workers: Workers) -> None:
    workers.ask(lambda: 1).wait()

    child = os.fork()
    if not child:
        try:
            os._exit(0 if workers.ask(lambda: 2).wait(timeout_s=10) == 2 else 1)
        finally:
            os._exit(2)

    assert os.waitpid(child, 0) == (child, 0)
