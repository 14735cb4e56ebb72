"""The worker's decisions over a store, explored at random: workers that crash, freeze and come back, cancels, retries.

The bodies, the clock and the workers are simulated; the store and the verdicts are the real ones.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings as examples, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolpost import OperationError, RateLimitError, ToolError, ToolResult, ToolTimeoutError
from toolpost.calls.result import failed_result
from toolpost.stores import TERMINAL, Finish, Task, Work
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.standing import MAX_LOST, TRANSITIONS
from toolpost.testing import FakeClock
from toolpost.worker.verdicts import Verdict, afterwards, beforehand, pause_s

LEASE_S = 10.0
WORKERS = ("a", "b", "c")


@dataclass
class Holding:
    """A call in a worker, whose body has begun."""

    work: Work
    worker: str
    safe: bool
    renewed_at: float


@dataclass
class Story:
    """What happened to one call, as an observer outside of the store saw it."""

    safe: bool
    max_attempts: int
    bodies: int = 0
    touched: bool = False
    """Whether a body may have had its effect."""
    ends: list[str] = field(default_factory=list)
    fences: list[int] = field(default_factory=list)
    cancelled: bool = False


RESULTS = st.sampled_from(["ok", "broken", "passes", "refused", "late"])


def result_of(kind: str, task_id: str) -> ToolResult:
    if kind == "ok":
        return ToolResult(call_id=task_id, tool_name="t", success=True, data=1)
    errors: dict[str, Any] = {
        "broken": OperationError("no"),
        "passes": ToolError("not now", retryable=True),
        "refused": RateLimitError("too many", retry_after_s=2.0),
        "late": ToolTimeoutError("late"),
    }
    return failed_result(task_id, "t", errors[kind])


class Workers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.records = MemoryRecords(clock=self.clock)
        self.held: list[Holding] = []
        self.zombies: list[Holding] = []
        self.stories: dict[str, Story] = {}

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(safe=st.booleans(), attempts=st.integers(1, 3), priority=st.integers(-1, 1), late=st.booleans())
    def accept(self, safe: bool, attempts: int, priority: int, late: bool) -> None:
        task_id = f"t{len(self.stories):03d}"
        deadline_s = 5.0 if late else None
        assert self.records.submit(
            Task(task_id=task_id, tool="t", max_attempts=attempts, priority=priority, deadline_in_s=deadline_s)
        )
        self.stories[task_id] = Story(safe, attempts)

    @rule(worker=st.sampled_from(WORKERS), room=st.integers(1, 3))
    def take(self, worker: str, room: int) -> None:
        for work in self.records.claim_tasks(worker, room, LEASE_S):
            task_id = work.task.task_id
            story = self.stories[task_id]
            story.fences.append(work.fence)
            verdict = beforehand(work, "t", repeatable=story.safe)
            if verdict is not None:
                assert self.finish(work, verdict)
                continue
            self.begin(story)
            self.held.append(Holding(work, worker, story.safe, self.clock.monotonic()))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=RESULTS, jitter=st.floats(0, 1))
    def end(self, data: Any, kind: str, jitter: float) -> None:
        one = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.settle(one, kind, jitter)

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), kind=RESULTS)
    def come_back(self, data: Any, kind: str) -> None:
        """A worker that was frozen goes on where it was."""
        one = self.zombies.pop(data.draw(st.integers(0, len(self.zombies) - 1)))
        self.settle(one, kind, 0.5)

    @precondition(lambda self: self.held)
    @rule(worker=st.sampled_from(WORKERS), comes_back=st.booleans())
    def vanish(self, worker: str, comes_back: bool) -> None:
        gone = [one for one in self.held if one.worker == worker]
        self.held = [one for one in self.held if one.worker != worker]
        self.zombies += gone if comes_back else []

    @rule(seconds=st.floats(0.1, 8.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for worker in WORKERS:
            mine = [one for one in self.held if one.worker == worker]
            answers = self.records.renew_tasks(worker, [(o.work.task.task_id, o.work.fence) for o in mine], LEASE_S)
            for one, answer in zip(mine, answers, strict=True):
                if answer == "lost":
                    self.held.remove(one)

    @rule(seconds=st.floats(11.0, 30.0))
    def much_time_passes(self, seconds: float) -> None:
        """So that leases run out, also those of workers that live: their processes were busy."""
        self.clock.advance(seconds)

    @precondition(lambda self: self.stories)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.stories)))
        if self.records.cancel_task(task_id) != "":
            self.stories[task_id].cancelled = True
        self.note(task_id)

    @precondition(lambda self: self.held)
    @rule(worker=st.sampled_from(WORKERS), taker=st.sampled_from(WORKERS))
    def lose(self, worker: str, taker: str) -> None:
        """A worker vanishes, and after a while another looks."""
        self.vanish(worker, comes_back=False)
        self.much_time_passes(20.0)
        self.take(taker, 3)

    @rule()
    def sweep(self) -> None:
        self.records.sweep()
        for task_id in self.stories:
            self.note(task_id)

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def every_call_is_there_and_in_a_state_that_it_may_be_in(self) -> None:
        for task_id, story in self.stories.items():
            row = self.records.task(task_id)
            assert row is not None
            assert row.state in TRANSITIONS
            self.note(task_id)
            assert len(story.ends) <= 1
            assert story.fences == sorted(set(story.fences))
            assert story.bodies <= row.max_attempts + MAX_LOST

    def teardown(self) -> None:
        """Once everybody is well again every call comes to its end, in a bounded number of steps."""
        for one in [*self.held, *self.zombies]:
            self.settle(one, "ok", 0.5)
        self.held, self.zombies = [], []
        for _ in range(60):
            self.clock.advance(400.0)
            self.records.sweep()
            works = self.records.claim_tasks("last", 100, LEASE_S)
            for work in works:
                story = self.stories[work.task.task_id]
                verdict = beforehand(work, "t", repeatable=story.safe)
                if verdict is None:
                    self.begin(story)
                    verdict = afterwards(work, result_of("ok", work.task.task_id), repeatable=story.safe, jitter=0.5)
                assert self.finish(work, verdict)
        for task_id, story in self.stories.items():
            row = self.records.task(task_id)
            assert row is not None
            assert row.state in TERMINAL
            self.note(task_id)
            assert len(story.ends) == 1
            if story.safe and not story.cancelled and row.state == "failed":
                assert row.error_code != "outcome_unknown"
            if row.state == "dead":
                assert len(story.fences) >= MAX_LOST

    # -- steps --------------------------------------------------------------------------------------------------------

    def begin(self, story: Story) -> None:
        """A body begins: never after one that may have had an effect that must not be repeated."""
        assert story.safe or not story.touched
        story.bodies += 1
        story.touched = True

    def settle(self, one: Holding, kind: str, jitter: float) -> None:
        work = one.work
        story = self.stories[work.task.task_id]
        if kind == "refused" and story.fences[-1] == work.fence:
            story.touched = False
        verdict = afterwards(work, result_of(kind, work.task.task_id), repeatable=one.safe, jitter=jitter)
        before = self.records.task(work.task.task_id)
        assert before is not None
        counts = self.finish(work, verdict)
        if before.fence != work.fence:
            assert not counts
            assert self.records.task(work.task.task_id) == before

    def finish(self, work: Work, verdict: Verdict) -> bool:
        written = self.records.finish_task(
            Finish(task_id=work.task.task_id, fence=work.fence, state=verdict.state, due_in_s=verdict.due_in_s)
        )
        self.note(work.task.task_id)
        return written

    def note(self, task_id: str) -> None:
        row = self.records.task(task_id)
        assert row is not None
        ends = self.stories[task_id].ends
        if row.state in TERMINAL and ends[-1:] != [f"{row.state} {row.finished_at}"]:
            ends.append(f"{row.state} {row.finished_at}")


TestWorkers = Workers.TestCase
TestWorkers.settings = examples(max_examples=120, stateful_step_count=40, deadline=None)


def test_pauses_grow_are_spread_and_heed_the_other_side() -> None:
    assert [pause_s(n, None, 1.0) for n in (1, 2, 3, 12, 10_000)] == [1.0, 2.0, 4.0, 300.0, 300.0]
    assert pause_s(3, None, 0.0) == 2.0
    assert pause_s(1, 40.0, 0.3) == 40.0
    assert pause_s(1, 1e9, 0.3) == 86_400.0
