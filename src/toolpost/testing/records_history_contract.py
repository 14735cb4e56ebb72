"""RecordsHistoryContract: what every Records promises of looking tasks up, recording and dropping them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toolpost.calls.errors import InputValidationError
from toolpost.stores import TERMINAL, Finish, Outgoing, Records, Task
from toolpost.testing.records_claims_contract import YEARS_S, refusal, said, told

FULL = Task(
    task_id="1",
    tool="Math.add",
    arguments=b'{"a": 1}',
    blob="b" * 64,
    version="2",
    tenant="acme",
    user_id="u",
    session_id="s",
    idempotency_key="i",
    order_key="o",
    priority=-3,
    max_attempts=5,
    deadline_in_s=60.0,
    src=("topic", 3, 2**40),
    reply_to="replies",
    trace="t",
    extra={"a": [1, None, "\0"]},
)


def _ended(task_id: str, state: Any = "succeeded", **more: Any) -> tuple[Task, Finish]:
    return Task(task_id=task_id, tool=more.pop("tool", "t")), Finish(task_id=task_id, fence=0, state=state, **more)


class RecordsHistoryContract:
    """What Records promise of the history of tasks: see RecordsContract."""

    age: Callable[[Any, float], None]

    def ids(self, records: Records, **wanted: Any) -> list[str]:
        return [row.task_id for row in said(records.tasks(**wanted))]

    def end(self, records: Records, task_id: str, **end: Any) -> None:
        """Submit a task, run it, and end it."""
        said(records.submit(Task(task_id=task_id, tool="t")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        assert said(records.finish_task(Finish(task_id=task_id, fence=work.fence, **end))) is True

    def test_a_row_says_all_that_its_task_was_submitted_with(self, records: Records) -> None:
        said(records.submit(FULL))
        row = said(records.task("1"))
        [listed] = said(records.tasks())
        [work] = said(records.claim_tasks("me", 9, 30.0))
        said(records.cancel_task("1"))
        running = said(records.task("1"))

        assert (row.arguments, row.arguments_blob, row.version, row.tool) == (FULL.arguments, FULL.blob, "2", FULL.tool)
        assert (row.tenant, row.user_id, row.session_id, row.idempotency_key) == ("acme", "u", "s", "i")
        assert (row.priority, row.max_attempts, row.reply_to, row.trace) == (-3, 5, "replies", "t")
        assert row.extra == FULL.extra
        assert 59 < row.deadline_at - row.created_at < 61
        assert (row.started_at, row.cancel_at, row.report, row.value) == (None, None, None, None)
        assert listed == replace(row, arguments=b"")
        assert work.task.arguments == FULL.arguments
        assert running.started_at >= row.created_at
        assert running.cancel_at >= running.started_at

    def test_a_report_comes_back_byte_for_byte(self, records: Records) -> None:
        self.end(records, "1", state="failed", report=b"\0\xff")
        self.end(records, "2", state="succeeded")

        assert said(records.task("1")).report == b"\0\xff"
        assert [row.report for row in said(records.tasks())] == [None, b"\0\xff"]

    def test_a_finish_with_another_report_is_not_the_one_that_was_written(self, records: Records) -> None:
        said(records.submit(Task(task_id="1", tool="t")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        finish = Finish(task_id="1", fence=work.fence, state="failed", report=b"one")
        reports = (b"one", b"one", b"two", None)

        answers = [said(records.finish_task(replace(finish, report=report))) for report in reports]

        assert answers == [True, True, False, False]
        assert said(records.task("1")).report == b"one"

    async def test_of_two_reports_in_one_batch_the_first_is_kept(self, records: Records) -> None:
        said(records.submit(Task(task_id="1", tool="t")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        finish = Finish(task_id="1", fence=work.fence, state="failed", report=b"one")

        ends = [finish, finish, replace(finish, report=b"two")]
        answers = await asyncio.gather(*(told(records.finish_task(end)) for end in ends))

        assert answers == [True, True, False]

    # Lists.

    def test_tasks_are_found_by_who_asked_for_them(self, records: Records) -> None:
        for number in range(8):
            user, session = ("u", "v", None, "")[number % 4], ("s", None)[number // 4]
            one = Task(task_id=f"{number}", tool="t", tenant="xy"[number % 2], user_id=user, session_id=session)
            said(records.submit(one))

        assert self.ids(records, user_id="u") == ["4", "0"]
        assert self.ids(records, user_id="u", tenant="y") == []
        assert self.ids(records, user_id="") == ["7", "6", "3", "2"], "those of nobody"
        assert self.ids(records, user_id="", tenant="x") == ["6", "2"]
        assert self.ids(records, session_id="s") == ["3", "2", "1", "0"]
        assert self.ids(records, session_id="s", user_id="v", tool="t", tenant="y") == ["1"]
        assert self.ids(records, session_id="none") == []

    def test_tasks_are_found_by_any_of_some_states(self, records: Records) -> None:
        for state in ("failed", "succeeded"):
            self.end(records, state, state=state)
        said(records.submit(Task(task_id="running", tool="t")))
        said(records.claim_tasks("me", 9, 30.0))
        for task_id in ("queued", "cancelled"):
            said(records.submit(Task(task_id=task_id, tool="t")))
        said(records.cancel_task("cancelled"))

        assert self.ids(records, state="running") == ["running"]
        assert self.ids(records, state=["queued", "running"]) == ["running", "queued"]
        assert self.ids(records, state=("failed", "cancelled", "dead")) == ["failed", "cancelled"]
        assert self.ids(records, state=["queued", "failed"], limit=1) == ["queued"]
        assert self.ids(records, state=sorted(TERMINAL), after="failed") == ["cancelled"]
        assert self.ids(records, state=[]) == []
        assert self.ids(records, state="of no such kind") == []

    def test_tasks_are_found_by_when_they_came(self, records: Records) -> None:
        for task_id in ("1", "2", "3"):
            said(records.submit(Task(task_id=task_id, tool="t")))
            self.age(records, 100)
        times = {row.task_id: row.created_at for row in said(records.tasks())}

        assert times["1"] < times["2"] < times["3"]
        assert self.ids(records, since=times["2"]) == ["3", "2"]
        assert self.ids(records, until=times["2"]) == ["1"]
        assert self.ids(records, since=times["2"], until=times["3"]) == ["2"]
        assert self.ids(records, since=times["3"] + YEARS_S) == []

    def test_tasks_are_counted_by_state(self, records: Records) -> None:
        self.end(records, "a", state="failed")
        self.end(records, "b", state="waiting", due_in_s=60.0)
        said(records.submit(Task(task_id="c", tool="t")))
        said(records.claim_tasks("me", 9, 30.0))
        for task_id in ("d", "e"):
            said(records.submit(Task(task_id=task_id, tool="t", due_in_s=60.0)))

        assert said(records.count_tasks()) == {"queued": 2, "waiting": 1, "running": 1}
        assert said(records.count_tasks("failed")) == {"failed": 1}
        assert said(records.count_tasks(["succeeded", "queued"])) == {"succeeded": 0, "queued": 2}
        assert said(records.count_tasks([])) == {}

    def test_it_is_known_who_has_most_tasks_that_wait(self, records: Records) -> None:
        self.end(records, "over", state="succeeded")
        who = [("acme", "ann"), ("acme", "ann"), ("acme", "bob"), ("", "ann"), ("", None), ("", None), ("", None)]
        for number, (tenant, user_id) in enumerate(who):
            due_in_s = 60.0 if number == 0 else 0.0
            said(records.submit(Task(task_id=f"{number}", tool="t", tenant=tenant, user_id=user_id, due_in_s=due_in_s)))
        assert said(records.crowd()) == [("", "", 3), ("acme", "ann", 2), ("", "ann", 1), ("acme", "bob", 1)]
        assert said(records.crowd(1)) == [("", "", 3)]
        said(records.claim_tasks("me", 9, 30.0))
        assert said(records.crowd()) == [("acme", "ann", 1)]

    # Recording.

    def test_a_recorded_task_is_over_at_once_and_can_be_looked_up(self, records: Records) -> None:
        finish = Finish(
            task_id="1", fence=9, state="failed", value=b"\0", blob="d" * 64, error_code="E\0", error="why \ud800",
            outcome="err", source="cache", elapsed_ms=1500.0, due_in_s=9.0, report=b"{}",
            outbox=(Outgoing("result", "d", "1", b""),),
        )  # fmt: skip

        assert said(records.record_tasks([(FULL, finish)])) == [True]

        row = said(records.task("1"))
        assert (row.state, row.status, row.value, row.blob, row.report) == ("failed", "failed", b"\0", "d" * 64, b"{}")
        assert (row.error_code, row.error, row.source, row.elapsed_ms) == ("E\ufffd", "why ?", "cache", 1500.0)
        assert (row.arguments, row.user_id, row.extra, row.priority) == (FULL.arguments, "u", FULL.extra, -3)
        assert (row.attempt, row.owner, row.due_at) == (1, None, None)
        assert 1.4 < row.finished_at - row.created_at < 2.5
        assert row.started_at == row.created_at
        assert said(records.take_outbox(9, 30.0)) == []
        assert said(records.claim_tasks("me", 9, 30.0)) == []
        assert self.ids(records, user_id="u", state="failed") == ["1"]

    def test_a_recorded_task_stands_in_nobodys_way(self, records: Records) -> None:
        end = Finish(task_id="1", fence=0, state="dead")
        said(records.record_tasks([(replace(FULL, due_in_s=60.0), end)]))
        said(records.submit(Task(task_id="2", tool="t", order_key="o")))

        assert [work.task.task_id for work in said(records.claim_tasks("me", 9, 30.0))] == ["2"]
        assert said(records.dead()) == []
        assert said(records.task("1")).due_at is None

    def test_what_is_there_is_not_recorded_again(self, records: Records) -> None:
        said(records.submit(Task(task_id="open", tool="t")))
        batch = [_ended("1", value=b"1"), _ended("open"), _ended("1", value=b"2"), _ended("2", tool="u")]

        assert said(records.record_tasks(batch)) == [True, False, False, True]
        assert said(records.record_tasks(batch)) == [False] * 4
        assert said(records.record_tasks([])) == []
        assert (said(records.task("1")).value, said(records.task("open")).state) == (b"1", "queued")
        assert said(records.submit(Task(task_id="1", tool="t"))) is False
        assert said(records.cancel_task("1")) == "succeeded"

    async def test_many_who_record_at_once_are_told_each_what_was_new(self, records: Records) -> None:
        batches = [[_ended(f"{(number * 7 + i) % 90:03}") for i in range(10)] for number in range(40)]

        answers = await asyncio.gather(*(told(records.record_tasks(batch)) for batch in batches))
        rows = await told(records.tasks(limit=1000))

        assert sum(answer.count(True) for answer in answers) == 90
        assert len(rows) == 90

    def test_what_is_not_over_or_cannot_be_kept_is_not_recorded(self, records: Records) -> None:
        bad = (Task(task_id="3", tool="t", session_id="s\0"), Finish(task_id="3", fence=0, state="succeeded"))

        assert "'queued'" in refusal(lambda: records.record_tasks([_ended("1"), _ended("2", "queued")]))
        assert "session_id" in refusal(lambda: records.record_tasks([_ended("1"), bad]))

        assert self.ids(records) == []

    async def test_a_batch_that_cannot_be_recorded_keeps_no_other_from_it(self, records: Records) -> None:
        async def record(number: int) -> Any:
            try:
                return await told(records.record_tasks([_ended(f"{number}", "running" if number == 3 else "failed")]))
            except InputValidationError:
                return "refused"

        answers = await asyncio.gather(*map(record, range(6)))

        assert answers == [[True], [True], [True], "refused", [True], [True]]

    # Dropping.

    def test_tasks_that_ended_long_ago_are_dropped_oldest_first_and_open_ones_stay(self, records: Records) -> None:
        for task_id in ("3", "1", "2"):
            self.end(records, task_id, state="succeeded", value=b"1")
        said(records.record_tasks([_ended("0")]))
        said(records.submit(Task(task_id="open", tool="t", due_in_s=YEARS_S)))
        self.age(records, 1)

        early = said(records.drop_tasks(YEARS_S))
        first = said(records.drop_tasks(0.0, 2))
        left = self.ids(records)
        rest = said(records.drop_tasks(0.0))

        assert (early, first, left, rest) == (0, 2, ["open", "2", "0"], 2)
        assert self.ids(records) == ["open"]
        assert said(records.task("2")) is None
        assert said(records.count_tasks(["succeeded"])) == {"succeeded": 0}

    def test_a_dropped_task_may_come_again_and_a_dead_ones_letter_stays(self, records: Records) -> None:
        self.end(records, "1", state="dead", value=b"1")
        self.age(records, 1)
        said(records.drop_tasks(0.0))
        [letter] = said(records.dead())

        assert said(records.redrive(letter["id"], "2")) is False
        self.end(records, "1", state="succeeded", value=b"2")
        assert said(records.task("1")).value == b"2"
