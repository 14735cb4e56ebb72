"""Records in memory keep the contract, and stay as large as they must."""

import pytest

from toolpost.stores import ClaimAsk, Finish, Task, open_records
from toolpost.stores.memory_records import MemoryRecords
from toolpost.testing import FakeClock
from toolpost.testing.records_contract import RecordsContract


class TestMemoryRecords(RecordsContract):
    @pytest.fixture
    def records(self) -> MemoryRecords:
        self.clock = FakeClock()
        return MemoryRecords(clock=self.clock)

    def age(self, records: MemoryRecords, seconds: float) -> None:
        self.clock.advance(seconds)


def test_the_url_opens_them() -> None:
    records = open_records("memory://")

    assert isinstance(records, MemoryRecords)
    assert (records.local, records.durable, records.url) == (True, False, "memory://")
    assert (records.migrate(), records.schema_version()) == ([], 0)


def test_expired_claims_go_by_themselves() -> None:
    clock = FakeClock()
    records = MemoryRecords(clock=clock)

    for number in range(1000):
        ask = ClaimAsk(f"{number}", None, "me", 30.0, 60.0)
        records.finish(ask.key, records.claim(ask).fence, "done", None, 60.0)
        clock.advance(10)

    assert len(records._claims) < 10


def test_of_tasks_that_are_over_the_oldest_go_and_open_ones_stay() -> None:
    records = MemoryRecords(max_finished=10)
    records.submit(Task(task_id="open", tool="t", due_in_s=1e6))

    for number in range(100):
        records.submit(Task(task_id=f"{number:03}", tool="t"))
        [work] = records.claim_tasks("me", 9, 30.0)
        records.finish_task(Finish(task_id=work.task.task_id, fence=work.fence, state="succeeded"))

    rows = records.tasks(limit=1000)
    assert [row.task_id for row in rows] == ["open", *(f"{number:03}" for number in range(99, 89, -1))]


def test_of_dead_letters_the_oldest_go() -> None:
    records = MemoryRecords(max_finished=10)

    for number in range(100):
        records.bury(reason="r", payload=b"", src=("t", 0, number))

    assert [letter["src"][2] for letter in records.dead(1000)] == list(range(99, 89, -1))
    assert len(records._by_src) == 10
