"""The thread that fetches answers: who is told what when a batch breaks, and that nobody waits for ever."""

import threading
from typing import Any

import pytest

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores.pending import Batcher, Pending, answer_all


def error_of(pending: Pending[Any]) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        pending.wait(timeout_s=20)
    return caught.value.message


def test_what_a_batch_had_answered_before_it_broke_is_not_told_as_failed() -> None:
    go = threading.Event()

    def flush(pendings: list[Pending[Any]]) -> None:
        go.wait(20)
        for pending in pendings:
            if pending.op == "bad":
                raise StoreUnavailableError("it broke")
            pending.value = pending.op
            answer_all([pending])

    batcher = Batcher("b", flush)
    batcher.submit("first")
    good, bad, later = (batcher.submit(op) for op in ("good", "bad", "later"))
    go.set()

    assert good.wait(timeout_s=20) == "good"
    assert [error_of(pending) for pending in (bad, later)] == ["it broke", "it broke"]
    batcher.close()


def test_closing_breaks_off_what_takes_too_long_and_fails_what_is_behind_it() -> None:
    broken = threading.Event()

    def flush(pendings: list[Pending[Any]]) -> None:
        broken.wait(20)
        raise StoreUnavailableError("it was broken off")

    batcher = Batcher("b", flush, interrupt=broken.set, max_batch=1, timeout_s=1000.0)
    pendings = [batcher.submit(number) for number in range(3)]

    batcher.close(timeout_s=0.01)

    assert [error_of(pending) for pending in pendings] == ["it was broken off"] * 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("toolpost-b-")]


class LeftSlowly:
    """A lock whose first holder pauses when it has let go."""

    def __init__(self) -> None:
        self.left, self.go_on = threading.Event(), threading.Event()

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.left.set()
        self.go_on.wait(20)


def test_what_is_asked_while_a_batcher_that_never_ran_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, lock = Batcher("b", lambda pendings: None), LeftSlowly()
    closing = threading.Thread(target=batcher.close)

    def close_meanwhile() -> None:
        closing.start()
        lock.left.wait(20)

    monkeypatch.setattr(batcher, "_lock", lock)
    monkeypatch.setattr(batcher, "_start", close_meanwhile)
    pending = batcher.submit("late")
    lock.go_on.set()
    closing.join(20)

    assert error_of(pending) == "b is closed"


def test_closing_twice_takes_nothing_from_the_thread_that_still_works() -> None:
    go, began = threading.Event(), threading.Event()

    def flush(pendings: list[Pending[Any]]) -> None:
        began.set()
        go.wait(20)
        for pending in pendings:
            pending.value = pending.op

    batcher = Batcher("b", flush, max_batch=1)
    pendings = [batcher.submit(number) for number in range(3)]
    began.wait(20)
    first = threading.Thread(target=batcher.close)
    first.start()
    while not batcher._closed or batcher._thread is not None:
        threading.Event().wait(0.001)

    batcher.close()
    go.set()
    first.join(20)

    assert [pending.wait(timeout_s=20) for pending in pendings] == [0, 1, 2]
