"""RecordsContract: what every Records promises, as tests that the author of a store runs against it.

    class TestMine(RecordsContract):
        @pytest.fixture
        def records(self):
            store = MyRecords("mine://...")
            yield store
            store.close()

        def age(self, records, seconds):
            ...  # make everything in the store older by so much

The contracts of claims, the history of tasks, documents and the audit chain are part of it; see ClaimsContract for
unit_s.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from toolpost.calls.errors import InputValidationError
from toolpost.stores import Finish, Outgoing, Records, Task, TaskRow, Work
from toolpost.testing.audit_contract import AuditContract
from toolpost.testing.documents_contract import DocumentsContract
from toolpost.testing.records_claims_contract import ASK, YEARS_S, RecordsClaimsContract, at_once, refusal, said, told
from toolpost.testing.records_history_contract import FULL, RecordsHistoryContract


def task(task_id: str, **more: Any) -> Task:
    return Task(task_id=task_id, tool=more.pop("tool", "Math.add"), **more)


class RecordsContract(RecordsClaimsContract, RecordsHistoryContract, DocumentsContract, AuditContract):
    """What Records promise. A subclass has the fixture records, empty for each test, and age()."""

    # Claims and what leaves with them.

    def test_messages_leave_with_the_finish_that_wrote_them_and_once(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        message = Outgoing("result", "topic", "key", b"\0\xff", {"id": "1"})

        said(records.finish("key", fence + 1, "done", b"1", 60.0, [message]))
        nothing = said(records.take_outbox(10, 60.0))
        said(records.finish("key", fence, "done", b"1", 60.0, [message, message._replace(body=b"2")]))
        said(records.finish("key", fence, "done", b"1", 60.0, [message]))
        taken = said(records.take_outbox(10, 60.0))

        assert nothing == []
        assert [(outgoing, tries) for _, outgoing, tries in taken] == [
            (message, 1),
            (message._replace(body=b"2"), 1),
        ]

    def test_messages_are_those_that_were_handed_over_whatever_becomes_of_the_list(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        messages = [Outgoing("result", "topic", "key", b"1")]

        answer = records.finish("key", fence, "done", b"1", 60.0, messages)
        messages.clear()

        assert said(answer) is True
        assert len(said(records.take_outbox(10, 60.0))) == 1

    def test_a_message_that_cannot_be_kept_keeps_the_finish_from_happening(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        bad = Outgoing("result", "to\0pic", "key", b"")

        refusal(lambda: records.finish("key", fence, "done", b"1", 60.0, [Outgoing("a", "b", "c", b""), bad]))

        assert said(records.lookup("key")).state == "in_flight"
        assert said(records.take_outbox(10, 60.0)) == []

    def test_only_done_and_failed_claims_are_swept_and_only_after_their_time(self, records: Records) -> None:
        for key in ("held", "unknown", "done", "failed"):
            fence = said(records.claim(ASK._replace(key=key))).fence
            if key != "held":
                said(records.finish(key, fence, key, None, 60.0))  # type: ignore[arg-type]
        early = said(records.sweep())
        self.age(records, YEARS_S)
        late = said(records.sweep())

        assert (early["claims"], late["claims"]) == (0, 2)
        assert {claim.key for claim in said(records.unsettled())} == {"held", "unknown"}
        assert said(records.lookup("done")) is None

    # Tasks.

    def test_a_task_is_written_once(self, records: Records) -> None:
        assert said(records.submit(task("1", arguments=b"first"))) is True
        assert said(records.submit(task("1", arguments=b"second"))) is False

        row = said(records.task("1"))
        [work] = said(records.claim_tasks("me", 10, 30.0))

        assert (row.state, row.tool, row.attempt, row.owner, row.status) == ("queued", "Math.add", 0, None, None)
        assert row.created_at > 1e9
        assert work.task.arguments == b"first"

    async def test_many_tasks_at_once_are_each_written_once(self, records: Records) -> None:
        tasks = [task(f"{number % 600:04}", priority=number % 2) for number in range(900)]

        answers = await asyncio.gather(*(told(records.submit(one)) for one in tasks))
        rows = await told(records.tasks(limit=1000))

        assert sorted(answers) == [False] * 300 + [True] * 600
        assert len(rows) == 600

    def test_a_worker_gets_all_that_was_submitted(self, records: Records) -> None:
        full = replace(FULL, arguments=bytes(range(256)), deadline_in_s=None)
        said(records.submit(full))

        [work] = said(records.claim_tasks("me", 10, 30.0))

        assert work == Work(task=full, fence=work.fence, attempt=1, age_s=work.age_s)

    def test_the_deadline_of_a_task_goes_on_while_it_waits(self, records: Records) -> None:
        said(records.submit(task("1", deadline_in_s=60.0)))
        self.age(records, 20)

        [work] = said(records.claim_tasks("me", 10, 30.0))

        assert 39 < work.task.deadline_in_s <= 40
        assert 20 <= work.age_s < 21

    def test_the_highest_priority_comes_first_then_the_oldest(self, records: Records) -> None:
        for task_id, priority in (("c", 0), ("a", 0), ("d", 5), ("b", -5), ("e", 5)):
            said(records.submit(task(task_id, priority=priority)))

        first = said(records.claim_tasks("me", 2, 30.0))
        rest = said(records.claim_tasks("me", 9, 30.0))

        assert [[work.task.task_id for work in works] for works in (first, rest)] == [["d", "e"], ["c", "a", "b"]]
        assert said(records.claim_tasks("me", 9, 30.0)) == []

    def test_a_worker_may_ask_for_some_tools_only(self, records: Records) -> None:
        said(records.submit(task("1", tool="a")))
        said(records.submit(task("2", tool="b")))

        assert said(records.claim_tasks("me", 9, 30.0, [])) == []
        assert [w.task.task_id for w in said(records.claim_tasks("me", 9, 30.0, ["b", "c"]))] == ["2"]
        assert [w.task.task_id for w in said(records.claim_tasks("me", 9, 30.0))] == ["1"]

    def test_a_task_that_is_too_late_is_given_to_whoever_asks(self, records: Records) -> None:
        said(records.submit(task("1", tool="a", deadline_in_s=60.0, priority=-1)))
        said(records.submit(task("2", tool="a")))
        said(records.submit(task("3", tool="b", deadline_in_s=600.0)))
        said(records.submit(task("4", tool="b", deadline_in_s=60.0)))
        assert said(records.claim_tasks("me", 1, 30.0, ["a"]))[0].task.task_id == "2"
        assert said(records.claim_tasks("you", 9, 30.0, ["c"])) == []

        self.age(records, 100.0)
        late = said(records.claim_tasks("you", 9, 30.0, ["c"]))

        assert [work.task.task_id for work in late] == ["4", "1"]
        assert all(work.task.deadline_in_s is not None and work.task.deadline_in_s < 0 for work in late)
        self.age(records, 100.0)
        assert [w.lost for w in said(records.claim_tasks("she", 9, 30.0, ["c"]))] == [1, 1]

    def test_a_task_is_not_given_before_it_is_due(self, records: Records) -> None:
        said(records.submit(task("1", due_in_s=60.0)))
        early = said(records.claim_tasks("me", 9, 30.0))
        due_at = said(records.task("1")).due_at
        self.age(records, 61)

        assert early == []
        assert due_at > said(records.task("1")).created_at
        assert [w.task.task_id for w in said(records.claim_tasks("me", 9, 30.0))] == ["1"]
        assert said(records.task("1")).due_at is None

    def test_a_task_whose_holder_vanished_is_given_to_another(self, records: Records) -> None:
        said(records.submit(task("1")))
        [old] = said(records.claim_tasks("me", 9, 30.0))
        early = said(records.claim_tasks("you", 9, 30.0))
        self.age(records, 31)

        [new] = said(records.claim_tasks("you", 9, 30.0))

        assert early == []
        assert (new.attempt, new.lost) == (2, 1)
        assert new.fence > old.fence
        assert said(records.finish_task(Finish(task_id="1", fence=old.fence, state="succeeded"))) is False
        assert said(records.task("1")).owner == "you"
        assert said(records.finish_task(Finish(task_id="1", fence=new.fence, state="succeeded"))) is True

    def test_an_old_and_a_new_holder_of_a_task_who_end_at_once_are_told_apart(self, records: Records) -> None:
        said(records.submit(task("1")))
        [old] = said(records.claim_tasks("me", 9, 30.0))
        self.age(records, 31)
        [new] = said(records.claim_tasks("you", 9, 30.0))

        records.ping()  # while a store does this, the others gather
        answers = [
            records.finish_task(Finish(task_id="1", fence=work.fence, state="succeeded", value=b"%d" % work.attempt))
            for work in (old, new, new)
        ]

        assert [said(answer) for answer in answers] == [False, True, True]
        assert said(records.task("1")).value == b"2"

    def test_a_late_finish_counts_while_nobody_else_took_the_task(self, records: Records) -> None:
        said(records.submit(task("1")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        self.age(records, 1000)

        assert said(records.finish_task(Finish(task_id="1", fence=work.fence, state="succeeded", value=b"1"))) is True
        assert said(records.claim_tasks("you", 9, 30.0)) == []

    def test_a_task_that_lost_three_holders_is_dead(self, records: Records) -> None:
        said(records.submit(task("1", arguments=b"\0", reply_to="replies", src=("topic", 0, 7))))
        for _ in range(3):
            [work] = said(records.claim_tasks("me", 9, 30.0))
            assert said(records.sweep())["dead"] == 0
            self.age(records, 31)
        refused = said(records.claim_tasks("me", 9, 30.0))

        swept = [said(records.sweep())["dead"] for _ in range(2)]

        assert (work.lost, refused, swept) == (2, [], [1, 0])
        row = said(records.task("1"))
        assert (row.state, row.status, row.error_code, row.source) == ("dead", "dead", "lost", "store")
        [letter] = said(records.dead())
        assert (letter["task_id"], letter["reason"], letter["payload"]) == ("1", "lost", b"\0")
        assert letter["src"] == ("topic", 0, 7)
        [(_, message, _)] = said(records.take_outbox(9, 30.0))
        assert (message.kind, message.dest, message.key) == ("farewell", "replies", "1")
        assert json.loads(message.body) == {"task_id": "1", "tool": "Math.add", "status": "dead"}
        assert said(records.finish_task(Finish(task_id="1", fence=work.fence, state="succeeded"))) is False

    def test_of_one_order_key_only_the_oldest_is_given_and_only_one_runs(self, records: Records) -> None:
        for task_id, priority in (("1", 0), ("2", 9), ("3", 0)):
            said(records.submit(task(task_id, order_key="o", priority=priority)))
        said(records.submit(task("4", order_key="p")))
        given = []
        for _ in range(3):
            works = said(records.claim_tasks("me", 9, 30.0))
            given.append([work.task.task_id for work in works])
            assert said(records.claim_tasks("me", 9, 30.0)) == []
            for work in works:
                said(records.finish_task(Finish(task_id=work.task.task_id, fence=work.fence, state="failed")))

        assert given == [["1", "4"], ["2"], ["3"]]

    def test_a_waiting_retry_and_a_vanished_holder_keep_their_order_key(self, records: Records) -> None:
        said(records.submit(task("1", order_key="o")))
        said(records.submit(task("2", order_key="o")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        said(records.finish_task(Finish(task_id="1", fence=work.fence, state="waiting", due_in_s=10.0)))
        waiting = said(records.claim_tasks("me", 9, 30.0))
        self.age(records, 11)
        [again] = said(records.claim_tasks("me", 9, 30.0))
        self.age(records, 31)
        [third] = said(records.claim_tasks("me", 9, 30.0))

        assert (waiting, again.task.task_id, third.task.task_id) == ([], "1", "1")

    def test_a_cancelled_task_lets_the_next_of_its_order_key_go(self, records: Records) -> None:
        for task_id in ("1", "2", "3"):
            said(records.submit(task(task_id, order_key="o")))
        said(records.cancel_task("2"))
        said(records.cancel_task("1"))

        assert [w.task.task_id for w in said(records.claim_tasks("me", 9, 30.0))] == ["3"]

    def test_a_queue_writes_and_takes_a_task_in_one_step(self, records: Records) -> None:
        one = task("1", src=("topic", 0, 1))

        first = said(records.claim_task(one, "me", 30.0))
        second = said(records.claim_task(one, "you", 30.0))
        self.age(records, 31)
        third = said(records.claim_task(one, "you", 30.0))
        said(records.finish_task(Finish(task_id="1", fence=third.fence, state="succeeded", value=b"1")))
        fourth = said(records.claim_task(one, "me", 30.0))

        assert isinstance(first, Work)
        assert (first.task, first.attempt, first.lost) == (one, 1, 0)
        assert isinstance(second, TaskRow)
        assert (second.state, second.owner) == ("running", "me")
        assert (third.attempt, third.lost) == (2, 1)
        assert isinstance(fourth, TaskRow)
        assert (fourth.state, fourth.value) == ("succeeded", b"1")

    def test_a_queue_waits_for_the_older_of_an_order_key_and_for_a_retry(self, records: Records) -> None:
        work = said(records.claim_task(task("1", order_key="o"), "me", 30.0))
        behind = said(records.claim_task(task("2", order_key="o"), "me", 30.0))
        said(records.finish_task(Finish(task_id="1", fence=work.fence, state="waiting", due_in_s=10.0)))
        waiting = said(records.claim_task(task("1", order_key="o"), "me", 30.0))
        self.age(records, 11)
        again = said(records.claim_task(task("1", order_key="o"), "me", 30.0))
        said(records.finish_task(Finish(task_id="1", fence=again.fence, state="failed")))

        assert (behind.state, waiting.state) == ("queued", "waiting")
        assert again.attempt == 2
        assert isinstance(said(records.claim_task(task("2", order_key="o"), "me", 30.0)), Work)

    async def test_of_a_hundred_that_take_one_task_at_once_one_gets_it(self, records: Records) -> None:
        answers = await asyncio.gather(*(told(records.claim_task(task("1"), f"{n % 3}", 30.0)) for n in range(100)))

        assert sum(isinstance(answer, Work) for answer in answers) == 1
        assert {answer.state for answer in answers if isinstance(answer, TaskRow)} == {"running"}

    def test_workers_that_race_get_each_task_once(self, records: Records) -> None:
        for number in range(60):
            said(records.submit(task(f"{number:02}", order_key="o" if number < 10 else None)))

        works = at_once([lambda: records.claim_tasks("me", 7, 30.0)] * 10)

        given = [work.task.task_id for some in works for work in some]
        assert len(given) == len(set(given)) == 51

    def test_renewal_says_what_became_of_each(self, records: Records) -> None:
        for task_id in ("1", "2", "3", "4"):
            said(records.submit(task(task_id)))
        works = {work.task.task_id: work.fence for work in said(records.claim_tasks("me", 9, 30.0))}
        said(records.cancel_task("2"))
        said(records.finish_task(Finish(task_id="3", fence=works["3"], state="succeeded")))
        self.age(records, 20)

        held = [*works.items(), ("none", 1), ("1", works["1"] + 1)]
        answers = said(records.renew_tasks("me", held, 30.0))
        self.age(records, 20)

        assert answers == ["held", "cancel", "lost", "held", "lost", "lost"]
        assert said(records.renew_tasks("you", [("1", works["1"])], 30.0)) == ["lost"]
        assert said(records.claim_tasks("you", 9, 30.0)) == []

    def test_a_finish_leaves_all_it_says(self, records: Records) -> None:
        said(records.submit(task("1", tenant="acme")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        finish = Finish(
            task_id="1",
            fence=work.fence,
            state="failed",
            value=b"\0\xff",
            blob="d" * 64,
            error_code="E\0",
            error="why \ud800",
            outcome="err",
            source="replay",
            elapsed_ms=1.5,
            usage=b"{}",
            outbox=(Outgoing("result", "replies", "1", b"body"),),
        )

        assert said(records.finish_task(finish)) is True

        row = said(records.task("1"))
        assert (row.state, row.status, row.value, row.blob) == ("failed", "failed", b"\0\xff", "d" * 64)
        assert (row.error_code, row.error, row.source, row.elapsed_ms) == ("E\ufffd", "why ?", "replay", 1.5)
        assert (row.attempt, row.fence, row.owner, row.tenant) == (1, work.fence, None, "acme")
        assert row.finished_at >= row.created_at
        assert [message.body for _, message, _ in said(records.take_outbox(9, 30.0))] == [b"body"]

    def test_a_task_that_is_over_never_changes(self, records: Records) -> None:
        for state in ("succeeded", "failed", "rejected", "cancelled", "dead"):
            said(records.submit(task(state)))
            [work] = said(records.claim_tasks("me", 9, 30.0))
            finish = Finish(task_id=state, fence=work.fence, state=state, value=b"1")
            assert said(records.finish_task(finish)) is True
            before = said(records.task(state))

            assert said(records.cancel_task(state)) == state
            assert said(records.submit(task(state))) is False
            for other in ("succeeded", "waiting", "queued", "failed"):
                changed = Finish(task_id=state, fence=work.fence, state=other, value=b"2")
                assert said(records.finish_task(changed)) is False
            assert said(records.renew_tasks("me", [(state, work.fence)], 30.0)) == ["lost"]
            self.age(records, 1000)
            assert said(records.claim_tasks("me", 9, 30.0)) == []
            assert said(records.sweep())["dead"] == 0
            assert said(records.task(state)) == before

    def test_the_same_finish_of_a_task_said_again_is_true_and_changes_nothing(self, records: Records) -> None:
        said(records.submit(task("1")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        message = Outgoing("result", "replies", "1", b"body")
        retry = Finish(task_id="1", fence=work.fence, state="waiting", due_in_s=10.0, outbox=(message,))
        answers = [said(records.finish_task(retry)) for _ in range(2)]
        self.age(records, 11)
        [work] = said(records.claim_tasks("me", 9, 30.0))
        answers.append(said(records.finish_task(retry)))
        finish = Finish(task_id="1", fence=work.fence, state="succeeded", value=b"1", outbox=(message,))
        answers += [said(records.finish_task(finish)) for _ in range(2)]

        assert answers == [True, True, False, True, True]
        assert len(said(records.take_outbox(9, 30.0))) == 2

    async def test_the_same_finish_twice_in_one_batch_is_written_once(self, records: Records) -> None:
        said(records.submit(task("1")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        message = Outgoing("result", "replies", "1", b"body")
        finish = Finish(task_id="1", fence=work.fence, state="succeeded", value=b"1", outbox=(message,))

        answers = await asyncio.gather(*(told(records.finish_task(finish)) for _ in range(20)))

        assert set(answers) == {True}
        assert len(said(records.take_outbox(9, 30.0))) == 1

    def test_a_retry_counts_as_an_attempt_and_a_task_given_back_does_not(self, records: Records) -> None:
        said(records.submit(task("1", max_attempts=3)))
        attempts = []
        for state, due_in_s in (("queued", 0.0), ("waiting", 10.0), ("queued", 5.0), ("waiting", 0.0)):
            [work] = said(records.claim_tasks("me", 9, 30.0))
            attempts.append(work.attempt)
            finish = Finish(task_id="1", fence=work.fence, state=state, due_in_s=due_in_s)  # type: ignore[arg-type]
            said(records.finish_task(finish))
            row = said(records.task("1"))
            assert (row.state, row.owner) == (state if due_in_s else "queued", None)
            if due_in_s:
                assert said(records.claim_tasks("me", 9, 30.0)) == []
                self.age(records, due_in_s + 1)
        [work] = said(records.claim_tasks("me", 9, 30.0))

        assert attempts == [1, 1, 2, 2]
        assert (work.attempt, work.lost, work.task.max_attempts) == (3, 0, 3)

    def test_a_task_ends_only_as_what_there_is(self, records: Records) -> None:
        said(records.submit(task("1")))
        [work] = said(records.claim_tasks("me", 9, 30.0))

        message = refusal(lambda: records.finish_task(Finish(task_id="1", fence=work.fence, state="running")))

        assert "'running'" in message
        assert said(records.task("1")).state == "running"

    def test_a_task_and_its_idempotency_claim_are_settled_together(self, records: Records) -> None:
        claim = said(records.claim(ASK))
        said(records.submit(task("1")))
        said(records.submit(task("2")))
        one, two = said(records.claim_tasks("me", 9, 30.0))
        stale = Finish(
            task_id="1", fence=one.fence + 1, state="succeeded", value=b"0", claim=("key", claim.fence, "done", 60.0)
        )
        finish = Finish(
            task_id="2", fence=two.fence, state="succeeded", value=b"2", claim=("key", claim.fence, "done", 60.0)
        )

        assert said(records.finish_task(stale)) is False
        assert said(records.lookup("key")).state == "in_flight"
        assert said(records.finish_task(finish)) is True
        assert said(records.lookup("key")).result == b"2"

    def test_a_task_ends_also_when_its_claim_was_taken_over(self, records: Records) -> None:
        claim = said(records.claim(ASK))
        self.age(records, 31)
        said(records.claim(ASK._replace(take_over=True)))
        said(records.submit(task("1")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        finish = Finish(task_id="1", fence=work.fence, state="succeeded", claim=("key", claim.fence, "done", 60.0))

        assert said(records.finish_task(finish)) is True
        assert said(records.lookup("key")).state == "in_flight"

    def test_cancelling_says_what_it_met(self, records: Records) -> None:
        said(records.submit(task("running", reply_to="replies")))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        said(records.submit(task("queued", reply_to="replies")))
        said(records.submit(task("later", due_in_s=60.0)))

        answers = {t: said(records.cancel_task(t)) for t in ("queued", "later", "running", "none")}

        assert answers == {"queued": "cancelled", "later": "cancelled", "running": "told", "none": ""}
        assert said(records.cancel_task("running")) == "told"
        assert said(records.cancel_task("queued")) == "cancelled"
        row = said(records.task("queued"))
        assert (row.state, row.status, row.error_code, row.attempt) == ("cancelled", "cancelled", "cancelled", 0)
        assert [(m.kind, m.key) for _, m, _ in said(records.take_outbox(9, 30.0))] == [("farewell", "queued")]
        assert said(records.task("running")).state == "running"
        assert said(records.renew_tasks("me", [("running", work.fence)], 30.0)) == ["cancel"]
        self.age(records, 1000)
        [again] = said(records.claim_tasks("me", 9, 30.0))
        assert (again.task.task_id, again.cancel) == ("running", True)

    def test_a_finish_that_wins_against_a_cancellation_stays_and_a_retry_does_not(self, records: Records) -> None:
        for task_id in ("1", "2"):
            said(records.submit(task(task_id)))
        one, two = said(records.claim_tasks("me", 9, 30.0))
        said(records.cancel_task("1"))
        said(records.cancel_task("2"))

        retry = Finish(task_id="2", fence=two.fence, state="waiting", due_in_s=10.0)
        assert said(records.finish_task(Finish(task_id="1", fence=one.fence, state="succeeded"))) is True
        assert said(records.finish_task(retry)) is True
        assert said(records.finish_task(retry)) is True

        assert said(records.task("1")).state == "succeeded"
        assert (said(records.task("2")).state, said(records.task("2")).status) == ("cancelled", "cancelled")

    def test_tasks_are_listed_newest_first_and_page_by_page(self, records: Records) -> None:
        for number in range(9):
            tool, tenant = ("a", "b")[number % 2], ("x", "y", "z")[number % 3]
            said(records.submit(task(f"{number}", tool=tool, tenant=tenant)))
        said(records.cancel_task("4"))

        def ids(**wanted: Any) -> list[str]:
            return [row.task_id for row in said(records.tasks(**wanted))]

        assert ids() == list("876543210")
        assert ids(limit=2) == ["8", "7"]
        assert ids(limit=2, after="7") == ["6", "5"]
        assert ids(tool="b") == list("7531")
        assert ids(tenant="x", tool="a") == ["6", "0"]
        assert ids(state="cancelled") == ["4"]
        assert ids(state="queued", tool="a", after="6") == ["2", "0"]

    async def test_one_task_that_cannot_be_kept_fails_alone(self, records: Records) -> None:
        tasks = [task(f"{number}", session_id="s\0" if number == 3 else None) for number in range(8)]

        async def submit(one: Task) -> Any:
            return await told(records.submit(one))

        answers = await asyncio.gather(*map(submit, tasks), return_exceptions=True)

        assert [answer is True for answer in answers] == [number != 3 for number in range(8)]
        assert isinstance(answers[3], InputValidationError)
        assert "session_id" in answers[3].message
        assert said(records.task("3")) is None

    # Outbox.

    def test_a_message_is_given_to_one_until_it_is_sent_or_its_lease_ends(self, records: Records) -> None:
        said(records.put_outbox([Outgoing("result", "d", "1", b""), Outgoing("callback", "d", "2", b"")]))
        said(records.put_outbox([Outgoing("result", "d", "3", b"", due_in_s=60.0)]))
        first = said(records.take_outbox(9, 30.0))
        second = said(records.take_outbox(9, 30.0))
        said(records.sent([first[0][0]]))
        self.age(records, 31)
        third = said(records.take_outbox(9, 30.0))
        said(records.defer_outbox([third[0][0]], 100.0))
        self.age(records, 31)
        fourth = said(records.take_outbox(9, 30.0))
        self.age(records, 100)
        fifth = said(records.take_outbox(9, 30.0))

        def seen(taken: Any) -> list[tuple[str, int]]:
            return sorted((message.key, tries) for _, message, tries in taken)

        assert [seen(taken) for taken in (first, second, third, fourth, fifth)] == [
            [("1", 1), ("2", 1)],
            [],
            [("2", 2)],
            [("3", 1)],
            [("2", 3), ("3", 2)],
        ]

    def test_the_outbox_can_be_emptied_by_kind_and_bit_by_bit(self, records: Records) -> None:
        said(records.put_outbox([Outgoing("ab"[n % 2], "d", f"{n}", b"") for n in range(6)]))

        first, *rest = [
            said(records.take_outbox(limit, 30.0, kinds))
            for limit, kinds in ((2, ["b"]), (9, ["b", "c"]), (9, []), (9, None))
        ]
        taken = [[message.key for _, message, _ in some] for some in (first, *rest)]

        counts = [said(records.count_outbox(kinds)) for kinds in (["b"], ["b", "c"], [], None)]
        said(records.put_outbox([Outgoing("b", "d", "7", b"", due_in_s=60.0)]))
        said(records.sent([number for number, _, _ in first]))

        assert taken == [["1", "3"], ["5"], [], ["0", "2", "4"]]
        assert counts == [3, 3, 0, 6], "whoever was given them meanwhile"
        assert (said(records.count_outbox(["b"])), said(records.count_outbox())) == (2, 5)

    def test_senders_that_race_get_each_message_once(self, records: Records) -> None:
        said(records.put_outbox([Outgoing("a", "d", f"{n}", b"") for n in range(40)]))

        taken = at_once([lambda: records.take_outbox(6, 30.0)] * 8)

        keys = [message.key for some in taken for _, message, _ in some]
        assert len(keys) == len(set(keys)) == 40

    # Dead letters.

    def test_a_dead_letter_is_kept_byte_for_byte_and_once_for_its_place(self, records: Records) -> None:
        payload = bytes(range(256))
        first = said(records.bury(reason="invalid_payload", payload=payload, src=("t", 1, 2), error="no \0 JSON"))
        again = said(records.bury(reason="other", payload=b"", src=("t", 1, 2)))
        other = said(records.bury(reason="unknown_tool", payload=b"", src=("t", 1, 3), task_id="1"))
        nowhere = {said(records.bury(reason="r", payload=b"")) for _ in range(2)}

        letters = said(records.dead())

        assert first == again != other
        assert len(nowhere) == 2
        assert [letter["id"] for letter in letters] == sorted((first, other, *nowhere), reverse=True)
        assert letters[-1] == {
            "id": first,
            "task_id": None,
            "src": ("t", 1, 2),
            "reason": "invalid_payload",
            "error": "no \ufffd JSON",
            "payload": payload,
            "tries": 2,
            "first_at": letters[-1]["first_at"],
            "last_at": letters[-1]["last_at"],
            "redriven_at": None,
            "redriven_as": None,
        }
        assert [letter["id"] for letter in said(records.dead(1, other))] == [first]

    def test_a_dead_task_can_be_driven_again_once(self, records: Records) -> None:
        one = task("1", arguments=b"\0", priority=2, order_key="o", extra={"a": 1}, src=("t", 0, 1), max_attempts=4)
        said(records.submit(one))
        [work] = said(records.claim_tasks("me", 9, 30.0))
        said(records.finish_task(Finish(task_id="1", fence=work.fence, state="dead", error_code="sandbox", error="x")))
        [letter] = said(records.dead())
        said(records.submit(task("taken", due_in_s=999.0)))

        answers = [
            said(records.redrive(letter["id"] + 1, "2")),
            said(records.redrive(letter["id"], "taken")),
            said(records.redrive(letter["id"], "2")),
            said(records.redrive(letter["id"], "3")),
        ]
        [again] = said(records.claim_tasks("me", 9, 30.0))

        assert (letter["reason"], letter["error"], letter["payload"]) == ("sandbox", "x", b"\0")
        assert answers == [False, False, True, False]
        assert said(records.dead())[0]["redriven_as"] == "2"
        assert said(records.dead())[0]["redriven_at"] is not None
        assert (again.task.task_id, again.task.arguments, again.task.extra) == ("2", b"\0", {"a": 1})
        assert (again.task.priority, again.task.order_key, again.task.max_attempts) == (2, "o", 4)
        assert (again.attempt, again.lost, again.task.src) == (1, 0, None)

    def test_what_was_never_a_task_cannot_be_driven_again(self, records: Records) -> None:
        said(records.submit(task("alive", due_in_s=999.0)))
        letters = [said(records.bury(reason="r", payload=b"", task_id=t)) for t in (None, "gone", "alive")]

        assert [said(records.redrive(letter, "2")) for letter in letters] == [False] * 3
        assert said(records.task("2")) is None

    # The store.

    def test_the_store_says_that_it_is_there(self, records: Records) -> None:
        assert said(records.ping()) is None

    def test_what_was_asked_before_the_end_is_done_and_nothing_after_it(self, records: Records) -> None:
        pendings = [records.submit(task(f"{number}")) for number in range(50)]
        records.close()

        assert [said(pending) for pending in pendings] == [True] * 50
