"""Sandboxes in awkward moments: what comes between two steps, what a cancelled program left, what a start took."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.sandbox.played import Gate, Played, ended, not_run
from toolpost import OverloadedError, SandboxError, Sandboxes, SandboxResult, ToolContext, create_tool_call
from toolpost.calls.errors import CallCancelledError, ToolTimeoutError
from toolpost.sandbox.backend import Job
from toolpost.sandbox.sessions import Kept
from toolpost.sandbox.turns import Turns
from toolpost.testing import FakeClock, executor_for
from toolpost.toolbox import shell_tools
from toolpost.toolbox.programs import Lines


class Slow(Played):
    """A back end whose start takes its time, by a clock that stands still otherwise."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def start(self) -> None:
        super().start()
        self._clock.advance(self._seconds)


def test_a_start_is_part_of_the_deadline() -> None:
    clock = FakeClock()
    slow = Slow(clock, 3.0)

    with Sandboxes(backend=slow, clock=clock) as boxes:
        boxes.run_blocking(["true"], deadline_s=5.0)

    assert slow.jobs[0].limits.wall_s == pytest.approx(2.0)


def test_where_a_start_takes_all_of_the_deadline_nothing_runs() -> None:
    clock = FakeClock()
    slow = Slow(clock, 6.0)

    with Sandboxes(backend=slow, clock=clock) as boxes:
        session = boxes.open_session_blocking()
        with pytest.raises(ToolTimeoutError, match="no time was left") as late:
            session.run_blocking(["true"], deadline_s=5.0)
        assert session.ended is None
        assert (boxes.running, boxes.waiting) == (0, 0)

    assert late.value.outcome == "not_run"
    assert slow.jobs == []


def first_is_cancelled(*then: Any) -> Any:
    results = iter([ended(status="cancelled", exit_code=None), *then])

    def program(job: Job) -> SandboxResult:
        found = next(results)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    return program


def test_a_session_keeps_what_a_cancelled_program_left_where_the_next_cannot_be_started() -> None:
    played = Played(first_is_cancelled(not_run("no memory for it"), ended("ran")))

    with Sandboxes(backend=played) as boxes, boxes.session() as session:
        with pytest.raises(CallCancelledError):
            session.run_blocking(["true"])
        with pytest.raises(SandboxError, match="tried once"):
            session.run_blocking(["true"])

    assert len({job.session for job in played.jobs}) == 1
    assert played.sessions == 1


def test_a_session_in_which_a_program_was_cancelled_is_not_told_to_be_new() -> None:
    played = Played(first_is_cancelled(ended("ran"), ended("ran")))

    with Sandboxes(backend=played) as boxes, executor_for(shell_tools(boxes)) as executor:

        def asked() -> Any:
            return executor.execute_sync(create_tool_call("Shell.Run", {"argv": ["true"], "session": "s"}))

        assert not asked().success
        assert asked().data["session_new"] is False


def test_a_session_that_somebody_comes_for_in_the_last_moment_is_not_ended() -> None:
    clock = FakeClock()
    played = Played()

    with Sandboxes(backend=played, clock=clock, session_idle_s=10.0) as boxes:
        session = boxes.open_session_blocking("mine")
        session.run_blocking(["true"])
        sessions = boxes._sessions
        over = sessions._over

        def come(kept: Any, now_s: float, **more: Any) -> str | None:
            why = over(kept, now_s, **more)
            sessions._over = over  # type: ignore[method-assign]
            sessions.used(kept)
            return why

        clock.advance(11.0)
        sessions._over = come  # type: ignore[method-assign]
        following = sessions.sweep()

        assert session.ended is None
        assert following is not None
        assert played.open_sessions == ["s1"]
        clock.advance(11.0)
        sessions.sweep()
        assert session.ended is not None
        assert session._kept.turn.taken == 0


def test_no_session_is_ended_while_its_program_runs() -> None:
    clock, gate = FakeClock(), Gate()
    played = Played(gate)

    with Sandboxes(backend=played, clock=clock, session_idle_s=10.0) as boxes:
        session = boxes.open_session_blocking("mine")
        running = threading.Thread(target=session.run_blocking, args=(["true"],), daemon=True)
        running.start()
        assert gate.arrived.acquire(timeout=10)
        clock.advance(5000.0)
        boxes._sessions.sweep()

        assert session.ended is None
        gate.go.set()
        running.join(10)
        boxes._sessions.sweep()
        assert session.ended is not None


@pytest.mark.parametrize("when", ["while sessions are looked through", "slowly"])
def test_a_session_is_ended_when_idle_however_its_program_ends(when: str) -> None:
    gate = Gate()
    played = Played(gate)

    with Sandboxes(backend=played, session_idle_s=0.05) as boxes:
        session = boxes.open_session_blocking("mine")
        running = threading.Thread(target=session.run_blocking, args=(["true"],), daemon=True)
        running.start()
        assert gate.arrived.acquire(timeout=10)
        sessions, turn = boxes._sessions, session._kept.turn
        look, give_back, looked = sessions.sweep, turn.give_back, threading.Event()

        def sweep() -> float | None:
            following = look()
            if when != "slowly" and not looked.is_set():
                gate.go.set()
                running.join(10)
            looked.set()
            return following

        def slowly() -> None:
            time.sleep(0.1)
            give_back()

        sessions.sweep = sweep  # type: ignore[method-assign]
        if when == "slowly":
            turn.give_back = slowly  # type: ignore[method-assign]
        sessions.freed()
        assert looked.wait(10)
        gate.go.set()
        until = time.monotonic() + 10
        while played.open_sessions and time.monotonic() < until:
            time.sleep(0.01)

        assert played.open_sessions == []


def test_a_session_that_somebody_comes_for_as_it_is_to_end_is_ended_when_idle_again() -> None:
    played = Played()

    with Sandboxes(backend=played, session_idle_s=0.1) as boxes:
        session = boxes.open_session_blocking("mine")
        sessions, watch = boxes._sessions, boxes._sessions._watch
        look, close, looked = sessions.sweep, sessions._close, threading.Event()

        def sweep() -> float | None:
            following = look()
            if threading.current_thread() is watch:
                looked.set()
            return following

        def come_first(kept: Kept, why: str | None) -> None:
            if threading.current_thread() is not watch and why is None:
                looked.clear()
                sessions.freed()
                assert looked.wait(10)  # the watcher found that its turn is taken
                boxes.open_session_blocking("mine")
            close(kept, why)

        sessions.sweep, sessions._close = sweep, come_first  # type: ignore[method-assign]
        session._kept.used_s -= 1.0
        sessions.sweep()
        until = time.monotonic() + 10
        while session.ended is None and time.monotonic() < until:
            time.sleep(0.01)

        assert session.ended is not None


@pytest.mark.parametrize("blocks", [True, False])
def test_a_session_whose_program_got_no_turn_is_ended_when_idle(blocks: bool) -> None:
    gate = Gate()

    with Sandboxes(backend=Played(gate), session_idle_s=0.05, max_running=1) as boxes:
        running = threading.Thread(target=boxes.run_blocking, args=(["true"],), daemon=True)
        running.start()
        assert gate.arrived.acquire(timeout=10)
        session = boxes.open_session_blocking("mine")
        asked = session.run_blocking if blocks else lambda *a, **how: asyncio.run(session.run(*a, **how))
        with pytest.raises(ToolTimeoutError):  # while the watcher finds that the session's own turn is taken
            asked(["true"], deadline_s=0.3)
        until = time.monotonic() + 10
        while session.ended is None and time.monotonic() < until:
            time.sleep(0.01)
        gate.go.set()

        assert session.ended is not None


def test_who_waits_in_a_loop_that_was_closed_is_passed_over_and_may_leave() -> None:
    turns = Turns(1, FakeClock())
    assert turns.take_blocking(None)
    loop = asyncio.new_event_loop()
    waits = turns.take(None)
    task = loop.create_task(waits)
    loop.run_until_complete(asyncio.sleep(0))
    assert turns.waiting == 1
    loop.close()

    turns.give_back()
    assert (turns.taken, turns.waiting) == (0, 0)
    with pytest.raises((RuntimeError, asyncio.CancelledError, StopIteration)) as left:
        waits.throw(asyncio.CancelledError())
    assert not isinstance(left.value, ValueError)
    assert (turns.taken, turns.waiting) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_flood_of_lines_is_counted_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    tell = Lines._tell

    def watched(self: Lines, line: str) -> None:
        looked.append(line)
        tell(self, line)

    monkeypatch.setattr(Lines, "_tell", watched)
    lines = Lines(ToolContext())

    lines.take("stdout", b"0\n1\n" + b"x\n" * 50_000 + b"the ")
    lines.take("stdout", b"end")
    lines.end()

    assert looked[:2] == ["0", "1"]
    assert looked[-1] == "the end"
    assert len(looked) < 100
    assert lines._seen == 50_003


def test_without_a_thread_neither_a_session_nor_a_program_is_begun_and_later_both_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def in_vain(boxes: Sandboxes) -> None:
        with pytest.raises(OverloadedError, match="no thread"):
            await boxes.open_session("mine")
        with pytest.raises(OverloadedError, match="no thread"):
            await boxes.run(["true"])

    with Sandboxes(backend=played, max_running=1) as boxes:
        with monkeypatch.context() as without:
            without.setattr(threading.Thread, "start", no_thread)
            asyncio.run(in_vain(boxes))
            with pytest.raises(OverloadedError, match="no thread"):
                boxes.open_session_blocking("mine")
        assert boxes.running == 0
        assert boxes._sessions.kept() == []
        session = boxes.open_session_blocking("mine")
        assert session.run_blocking(["true"]).status == "ok"
        assert boxes._sessions._watch is not None
        assert boxes._sessions._watch.is_alive()
